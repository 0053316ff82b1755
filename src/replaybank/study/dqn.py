"""DQN, to be read from top to bottom: several seeds train side by side, in lock step, in one process.

Everything that belongs to one seed (weights, environment, exploration, replay buffer) is its own. Only the arithmetic
is shared: the weights of S networks are stacked as [S, in, out], so that one `baddbmm` serves a layer of all of them.
The loss is the sum of the seeds' losses, so no gradient crosses from one seed to another, and Adam works element by
element: S networks in lock step learn what S networks would learn one by one.

Sources: Mnih et al. 2015 (DQN, target network, epsilon schedule); van Hasselt et al. 2016 (Double DQN, eq. 4);
Schaul et al. 2016 (importance weights, alg. 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import replaybank as rb
from replaybank.study import SettingError
from replaybank.study.base import Record, Track
from replaybank.study.memories import BufferSettings, Memory

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DQNConfig:
    """The preset: the same for every arm."""

    learning_rate: float = 2e-3
    """step size of Adam at the start"""
    final_learning_rate: float = 0.0
    """step size at the last step; in between it falls (or rises) linearly"""
    gamma: float = 0.99
    """discount per step"""
    batch_size: int = 64
    """transitions per update (arm online: 1)"""
    capacity: int = 20_000
    """transitions remembered by the arms uniform and prioritized"""
    hidden: tuple[int, ...] = (256, 64)
    """width of each hidden layer (ReLU)"""
    double: bool = True
    """Double DQN: the online network picks the next action, the target network rates it"""
    target_period: int = 100
    """updates between two copies of the online network into the target network"""
    tau: float = 1.0
    """share of the online network in such a copy: 1 replaces the target network, less blends (Polyak averaging)"""
    train_period: int = 1
    """environment steps between two updates"""
    learning_starts: int = 500
    """environment steps before the first update; at least the batch size"""
    epsilon_start: float = 1.0
    """probability of a random action at the first step"""
    epsilon_end: float = 0.01
    """probability of a random action once exploration has ended"""
    exploration_fraction: float = 0.1
    """share of all steps over which epsilon falls linearly"""
    alpha: float = 0.6
    """arm prioritized: exponent of the priorities"""
    beta: float = 0.4
    """arm prioritized: exponent of the importance weights at the first update; rises linearly to 1"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        at_least_one = {
            "batch-size": self.batch_size,
            "capacity": self.capacity,
            "target-period": self.target_period,
            "train-period": self.train_period,
            "hidden": min(self.hidden, default=1),
        }
        for flag, value in at_least_one.items():
            _require(value >= 1, flag, value, "at least 1")
        _require(self.learning_rate > 0, "learning-rate", self.learning_rate, "above 0")
        shares = {
            "gamma": self.gamma,
            "epsilon-start": self.epsilon_start,
            "epsilon-end": self.epsilon_end,
            "exploration-fraction": self.exploration_fraction,
            "beta": self.beta,
            "tau": self.tau,
        }
        for flag, share in shares.items():
            _require(0 <= share <= 1, flag, share, "from 0 to 1")
        _require(self.final_learning_rate >= 0, "final-learning-rate", self.final_learning_rate, "0 or more")
        _require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        starts = f"at least the batch size ({self.batch_size})"
        _require(self.learning_starts >= self.batch_size, "learning-starts", self.learning_starts, starts)
        holds = f"at least the batch size ({self.batch_size})"
        _require(self.capacity >= self.batch_size, "capacity", self.capacity, holds)

    def updates(self, steps: int) -> int:
        """How many updates a run of `steps` environment steps makes."""
        return sum(1 for step in range(steps) if self.is_update(step))

    def is_update(self, step: int) -> bool:
        """Whether an update follows environment step `step` (counted from 0)."""
        return step + 1 >= self.learning_starts and (step + 1) % self.train_period == 0


def _require(holds: bool, flag: str, given: object, expected: str) -> None:
    if not holds:
        raise SettingError(f"--{flag}: expected {expected}, given {given}")


@dataclass(frozen=True)
class Episode:
    """A finished episode of one run. `step` counts that run's environment steps, its last one included."""

    seed: int
    episode: int
    step: int
    episode_return: float
    length: int


@dataclass(frozen=True)
class Progress:
    """News from a training in lock step: `step` of its steps are done, `episodes` ended since the last news.

    `losses` holds each seed's latest loss, in the order of the seeds; empty before the first update.
    """

    step: int
    episodes: tuple[Episode, ...]
    losses: tuple[float, ...]


