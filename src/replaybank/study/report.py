"""What a comparison found: summary, tables and sentences, computed from its finished runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from replaybank.study import stats
from replaybank.study.arms import ARMS
from replaybank.study.plots import Curve
from replaybank.study.runs import Runs
from replaybank.study.stats import Interval

POINTS = 40
"""Intervals of a learning curve."""


@dataclass(frozen=True)
class ArmReport:
    """One arm: the final return of each seed and what follows from it. Counts are of seeds."""

    name: str
    final_returns: dict[int, float]
    mean: Interval
    interquartile_mean: Interval
    median: float
    area: Interval
    reached: int
    ended: int
    curve: Curve


@dataclass(frozen=True)
class Report:
    """All arms, and the differences between pairs of them, seed by seed, keyed (arm, reference)."""

    env: str
    steps: int
    threshold: float | None
    reference: str
    arms: dict[str, ArmReport]
    differences: dict[tuple[str, str], Interval]
    pairs: dict[tuple[str, str], int]


def make_report(env: str, steps: int, threshold: float | None, runs: Mapping[str, Runs]) -> Report:
    """The report on each arm's runs. `threshold`: the return at which the environment counts as solved, if any."""
    arms = {name: _arm_report(name, by_seed, steps, threshold) for name, by_seed in runs.items()}
    reference = "online" if "online" in arms else next(iter(arms))
    asked = [(name, reference) for name in arms if name != reference]
    asked += [pair for pair in (("uniform", "recent"), ("prioritized", "uniform")) if reference not in pair]
    differences: dict[tuple[str, str], Interval] = {}
    pairs: dict[tuple[str, str], int] = {}
    for name, other in asked:
        if name in arms and other in arms:
            ours, theirs = arms[name].final_returns, arms[other].final_returns
            shared = sorted(ours.keys() & theirs.keys())
            pairs[name, other] = len(shared)
            differences[name, other] = stats.paired_difference([ours[s] for s in shared], [theirs[s] for s in shared])
    return Report(env, steps, threshold, reference, arms, differences, pairs)


def _arm_report(name: str, runs: Runs, steps: int, threshold: float | None) -> ArmReport:
    grid = np.unique(np.linspace(0, steps, POINTS + 1)[1:].astype(np.int64))
    returns = {seed: [e.episode_return for e in episodes] for seed, episodes in sorted(runs.items())}
    ends = {seed: [e.step for e in episodes] for seed, episodes in runs.items()}
    finals = {seed: stats.final_return(ends[seed], returns[seed], steps) for seed in returns}
    curves = np.stack([stats.learning_curve(ends[seed], returns[seed], grid.tolist()) for seed in returns])
    values = list(finals.values())
    bar = math.inf if threshold is None else threshold
    return ArmReport(
        name=name,
        final_returns=finals,
        mean=stats.bootstrap_interval(values),
        interquartile_mean=stats.bootstrap_interval(values, stats.interquartile_mean),
        median=float(np.median(values)),
        area=stats.bootstrap_interval([stats.area_under_curve(curve) for curve in curves]),
        reached=sum(finals[seed] >= bar or stats.best_window(returns[seed]) >= bar for seed in finals),
        ended=sum(value >= bar for value in values),
        curve=Curve(grid.astype(np.float64), *stats.bootstrap_band(curves)),
    )


# ---- words ---------------------------------------------------------------------------


def definitions(arms: Sequence[str]) -> Table:
    """What each arm is: papers mean different things by "without replay"."""
    title = "The arms differ in their memory and in nothing else"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    table.add_column("arm", style="bold")
    table.add_column("what an update learns from")
    for name in arms:
        table.add_row(name, ARMS[name].definition)
    return table


