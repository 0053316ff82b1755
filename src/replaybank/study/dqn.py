"""DQN, to be read from top to bottom: several seeds train side by side, in lock step, in one process.

Everything that belongs to one seed (weights, environment, exploration, replay buffer) is its own. Only the arithmetic
is shared: the weights of S networks are stacked as [S, in, out], so that one product serves a layer of all of them.
The loss is the sum of the seeds' losses, so no gradient crosses from one seed to another, and the optimizers work
element by element: S networks in lock step learn what S networks would learn one by one.

A training in MinAtar can be interrupted at any step and goes on to the same end: `train` keeps checkpoints
(unfinished.py). In other environments, whose state cannot be told as plain values, an interrupted training starts anew.

Sources: Mnih et al. 2015 (DQN, target network, epsilon schedule); van Hasselt et al. 2016 (Double DQN, eq. 4);
Schaul et al. 2016 (importance weights, alg. 1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, smooth_l1_loss

import replaybank as rb
from replaybank.study import SettingError, networks, optimizers
from replaybank.study.base import Record, Stopped, Track
from replaybank.study.environments import Environment
from replaybank.study.memories import BufferSettings, Memory
from replaybank.study.networks import QValues
from replaybank.study.unfinished import Training

FloatArray = npt.NDArray[np.float32]
Loss = Literal["huber", "squared"]
KEPT_EVERY = 50_000
"""Environment steps between two checkpoints of a training that can be kept."""
TOLD_EVERY = 100
"""Environment steps after which a run says how far it is."""


@dataclass(frozen=True)
class DQNConfig:
    """How an agent learns, whatever its memory."""

    learning_rate: float = 2e-3
    """step size of the optimizer at the start"""
    final_learning_rate: float = 0.0
    """step size at the last step; in between it falls (or rises) linearly"""
    gamma: float = 0.99
    """discount per step"""
    batch_size: int = 64
    """transitions per update (memory online: 1)"""
    capacity: int = 20_000
    """transitions remembered (memories online and recent: one, and one batch)"""
    hidden: tuple[int, ...] = (256, 64)
    """network mlp: width of each hidden layer (ReLU)"""
    network: networks.Kind = "mlp"
    """fully connected layers, or MinAtar's convolutional network (observations of rows x columns x channels)"""
    optimizer: optimizers.Kind = "adam"
    """Adam, or RMSProp as DQN has it: centred, decay and momentum .95, .01 in the denominator"""
    loss: Loss = "huber"
    """of a TD error: Huber (quadratic up to 1, then linear), or its square"""
    n_step: int = 1
    """steps of a return before it bootstraps"""
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
    exploration_starts: int = 0
    """environment steps before epsilon begins to fall"""
    epsilon_end: float = 0.01
    """probability of a random action once exploration has ended"""
    exploration_fraction: float = 0.1
    """share of all steps over which epsilon falls linearly"""
    alpha: float = 0.6
    """prioritized memories: exponent of the priorities"""
    beta: float = 0.4
    """prioritized memories: exponent of the importance weights at the first update; rises linearly to 1"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        at_least_one = {
            "batch-size": self.batch_size,
            "capacity": self.capacity,
            "target-period": self.target_period,
            "train-period": self.train_period,
            "n-step": self.n_step,
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
        _require(self.exploration_starts >= 0, "exploration-starts", self.exploration_starts, "0 or more")
        kinds = {
            "network": (self.network, networks.Kind),
            "optimizer": (self.optimizer, optimizers.Kind),
            "loss": (self.loss, Loss),
        }
        for flag, (given, kind) in kinds.items():
            _require(given in get_args(kind), flag, given, " or ".join(get_args(kind)))
        a_batch = f"at least the batch size ({self.batch_size})"
        _require(self.learning_starts >= self.batch_size, "learning-starts", self.learning_starts, a_batch)
        _require(self.capacity >= self.batch_size, "capacity", self.capacity, a_batch)

    def updates(self, steps: int) -> int:
        """How many updates a run of `steps` environment steps makes."""
        return sum(1 for step in range(steps) if self.is_update(step))

    def is_update(self, step: int) -> bool:
        """Whether an update follows environment step `step` (counted from 0)."""
        return step + 1 >= self.learning_starts and (step + 1) % self.train_period == 0


def _require(holds: bool, flag: str, given: object, expected: str) -> None:
    if not holds:
        raise SettingError(f"--{flag}: expected {expected}, given {given}")


# ---- the learning rule ---------------------------------------------------------------


@torch.no_grad()
def td_target(
    reward: Tensor,
    discount: Tensor,
    next_obs: Tensor,
    online: Sequence[Tensor],
    target: Sequence[Tensor],
    double: bool,
    q_values: QValues = networks.mlp_values,
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
    """Probability of a random action: linear over `exploration_fraction` of all steps, from `exploration_starts` on."""
    ramp = config.exploration_fraction * steps
    passed = max(step - config.exploration_starts, 0)
    done = min(passed / ramp, 1.0) if ramp > 0 else 1.0
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * done


def learning_rate_at(step: int, steps: int, config: DQNConfig) -> float:
    """The optimizer's step size at `step`: linear from `learning_rate` to `final_learning_rate`."""
    return config.learning_rate + (config.final_learning_rate - config.learning_rate) * step / steps


