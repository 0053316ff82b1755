"""Every kernel does what its NumPy twin does, bit for bit."""

import mmap

import numpy as np
import pytest

from replaybank import kernels, reference
from replaybank import rows as rows_
from replaybank.rows import Rows
from replaybank.samplers.order import Order
from replaybank.samplers.sum_tree import Tree
from replaybank.schema import Schema
from replaybank.segments import segments_of
from replaybank.stacking import Stacking
from replaybank.views.gather import Gather

NESTED = Schema.of(
    {
        "obs": {"camera": ("uint8", (3, 5)), "parts": ["float32", ("float64", (2,))]},
        "action": ("float32", (3,)),
        "reward": "float64",
        "note": "int16",
    }
)
FLAT = Schema.of({"obs": ("float32", (4,)), "action": "int64"})


def steps(rng, schema, n, states, ends):
    """`n` transitions of a walk over few states, so that some continue others by chance, as arrays by leaf."""
    values = []
    here = rng.integers(0, states, n + 1)
    follow = rng.random(n) < 0.8
    after = np.where(follow, here[1:], rng.integers(0, states, n))
    for leaf in schema.leaves:
        if leaf.path[0] in ("obs", "next_obs"):
            which = here[:-1] if leaf.path[0] == "obs" else after
            array = np.zeros((n, *leaf.shape), leaf.dtype) + which.reshape(n, *[1] * len(leaf.shape))
        elif leaf.path[0] in ("terminated", "truncated"):
            array = rng.random(n) < ends
        else:
            array = rng.normal(size=(n, *leaf.shape)) * 100
        values.append(np.ascontiguousarray(array.astype(leaf.dtype)))
    return tuple(values)


def same(one, other):
    """Rows agree in everything that is not garbage: rows ever written, pools as far as used, and the bookkeeping."""
    for name in ("data", "tails", "free", "onward", "older", "free_older", "newest", "cursor"):
        assert one.__getstate__()[name].tobytes() == other.__getstate__()[name].tobytes(), name


