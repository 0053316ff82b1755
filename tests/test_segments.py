"""Reading what is in the buffer without drawing: `read`, `walk`, `segments`, `field`; masks, ends and pickles.

The oracle is the plain list of what each stream lived through.
"""

import copy
import pickle

import numpy as np
import pytest

import replaybank as rb
from oracle import same_batch


def lived(capacity, streams, calls, seed, **parts):
    """A buffer, and the list (id, stream, segment, step, fields) of everything added, as random streams with masks."""
    rng = np.random.default_rng(seed)
    buffer = rb.ReplayBuffer(capacity, {"obs": ("float32", (2,)), "action": "int64"}, streams, seed=seed, **parts)
    told, added = [], 0
    obs = np.stack([[s, 0] for s in range(streams)]).astype(np.float32)
    segment, step = np.zeros(streams, int), np.zeros(streams, int)
    for t in range(calls):
        mask = rng.random(streams) < 0.7
        after = obs + np.float32([0, 1])
        terminated, truncated = (rng.random((2, streams)) < 0.08) & mask
        truncated &= ~terminated
        reward = rng.normal(size=streams).astype(np.float32)
        action = rng.integers(9, size=streams)
        if streams == 1:
            mask[:] = True
            buffer.add(obs[0], action[0], reward[0], after[0], terminated[0], truncated[0])
        else:
            first = buffer.add(obs, action, reward, after, terminated, truncated, mask=mask)
            assert first == added
        for s in np.flatnonzero(mask):
            told.append((added, s, segment[s], step[s], obs[s].copy(), after[s].copy(), terminated[s], truncated[s]))
            added += 1
            step[s] += 1
            if terminated[s] or truncated[s]:
                after[s] = [s, 1000 * (t + 1)]
                segment[s] += 1
                step[s] = 0
        obs = np.where(mask[:, None], after, obs)
        if rng.random() < 0.05:
            ends = rng.random(streams) < 0.5
            buffer.end(ends if streams > 1 else None)
            for s in np.flatnonzero(ends) if streams > 1 else [0]:
                if step[s]:
                    segment[s] += 1
                    step[s] = 0
    buffer.check_valid()
    return buffer, told


@pytest.mark.parametrize(("capacity", "streams"), [(1000, 1), (1000, 3), (50, 1), (50, 4), (3, 5), (1, 1)])
def test_segments_are_the_runs_of_each_stream(capacity, streams):
    buffer, told = lived(capacity, streams, 120, seed=capacity + streams)
    live = told[-capacity:]
    expected = {}
    for id_, stream, segment, *_ in live:
        expected.setdefault((stream, segment), []).append(id_)
    found = list(buffer.segments())
    assert [found_.ids.tolist() for found_ in found] == sorted(expected.values())
    by_id = {row[0]: row for row in told}
    for ids, whole, ended in found:
        if capacity > streams:  # else each row has left before its stream goes on: nothing is known of it any more
            assert whole == (by_id[ids[0]][3] == 0)
        assert ended == (by_id[ids[-1]][6] or by_id[ids[-1]][7])


def test_an_empty_buffer_has_no_segments():
    assert list(rb.ReplayBuffer(5).segments()) == []
    buffer, _ = lived(20, 2, 30, 0)
    buffer.clear()
    assert list(buffer.segments()) == []


def test_a_mask_adds_only_the_streams_it_names_and_links_them():
    """A reset step (NEXT_STEP) of one environment leaves the others' windows as they are."""
    buffer = rb.ReplayBuffer(20, streams=2, view=rb.NStep(3, 1.0))
    off = np.zeros(2, bool)
    for t, mask in enumerate([[True, True], [True, False], [True, True]]):
        obs = np.float32([t, 0 if t < 2 else 1])
        buffer.add(obs, np.zeros(2, int), np.ones(2), obs + 1, off, off, mask=np.array(mask))
    assert len(buffer) == 5
    assert buffer.read([0, 1, 2]).reward.tolist() == [3, 2, 2]


def test_what_a_mask_leaves_out_may_be_anything_and_nothing_is_added_where_it_is_empty():
    buffer = rb.ReplayBuffer(20, {"obs": "float32", "action": "int64"}, streams=2)
    zeros, off = np.zeros(2, int), np.zeros(2, bool)
    reward = np.array([np.nan, 1.0])
    assert buffer.add(np.zeros(2), zeros, reward, np.ones(2), off, off, mask=np.array([False, True])) == 0
    assert buffer.add(np.zeros(2), zeros, reward, np.ones(2), off, off, mask=off) == 1
    assert len(buffer) == 1
    assert buffer.stats()["added"] == 1