@dataclass
class Learner:
    """The networks of all seeds, their optimizer, and one gradient step."""

    config: DQNConfig
    online: list[Tensor]
    q_values: QValues = networks.mlp_values

    def __post_init__(self) -> None:
        self.target = [parameter.detach().clone() for parameter in self.online]
        self.optimizer = optimizers.make_optimizer(self.config.optimizer, self.online)
        self.updates = 0

    def state(self) -> dict[str, Any]:
        """All that the next updates depend on: tensors and plain values."""
        return {
            "online": self.online,
            "target": self.target,
            "optimizer": self.optimizer.state(),
            "updates": self.updates,
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of a learner of the same shape."""
        for name in ("online", "target"):
            for parameter, loaded in zip(getattr(self, name), state[name], strict=True):
                parameter.copy_(loaded)
        self.optimizer.load(state["optimizer"])
        self.updates = state["updates"]

    @torch.no_grad()
    def greedy_actions(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The best action [S] for each seed's observation [S, ...]."""
        values = self.q_values(self.online, torch.from_numpy(obs)[:, None])
        actions: npt.NDArray[np.int64] = values.argmax(2)[:, 0].numpy()
        return actions

    def update(self, batches: Sequence[rb.Batch], learning_rate: float) -> tuple[FloatArray, list[float]]:
        """One step on a batch per seed. Returns TD errors [S, B] and losses [S] (weighted, mean over B)."""
        obs, next_obs = _stacked(batches, "obs"), _stacked(batches, "next_obs")
        reward, discount, weights = (_stacked(batches, name) for name in ("reward", "discount", "weights"))
        action = _stacked(batches, "action")
        target = td_target(reward, discount, next_obs, self.online, self.target, self.config.double, self.q_values)
        chosen = self.q_values(self.online, obs).gather(2, action[:, :, None]).squeeze(2)
        distance = smooth_l1_loss if self.config.loss == "huber" else mse_loss
        losses = (weights * distance(chosen, target, reduction="none")).mean(1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(learning_rate)
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            torch._foreach_lerp_(self.target, [parameter.detach() for parameter in self.online], self.config.tau)
        return (target - chosen.detach()).numpy(), losses.tolist()


def _stacked(batches: Sequence[rb.Batch], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(batch, name) for batch in batches]))


# ---- the run -------------------------------------------------------------------------


