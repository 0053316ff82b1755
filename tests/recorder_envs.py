"""Small environments whose observations say where they are, and which keep their own account of what happened."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

LIMIT = 4  # steps, after which an episode is truncated
LENGTHS = ((3, 6, 1, 4), (7, 2), (1, 1, 5))  # steps after which episodes of environment 0, 1, 2 terminate, in turn

OBS_SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1e4, 1e4, (3,), np.float32),
    "dict": spaces.Dict(
        {
            "where": spaces.Box(-1000, 1000, (3,), np.int32),
            "eyes": spaces.Dict({"left": spaces.Box(0, 255, (2, 2), np.uint8)}),
            "step": spaces.Discrete(100, start=3),
        }
    ),
    "tuple": spaces.Tuple((spaces.Box(-1e6, 1e6, (3,), np.float64), spaces.Discrete(100, start=-50))),
}
ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Discrete(4, start=3),
    "dict": spaces.Box(-1, 1, (2,), np.float32),
    "tuple": spaces.Dict({"jump": spaces.Discrete(2), "move": spaces.MultiDiscrete([3, 4])}),
}


class Steps(gymnasium.Env[Any, Any]):
    """Observes (index, episode, step) in one of three kinds; episodes terminate after `lengths` steps, in turn.

    `reuse`: writes all its observations into the same arrays.
    """

    def __init__(self, kind: str, index: int, lengths: tuple[int, ...], reuse: bool = False) -> None:
        self.kind = kind
        self.observation_space = OBS_SPACES[kind]
        self.action_space = ACTION_SPACES[kind]
        self.index = index
        self.lengths = lengths
        self.reuse = reuse
        self.episode = -1
        self.at = 0
        self._arrays = (np.zeros(3, np.float32), np.zeros(3, np.int32), np.zeros((2, 2), np.uint8), np.zeros(3))

    def _obs(self) -> Any:
        if not self.reuse:
            self._arrays = tuple(array.copy() for array in self._arrays)
        for array in self._arrays:
            array.flat[:3] = (self.index, self.episode, self.at)
        single, where, eye, double = self._arrays
        if self.kind == "box":
            return single
        if self.kind == "dict":
            return {"where": where, "eyes": {"left": eye}, "step": 3 + self.at}
        return double, np.int64(self.at - 50)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode += 1
        self.at = 0
        return self._obs(), {"number": self.episode}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        reward = self.index * 64 + self.episode * 8 + self.at / 8
        return self._obs(), reward, self.at == self.lengths[self.episode % len(self.lengths)], False, {"at": self.at}


class Truth(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps in `truth` every transition that really happened here: (obs, action, reward, next_obs, ends)."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.truth: list[tuple[Any, ...]] = []
        self.current: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        self.current = copy.deepcopy(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        taken = copy.deepcopy(action)
        obs, reward, terminated, truncated, info = super().step(action)
        before, self.current = self.current, copy.deepcopy(obs)
        self.truth.append((before, taken, reward, self.current, terminated, truncated))
        return obs, reward, terminated, truncated, info


def one(kind: str, index: int, reuse: bool = False) -> Truth:
    """One environment with its time limit."""
    return Truth(gymnasium.wrappers.TimeLimit(Steps(kind, index, LENGTHS[index], reuse), LIMIT))


def three(vector: str, kind: str, mode: str, reuse: bool = False) -> VectorEnv[Any, Any, Any]:
    """A vector environment of three: vector is "sync", "async" or "async, no shared memory"."""
    envs = [partial(one, kind, index, reuse) for index in range(3)]
    if vector == "sync":
        return SyncVectorEnv(envs, autoreset_mode=mode)
    # Not forked: the process of the tests has threads, of pytest-xdist's and of JAX where others use that; both warn.
    return AsyncVectorEnv(envs, shared_memory="no shared" not in vector, context="forkserver", autoreset_mode=mode)


def truth_of(env: Any) -> list[list[tuple[Any, ...]]]:
    """What each environment says has happened, in order; also from the processes of an AsyncVectorEnv."""
    return list(env.unwrapped.get_attr("truth"))


class Bandit(gymnasium.Env[Any, Any]):
    """Always the same observation; goes on for ever. The reward is 1."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action *= 0  # some environments do
        return np.zeros(2, np.float32), 1.0, False, False, {}


PLACES = np.array([[0], [100]], np.float32)


class Older(VectorEnv[Any, Any, Any]):
    """A vector environment of two by hand, which resets in the same step and says so nowhere, as in Gymnasium 0.29.

    Environment i observes its step count plus 100 i; its episodes have 2 + i steps. `infos_of(final, ended)` makes the
    infos of [2, 1] observations of before the reset.
    """

    def __init__(self, infos_of: Any) -> None:
        self.num_envs = 2
        self.single_observation_space = spaces.Box(0, 1000, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, 2)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, 2)
        self.infos_of = infos_of
        self.at = np.zeros((2, 1), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.at[:] = 0
        return self.at + PLACES, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.at += 1
        ended = (self.at == [[2], [3]])[:, 0]
        final = self.at + PLACES
        self.at[ended] = 0
        obs = self.at + PLACES
        infos = self.infos_of(final, ended) if ended.any() else {}
        return obs, np.ones(2), ended, np.zeros(2, bool), infos
