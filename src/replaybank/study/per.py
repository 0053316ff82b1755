"""`replaybank study run per`: does it pay to replay the surprising transitions more often?

Schaul et al. (2016) let DQN draw transitions by their TD error, with a quarter of uniform replay's step size, and found
it to learn faster and to end higher in most Atari games. Fujimoto et al. (2020) put a floor under the priorities and
dropped the weights (LAP). Zhang & Sutton (2017) only add the newest transition to a uniform batch (combined). Panahi et
al. (2024) found no prioritized variant that beats uniform replay consistently in control.

Every memory trains at the preset's learning rate and at a quarter of it. Where a claim names no rate it is decided on
the mean of a seed's two runs, so that no memory gains from a rate that suits it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from replaybank.study import performance, plots
from replaybank.study.agents import (
    CARTPOLE,
    LUNARLANDER,
    Condition,
    at_rate,
    check_environment,
    jobs_of,
    run_agents,
    threshold_of,
)
from replaybank.study.base import Findings, Job, Runs, Study, Table
from replaybank.study.claims import Claim, Outcome, Verdict, decide
from replaybank.study.configs import check_at_least_one, check_names
from replaybank.study.dqn import DQNConfig
from replaybank.study.memories import MEMORIES
from replaybank.study.performance import Contrast, Measure, Performance, contrast, joint, performances

QUARTER = "-quarter"
RATES = ("", QUARTER)
ARMS = ("uniform", "prioritized", "rank", "lap", "combined")
_ARMS_HELP = "which memories. " + "; ".join(f"{name.upper()}: {MEMORIES[name].definition}" for name in ARMS)


@dataclass(frozen=True)
class Task:
    """An environment with settings at which uniform replay learns there."""

    env: str
    """Gymnasium environment with Discrete actions and Box observations"""
    steps: int
    """environment steps per condition and seed"""
    margin: float
    """return that is worth speaking of: 5% of what lies between a random agent and one that has solved it"""
    dqn: DQNConfig
    """alpha and beta are those of prioritized; rank has .7 and .5, lap .4 and no weights, as their papers have"""


@dataclass(frozen=True)
class PerConfig:
    """What `replaybank study run per` runs."""

    tasks: tuple[str, ...] = ("cartpole", "acrobot", "lunarlander")
    """which of the three tasks below"""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(help=_ARMS_HELP)] = ARMS
    together: int = 10
    """seeds that train in lock step in one process"""
    cartpole: Task = field(default_factory=lambda: Task("CartPole-v1", 25_000, 25.0, CARTPOLE))
    acrobot: Task = field(
        default_factory=lambda: Task(
            "Acrobot-v1",
            20_000,
            20.0,
            DQNConfig(
                learning_rate=1e-3,
                hidden=(64, 64),
                train_period=2,
                capacity=50_000,
                exploration_fraction=0.2,
                epsilon_end=0.02,
            ),
        )
    )
    lunarlander: Task = field(
        default_factory=lambda: Task("LunarLander-v3", 40_000, 20.0, replace(LUNARLANDER, n_step=3))
    )

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected; also for an unfit environment."""
        check_names("tasks", self.tasks, TASKS)
        check_names("arms", self.arms, ARMS)
        check_at_least_one(together=self.together)
        for task in tasks(self).values():
            check_at_least_one(steps=task.steps)
            task.dqn.check_valid()
            check_environment(task.env, task.steps)


TASKS = ("cartpole", "acrobot", "lunarlander")
EXPONENTS = {"rank": (0.7, 0.5), "lap": (0.4, 0.0)}
"""alpha and beta of Schaul et al. 2016, Table 3, rank-based, and Fujimoto et al. 2020; lap has no weights."""

FASTER = Claim(
    "faster",
    "prioritized at a quarter of the learning rate learns faster (larger area) than uniform at the whole",
    "Schaul et al. 2016, sec. 4",
)
HIGHER = Claim(
    "higher",
    "prioritized at a quarter of the learning rate ends higher than uniform at the whole",
    "Schaul et al. 2016, sec. 4: 41 of 49 games",
)
LAP = Claim("lap", "lap ends higher than prioritized", "Fujimoto et al. 2020")
COMBINED = Claim(
    "combined",
    "the newest transition in every batch learns faster (larger area) than uniform alone",
    "Zhang & Sutton 2017",
)
INCONSISTENT = Claim(
    "no consistent gain",
    "prioritized does not end higher than uniform in all environments",
    "Panahi et al. 2024: no prioritized variant consistently beats uniform in control",
)
CLAIMS = (FASTER, HIGHER, LAP, COMBINED, INCONSISTENT)