# ---- S networks side by side ---------------------------------------------------------


def initial_parameters(sizes: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    """Weights [S, in, out] and biases [S, 1, out] of each layer, alternating; slice s depends on `seeds[s]` alone.

    Drawn as `torch.nn.Linear` draws them: uniform within ±1/sqrt(in).
    """
    networks: list[list[Tensor]] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        network: list[Tensor] = []
        for inputs, outputs in pairwise(sizes):
            bound = inputs**-0.5
            shapes = ((inputs, outputs), (1, outputs))
            network.extend(torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in shapes)
        networks.append(network)
    return [torch.stack(same_place).requires_grad_() for same_place in zip(*networks, strict=True)]


def q_values(parameters: Sequence[Tensor], obs: Tensor) -> Tensor:
    """Action values [S, B, actions] of observations [S, B, obs], by S multilayer perceptrons at once."""
    hidden = obs
    for layer in range(0, len(parameters), 2):
        if layer > 0:
            hidden = torch.relu(hidden)
        hidden = torch.baddbmm(parameters[layer + 1], hidden, parameters[layer])
    return hidden


# ---- the learning rule ---------------------------------------------------------------


@torch.no_grad()
def td_target(
    reward: Tensor, discount: Tensor, next_obs: Tensor, online: Sequence[Tensor], target: Sequence[Tensor], double: bool
) -> Tensor:
    """`reward + discount * V(next_obs)`, all [S, B]; discount is 0 after termination, gamma otherwise.

    V is the target network's value of the best next action: best by the online network (Double DQN, van Hasselt et
    al. 2016, eq. 4) or by the target network itself (Mnih et al. 2015). A truncated step bootstraps like any other.
    """
    next_values = q_values(target, next_obs)
    judge = q_values(online, next_obs) if double else next_values
    best = judge.argmax(dim=2, keepdim=True)
    return reward + discount * next_values.gather(2, best).squeeze(2)


def epsilon_at(step: int, steps: int, config: DQNConfig) -> float:
    """Probability of a random action at `step`: linear from start to end over the first `exploration_fraction`."""
    ramp = config.exploration_fraction * steps
    done = min(step / ramp, 1.0) if ramp > 0 else 1.0
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * done


def learning_rate_at(step: int, steps: int, config: DQNConfig) -> float:
    """Adam's step size at `step`: linear from `learning_rate` to `final_learning_rate`."""
    return config.learning_rate + (config.final_learning_rate - config.learning_rate) * step / steps


@dataclass
class Learner:
    """The networks of all seeds, their optimizer, and one gradient step."""

    config: DQNConfig
    online: list[Tensor]

    def __post_init__(self) -> None:
        self.target = [parameter.detach().clone() for parameter in self.online]
        self.optimizer = torch.optim.Adam(self.online, lr=self.config.learning_rate, fused=True)
        self.updates = 0

    @torch.no_grad()
    def greedy_actions(self, obs: FloatArray) -> npt.NDArray[np.int64]:
        """The best action [S] for each seed's observation [S, obs]."""
        actions: npt.NDArray[np.int64] = q_values(self.online, torch.from_numpy(obs)[:, None]).argmax(2)[:, 0].numpy()
        return actions

    def update(self, batches: Sequence[rb.Batch], learning_rate: float) -> tuple[FloatArray, list[float]]:
        """One step on a batch per seed. Returns TD errors [S, B] and losses [S] (Huber, weighted, mean over B)."""
        obs, next_obs = _stacked(batches, "obs").flatten(2), _stacked(batches, "next_obs").flatten(2)
        reward, discount, weights = (_stacked(batches, name) for name in ("reward", "discount", "weights"))
        action = _stacked(batches, "action")
        target = td_target(reward, discount, next_obs, self.online, self.target, self.config.double)
        chosen = q_values(self.online, obs).gather(2, action[:, :, None]).squeeze(2)
        losses = (weights * torch.nn.functional.smooth_l1_loss(chosen, target, reduction="none")).mean(1)
        self.optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            torch._foreach_lerp_(self.target, [parameter.detach() for parameter in self.online], self.config.tau)
        return (target - chosen.detach()).numpy(), losses.tolist()


def _stacked(batches: Sequence[rb.Batch], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(batch, name) for batch in batches]))


# ---- the run -------------------------------------------------------------------------