def train(
    memory: Memory,
    env_id: str,
    seeds: Sequence[int],
    steps: int,
    config: DQNConfig,
    track: Track | None = None,
) -> dict[int, Record]:
    """Train one agent per seed for `steps` environment steps each; the episodes that ended, seed by seed.

    A seed fixes the initial weights, the environment's random numbers, the exploration's and the buffer's, and none of
    them depends on the memory: runs of different memories with the same seed are a pair.
    `track` hears what is new every `TOLD_EVERY` steps, and keeps checkpoints in its folder where the environment
    allows: every `KEPT_EVERY` steps, and when it raises Stopped. The next call with the same arguments goes on from the
    latest one and ends as if it had never been interrupted. Raises SettingError for observations that are none for
    the network.
    """
    torch.set_flush_denormal(True)  # the optimizers' means of gradients that vanished would be slow numbers for ever
    training = begin(memory, env_id, seeds, steps, config)
    environments, learner = training.environments, training.learner
    batch_size = memory.batch_size(buffer_settings(config, steps))
    if track and training.can_be_kept and training.load(track.folder):
        track.begin(training.step)
    news = News(environments, training.step)
    losses: Sequence[float] = ()

    for step in range(training.step, steps):
        epsilon = epsilon_at(step, steps, config)
        greedy = learner.greedy_actions(np.stack([environment.obs for environment in environments]))
        for environment, buffer, action in zip(environments, training.buffers, greedy.tolist(), strict=True):
            environment.step(action, epsilon, buffer)

        if config.is_update(step):
            batches = [buffer.sample(batch_size) for buffer in training.buffers]
            td_errors, losses = learner.update(batches, learning_rate_at(step, steps, config))
            for buffer, batch, td_error in zip(training.buffers, batches, td_errors, strict=True):
                buffer.update_priorities(batch.indices, td_error)

        training.step = step + 1
        if track and (training.step % TOLD_EVERY == 0 or training.step == steps):
            news.tell(track, training.step, losses)
            try:
                track.progress(training.step)
            except Stopped:
                if training.can_be_kept:
                    training.save(track.folder)
                raise
        if track and training.step % KEPT_EVERY == 0 and training.step < steps and training.can_be_kept:
            training.save(track.folder)

    return {environment.seed: {"episodes": environment.episodes} for environment in environments}


def begin(memory: Memory, env_id: str, seeds: Sequence[int], steps: int, config: DQNConfig) -> Training[Learner]:
    """A training before its first step."""
    environments = [Environment(env_id, seed, steps) for seed in seeds]
    shape, actions = environments[0].obs.shape, environments[0].actions
    try:
        network = networks.make_network(config.network, shape, config.hidden, actions)
    except ValueError as error:
        raise SettingError(f"--network: {config.network} in {env_id}: {error}") from error
    settings = buffer_settings(config, steps)
    asked = {"env": env_id, "seeds": list(seeds), "steps": steps, "memory": memory.name, "dqn": asdict(config)}
    return Training(
        asked=json.loads(json.dumps(asked)),
        environments=environments,
        learner=Learner(config, network.initial(seeds), network.q_values),
        buffers=[memory.make_buffer(settings, seed) for seed in seeds],
    )


def buffer_settings(config: DQNConfig, steps: int) -> BufferSettings:
    """What the buffers need to know of a run of that many steps."""
    return BufferSettings(
        capacity=config.capacity,
        batch_size=config.batch_size,
        gamma=config.gamma,
        alpha=config.alpha,
        beta=config.beta,
        updates=max(1, config.updates(steps)),
        n_step=config.n_step,
    )


class News:
    """What a training has not told yet."""

    def __init__(self, environments: Sequence[Environment], step: int) -> None:
        self.environments = environments
        self.told = [len(environment.episodes["step"]) for environment in environments]
        self.began, self.first = perf_counter(), step

    def tell(self, track: Track, step: int, losses: Sequence[float]) -> None:
        """Each episode that has ended since the last time, the latest losses, and steps per second of each seed."""
        speed = (step - self.first) / (perf_counter() - self.began)
        for k, environment in enumerate(self.environments):
            episodes, seed = environment.episodes, environment.seed
            for number in range(self.told[k], len(episodes["step"])):
                ended = int(episodes["step"][number])
                track.scalar(seed, "charts/episodic_return", episodes["return"][number], ended)
                track.scalar(seed, "charts/episodic_length", episodes["length"][number], ended)
            self.told[k] = len(episodes["step"])
            if losses:
                track.scalar(seed, "losses/td_loss", losses[k], step)
            track.scalar(seed, "charts/SPS", speed, step)