# ---- what is run ---------------------------------------------------------------------


def tasks(config: PerConfig) -> dict[str, Task]:
    """The tasks that were asked for."""
    return {name: getattr(config, name) for name in config.tasks}


def conditions(config: PerConfig, name: str) -> dict[str, Condition]:
    """Of one task, every memory at the learning rate and at a quarter of it."""
    task: Task = getattr(config, name)
    return {arm + rate: _condition(name, task, arm, rate) for rate in RATES for arm in config.arms}


def _condition(name: str, task: Task, arm: str, rate: str) -> Condition:
    dqn = task.dqn if rate == "" else at_rate(task.dqn, task.dqn.learning_rate / 4)
    if arm in EXPONENTS:
        alpha, beta = EXPONENTS[arm]
        dqn = replace(dqn, alpha=alpha, beta=beta)
    return Condition(f"{name}-{arm}{rate}", task.env, task.steps, arm, dqn)


def jobs(config: PerConfig, seeds: Sequence[int]) -> list[Job]:
    """Every memory in every task at both rates with every seed, the longest first."""
    asked = [
        job for name in config.tasks for job in jobs_of([*conditions(config, name).values()], seeds, config.together)
    ]
    return sorted(asked, key=lambda job: -job.steps)


# ---- what was found ------------------------------------------------------------------


def findings_of(config: PerConfig, name: str, runs: Runs) -> dict[str, Performance]:
    """How well each of a task's conditions did."""
    task: Task = getattr(config, name)
    asked = {key: runs.get(c.name, {}) for key, c in conditions(config, name).items()}
    return performances(asked, task.steps, threshold_of(task.env))


def judge(config: PerConfig, runs: Runs) -> Findings:
    """Two tables a task, one for each learning rate, and the claims."""
    found = {name: ours for name in config.tasks if (ours := findings_of(config, name, runs))}
    tables = [shown for name, ours in found.items() for shown in _tables(config, name, ours)]
    verdicts = [verdict for name, ours in found.items() for verdict in _verdicts(getattr(config, name).env, ours)]
    notes = [
        *performance.notes(None),
        "Reached, ended: seeds whose best 5 episodes in a row, or whose final return, were at Gymnasium's threshold.",
        "The same learning rate in every row of a table: the preset's, or a quarter of it (-quarter in the files).",
        "Claims about one environment: 95% intervals, each for itself. lap, combined: the mean of a seed's two runs.",
    ]
    if gains := both_rates(found, "prioritized", "uniform", confidence=joint(len(found))):
        margins = {name: getattr(config, name).margin for name in gains}
        evidence = "; ".join(f"{name} {gain}" for name, gain in gains.items())
        outcome = inconsistent(gains, margins) if len(gains) == len(TASKS) else "undecided"
        verdicts.append(Verdict(INCONSISTENT, outcome, evidence))
        worth = ", ".join(f"{name} {margin:g}" for name, margin in margins.items())
        notes.append(
            f"{INCONSISTENT.key}: final return, the mean of a seed's two runs, each at {joint(len(gains)):.2%} "
            "so that all hold together with 95%. Reproduced if one lies wholly below the return worth speaking of "
            f"({worth}), not reproduced if all lie above 0; undecided with a task missing."
        )
    rows = tuple(row for name, ours in found.items() for row in _rows(config, name, ours))
    return Findings(tuple(tables), tuple(verdicts), tuple(notes), _summary(config, found), rows)


def both_rates(
    found: Mapping[str, Mapping[str, Performance]],
    arm: str,
    reference: str,
    measure: Measure = "final_returns",
    confidence: float = 0.95,
) -> dict[str, Contrast]:
    """Task by task the difference of two memories, each the mean of its runs at both rates."""
    weights = {name + rate: weight for name, weight in ((arm, 0.5), (reference, -0.5)) for rate in RATES}
    taken = {name: contrast(ours, weights, measure, confidence) for name, ours in found.items()}
    return {name: value for name, value in taken.items() if value}


