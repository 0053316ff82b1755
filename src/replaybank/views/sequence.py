"""Steps in a row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank import kernels
from replaybank.batch import DRAWN, Batch, Cut, Places
from replaybank.convert import as_numeric
from replaybank.parts import shown
from replaybank.rows import AHEAD, CHAIN, DISCOUNTS, IS_FIRST, MASK, START, STEPS, VALID, Rows
from replaybank.schema import Leaf, Node, Schema, children_of, leaves_of
from replaybank.views.gather import BOOKKEEPING, KEPT_SIZES, Column, block_of, plan_of
from replaybank.views.transition import discount_factor

# What a batch of sequences holds besides the fields, and the part each is.
TOLD: dict[str, tuple[int, np.dtype[Any]]] = {
    "discount": (DISCOUNTS, np.dtype(np.float32)),
    "valid": (VALID, np.dtype(bool)),
    "mask": (MASK, np.dtype(bool)),
    "is_first": (IS_FIRST, np.dtype(bool)),
}


class Layout(NamedTuple):
    """How sequences of one schema become a batch of one size."""

    schema: Schema
    dtype: np.dtype[Any]  # of the block
    plan: NDArray[np.int64]  # of `Rows.sequences`
    places: dict[str, Places]


@dataclass(frozen=True)
class Sequence:
    """An id means the `length` steps of its stream that begin there: arrays [n, length, ...] of every field.

    A sequence stops at an end (terminated or truncated) or at the newest transition of a stream that is still open.
    `pad=True` fills what is missing with zeros; `pad=False` uses only sequences that are complete (the buffer draws
    others). `across_episodes=True` goes on into the stream's next segment instead. The batch has besides

    - `valid` bool [n, length]: which steps are there;
    - `mask` bool [n, length]: which of them to learn from: not the first `burn_in`, which only warm up a recurrent
      state (Kapturowski et al. 2019, sec. 3). So the first steps of an episode are never learned from; where a state
      starts anew with its episode they can be: `batch.mask | (batch.valid & batch.is_first[:, :1])`;
    - `is_first` bool [n, length]: which begin a segment: where to reset a recurrent state;
    - `discount` float32 [n, length]: gamma, 0 after termination and where no step is.

    `obs` and `next_obs` are windows of one array [n, length + 1, ...], since the next observation of a step is the
    observation of the following one: what is written to the one shows in the other, and after a sequence that was cut
    short `obs` holds its final observation, where `valid` is False. With `across_episodes` each has its own array.

    `at_start` names extra fields that are read at the first step only, [n, ...]: a stored recurrent state.

    `stride` > 1: sequences begin at every `stride`-th step of a segment only, and an id means the one that begins at
    its step or last before it; where that beginning has left the buffer, others are drawn. All ids that mean a sequence
    share its priority, so it is drawn with probability in proportion to priority**alpha, times how many ids mean it:
    `stride`, or fewer for the last of a segment. `probabilities` are those of the ids.

    Settings are fixed; to change them, give the buffer another view. Raises ValueError or TypeError where `length` or
    `stride` is not a positive integer, `burn_in` is not in [0, length), or `gamma` or `eta` is not in [0, 1]; and, when
    it reads, where `at_start` names no extra field.
    """

    length: int
    burn_in: int = 0
    stride: int = 1
    pad: bool = True
    gamma: float = 1.0
    eta: float = 0.9
    across_episodes: bool = False
    at_start: Collection[str] = ()
    _layouts: dict[int, Layout] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least, most in (("length", 1, None), ("burn_in", 0, self.length), ("stride", 1, None)):
            value = getattr(self, name)
            if not (isinstance(value, int | np.integer) and value >= least and (most is None or value < most)):
                expected = f"an integer of at least {least}" + (f" and below length {most}" if most else "")
                raise ValueError(f"Sequence: {name} must be {expected}, given {value!r}")
        discount_factor("Sequence", self.gamma)
        if not (isinstance(self.eta, int | float | np.integer | np.floating) and 0 <= self.eta <= 1):
            raise ValueError(f"Sequence: eta must be in [0, 1], given {self.eta!r}")
        if isinstance(self.at_start, str):
            raise TypeError(f"Sequence: at_start must be a tuple of names, given {self.at_start!r}")
        object.__setattr__(self, "at_start", tuple(self.at_start))  # a list could change, an iterator runs out
        if not all(isinstance(name, str) for name in self.at_start):
            raise TypeError(f"Sequence: at_start must be a tuple of names, given {self.at_start!r}")
        for flag in ("pad", "across_episodes"):
            object.__setattr__(self, flag, bool(getattr(self, flag)))

    def read(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        if rows.stack is not None:
            raise ValueError("Sequence: this buffer keeps stacks of frames; add single frames for sequences")
        layout = self._layouts.get(len(ids))
        if layout is None or layout.schema is not rows.schema:
            layout = self._layout(rows, len(ids))
        starts = ids if self.stride == 1 else self._starts(rows, ids)[0]
        block = kernels.block(layout.dtype)
        rows.sequences(starts, self.length, self.burn_in, self.across_episodes, self.gamma, layout.plan, block)
        return Batch(block, layout.places)

    def stack(self, schema: Schema) -> None:
        return None

    def usable(self, rows: Rows, ids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        if self.stride == 1 and self.pad:
            return None
        starts, usable = self._starts(rows, ids)
        if not self.pad:
            valid = np.empty((), np.dtype([("valid", bool, (len(ids), self.length))]))
            plan = np.array([(VALID, 0, 1, 0)], np.int64)
            rows.sequences(starts, self.length, 0, self.across_episodes, 0.0, plan, valid)
            usable &= valid["valid"][:, -1]
        return usable

    def members(self, rows: Rows, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        if self.stride == 1:
            return None
        live = np.flatnonzero(ids >= rows.oldest)
        starts, taken, back = self._back(rows, ids[live])
        path, lengths = rows.walk(starts, min(self.stride, len(rows)) - 1)
        # A cell whose beginning has left is that much shorter.
        inside = np.arange(path.shape[1]) < np.minimum(lengths, self.stride - (back - taken))[:, None]
        return path[inside], np.repeat(live, inside.sum(axis=1))

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {
            "length": int(self.length),
            "burn_in": int(self.burn_in),
            "stride": int(self.stride),
            "pad": self.pad,
            "gamma": float(self.gamma),
            "eta": float(self.eta),
            "across_episodes": self.across_episodes,
            "at_start": list(self.at_start),
        }

    def priority(self, td_error: ArrayLike, mask: ArrayLike) -> NDArray[np.float64]:
        """The TD errors of sequences as one number each: eta * max + (1 - eta) * mean of their sizes over `mask`.

        `td_error` [n, length], `mask` bool [n, length], as `batch.mask`; gives float64 [n] (Kapturowski et al. 2019,
        sec. 2.3, eq. 1), 0 where the mask has no step. What is not in the mask may be anything. For
        `buffer.update_priorities(batch.indices, view.priority(td_error, batch.mask))`. Raises TypeError or ValueError
        for other shapes and dtypes.
        """
        errors, chosen = as_numeric("td_error", td_error), as_numeric("mask", mask)
        if errors.dtype.kind == "c" or errors.ndim != 2:
            given = f"{errors.dtype} of shape {errors.shape}"
            raise ValueError(f"td_error: expected real numbers of shape (n, length), given {given}")
        if chosen.dtype != bool or chosen.shape != errors.shape:
            given = f"{chosen.dtype} of shape {chosen.shape}"
            raise ValueError(f"mask: expected bool of shape {errors.shape}, as td_error, given {given}")
        sizes = np.where(chosen, np.abs(errors.astype(np.float64)), 0.0)
        mean = sizes.sum(axis=1) / np.maximum(chosen.sum(axis=1), 1)
        return np.asarray(self.eta * sizes.max(axis=1, initial=0.0) + (1 - self.eta) * mean)

    def _starts(self, rows: Rows, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the sequences of ids begin, and whether that is still in the buffer (else: as near as there is)."""
        starts, taken, back = self._back(rows, ids)
        return starts, taken == back

    def _back(
        self, rows: Rows, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The ids reached on the way to where the sequences begin, the steps back that this took, and would take."""
        back = rows.steps_before(ids) % self.stride
        return *rows.follow(ids, back, forward=False), back

    def _layout(self, rows: Rows, n: int) -> Layout:
        """The block for n sequences, and the plan of copies into it: columns, each at the start of a cache line."""
        schema, length = rows.schema, self.length
        for name in self.at_start:
            if name not in schema.extras:
                known = ", ".join(schema.extras) or "none"
                raise ValueError(f"Sequence: at_start: expected extra fields of this buffer ({known}), given {name!r}")
        columns: dict[str, Column] = {
            leaf.name: (leaf.dtype, (n,)) for name in DRAWN for leaf in leaves_of(BOOKKEEPING[name])
        }
        copies: dict[str, tuple[int, int, int]] = {}  # part, offset, bytes of one step
        for name, (part, dtype) in TOLD.items():
            columns[name] = (dtype, (n, length))
            copies[name] = (part, 0, dtype.itemsize)
        for name, node in schema.fields.items():
            part, steps = self._part(name)
            if steps is None:
                continue
            for leaf in leaves_of(node):
                columns[leaf.name] = (leaf.dtype, (n, *steps, *leaf.shape))
                copies[leaf.name] = (part, rows.offset_of(leaf), leaf.nbytes)
        places = {name: self._places(name, node) for name, node in schema.fields.items()}
        block, offsets = block_of(columns)
        if len(self._layouts) >= KEPT_SIZES:
            self._layouts.clear()
        # Not read back: where buffers share the view, another thread may have put that of its own schema there.
        layout = self._layouts[n] = Layout(
            schema, block, plan_of(copies, offsets), places | {name: name for name in TOLD}
        )
        return layout

    def _part(self, name: str) -> tuple[int, tuple[int, ...] | None]:
        """The part that a field's columns are, and their axes of steps; None where another field's columns hold it."""
        if name in self.at_start:
            return START, ()
        if name not in ("obs", "next_obs"):
            return STEPS, (self.length,)
        if self.across_episodes:
            return (STEPS if name == "obs" else AHEAD), (self.length,)
        return CHAIN, (self.length + 1,) if name == "obs" else None

    def _places(self, name: str, node: Node) -> Places:
        if isinstance(node, Leaf):
            if self._part(name)[0] != CHAIN:
                return node.name
            begin = 0 if name == "obs" else 1
            return Cut(Leaf(("obs", *node.path[1:]), node.dtype, node.shape).name, begin, begin + self.length)
        children = {key: self._places(name, child) for key, child in children_of(node).items()}
        return children if isinstance(node, dict) else tuple(children.values())