def results_table(report: Report) -> Table:
    """The comparison: one row per arm, intervals below their estimates."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    headings = ["final\nreturn\nmean", "final\nreturn\nIQM", "area\nunder\ncurve"]
    if report.threshold is not None:
        headings.append(f"seeds:\nreached {report.threshold:g} /\nended there")
    table.add_column("arm", style="bold", no_wrap=True)
    for heading in [*headings, f"paired\ndifference\nto {report.reference}"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, arm in report.arms.items():
        difference = report.differences.get((name, report.reference))
        counts = [f"{arm.reached} / {arm.ended} of {len(arm.final_returns)}"] if report.threshold is not None else []
        table.add_row(
            name,
            _cell(arm.mean),
            _cell(arm.interquartile_mean),
            _cell(arm.area),
            *counts,
            _cell(difference, sign="+") if difference else "",
        )
    return table


def sentences(report: Report) -> list[str]:
    """What the comparison shows, no more than its intervals allow."""
    said = [
        stats.verdict(name, other, difference, report.pairs[name, other])
        for (name, other), difference in report.differences.items()
    ]
    if {"online", "uniform"} <= report.arms.keys():
        online, uniform = report.arms["online"].mean.estimate, report.arms["uniform"].mean.estimate
        if online > 0:
            median = report.arms["uniform"].median
            said.append(
                f"uniform's mean final return is {uniform / online:.1f} times online's; its median is {median:.1f}"
            )
    return said


def footnotes(report: Report) -> list[str]:
    """How the figures are meant."""
    notes = [
        "Final return: mean over the training episodes (epsilon-greedy) that end in the last 20% of steps, per seed.",
        "In brackets: 95% bootstrap interval over seeds (percentile, widened for few seeds), each for itself.",
        "IQM: mean of the middle half of the seeds (it can trim away failures). Area: mean of the learning curve.",
    ]
    if report.threshold is not None:
        rates = "; ".join(
            f"{name} {wilson.low:.0%} to {wilson.high:.0%}"
            for name, arm in report.arms.items()
            for wilson in [stats.wilson_interval(arm.ended, len(arm.final_returns))]
        )
        notes.append(
            f"Reached {report.threshold:g}: {stats.WINDOW} episodes in a row, or those of the final return, had that "
            f"mean. Ended there: final return at least that; 95% Wilson interval of the share that did: {rates}."
        )
    if "online" in report.arms and len(report.arms) > 1:
        notes.append(
            "An update of online sees 1 transition, of the others a whole batch. recent and uniform: the same number "
            "of samples, but from the latest experience or from all of it."
        )
    return notes


def _cell(interval: Interval, sign: str = "") -> str:
    estimate = f"{interval.estimate:{sign}.1f}"
    if math.isnan(interval.low):
        return estimate
    low, high = (f"{value:{sign}.{0 if abs(value) >= 9.95 else 1}f}" for value in (interval.low, interval.high))
    return f"{estimate}\n\\[{low}, {high}]"


# ---- summary.json --------------------------------------------------------------------


def summary(report: Report, learning_rates: Mapping[str, float]) -> dict[str, Any]:
    """The report as plain values; NaN becomes null."""
    arms = {}
    for name, arm in report.arms.items():
        count = len(arm.final_returns)
        arms[name] = {
            "definition": ARMS[name].definition,
            "learning_rate": learning_rates[name],
            "seeds": count,
            "final_return": {
                "per_seed": {str(seed): _plain(value) for seed, value in arm.final_returns.items()},
                "mean": _interval(arm.mean),
                "interquartile_mean": _interval(arm.interquartile_mean),
                "median": _plain(arm.median),
            },
            "area_under_curve": _interval(arm.area),
        }
        if report.threshold is not None:
            arms[name]["reached"] = {"count": arm.reached, "rate": _interval(stats.wilson_interval(arm.reached, count))}
            arms[name]["ended"] = {"count": arm.ended, "rate": _interval(stats.wilson_interval(arm.ended, count))}
    return {
        "env": report.env,
        "steps": report.steps,
        "threshold": report.threshold,
        "arms": arms,
        "paired_differences": {f"{a} - {b}": _interval(value) for (a, b), value in report.differences.items()},
        "sentences": sentences(report),
        "notes": footnotes(report),
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in asdict(interval).items()}


def _plain(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
