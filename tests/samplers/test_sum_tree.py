"""The tree: nodes are exactly what their children make them, for ever, and walks end where the running sum says."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaybank import kernels
from replaybank.samplers.sum_tree import Tree

LANES = [lanes for lanes in (1, 4, 8) if lanes <= kernels.LANES]
CAPACITIES = [1, 2, 7, 8, 9, 63, 64, 65, 511, 513, 4097]


def families(tree: Tree) -> Iterator[tuple[float, list[float]]]:
    """Every inner node with its children, found without the tree's own check.

    Layout (native/tree.hpp): level by level, leaves first, each level padded to whole families of eight.
    """
    nodes = tree.nodes.tolist()
    begin, width = 0, -(-tree.capacity // 8) * 8
    while True:
        inner = width // 8
        padded = -(-inner // 8) * 8
        for node in range(padded):
            children = nodes[begin + 8 * node : begin + 8 * node + 8] if node < inner else [0.0] * 8
            yield nodes[begin + width + node], children
        if inner == 1:
            assert len(nodes) == begin + width + padded
            assert tree.root == nodes[begin + width]
            return
        begin, width = begin + width, padded


def pairwise(c: list[float]) -> float:
    return ((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7]))


FOLLOWS = {
    kernels.SUM: pairwise,
    kernels.MAX: max,
    kernels.MIN_POSITIVE: lambda c: min((x for x in c if x > 0), default=0.0),
}


def check_exact(tree: Tree) -> None:
    tree.check_valid()
    of = FOLLOWS[tree.combine]
    for node, children in families(tree):
        assert node == of(children)


@pytest.mark.slow
@pytest.mark.parametrize("combine", FOLLOWS)
def test_after_a_million_updates_over_twelve_decades_every_node_is_exact(combine: int, effort: int) -> None:
    """Updates of 1 to 3000 ids of a wrapped ring, some twice, some stale; 10% zeros. The model is a dict of leaves."""
    capacity, oldest = 5000, 123_456
    added = oldest + capacity
    tree = Tree(capacity, combine)
    model = np.zeros(capacity)
    rng = np.random.default_rng(combine)
    done = 0
    for turn in itertools.count():
        n = int(rng.choice([1, 3, 32, 256, 3000]))
        ids = rng.integers(oldest - 50, added, n)
        values = 10.0 ** rng.uniform(-6, 6, n)
        values[rng.random(n) < 0.1] = 0.0
        live = ids >= oldest
        assert tree.update(ids, values, oldest, added) == live.sum()
        model[ids[live] % capacity] = values[live]  # of duplicates NumPy keeps the last
        done += n
        if turn % 200 == 0:
            check_exact(tree)
        if done >= 1_000_000 * effort:
            break
    check_exact(tree)
    assert np.array_equal(tree.leaves, model)
    if combine == kernels.SUM:
        # 3 additions a level, each with a relative error of at most 2^-53
        assert abs(tree.root / math.fsum(model) - 1) <= 3 * 5 * 2.0**-53
    elif combine == kernels.MAX:
        assert tree.root == model.max()
    else:
        assert tree.root == model[model > 0].min()


@pytest.mark.parametrize("combine", FOLLOWS)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_update_fill_and_build_agree(combine: int, capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    tree, model = Tree(capacity, combine), np.zeros(capacity)
    added = capacity
    for _ in range(30):
        n = int(rng.integers(1, capacity + 1))
        value = float(10.0 ** rng.uniform(-6, 6)) if rng.random() < 0.8 else 0.0
        tree.fill(added, n, value)
        model[np.arange(added, added + n) % capacity] = value
        added += n
        ids = rng.integers(added - capacity, added, 3)
        values = rng.random(3)
        tree.update(ids, values, added - capacity, added)
        model[ids % capacity] = values
        check_exact(tree)
        assert np.array_equal(tree.leaves, model)
    built = Tree(capacity, combine)
    built.leaves[:] = model
    built.build()
    assert built.nodes.tobytes() == tree.nodes.tobytes()


def test_the_tree_forgets_what_it_held() -> None:
    """Adding differences would leave 1e12's rounding errors behind; here the root is as if it had never been."""
    tree = Tree(100)
    ids = np.arange(100)
    tree.update(ids, np.full(100, 0.1), 0, 100)
    before = tree.nodes.tobytes()
    tree.update(ids[::3].copy(), np.full(34, 1e300), 0, 100)
    tree.update(ids[::3].copy(), np.full(34, 0.1), 0, 100)
    assert tree.nodes.tobytes() == before


