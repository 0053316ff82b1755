"""DQN on Breakout with a replay buffer that keeps each frame once, in one file.

    pip install -c constraints.txt '.[study]' ale-py && python examples/atari_frames.py

A few copies of the game step together; observations are stacks of the last four frames, 84 × 84 and grey, as in Mnih
et al. (2015). The environment stacks, the agent sees stacks, and `sample` gives stacks: but a row of the buffer holds
only the newest frame, and `rb.FrameStack` rebuilds the rest. Draws are prioritized (Schaul et al. 2016).

This shows where the frames go and what they cost. It is no benchmark of learning: a few thousand frames are a
thousandth of what DQN needs to play this game.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from ale_py.vector_env import AtariVectorEnv
from torch import nn
from torch.nn import functional as F

import replaybank as rb

STACK = 4


@dataclass
class Args:
    """Flags and their defaults."""

    game: str = "breakout"
    """a game that ale-py brings, in its spelling: breakout, pong, space_invaders"""
    seed: int = 1
    """seed of everything"""
    total_steps: int = 4_000
    """steps of all copies together; the game shows four frames in a step, of which the agent sees the last"""
    num_envs: int = 4
    """copies of the game that step together"""
    capacity: int = 3_000
    """transitions remembered"""
    batch_size: int = 32
    """transitions an update"""
    train_frequency: int = 4
    """steps between two updates"""
    learning_starts: int = 500
    """steps before the first update"""
    learning_rate: float = 1e-4
    """step size of Adam"""
    gamma: float = 0.99
    """discount of one step"""
    n_step: int = 3
    """rewards that are added up before bootstrapping"""
    end_e: float = 0.1
    """probability of a random action, to which it falls from 1 over the first half of all steps"""
    target_network_frequency: int = 500
    """steps between two copies of the network into the target network"""


def q_network(actions: int) -> nn.Module:
    """Values of the actions from stacks uint8 [n, 4, 84, 84] (the small network of Mnih et al. 2013)."""
    return nn.Sequential(
        Scale(),
        nn.Conv2d(STACK, 16, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 9 * 9, 256),
        nn.ReLU(),
        nn.Linear(256, actions),
    )


class Scale(nn.Module):
    """Bytes become numbers from 0 to 1 here and not before: that way they take a quarter of the memory."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.float() / 255


class Learner:
    """Double DQN from a buffer."""

    def __init__(self, buffer: rb.ReplayBuffer, actions: int, args: Args) -> None:
        self.buffer = buffer
        self.batch_size = args.batch_size
        self.network = q_network(actions)
        self.target_network = copy.deepcopy(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=args.learning_rate)
        self.losses: list[float] = []
        self.sampled = 0
        self.sampling_seconds = 0.0

    @torch.no_grad()
    def best(self, obs: np.ndarray) -> np.ndarray:
        """The action of the highest value for each environment."""
        return self.network(torch.from_numpy(obs)).argmax(dim=1).numpy()

    def update(self) -> None:
        """One batch: its loss is weighted, and its TD errors become priorities."""
        started = time.perf_counter()
        drawn = self.buffer.sample(self.batch_size)
        self.sampling_seconds += time.perf_counter() - started
        self.sampled += self.batch_size

        batch = drawn.to_torch()
        with torch.no_grad():
            best = self.network(batch.next_obs).argmax(dim=1, keepdim=True)
            following = self.target_network(batch.next_obs).gather(1, best).squeeze(1)
            wanted = batch.reward + batch.discount * following
        values = self.network(batch.obs).gather(1, batch.action[:, None]).squeeze(1)
        td_error = values - wanted
        loss = (batch.weights * F.smooth_l1_loss(values, wanted, reduction="none")).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.buffer.update_priorities(drawn.indices, td_error.detach().numpy())
        self.losses.append(loss.item())


def train(args: Args) -> Learner:
    """Plays, learns and prints."""
    rng = np.random.default_rng(args.seed)
    torch.manual_seed(args.seed)
    # It resizes and stacks by itself; what comes before an episode's first frame is black: padding="zero".
    envs = AtariVectorEnv(
        args.game, args.num_envs, stack_num=STACK, num_threads=1, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    buffer = rb.ReplayBuffer(
        args.capacity,
        rb.schema_of(envs),
        streams=args.num_envs,
        view=rb.FrameStack(STACK, padding="zero", view=rb.NStep(args.n_step, args.gamma)),
        sampler=rb.Prioritized(alpha=0.6, beta=rb.linear(0.4, 1.0, args.total_steps // args.train_frequency)),
        seed=args.seed,
    )
    recorder = rb.Recorder(envs, buffer)
    actions = int(envs.single_action_space.n)
    learner = Learner(buffer, actions, args)

    started = time.perf_counter()
    obs, _ = recorder.reset(seed=args.seed)
    for step in range(0, args.total_steps, args.num_envs):
        epsilon = max(1 - (1 - args.end_e) * step / (0.5 * args.total_steps), args.end_e)
        chance = rng.random(args.num_envs) < epsilon
        action = np.where(chance, rng.integers(0, actions, args.num_envs), learner.best(obs))
        obs, *_ = recorder.step(action)

        if step >= args.learning_starts and step % args.train_frequency < args.num_envs:
            learner.update()
        if step % args.target_network_frequency < args.num_envs:
            learner.target_network.load_state_dict(learner.network.state_dict())
        if learner.losses and step % (args.total_steps // 10) < args.num_envs:
            stats, speed = recorder.stats(), step / (time.perf_counter() - started)
            print(
                f"step {step:6d}  episodes {stats['episodes']:3d}  mean return {stats['mean_return']:5.2f}  "
                f"loss {np.mean(learner.losses[-50:]):.4f}  {speed:4.0f} steps/s",
                flush=True,
            )
    envs.close()
    return learner


def report(learner: Learner) -> None:
    """Where the frames went and what they cost."""
    buffer = learner.buffer
    stats = buffer.stats()
    bytes_each = buffer.nbytes / len(buffer)
    obs = buffer.schema.fields["obs"]
    others = buffer.schema.dtype.itemsize - obs.nbytes
    full = 2 * obs.nbytes + others
    print(f"frames stored: {stats['added']}, of which {len(buffer)} are still there")
    print(f"bytes a transition: {bytes_each:,.0f}; with obs and next_obs kept as full stacks: {full:,}")
    print(f"a million of them: {bytes_each / 1e3:.1f} GB instead of {full / 1e3:.1f} GB")
    if learner.losses:
        rate = learner.sampled / learner.sampling_seconds
        first, last = np.mean(learner.losses[:50]), np.mean(learner.losses[-50:])
        print(f"sampled: {learner.sampled} transitions, {rate:,.0f} a second while it sampled")
        print(f"loss: {first:.4f} over the first 50 updates, {last:.4f} over the last 50")


def main() -> None:
    """Reads the flags, trains, and prints how it ended."""
    torch.set_num_threads(1)  # the cores may be shared, and a second thread helps little
    report(train(tyro.cli(Args)))


if __name__ == "__main__":
    main()
