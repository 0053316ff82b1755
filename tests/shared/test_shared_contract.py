"""What writers add is what the same calls on the buffer itself would have given."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import replaybank as rb
from replaybank import shared

SCHEMAS = {
    "flat": {"obs": ("float32", (3,)), "action": "int64"},
    "scalars": {"obs": "int16", "action": "bool", "reward": "float64"},
    "nested": {
        "obs": {"camera": ("uint8", (5, 7)), "parts": ["float32", ("complex64", (2,)), ("float64", (0,))]},
        "action": {"move": ("float32", (2,)), "jump": "bool"},
        "note": "longdouble",
        "log_prob": "float16",
    },
}


def values(rng, node, lead):
    """Few different ones, so that some transitions go on from others by chance."""
    if isinstance(node, dict):
        return {name: values(rng, child, lead) for name, child in node.items()}
    if isinstance(node, list):
        return tuple(values(rng, child, lead) for child in node)
    dtype, shape = node if isinstance(node, tuple) else (node, ())
    which = np.asarray(rng.integers(0, 2, lead)).reshape((*lead, *[1] * len(shape)))
    return np.array(np.broadcast_to(which, (*lead, *shape)), dtype, order="C")


def calls(rng, spec, streams, turns):
    """Random calls: what to call, and with what."""
    before = None
    for _ in range(turns):
        kind = rng.choice(["add", "add", "add", "masked", "extend", "end", "end some"])
        if kind.startswith("end"):
            yield "end", (), {} if kind == "end" else {"mask": rng.random(streams) < 0.5}
            continue
        n = int(rng.integers(0, 9)) if kind == "extend" else streams
        lead = () if kind == "add" and streams == 1 and rng.random() < 0.5 else (n,)
        fields = {name: values(rng, node, lead) for name, node in spec.items()}
        fields["next_obs"] = values(rng, spec["obs"], lead)
        fields["reward"] = rng.normal(size=lead)
        fields["terminated"], fields["truncated"] = rng.random(lead) < 0.1, rng.random(lead) < 0.1
        if kind != "extend" and before is not None and len(lead) == len(np.shape(before["reward"])):
            fields["obs"] = copy.deepcopy(before["next_obs"])
        if kind == "masked":
            if lead == () and streams > 1:
                continue
            fields["mask"] = rng.random(streams) < 0.6
        if kind == "extend":
            fields["stream"] = int(rng.integers(streams))
        else:
            before = fields
        yield ("extend" if kind == "extend" else "add"), (), fields


def leaves(value):
    if isinstance(value, dict):
        return [leaf for child in value.values() for leaf in leaves(child)]
    if isinstance(value, tuple):
        return [leaf for child in value for leaf in leaves(child)]
    return [np.asarray(value)]


def assert_same(one, other, view=None):
    one.check_valid()
    assert len(one) == len(other)
    if not len(one):
        return
    stats = one.stats()
    ids = np.arange(stats["added"] - len(one), stats["added"])
    varying = {"nbytes": 0, "age_seconds": 0}
    assert {**stats, **varying} == {**other.stats(), **varying}
    for found, expected in zip(one.walk(ids, 5), other.walk(ids, 5), strict=True):
        np.testing.assert_array_equal(found, expected)
    usable = ids
    if view is not None and (mask := one.view.usable(one._rows, ids)) is not None:
        usable = ids[mask]
    if not len(usable):
        return
    found, expected = one.read(usable), other.read(usable)
    for name in [*expected.keys()]:
        for a, b in zip(leaves(found[name]), leaves(expected[name]), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("view", [None, rb.NStep(3, 0.9)], ids=["one step", "n-step"])
@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("name", SCHEMAS)
def test_one_writer_is_as_the_buffer_itself(name, streams, view):
    """Call for call: the rows, the links, and what a seed draws."""
    spec = SCHEMAS[name]
    sampler = rb.Prioritized if streams == 1 else rb.Uniform
    one, other = (rb.ReplayBuffer(60, spec, streams, sampler(), copy.copy(view), seed=0) for _ in range(2))
    rng = np.random.default_rng(streams)
    with shared.Learner(one) as learner, shared.Writer(learner.address, streams) as writer:
        for turn, (method, arguments, keywords) in enumerate(calls(rng, spec, streams, 120)):
            before = other.stats()["added"]
            getattr(other, method)(*arguments, **keywords)
            getattr(writer, method)(*arguments, **keywords)
            assert learner.drain().transitions == other.stats()["added"] - before
            if turn % 10 == 0 and len(other):
                a, b = one.sample(7), other.sample(7)
                np.testing.assert_array_equal(a.indices, b.indices)
                errors = rng.normal(size=7)
                assert one.update_priorities(a.indices, errors) == other.update_priorities(b.indices, errors)
                assert_same(one, other)
        assert_same(one, other)


@pytest.mark.parametrize(("axis", "padding"), [(0, "reset"), (-1, "reset"), (0, "zero")])
def test_stacks_of_frames_come_as_they_were_added(axis, padding):
    """Many are put aside: the stacks are shifted half of the time only. Drained in large pieces."""
    shape = (4, 2, 3) if axis == 0 else (2, 3, 4)
    spec = {"obs": ("uint8", shape), "action": "int64"}
    one, other = (
        rb.ReplayBuffer(50, spec, 2, view=rb.FrameStack(4, axis=axis, padding=padding), seed=0) for _ in range(2)
    )
    rng = np.random.default_rng(axis % 4)
    obs = rng.integers(0, 3, (2, *shape)).astype(np.uint8)
    with shared.Learner(one) as learner, shared.Writer(learner.address, 2) as writer:
        for turn in range(200):
            after = rng.integers(0, 3, (2, *shape)).astype(np.uint8)
            if rng.random() < 0.5:
                front = np.moveaxis(after, 1 if axis == 0 else -1, 0)
                front[:-1] = np.moveaxis(obs, 1 if axis == 0 else -1, 0)[1:]
            step = (obs, np.zeros(2, int), np.zeros(2), after, rng.random(2) < 0.1, rng.random(2) < 0.1)
            writer.add(*step)
            other.add(*step)
            obs = after
            if turn % 70 == 69:
                learner.drain()
                assert_same(one, other, view=True)
        learner.drain()
        assert_same(one, other, view=True)


def test_each_writers_stream_is_what_a_buffer_of_its_own_would_hold():
    """Three writers with one, two and one streams, mixed as they come."""
    spec = SCHEMAS["nested"]
    one = rb.ReplayBuffer(5000, spec, streams=4, view=rb.NStep(3, 0.9))
    rng = np.random.default_rng(5)
    sizes = [1, 2, 1]
    plain = [rb.ReplayBuffer(5000, spec, size, view=rb.NStep(3, 0.9)) for size in sizes]
    with shared.Learner(one) as learner:
        writers = [shared.Writer(learner.address, size) for size in sizes]
        todo = [list(calls(np.random.default_rng(i), spec, size, 80)) for i, size in enumerate(sizes)]
        where = [[], [], []]
        while any(todo):
            which = int(rng.choice([i for i in range(3) if todo[i]]))
            method, arguments, keywords = todo[which].pop(0)
            getattr(plain[which], method)(*arguments, **keywords)
            getattr(writers[which], method)(*arguments, **keywords)
            before = one.stats()["added"]
            learner.drain()
            where[which] += range(before, one.stats()["added"])
        for buffer, ids in zip(plain, where, strict=True):
            assert len(buffer) == len(ids) > 0
            found, expected = one.read(ids), buffer.read(np.arange(len(ids)))
            for name in ("obs", "action", "reward", "next_obs", "terminated", "discount", "note"):
                for a, b in zip(leaves(found[name]), leaves(expected[name]), strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=name)
        for writer in writers:
            writer.close()


BAD = [
    ("reward", float("nan"), ValueError),
    ("reward", "1", TypeError),
    ("obs", np.zeros(2, np.float32), ValueError),
    ("obs", [[1.0], [1.0, 2.0]], TypeError),
    ("action", 1.5, TypeError),
    ("terminated", 2, TypeError),
    ("terminated", None, TypeError),
    ("extra", 1.0, ValueError),
]


@pytest.mark.parametrize(("field", "value", "error"), BAD)
def test_bad_input_raises_as_the_buffer_does_and_publishes_nothing(field, value, error):
    spec = SCHEMAS["flat"]
    good = {"obs": np.ones(3), "action": 1, "reward": 1.0, "next_obs": np.ones(3), "terminated": 0, "truncated": 0}
    other, one = rb.ReplayBuffer(9, spec), rb.ReplayBuffer(9, spec)
    with shared.Learner(one) as learner, shared.Writer(learner.address) as writer:
        with pytest.raises(error) as expected:
            other.add(**{**good, field: value})
        with pytest.raises(error) as given:
            writer.add(**{**good, field: value})
        assert str(given.value) == str(expected.value)
        assert writer.stats() == {"added": 0, "dropped": 0}
        writer.add(**good)
        assert learner.drain().transitions == 1


def test_arguments_are_checked():
    spec = SCHEMAS["flat"]
    with pytest.raises(ValueError, match="no schema yet"):
        shared.Learner(rb.ReplayBuffer(9))
    for wrong in ({"full": "wait"}, {"ring_bytes": 10}, {"name": "a/b"}, {"name": ""}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shared.Learner(rb.ReplayBuffer(9, spec), **wrong)
    with shared.Learner(rb.ReplayBuffer(9, spec, streams=2)) as learner:
        with pytest.raises(ValueError, match="timeout"):
            shared.Writer(learner.address, timeout=-1)
        with pytest.raises(ValueError, match="streams: expected 1"):
            shared.Writer(learner.address, streams=0)
        with pytest.raises(ValueError, match="most: expected 1"):
            learner.drain(0)
        with shared.Writer(learner.address, 2) as writer:
            step = [np.ones((4, 3)), np.ones(4, int), np.ones(4), np.ones((4, 3)), np.zeros(4, bool), np.zeros(4, bool)]
            with pytest.raises(ValueError, match="stream: expected 0 to 1, given 2"):
                writer.extend(*step, stream=2)
            with pytest.raises(ValueError, match="mask"):
                writer.end(mask=[True])
            assert writer.streams == 2
        with pytest.raises(ValueError, match="closed"):
            writer.add(*step)
    with pytest.raises(ValueError, match="closed"):
        learner.drain()


def test_the_address_is_handed_over_not_the_object():
    with shared.Learner(rb.ReplayBuffer(9, SCHEMAS["flat"])) as learner, shared.Writer(learner.address) as writer:
        for thing in (learner, writer):
            with pytest.raises(TypeError, match=r"Writer\(address\)"):
                pickle.dumps(thing)
        assert pickle.loads(pickle.dumps(learner.address)) == learner.address
