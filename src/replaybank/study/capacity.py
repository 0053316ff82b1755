"""`replaybank study run capacity`: how much a DQN should remember.

Zhang & Sutton (2017) found that a replay buffer can be too large as well as too small, and that the first is mended
when the newest transition is part of every batch (combined experience replay). Fedus et al. (2020) found that a DQN
with one-step returns gains nothing from a larger buffer. Both worked on other problems and at other sizes; the honest
answer here may be that no difference is shown.

Every claim is decided by one contrast that was fixed beforehand (no capacity is picked by its result), and the
intervals of all contrasts hold together with 95% (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from replaybank.study import SettingError, performance, plots
from replaybank.study.agents import CARTPOLE, Condition, check_environment, jobs_of, run_agents, threshold_of
from replaybank.study.base import Findings, Job, Runs, Study
from replaybank.study.claims import Claim, Verdict, decide, decide_within
from replaybank.study.configs import check_at_least_one
from replaybank.study.dqn import DQNConfig
from replaybank.study.performance import Contrast, Measure, Performance, contrast, joint, performances, slope_weights

MARGIN = 25.0
"""Return that is worth speaking of: 5% of the most that CartPole gives."""

SMALL = Claim(
    "too small",
    "too small a buffer hurts: the smallest capacity ends below the reference",
    "Zhang & Sutton 2017, with function approximation",
)
LARGE = Claim(
    "too large",
    "too large a buffer hurts: from the reference upwards, every tenfold capacity ends lower",
    "Zhang & Sutton 2017, abstract",
)
MENDED = Claim(
    "combined mends it",
    "with the largest buffer, combined ends higher than uniform",
    "Zhang & Sutton 2017, combined experience replay",
)
UNMOVED = Claim(
    "combined does not mind",
    f"combined ends within {MARGIN:g} of its own return when the reference capacity becomes the largest",
    "Zhang & Sutton 2017, combined experience replay",
)
NO_GAIN = Claim(
    "no gain",
    f"a DQN with one-step returns does not gain from capacity: from the reference upwards less than {MARGIN:g} with "
    "every tenfold capacity",
    "Fedus et al. 2020, the DQN beside Rainbow",
)
CLAIMS = (SMALL, LARGE, MENDED, UNMOVED, NO_GAIN)
TOGETHER = joint(4)
"""The level of each of the four contrasts that decide (two claims share one), so that all hold together with 95%."""


@dataclass(frozen=True)
class CapacityConfig:
    """What `replaybank study run capacity` runs."""

    env: str = "CartPole-v1"
    """Gymnasium environment with Discrete actions and Box observations"""
    steps: int = 50_000
    """environment steps per condition and seed; a capacity of at least that never forgets"""
    capacities: tuple[int, ...] = (128, 1_000, 10_000, 30_000, 100_000)
    """capacities of the uniform buffers; --capacity, one of them, is the reference; combined has it and the largest"""
    together: int = 10
    """seeds that train in lock step in one process"""
    dqn: Annotated[DQNConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: CARTPOLE)

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected; also for an unfit environment."""
        check_at_least_one(steps=self.steps, together=self.together)
        check_capacities(self.capacities, self.dqn, self.steps)
        if self.dqn.capacity == max(self.capacities):
            raise SettingError(f"--capacities: expected some above the reference {self.dqn.capacity}, there is none")
        check_environment(self.env, self.steps)


def check_capacities(capacities: Sequence[int], dqn: DQNConfig, steps: int) -> None:
    """Raise SettingError unless they rise, fit the agent, differ in what they forget, and hold the agent's own."""
    for capacity in capacities:
        replace(dqn, capacity=capacity).check_valid()
    if list(capacities) != sorted(set(capacities)):
        raise SettingError(f"--capacities: expected each larger than the one before, given {list(capacities)}")
    if dqn.capacity not in capacities:
        raise SettingError(f"--capacity: expected the reference, one of {list(capacities)}, given {dqn.capacity}")
    if sum(capacity >= steps for capacity in capacities) > 1:
        raise SettingError(
            f"--capacities: expected at most one of --steps ({steps}) or more, for all of those forget nothing; "
            f"given {list(capacities)}"
        )


def conditions(config: CapacityConfig) -> dict[str, Condition]:
    """Uniform with every capacity, combined with the reference and the largest."""
    lines = {"uniform": config.capacities, "combined": (config.dqn.capacity, max(config.capacities))}
    return {
        name(memory, capacity): Condition(
            name(memory, capacity), config.env, config.steps, memory, replace(config.dqn, capacity=capacity)
        )
        for memory, capacities in lines.items()
        for capacity in capacities
    }


def name(memory: str, capacity: int) -> str:
    """The name of a condition."""
    return f"{memory}-{brief(capacity)}"


def brief(capacity: int) -> str:
    """10000 as 10k."""
    return f"{capacity // 1000}k" if capacity % 1000 == 0 else str(capacity)


def jobs(config: CapacityConfig, seeds: Sequence[int]) -> list[Job]:
    """Every condition with every seed."""
    return jobs_of(list(conditions(config).values()), seeds, config.together)


