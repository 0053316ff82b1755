"""Ape-X DQN on a cluster of replay shards, in one file: many actors, one learner (Horgan et al. 2018).

    pip install -c constraints.txt '.[study,ray]' && python examples/apex_dqn.py

That starts a Ray of its own on this machine; `--address auto` (or `host:port`, `ray://host:port`) takes a running one,
all of whose machines need this library, PyTorch and the environment.

Actors play with their own copy of the network, each environment with its own share of random actions. An actor holds
its steps back until it knows the TD errors of the n-step transitions that begin there, and sends both: priorities are
right from the start, and the learner need not look at everything once. The learner draws from all shards as if they
were one buffer, and now and then puts its parameters into Ray's object store, where the actors find them.

Unlike the paper: Adam, with a step size that falls; n-step transitions are made when sampling; and samples per insert
are held at a fixed ratio, so that what is learnt depends little on how fast which process is.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
import tyro
from torch import nn
from torch.nn import functional as F

import replaybank as rb
from replaybank.ray import RateLimit, ReplayCluster, Writer

Array = np.ndarray


@dataclass
class Args:
    """Flags and their defaults."""

    env: str = "CartPole-v1"
    """an environment with Discrete actions and flat observations, or MinAtar's, such as MinAtar/Breakout-v1"""
    address: str | None = None
    """a running Ray cluster; without it, one is started on this machine"""
    seed: int = 1
    """seed of networks, environments, exploration and draws; processes race all the same, so no two runs are equal"""
    total_steps: int = 80_000
    """environment steps of all actors together"""
    actors: int = 2
    """processes that play"""
    num_envs: int = 8
    """copies of the environment that an actor steps together; each counts as one actor of the paper's"""
    shards: int = 2
    """replay shards, a process each"""
    capacity: int = 50_000
    """transitions remembered, over all shards"""
    batch_size: int = 64
    """transitions an update"""
    samples_per_insert: float = 16.0
    """transitions learnt from for each one that is added"""
    learning_starts: int = 1_000
    """transitions added before the first update"""
    learning_rate: float = 2e-3
    """step size of Adam at the first update, from which it falls to 0 in a straight line"""
    gamma: float = 0.99
    """discount of one step"""
    n_step: int = 3
    """rewards that are added up before bootstrapping"""
    target_network_frequency: int = 100
    """updates between two copies of the network into the target network"""
    publish_frequency: int = 20
    """updates between two publications of the parameters"""
    fetch_frequency: int = 50
    """steps of an actor between two looks for new parameters"""
    evaluation_episodes: int = 50
    """episodes played at the end, without random actions, and as many with nothing else"""


def epsilons(n: int, base: float = 0.4, slope: float = 7.0) -> Array:
    """Probability of a random action of each of n actors: base ** (1 + slope * i / (n - 1)) (Horgan et al., sec. 4.1).

    float64 [n], falling; of a single actor it is `base`.
    """
    return base ** (1 + slope * np.arange(n) / max(n - 1, 1))


def n_step_td_errors(
    values: Array, next_values: Array, reward: Array, terminated: Array, truncated: Array, n: int, gamma: float
) -> Array:
    """TD errors of the n-step transitions that begin at the first T - n + 1 of T steps of E streams.

    values: of the actions taken, Q(s_t, a_t); next_values: max_a Q(s', a), s' being what step t led to; all are
    [T, E], and so are reward and flags. A window stops at an end; after a truncation it bootstraps, after a
    termination it does not. Returns float64 [T - n + 1, E].
    """
    starts = len(values) - n + 1
    returns = np.zeros((starts, *values.shape[1:]))
    running = np.ones(returns.shape, bool)
    for i in range(n):
        at = slice(i, i + starts)
        last = terminated[at] | truncated[at] | (i == n - 1)
        following = np.where(last & ~terminated[at], gamma ** (i + 1) * next_values[at], 0.0)
        returns += np.where(running, gamma**i * reward[at] + following, 0.0)
        running &= ~last
    return returns - values[:starts]


