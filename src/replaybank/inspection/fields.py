"""What fields hold: ranges, what is not finite, what never changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.held import Held
from replaybank.inspection.histograms import Bins
from replaybank.inspection.report import Field, Histogram, Kind
from replaybank.rows import Rows
from replaybank.schema import Leaf

PIECE_NBYTES = 1 << 22  # of records that are looked at at a time
FEW = 8  # components: so many have histograms
NAMED = 16  # constant components that are told by index
FOLDED = 1024  # numbers in a row that are reduced at once


def fields_of(rows: Rows) -> tuple[Field, ...]:
    """All fields of live rows, and of what they hold beside. Two passes over the records, in pieces of a few MiB."""
    leaves = [leaf if rows.stack is None or leaf.path[0] != "obs" else rows.stack.frame(leaf) for leaf in _stored(rows)]
    observed = [leaf for leaf in leaves if leaf.path[0] == "obs"]
    stored = [(leaf, _Tally(leaf, "transition")) for leaf in leaves]
    final = [(leaf, _Tally(leaf, "final observation")) for leaf in observed]
    older = [(leaf, _Tally(leaf, "older frame")) for leaf in observed]
    for ids, records in pieces(rows):
        for leaf, tally in stored:
            tally.add(ids, within(records, leaf.path))
        held = Held.of(rows, ids)
        for leaf, tally in final:
            tally.add(held.tail_ids, within(held.tails, leaf.path[1:]))
        for leaf, tally in older:
            for of, frames in ((held.older_ids, held.older), (held.next_older_ids, held.next_older)):
                found = within(frames, leaf.path[1:])
                tally.add(np.repeat(of, found.shape[1]), found.reshape(-1, *leaf.shape))
    binned = [(leaf, tally, tally.bins()) for leaf, tally in stored if 0 < tally.components <= FEW]
    for _, records in pieces(rows):
        for leaf, _, bins in binned:
            _fill(bins, numbers(within(records, leaf.path)))
    histograms = {leaf.path: _histograms(bins) for leaf, _, bins in binned}
    fields = [tally.field(histograms.get(leaf.path, ())) for leaf, tally in stored]
    return tuple(fields + [tally.field(()) for _, tally in final + older if tally.items])


def pieces(rows: Rows) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """The ids ([n]) and records ([n], windows) of all live rows, oldest first, a few MiB at a time."""
    most = max(PIECE_NBYTES // rows.dtype.itemsize, 1)
    first = rows.oldest
    while first < rows.added:
        slot = first % rows.capacity
        n = min(most, rows.added - first, rows.capacity - slot)
        yield np.arange(first, first + n), rows.data[slot : slot + n]
        first += n


def within(records: NDArray[Any], path: tuple[str, ...]) -> NDArray[Any]:
    """A window on one field of records."""
    for name in path:
        records = records[name]
    return records


def numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Items as rows of real numbers: [n, components]. Booleans become 0 and 1, complex numbers two."""
    flat = np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]))
    if flat.dtype.kind == "b":
        return flat.view(np.uint8)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _stored(rows: Rows) -> list[Leaf]:
    order = tuple(rows.schema.stored)
    leaves = [leaf for leaf in rows.schema.leaves if leaf.path[0] in order]
    return sorted(leaves, key=lambda leaf: order.index(leaf.path[0]))


