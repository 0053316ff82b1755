"""Stable-Baselines3's DQN on CartPole, with our replay buffer, and the prioritized DQN that SB3 does not have.

    pip install -c constraints.txt '.[study,sb3]' && python examples/sb3_per.py

One seed of each shows how they are called, not which is better: for that see `replaybank compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import replaybank as rb
from replaybank.adapters.sb3 import PrioritizedDQN, SB3ReplayBuffer


@dataclass
class Args:
    """Flags and their defaults."""

    seed: int = 0
    """seed of everything"""
    total_timesteps: int = 10_000
    """environment steps for each of the two"""
    n_steps: int = 1
    """steps of the returns that both learn from"""


def models(args: Args) -> dict[str, DQN]:
    """The same DQN with two memories. Settings after RL Zoo's for CartPole-v1, with a smaller network."""

    def common() -> dict[str, Any]:
        return {
            "policy": "MlpPolicy",
            "env": make_vec_env("CartPole-v1", seed=args.seed),
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [64, 64]},
            "seed": args.seed,
            "device": "cpu",
        }

    updates = max(args.total_timesteps // 2, 1)
    windows = {"n_steps": args.n_steps, "gamma": 0.99}
    return {
        "uniform": DQN(**common(), replay_buffer_class=SB3ReplayBuffer, replay_buffer_kwargs=windows),
        "prioritized": PrioritizedDQN(
            **common(),
            replay_buffer_kwargs={**windows, "alpha": 0.6, "beta": rb.linear(0.4, 1.0, steps=updates)},
        ),
    }


def main() -> None:
    """Reads the flags, trains both, and prints the return of each: in the last episodes, and without exploration."""
    args = tyro.cli(Args)
    for name, model in models(args).items():
        model.learn(args.total_timesteps)
        episodes = [episode["r"] for episode in model.ep_info_buffer or ()][-20:]
        lately = f"{np.mean(episodes):5.1f}" if episodes else "none finished"
        mean, spread = evaluate_policy(model, make_vec_env("CartPole-v1", seed=args.seed + 1), n_eval_episodes=10)
        print(f"{name:12s} last {len(episodes)} episodes {lately}, greedy {mean:5.1f} ± {spread:.1f}")
        print(f"{'':12s} {model.replay_buffer.bank}")


if __name__ == "__main__":
    main()
