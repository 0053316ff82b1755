"""Stable-Baselines3 (2.9): `SB3ReplayBuffer` for its `replay_buffer_class=`, and what prioritized replay needs.

    model = DQN("MlpPolicy", env, replay_buffer_class=SB3ReplayBuffer)
    model = PrioritizedDQN("MlpPolicy", env, replay_buffer_kwargs={"alpha": 0.6, "beta": rb.linear(0.4, 1.0, 10_000)})

`replay_buffer_kwargs` takes `n_steps` and `gamma` for n-step returns, `frame_stack`, `sampler` and `seed`. Hindsight
(HER) is not here: SB3 asks for a subclass of its `HerReplayBuffer`, which keeps its own memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank.extras import of_extra

with of_extra("sb3"):
    import torch as th
    from gymnasium import spaces
    from stable_baselines3 import DQN, SAC
    from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
    from stable_baselines3.common.utils import polyak_update
    from stable_baselines3.common.vec_env import VecNormalize
    from torch.nn import functional as F

from replaybank.adapters.storage import Infos, Space, VecStorage, view_of
from replaybank.batch import Batch
from replaybank.buffer import PriorityReport
from replaybank.buffer import ReplayBuffer as Bank
from replaybank.samplers.base import Sampler
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.schedule import Schedule

Tensors = th.Tensor | dict[str, th.Tensor]


class PrioritizedReplayBufferSamples(NamedTuple):
    """`ReplayBufferSamples` (observations nested where the space is a Dict), with the sampler's word on each.

    `observations`, `actions`, `next_observations`, `dones`, `rewards` and `discounts`: as `SB3ReplayBuffer.sample`
    gives them; `weights` float32 [batch, 1]; `indices` int64 [batch], for `update_priorities`.
    """

    observations: Tensors
    actions: th.Tensor
    next_observations: Tensors
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor
    indices: NDArray[np.int64]


class _Ends:
    """SB3's `dones`, of which its `learn` needs one thing: with `optimize_memory_usage` it sets `dones[pos] = True`.

    That is to keep what comes next apart from the trajectory that was broken off, and that is all it does here.
    """

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def __setitem__(self, place: Any, value: Any) -> None:
        self._bank.end()


class SB3ReplayBuffer(ReplayBuffer):
    """SB3's replay buffer, kept in a `replaybank.ReplayBuffer`: `bank`. For Dict observation spaces too.

    Arguments up to `handle_timeout_termination` are SB3's: `buffer_size` in transitions over all `n_envs` copies,
    `observation_space`, `action_space`, the `device` of the tensors. `optimize_memory_usage` changes nothing: every
    observation is stored once anyway, and unlike SB3's option that goes together with time limits and n-step, and never
    pairs an observation with another episode's. Keyword arguments of our own:

    - `n_steps`, `gamma`: with n_steps > 1 samples are n-step transitions, with `discounts` gamma**k [batch, 1], where
      k <= n_steps is the length of the window. Give the algorithm's gamma.
    - `frame_stack`: with VecFrameStack(env, k), k: one frame of each stack is kept, and stacks are rebuilt when they
      are sampled (k times less memory; what is added comes back bit by bit). With n_steps=1 observations and
      next_observations then share memory: writing to one changes the other.
    - `sampler`: which transitions are drawn (any sampler of replaybank; a copy of it is used). Default: uniform.
    - `seed`: of the draws; None: from NumPy's global generator, which `DQN(seed=…)` seeds.

    What is stored is what the environment gave; with `env` (a VecNormalize) observations and rewards are normalised
    when they are sampled, each reward of an n-step window by itself. SB3's arrays (`observations`, `rewards`, …) do not
    exist here.
    """

    dones: Any

    def __init__(
        self,
        buffer_size: int,
        observation_space: Space,
        action_space: Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
        frame_stack: int = 1,
        sampler: Sampler | None = None,
        seed: Any = None,
    ) -> None:
        # Not the constructor of ReplayBuffer: that one reserves the arrays.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        view = view_of(n_steps, gamma, frame_stack, padding="zero")  # zeros are what VecFrameStack begins with
        self._storage = VecStorage(buffer_size, observation_space, action_space, n_envs, sampler, view, seed)
        self.buffer_size = self._storage.size
        self.bank = self._storage.bank
        self.dones = _Ends(self.bank)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Infos) -> None:
        """One step of all environments, as SB3's `collect_rollouts` gives it: the final observation is in `next_obs`.

        `obs`, `next_obs`, `action`, `reward` and `done` are arrays [n_envs, ...]; of `infos`, a dict for each copy,
        "TimeLimit.truncated" is read.
        Raises TypeError or ValueError, and changes nothing, where values do not fit the spaces or a reward is not
        finite.
        """
        self._storage.add(obs, next_obs, action, reward, done, infos, self.handle_timeout_termination)
        self.pos, self.full = self._storage.pos, self._storage.full

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self._storage.clear()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """`batch_size` transitions: a `ReplayBufferSamples`, or `DictReplayBufferSamples`, on `device`.

        The tensors belong to the caller. `env`: the VecNormalize that normalises them; None: as they are.
        observations and next_observations [batch, ...] in the space's dtype, actions [batch, action_dim], dones (1 at
        a termination, 0 at a time limit), rewards and discounts (None with n_steps=1) float32 [batch, 1].
        """
        fields = self._fields(self.bank.sample(batch_size), env)
        if isinstance(self.observation_space, spaces.Dict):
            return DictReplayBufferSamples(*fields)
        return ReplayBufferSamples(*fields)

    def _fields(self, batch: Batch, env: VecNormalize | None) -> tuple[Any, ...]:
        """The fields of SB3's samples, in its order."""
        discounts = None
        if self.n_steps > 1:
            path, lengths = self.bank.walk(batch.indices, self.n_steps - 1)
            # At terminations too: there the batch's own discount is 0, where SB3 has `dones` to stop bootstrapping.
            discounts = self._tensors(np.power(self.gamma, lengths).astype(np.float32)[:, None])
        tensors = batch.to_torch(self.device)
        obs, next_obs, reward = tensors.obs, tensors.next_obs, tensors.reward
        if env is not None:
            obs, next_obs = (self._tensors(env.normalize_obs(field)) for field in (batch.obs, batch.next_obs))
            if self.n_steps > 1:
                # Each by itself: normalising clips, so normalising the sum would be something else.
                rewards = env.normalize_reward(self.bank.field("reward")[path % self.bank.capacity])
                steps = np.arange(self.n_steps)
                factors = np.where(steps < lengths[:, None], self.gamma**steps, 0.0)
                reward = self._tensors((rewards * factors).sum(axis=1).astype(np.float32))
            else:
                reward = self._tensors(env.normalize_reward(batch.reward))
        dones = tensors.terminated[:, None].float()
        return obs, tensors.action, next_obs, dones, reward[:, None], discounts

    def _tensors(self, arrays: Any) -> Any:
        if isinstance(arrays, dict):
            return {name: self._tensors(array) for name, array in arrays.items()}
        return self.to_torch(arrays, copy=False)