@pytest.mark.parametrize("schema", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize(("capacity", "streams"), [(1, 1), (3, 5), (7, 1), (40, 3), (64, 4)])
def test_append_read_and_walk(schema, capacity, streams):
    rng = np.random.default_rng(capacity * 10 + streams)
    rows, twin_rows = Rows(schema, capacity, streams), Rows(schema, capacity, streams)
    twin = twin_rows._store
    for array in (*rows._store[:2], *twin[:2]):
        array.view(np.uint8)[:] = 0  # so that padding and unused places can be compared
    gather = Gather(rows)
    for turn in range(60):
        lead, owners, item_a_stream = streams, None, False
        if turn % 3 == 0:
            lead = int(rng.integers(1, 9))
            owners = rng.integers(0, streams, lead)
        elif turn % 3 == 1:
            owners, item_a_stream = np.flatnonzero(rng.random(streams) < 0.6), True
        values = steps(rng, schema, lead, states=3, ends=0.15)
        given = values, lead, owners, item_a_stream
        assert rows.append(*given) == reference.append(twin, rows._plan, *given)
        same(rows, twin_rows)
        if turn % 4 == 3:
            oldest = int(rng.integers(rows.oldest, rows.added + 1))
            kernels.drop(rows._store, oldest)
            reference.drop(twin, oldest)
            same(rows, twin_rows)
            assert rows.oldest == oldest
        if turn % 7 == 6:
            kernels.compact(rows._store)
            reference.compact(twin)
            same(rows, twin_rows)
        rows.check_valid()
        if rows.empty:
            continue
        for n in (1, 5, 200):
            ids = rng.integers(rows.oldest, rows.added, n)
            length = int(rng.integers(0, 6))
            for forward in (True, False):
                path, lengths = rows.walk(ids, length, forward)
                path_twin, lengths_twin = np.empty_like(path), np.empty_like(lengths)
                reference.walk(twin, ids, length, forward, path_twin, lengths_twin)
                np.testing.assert_array_equal(path, path_twin)
                np.testing.assert_array_equal(lengths, lengths_twin)
            path, lengths = rows.walk(ids, length)
            last = np.ascontiguousarray(path[:, -1])
            reward = schema.fields["reward"]
            totals, totals_twin = rows.returns(reward, path, lengths, 0.9), np.empty((n, *reward.shape))
            at, number = rows.offset_of(reward), reward.dtype.num
            reference.returns(twin, path, lengths, 0.9, at, number, totals_twin)
            np.testing.assert_array_equal(totals, totals_twin)
            dtype, _, plan, _ = gather._layout(n, False)
            found, expected = np.zeros((), dtype), np.zeros((), dtype)
            factors = rng.random(n, dtype=np.float32)
            rows.read(ids, last, plan, factors, found)
            reference.read(twin, ids, last, plan, factors, expected)
            assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("schema", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize(("capacity", "streams"), [(1, 1), (3, 5), (7, 1), (40, 3), (64, 4), (300, 2)])
def test_sequences_and_follow(schema, capacity, streams):
    rng = np.random.default_rng(capacity * 10 + streams)
    rows = Rows(schema, capacity, streams)
    fields = [leaf for leaf in schema.leaves if leaf.path[0] != "next_obs"]
    observed = [leaf for leaf in schema.leaves if leaf.path[0] == "obs"]
    parts = [(rows_.STEPS, leaf) for leaf in fields] + [(rows_.START, leaf) for leaf in fields]
    parts += [(part, leaf) for part in (rows_.CHAIN, rows_.AHEAD) for leaf in observed]
    copies = [(part, rows.offset_of(leaf), leaf.nbytes) for part, leaf in parts]
    copies += [(rows_.VALID, 0, 1), (rows_.IS_FIRST, 0, 1), (rows_.MASK, 0, 1), (rows_.DISCOUNTS, 0, 4)]
    for turn in range(40):
        owners = rng.integers(0, streams, int(rng.integers(1, 30)))
        rows.append(steps(rng, schema, len(owners), states=2, ends=0.1), len(owners), owners)
        if turn % 7 == 0:
            rows.end(rng.integers(0, streams, 1))
        rows.check_valid()
        for n, length, burn_in, across in ((0, 3, 0, False), (1, 1, 0, True), (9, 5, 2, False), (9, 40, 7, True)):
            ids = rng.integers(rows.oldest, rows.added, n)
            ends = np.cumsum([0] + [nbytes * n * (length + 1) for *_, nbytes in copies])
            ends += np.arange(len(ends)) * 8 + (-ends) % 8  # apart, so that none can write into another's place unseen
            plan = np.array([(*copy, at) for copy, at in zip(copies, ends, strict=False)], np.int64)
            found, expected = (np.zeros((), np.dtype((np.void, int(ends[-1])))) for _ in range(2))
            rows.sequences(ids, length, burn_in, across, 0.9, plan, found)
            reference.sequences(rows._store, ids, length, burn_in, across, 0.9, plan, expected)
            assert found.tobytes() == expected.tobytes()
            most = rng.choice([0, 1, 3, 2**40], n)
            for forward in (True, False):
                to, taken = np.empty(n, np.int64), np.empty(n, np.int64)
                reference.follow(rows._store, ids, most, forward, to, taken)
                for one, other in zip(rows.follow(ids, most, forward), (to, taken), strict=True):
                    np.testing.assert_array_equal(one, other)


def stacks(rng, schema, k, n, state):
    """`n` transitions whose observations are stacks of few different frames, most of them shifted and linked."""
    obs, after = np.empty((n, k), int), np.empty((n, k), int)
    for i in range(n):
        here = state.get("next", [0] * k)
        if rng.random() < 0.2:
            here = [int(rng.integers(2))] * k if rng.random() < 0.5 else rng.integers(0, 2, k).tolist()
        if rng.random() < 0.1:
            here = [0] * (k - 1) + [1]
        there = [*here[1:], int(rng.integers(0, 3))]
        if rng.random() < 0.1:
            there = rng.integers(0, 2, k).tolist()
        obs[i], after[i], state["next"] = here, there, there
    values = []
    for leaf in schema.leaves:
        if leaf.path[0] in ("obs", "next_obs"):
            which = obs if leaf.path[0] == "obs" else after
            array = np.zeros((n, *leaf.shape), leaf.dtype).reshape(n, k, -1) + which[:, :, None]
            values.append(np.ascontiguousarray(array.reshape(n, *leaf.shape), leaf.dtype))
        elif leaf.path[0] in ("terminated", "truncated"):
            values.append(rng.random(n) < 0.1)
        else:
            values.append(np.ascontiguousarray(rng.normal(size=(n, *leaf.shape)).astype(leaf.dtype)))
    return tuple(values)


STACKED = Schema.of({"obs": {"camera": ("uint8", (3, 2, 5)), "speed": ("float32", (3,))}, "action": "int64"})


@pytest.mark.parametrize("zero", [False, True], ids=["reset", "zero"])
@pytest.mark.parametrize(("capacity", "streams"), [(1, 1), (3, 5), (7, 1), (40, 3), (200, 1)])
def test_append_and_read_stacks(capacity, streams, zero):
    rng = np.random.default_rng(capacity * 10 + streams)
    stacking = Stacking(3, 0, zero, False)
    rows, twin_rows = (Rows(STACKED, capacity, streams, stacking) for _ in range(2))
    for part in (rows, twin_rows):
        part._keep_aside(2 * capacity + 20)
        for array in part._store[:3]:
            array.view(np.uint8)[:] = 0
    twin = twin_rows._store
    gather, outcomes = Gather(rows, stacking), set()
    states = [{} for _ in range(streams)]
    for turn in range(80):
        if turn % 3:
            lead, owners = streams, None
            parts = [stacks(rng, STACKED, 3, 1, state) for state in states]
            values = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
        else:
            lead, stream = int(rng.integers(1, 9)), int(rng.integers(streams))
            owners = np.full(lead, stream)
            values = stacks(rng, STACKED, 3, lead, states[stream])
        assert rows.append(values, lead, owners) == reference.append(twin, rows._plan, values, lead, owners, False)
        if turn % 5 == 4:
            oldest = int(rng.integers(rows.oldest, rows.added))
            kernels.drop(rows._store, oldest)
            reference.drop(twin, oldest)
        if turn % 8 == 7:
            kernels.compact(rows._store)
            reference.compact(twin)
        same(rows, twin_rows)
        rows.check_valid()
        ids = rng.integers(rows.oldest, rows.added, 40)
        complete, expected = np.empty(40, bool), np.empty(40, bool)
        kernels.stacks_complete(rows._store, ids, 3, complete)
        reference.stacks_complete(twin, ids, 3, expected)
        np.testing.assert_array_equal(complete, expected)
        for first in (ids[expected], ids[expected][:1]):
            if len(first):
                for last, shared in ((first, True), (first, False), (rows.walk(first, 2)[0][:, -1].copy(), False)):
                    dtype, _, _, plan = gather._layout(len(first), shared)
                    found, wanted = np.zeros((), dtype), np.zeros((), dtype)
                    done = kernels.read_stacks(rows._store, first, last, 3, zero, plan, found)
                    assert done == reference.read_stacks(twin, first, last, 3, zero, plan, wanted)
                    assert not done or found.tobytes() == wanted.tobytes()
                    outcomes.add(done)
        if not expected.all():
            outcomes.add("incomplete")
            dtype, _, _, plan = gather._layout(40, True)
            with pytest.raises(IndexError, match="have left"):
                kernels.read_stacks(rows._store, ids, ids, 3, zero, plan, np.zeros((), dtype))
    assert outcomes >= ({True, False, "incomplete"} if capacity in (7, 40) else {True, False})


def test_pages_are_given_back_and_nothing_beside_them():
    page = mmap.PAGESIZE
    for begin, end in ((0, 0), (5, 6), (0, 20 * page), (page - 1, 3 * page + 1), (7 * page + 9, 9 * page - 9)):
        array = np.full(20 * page, 7, np.uint8)
        given = kernels.release(array, begin, end)
        assert given == reference.release(array, begin, end)
        assert begin <= given <= end
        assert (array[:begin] == 7).all()
        assert (array[given:] == 7).all()
        assert end - given < page or given == begin
    for begin, end in ((-1, 5), (6, 5), (0, 20 * page + 1)):
        with pytest.raises(ValueError, match="of the array"):
            kernels.release(array, begin, end)
    rows = Rows(FLAT, 10, 1)
    for oldest in (-1, 1):
        with pytest.raises(ValueError, match="never given out"):
            kernels.drop(rows._store, oldest)


def test_append_takes_scalars_as_it_takes_arrays():
    a, b = Rows(FLAT, 5, 1), Rows(FLAT, 5, 1)
    for rows in (a, b):
        rows.data.view(np.uint8)[:] = 0
    obs = np.arange(4, dtype=np.float32)
    for kind in (float, np.float32, np.float64, lambda x: np.array(x, np.float32), lambda x: np.array(x, np.float64)):
        a.append((obs, np.int64(3), kind(0.1), obs, np.True_, False), -1)
        b.append((obs, np.array(3), np.array(0.1, np.float32), obs, np.array(True), np.array(False)), -1)
    same(a, b)


@pytest.mark.parametrize(
    "value",
    [1e39, np.nan, np.inf, "1", None, 1 + 1j, np.array([1.0]), np.array(1), [1.0], np.float16(1)],
    ids=repr,
)
def test_append_leaves_what_it_does_not_know_and_changes_nothing(value):
    rows = Rows(FLAT, 5, 1)
    obs = np.arange(4, dtype=np.float32)
    assert rows.append((obs, 1, value, obs, False, False), -1) == -1
    assert rows.added == 0
    assert rows.tails_in_use == 0


@pytest.mark.parametrize(
    "obs",
    [np.zeros(5, np.float32), np.zeros((4, 2), np.float32)[:, 0], np.zeros(4, ">f4")],
    ids=["shape", "strided", "byte order"],
)
def test_append_leaves_arrays_that_are_not_plain(obs):
    rows = Rows(FLAT, 5, 1)
    good = np.zeros(4, np.float32)
    assert rows.append((obs, 1, 1.0, good, False, False), -1) == -1
    assert rows.added == 0


COMBINES = {"sum": kernels.SUM, "max": kernels.MAX, "min": kernels.MIN_POSITIVE}


@pytest.mark.parametrize("combine", COMBINES.values(), ids=COMBINES)
@pytest.mark.parametrize("capacity", [1, 2, 8, 9, 64, 65, 513, 5000])
def test_trees(combine, capacity):
    rng = np.random.default_rng(capacity)
    tree = Tree(capacity, combine)
    twin = (tree.nodes.copy(), tree._levels)
    for _ in range(30):
        added = int(rng.integers(1, 4 * capacity + 1))
        oldest = max(0, added - capacity)
        n = int(rng.integers(0, 2 * capacity + 10))
        ids = rng.integers(max(0, oldest - 3), added + 2, n)
        values = rng.choice([0.0, 1.0], n) * 10.0 ** rng.uniform(-6, 6, n)
        assert tree.update(ids, values, oldest, added) == reference.tree_update(
            twin, combine, capacity, oldest, added, ids, values
        )
        np.testing.assert_array_equal(tree.nodes, twin[0])
        first, n, value = int(rng.integers(4 * capacity)), int(rng.integers(0, capacity + 1)), rng.random()
        kernels.tree_fill(tree._tree, combine, capacity, first, n, value)
        reference.tree_fill(twin, combine, capacity, first, n, value)
        np.testing.assert_array_equal(tree.nodes, twin[0])
        tree.check_valid()


@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("capacity", [1, 7, 8, 9, 100, 4097])
def test_tree_find(lanes, capacity):
    if lanes > kernels.LANES:
        pytest.skip(f"this processor walks {kernels.LANES} at a time")
    rng = np.random.default_rng(capacity)
    for trial in range(40):
        tree = Tree(capacity)
        tree.leaves[:] = rng.choice([0.0, 1.0], capacity, p=[0.7, 0.3]) * 10.0 ** rng.uniform(-12, 12, capacity)
        tree.leaves[rng.integers(capacity)] = 1.0
        tree.build()
        added = capacity + int(rng.integers(0, 3 * capacity))
        n = int(rng.integers(1, 70))
        uniforms = rng.random(n)
        if trial % 4 == 0:
            uniforms[:] = np.nextafter(1.0, 0.0)  # the far edge of every range
        twin = uniforms.copy()
        found = np.empty(n, np.int64), np.empty(n)
        expected = np.empty(n, np.int64), np.empty(n)
        kernels.tree_find(tree._tree, capacity, added - capacity, added, uniforms, *found, lanes)
        reference.tree_find((tree.nodes, tree._levels), capacity, added - capacity, added, twin, *expected)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        assert (found[1] > 0).all()
        assert ((found[0] >= added - capacity) & (found[0] < added)).all()


def test_tree_find_refuses_more_lanes_than_there_are():
    with pytest.raises(ValueError, match="lanes"):
        kernels.tree_find(Tree(8)._tree, 8, 0, 8, np.zeros(1), np.zeros(1, np.int64), np.zeros(1), 3)


def test_spread_count_live_and_magnitudes():
    rng = np.random.default_rng(0)
    uniforms = np.append(rng.random(1000), [0.0, np.nextafter(1.0, 0.0)])
    found, expected = np.empty(1002, np.int64), np.empty(1002, np.int64)
    for size in (1, 3, 10**6, 2**31 - 1):
        kernels.spread(uniforms, 17, size, found)
        reference.spread(uniforms, 17, size, expected)
        np.testing.assert_array_equal(found, expected)
        assert found[-2:].tolist() == [17, 16 + size]
    for ids in ([], [5, 6], [1, 9], [3, -1, 10], [10], [9, 4, 4]):
        array = np.array(ids, np.int64)
        assert kernels.count_live(array, 4, 10) == reference.count_live(array, 4, 10)
    for values in ([], [1.0, -2.0], [0.0, np.nan, np.inf], [-np.inf]):
        array = np.array(values)
        a, b = np.empty(len(values)), np.empty(len(values))
        np.testing.assert_equal(kernels.magnitudes(array, 0.5, a), reference.magnitudes(array, 0.5, b))
        np.testing.assert_array_equal(a, b)


def test_columns_are_windows_on_the_block():
    dtype = np.dtype(
        {"names": ["a", "b", "c"], "formats": [("f4", (3, 2)), "u1", "f8"], "offsets": [64, 0, 129], "itemsize": 192}
    )
    block = kernels.block(dtype)
    block["a"], block["b"], block["c"] = np.arange(6).reshape(3, 2), 7, 0.5
    places = {"obs": "a", "nested": {"x": "b"}, "done": "b", "odd": "c"}
    found, expected = kernels.columns(block, places), reference.columns(block, places)
    assert list(found) == list(expected) == ["obs", "done", "odd"]
    for name, column in found.items():
        twin = expected[name]
        assert column.base is block
        assert column.dtype == twin.dtype
        assert column.strides == twin.strides
        assert [column.flags[flag] for flag in ("C", "F", "W", "A", "O")] == [
            twin.flags[flag] for flag in ("C", "F", "W", "A", "O")
        ]
        np.testing.assert_array_equal(column, twin)
    assert not found["odd"].flags.aligned
    found["obs"][2, 1] = 9
    assert block["a"][2, 1] == 9
    block.flags.writeable = False
    assert not kernels.columns(block, places)["obs"].flags.writeable
    with pytest.raises(KeyError, match="no such column"):
        kernels.columns(block, {"obs": "z"})
    with pytest.raises(TypeError, match="columns of shape"):
        kernels.columns(np.zeros(3, dtype), places)


def test_paired_takes_only_what_kernels_can_read():
    ids, values = np.arange(4), np.ones(4)
    odd = np.zeros(33, np.uint8)[1:].view(np.float64)
    takes = [(ids, values), (ids[:0], values[:0]), (ids[1:3], values[2:])]
    leaves = [
        (ids.tolist(), values),
        (ids, None),
        (ids, values[:3]),
        (ids.astype(np.int32), values),
        (ids, values.astype(np.float32)),
        (ids.astype(">i8"), values),
        (ids, values.astype(">f8")),
        (ids[::2], values[:2]),
        (ids[:2], values[::2]),
        (ids, odd),
        (ids.reshape(2, 2), values.reshape(2, 2)),
        (ids.view(np.matrix), values),
        (np.array(1), np.array(1.0)),
    ]
    assert all(kernels.paired(*given) and reference.paired(*given) for given in takes)
    assert not any(kernels.paired(*given) or reference.paired(*given) for given in leaves)


def test_importance_weights():
    rng = np.random.default_rng(0)
    probabilities = rng.random(1000) ** 8 + 1e-12
    found, expected = np.empty(1000, np.float32), np.empty(1000, np.float32)
    for scale in (np.nan, 0.0, 1e-3, 1e-12, 1e-60):
        for beta in (0.0, 0.4, 1.0, 1.7):
            kernels.importance_weights(probabilities, scale, beta, found)
            reference.importance_weights(probabilities, scale, beta, expected)
            np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-38)  # beta itself is rounded


def test_kernels_refuse_ids_that_are_not_there():
    rows = Rows(FLAT, 5, 1)
    obs = np.zeros(4, np.float32)
    for _ in range(7):
        rows.append((obs, 1, 1.0, obs, False, False), -1)
    for wrong in (-1, 1, 7, 2**40):
        with pytest.raises(IndexError, match=rf"transition {wrong} is not in the buffer, which holds ids 2 to 6"):
            rows.walk(np.array([wrong]), 1)


def test_kernels_refuse_plans_that_lead_out_of_a_record():
    """As one made for rows of another schema would."""
    rows = Rows(FLAT, 5, 1)
    obs = np.zeros(4, np.float32)
    rows.append((obs, 1, 1.0, obs, False, False), -1)
    ids, one, out = np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros(4096, np.uint8)
    row, frame = rows.dtype.itemsize, rows.dtype["obs"].itemsize

    def read(source, at, nbytes):
        rows.read(ids, ids, np.array([(source, at, nbytes, 0)]), one, out)

    def read_stacks(source, at, nbytes):
        rows.read_stacks(ids, ids, Stacking(2, 0, False, True), np.array([(source, at, nbytes, 0)]), out)

    def sequences(part, at, nbytes):
        rows.sequences(ids, 3, 0, False, 1.0, np.array([(part, at, nbytes, 0)]), out)

    limits = [(read, rows_.FIRST, row), (read, rows_.LAST, row), (read, rows_.NEXT_OBS, frame)]
    limits += [(read_stacks, source, frame) for source in (rows_.STACK, rows_.NEXT_STACK, rows_.BOTH_STACKS)]
    limits += [(sequences, rows_.STEPS, row), (sequences, rows_.CHAIN, frame), (sequences, rows_.AHEAD, frame)]
    for call, source, most in limits:
        call(source, most - 4, 4)
        for wrong in ((most - 3, 4), (-1, 4), (0, most + 1), (4, -1)):
            with pytest.raises(ValueError, match="the plan was made for other rows"):
                call(source, *wrong)
    with pytest.raises(ValueError, match="the plan was made for other rows"):
        kernels.returns(rows._store, ids, np.ones(1, np.int64), 1.0, row - 3, np.dtype(np.float32).num, np.zeros(1))


def test_a_segment_of_more_steps_than_can_be_counted_goes_on_as_another():
    """Steps are 32-bit; past the last number a stream without ends begins a segment, and loses nothing."""
    rows, twin_rows = Rows(FLAT, 9, 1), Rows(FLAT, 9, 1)
    for array in (*rows._store[:2], *twin_rows._store[:2]):
        array.view(np.uint8)[:] = 0
    for t in range(6):
        obs = np.float32([[t] * 4]), np.float32([[t + 1] * 4])
        off = np.zeros(1, bool)
        values = obs[0], np.array([t]), np.float32([t]), obs[1], off, off
        rows.append(values, 1)
        reference.append(twin_rows._store, twin_rows._plan, values, 1, None, False)
        for one in (rows, twin_rows):
            if t == 1:
                one.data["link_step"][:2] += rows_.LAST_STEP - 3
    same(rows, twin_rows)
    assert rows.data["link_step"][:6].tolist() == [2**32 - 4, 2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1]
    assert [segment.ids.tolist() for segment in segments_of(rows)] == [[0, 1, 2, 3], [4, 5]]


def order_twin(order):
    """What the twins work on: the priorities, and nothing of the tree."""
    return (None, None, None, order.by_slot.copy())


@pytest.mark.parametrize("capacity", [1, 2, 32, 33, 70, 1200, 5000])
def test_orders(capacity):
    """A life of adds and updates with ties, duplicates, stale ids, and sorted values: who has which rank."""
    rng = np.random.default_rng(capacity)
    order = Order(capacity)
    twin = order_twin(order)
    oldest = added = 0
    for turn in range(60):
        n = int(rng.choice([0, 1, min(3, capacity), capacity // 2, capacity]))
        values = rng.choice([0.0, 1.0, rng.random()], n) if turn % 3 else np.sort(rng.random(n))
        kernels.order_add(order._arrays, oldest, added, values)
        reference.order_add(twin, oldest, added, values)
        added += n
        oldest = max(oldest, added - capacity)
        n = int(rng.integers(0, 2 * capacity + 3))
        ids = rng.integers(max(0, oldest - 3), added + 2, n)
        values = np.round(10.0 ** rng.uniform(-3, 3, n), int(rng.integers(0, 12)))
        if turn % 4 == 0:
            values = np.sort(values)[:: int(rng.choice([-1, 1]))].copy()
        found = order.update(ids, values, oldest, added)
        assert found == reference.order_update(twin, oldest, added, ids, values)
        order.check_valid()
        np.testing.assert_array_equal(order.by_slot, twin[3])
        size = added - oldest
        ranks = rng.permutation(size)
        ids, ids_twin = np.empty(size, np.int64), np.empty(size, np.int64)
        kernels.order_find(order._arrays, oldest, added, ranks, ids)
        reference.order_find(twin, oldest, added, ranks, ids_twin)
        np.testing.assert_array_equal(ids, ids_twin)
        some = ids[:200].copy()
        found, expected = np.empty(len(some), np.int64), np.empty(len(some), np.int64)
        kernels.order_ranks(order._arrays, oldest, added, some, found)
        reference.order_ranks(twin, oldest, added, some, expected)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, ranks[:200])
        if turn % 5 == 3:
            n = added - oldest if turn % 10 == 3 else int(rng.integers(0, added - oldest + 1))
            kernels.order_drop(order._arrays, oldest, added, n)
            reference.order_drop(twin, oldest, added, n)
            oldest += n
            order.check_valid()


@pytest.mark.parametrize("pattern", ["ascending", "descending", "from the middle", "every other"])
def test_an_order_has_room_for_the_worst_ways_to_empty_it(pattern):
    """Nodes never run out, and no more are in use than the bound on which the room is reckoned."""
    n = 20_000
    order = Order(n)
    order.add(0, 0, np.arange(float(n)))
    ids = {
        "ascending": np.arange(n),
        "descending": np.arange(n)[::-1],
        "from the middle": np.argsort(np.abs(np.arange(n) - n / 2)),
        "every other": np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)]),
    }[pattern].astype(np.int64)
    for begin in range(0, n, 500):
        for values in (np.full(500, 1e9), np.arange(500.0) / 1e3, np.full(500, float(begin))):
            order.update(ids[begin : begin + 500].copy(), values, 0, n)
        order.check_valid()
        leaves, branches = order._state[3:5]
        assert leaves < 0.137 * n + 10
        assert branches < 0.022 * n + 10


