"""A tree with eight children a node over one number a slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels

FAMILY = 8
LINE = 64  # bytes of a cache line, which one family fills


class Tree:
    """One float64 a slot, and above each family of eight the sum (or maximum, or smallest positive) of it, to the root.

    Eight float64 are one cache line, so a walk over 10^6 leaves reads 7 lines where a binary tree reads 20. Nodes are
    recomputed from their children, never by adding a difference: no drift, whatever the magnitudes. Leaves are >= 0;
    0 marks a slot that holds nothing (or a priority of zero).
    """

    def __init__(self, capacity: int, combine: int = kernels.SUM) -> None:
        self.capacity = capacity
        self.combine = combine
        self._levels = np.concatenate([[0], np.cumsum(_widths(capacity))]).astype(np.int64)
        self.nodes: NDArray[np.float64] = aligned_zeros(int(self._levels[-1]), np.dtype(np.float64))
        self._tree = (self.nodes, self._levels)
        self._root = int(self._levels[-2])

    def __getstate__(self) -> tuple[int, int, NDArray[np.float64]]:
        used = np.flatnonzero(self.leaves)
        return self.capacity, self.combine, self.leaves[: used[-1] + 1 if used.size else 0].copy()

    def __setstate__(self, state: tuple[int, int, NDArray[np.float64]]) -> None:
        capacity, combine, leaves = state
        Tree.__init__(self, capacity, combine)  # nodes must start a cache line again
        self.update(np.arange(len(leaves)), leaves, 0, len(leaves))

    @property
    def root(self) -> float:
        """What all leaves together come to."""
        return self.nodes.item(self._root)

    @property
    def leaves(self) -> NDArray[np.float64]:
        """The leaves [capacity], by slot; call `build` after writing to them."""
        return self.nodes[: self.capacity]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.nodes.nbytes

    @staticmethod
    def bytes_for(capacity: int) -> int:
        """The bytes of a tree over so many slots."""
        return 8 * sum(_widths(capacity))

    def update(self, ids: NDArray[np.int64], values: NDArray[np.float64], oldest: int, added: int) -> int:
        """Sets the leaves of the ids in [oldest, added), the last of a repeated id; gives how many were set."""
        return kernels.tree_update(self._tree, self.combine, self.capacity, oldest, added, ids, values)

    def fill(self, first_id: int, n: int, value: float) -> None:
        """Sets the leaves of n <= capacity consecutive ids to one value."""
        kernels.tree_fill(self._tree, self.combine, self.capacity, first_id, n, value)

    def build(self) -> None:
        """Recomputes every node from the leaves."""
        kernels.tree_build(self._tree, self.combine)

    def find(
        self, uniforms: NDArray[np.float64], oldest: int, added: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Stratified draws from a sum tree: ids [n] and each one's share of the total [n].

        Draw j falls into the j-th of n equal ranges of the total, at `uniforms[j]` in [0, 1) of its width (Schaul et
        al. 2016, App. B.2.1). A leaf of 0 is never found. `uniforms` is used up. The total must be above 0.
        """
        n = len(uniforms)
        ids = np.empty(n, np.int64)
        shares = np.empty(n)
        kernels.tree_find(self._tree, self.capacity, oldest, added, uniforms, ids, shares, kernels.LANES)
        return ids, shares

    def check_valid(self) -> None:
        """Raises AssertionError where a node is not exactly what its children make it."""
        of: Callable[[NDArray[np.float64]], NDArray[np.float64]] = {
            kernels.SUM: lambda c: ((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7])),
            kernels.MAX: lambda c: c.max(axis=0),
            kernels.MIN_POSITIVE: _min_positive,
        }[self.combine]
        starts = self._levels
        for level in range(1, len(starts) - 1):
            below = self.nodes[starts[level - 1] : starts[level]].reshape(-1, FAMILY).T
            here = self.nodes[starts[level] : starts[level] + below.shape[1]]
            assert np.array_equal(of(below), here), f"level {level} does not follow from the one below"
        assert (self.nodes >= 0).all()


def aligned_zeros(n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros [n] that start a cache line; memory is touched only as it is used."""
    memory = np.zeros(n * dtype.itemsize + LINE, np.uint8)
    skip = -memory.ctypes.data % LINE
    return memory[skip : skip + n * dtype.itemsize].view(dtype)


def _widths(capacity: int) -> list[int]:
    """The nodes on each level, leaves first."""
    widths: list[int] = []
    nodes = capacity
    while len(widths) < 2 or widths[-2] > FAMILY:
        widths.append(_whole_families(nodes))
        nodes = widths[-1] // FAMILY
    return widths


def _whole_families(n: int) -> int:
    return -(-n // FAMILY) * FAMILY


def _min_positive(c: NDArray[np.float64]) -> NDArray[np.float64]:
    smallest = np.where(c > 0, c, np.inf).min(axis=0)
    return np.where(np.isinf(smallest), 0.0, smallest)