def find(tree: Tree, uniforms: np.ndarray, oldest: int, added: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and each one's share of the total; what `Tree.find` does, with a number of lanes of our choice."""
    ids, shares = np.empty(len(uniforms), np.int64), np.empty(len(uniforms))
    kernels.tree_find(tree._tree, tree.capacity, oldest, added, uniforms.copy(), ids, shares, lanes)
    return ids, shares


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_a_walk_ends_where_the_running_sum_passes_its_target(capacity: int, lanes: int) -> None:
    """With whole-number leaves and dyadic targets all sums are exact, so the answer is `searchsorted`, exactly."""
    rng = np.random.default_rng(capacity)
    oldest = 10 * capacity + capacity // 3
    for n in (1, 2, 3, 4, 5, 8, 13, 16, 64, 129):
        tree = Tree(capacity)
        leaves = rng.integers(0, 5, capacity)
        leaves[rng.integers(capacity)] += 1
        total = int(leaves.sum())
        # The root becomes a multiple of n, so that the width of a range is a whole number.
        leaves[np.argmax(leaves)] += -total % n
        tree.leaves[:] = leaves
        tree.build()
        uniforms = rng.integers(0, 1024, n) / 1024
        ids, shares = find(tree, uniforms, oldest, oldest + capacity, lanes)
        targets = (np.arange(n) + uniforms) * (int(leaves.sum()) // n)
        slots = np.searchsorted(np.cumsum(leaves), targets, side="right")
        assert (ids % capacity == slots).all()
        assert ((ids >= oldest) & (ids < oldest + capacity)).all()
        assert np.array_equal(shares, leaves[slots] / leaves.sum())


@given(
    leaves=st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e12)), min_size=1, max_size=100).filter(any),
    uniforms=st.lists(st.floats(0, 1, exclude_max=True, allow_subnormal=False), min_size=1, max_size=20),
)
def test_a_walk_ends_within_rounding_of_its_target(leaves: list[float], uniforms: list[float]) -> None:
    """Any leaves: the leaf found is never empty, and its interval holds the target up to rounding of the sums."""
    tree = Tree(len(leaves))
    tree.leaves[:] = leaves
    tree.build()
    n = len(uniforms)
    found = [find(tree, np.array(uniforms), 0, len(leaves), lanes) for lanes in LANES]
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))
    exact = [Fraction(x) for x in leaves]
    edges = [Fraction(0), *itertools.accumulate(exact)]
    for j, (slot, share) in enumerate(zip(*(array.tolist() for array in found[0]), strict=True)):
        assert leaves[slot] > 0
        assert share == leaves[slot] / tree.root
        target = (j + Fraction(uniforms[j])) / n * edges[-1]
        slack = edges[-1] * 64 / 2**53
        assert edges[slot] - slack <= target <= edges[slot + 1] + slack


@pytest.mark.parametrize("lanes", LANES)
def test_rounding_never_leads_to_an_empty_leaf(lanes: int) -> None:
    """The largest uniform numbers, in trees whose sums round: targets may come out at the total or above."""
    rng = np.random.default_rng(lanes)
    for capacity in (8, 64, 65, 700):
        for _ in range(50):
            tree = Tree(capacity)
            full = rng.random(capacity) < 0.1
            full[rng.integers(capacity)] = True
            tree.leaves[full] = 10.0 ** rng.uniform(-6, 6, int(full.sum()))
            tree.build()
            for n in (1, 3, 8, 31):
                for u in (0.0, np.nextafter(1.0, 0.0)):
                    slots, _ = find(tree, np.full(n, u), 0, capacity, lanes)
                    assert (tree.leaves[slots] > 0).all()


def test_lanes_that_the_processor_lacks_are_refused() -> None:
    tree = Tree(10)
    tree.fill(0, 10, 1.0)
    for lanes in (0, 2, 3, 16):
        with pytest.raises(ValueError, match="lanes"):
            find(tree, np.zeros(3), 0, 10, lanes)


@pytest.mark.parametrize("combine", FOLLOWS)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_a_pickled_tree_has_the_same_nodes_at_the_start_of_a_cache_line(combine: int, capacity: int) -> None:
    tree = Tree(capacity, combine)
    for used in (0, capacity // 3, capacity):
        tree.fill(0, used, 0.1)
        for twin in (pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree)):
            assert twin.nodes.tobytes() == tree.nodes.tobytes()
            assert twin.nodes.ctypes.data % 64 == 0
            twin.fill(0, capacity, 3.0)
            check_exact(twin)
        assert (tree.leaves[:used] == 0.1).all()


def test_a_pickled_tree_holds_what_is_used_only() -> None:
    tree = Tree(1_000_000)
    tree.fill(0, 100, 1.0)
    assert len(pickle.dumps(tree)) < 2000