@pytest.mark.parametrize("seed", range(12))
def test_an_order_survives_whole_ranges_of_ranks_that_move_at_once(seed):
    """Runs of neighbours leave for one end, so that nodes of every height become one with others."""
    rng = np.random.default_rng(seed)
    capacity = int(rng.choice([300, 3000, 6000]))
    order = Order(capacity)
    order.add(0, 0, rng.random(capacity))
    for turn in range(40):
        by_rank = order.find(np.arange(capacity), turn, turn + capacity)
        a, b = np.sort(rng.integers(0, capacity + 1, 2))
        ids = [by_rank[a:b], by_rank[::2], rng.permutation(by_rank)[:b], by_rank[a:b][::-1]][rng.integers(4)].copy()
        n = len(ids)
        values = [np.full(n, 1e9), np.zeros(n), np.arange(float(n)), rng.random(n)][rng.integers(4)]
        order.update(ids, values, turn, turn + capacity)
        order.check_valid()
        order.add(turn, turn + capacity, np.ones(1))


def test_an_order_refuses_what_it_does_not_hold():
    order = Order(5)
    order.add(0, 0, np.ones(3))
    ids, ranks = np.zeros(1, np.int64), np.zeros(1, np.int64)
    with pytest.raises(IndexError, match="rank"):
        kernels.order_find(order._arrays, 0, 3, np.array([3]), ids)
    with pytest.raises(IndexError, match="transition 3 is not in the buffer"):
        kernels.order_ranks(order._arrays, 0, 3, np.array([3]), ranks)
    with pytest.raises(ValueError, match="live id"):
        kernels.order_find(order._arrays, 0, 4, ranks, ids)
    with pytest.raises(ValueError, match="finite"):
        order.update(ids, np.array([np.nan]), 0, 3)
    with pytest.raises(ValueError, match="one new one a slot"):
        order.add(0, 3, np.ones(6))
    with pytest.raises(ValueError, match="no more than those"):
        order.drop(0, 3, 4)
    order.check_valid()


