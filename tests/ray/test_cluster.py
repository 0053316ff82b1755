"""A cluster of shards is one buffer: what goes in, what is drawn and with which probability, and what it refuses."""

from __future__ import annotations

import itertools
import pickle
import time

import numpy as np
import pytest
import ray
from scipy import stats

import replaybank as rb
from replaybank.ray import Checkpoint, ClusterOptions, RateLimit, ReplayCluster, attach, ids

pytestmark = pytest.mark.usefixtures("ray_session")
SCHEMA = {"obs": ("float32", (3,)), "action": "int64"}
names = (f"test-{n}" for n in itertools.count())


def made(shards=2, capacity=1000, schema=SCHEMA, **given):
    options = {"streams": 8, "timeout": 30.0, "name": next(names), **given.pop("options", {})}
    return ReplayCluster(shards, capacity, schema, options=ClusterOptions(**options), **given)


def step(i, length=10):
    """Transition i of a stream of episodes, recognisable by its numbers."""
    obs = np.array([i, i * 2, i % length], np.float32)
    following = np.array([i + 1, i * 2 + 2, i % length + 1], np.float32)
    last = i % length == length - 1
    return obs, i, float(i), following, last and i % (2 * length) == length - 1, last


def feed(writer, numbers, **given):
    for i in numbers:
        writer.add(*step(i), **given)


def contents(cluster, tmp_path):
    """What each shard holds, by its number."""
    cluster.save()
    return {int(path.name[-4:]): rb.ReplayBuffer.load(path) for path in sorted(tmp_path.glob("shard-????"))}


def live(buffer):
    added = buffer.stats()["added"]
    return np.arange(added - len(buffer), added)


def assert_consistent(batch):
    assert (batch.next_obs[:, 0] == batch.obs[:, 0] + 1).all()
    assert (batch.action == batch.obs[:, 0]).all()
    assert (batch.reward == batch.obs[:, 0]).all()


# ---- what goes in ----


def test_what_a_writer_adds_is_what_the_same_calls_on_a_buffer_give(tmp_path):
    """Adds with and without a mask, extends, ends, of 3 streams, in packets of 7: the same ids, links and segments."""
    rng = np.random.default_rng(0)
    one = rb.ReplayBuffer(500, SCHEMA, streams=3)
    with made(shards=1, capacity=500, checkpoint=tmp_path, options={"streams": 3}) as cluster:
        writer = cluster.writer(streams=3, flush_size=7)
        obs = rng.integers(0, 2, (3, 3)).astype(np.float32)
        for _ in range(300):
            kind = rng.choice(["add", "mask", "extend", "end"], p=[0.6, 0.2, 0.1, 0.1])
            n = int(rng.integers(0, 12)) if kind == "extend" else 3
            following = rng.integers(0, 2, (n, 3)).astype(np.float32)
            before = obs if n == 3 else rng.integers(0, 2, (n, 3)).astype(np.float32)
            values = before, rng.integers(0, 5, n), rng.normal(size=n), following, rng.random(n) < 0.1, rng.random(n) < 0.1
            given = {"mask": rng.random(3) < 0.5} if kind in ("mask", "end") else {}
            if kind == "extend":
                given = {"stream": int(rng.integers(3))}
            for target in (one, writer):
                if kind == "end":
                    target.end(given["mask"])
                elif kind == "extend":
                    target.extend(*values, **given)
                else:
                    target.add(*values, **given)
            obs = following if n == 3 else obs
        flushed = writer.flush()
        there = contents(cluster, tmp_path)[0]
        assert flushed == (one.stats()["added"], 0, 0, 0)
        assert len(there) == len(one)
        there.check_valid()
        for view in (rb.Transition(), rb.NStep(4, 0.9)):
            mine, theirs = one.read(live(one), view), there.read(live(there), view)
            assert mine.block.tobytes() == theirs.block.tobytes()
        assert [s.ids.tolist() for s in one.segments()] == [s.ids.tolist() for s in there.segments()]
        writer.close()


