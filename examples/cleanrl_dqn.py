"""DQN on CartPole in one file, in the shape of CleanRL's `dqn.py`: of the memory, only the import is ours.

    pip install -c constraints.txt '.[study]' && python examples/cleanrl_dqn.py

CleanRL has `from cleanrl_utils.buffers import ReplayBuffer`. The rest of the memory's lines (the constructor, `add`
with `real_next_obs` and `terminations`, `sample` and the five names of its tensors) are as they are there.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional as F

from replaybank.adapters.cleanrl import ReplayBuffer


@dataclass
class Args:
    """Flags and their defaults."""

    seed: int = 1
    """seed of everything"""
    env_id: str = "CartPole-v1"
    """an environment with a flat Box of observations and Discrete actions"""
    num_envs: int = 1
    """environment copies that step together"""
    total_timesteps: int = 10_000
    """steps of all copies together"""
    learning_rate: float = 1e-3
    """step size of Adam"""
    buffer_size: int = 10_000
    """transitions remembered"""
    gamma: float = 0.99
    """discount of one step"""
    target_network_frequency: int = 200
    """steps between two copies of the network into the target network"""
    batch_size: int = 128
    """transitions an update"""
    start_e: float = 1.0
    """probability of a random action at the first step"""
    end_e: float = 0.05
    """probability of a random action once exploration has ended"""
    exploration_fraction: float = 0.3
    """share of all steps over which exploration falls"""
    learning_starts: int = 500
    """steps before the first update"""
    train_frequency: int = 2
    """steps between two updates"""


def q_network(envs: gym.vector.VectorEnv) -> nn.Module:
    """A value for each action."""
    inputs = int(np.prod(envs.single_observation_space.shape))
    outputs = int(envs.single_action_space.n)
    return nn.Sequential(nn.Linear(inputs, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, outputs))


def epsilon_at(step: int, args: Args) -> float:
    """The probability of a random action: from start_e to end_e in a straight line."""
    done = step / max(args.exploration_fraction * args.total_timesteps, 1)
    return max(args.start_e + (args.end_e - args.start_e) * done, args.end_e)


def train(args: Args) -> list[float]:
    """Learns, prints, and gives the return of each finished episode."""
    random.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002, as CleanRL does; the buffer's draws follow from it
    torch.manual_seed(args.seed)

    envs = gym.make_vec(
        args.env_id,
        args.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
        wrappers=[gym.wrappers.RecordEpisodeStatistics],
    )
    envs.single_action_space.seed(args.seed)
    network, target_network = q_network(envs), q_network(envs)
    target_network.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate)
    rb = ReplayBuffer(
        args.buffer_size,
        envs.single_observation_space,
        envs.single_action_space,
        "cpu",
        n_envs=args.num_envs,
        handle_timeout_termination=False,
    )

    returns: list[float] = []
    started = time.perf_counter()
    obs, _ = envs.reset(seed=args.seed)
    for global_step in range(0, args.total_timesteps, args.num_envs):
        if random.random() < epsilon_at(global_step, args):
            actions = np.array([envs.single_action_space.sample() for _ in range(args.num_envs)])
        else:
            with torch.no_grad():
                actions = network(torch.as_tensor(obs)).argmax(dim=1).numpy()
        next_obs, rewards, terminations, truncations, infos = envs.step(actions)

        # Where an episode ended, next_obs is already the next one's reset.
        real_next_obs = next_obs.copy()
        for i in np.flatnonzero(terminations | truncations):
            real_next_obs[i] = infos["final_obs"][i]
            returns.append(float(infos["final_info"]["episode"]["r"][i]))
            if len(returns) % 20 == 0:
                speed = global_step / (time.perf_counter() - started)
                print(f"step {global_step:6d}  mean return {np.mean(returns[-20:]):6.1f}  {speed:5.0f} steps/s")
        rb.add(obs, real_next_obs, actions, rewards, terminations, infos)
        obs = next_obs

        if global_step < args.learning_starts:
            continue
        if global_step % args.train_frequency == 0:
            data = rb.sample(args.batch_size)
            with torch.no_grad():
                target_max = target_network(data.next_observations).max(dim=1).values
                td_target = data.rewards.flatten() + args.gamma * target_max * (1 - data.dones.flatten())
            value = network(data.observations).gather(1, data.actions).squeeze(1)
            loss = F.mse_loss(value, td_target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if global_step % args.target_network_frequency == 0:
            target_network.load_state_dict(network.state_dict())
    envs.close()
    return returns


def main() -> None:
    """Reads the flags, trains, and prints how it ended."""
    returns = train(tyro.cli(Args))
    if returns:
        print(f"{len(returns)} episodes; mean return of the last {len(returns[-10:])}: {np.mean(returns[-10:]):.1f}")


if __name__ == "__main__":
    main()