class Environment:
    """One seed's environment with its exploration and its finished episodes.

    The random numbers of exploration are drawn ahead, two per step, so that step t has the same ones in every arm.
    """

    def __init__(self, env_id: str, seed: int, steps: int) -> None:
        self.env = make_env(env_id)
        self.seed = seed
        space = self.env.action_space
        assert isinstance(space, gym.spaces.Discrete)
        self.actions, self.first_action = int(space.n), int(space.start)
        self.dice = np.random.default_rng([seed, 1]).random((steps, 2)).tolist()
        self.obs = _float32(self.env.reset(seed=seed)[0])
        self.episodes: list[Episode] = []
        self.steps = self.length = 0
        self.episode_return = 0.0

    def step(self, greedy_action: int, epsilon: float, buffer: rb.ReplayBuffer) -> None:
        """Take the greedy action, or with probability epsilon a random one, and remember what came of it."""
        explore, which = self.dice[self.steps]
        action = int(which * self.actions) if explore < epsilon else greedy_action
        seen, reward, terminated, truncated, _ = self.env.step(np.int64(action + self.first_action))
        next_obs = _float32(seen)
        buffer.add(self.obs, action, float(reward), next_obs, terminated, truncated)
        self.obs = next_obs
        self.steps += 1
        self.length += 1
        self.episode_return += float(reward)
        if terminated or truncated:
            number = len(self.episodes)
            self.episodes.append(Episode(self.seed, number, self.steps, self.episode_return, self.length))
            self.obs, self.length, self.episode_return = _float32(self.env.reset()[0]), 0, 0.0


def make_env(env_id: str) -> gym.Env[FloatArray, np.int64]:
    """The Gymnasium environment; SettingError unless its actions are Discrete and its observations a Box."""
    try:
        env = gym.make(env_id, disable_env_checker=True)
    except (gym.error.Error, ImportError) as error:
        raise SettingError(f"--env: Gymnasium cannot make {env_id!r}: {error}") from error
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise SettingError(f"--env: expected an environment with Discrete actions, {env_id} has {env.action_space}")
    if not isinstance(env.observation_space, gym.spaces.Box):
        raise SettingError(
            f"--env: expected an environment with Box observations, {env_id} has {env.observation_space}"
        )
    return env


def _float32(obs: object) -> FloatArray:
    return np.asarray(obs, dtype=np.float32).reshape(-1)


def train(
    memory: Memory,
    env_id: str,
    seeds: Sequence[int],
    steps: int,
    config: DQNConfig,
    track: Track | None = None,
    report_period: int = 100,
) -> dict[int, Record]:
    """Train one agent per seed for `steps` environment steps each; the episodes that ended, seed by seed.

    A seed fixes the initial weights, the environment's random numbers, the exploration's and the buffer's, and none of
    them depends on the memory: runs of different memories with the same seed are a pair.
    `track` hears what is new every `report_period` steps; what it raises ends the training.
    """
    environments = [Environment(env_id, seed, steps) for seed in seeds]
    sizes = (environments[0].obs.size, *config.hidden, environments[0].actions)
    learner = Learner(config, initial_parameters(sizes, seeds))
    settings = BufferSettings(
        config.capacity, config.batch_size, config.gamma, config.alpha, config.beta, max(1, config.updates(steps))
    )
    buffers = [memory.make_buffer(settings, seed) for seed in seeds]
    batch_size = memory.batch_size(settings)
    losses: Sequence[float] = ()

    for step in range(steps):
        epsilon = epsilon_at(step, steps, config)
        greedy = learner.greedy_actions(np.stack([environment.obs for environment in environments]))
        for environment, buffer, action in zip(environments, buffers, greedy.tolist(), strict=True):
            environment.step(action, epsilon, buffer)

        if config.is_update(step):
            batches = [buffer.sample(batch_size) for buffer in buffers]
            td_errors, losses = learner.update(batches, learning_rate_at(step, steps, config))
            for buffer, batch, td_error in zip(buffers, batches, td_errors, strict=True):
                buffer.update_priorities(batch.indices, td_error)

        if track and ((step + 1) % report_period == 0 or step + 1 == steps):
            for seed, loss in zip(seeds, losses, strict=bool(losses)):
                track.scalar(seed, "losses/td_loss", loss, step + 1)
            track.progress(step + 1)

    return {environment.seed: {"episodes": as_columns(environment.episodes)} for environment in environments}


def as_columns(episodes: Sequence[Episode]) -> dict[str, list[float]]:
    """The episodes' last step, return and length, a list each."""
    return {
        "step": [e.step for e in episodes],
        "return": [e.episode_return for e in episodes],
        "length": [e.length for e in episodes],
    }