class DuelingNetwork(nn.Module):
    """Values of the actions, as V + A - mean A (Wang et al. 2016, eq. 9).

    Flat observations, or MinAtar's rows x columns x channels, for which there is a convolution (Young & Tian 2019).
    """

    def __init__(self, envs: gym.vector.VectorEnv, hidden: int = 128) -> None:
        super().__init__()
        obs_shape, actions = envs.single_observation_space.shape, int(envs.single_action_space.n)
        self.conv = nn.Conv2d(obs_shape[-1], 16, 3) if len(obs_shape) == 3 else None
        inputs = 16 * (obs_shape[0] - 2) * (obs_shape[1] - 2) if self.conv else int(np.prod(obs_shape))
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU())
        self.value = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.advantage = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, actions))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """float32 [n, actions] from obs [n, ...] of any dtype."""
        seen = obs.float()
        if self.conv is not None:
            seen = F.relu(self.conv(seen.permute(0, 3, 1, 2)))
        features = self.body(seen)
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)


def make_envs(env_id: str, num_envs: int) -> gym.vector.VectorEnv:
    """Copies of the environment in which what has ended starts anew in the same step."""
    if env_id.startswith("MinAtar/") and env_id not in gym.registry:
        logging.disable(logging.WARNING)  # it warns that it cannot draw where seaborn is missing
        from minatar.gym import register_envs

        logging.disable(logging.NOTSET)
        register_envs()
    same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    return gym.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs=same_step)


class Prioritizing:
    """Stands where a recorder has its buffer: holds steps back until their TD errors are known, then adds them."""

    def __init__(self, writer: Writer, network: nn.Module, args: Args) -> None:
        self.writer, self.network = writer, network
        self.n, self.gamma, self.streams = args.n_step, args.gamma, args.num_envs
        self.at_once = 16  # steps that are given their priorities together
        self.held: list[tuple[Array, ...]] = []

    def add(self, *step: Array) -> None:
        """obs, action, reward, next_obs, terminated, truncated: arrays [streams, ...]."""
        self.held.append(step)
        if len(self.held) < self.at_once + self.n - 1:
            return
        obs, action, reward, next_obs, terminated, truncated = map(np.stack, zip(*self.held, strict=True))
        values = np.take_along_axis(self._values(obs), action[..., None], axis=2)[..., 0]
        next_values = self._values(next_obs).max(axis=2)
        td_errors = n_step_td_errors(values, next_values, reward, terminated, truncated, self.n, self.gamma)
        for held, td_error in zip(self.held, td_errors, strict=False):
            self.writer.add(*held, td_error=td_error)
        del self.held[: len(td_errors)]

    def end(self, mask: Array) -> None:
        """Of the first reset; there is no other."""

    @torch.no_grad()
    def _values(self, obs: Array) -> Array:
        """float32 [T, streams, actions] from obs [T, streams, ...]."""
        values = self.network(torch.from_numpy(obs).flatten(0, 1))
        return values.unflatten(0, obs.shape[:2]).numpy()


@ray.remote(num_cpus=0)
class Board:
    """Where the learner leaves word of its parameters, and the actors of what they have played."""

    def __init__(self) -> None:
        self.parameters: list[ray.ObjectRef] = []
        self.episodes: list[tuple[int, float]] = []

    def publish(self, parameters: list[ray.ObjectRef]) -> list[tuple[int, float]]:
        """Takes the reference, in a list so that it stays one; gives the episodes since, (environment, return) each."""
        self.parameters = parameters
        episodes, self.episodes = self.episodes, []
        return episodes

    def visit(self, episodes: list[tuple[int, float]]) -> list[ray.ObjectRef]:
        """Takes the episodes that ended since the last visit; gives what `publish` was given last."""
        self.episodes += episodes
        return self.parameters