def test_nested_fields_extras_and_frames_arrive_whole():
    schema = {"obs": {"camera": ("uint8", (6, 6)), "speed": "float32"}, "action": "int64", "log_prob": "float32"}
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (21, 6, 6)).astype(np.uint8)
    view = rb.FrameStack(3, adds="frames")
    with made(shards=2, schema={"obs": ("uint8", (6, 6)), "action": "int64"}, view=view) as cluster:
        writer, reader = cluster.connect()
        for t in range(20):
            writer.add(frames[t], t, float(t), frames[t + 1], t == 19, False)
        writer.flush()
        batch = reader.sample(64)
        for row, t in enumerate(batch.action):
            want = frames[[max(t - 2, 0), max(t - 1, 0), t]]
            assert (np.asarray(batch.obs[row]).reshape(want.shape) == want).all() or view.axis != 0
            assert (batch.reward[row] == t).all()
    with made(shards=1, schema=schema) as cluster:
        writer, reader = cluster.connect()
        for t in range(20):
            obs, following = ({"camera": frames[i], "speed": i} for i in (t, t + 1))
            writer.add(obs, t, float(t), following, False, False, log_prob=-t)
        writer.flush()
        batch = reader.sample(64)
        assert (batch.obs["camera"] == frames[batch.action]).all()
        assert (batch.next_obs["camera"] == frames[batch.action + 1]).all()
        assert (batch.log_prob == -batch.action).all()


def test_a_writer_sends_by_size_and_by_time():
    with made(shards=1) as cluster:
        writer, reader = cluster.connect()
        feed(writer, range(3))
        deadline = time.monotonic() + 20
        while writer.stats().acknowledged < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert writer.stats() == (3, 0, 0, 0)  # nobody called flush
        assert reader.size() == 3
        slow = cluster.writer(flush_size=4, flush_seconds=1000.0)
        feed(slow, range(4))
        while slow.stats().acknowledged < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        feed(slow, range(4, 6))
        time.sleep(0.3)
        assert slow.stats() == (4, 2, 0, 0)
        assert slow.close() == (6, 0, 0, 0)
        assert reader.size() == 9


def test_what_cannot_be_added_is_refused_and_changes_nothing():
    with made(shards=1, sampler=rb.Prioritized()) as cluster, cluster.writer() as writer:
        good = step(0)
        with pytest.raises(ValueError, match="obs: expected shape"):
            writer.add(np.zeros(4), *good[1:])
        with pytest.raises(ValueError, match="reward: expected finite"):
            writer.add(*good[:2], np.nan, *good[3:])
        with pytest.raises(ValueError, match="td_error: expected finite"):
            writer.add(*good, td_error=np.inf)
        with pytest.raises(ValueError, match="unknown field 'colour'"):
            writer.add(*good, colour=1)
        with pytest.raises(ValueError, match="mask: expected bool"):
            writer.add(*good, mask=np.ones(2, bool))
        with pytest.raises(ValueError, match="stream: expected 0 to 0"):
            writer.extend(*(np.array([x]) for x in good), stream=1)
        assert writer.flush() == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="this writer is closed"):
        writer.add(*good)


def test_writers_go_to_the_emptiest_shard_and_give_their_streams_back():
    with made(shards=3, options={"streams": 2}) as cluster:
        writers = [cluster.writer() for _ in range(6)]
        for writer in writers:
            feed(writer, range(2))
            writer.flush()
        full = cluster.writer(timeout=1.0)
        feed(full, range(1))
        with pytest.raises(TimeoutError, match="no shard has 1 free streams"):
            full.flush()
        writers[0].close()
        assert full.flush(20).acknowledged == 1
        for writer in [*writers, full]:
            writer.close()


# ---- what is drawn ----


@pytest.fixture(scope="module")
def unequal(ray_session):
    """Three shards with 200, 500 and 900 transitions and quite different priorities, and one buffer with all of them."""
    rng = np.random.default_rng(3)
    made_ = made(shards=3, capacity=3000, sampler=rb.Prioritized(alpha=0.7, beta=0.5, weight_norm="buffer"), seed=0)
    one = rb.ReplayBuffer(3000, SCHEMA, sampler=rb.Prioritized(alpha=0.7, beta=0.5, weight_norm="buffer"), seed=0)
    errors = rng.exponential(size=1600) * np.repeat([10, 0.1, 1], [200, 500, 900])
    for begin, end in ((0, 200), (200, 700), (700, 1600)):
        with made_.writer() as writer:  # each to another shard, since the first ones stay
            writer.extend(*batched(range(begin, end)), td_error=errors[begin:end])
            writer.flush()
            keep.append(made_.writer())
            feed(keep[-1], ())
    one.extend(*batched(range(1600)))
    one.update_priorities(np.arange(1600), errors)
    yield made_, one
    made_.close()


keep = []


def batched(numbers):
    columns = zip(*(step(i) for i in numbers), strict=True)
    return [np.array(column) for column in columns]