def inconsistent(gains: Mapping[str, Contrast], margins: Mapping[str, float]) -> Outcome:
    """Whether it holds that the gain is not there in every task.

    Reproduced if in one of them the gain is shown to be below what is worth speaking of; not reproduced if in all of
    them it is shown to be above 0.
    """
    below = [decide(gain.interval, "below", margins[name], seeds=gain.seeds) for name, gain in gains.items()]
    above = [decide(gain.interval, "above", seeds=gain.seeds) for gain in gains.values()]
    if all(outcome == "reproduced" for outcome in above):
        return "not reproduced"
    return "reproduced" if "reproduced" in below else "undecided"


def _verdicts(env: str, found: Mapping[str, Performance]) -> Iterator[Verdict]:
    schaul = {"prioritized" + QUARTER: 1.0, "uniform": -1.0}
    taken = {
        FASTER: contrast(found, schaul, "areas"),
        HIGHER: contrast(found, schaul),
        LAP: both_rates({env: found}, "lap", "prioritized").get(env),
        COMBINED: both_rates({env: found}, "combined", "uniform", "areas").get(env),
    }
    for claim, value in taken.items():
        if value:
            outcome = decide(value.interval, "above", seeds=value.seeds)
            here = replace(claim, key=f"{claim.key}, {env}", text=f"{env}: {claim.text}")
            yield Verdict(here, outcome, str(value))


def _tables(config: PerConfig, name: str, found: Mapping[str, Performance]) -> Iterator[Table]:
    task: Task = getattr(config, name)
    for rate in RATES:
        here = {arm: found[arm + rate] for arm in config.arms if arm + rate in found}
        if here:
            learning_rate = task.dqn.learning_rate / (4 if rate else 1)
            title = f"{task.env}, {task.steps:,} steps, learning rate {learning_rate:g}"
            measures: tuple[Measure, ...] = ("final_returns", "areas")
            yield performance.table(title, here, threshold_of(task.env), "uniform", measures)


def _rows(config: PerConfig, name: str, found: Mapping[str, Performance]) -> Iterator[dict[str, Any]]:
    asked = conditions(config, name)
    labels = {
        key: {"env": asked[key].env, "memory": asked[key].memory, "learning_rate": asked[key].dqn.learning_rate}
        for key in found
    }
    return performance.rows(found, labels)


def _summary(config: PerConfig, found: Mapping[str, Mapping[str, Performance]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, ours in found.items():
        task: Task = getattr(config, name)
        threshold = threshold_of(task.env)
        summary[name] = {
            **{key: value for key, value in asdict(task).items() if key != "dqn"},
            "threshold": threshold,
            "conditions": {key: performance.plain(one, threshold) for key, one in ours.items()},
        }
    return {"tasks": summary}


# ---- what it looks like --------------------------------------------------------------


def draw(config: PerConfig, runs: Runs) -> dict[str, Figure]:
    """Learning curves, a row for each task, a column for each learning rate."""
    found = {name: ours for name in config.tasks if (ours := findings_of(config, name, runs))}
    figure = Figure(figsize=(8, 2.5 * len(found) + 0.2))
    seeds = max(one.seeds for ours in found.values() for one in ours.values())
    subtitle = f"mean over {seeds} paired seeds; bands: 95% bootstrap interval over seeds"
    for line, axes in zip(found, figure.subplots(len(found), len(RATES), squeeze=False, sharey="row"), strict=True):
        task: Task = getattr(config, line)
        for ax, rate in zip(axes, RATES, strict=True):
            curves = {arm: found[line][arm + rate].curve for arm in config.arms if arm + rate in found[line]}
            if curves:
                plots.learning_curves(ax, curves)
            learning_rate = task.dqn.learning_rate / (4 if rate else 1)
            ax.set_title(f"{task.env}, learning rate {learning_rate:g}", fontsize=plots.TEXT, loc="left")
            ax.set_ylabel("" if rate else "return")
            ax.locator_params(axis="x", nbins=4)
            if task is not getattr(config, list(found)[-1]):
                ax.set_xlabel("")
    plots.caption(figure, "The same DQN, five ways to draw from its memory", subtitle, dict.fromkeys(config.arms, ""))
    return {"per": figure}


STUDY = Study(
    name="per",
    question="does it pay to replay the surprising transitions more often, and at which learning rate?",
    claims=CLAIMS,
    config=PerConfig,
    seeds=10,
    jobs=jobs,
    run=run_agents,
    judge=judge,
    draw=draw,
)