@pytest.mark.parametrize("mask", [np.ones(3, bool), np.ones(2, int), True, "yes", np.ones((2, 1), bool)])
def test_a_mask_must_be_one_bool_a_stream(mask):
    buffer = rb.ReplayBuffer(20, {"obs": "float32", "action": "int64"}, streams=2)
    zeros, off = np.zeros(2, int), np.zeros(2, bool)
    with pytest.raises((ValueError, TypeError), match="mask: expected"):
        buffer.add(np.zeros(2), zeros, np.zeros(2), np.ones(2), off, off, mask=mask)
    with pytest.raises((ValueError, TypeError), match="mask: expected"):
        buffer.end(mask)
    assert len(buffer) == 0


def test_after_end_what_fits_by_chance_is_a_new_segment():
    """A reset in the middle of an episode may give the very observation that was to come next."""
    buffer = rb.ReplayBuffer(20, view=rb.NStep(3, 1.0))
    for _ in range(4):
        buffer.add(np.float32([0]), 0, 1.0, np.float32([0]), False, False)
    buffer.end()
    buffer.add(np.float32([0]), 0, 1.0, np.float32([0]), False, False)
    assert [segment.ids.tolist() for segment in buffer.segments()] == [[0, 1, 2, 3], [4]]
    assert [segment.ended for segment in buffer.segments()] == [False, False]
    assert buffer.read(np.arange(5)).reward.tolist() == [3, 3, 2, 1, 1]


def test_read_gives_the_asked_transitions_in_order_under_any_view():
    buffer, told = lived(50, 3, 60, seed=2)
    ids = np.array([told[-1][0], told[-50][0], told[-7][0], told[-7][0]])
    batch = buffer.read(ids)
    by_id = {row[0]: row for row in told}
    np.testing.assert_array_equal(batch.obs, np.stack([by_id[i][4] for i in ids]))
    np.testing.assert_array_equal(batch.next_obs, np.stack([by_id[i][5] for i in ids]))
    np.testing.assert_array_equal(batch.indices, ids)
    assert batch.weights.tolist() == batch.probabilities.tolist() == [1, 1, 1, 1]
    assert len(buffer.read([])) == 0
    assert buffer.stats()["sampled"] == 0
    longer = buffer.read(ids, view=rb.NStep(3, 0.5))
    assert same_batch(longer, rb_view(buffer, rb.NStep(3, 0.5)).read(ids))


def rb_view(buffer, view):
    other = copy.deepcopy(buffer)
    other.view = view
    return other


@pytest.mark.parametrize("wrong", [-1, 9, 60])
def test_read_and_walk_name_an_id_that_is_not_there(wrong):
    buffer = rb.ReplayBuffer(50)
    for i in range(60):
        buffer.add(float(i), 0, 0.0, i + 1.0, False, False)
    for call in (buffer.read, lambda ids: buffer.walk(ids, 3)):
        with pytest.raises(ValueError, match=f"indices: {wrong} is not in the buffer, which holds ids 10 to 59"):
            call([20, wrong])
    with pytest.raises(ValueError, match="not in the buffer"):
        rb.ReplayBuffer(5).read([0])


def test_walk_follows_the_segment_both_ways():
    buffer, told = lived(60, 3, 60, seed=3)
    live = told[-60:]
    groups = {}
    for id_, stream, segment, *_ in live:
        groups.setdefault((stream, segment), []).append(id_)
    ids = np.array([row[0] for row in live])
    for forward in (True, False):
        path, lengths = buffer.walk(ids, 4, forward)
        for id_, row, length in zip(ids, path, lengths, strict=True):
            group = next(group for group in groups.values() if id_ in group)
            if not forward:
                group = group[::-1]
            ahead = group[group.index(id_) :][:5]
            assert row.tolist() == ahead + [ahead[-1]] * (5 - len(ahead))
            assert length == len(ahead)


