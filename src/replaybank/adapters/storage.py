"""What Stable-Baselines3's replay buffers and CleanRL's, which come from them, take in; kept in a `ReplayBuffer`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from replaybank.buffer import ReplayBuffer
from replaybank.extras import of_extra
from replaybank.samplers.base import Sampler
from replaybank.schema import Schema
from replaybank.views.base import View
from replaybank.views.frames import FrameStack
from replaybank.views.nstep import NStep
from replaybank.views.transition import Transition

with of_extra("gym"):
    from gymnasium import spaces

Space: TypeAlias = "spaces.Space[Any]"
Shape: TypeAlias = tuple[int, ...]
Infos: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class VecStorage:
    """Transitions of `n_envs` environment copies, laid out as SB3 does: `bank` is the `ReplayBuffer` that holds them.

    `Discrete` observations are int64 [1], `Dict` ones are nested by name, actions are flat ([action_dim]; float64 ones
    become float32); observations keep their space's dtype. Whole steps are kept: the last `size` of all copies, which
    is buffer_size // n_envs, at least 1.

    `sampler` is a pattern: the bank draws with a copy, so that one set of keyword arguments serves several buffers.
    `seed` None: drawn from NumPy's global generator, which is the one that SB3 and CleanRL seed.
    Raises TypeError for spaces without a fixed shape, and for Dict spaces in Dict spaces.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Space,
        action_space: Space,
        n_envs: int,
        sampler: Sampler | None,
        view: View,
        seed: Any,
    ) -> None:
        self.n_envs = n_envs
        self.size = max(buffer_size // n_envs, 1)
        self.obs_shape = obs_shape(observation_space)
        self.action_dim = action_dim(action_space)
        action_dtype = np.dtype(action_space.dtype)
        fields = {
            "obs": _spec(observation_space),
            "action": (np.float32 if action_dtype == np.float64 else action_dtype, (self.action_dim,)),
        }
        self.bank = ReplayBuffer(
            self.size * n_envs,
            Schema.of(fields),
            streams=n_envs,
            sampler=copy.deepcopy(sampler),
            view=view,
            seed=global_seed() if seed is None else seed,
        )
        self.steps = 0  # since the buffer was made or cleared

    @property
    def pos(self) -> int:
        """Where SB3 would write next: 0 … size - 1."""
        return self.steps % self.size

    @property
    def full(self) -> bool:
        """Whether the next step takes the place of an older one."""
        return self.steps >= self.size

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Infos, timeouts: bool) -> None:
        """One step of all copies: arrays [n_envs, ...]; of one copy the leading axis may be missing.

        `timeouts`: whether "TimeLimit.truncated" in `infos` says that a time limit was the end, not the environment.
        Raises TypeError or ValueError, and changes nothing, where values do not fit the spaces.
        """
        n = self.n_envs
        if np.size(done) != n:
            raise ValueError(f"done: expected shape ({n},), one an environment (n_envs={n}), given {np.shape(done)}")
        ended = reshaped("done", np.asarray(done, bool), (n,))
        truncated = _timeouts(infos, n) if timeouts else np.zeros(n, bool)
        self.bank.add(
            self._rows(obs),
            reshaped("action", action, (n, self.action_dim)),
            reshaped("reward", reward, (n,)),
            self._rows(next_obs),
            ended & ~truncated,
            truncated,
        )
        self.steps += 1

    def clear(self) -> None:
        """Forgets everything."""
        self.bank.clear()
        self.steps = 0

    def _rows(self, obs: Any) -> Any:
        shape = self.obs_shape
        if isinstance(shape, dict):
            return {name: _with_lead(obs[name], self.n_envs, shape[name]) for name in shape}
        return _with_lead(obs, self.n_envs, shape)


def view_of(n_steps: int, gamma: float, frame_stack: int, padding: Literal["reset", "zero"]) -> View:
    """Windows of n steps, whose observations are stacks of `frame_stack` frames along the first axis (1: no stacks)."""
    windows = Transition(gamma) if n_steps == 1 else NStep(n_steps, gamma)
    return windows if frame_stack == 1 else FrameStack(frame_stack, padding=padding, view=windows)


def global_seed() -> int:
    """A seed from NumPy's global generator: SB3 and CleanRL seed that one, and expect the same batches again."""
    return int(np.random.randint(2**31))  # noqa: NPY002


def obs_shape(space: Space) -> Shape | dict[str, Shape]:
    """The shape of one observation, by name where the space is a Dict."""
    if isinstance(space, spaces.Dict):
        return {name: _shape(child) for name, child in space.spaces.items()}
    return _shape(space)


def action_dim(space: Space) -> int:
    """How many numbers an action is."""
    return int(np.prod(_shape(space)))


def reshaped(name: str, value: Any, shape: Shape) -> NDArray[Any]:
    """`value` in this shape; ValueError where it has not as many items."""
    array = np.asarray(value)
    if array.size != math.prod(shape):
        raise ValueError(f"{name}: expected shape {shape}, or another one of as many items, given {array.shape}")
    return array.reshape(shape)


def _shape(space: Space) -> Shape:
    if isinstance(space, spaces.Discrete):
        return (1,)
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return tuple(space.shape)
    raise TypeError(f"expected Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of them, given {space!r}")


def _spec(space: Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: (child.dtype, _shape(child)) for name, child in space.spaces.items()}
    return (space.dtype, _shape(space))


def _with_lead(value: Any, n_envs: int, shape: Shape) -> NDArray[Any]:
    """`value` as [n_envs, *shape], where it is that but for the last axis of a Discrete space or the first of one copy.

    No other reshaping: an image whose channels come last must not pass for one whose channels come first.
    """
    array = np.asarray(value)
    if array.ndim < 2 and shape == (1,) and array.size == n_envs:
        return array.reshape(n_envs, 1)
    if n_envs == 1 and array.shape == shape:
        return array[np.newaxis]
    return array


def _timeouts(infos: Infos, n_envs: int) -> NDArray[np.bool_]:
    """Which copies a time limit cut off: from a list with a dict for each copy, or from one dict of arrays."""
    if isinstance(infos, Mapping):
        return np.array(np.broadcast_to(np.asarray(infos.get("TimeLimit.truncated", False), bool), n_envs))
    return reshaped("infos", np.array([info.get("TimeLimit.truncated", False) for info in infos], bool), (n_envs,))
