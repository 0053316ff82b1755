"""What a writer sends is checked where it arrives: a shard refuses, counts and keeps as it was."""

from __future__ import annotations

import numpy as np
import pytest

import replaybank as rb

ray = pytest.importorskip("ray")

from replaybank.ray import ClusterOptions, ReplayCluster  # noqa: E402  where there is Ray
from replaybank.ray.wire import Transitions, Wire  # noqa: E402

SCHEMA = rb.Schema.of({"obs": ("float32", (3,)), "action": "int64", "done_before": "bool"})
WRITER, STREAMS = 7, 2


def cluster(sampler):
    return ReplayCluster(1, 100, SCHEMA, sampler, seed=0, options=ClusterOptions(streams=4))


def shard_of(cluster):
    """The actor itself, which anybody in a Ray cluster can find."""
    return cluster._directory.members()[0][0]


@pytest.fixture(scope="module")
def shard(ray_session):
    with cluster(rb.Prioritized()) as made:
        actor = shard_of(made)
        assert ray.get(actor.join.remote(WRITER, STREAMS, 0, 0)) == ("joined", 0, 0)
        assert ray.get(actor.insert.remote(WRITER, 0, 0, [], *packed(6))) == ("taken", 6)
        yield actor


def transitions(n, streams=STREAMS, seed=0):
    rng = np.random.default_rng(seed)
    fields = {
        "obs": rng.normal(size=(n, 3)).astype(np.float32),
        "action": rng.integers(0, 9, n),
        "reward": rng.normal(size=n).astype(np.float32),
        "next_obs": rng.normal(size=(n, 3)).astype(np.float32),
        "terminated": rng.random(n) < 0.2,
        "truncated": np.zeros(n, bool),
        "done_before": rng.random(n) < 0.5,
    }
    arrays = SCHEMA.arrays(SCHEMA.values(fields), n)
    return Transitions(arrays, rng.integers(0, streams, n), np.full(n, np.nan))


def packed(n, **changed):
    return Wire(SCHEMA).pack(transitions(n)._replace(**changed))


def whole(shard):
    """All that a shard is, as far as one can see from outside; not what it counts as refused."""
    stats = ray.get(shard.stats.remote())
    load, _ = ray.get(list(shard.unload.remote((-1, 0), 1000)))
    packets = [(goes_on, packet.n, packet.raw.tobytes()) for goes_on, packet in load]
    return {name: value for name, value in stats.items() if name != "refused"}, packets


def altered(packet, place, value):
    raw = packet.raw.copy()
    raw[place] = value
    return packet._replace(raw=raw)


def column(packet, name):
    """Where in a packet the bytes of a column begin."""
    return Wire(SCHEMA)._dtype(packet.n, packet.tails).fields[name][1]