def test_field_is_a_window_by_slot_that_nobody_can_write():
    buffer, told = lived(40, 2, 60, seed=4)
    live = told[-40:]
    slots = [row[0] % 40 for row in live]
    np.testing.assert_array_equal(buffer.field("obs")[slots], np.stack([row[4] for row in live]))
    np.testing.assert_array_equal(buffer.field("terminated")[slots], [row[6] for row in live])
    with pytest.raises(ValueError, match="read-only"):
        buffer.field("reward")[0] = 1
    with pytest.raises(ValueError, match=r"field: expected one of obs, action, .*, given 'x'"):
        buffer.field("x")
    nested = rb.ReplayBuffer(3)
    nested.add({"a": 1.0, "b": (2.0, np.zeros(2))}, 0, 0.0, {"a": 1.0, "b": (2.0, np.zeros(2))}, False, False)
    assert nested.field("obs")["b"][1].shape == (1, 2)


@pytest.mark.parametrize("sampler", [rb.Uniform, rb.Prioritized, lambda: rb.Prioritized(weight_norm="buffer")])
@pytest.mark.parametrize("clone", [lambda b: pickle.loads(pickle.dumps(b)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("capacity", [1000, 40])
def test_a_pickled_buffer_goes_on_exactly(sampler, clone, capacity):
    """cpprb 11 loses order and priorities once the buffer has wrapped."""
    buffer, _ = lived(capacity, 2, 60, seed=5, sampler=sampler(), view=rb.NStep(2, 0.9))
    batch = buffer.sample(20)
    buffer.update_priorities(batch.indices, np.linspace(-1, 5, 20))
    twin = clone(buffer)
    twin.check_valid()
    assert {**twin.stats(), "age_seconds": 0} == {**buffer.stats(), "age_seconds": 0}
    for _ in range(30):
        for one in (buffer, twin):
            obs = np.float32([[0, 5], [1, 5]])
            one.add(obs, np.zeros(2, int), np.zeros(2), obs, np.zeros(2, bool), np.zeros(2, bool))
        batches = [one.sample(16) for one in (buffer, twin)]
        assert same_batch(*batches)
        for one, mine in zip((buffer, twin), batches, strict=True):
            one.update_priorities(mine.indices, mine.reward)
    twin.check_valid()


def test_a_pickle_holds_what_is_live_and_no_more():
    buffer = rb.ReplayBuffer(1_000_000, {"obs": ("float32", (100,)), "action": "int64"})
    for i in range(10):
        buffer.add(np.full(100, i, np.float32), 0, 0.0, np.full(100, i + 1, np.float32), False, False)
    assert len(pickle.dumps(buffer)) < 20_000
    for i in range(1000):
        buffer.add(np.full(100, i, np.float32), 0, 0.0, np.full(100, i + 1, np.float32), False, False)
    buffer.clear()
    assert len(pickle.dumps(buffer)) < 3_000
    buffer.add(np.ones(100, np.float32), 3, 0.0, np.ones(100, np.float32), False, False)
    again = pickle.loads(pickle.dumps(buffer))
    again.check_valid()
    assert again.read([1010]).action.tolist() == [3]
    empty = pickle.loads(pickle.dumps(rb.ReplayBuffer(10)))
    empty.add(1.0, 0, 0.0, 2.0, False, False)
    assert len(empty) == 1


def test_segments_are_those_at_the_time_of_the_call():
    buffer, _ = lived(40, 2, 60, seed=5)
    expected = [segment.ids.tolist() for segment in buffer.segments()]
    later = buffer.segments()
    buffer.clear()
    assert [segment.ids.tolist() for segment in later] == expected
    assert list(buffer.segments()) == list(rb.ReplayBuffer(10).segments()) == []


@pytest.mark.parametrize(
    "sampler", [rb.Prioritized, lambda: rb.Prioritized(weight_norm="buffer"), rb.RankPrioritized, rb.SampleOnce]
)
def test_a_pickle_holds_what_the_sampler_knows_of_what_is_live_and_no_more(sampler):
    buffer = rb.ReplayBuffer(1_000_000, sampler=sampler(), seed=0)
    assert len(pickle.dumps(buffer)) < 10_000
    for i in range(10):
        buffer.add(float(i), 0, 0.0, i + 1.0, False, False)
    buffer.update_priorities(buffer.sample(8).indices, np.arange(8.0))
    data = pickle.dumps(buffer)
    assert len(data) < 20_000
    assert same_batch(pickle.loads(data).sample(8), buffer.sample(8))