class SB3PrioritizedReplayBuffer(SB3ReplayBuffer):
    """Prioritized replay (Schaul et al. 2016) for SB3; for `PrioritizedDQN`, `PrioritizedSAC` and loops like theirs.

    SB3's own algorithms would ignore weights and never set a priority: they need a `train` that does both. `args` and
    `kwargs` are those of `SB3ReplayBuffer`; keyword arguments beyond them are those of `rb.Prioritized`: `alpha`,
    `beta` (a number, or a schedule over calls of `sample`, such as `rb.linear(0.4, 1.0, steps)`) and `epsilon`; or give
    a `sampler` instead.
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.6,
        beta: float | Schedule = 0.4,
        epsilon: float = 1e-6,
        sampler: Sampler | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["sampler"] = sampler or Prioritized(alpha=alpha, beta=beta, epsilon=epsilon)
        super().__init__(*args, **kwargs)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A `PrioritizedReplayBufferSamples`, as `SB3ReplayBuffer.sample` with `weights` and `indices`."""
        batch = self.bank.sample(batch_size)
        weights = self._tensors(batch.weights)[:, None]
        return PrioritizedReplayBufferSamples._make((*self._fields(batch, env), weights, batch.indices))

    def update_priorities(self, indices: ArrayLike, td_errors: Any) -> PriorityReport:
        """Sets the priorities of `indices` [n] to |td_errors| + epsilon; td_errors is a tensor or array, [n] or [n, 1].

        Transitions that have been overwritten since are skipped and counted. Raises ValueError, and changes nothing,
        where a TD error is not finite.
        """
        if isinstance(td_errors, th.Tensor):
            td_errors = td_errors.detach().cpu().numpy()
        return self.bank.update_priorities(indices, np.asarray(td_errors).reshape(-1))