# Should its process or its machine die, Ray starts the actor anew and calls `play` again, with the same arguments.
@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
class Actor:
    """Plays in the environments number, number + actors, number + 2 actors, … of all."""

    def __init__(self, args: Args, number: int) -> None:
        torch.set_num_threads(1)
        self.args = args
        self.numbers = np.arange(number, args.actors * args.num_envs, args.actors)
        self.epsilons = epsilons(args.actors * args.num_envs)[self.numbers]
        self.rng = np.random.default_rng([args.seed, number])
        self.envs = make_envs(args.env, args.num_envs)
        self.network = DuelingNetwork(self.envs)

    def play(self, cluster: ReplayCluster, board: Any) -> None:
        """Steps the environments, sends what happened, and looks for new parameters, until there are none."""
        writer = cluster.writer(streams=self.args.num_envs, pending=256)
        recorder = rb.Recorder(self.envs, Prioritizing(writer, self.network, self.args))
        episodes: list[tuple[int, float]] = []
        obs, _ = recorder.reset(seed=int(self.rng.integers(2**31)))
        actions = int(self.envs.single_action_space.n)
        step = 0
        while True:
            if step % self.args.fetch_frequency == 0:
                parameters = ray.get(board.visit.remote(episodes))
                if not parameters:
                    return writer.close()
                vector = torch.tensor(ray.get(parameters[0]))
                nn.utils.vector_to_parameters(vector, self.network.parameters())
                episodes = []
            chance = self.rng.random(len(obs)) < self.epsilons
            action = np.where(chance, self.rng.integers(0, actions, len(obs)), best(self.network, obs))
            obs, *_ = recorder.step(action)
            episodes += [(int(self.numbers[ended.env]), float(ended.episodic_return)) for ended in recorder.ended]
            step += 1


@torch.no_grad()
def best(network: nn.Module, obs: Array) -> Array:
    """The action of the highest value for each environment."""
    return network(torch.from_numpy(obs)).argmax(dim=1).numpy()


class Learner:
    """Double DQN (van Hasselt et al. 2016)."""

    def __init__(self, network: nn.Module, learning_rate: float, updates: int) -> None:
        self.network = network
        self.target_network = copy.deepcopy(network)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=updates)

    def update(self, batch: rb.Batch) -> tuple[Array, float]:
        """One step of gradient descent; gives the TD errors [n] and the loss."""
        tensors = batch.to_torch()
        with torch.no_grad():
            chosen = self.network(tensors.next_obs).argmax(dim=1, keepdim=True)
            following = self.target_network(tensors.next_obs).gather(1, chosen).squeeze(1)
            wanted = tensors.reward + tensors.discount * following
        td_error = wanted - self.network(tensors.obs).gather(1, tensors.action[:, None]).squeeze(1)
        loss = (tensors.weights * td_error**2).mean() / 2
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 40.0)
        self.optimizer.step()
        self.schedule.step()
        return td_error.detach().numpy(), loss.item()

    def parameters(self) -> ray.ObjectRef:
        """Puts them into the object store, as one vector."""
        return ray.put(nn.utils.parameters_to_vector(self.network.parameters()).detach().numpy())


