"""Who has which rank: every live id in the order of its priority."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.samplers.sum_tree import aligned_zeros

FANOUT = 32
LEAF = np.dtype([("priority", np.float64, (FANOUT,)), ("id", np.int64, (FANOUT,))])
BRANCH = np.dtype(
    [
        ("last", LEAF),
        ("child", np.uint32, (FANOUT,)),
        ("count", np.uint32, (FANOUT,)),
        ("size", np.int64),
        ("unused", np.int64, (7,)),
    ]
)
# What `state` holds; see native/order.hpp.
ROOT, HEIGHT, SIZE, LEAVES, BRANCHES, FREE_LEAF, FREE_BRANCH = range(7)
EMPTY = (0, 0, 0, 0, 0, -1, -1)
FIRST = np.zeros(1, np.int64)  # the highest rank


class Order:
    """All live ids in the order of (priority, id): who has a rank, and which rank an id has, at once and exactly.

    Rank 0 is the largest priority; of equal priorities the newer id ranks higher. A counted B+-tree (Bayer & McCreight
    1972) whose nodes are a few cache lines: at 10^6 ids four nodes from root to leaf. Schaul et al. 2016 (App. B.2.1)
    keep a binary heap instead, and sort it now and then: its ranks are only near, and the sort stops the learner.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        leaves, branches = _nodes_for(capacity)
        self._leaves = aligned_zeros(leaves, LEAF)  # reserved, but touched only as they are used
        self._branches = aligned_zeros(branches, BRANCH)
        self._state = np.array(EMPTY, np.int64)
        self.by_slot = np.zeros(capacity)  # priorities
        self._arrays = (self._leaves, self._branches, self._state, self.by_slot)

    def __len__(self) -> int:
        return self._state.item(SIZE)

    def __getstate__(self) -> tuple[Any, ...]:
        used = np.flatnonzero(self.by_slot)
        by_slot = self.by_slot[: used[-1] + 1 if used.size else 0]
        leaves, branches = self._leaves[: self._state[LEAVES]], self._branches[: self._state[BRANCHES]]
        return self.capacity, leaves.copy(), branches.copy(), self._state.copy(), by_slot.copy()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        Order.__init__(self, state[0])  # nodes must start a cache line again
        for array, used in zip(self._arrays, state[1:], strict=True):
            array[: len(used)] = used

    @property
    def nbytes(self) -> int:
        """Bytes held: nodes that were ever used, and the priorities."""
        leaves, branches = self._state[[LEAVES, BRANCHES]].tolist()
        return int(leaves * LEAF.itemsize + branches * BRANCH.itemsize + self.by_slot.nbytes)

    @staticmethod
    def bytes_for(capacity: int) -> int:
        """The most bytes of an order of so many ids."""
        leaves, branches = _nodes_for(capacity)
        return leaves * LEAF.itemsize + branches * BRANCH.itemsize + 8 * capacity

    def largest(self, oldest: int, added: int) -> float:
        """The largest priority; 0 where there is none."""
        if not len(self):
            return 0.0
        return self.by_slot.item(self.find(FIRST, oldest, added).item() % self.capacity)

    def add(self, oldest: int, added: int, priorities: NDArray[np.float64]) -> None:
        """The ids from `added` on come in (float64 [n], n <= capacity); those that sat in their slots leave."""
        kernels.order_add(self._arrays, oldest, added, priorities)

    def drop(self, oldest: int, added: int, n: int) -> None:
        """The `n` oldest ids leave."""
        kernels.order_drop(self._arrays, oldest, added, n)

    def update(self, ids: NDArray[np.int64], priorities: NDArray[np.float64], oldest: int, added: int) -> int:
        """Sets the priorities of the ids in [oldest, added), the last of a repeated id; gives how many were set."""
        return kernels.order_update(self._arrays, oldest, added, ids, priorities)

    def find(self, ranks: NDArray[np.int64], oldest: int, added: int) -> NDArray[np.int64]:
        """The ids (int64 [n]) that have these ranks (int64 [n], 0 to len - 1)."""
        ids = np.empty(len(ranks), np.int64)
        kernels.order_find(self._arrays, oldest, added, ranks, ids)
        return ids

    def ranks(self, ids: NDArray[np.int64], oldest: int, added: int) -> NDArray[np.int64]:
        """The ranks (int64 [n]) of live ids."""
        ranks = np.empty(len(ids), np.int64)
        kernels.order_ranks(self._arrays, oldest, added, ids, ranks)
        return ranks

    def check_valid(self) -> None:
        """Raises AssertionError where nodes, counts and order contradict each other. Looks at every node."""
        node, height, size, leaves, branches, free_leaf, free_branch = self._state.tolist()
        assert height > 0 or size <= FANOUT
        seen_leaves, seen_branches = 0, 0
        level, held = np.array([node] if leaves else [], np.int64), np.array([size] if leaves else [], np.int64)
        for depth in range(height, 0, -1):
            seen_branches += len(level)
            here = self._branches[level]
            sizes = here["size"]
            assert (sizes >= 1).all()
            assert (sizes <= FANOUT).all()
            assert depth < height or sizes[0] >= 2, "the root leads to one node only"
            inside = np.arange(FANOUT) < sizes[:, None]
            assert np.array_equal(np.where(inside, here["count"], 0).sum(axis=1), held), "counts do not add up"
            level, held = here["child"][inside].astype(np.int64), here["count"][inside].astype(np.int64)
            load = held if depth == 1 else self._branches["size"][level]
            siblings = np.repeat(np.arange(len(sizes)), sizes)
            assert (load[1:] + load[:-1] > FANOUT // 2)[siblings[1:] == siblings[:-1]].all(), "siblings should be one"
        seen_leaves = len(level)
        assert len(np.unique(level)) == len(level)
        inside = np.arange(FANOUT) < held[:, None]
        ids, priorities = self._leaves["id"][level][inside], self._leaves["priority"][level][inside]
        assert len(ids) == size
        assert np.array_equal(np.lexsort((ids, priorities)), np.arange(size)), "not in order"
        assert len(np.unique(ids % self.capacity)) == size
        assert np.array_equal(self.by_slot[ids % self.capacity], priorities)
        assert seen_leaves + _chain(self._leaves["id"][:, 0], free_leaf) == leaves, "a leaf is lost"
        assert seen_branches + _chain(self._branches["size"], free_branch) == branches, "a branch is lost"


def _nodes_for(capacity: int) -> tuple[int, int]:
    """Room for leaves and branches.

    Two adjacent siblings hold at least 17 things, so a level of w nodes under v parents holds 17 / 2 * (w - v) or more;
    with that on each level, leaves are at most 0.137 and branches 0.022 an id, and a few for the way up.
    """
    return capacity // 7 + 64, capacity // 32 + 64


def _chain(following: NDArray[np.int64], first: int) -> int:
    """The length of a chain of free nodes."""
    length = 0
    while first >= 0:
        first, length = int(following[first]), length + 1
    return length
