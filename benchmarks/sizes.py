"""The transitions that sharded replays get: of CartPole's size, and frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hands import Step
from transitions import trajectories


@dataclass(frozen=True)
class Size:
    """How large an observation is, how many transitions all shards hold together, and how many are put in first."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    capacity: int
    filled: int
    distinct: int  # transitions that each writer has, and adds over and over

    def steps(self, seed: int) -> list[Step]:
        """What a writer adds; an observation that is the next one of the step before is the same object."""
        rng = np.random.default_rng(seed)
        data = trajectories(self.distinct, rng, obs_size=int(np.prod(self.shape)))
        errors = np.abs(rng.standard_normal(self.distinct)).tolist()
        steps: list[Step] = []
        known: Any = None
        following: Any = None
        for (obs, action, reward, next_obs, *ends), error in zip(data.steps(), errors, strict=True):
            here = following if obs is known else self._cast(obs)
            known, following = next_obs, self._cast(next_obs)
            steps.append((here, action, reward, following, *ends, error))
        return steps

    def _cast(self, obs: Any) -> Any:
        scaled = obs * 255 if self.dtype == "uint8" else obs
        return scaled.astype(self.dtype).reshape(self.shape)


CARTPOLE = Size("cartpole", (4,), "float32", 100_000, 50_000, 4_096)
FRAMES = Size("frames", (84, 84), "uint8", 8_000, 4_000, 512)
