"""From a schema to the plan of copies that makes a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.batch import DRAWN, Batch, Cut, Places
from replaybank.rows import BOTH_STACKS, DISCOUNT, FIRST, LAST, NEXT_OBS, NEXT_STACK, STACK, Rows
from replaybank.schema import Leaf, Node, Schema, children_of, leaves_of
from replaybank.stacking import Stacking

# What the view and the sampler add to every batch.
BOOKKEEPING: dict[str, Node] = {
    "discount": Leaf(("discount",), np.dtype(np.float32), ()),
    "indices": Leaf(("indices",), np.dtype(np.int64), ()),
    "probabilities": Leaf(("probabilities",), np.dtype(np.float64), ()),
    "weights": Leaf(("weights",), np.dtype(np.float32), ()),
}
SOURCES = {"next_obs": NEXT_OBS, "terminated": LAST, "truncated": LAST}  # the rest: FIRST
LINE = 64
MOST_NBYTES = 2**31 - 1  # of a NumPy dtype
KEPT_SIZES = 64  # batch sizes whose layout is remembered
# The dtype of a column, and its shape.
Column: TypeAlias = tuple[np.dtype[Any], tuple[int, ...]]


class Windows(NamedTuple):
    """What n ids mean: the transitions from `first` to `last` (ids [n]) of each, taken as one.

    `factors` (float32 [n], or [1] for all) are the discounts of windows that do not terminate. `returns` (float64
    [n, ...], shaped as the reward) are their rewards; None where each is that of its only transition.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    factors: NDArray[np.float32]
    returns: NDArray[np.float64] | None


class Layout(NamedTuple):
    """How a batch of one size lies in its block, and the copies that fill it."""

    dtype: np.dtype[Any]
    places: dict[str, Places]
    plan: NDArray[np.int64]
    stacks: NDArray[np.int64]  # copies of stacks; none where observations are no stacks


class Gather:
    """How windows of rows become batches of one schema: which field from where, and to where for each batch size.

    Fields are those of the first row of a window, but for next_obs, terminated and truncated: those are of the last.
    `stack`: observations are read as such stacks of frames. Where each window is one transition and its next_obs begins
    with what its obs ends with, both are windows of one column of frames + 1 frames.
    `told`: further columns, which the view fills in.
    """

    def __init__(self, rows: Rows, stack: Stacking | None = None, told: Mapping[str, Node] | None = None) -> None:
        self.schema: Schema = rows.schema
        self.stack = stack
        self._nodes = {**self.schema.fields, **(told or {}), **BOOKKEEPING}
        self._offsets = {leaf: rows.offset_of(leaf) for leaf in self.schema.leaves}
        self._layouts: dict[tuple[int, bool], Layout] = {}

    def read(self, rows: Rows, windows: Windows) -> Batch:
        """The batch of these windows; what the sampler says is not filled in yet."""
        first, last, factors, returns = windows
        n = len(first)
        stack = self.stack
        shared = stack is not None and first is last
        while True:
            layout = self._layouts.get((n, shared)) or self._layout(n, shared)
            block = kernels.block(layout.dtype)
            if stack is None or rows.read_stacks(first, last, stack, layout.stacks, block):
                break
            shared = False
        rows.read(first, last, layout.plan, factors, block)
        if returns is not None:
            block["reward"] = returns
        return Batch(block, layout.places)

    def _layout(self, n: int, shared: bool) -> Layout:
        """The block for n items: columns, each at the start of a cache line; and the plans of copies into it."""
        columns: dict[str, Column] = {}
        copies: dict[str, tuple[int, int, int]] = {}  # source, offset, bytes of one item
        stacks: dict[str, tuple[int, int, int]] = {}
        places: dict[Leaf, Places] = {}
        for leaf in (leaf for node in self._nodes.values() for leaf in leaves_of(node)):
            source, shape = leaf.path[0], (n, *leaf.shape)
            if self.stack is not None and source in ("obs", "next_obs"):
                frame, k = self.stack.frame(leaf), self.stack.frames
                column, order, item = self.stack.window(leaf)
                if shared and source == "next_obs":
                    places[leaf] = Cut(Leaf(("obs", *leaf.path[1:]), leaf.dtype, ()).name, 1, k + 1, order, item)
                    continue
                places[leaf] = Cut(leaf.name, 0, k, order, item)
                shape = (n, k + shared, *column)
                which = BOTH_STACKS if shared else STACK if source == "obs" else NEXT_STACK
                stacks[leaf.name] = which, self._offsets[leaf], frame.nbytes
            elif source == "discount":
                copies[leaf.name] = DISCOUNT, 0, leaf.nbytes
            elif source in self.schema.fields:
                copies[leaf.name] = SOURCES.get(source, FIRST), self._offsets[leaf], leaf.nbytes
            places.setdefault(leaf, leaf.name)
            columns[leaf.name] = leaf.dtype, shape
        dtype, offsets = block_of(columns)
        if len(self._layouts) >= KEPT_SIZES:
            self._layouts.clear()
        fields = {name: _nested(node, places) for name, node in self._nodes.items() if name not in DRAWN}
        layout = self._layouts[n, shared] = Layout(dtype, fields, plan_of(copies, offsets), plan_of(stacks, offsets))
        return layout


def block_of(columns: Mapping[str, Column]) -> tuple[np.dtype[Any], dict[str, int]]:
    """The dtype of a block with these columns, each at the start of a cache line, and where each begins.

    Raises ValueError where that is larger than NumPy's dtypes can be.
    """
    offsets, end = {}, 0
    for name, (dtype, shape) in columns.items():
        offsets[name] = end
        end += -(-dtype.itemsize * math.prod(shape) // LINE) * LINE
    if end > MOST_NBYTES:
        raise ValueError(f"a batch of {end / 2**30:.1f} GiB was asked for; the most is 2 GiB: ask for fewer at a time")
    formats = {"names": list(columns), "formats": list(columns.values())}
    layout: Any = {**formats, "offsets": list(offsets.values()), "itemsize": end}
    return np.dtype(layout), offsets


def plan_of(copies: Mapping[str, tuple[int, int, int]], offsets: Mapping[str, int]) -> NDArray[np.int64]:
    """What is copied into which column (source, offset, bytes of one item), with where the column begins: [m, 4]."""
    return np.array([(*copy, offsets[name]) for name, copy in copies.items()], np.int64).reshape(-1, 4)


def gather_for(rows: Rows, known: Gather | None, stack: Stacking | None = None) -> Gather:
    """The gather a view has made before, if it was for these rows' schema and such stacks; else a new one.

    `stack`: None reads what was added.
    """
    stack = rows.stack if stack is None else stack
    if known is not None and known.schema is rows.schema and known.stack == stack:
        return known
    return Gather(rows, stack)


def _nested(node: Node, places: dict[Leaf, Places]) -> Places:
    if isinstance(node, Leaf):
        return places[node]
    children = {name: _nested(child, places) for name, child in children_of(node).items()}
    return children if isinstance(node, dict) else tuple(children.values())
