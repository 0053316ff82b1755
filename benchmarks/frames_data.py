"""Atari frames as every library gets them: each frame once, and the stacks of four that a training loop adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transitions import Step

SIDE = 84
STACK = 4
FRAME_BYTES = SIDE * SIDE
ACTIONS = 4
#: Frames are collected once and kept here; the folder is not part of the repository.
KEPT = Path(__file__).resolve().parents[1] / "runs" / "frames"


@dataclass(frozen=True)
class Frames:
    """Transitions of episodes, in the order they happened.

    The reward of a transition is its number, counted from 0 (exact in float32 up to 2**24), so that whatever a library
    gives back can be looked up here. Stacks are filled at the start of an episode by repeating its first frame, as
    Gymnasium's `FrameStackObservation` does.
    """

    frames: NDArray[np.uint8]  # [frames, 84, 84], one more an episode than it has transitions
    newest: NDArray[np.int64]  # [count]: the newest frame of `obs`; that of `next_obs` is the one after it
    first: NDArray[np.int64]  # [count]: the first frame of the episode
    action: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.newest)

    @cached_property
    def reward(self) -> NDArray[np.float32]:
        return np.arange(len(self), dtype=np.float32)

    def part(self, stop: int) -> Frames:
        """The first `stop` transitions."""
        return Frames(
            self.frames[: self.newest[stop - 1] + 2],
            *(values[:stop] for values in (self.newest, self.first, self.action, self.terminated, self.truncated)),
        )

    def obs(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The stacks [n, 4, 84, 84] before the transitions with these numbers."""
        return self._stacks(self.newest[numbers], self.first[numbers])

    def next_obs(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The stacks [n, 4, 84, 84] after them."""
        return self._stacks(self.newest[numbers] + 1, self.first[numbers])

    def _stacks(self, newest: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.uint8]:
        places = newest[:, None] + np.arange(1 - STACK, 1)
        return np.asarray(self.frames[np.maximum(places, first[:, None])])

    def steps(self) -> Iterator[Step]:
        """One tuple a transition, in the order of FIELDS; `obs` is the same object as the `next_obs` before it."""
        following: NDArray[Any] | None = None
        for number in range(len(self)):
            here = np.array([number])
            obs = self.obs(here)[0] if following is None else following
            following = self.next_obs(here)[0]
            ends = bool(self.terminated[number]), bool(self.truncated[number])
            yield (obs, int(self.action[number]), float(number), following, *ends)
            if any(ends):
                following = None


def _of_episodes(frames: NDArray[np.uint8], action: NDArray[np.int64], ends: NDArray[np.uint8]) -> Frames:
    """`ends` [count]: 1 where the episode terminates, 2 where it is truncated, 0 elsewhere."""
    ended = np.flatnonzero(ends)
    episode = np.searchsorted(ended, np.arange(len(ends)))  # how many ended before
    newest = np.arange(len(ends)) + episode
    starts = np.concatenate(([0], ended + 1))
    return Frames(frames, newest, newest[np.minimum(starts[episode], len(ends) - 1)], action, ends == 1, ends == 2)


def random_frames(count: int, rng: np.random.Generator, lengths: tuple[int, int] = (3, 20)) -> Frames:
    """Frames of noise in short episodes, every third end a truncation."""
    action = rng.integers(0, ACTIONS, size=count)
    last = np.cumsum(rng.integers(lengths[0], lengths[1] + 1, size=count // lengths[0] + 1)) - 1
    last = last[last < count]
    ends = np.zeros(count, np.uint8)
    ends[last] = 1
    ends[last[2::3]] = 2
    frames = rng.integers(0, 256, size=(count + len(last) + 1, SIDE, SIDE), dtype=np.uint8)
    return _of_episodes(frames, action, ends)


def breakout(count: int, seed: int = 0) -> Frames:
    """`count` transitions of Breakout under a random policy; the frames stay on disk, mapped into memory.

    Preprocessed as Machado et al. (2018) do: sticky actions, every fourth frame, grey, 84×84, an episode is a game.
    Games are cut after 250 steps, so that some ends are truncations. Collected once, about a minute for 100,000; raises
    ImportError where ale-py or OpenCV is missing.
    """
    for kept in sorted(KEPT.glob(f"breakout-{seed}-*.npz")):
        if int(kept.stem.split("-")[-1]) >= count:
            return _load(kept).part(count)
    KEPT.mkdir(parents=True, exist_ok=True)
    columns = KEPT / f"breakout-{seed}-{count}.npz"
    raw = columns.with_suffix(".frames")
    action, ends = _play(count, seed, raw)
    np.savez(columns, action=action, ends=ends)
    return _load(columns)


def _load(columns: Path) -> Frames:
    with np.load(columns) as kept:
        action, ends = kept["action"], kept["ends"]
    frames = np.memmap(columns.with_suffix(".frames"), np.uint8, "r").reshape(-1, SIDE, SIDE)
    return _of_episodes(frames, action, ends)


def _play(count: int, seed: int, raw: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Write the frames to `raw`, one after the other; give the actions and the ends."""
    import ale_py
    import gymnasium as gym

    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    env = gym.make("ALE/Breakout-v5", frameskip=1, obs_type="grayscale")
    env = gym.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=SIDE)
    env = gym.wrappers.TimeLimit(env, max_episode_steps=250)
    action = np.random.default_rng(seed).integers(0, ACTIONS, size=count)
    ends = np.zeros(count, np.uint8)
    with raw.open("wb") as file:
        file.write(env.reset(seed=seed)[0].tobytes())
        for number in range(count):
            frame, _, terminated, truncated, _ = env.step(action[number])
            file.write(frame.tobytes())
            ends[number] = 1 if terminated else 2 if truncated else 0
            if ends[number] and number + 1 < count:
                file.write(env.reset()[0].tobytes())
    env.close()
    return action, ends
