"""CleanRL's replay buffers, where only the import of a script changes.

    from replaybank.adapters.cleanrl import ReplayBuffer            # was: cleanrl_utils.buffers
    from replaybank.adapters.cleanrl import PrioritizedReplayBuffer  # was: a class in rainbow_atari.py

They need PyTorch and Gymnasium, not Stable-Baselines3. CleanRL's loops tell a buffer of terminations only. Where a time
limit ended an episode is found by comparing observations: the one that the next step starts from is not the one that
the last step led to. So the final observation must be in `next_obs`, as CleanRL's `real_next_obs` is; and an episode
that starts, byte for byte, with the observation in which a time limit stopped the last one counts as the same episode
(this matters to n-step returns only).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank.extras import of_extra

with of_extra("torch,gym"):
    import torch

from replaybank.adapters.storage import Infos, Space, VecStorage, global_seed, reshaped, view_of
from replaybank.batch import Batch
from replaybank.buffer import PriorityReport
from replaybank.buffer import ReplayBuffer as Bank
from replaybank.rows import Rows
from replaybank.samplers.prioritized import Prioritized
from replaybank.schema import Schema
from replaybank.stacking import Stacking
from replaybank.views.base import View


class ReplayBufferSamples(NamedTuple):
    """Tensors [batch, ...]; `actions` [batch, action_dim], `dones` and `rewards` float32 [batch, 1].

    `observations` and `next_observations` are nested by name where the space is a Dict.
    """

    observations: Any
    actions: torch.Tensor
    next_observations: Any
    dones: torch.Tensor
    rewards: torch.Tensor


class PrioritizedBatch(NamedTuple):
    """Tensors [batch, ...]: `observations`, `next_observations`, and [batch, 1] the others.

    `actions` int64, `rewards` float32, `dones` bool, `weights` float32; `indices` are NumPy's, int64
    [batch], for `update_priorities`.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_observations: torch.Tensor
    dones: torch.Tensor
    indices: NDArray[np.int64]
    weights: torch.Tensor