def contrasts(config: CapacityConfig, found: Mapping[str, Performance]) -> dict[str, Contrast]:
    """What decides, as far as its conditions have been run; each at the level `TOGETHER`."""
    reference, largest = config.dqn.capacity, max(config.capacities)
    upwards = {name("uniform", capacity): capacity for capacity in config.capacities if capacity >= reference}
    weights: dict[str, dict[str, float]] = {
        "smallest - reference": {name("uniform", min(config.capacities)): 1, name("uniform", reference): -1},
        "per tenfold from the reference": slope_weights(upwards),
        "combined - uniform at the largest": {name("combined", largest): 1, name("uniform", largest): -1},
        "combined: largest - reference": {name("combined", largest): 1, name("combined", reference): -1},
    }
    taken = {key: contrast(found, by_name, confidence=TOGETHER) for key, by_name in weights.items()}
    return {key: value for key, value in taken.items() if value}


def judge(config: CapacityConfig, runs: Runs) -> Findings:
    """The capacities side by side, and what the contrasts decide."""
    threshold = threshold_of(config.env)
    asked = conditions(config)
    found = performances({key: runs.get(key, {}) for key in asked}, config.steps, threshold)
    taken = contrasts(config, found)
    reference = name("uniform", config.dqn.capacity)
    others = len(asked) - 1
    title = f"{config.env}, {config.steps:,} steps"
    measures: tuple[Measure, ...] = ("final_returns", "areas")
    shown = performance.table(title, found, threshold, reference, measures, joint(others))
    labels = {key: {"memory": c.memory, "capacity": c.dqn.capacity} for key, c in asked.items()}
    notes = [
        *performance.notes(threshold),
        performance.joint_note(others),
        f"What decides a claim: each contrast at {TOGETHER:.2%}, so that the four hold together with 95%.",
        *(f"{key}: {value}" for key, value in taken.items()),
    ]
    rows = tuple(performance.rows(found, labels))
    return Findings((shown,), _verdicts(taken), tuple(notes), _summary(config, found, taken), rows)


def _verdicts(taken: Mapping[str, Contrast]) -> tuple[Verdict, ...]:
    verdicts = []
    if small := taken.get("smallest - reference"):
        verdicts.append(Verdict(SMALL, decide(small.interval, "below", seeds=small.seeds), str(small)))
    if slope := taken.get("per tenfold from the reference"):
        evidence = f"{slope} with every tenfold capacity"
        verdicts.append(Verdict(LARGE, decide(slope.interval, "below", seeds=slope.seeds), evidence))
        verdicts.append(Verdict(NO_GAIN, decide(slope.interval, "below", MARGIN, seeds=slope.seeds), evidence))
    if mended := taken.get("combined - uniform at the largest"):
        verdicts.append(Verdict(MENDED, decide(mended.interval, "above", seeds=mended.seeds), str(mended)))
    if unmoved := taken.get("combined: largest - reference"):
        outcome = decide_within(unmoved.interval, -MARGIN, MARGIN, seeds=unmoved.seeds)
        verdicts.append(Verdict(UNMOVED, outcome, str(unmoved)))
    return tuple(verdicts)


def _summary(config: CapacityConfig, found: Mapping[str, Performance], taken: Mapping[str, Contrast]) -> dict[str, Any]:
    threshold = threshold_of(config.env)
    return {
        "env": config.env,
        "steps": config.steps,
        "threshold": threshold,
        "conditions": {key: performance.plain(ours, threshold) for key, ours in found.items()},
        "contrasts": {key: performance.plain_contrast(value) for key, value in taken.items()},
    }


def draw(config: CapacityConfig, runs: Runs) -> dict[str, Figure]:
    """Final return and area under the curve over the capacity, uniform and combined."""
    lines: dict[str, dict[int, Performance]] = {}
    asked = conditions(config)
    for key, ours in performances({key: runs.get(key, {}) for key in asked}, config.steps, None).items():
        lines.setdefault(asked[key].memory, {})[asked[key].dqn.capacity] = ours
    return {"capacity": over_capacity(f"DQN on {config.env}: how much it remembers", config.steps, lines)}


def over_capacity(title: str, steps: int, lines: Mapping[str, Mapping[int, Performance]]) -> Figure:
    """Final returns and areas of each line's performances, by capacity."""
    figure = Figure(figsize=(8, 3.6))
    seeds = max(ours.seeds for by_capacity in lines.values() for ours in by_capacity.values())
    subtitle = f"{steps:,} steps, {seeds} paired seeds; dots: one seed each; bars: 95% bootstrap interval of the mean"
    left, right = figure.subplots(1, 2)
    finals = {k: {c: list(ours.final_returns.values()) for c, ours in line.items()} for k, line in lines.items()}
    areas = {k: {c: list(ours.areas.values()) for c, ours in line.items()} for k, line in lines.items()}
    final_means = {k: {c: ours.mean for c, ours in line.items()} for k, line in lines.items()}
    area_means = {k: {c: ours.area for c, ours in line.items()} for k, line in lines.items()}
    plots.over_capacity(left, finals, final_means, "final return (last 20% of steps)")
    plots.over_capacity(right, areas, area_means, "area under the curve (mean return)")
    plots.caption(figure, title, subtitle, dict.fromkeys(lines, ""))
    return figure


STUDY = Study(
    name="capacity",
    question="how much should a DQN remember, and does the newest transition in every batch mend too much?",
    claims=CLAIMS,
    config=CapacityConfig,
    seeds=20,
    jobs=jobs,
    run=run_agents,
    judge=judge,
    draw=draw,
)
