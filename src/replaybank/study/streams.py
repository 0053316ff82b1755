"""One agent's stream, learned from by several learners at once, and looked at on the way.

One learner acts; every learner, with weights of its own that begin alike, learns from the same transitions through its
own memory (an agent and its passive tandem: Ostrovski et al. 2021). So learners differ in what they draw from a stream
and not in the stream. At some steps training halts for a look at the stream and at what each learner knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import replaybank as rb
from replaybank.study import dqn, networks
from replaybank.study.dqn import DQNConfig, Learner
from replaybank.study.environments import Environment
from replaybank.study.memories import MEMORIES, Memory

Floats = npt.NDArray[np.float32]

LEARNERS: dict[str, Memory] = {
    "online": MEMORIES["online"],
    "single": Memory(
        "single", "one transition drawn from everything (batch 1)", MEMORIES["uniform"].make_buffer, lambda settings: 1
    ),
    "recent": MEMORIES["recent"],
    "uniform": MEMORIES["uniform"],
}
"""Batch 1 or a whole one, by the latest or by all experience: 2 x 2."""


@dataclass(frozen=True)
class Past:
    """All that one seed's agent has lived through, oldest first: n transitions."""

    obs: Floats
    action: npt.NDArray[np.int64]
    reward: Floats
    discount: Floats
    next_obs: Floats
    terminated: npt.NDArray[np.bool_]
    episode: npt.NDArray[np.int64]
    """[n]: number of the episode"""
    draw: Callable[[int], npt.NDArray[np.int64]]
    """so many ids, drawn uniformly from all"""

    def __len__(self) -> int:
        return len(self.obs)


@dataclass(frozen=True)
class Look:
    """A moment of training in lock step: after `step` steps, the seed at place `place`. Holds while training halts."""

    step: int
    place: int
    past: Past
    learners: dict[str, Learner]

    def parameters(self, name: str) -> list[Floats]:
        """The weights [in, out] and biases [1, out] of a learner's network."""
        return [parameter.detach()[self.place].numpy() for parameter in self.learners[name].online]

    @torch.no_grad()
    def values_and_targets(self, name: str) -> tuple[Floats, Floats]:
        """What a learner's network says of every transition, Q(obs, action) and its TD target, both [n]."""
        learner, past = self.learners[name], self.past
        online, target = (
            [parameter.detach()[self.place, None] for parameter in network]
            for network in (learner.online, learner.target)
        )
        obs, next_obs, reward, discount = (
            torch.from_numpy(array)[None] for array in (past.obs, past.next_obs, past.reward, past.discount)
        )
        action = torch.from_numpy(past.action)[None, :, None]
        values: Tensor = learner.q_values(online, obs).gather(2, action)[0, :, 0]
        targets = dqn.td_target(reward, discount, next_obs, online, target, learner.config.double)[0]
        return values.numpy(), targets.numpy()


def look_updates(updates: int, looks: int, target_period: int) -> list[int]:
    """After which of so many `updates` to look: evenly, up to the end, in the middle between two target copies.

    Right after a copy the TD error is another one than right before it; in the middle it is a typical one.
    """
    copies = [updates * k // looks // target_period for k in range(1, looks + 1)]
    return [copy * target_period - target_period // 2 for copy in copies]


class Life:
    """The learners `names` on the streams of `actor`, one of them: a stream and a network of each for every seed.

    What a seed fixes is what it fixes in dqn.train, so lives of different actors with the same seed are pairs: up to
    the first update they are the same.
    """

    def __init__(
        self, env_id: str, seeds: Sequence[int], steps: int, config: DQNConfig, actor: str, names: Sequence[str]
    ) -> None:
        self.steps, self.config = steps, config
        self.environments = [Environment(env_id, seed, steps) for seed in seeds]
        first = self.environments[0]
        network = networks.make_network(config.network, first.obs.shape, config.hidden, first.actions)
        settings = dqn.buffer_settings(config, steps)
        self.learners = {name: Learner(config, network.initial(seeds), network.q_values) for name in names}
        self.buffers = {name: [LEARNERS[name].make_buffer(settings, seed) for seed in seeds] for name in names}
        self.batch_sizes = {name: LEARNERS[name].batch_size(settings) for name in names}
        view = rb.Transition(gamma=config.gamma)
        self.streams = [rb.ReplayBuffer(steps, view=view, seed=[seed, 2]) for seed in seeds]
        self.actor = self.learners[actor]

    def looks(self, count: int, report: Callable[[int], None]) -> Iterator[Look]:
        """Train for all steps, and halt so many times for a look at every seed. `report` hears of the steps done."""
        torch.set_flush_denormal(True)  # as dqn.train: means of gradients that vanished would be slow numbers for ever
        moments = set(look_updates(self.config.updates(self.steps), count, self.config.target_period))
        for step in range(self.steps):
            self._act(step)
            if self.config.is_update(step):
                self._learn(step)
                if self.actor.updates in moments:
                    for place, stream in enumerate(self.streams):
                        yield Look(step + 1, place, past_of(stream), self.learners)
            if (step + 1) % dqn.TOLD_EVERY == 0 or step + 1 == self.steps:
                report(step + 1)

    def _act(self, step: int) -> None:
        epsilon = dqn.epsilon_at(step, self.steps, self.config)
        greedy = self.actor.greedy_actions(np.stack([environment.obs for environment in self.environments])).tolist()
        for place, stream in enumerate(self.streams):
            self.environments[place].step(greedy[place], epsilon, stream)
            new = stream.read([step])
            values = [new[name][0] for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated")]
            for buffers in self.buffers.values():
                buffers[place].add(*values)

    def _learn(self, step: int) -> None:
        learning_rate = dqn.learning_rate_at(step, self.steps, self.config)
        for name, learner in self.learners.items():
            learner.update([buffer.sample(self.batch_sizes[name]) for buffer in self.buffers[name]], learning_rate)


def past_of(stream: rb.ReplayBuffer) -> Past:
    """All transitions of a buffer that has lost none."""
    all_ids = np.arange(len(stream))
    batch = stream.read(all_ids)
    ended = (batch.terminated | batch.truncated).astype(np.int64)
    return Past(
        obs=batch.obs,
        action=batch.action,
        reward=batch.reward,
        discount=batch.discount,
        next_obs=batch.next_obs,
        terminated=batch.terminated,
        episode=np.cumsum(ended) - ended,
        draw=lambda count: stream.sample(count).indices,
    )