class ReplayBuffer:
    """The buffer of `cleanrl_utils.buffers`: its constructor, `add` and `sample`; `bank` is the buffer that it is.

    `buffer_size` counts transitions over all `n_envs` copies; `observation_space` and `action_space` are Gymnasium's,
    of one copy. `device` "auto": CUDA where there is one. `optimize_memory_usage` changes nothing: every observation is
    stored once anyway, and `handle_timeout_termination` need not be given up for it. `frame_stack`: where observations
    are stacks of k frames along the first axis, as Gymnasium's FrameStackObservation makes them, k: one frame of each
    is kept (k times less memory; what is added comes back bit by bit), and observations and next_observations share
    memory: writing to one changes the other. `seed` of the draws; None: from NumPy's global generator, which CleanRL
    seeds.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Space,
        action_space: Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        frame_stack: int = 1,
        seed: Any = None,
    ) -> None:
        view = view_of(1, 1.0, frame_stack, padding="reset")
        self._storage = VecStorage(buffer_size, observation_space, action_space, n_envs, None, view, seed)
        self.bank = self._storage.bank
        self.buffer_size = self._storage.size
        self.n_envs = n_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.obs_shape = self._storage.obs_shape
        self.action_dim = self._storage.action_dim
        self.device = _device(device)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Infos) -> None:
        """One step of all copies: `obs`, `next_obs`, `action`, `reward`, `done` are arrays [n_envs, ...].

        `done` are CleanRL's `terminations`; or terminations and truncations together, where
        `handle_timeout_termination` is on and "TimeLimit.truncated" in `infos` (a dict for each copy, or one dict of
        arrays) tells them apart.
        Raises TypeError or ValueError, and changes nothing, where values do not fit the spaces or a reward is not
        finite.
        """
        self._storage.add(obs, next_obs, action, reward, done, infos, self.handle_timeout_termination)

    def extend(self, *steps: Any) -> None:
        """`add` for each step of `steps`: as many sequences as `add` has arguments."""
        for step in zip(*steps, strict=True):
            self.add(*step)

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """`batch_size` transitions, on `device`; the tensors belong to the caller."""
        batch = self.bank.sample(batch_size).to_torch(self.device)
        dones, rewards = batch.terminated[:, None].float(), batch.reward[:, None]
        return ReplayBufferSamples(batch.obs, batch.action, batch.next_obs, dones, rewards)

    @property
    def pos(self) -> int:
        """Steps since the start of the ring: 0 … buffer_size - 1."""
        return self._storage.pos

    @property
    def full(self) -> bool:
        """Whether the next step takes the place of an older one."""
        return self._storage.full

    def size(self) -> int:
        """How many steps of all copies it holds."""
        return self.buffer_size if self.full else self.pos

    def reset(self) -> None:
        """Forgets everything."""
        self._storage.clear()


class PrioritizedReplayBuffer:
    """The buffer of CleanRL's Rainbow: prioritized, n-step; `bank` is the buffer that it is.

    Where it differs, it is in the n-step windows, which CleanRL lets run across time limits into the next episode.
    Here they never do. CleanRL's loop discounts by gamma ** n_step whatever the window, so only windows of n steps, and
    shorter ones that terminate (these do not bootstrap), are drawn: a transition fewer than n steps before a time
    limit, or before the newest one, is not.

    `capacity` in transitions; `obs_shape` of one observation; `device` of the tensors; `alpha`, `beta` and `eps` as
    `Prioritized` has alpha, beta and epsilon. Observations keep the dtype of the first one added (uint8 frames stay
    uint8). New transitions get the largest priority now in the buffer. `frame_stack` and `seed` are as in
    `ReplayBuffer`.
    """

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, ...],
        device: torch.device | str,
        n_step: int,
        gamma: float,
        alpha: float = 0.6,
        beta: float = 0.4,
        eps: float = 1e-6,
        frame_stack: int = 1,
        seed: Any = None,
    ) -> None:
        self.obs_shape = tuple(obs_shape)
        self.device = torch.device(device)
        self._sampler = Prioritized(alpha=alpha, beta=beta, epsilon=eps)
        self.n_step = n_step
        self.gamma = gamma
        view = _WholeWindows(view_of(n_step, gamma, frame_stack, padding="reset"), n_step)
        seed = global_seed() if seed is None else seed
        self.bank = Bank(capacity, sampler=self._sampler, view=view, seed=seed)

    def add(self, obs: Any, action: Any, reward: Any, next_obs: Any, done: Any) -> None:
        """One step of one environment; a leading axis of 1, as a vector environment gives, may be there or not.

        `obs`, `action`, `reward`, `next_obs`: as CleanRL's loop has them; the observations have `obs_shape`.
        `done`: terminated, not truncated. Raises TypeError or ValueError, and changes nothing, where values do not fit.
        """
        self.bank.add(
            self._frame("obs", obs),
            reshaped("action", action, ()),
            reshaped("reward", reward, ()),
            self._frame("next_obs", next_obs),
            reshaped("done", done, ()),
            False,
        )

    def sample(self, batch_size: int) -> PrioritizedBatch:
        """`batch_size` n-step transitions. Raises ValueError where no window is n steps long yet."""
        batch = self.bank.sample(batch_size)
        tensors = batch.to_torch(self.device)
        names = ("action", "reward", "terminated", "weights")
        actions, rewards, dones, weights = (tensors[name][:, None] for name in names)
        return PrioritizedBatch(tensors.obs, actions, rewards, tensors.next_obs, dones, batch.indices, weights)

    def update_priorities(self, indices: ArrayLike, priorities: ArrayLike) -> PriorityReport:
        """Sets the priorities of `indices` [n] to |priorities| ([n]) + eps.

        Transitions that have been overwritten since are skipped and counted. Raises ValueError, and changes nothing,
        where a priority is not finite.
        """
        return self.bank.update_priorities(indices, priorities)

    @property
    def capacity(self) -> int:
        """The most transitions it holds."""
        return self.bank.capacity

    @property
    def size(self) -> int:
        """How many transitions it holds."""
        return len(self.bank)

    @property
    def alpha(self) -> float:
        """How much priorities count."""
        return self._sampler.alpha

    @property
    def beta(self) -> Any:
        """How far the weights correct for them; set it at any time."""
        return self._sampler.beta

    @beta.setter
    def beta(self, beta: float) -> None:
        self._sampler.beta = beta

    @property
    def eps(self) -> float:
        """What is added to a priority."""
        return self._sampler.epsilon

    def _frame(self, name: str, obs: Any) -> NDArray[Any]:
        array = np.asarray(obs)
        if array.shape not in (self.obs_shape, (1, *self.obs_shape)):
            raise ValueError(
                f"{name}: expected shape {self.obs_shape}, or that with a leading axis of 1, given {array.shape}"
            )
        return array.reshape(self.obs_shape)


class _WholeWindows:
    """A view of n-step windows, of which only those of n steps or that terminate may be drawn."""

    def __init__(self, windows: View, n: int) -> None:
        self._windows = windows
        self._n = n

    def read(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        return self._windows.read(rows, ids, rng)

    def stack(self, schema: Schema) -> Stacking | None:
        return self._windows.stack(schema)

    def usable(self, rows: Rows, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        path, lengths = rows.walk(ids, self._n - 1)
        whole: NDArray[np.bool_] = (lengths == self._n) | rows.data["terminated"][path[:, -1] % rows.capacity]
        usable = self._windows.usable(rows, ids)
        return whole if usable is None else whole & usable

    def members(self, rows: Rows, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        return self._windows.members(rows, ids)

    def settings(self) -> dict[str, Any]:
        return {"windows": self._windows, "n": self._n}


def _device(device: torch.device | str) -> torch.device:
    """The device; the CPU where "auto" or CUDA is asked for and there is no CUDA, as in CleanRL."""
    found = torch.device("cuda" if device == "auto" else device)
    return found if found.type != "cuda" or torch.cuda.is_available() else torch.device("cpu")