def cases():
    """Messages that no writer of this schema sends: (after and first, ends, packet)."""
    good = packed(6)
    other = Wire(rb.Schema.of({"obs": ("float32", (4,)), "action": "int64", "done_before": "bool"}))
    wide = {"obs": np.zeros((6, 4), np.float32), "next_obs": np.ones((6, 4), np.float32)}
    fields = dict(zip([leaf.path[0] for leaf in SCHEMA.leaves], transitions(6).arrays, strict=True)) | wide
    arrays = other.schema.arrays(other.schema.values(fields), 6)
    nan, infinite = (bytes(np.float32(value)) for value in (np.nan, np.inf))
    reward = column(good, "reward")
    yield "too few bytes", (6, 6), [], good._replace(raw=good.raw[:-1])
    yield "too many bytes", (6, 6), [], good._replace(raw=np.concatenate([good.raw, good.raw[:8]]))
    yield "no bytes", (6, 6), [], good._replace(raw=good.raw[:0])
    yield "none at all", (6, 6), [], good._replace(raw=None)
    yield "other numbers", (6, 6), [], good._replace(raw=good.raw.astype(np.int16))
    yield "a matrix", (6, 6), [], good._replace(raw=good.raw.reshape(1, -1))
    yield "a list", (6, 6), [], good._replace(raw=good.raw.tolist())
    yield "a larger count", (6, 6), [], good._replace(n=7)
    yield "a smaller count", (6, 6), [], good._replace(n=5)
    yield "a huge count", (6, 6), [], good._replace(n=2**62)
    yield "a count that is text", (6, 6), [], good._replace(n="6")
    yield "a count that is a fraction", (6, 6), [], good._replace(n=6.0)
    yield "a negative count", (6, 6), [], good._replace(n=-6)
    yield "no tails", (6, 6), [], good._replace(tails=0)
    yield "more tails than transitions", (6, 6), [], good._replace(tails=7)
    yield "another schema", (6, 6), [], other.pack(Transitions(arrays, *transitions(6)[1:]))
    yield "a stream it does not have", (6, 6), [], packed(6, owners=np.array([0, 1, 2, 0, 1, 0]))
    yield "a stream far away", (6, 6), [], packed(6, owners=np.array([0, 1, 0, 2**32 - 1, 1, 0]))
    yield "an end of a stream it does not have", (6, 6), [2], good
    yield "an end of a stream before the first", (6, 6), [-1], good
    yield "ends that are no numbers", (6, 6), [0.5], good
    yield "ends that are no list", (6, 6), {"0": 1}, good
    yield "a negative serial number", (6, -1), [], good
    yield "a serial number that is none", (0.0, 6), [], good
    yield "a serial number of text", (6, "6"), [], good
    yield "more sent before than there is a first", (7, 6), [], good
    yield "a part of what it has", (3, 3), [], good
    yield "a hole in what it has", (3, 7), [], good
    yield "a reward that is not a number", (6, 6), [], altered(good, slice(reward, reward + 4), list(nan))
    yield "an infinite reward", (6, 6), [], altered(good, slice(reward, reward + 4), list(infinite))
    yield "an infinite TD error", (6, 6), [], packed(6, td_error=np.full(6, np.inf))
    yield "a flag that is neither", (6, 6), [], altered(good, column(good, "terminated"), 2)
    yield "an extra that is neither", (6, 6), [], altered(good, column(good, "done_before") + 1, 255)
    yield "tails that are not those it says", (6, 6), [], altered(good, column(good, "link_kept"), 0)


@pytest.mark.parametrize(("what", "numbers", "ends", "packet"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_what_no_writer_sends_is_refused_counted_and_changes_nothing(shard, what, numbers, ends, packet):
    before, refused = whole(shard), ray.get(shard.stats.remote())["refused"]
    with pytest.raises((TypeError, ValueError)):
        ray.get(shard.insert.remote(WRITER, *numbers, ends, packet.n, packet.tails, packet.raw))
    after = whole(shard)
    assert after == before
    assert ray.get(shard.stats.remote())["refused"] == refused + 1


def test_a_shard_takes_what_is_right_once_and_counts_the_rest(ray_session):
    with cluster(rb.Uniform()) as made:
        actor = shard_of(made)

        def insert(*message):
            return ray.get(actor.insert.remote(WRITER, *message))

        good = packed(6)
        assert insert(0, 0, [], *good) == ("join", 0)
        ray.get(actor.join.remote(WRITER, STREAMS, 0, 0))
        with pytest.raises(ValueError, match="bytes"):
            insert(0, 0, [], good.n, good.tails, good.raw[:-1])
        assert insert(0, 0, [0], *good) == ("taken", 6)
        assert insert(0, 0, [0], *good) == ("taken", 6), "the same again"
        with pytest.raises(ValueError, match="contradict the 6 received"):
            insert(3, 3, [], *good)
        assert insert(8, 8, [], *packed(2)) == ("behind", 6), "what was sent before has not come"
        assert insert(6, 9, [], *packed(2)) == ("taken", 11), "it has dropped some"
        assert insert(0, 0, [], 0, 0, None) == ("taken", 11), "it says that it is there"
        stats = ray.get(actor.stats.remote())
        assert [stats[name] for name in ("size", "inserted", "repeated", "refused", "lost")] == [8, 8, 6, 2, 0]
