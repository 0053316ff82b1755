"""Learning from a Minari dataset, without a step in the environment.

A clumsy balancer plays CartPole, Minari's DataCollector records it, `from_minari` makes a buffer of the recording, and
a Double DQN learns from that buffer alone; only then it plays. The conservative term (Kumar et al. 2020, CQL(H)) holds
down the values of actions that nobody took: nothing else would correct them offline.

    pip install -c constraints.txt '.[study,minari]' 'minari[create]' && python examples/offline_minari.py

All files are temporary and nothing is downloaded. For a public dataset put
`minari.load_dataset("mujoco/hopper/expert-v0", download=True)` in the place of `record`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable

import gymnasium as gym
import minari
import numpy as np
import torch
from torch.nn import functional as F

import replaybank as rb
from replaybank.adapters.minari import from_minari

ENV = "CartPole-v1"
Policy = Callable[[np.ndarray], int]


def main(episodes: int = 100, updates: int = 3000, evaluations: int = 20, seed: int = 0) -> None:
    """Records `episodes`, learns from them in `updates` steps, and plays `evaluations` episodes."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        dataset = record(episodes, seed)
        returns = [episode.rewards.sum() for episode in dataset]
        # Windows of three steps, made when sampling; they stop at ends, and bootstrap from the final observation of an
        # episode that a time limit cut off.
        buffer = from_minari(dataset, view=rb.NStep(3, gamma=0.99), seed=seed)
    print(f"recorded {len(returns)} episodes, {len(buffer)} steps, mean return {np.mean(returns):.0f}")
    q = learn(buffer, updates)

    @torch.no_grad()
    def greedy(obs: np.ndarray) -> int:
        return int(q(torch.from_numpy(obs)).argmax())

    env = gym.make(ENV)
    played = [play(env, greedy, seed=10_000 + i) for i in range(evaluations)]
    env.close()
    print(f"learned from the recording: mean return {np.mean(played):.0f} over {evaluations} episodes")


def record(episodes: int, seed: int) -> minari.MinariDataset:
    """A dataset of a policy that pushes to where the pole falls, but every third time anywhere."""
    rng = np.random.default_rng(seed)
    env = minari.DataCollector(gym.make(ENV))

    def clumsy(obs: np.ndarray) -> int:
        return int(rng.integers(2)) if rng.random() < 1 / 3 else int(obs[2] + obs[3] > 0)

    for episode in range(episodes):
        play(env, clumsy, seed=seed + episode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it asks for author, e-mail, … : this recording is not published
        dataset = env.create_dataset("cartpole/clumsy-v0")
    env.close()
    return dataset


def play(env: gym.Env, policy: Policy, seed: int) -> float:
    """One episode; gives its return."""
    obs, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total += float(reward)
        over = terminated or truncated
    return total


def learn(buffer: rb.ReplayBuffer, updates: int, conservative: float = 0.5) -> torch.nn.Module:
    """Double DQN with the conservative term, from the buffer alone."""
    q, target = network(), network()
    target.load_state_dict(q.state_dict())
    optimizer = torch.optim.Adam(q.parameters(), lr=1e-3)
    for update in range(updates):
        batch = buffer.sample(128).to_torch()
        with torch.no_grad():
            best = q(batch.next_obs).argmax(1, keepdim=True)
            wanted = batch.reward + batch.discount * target(batch.next_obs).gather(1, best).squeeze(1)
        values = q(batch.obs)
        taken = values.gather(1, batch.action[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(taken, wanted) + conservative * (values.logsumexp(1) - taken).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 100 == 0:
            target.load_state_dict(q.state_dict())
    return q


def network() -> torch.nn.Module:
    """Q-values of the two actions from the four numbers of CartPole."""
    return torch.nn.Sequential(
        torch.nn.Linear(4, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in zip(("episodes", "updates", "evaluations", "seed"), main.__defaults__, strict=True):
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