def learn(args: Args, learner: Learner, updates: int, cluster: ReplayCluster) -> dict[str, Any]:
    """Has actors play, learns from what they add, and prints; gives what the cluster says of itself at the end."""
    board = Board.remote()
    ray.get(board.publish.remote([learner.parameters()]))
    actors = [Actor.remote(args, number) for number in range(args.actors)]
    playing = [actor.play.remote(cluster, board) for actor in actors]
    copies = args.actors * args.num_envs
    greediest = range(copies - max(copies // 4, 1), copies)  # the quarter with the fewest random actions
    returns: deque[float] = deque(maxlen=100)
    losses: deque[float] = deque(maxlen=1000)
    reader = cluster.reader()
    with reader.batches(args.batch_size, prefetch=4) as batches:
        for update in range(1, updates + 1):
            batch = next(batches)
            if update == 1:
                begin = last = time.perf_counter()
            td_error, loss = learner.update(batch)
            reader.update_priorities(batch.indices, td_error, wait=False)
            losses.append(loss)
            if update % args.target_network_frequency == 0:
                learner.target_network.load_state_dict(learner.network.state_dict())
            if update % args.publish_frequency == 0:
                episodes = ray.get(board.publish.remote([learner.parameters()]))
                returns.extend(value for number, value in episodes if number in greediest)
                failed, _ = ray.wait(playing, timeout=0)
                ray.get(failed)  # by now nobody ends but by an error, which this raises
            now = time.perf_counter()
            if now - last >= 10 or update == updates:
                last = now
                report(update, now - begin, cluster.stats(), returns, losses)

    ray.get(board.publish.remote([]))
    while ray.wait(playing, num_returns=len(playing), timeout=0)[1]:
        # Whoever waits to add can go on, and look at the board. ValueError: those that answered in time were empty.
        with suppress(TimeoutError, ValueError):
            reader.sample(args.batch_size, timeout=1.0)
    ray.get(playing)
    reader.close()
    return cluster.stats()


def report(update: int, seconds: float, stats: dict[str, Any], returns: deque[float], losses: deque[float]) -> None:
    """Prints a line. Speeds are those since the first update; what shards say of themselves is up to a second old."""
    told = max(stats["updated"] + stats["stale"], 1)
    print(
        f"{seconds:5.0f} s  update {update:6d}  steps {stats['inserted']:8d}  "
        f"last {len(returns):3d} episodes of the greediest: {np.mean(returns) if returns else np.nan:6.1f}  "
        f"loss {np.mean(losses):.3f}  {update / seconds:4.0f} updates/s  {stats['inserted'] / seconds:5.0f} steps/s  "
        f"SPI {stats['rate_limit']['measured']:.2f}  stale {stats['stale'] / told:.2%}  lost {stats['lost']}",
        flush=True,
    )


def evaluate(args: Args, policy: Callable[[Array], Array], most_steps: int = 10_000) -> float:
    """The mean return of the first episode in each of several environments; of endless ones, as far as they came."""
    envs = make_envs(args.env, args.evaluation_episodes)
    obs, _ = envs.reset(seed=10_000 + args.seed)
    returns = np.zeros(args.evaluation_episodes)
    running = np.ones(args.evaluation_episodes, bool)
    for _ in range(most_steps):
        obs, reward, terminated, truncated, _ = envs.step(policy(obs))
        returns += np.where(running, reward, 0.0)
        running &= ~(terminated | truncated)
        if not running.any():
            break
    envs.close()
    return float(returns.mean())


def train(args: Args) -> dict[str, Any]:
    """Plays, learns and evaluates; gives the figures of the end."""
    updates = int((args.total_steps - args.learning_starts) * args.samples_per_insert / args.batch_size)
    if updates < 1:
        least = args.learning_starts + int(np.ceil(args.batch_size / args.samples_per_insert))
        raise ValueError(f"total_steps: expected {least} or more, enough for one update, given {args.total_steps}")
    torch.manual_seed(args.seed)
    envs = make_envs(args.env, 1)
    learner = Learner(DuelingNetwork(envs), args.learning_rate, updates)
    with ReplayCluster(
        shards=args.shards,
        capacity=args.capacity,
        schema=rb.schema_of(envs),
        sampler=rb.Prioritized(alpha=0.6, beta=0.4),
        view=rb.NStep(args.n_step, args.gamma),
        samples_per_insert=RateLimit(args.samples_per_insert, min_size=args.learning_starts),
        seed=args.seed,
    ) as cluster:
        stats = learn(args, learner, updates, cluster)
    rng = np.random.default_rng(args.seed)
    greedy = evaluate(args, lambda obs: best(learner.network, obs))
    chance = evaluate(args, lambda obs: rng.integers(0, envs.single_action_space.n, len(obs)))
    print(f"mean return of {args.evaluation_episodes} episodes: {greedy:.1f}; with random actions only: {chance:.1f}")
    return {"updates": updates, "greedy": greedy, "random": chance, "stats": stats}


def main() -> None:
    """Reads the flags, starts Ray or finds it, and trains: here, or with ray:// in a task of the cluster."""
    args = tyro.cli(Args)
    torch.set_num_threads(1)  # the networks are too small to share
    far = args.address is not None and args.address.startswith("ray://")
    if args.address is None:
        ray.init(num_cpus=args.actors + 1, include_dashboard=False, log_to_driver=False)
    else:
        ray.init(args.address, log_to_driver=far)
    try:
        if far:
            ray.get(ray.remote(train).remote(args))
        else:
            train(args)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
