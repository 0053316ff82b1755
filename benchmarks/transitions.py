"""The experience that every library gets: CartPole-size transitions, as arrays and as a training loop sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OBS_SIZE = 4
FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")

#: What one environment step gives, in the order of FIELDS: Python scalars and fresh arrays (or arrays [streams, ...]).
Step = tuple[Any, ...]


@dataclass(frozen=True)
class Transitions:
    """Transitions in the order they happened; every field is an array [count, ...]."""

    obs: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    next_obs: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.reward)

    def columns(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in FIELDS}

    def part(self, start: int, stop: int) -> Transitions:
        return Transitions(*(values[start:stop] for values in self.columns().values()))

    def steps(self) -> list[Step]:
        """One tuple a transition, as a loop over one environment has them.

        Where a transition goes on from the one before, its `obs` is the same object as the `next_obs` before it:
        loops say `obs = next_obs`.
        """
        goes_on = np.zeros(len(self), dtype=bool)
        goes_on[1:] = (self.next_obs[:-1] == self.obs[1:]).all(axis=1)
        steps: list[Step] = []
        following = np.empty(0, dtype=np.float32)
        for index, linked in enumerate(goes_on):
            obs = following if linked else self.obs[index].copy()
            following = self.next_obs[index].copy()
            scalars = int(self.action[index]), float(self.reward[index])
            ends = bool(self.terminated[index]), bool(self.truncated[index])
            steps.append((obs, *scalars, following, *ends))
        return steps

    def vector_steps(self, streams: int) -> list[Step]:
        """Cut into `streams` equal pieces that run side by side; every field of a step is an array [streams, ...]."""
        length = len(self) // streams
        by_stream = [values[: length * streams].reshape(streams, length, *values.shape[1:]) for values in astuple(self)]
        return [tuple(values[:, time].copy() for values in by_stream) for time in range(length)]


def trajectories(
    count: int, rng: np.random.Generator, lengths: tuple[int, int] = (10, 200), obs_size: int = OBS_SIZE
) -> Transitions:
    """Episodes of `lengths[0]` to `lengths[1]` steps in which each `next_obs` is the following `obs`.

    After an end comes a reset observation that no `next_obs` holds. Nine ends of ten are terminations, the tenth is a
    truncation.
    """
    obs = rng.random((count, obs_size), dtype=np.float32)
    next_obs = np.empty_like(obs)
    next_obs[:-1] = obs[1:]
    next_obs[-1] = rng.random(obs_size, dtype=np.float32)
    ends = np.cumsum(rng.integers(lengths[0], lengths[1] + 1, size=count // lengths[0] + 1)) - 1
    ends = ends[ends < count]
    next_obs[ends] = rng.random((len(ends), obs_size), dtype=np.float32)
    terminated = np.zeros(count, dtype=bool)
    truncated = np.zeros(count, dtype=bool)
    terminated[ends] = True
    terminated[ends[9::10]] = False
    truncated[ends[9::10]] = True
    return Transitions(obs, *_choices_and_rewards(count, rng), next_obs, terminated, truncated)


def unrelated(count: int, rng: np.random.Generator) -> Transitions:
    """Random states: no transition shares an observation with any other, the worst case for whoever shares them."""
    obs = rng.random((count, OBS_SIZE), dtype=np.float32)
    next_obs = rng.random((count, OBS_SIZE), dtype=np.float32)
    terminated = rng.random(count) < 0.01
    return Transitions(obs, *_choices_and_rewards(count, rng), next_obs, terminated, np.zeros(count, dtype=bool))


def _choices_and_rewards(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return rng.integers(0, 2, size=count), rng.random(count, dtype=np.float32)


def priorities_like_td_errors(count: int | tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Half-normal, with a floor so that no library meets a zero."""
    return np.abs(rng.standard_normal(count, dtype=np.float32)) + np.float32(1e-3)


def in_turn(items: Sequence[Any], start: int, count: int) -> list[Any]:
    """`count` items from `start` on, beginning again after the last."""
    return [items[(start + offset) % len(items)] for offset in range(count)]
