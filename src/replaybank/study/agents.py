"""Runs of agents: one DQN in one environment with one memory, a condition; several seeds of it are a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import gymnasium as gym

from replaybank.study import SettingError
from replaybank.study.base import Job, Record, Track
from replaybank.study.configs import rebuilt
from replaybank.study.dqn import DQNConfig, train
from replaybank.study.environments import make_env
from replaybank.study.memories import MEMORIES

CARTPOLE = DQNConfig(hidden=(64, 64), train_period=2, capacity=10_000)
"""Solves CartPole-v1 in most runs of 50,000 steps, at an affordable price."""
LUNARLANDER = DQNConfig(
    learning_rate=4e-3,
    hidden=(64, 64),
    train_period=4,
    capacity=100_000,
    learning_starts=1_000,
    exploration_fraction=0.3,
    epsilon_end=0.05,
)
"""In 60,000 steps of LunarLander-v3 it learns to hover; with returns of three steps, in half of the runs to land."""


@dataclass(frozen=True)
class Condition:
    """What is compared. `name` is fit for a file, `memory` is a name in MEMORIES."""

    name: str
    env: str
    steps: int
    memory: str
    dqn: DQNConfig

    def job(self, seeds: Sequence[int]) -> Job:
        """These seeds in lock step."""
        settings = {"env": self.env, "steps": self.steps, "memory": self.memory, "dqn": asdict(self.dqn)}
        return Job(self.name, tuple(seeds), self.steps, json.loads(json.dumps(settings)))


def jobs_of(conditions: Sequence[Condition], seeds: Sequence[int], together: int) -> list[Job]:
    """Every condition with every seed, `together` of them a job.

    Within a group of seeds the online memory, which is soonest done, comes last: no worker is left alone at the end.
    """
    groups = [seeds[first : first + together] for first in range(0, len(seeds), together)]
    order = sorted(conditions, key=lambda condition: condition.memory == "online")
    return [condition.job(group) for group in groups for condition in order]


def run_agents(job: Job, track: Track) -> Mapping[int, Record]:
    """Train a job's agents. Each record holds the run's `episodes`: last `step`, `return` and `length` of each."""
    settings = job.settings
    memory = MEMORIES[settings["memory"]]
    return train(memory, settings["env"], job.seeds, settings["steps"], rebuilt(DQNConfig, settings["dqn"]), track)


def check_environment(env_id: str, steps: int) -> None:
    """Raise SettingError unless the agent can train there and `steps` are enough for an episode to end."""
    env = make_env(env_id)
    longest = env.spec.max_episode_steps if env.spec else None
    env.close()
    if longest is not None and steps < longest:
        raise SettingError(
            f"--steps: expected at least {longest}, the longest episode of {env_id}, so that one surely ends; "
            f"given {steps}"
        )


def at_rate(config: DQNConfig, learning_rate: float) -> DQNConfig:
    """The settings with another learning rate that falls in the same proportion."""
    ratio = config.final_learning_rate / config.learning_rate
    return replace(config, learning_rate=learning_rate, final_learning_rate=learning_rate * ratio)


def threshold_of(env_id: str) -> float | None:
    """The return at which Gymnasium counts the environment as solved, if it says so (475 for CartPole-v1)."""
    return gym.spec(env_id).reward_threshold