class _Tally:
    """What is known of a field so far."""

    def __init__(self, leaf: Leaf, kind: Kind) -> None:
        self._leaf = leaf
        self._kind = kind
        self._shape = leaf.shape + (2,) * (leaf.dtype.kind == "c")
        self.components = math.prod(self._shape)
        self.items = 0
        self._low: NDArray[Any] | None = None  # by component, NaN left out; infinities count
        self._high: NDArray[Any] | None = None
        self._nan = np.zeros(self.components, np.int64)
        self._infinite = 0
        self._first_bad: int | None = None
        self._finite_low, self._finite_high = math.inf, -math.inf
        self._sum: int | float = 0

    def add(self, ids: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Items [n, *shape] of these transitions (ids [n])."""
        self.items += len(values)
        flat = numbers(values)
        if not flat.size:
            return
        inexact = flat.dtype.kind == "f"
        finite = np.isfinite(flat) if inexact else None
        low = _fold(np.fmin if inexact else np.minimum, flat)
        high = _fold(np.fmax if inexact else np.maximum, flat)
        self._low = low if self._low is None else np.fmin(self._low, low)
        self._high = high if self._high is None else np.fmax(self._high, high)
        sound = flat
        if finite is not None and not finite.all():
            nan = np.isnan(flat)
            self._nan += nan.sum(axis=0)
            self._infinite += int((~finite & ~nan).sum())
            if self._first_bad is None:
                self._first_bad = int(ids[np.flatnonzero(~finite.all(axis=1))[0]])
            sound = flat[finite]
            low, high = sound, sound
        if sound.size:
            self._finite_low = min(self._finite_low, low.min().item())
            self._finite_high = max(self._finite_high, high.max().item())
            exact = not inexact and flat.dtype.itemsize < 8
            with np.errstate(over="ignore", invalid="ignore"):
                self._sum += sound.sum(dtype=np.int64 if exact else np.float64).item()

    def bins(self) -> list[Bins | None]:
        """Bins for each component: for the finite values of those that change."""
        if self._low is None:
            return [None] * self.components
        found: list[Bins | None] = []
        for at, same in enumerate(self._constant()):
            low, high = self._range(at)
            found.append(None if same or low > high else Bins(low, high, whole=self._leaf.dtype.kind in "biu"))
        return found

    def _range(self, at: int) -> tuple[Any, Any]:
        """Of a component: of what is finite, if it is, else of all components; a histogram needs ends."""
        assert self._low is not None
        assert self._high is not None
        low, high = self._low[at].item(), self._high[at].item()
        low = low if math.isfinite(low) else self._finite_low
        return low, high if math.isfinite(high) else self._finite_high

    def _constant(self) -> NDArray[np.bool_]:
        """Which components ([components]) have the same value in all items, NaN being one."""
        if self._low is None or self._high is None:
            return np.zeros(self.components, bool)
        same: NDArray[np.bool_] = np.where(self._nan > 0, self._nan == self.items, self._low == self._high)
        return same

    def field(self, histograms: tuple[Histogram | None, ...]) -> Field:
        """All of it."""
        leaf, path = self._leaf, self._leaf.path
        known = self._finite_low <= self._finite_high
        of = bool if leaf.dtype.kind == "b" else lambda value: value
        values = self.items * self.components - int(self._nan.sum()) - self._infinite
        constant = self._constant()
        some = 0 < constant.sum() < self.components
        at = np.argwhere(constant.reshape(self._shape))[:NAMED] if some else ()
        if self._kind == "final observation":
            path = ("next_obs", *path[1:])
        return Field(
            name=Leaf(path, leaf.dtype, leaf.shape).name,
            kind=self._kind,
            dtype=str(leaf.dtype),
            shape=leaf.shape,
            items=self.items,
            bytes_each=leaf.nbytes,
            low=of(self._finite_low) if known else None,
            mean=self._sum / values if known else None,
            high=of(self._finite_high) if known else None,
            nan=int(self._nan.sum()),
            infinite=self._infinite,
            first_bad=self._first_bad,
            components=self.components,
            constant=int(constant.sum()),
            constant_at=tuple(tuple(index.tolist()) for index in at),
            histograms=histograms,
        )


def _fold(reduce: np.ufunc, flat: NDArray[Any]) -> NDArray[Any]:
    """Over axis 0 of [n, components], many rows at once: NumPy is slow where rows are short."""
    n, components = flat.shape
    rows = max(FOLDED // components, 1)
    cut = n - n % rows
    parts = [flat[cut:]]
    if cut:
        parts.append(reduce.reduce(flat[:cut].reshape(-1, rows * components), axis=0).reshape(rows, components))
    found: NDArray[Any] = reduce.reduce(np.concatenate(parts), axis=0)
    return found


def _fill(bins: list[Bins | None], flat: NDArray[Any]) -> None:
    for at, of in enumerate(bins):
        if of is not None:
            column = flat[:, at]
            of.add(column[np.isfinite(column)])


def _histograms(bins: list[Bins | None]) -> tuple[Histogram | None, ...]:
    return tuple(None if of is None else of.histogram() for of in bins)