class PrioritizedDQN(DQN):
    """SB3's DQN with prioritized replay (Schaul et al. 2016, alg. 1), which its `DQN` has no place for.

    Each transition's Huber loss counts with its importance weight, and its TD error becomes its priority. All else,
    logged keys too, is as in `DQN`; where alpha and beta are 0 it learns the same. `replay_buffer_class` is
    `SB3PrioritizedReplayBuffer` where none is given; `n_steps=` works as with SB3's own buffers, on Dict spaces too.

    Raises TypeError for a `replay_buffer_class` that has no priorities.
    """

    replay_buffer: SB3PrioritizedReplayBuffer

    def _setup_model(self) -> None:
        with _prioritized_memory(self):
            super()._setup_model()

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """`gradient_steps` updates, each from `batch_size` transitions."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with th.no_grad():
                best = self.q_net_target(batch.next_observations).max(dim=1, keepdim=True).values
                target = _bootstrapped(batch, best, self.gamma)
            value = self.q_net(batch.observations).gather(1, batch.actions.long())
            loss = (batch.weights * F.smooth_l1_loss(value, target, reduction="none")).mean()
            losses.append(loss.item())

            self.policy.optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self.replay_buffer.update_priorities(batch.indices, target - value)

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))


class PrioritizedSAC(SAC):
    """SB3's SAC with prioritized replay.

    Importance weights count in the critics' losses, the only ones that have TD errors; a transition's priority is the
    mean |TD error| of the critics. The losses of actor and temperature are plain means over the batch. All else is as
    in `SAC`; the buffer is chosen as by `PrioritizedDQN`, with the same errors.
    """

    replay_buffer: SB3PrioritizedReplayBuffer

    def _setup_model(self) -> None:
        with _prioritized_memory(self):
            super()._setup_model()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """`gradient_steps` updates of critics, actor and temperature, each from `batch_size` transitions."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)

        logged: dict[str, list[float]] = {}
        for step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            if self.use_sde:
                self.actor.reset_noise()
            action, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            found = {}
            if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
                temperature = self.log_ent_coef.detach().exp()  # before its own step, as the losses below use it
                surplus = (log_prob + float(self.target_entropy)).detach()
                found["ent_coef_loss"] = _descend(self.ent_coef_optimizer, -(self.log_ent_coef * surplus).mean())
            else:
                temperature = self.ent_coef_tensor
            found["ent_coef"] = temperature.item()
            found["critic_loss"] = self._train_critics(batch, temperature)
            values = th.cat(self.critic(batch.observations, action), dim=1)
            actor_loss = (temperature * log_prob - values.min(dim=1, keepdim=True).values).mean()
            found["actor_loss"] = _descend(self.actor.optimizer, actor_loss)
            if step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
            for name, value in found.items():
                logged.setdefault(name, []).append(value)

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values_of_name in logged.items():
            self.logger.record(f"train/{name}", np.mean(values_of_name))

    def _train_critics(self, batch: PrioritizedReplayBufferSamples, temperature: th.Tensor) -> float:
        """One weighted step of all critics; their TD errors become priorities. Gives the loss."""
        with th.no_grad():
            next_action, next_log_prob = self.actor.action_log_prob(batch.next_observations)
            next_values = th.cat(self.critic_target(batch.next_observations, next_action), dim=1)
            soft_value = next_values.min(dim=1, keepdim=True).values - temperature * next_log_prob.reshape(-1, 1)
            target = _bootstrapped(batch, soft_value, self.gamma)
        errors = [value - target for value in self.critic(batch.observations, batch.actions)]
        loss = 0.5 * th.stack([(batch.weights * error**2).mean() for error in errors]).sum()
        found = _descend(self.critic.optimizer, loss)
        self.replay_buffer.update_priorities(batch.indices, th.cat(errors, dim=1).abs().mean(dim=1))
        return found


@contextmanager
def _prioritized_memory(algorithm: OffPolicyAlgorithm) -> Iterator[None]:
    """While SB3 sets up its model: the prioritized buffer is its buffer, n-step as the algorithm was told."""
    if algorithm.replay_buffer_class is None:
        algorithm.replay_buffer_class = SB3PrioritizedReplayBuffer
    if not issubclass(algorithm.replay_buffer_class, SB3PrioritizedReplayBuffer):
        raise TypeError(
            f"{type(algorithm).__name__}: replay_buffer_class must be SB3PrioritizedReplayBuffer or inherit from it, "
            f"given {algorithm.replay_buffer_class.__name__}, which has no priorities"
        )
    given = algorithm.replay_buffer_kwargs
    algorithm.replay_buffer_kwargs = {"n_steps": algorithm.n_steps, "gamma": algorithm.gamma} | given
    with warnings.catch_warnings():
        if algorithm.replay_buffer_kwargs["n_steps"] == algorithm.n_steps:
            warnings.filterwarnings("ignore", "`n_steps=.* is ignored")  # SB3 cannot know that the buffer was told
        yield
    algorithm.replay_buffer_kwargs = given  # what is saved with the model, which may be loaded with another gamma


def _bootstrapped(batch: PrioritizedReplayBufferSamples, next_value: th.Tensor, gamma: float) -> th.Tensor:
    """The TD targets, [batch, 1]."""
    discount = gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discount * next_value


def _descend(optimizer: th.optim.Optimizer, loss: th.Tensor) -> float:
    """One step; gives the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()
