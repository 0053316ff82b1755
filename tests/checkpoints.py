"""What the tests of checkpoints share: everything that a buffer is, as bytes to compare; and lives of all kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

import replaybank as rb
from replaybank.held import Held
from replaybank.plain import described


def parts(buffer: rb.ReplayBuffer) -> dict[str, bytes]:
    """By name all that the future of a buffer depends on, whatever the places where it is kept."""
    found: dict[str, Any] = {
        "sizes": [buffer.capacity, buffer.streams, buffer._lead],
        "counts": [buffer._sampled, buffer._updated, buffer._stale, buffer._cleared],
        "generator": _plain(buffer._rng.bit_generator.state),
        "sampler": [described(buffer.sampler), _plain(buffer.sampler.state())],
        "view": described(buffer.view),
    }
    rows = buffer._rows
    if rows is not None:
        ids = np.arange(rows.oldest, rows.added)
        records = rows.data[ids % rows.capacity]
        found["schema"] = [rows.schema.plain(), str(rows.stack), rows.added, rows.start]
        found["newest"] = _plain(np.where(_latest(rows) < rows.oldest, -1, rows.newest))
        for name in (*rows.schema.stored, "link_previous", "link_step", "link_next"):
            found[name] = _plain(records[name])
        held = Held.of(rows, ids)
        for name, array in zip(held._fields, held, strict=True):
            found[name] = _plain(array)
    return {name: repr(value).encode() for name, value in found.items()}


def digest(buffer: rb.ReplayBuffer) -> str:
    """The parts in one word."""
    return hashlib.sha256(repr(parts(buffer)).encode()).hexdigest()


def differing(one: rb.ReplayBuffer, other: rb.ReplayBuffer) -> list[str]:
    """In what two buffers differ."""
    first, second = parts(one), parts(other)
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def _latest(rows: Any) -> Any:
    return np.where(rows.newest < -1, -2 - rows.newest, rows.newest)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(child) for name, child in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype.names is not None:  # bytes between fields mean nothing
            return [_plain(value[name]) for name in value.dtype.names]
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    return value.item() if isinstance(value, np.generic) else value


# ---- lives ----

SAMPLERS: dict[str, Callable[[], Any]] = {
    "Uniform": rb.Uniform,
    "distinct": lambda: rb.Uniform(replace=False),
    "Prioritized": lambda: rb.Prioritized(0.6, rb.linear(0.4, 1.0, 700)),
    "buffer norm": lambda: rb.Prioritized(0.7, 0.5, 0.01, "buffer", 0.02),
    "RankPrioritized": lambda: rb.RankPrioritized(0.7, rb.linear(0.5, 1.0, 300), "buffer"),
    "Recent": lambda: rb.Recent(rb.linear(0.99, 1.0, 900), 7, 3),
    "Combined": lambda: rb.Combined(rb.Prioritized(), newest=2),
    "Mixture": lambda: rb.Mixture([(2, rb.RankPrioritized()), (1, rb.Combined()), (1, rb.Uniform())], 0.5),
    "SampleOnce": rb.SampleOnce,
}
VIEWS: dict[str, Callable[[], Any]] = {
    "Transition": lambda: rb.Transition(0.9),
    "NStep": lambda: rb.NStep(3, 0.9),
    "FrameStack": lambda: rb.FrameStack(3),
    "zeros": lambda: rb.FrameStack(3, axis=-1, padding="zero", view=rb.NStep(2, 0.9)),
    "frames": lambda: rb.FrameStack(2, adds="frames"),
    "Sequence": lambda: rb.Sequence(4, burn_in=1, stride=2, eta=0.9),
    "across": lambda: rb.Sequence(5, across_episodes=True, at_start=["state"]),
}


def observation(rng: np.random.Generator, lead: tuple[int, ...]) -> dict[str, Any]:
    """Small, with few values, so that one now and then repeats; stacks of 3 along the first and the last axis."""
    return {
        "a": rng.integers(0, 3, (*lead, 3, 3)).astype(np.uint8),
        "b": (rng.normal(size=(*lead, 3, 3)).astype(np.float32), rng.integers(0, 9, (*lead, 3, 6)).astype(np.int16)),
    }


def shifted(rng: np.random.Generator, obs: Any, axis: int) -> Any:
    """The stacks that come after these: one frame further, along `axis` (of an item)."""
    if isinstance(obs, dict):
        return {name: shifted(rng, child, axis) for name, child in obs.items()}
    if isinstance(obs, tuple):
        return tuple(shifted(rng, child, axis) for child in obs)
    at = obs.ndim - 1 if axis == -1 else obs.ndim - 2
    width = obs.shape[at] // 3
    after = np.roll(obs, -width, at)
    newest = [slice(None)] * obs.ndim
    newest[at] = slice(-width, None)
    after[tuple(newest)] = rng.integers(0, 3, after[tuple(newest)].shape)
    return after


class Life:
    """A training run of odd habits, told by its seed: what it does next depends on nothing else.

    Adds (with and without a mask, some shuffled), ends, runs of one stream, samples, updates, now and then a clear.
    """

    def __init__(self, buffer: rb.ReplayBuffer, seed: int) -> None:
        self.buffer = buffer
        self.rng = np.random.default_rng(seed)
        self.lead = (buffer.streams,) if buffer.streams > 1 else ()
        self.obs: Any = observation(self.rng, self.lead)
        self.axis = -1 if getattr(buffer.view, "settings", dict)().get("axis") == -1 else 0

    def step(self, t: int) -> None:
        """One step; the same for two lives that are at the same point."""
        rng, buffer, lead = self.rng, self.buffer, self.lead
        after = shifted(rng, self.obs, self.axis)
        if rng.random() < 0.1:
            self.obs = observation(rng, lead)
        mask = rng.random(buffer.streams) < 0.7 if rng.random() < 0.2 else None
        ends = rng.random((2, *lead)) < 0.06
        state = rng.normal(size=(*lead, 2))
        reward = rng.normal(size=lead)
        buffer.add(self.obs, rng.integers(0, 4, lead), reward, after, ends[0], ends[1], mask=mask, state=state)
        self.obs = observation(rng, lead) if ends.any() or mask is not None else after
        if rng.random() < 0.05:
            buffer.end(rng.random(buffer.streams) < 0.5)
        if rng.random() < 0.05:
            n = int(rng.integers(1, 5))
            obs, done = observation(rng, (n + 1,)), np.zeros(n, bool)
            first, later = ({"a": v["a"][s], "b": (v["b"][0][s], v["b"][1][s])}
                            for v, s in ((obs, slice(0, n)), (obs, slice(1, n + 1))))  # fmt: skip
            stream = int(rng.integers(buffer.streams))
            zeros = np.zeros(n, int)
            buffer.extend(first, zeros, zeros * 0.5, later, done, done, stream=stream, state=np.zeros((n, 2)))

    def learn(self) -> Any:
        """A batch, and what comes of it; None where there is nothing to draw."""
        n = int(self.rng.integers(1, 9))
        errors = self.rng.normal(size=n)
        try:
            batch = self.buffer.sample(n)
        except ValueError as error:
            return str(error)
        self.buffer.update_priorities(batch.indices, errors)
        return batch
