"""Stable-Baselines3: columns in NumPy, batches as torch tensors; uniform only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import Contender
from transitions import OBS_SIZE, Step, Transitions


class StableBaselines3(Contender):
    """Its `sample` is timed as it is: tensors are what its users get.

    Time-outs go in through `infos`, as `VecEnv` reports them, and come out as a `done` that is 0.
    """

    name = "SB3"
    distribution = "stable-baselines3"
    prioritizes = False
    obs_space: ClassVar[Mapping[str, Any]] = {"low": 0.0, "high": 1.0, "shape": (OBS_SIZE,), "dtype": np.float32}
    actions: ClassVar[int] = 2
    options: ClassVar[Mapping[str, Any]] = {}

    def build(self) -> None:
        from gymnasium import spaces
        from stable_baselines3.common.buffers import ReplayBuffer

        self._buffer = ReplayBuffer(
            self.setup.capacity,
            spaces.Box(**self.obs_space),
            spaces.Discrete(self.actions),
            device="cpu",
            n_envs=self.setup.streams,
            **self.options,
        )
        self.add = self._buffer.add
        self.sample = self._buffer.sample

    def fill(self, data: Transitions) -> None:
        """Into its public arrays, where `add` would put it; a million calls of `add` take most of a minute."""
        buffer, streams = self._buffer, self.setup.streams
        shape = (len(data) // streams, streams)
        by_stream = {
            name: values[: shape[0] * streams].reshape(streams, shape[0], *values.shape[1:]).swapaxes(0, 1)
            for name, values in data.columns().items()
        }
        buffer.observations[:] = by_stream["obs"]
        buffer.next_observations[:] = by_stream["next_obs"]
        buffer.actions[:] = by_stream["action"][:, :, None]
        buffer.rewards[:] = by_stream["reward"]
        buffer.dones[:] = by_stream["terminated"] | by_stream["truncated"]
        buffer.timeouts[:] = by_stream["truncated"]
        buffer.pos, buffer.full = 0, True

    def add_form(self, step: Step) -> tuple[Any, ...]:
        obs, action, reward, next_obs, terminated, truncated = step
        if self.setup.streams == 1:
            obs, next_obs = obs[None], next_obs[None]
        action, reward, terminated, truncated = map(np.atleast_1d, (action, reward, terminated, truncated))
        infos = [{"TimeLimit.truncated": True} if cut else {} for cut in truncated]
        return obs, next_obs, action, reward.astype(np.float32), terminated | truncated, infos

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.dones

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {
            "obs": batch.observations.numpy(),
            "action": batch.actions.numpy()[:, 0],
            "reward": batch.rewards.numpy()[:, 0],
            "next_obs": batch.next_observations.numpy(),
            "terminated": batch.dones.numpy()[:, 0] > 0,
        }
