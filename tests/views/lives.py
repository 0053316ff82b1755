"""Random streams, and the plain list of what each lived through: the answer that views of steps are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import replaybank as rb

SCHEMA = {
    "obs": {"here": ("float32", (2,)), "pair": ["uint8", ("float64", (1,))]},
    "action": ("int16", (2,)),
    "reward": "float32",
    "state": {"h": ("float32", (3,)), "c": "float32"},
    "note": "int32",
}


@dataclass
class Lived:
    """One transition as it was added: which of its segment, and that segment's number in its stream."""

    id: int
    stream: int
    segment: int
    step: int
    fields: dict[str, Any]


def observation(stream: int, time: int) -> dict[str, Any]:
    return {"here": np.float32([stream, time]), "pair": (np.uint8(time % 256), np.array([time / 3]))}


def live(
    capacity: int,
    streams: int,
    calls: int,
    seed: int,
    end: float = 0.08,
    make: Callable[[int, int], dict[str, Any]] = observation,
    obs: Any = SCHEMA["obs"],
    **parts: Any,
) -> tuple[rb.ReplayBuffer, list[Lived]]:
    """A buffer after `calls` random calls (adds with masks, extends, ends), and all that was added, in order.

    `make(stream, time)` gives an observation, unlike all others; `obs` is its part of the schema.
    """
    rng = np.random.default_rng(seed)
    buffer = rb.ReplayBuffer(capacity, SCHEMA | {"obs": obs}, streams, seed=seed, **parts)
    told: list[Lived] = []
    last: list[Lived | None] = [None] * streams  # the transition that the next one of the stream goes on from
    segment, clock = [0] * streams, [0] * streams

    def step(stream: int) -> dict[str, Any]:
        before = last[stream]
        if before is None:
            clock[stream] += 1000
        terminated, truncated = rng.random(2) < end / 2
        fields = {
            "obs": make(stream, clock[stream]) if before is None else before.fields["next_obs"],
            "action": rng.integers(-99, 99, 2).astype(np.int16),
            "reward": np.float32(rng.normal()),
            "next_obs": make(stream, clock[stream] + 1),
            "terminated": terminated,
            "truncated": truncated,
            "state": {"h": rng.normal(size=3).astype(np.float32), "c": np.float32(rng.normal())},
            "note": np.int32(len(told) + 1),
        }
        clock[stream] += 1
        # What a stream goes on from may have left by then: the buffer knows of no step before.
        if before is not None and len(told) - before.id >= capacity:
            before = None
        if before is None:
            segment[stream] += 1
        told.append(Lived(len(told), stream, segment[stream], before.step + 1 if before else 0, fields))
        last[stream] = None if terminated or truncated else told[-1]
        return fields

    while calls:
        calls -= 1
        choice = rng.random()
        if choice < 0.1:
            stream = int(rng.integers(streams))
            buffer.extend(**stacked([step(stream) for _ in range(rng.integers(1, 6))]), stream=stream)
        elif choice < 0.15:
            mask = rng.random(streams) < 0.5
            buffer.end(mask)
            for stream in np.flatnonzero(mask):
                last[stream] = None
        elif streams == 1:
            buffer.add(**step(0))
        else:
            mask = rng.random(streams) < 0.7
            steps = {int(stream): step(int(stream)) for stream in np.flatnonzero(mask)}
            if steps:
                anything = next(iter(steps.values()))
                buffer.add(**stacked([steps.get(stream, anything) for stream in range(streams)]), mask=mask)
    buffer.check_valid()
    return buffer, told


def stacked(values: list[Any]) -> Any:
    """Nested values with a leading axis."""
    first = values[0]
    if isinstance(first, dict):
        return {name: stacked([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(stacked([value[i] for value in values]) for i in range(len(first)))
    return np.stack(values)


def zeros_like(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: zeros_like(child) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(zeros_like(child) for child in value)
    return np.zeros_like(value)
