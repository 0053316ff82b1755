"""`replaybank study run minatar`: MinAtar's own DQN with its replay buffer, and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from replaybank.study.agents import Condition, jobs_of, run_agents
from replaybank.study.base import Findings, Job, Runs, Study
from replaybank.study.configs import check_at_least_one, check_names
from replaybank.study.dqn import DQNConfig
from replaybank.study.environments import make_env

GAMES = ("Breakout", "Asterix")
CONDITIONS = {"replay": "uniform", "online": "online", "recent": "recent"}
"""Each condition's memory."""
_START = 5000
_EXPLORATION = 100_000
_BATCH = 32


@dataclass(frozen=True)
class MinAtarConfig:
    """What `replaybank study run minatar` runs."""

    env: str = "Breakout"
    """the game: Breakout or Asterix"""
    frames: int = 1_000_000
    """frames of each run"""
    conditions: tuple[str, ...] = ("replay", "online")
    """which to train: replay, online (the latest transition), recent (the latest 32)"""
    together: int = 3
    """seeds that train in lock step in one process"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_names("env", (self.env,), GAMES)
        check_names("conditions", self.conditions, tuple(CONDITIONS))
        check_at_least_one(frames=self.frames, together=self.together)
        make_env(env_id(self)).close()


def env_id(config: MinAtarConfig) -> str:
    """The game with all six actions, as the reference has it; v1 would leave out those without effect."""
    return f"MinAtar/{config.env}-v0"


def condition(config: MinAtarConfig, name: str) -> Condition:
    """The reference's settings with that memory.

    With replay a uniformly random policy acts for the first 5000 frames, then epsilon falls and learning begins;
    without it both begin at once.
    """
    replay = name == "replay"
    batch = 1 if name == "online" else _BATCH
    dqn = DQNConfig(
        learning_rate=2.5e-4,
        final_learning_rate=2.5e-4,
        gamma=0.99,
        batch_size=batch,
        capacity=100_000,
        hidden=(),
        network="conv",
        optimizer="rmsprop",
        double=False,
        target_period=1000,
        learning_starts=_START if replay else batch,
        epsilon_start=1.0,
        exploration_starts=_START if replay else 0,
        epsilon_end=0.1,
        exploration_fraction=min(1.0, _EXPLORATION / config.frames),
    )
    return Condition(name, env_id(config), config.frames, CONDITIONS[name], dqn)


def jobs(config: MinAtarConfig, seeds: Sequence[int]) -> list[Job]:
    """Every condition; the runs with the larger batch, which take longest, first."""
    conditions = [condition(config, name) for name in config.conditions]
    return sorted(jobs_of(conditions, seeds, config.together), key=lambda job: job.condition == "online")


def judge(config: MinAtarConfig, runs: Runs) -> Findings:
    """To come."""
    return Findings((), (), (), {})


def draw(config: MinAtarConfig, runs: Runs) -> Mapping[str, Figure]:
    """To come."""
    return {}


STUDY = Study(
    name="minatar",
    question="What does MinAtar's DQN lose without its replay buffer, and does it learn what was published?",
    claims=(),
    config=MinAtarConfig,
    seeds=5,
    jobs=jobs,
    run=run_agents,
    judge=judge,
    draw=draw,
)
