"""Packets: transitions come out as they went in, byte for byte, observations travel once, and nonsense is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaybank import Schema
from replaybank.ray.wire import MOST_TRANSITIONS, Packet, Transitions, Wire

SPECS = [
    {"obs": ("float32", (3,)), "action": "int64"},
    {"obs": "int16", "action": "bool", "reward": "float64", "log_prob": "float16"},
    {
        "obs": {"camera": ("uint8", (5, 7)), "parts": ["float32", ("complex64", (2,)), ("float64", (0,))]},
        "action": "int8",
    },
]


def made(spec, n, streams, seed, onward=0.7):
    """Transitions of several streams: most go on from the one before, and some look as if they did by chance."""
    rng, schema = np.random.default_rng(seed), Schema.of(spec)
    owners = rng.integers(0, streams, n)
    arrays = []
    for leaf in schema.leaves:
        values = rng.integers(0, 2, (n, *leaf.shape)) * (1 if leaf.dtype == bool else 3)
        arrays.append(values.astype(leaf.dtype))
    place = {leaf.path: i for i, leaf in enumerate(schema.leaves)}
    for stream in range(streams):
        mine = np.flatnonzero(owners == stream)
        for before, after in itertools.pairwise(mine):
            if rng.random() < onward:
                for path, i in place.items():
                    if path[0] == "obs":
                        arrays[i][after] = arrays[place["next_obs", *path[1:]]][before]
    errors = np.where(rng.random(n) < 0.5, np.nan, rng.random(n))
    return Wire(schema), Transitions(tuple(arrays), owners, errors)


def identical(one, other):
    pairs = [*zip(one.arrays, other.arrays, strict=True), (one.owners, other.owners), (one.td_error, other.td_error)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@given(st.sampled_from(SPECS), st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000), st.integers(0, 10))
def test_what_is_packed_is_unpacked_byte_for_byte(spec, n, streams, seed, tenths):
    wire, given_ = made(spec, n, streams, seed, tenths / 10)
    assert identical(wire.unpack(wire.pack(given_), streams), given_)


def test_floats_keep_their_bytes():
    """0.0 and -0.0 are equal, and not the same; NaN is not equal to itself, and the same."""
    wire = Wire(Schema.of(SPECS[0]))
    obs = np.array([[0, 1, 2], [np.nan, 0.0, 5]], np.float32)
    following = np.array([[np.nan, -0.0, 5], [7, 8, 9]], np.float32)
    ones = np.ones(2, bool)
    arrays = (obs, np.zeros(2, np.int64), np.zeros(2, np.float32), following, ones, ones)
    given_ = Transitions(arrays, np.zeros(2, np.int64), np.zeros(2))
    assert wire.pack(given_).tails == 2  # -0.0 is not what follows
    assert identical(wire.unpack(wire.pack(given_), 1), given_)


def test_an_observation_travels_once():
    """Of an episode in 84x84 frames, whose next observation is the next one's observation, half is not sent."""
    wire = Wire(Schema.of({"obs": ("uint8", (84, 84)), "action": "int64"}))
    frames = np.random.default_rng(0).integers(0, 256, (65, 84, 84)).astype(np.uint8)
    flags = np.zeros(64, bool)
    arrays = (frames[:-1], np.zeros(64, np.int64), np.zeros(64, np.float32), frames[1:], flags, flags)
    packet = wire.pack(Transitions(arrays, np.zeros(64, np.int64), np.full(64, np.nan)))
    assert packet.tails == 1
    assert len(packet.raw) < 65 * 84 * 84 + 64 * 40


def test_a_packet_of_another_size_or_kind_is_refused():
    wire, given_ = made(SPECS[0], 9, 2, 0)
    n, tails, raw = wire.pack(given_)
    other = Wire(Schema.of(SPECS[2])).pack(made(SPECS[2], 9, 2, 0)[1])
    for packet in [
        Packet(n, tails, raw[:-1]),
        Packet(n, tails, np.concatenate([raw, raw])),
        Packet(n + 30, tails, raw),
        Packet(0, 0, raw[:0]),
        Packet(n, n + 1, raw),
        Packet(-1, 1, raw),
        Packet(MOST_TRANSITIONS + 1, 1, raw),
        Packet(2.0, 1, raw),
        other,
    ]:
        with pytest.raises(ValueError, match="packet: expected"):
            wire.unpack(packet, 2)
    for wrong in (b"bytes", raw.astype(np.int8), raw.reshape(1, -1), None):
        with pytest.raises(TypeError, match="packet: expected bytes"):
            wire.unpack(Packet(n, tails, wrong), 2)
    with pytest.raises(ValueError, match="a stream beyond 0"):
        wire.unpack(Packet(n, tails, raw), 1)


def test_no_byte_of_a_packet_can_make_more_of_it_than_transitions():
    """Each byte is set to values it has not: either that is refused, or transitions of this schema come out."""
    wire, given_ = made(SPECS[1], 12, 3, 4)
    n, tails, raw = wire.pack(given_)
    refused = 0
    for place in range(len(raw)):
        for value in (0, 1, 2, 255):
            forged = raw.copy()
            forged[place] = value
            try:
                found = wire.unpack(Packet(n, tails, forged), 3)
            except ValueError:
                refused += 1
                continue
            assert found.owners.min() >= 0
            assert found.owners.max() < 3
            for leaf, array in zip(wire.schema.leaves, found.arrays, strict=True):
                assert array.dtype == leaf.dtype
                assert array.shape == (n, *leaf.shape)
                assert leaf.dtype != bool or array.view(np.uint8).max() <= 1
            assert np.isfinite(found.arrays[2]).all()
    assert refused > 100


def test_a_reward_that_is_not_finite_is_refused():
    wire, given_ = made(SPECS[0], 5, 1, 0)
    given_.arrays[2][3] = np.inf
    with pytest.raises(ValueError, match="reward: expected finite"):
        wire.unpack(wire.pack(given_), 1)