@pytest.mark.parametrize("capacity", [1, 2, 7, 100])
def test_decks(capacity):
    rng = np.random.default_rng(capacity)
    deck = (np.zeros(capacity, np.uint32), np.zeros(capacity, np.uint32), np.zeros(2, np.int64))
    twin = tuple(array.copy() for array in deck)
    added = 0
    for turn in range(200):
        n = int(rng.integers(0, capacity + 1))
        kernels.deck_add(deck, added, n)
        reference.deck_add(twin, added, n)
        added += n
        kept = int(rng.integers(0, deck[2][0] + 1))
        uniforms = rng.random(int(rng.integers(0, deck[2][0] - kept + 1)))
        if turn % 5 == 0:
            uniforms[:] = np.nextafter(1.0, 0.0)
        found, expected = np.empty(len(uniforms), np.int64), np.empty(len(uniforms), np.int64)
        kernels.deck_deal(deck, kept, uniforms, found)
        reference.deck_deal(twin, kept, uniforms, expected)
        np.testing.assert_array_equal(found, expected)
        oldest = added - int(deck[2][1])
        n = int(rng.integers(0, added - oldest + 1)) if turn % 3 else 0
        kernels.deck_drop(deck, oldest, n)
        reference.deck_drop(twin, oldest, n)
        for array, array_twin in zip(deck, twin, strict=True):
            np.testing.assert_array_equal(array, array_twin)
        live = np.arange(oldest + n, added) % capacity
        np.testing.assert_array_equal(np.sort(deck[0][: deck[2][1]]), np.sort(live))
    with pytest.raises(ValueError, match="can leave"):
        kernels.deck_drop(deck, 0, capacity + 1)
    with pytest.raises(ValueError, match="waiting"):
        kernels.deck_deal(deck, 0, np.zeros(capacity + 1), np.zeros(capacity + 1, np.int64))
