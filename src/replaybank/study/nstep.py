"""`replaybank study run nstep`: does a larger buffer pay only with returns of several steps?

Fedus et al. (2020) trained Rainbow and DQN on Atari with buffers of up to 10 million transitions: Rainbow gained from
the larger ones, DQN did not, and of Rainbow's parts it was the uncorrected n-step return that made the difference
(their additive and ablative studies). Here: the same DQN with n-step returns, uniform replay, every n with every
capacity.

What decides is the change of the final return with every tenfold capacity, a least-squares slope taken seed by seed,
for each n, and their difference, the interaction. The intervals of the three hold together with 95% (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from replaybank.study import SettingError, performance
from replaybank.study.agents import LUNARLANDER, Condition, check_environment, jobs_of, run_agents, threshold_of
from replaybank.study.base import Findings, Job, Runs, Study
from replaybank.study.capacity import brief, check_capacities, over_capacity
from replaybank.study.claims import Claim, Verdict, decide
from replaybank.study.configs import check_at_least_one
from replaybank.study.dqn import DQNConfig
from replaybank.study.performance import Contrast, Measure, Performance, contrast, joint, performances, slope_weights

MARGIN = 20.0
"""Return that is worth speaking of: 5% of the 400 between LunarLander's random agent (about -200) and its solution."""

INTERACTION = Claim(
    "capacity pays with n-step",
    "a tenfold capacity changes the final return more with n-step returns than with one-step returns",
    "Fedus et al. 2020, additive and ablative studies",
)
GAIN = Claim(
    "gain with n-step", "with n-step returns a tenfold capacity ends higher", "Fedus et al. 2020, Rainbow: +18 to +29%"
)
NO_GAIN = Claim(
    "no gain without",
    f"with one-step returns a tenfold capacity gains less than {MARGIN:g}",
    "Fedus et al. 2020, the DQN beside Rainbow",
)
TOGETHER = joint(3)


@dataclass(frozen=True)
class NStepConfig:
    """What `replaybank study run nstep` runs."""

    env: str = "LunarLander-v3"
    """Gymnasium environment with Discrete actions and Box observations"""
    steps: int = 40_000
    """environment steps per condition and seed; a capacity of at least that never forgets"""
    long: int = 3
    """steps of the longer return; the shorter has --n-step"""
    capacities: tuple[int, ...] = (1_000, 10_000, 100_000)
    """capacities of the buffers; --capacity, one of them, is what the others are compared with in the table"""
    together: int = 10
    """seeds that train in lock step in one process"""
    dqn: Annotated[DQNConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: replace(LUNARLANDER, capacity=10_000)
    )

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected; also for an unfit environment."""
        check_at_least_one(steps=self.steps, together=self.together)
        check_capacities(self.capacities, self.dqn, self.steps)
        if len(self.capacities) < 2:
            raise SettingError(f"--capacities: expected at least two, given {list(self.capacities)}")
        if self.long <= self.dqn.n_step:
            raise SettingError(f"--long: expected more than --n-step ({self.dqn.n_step}), given {self.long}")
        check_environment(self.env, self.steps)


def conditions(config: NStepConfig) -> dict[str, Condition]:
    """Every n with every capacity, uniform replay."""
    return {
        name(n, capacity): Condition(
            name(n, capacity), config.env, config.steps, "uniform", replace(config.dqn, n_step=n, capacity=capacity)
        )
        for n in (config.dqn.n_step, config.long)
        for capacity in config.capacities
    }


def name(n: int, capacity: int) -> str:
    """The name of a condition."""
    return f"n{n}-{brief(capacity)}"


def jobs(config: NStepConfig, seeds: Sequence[int]) -> list[Job]:
    """Every condition with every seed."""
    return jobs_of(list(conditions(config).values()), seeds, config.together)


def contrasts(config: NStepConfig, found: Mapping[str, Performance]) -> dict[str, Contrast]:
    """The slope with the shorter return, with the longer one, and their difference, as far as they have been run."""
    short, long = (
        slope_weights({name(n, capacity): capacity for capacity in config.capacities})
        for n in (config.dqn.n_step, config.long)
    )
    interaction = long | {key: -weight for key, weight in short.items()}
    weights = {"short": short, "long": long, "interaction": interaction}
    taken = {key: contrast(found, by_name, confidence=TOGETHER) for key, by_name in weights.items()}
    return {key: value for key, value in taken.items() if value}


def judge(config: NStepConfig, runs: Runs) -> Findings:
    """The conditions side by side, and what the slopes decide."""
    threshold = threshold_of(config.env)
    asked = conditions(config)
    found = performances({key: runs.get(key, {}) for key in asked}, config.steps, threshold)
    taken = contrasts(config, found)
    others = len(asked) - 1
    reference = name(config.dqn.n_step, config.dqn.capacity)
    title = f"{config.env}, {config.steps:,} steps"
    measures: tuple[Measure, ...] = ("final_returns", "areas")
    shown = performance.table(title, found, threshold, reference, measures, joint(others))
    notes = [
        *performance.notes(threshold),
        performance.joint_note(others),
        f"Change of the final return with every tenfold capacity, each interval at {TOGETHER:.2%}, so that the three "
        "hold together with 95%:",
        *(f"  {_of(config, key)}: {value}" for key, value in taken.items()),
    ]
    labels = {key: {"n_step": c.dqn.n_step, "capacity": c.dqn.capacity} for key, c in asked.items()}
    summary: dict[str, Any] = {
        "env": config.env,
        "steps": config.steps,
        "threshold": threshold,
        "conditions": {key: performance.plain(ours, threshold) for key, ours in found.items()},
        "change_per_tenfold_capacity": {_of(config, key): performance.plain_contrast(c) for key, c in taken.items()},
    }
    rows = tuple(performance.rows(found, labels))
    return Findings((shown,), _verdicts(taken), tuple(notes), summary, rows)


def _of(config: NStepConfig, key: str) -> str:
    short, long = f"n = {config.dqn.n_step}", f"n = {config.long}"
    return {"short": short, "long": long, "interaction": f"{long} minus {short}"}[key]


def _verdicts(taken: Mapping[str, Contrast]) -> tuple[Verdict, ...]:
    verdicts = []
    if both := taken.get("interaction"):
        verdicts.append(Verdict(INTERACTION, decide(both.interval, "above", seeds=both.seeds), str(both)))
    if long := taken.get("long"):
        verdicts.append(Verdict(GAIN, decide(long.interval, "above", seeds=long.seeds), str(long)))
    if short := taken.get("short"):
        verdicts.append(Verdict(NO_GAIN, decide(short.interval, "below", MARGIN, seeds=short.seeds), str(short)))
    return tuple(verdicts)


def draw(config: NStepConfig, runs: Runs) -> dict[str, Figure]:
    """Final return and area under the curve over the capacity, a line for each n."""
    lines: dict[str, dict[int, Performance]] = {}
    asked = conditions(config)
    for key, ours in performances({key: runs.get(key, {}) for key in asked}, config.steps, None).items():
        lines.setdefault(f"n = {asked[key].dqn.n_step}", {})[asked[key].dqn.capacity] = ours
    return {"nstep": over_capacity(f"DQN on {config.env}: capacity and n-step returns", config.steps, lines)}


STUDY = Study(
    name="nstep",
    question="does a larger buffer pay only with returns of several steps?",
    claims=(INTERACTION, GAIN, NO_GAIN),
    config=NStepConfig,
    seeds=10,
    jobs=jobs,
    run=run_agents,
    judge=judge,
    draw=draw,
)
