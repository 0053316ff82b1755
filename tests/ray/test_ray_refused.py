"""What a writer sends is checked where it arrives: a shard refuses, counts and keeps as it was."""

from __future__ import annotations

import numpy as np
import pytest

import replaybank as rb

ray = pytest.importorskip("ray")

from replaybank.ray.config import ClusterOptions, Config  # noqa: E402  where there is Ray
from replaybank.ray.shard import ShardActor  # noqa: E402
from replaybank.ray.wire import Packet, Transitions, Wire  # noqa: E402

SCHEMA = rb.Schema.of({"obs": ("float32", (3,)), "action": "int64", "done_before": "bool"})
WRITER, STREAMS = 7, 2


class Coordinator:
    """As much of one as a shard needs."""

    def begin(self, shard):
        return 0, 0

    def beat(self, shard, actor, stats):
        pass


@pytest.fixture(scope="module")
def shard(ray_session):
    options = ClusterOptions(streams=4)
    config = Config("refused", 100, SCHEMA, rb.Prioritized(), rb.Transition(), None, None, 0, options)
    coordinator = ray.remote(num_cpus=0)(Coordinator).remote()
    actor = ShardActor.options(num_cpus=0).remote(config, 0, coordinator)
    assert ray.get(actor.join.remote(WRITER, STREAMS)) == ("joined", 0)
    yield actor
    ray.kill(actor)
    ray.kill(coordinator)


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
    load = ray.get(shard.unload.remote((-1, 0)))
    return {name: value for name, value in stats.items() if name != "refused"}, [
        (goes_on, packet.n, packet.raw.tobytes()) for goes_on, packet in load.packets
    ]


def altered(packet, place, value):
    raw = packet.raw.copy()
    raw[place] = value
    return packet._replace(raw=raw)


def column(packet, name):
    """Where in a packet the bytes of a column begin."""
    return Wire(SCHEMA)._dtype(packet.n, packet.tails).fields[name][1]


def cases():
    """Messages that no writer of this schema sends: (first, ends, packet)."""
    good = packed(6)
    other = Wire(rb.Schema.of({"obs": ("float32", (4,)), "action": "int64", "done_before": "bool"}))
    wide = {"obs": np.zeros((6, 4), np.float32), "next_obs": np.ones((6, 4), np.float32)}
    fields = dict(zip([leaf.path[0] for leaf in SCHEMA.leaves], transitions(6).arrays, strict=True)) | wide
    arrays = other.schema.arrays(other.schema.values(fields), 6)
    nan, infinite = (bytes(np.float32(value)) for value in (np.nan, np.inf))
    reward = column(good, "reward")
    yield "too few bytes", 0, [], good._replace(raw=good.raw[:-1])
    yield "too many bytes", 0, [], good._replace(raw=np.concatenate([good.raw, good.raw[:8]]))
    yield "no bytes", 0, [], good._replace(raw=good.raw[:0])
    yield "none at all", 0, [], good._replace(raw=None)
    yield "other numbers", 0, [], good._replace(raw=good.raw.astype(np.int16))
    yield "a matrix", 0, [], good._replace(raw=good.raw.reshape(1, -1))
    yield "a list", 0, [], good._replace(raw=good.raw.tolist())
    yield "a larger count", 0, [], good._replace(n=7)
    yield "a smaller count", 0, [], good._replace(n=5)
    yield "a huge count", 0, [], good._replace(n=2**62)
    yield "a count that is text", 0, [], good._replace(n="6")
    yield "a count that is a fraction", 0, [], good._replace(n=6.0)
    yield "a negative count", 0, [], good._replace(n=-6)
    yield "no tails", 0, [], good._replace(tails=0)
    yield "more tails than transitions", 0, [], good._replace(tails=7)
    yield "another schema", 0, [], other.pack(Transitions(arrays, *transitions(6)[1:]))
    yield "a stream it does not have", 0, [], packed(6, owners=np.array([0, 1, 2, 0, 1, 0]))
    yield "a stream far away", 0, [], packed(6, owners=np.array([0, 1, 0, 2**32 - 1, 1, 0]))
    yield "an end of a stream it does not have", 0, [2], good
    yield "an end of a stream before the first", 0, [-1], good
    yield "ends that are no numbers", 0, [0.5], good
    yield "ends that are no list", 0, {"0": 1}, good
    yield "a negative serial number", -1, [], good
    yield "a serial number that is none", 0.0, [], good
    yield "a reward that is not a number", 0, [], altered(good, slice(reward, reward + 4), list(nan))
    yield "an infinite reward", 0, [], altered(good, slice(reward, reward + 4), list(infinite))
    yield "an infinite TD error", 0, [], packed(6, td_error=np.full(6, np.inf))
    yield "a TD error too large for a sum", 0, [], packed(6, td_error=np.full(6, 1.7e308))
    yield "a flag that is neither", 0, [], altered(good, column(good, "terminated"), 2)
    yield "an extra that is neither", 0, [], altered(good, column(good, "done_before") + 1, 255)
    yield "tails that are not those it says", 0, [], altered(good, column(good, "link_kept"), 0)


@pytest.mark.parametrize(("what", "first", "ends", "packet"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_what_no_writer_sends_is_refused_counted_and_changes_nothing(shard, what, first, ends, packet):
    before, refused = whole(shard), ray.get(shard.stats.remote())["refused"]
    with pytest.raises((TypeError, ValueError)):
        ray.get(shard.insert.remote(WRITER, first, ends, packet.n, packet.tails, packet.raw))
    after = whole(shard)
    assert after == before
    assert ray.get(shard.stats.remote())["refused"] == refused + 1


def test_after_all_that_it_takes_what_is_right(ray_session):
    options = ClusterOptions(streams=4)
    config = Config("right", 100, SCHEMA, rb.Uniform(), rb.Transition(), None, None, 0, options)
    coordinator = ray.remote(num_cpus=0)(Coordinator).remote()
    actor = ShardActor.options(num_cpus=0).remote(config, 0, coordinator)
    good = packed(6)
    assert ray.get(actor.insert.remote(WRITER, 0, [], *good)) == ("join", 0)
    ray.get(actor.join.remote(WRITER, STREAMS))
    with pytest.raises(ValueError, match="bytes"):
        ray.get(actor.insert.remote(WRITER, 0, [], good.n, good.tails, good.raw[:-1]))
    assert ray.get(actor.insert.remote(WRITER, 0, [0], *good)) == ("taken", 6)
    assert ray.get(actor.insert.remote(WRITER, 0, [0], *good)) == ("taken", 6), "the same again"
    with pytest.raises(ValueError, match="expected transition 6"):
        ray.get(actor.insert.remote(WRITER, 3, [], *good))
    assert ray.get(actor.insert.remote(WRITER, 9, [], *packed(2))) == ("taken", 11), "it may have dropped some"
    stats = ray.get(actor.stats.remote())
    assert [stats[name] for name in ("size", "inserted", "repeated", "refused", "lost")] == [8, 8, 6, 2, 0]
    ray.kill(actor)
    ray.kill(coordinator)
