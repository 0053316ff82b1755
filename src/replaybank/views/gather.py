"""From a schema to the plan of copies that makes a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.batch import DRAWN, Batch, Places
from replaybank.rows import DISCOUNT, FIRST, LAST, NEXT_OBS, Rows
from replaybank.schema import Leaf, Node, Schema, children_of, leaves_of

# What the view and the sampler add to every batch.
BOOKKEEPING: dict[str, Node] = {
    "discount": Leaf(("discount",), np.dtype(np.float32), ()),
    "indices": Leaf(("indices",), np.dtype(np.int64), ()),
    "probabilities": Leaf(("probabilities",), np.dtype(np.float64), ()),
    "weights": Leaf(("weights",), np.dtype(np.float32), ()),
}
SOURCES = {"next_obs": NEXT_OBS, "terminated": LAST, "truncated": LAST}  # the rest: FIRST
LINE = 64
KEPT_SIZES = 64  # batch sizes whose layout is remembered


class Gather:
    """How windows of rows become batches of one schema: which field from where, and to where for each batch size.

    Fields are those of the first row of a window, but for next_obs, terminated and truncated: those are of the last.
    """

    def __init__(self, rows: Rows) -> None:
        self.schema: Schema = rows.schema
        nodes = self.schema.fields | BOOKKEEPING
        self._places: dict[str, Places] = {name: _places(node) for name, node in nodes.items() if name not in DRAWN}
        self._leaves = [leaf for node in nodes.values() for leaf in leaves_of(node)]
        self._copies = [
            (SOURCES.get(leaf.path[0], FIRST), rows.offset_of(leaf), leaf.nbytes, at)
            for at, leaf in enumerate(self._leaves)
            if leaf.path[0] not in BOOKKEEPING
        ]
        self._copies += [
            (DISCOUNT, 0, leaf.nbytes, at) for at, leaf in enumerate(self._leaves) if leaf.name == "discount"
        ]
        self._sizes: dict[int, tuple[np.dtype[Any], NDArray[np.int64]]] = {}

    def read(
        self, rows: Rows, first: NDArray[np.int64], last: NDArray[np.int64], factors: NDArray[np.float32]
    ) -> Batch:
        """The batch of the windows from `first` to `last` (ids [n]); what the sampler says is not filled in yet.

        `factors` ([n], or [1] for all windows) are the discounts of windows that do not terminate.
        """
        n = len(first)
        dtype, plan = self._sizes.get(n) or self._layout(n)
        block = kernels.block(dtype)
        rows.read(first, last, plan, factors, block)
        return Batch(block, self._places)

    def _layout(self, n: int) -> tuple[np.dtype[Any], NDArray[np.int64]]:
        """The block for n items, and the plan of copies into it: columns, each at the start of a cache line."""
        offsets, end = [], 0
        for leaf in self._leaves:
            offsets.append(end)
            end += -(-leaf.nbytes * n // LINE) * LINE
        dtype = np.dtype(
            {
                "names": [leaf.name for leaf in self._leaves],
                "formats": [(leaf.dtype, (n, *leaf.shape)) for leaf in self._leaves],
                "offsets": offsets,
                "itemsize": end,
            }
        )
        copies = [(source, at, nbytes, offsets[leaf]) for source, at, nbytes, leaf in self._copies]
        if len(self._sizes) >= KEPT_SIZES:
            self._sizes.clear()
        self._sizes[n] = dtype, np.array(copies, np.int64)
        return self._sizes[n]


def gather_for(rows: Rows, known: Gather | None) -> Gather:
    """The gather a view has made before, if it was for the schema of these rows; else a new one."""
    return known if known is not None and known.schema is rows.schema else Gather(rows)


def _places(node: Node) -> Places:
    if isinstance(node, Leaf):
        return node.name
    children = {name: _places(child) for name, child in children_of(node).items()}
    return children if isinstance(node, dict) else tuple(children.values())
