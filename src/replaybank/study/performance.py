"""How well agents did: final returns, areas and learning curves of conditions, computed from their finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from replaybank.study import stats
from replaybank.study.base import Record, Runs, Table
from replaybank.study.plots import Curve
from replaybank.study.stats import Interval

POINTS = 40
"""Intervals of a learning curve."""
Measure = Literal["final_returns", "areas"]


@dataclass(frozen=True)
class Performance:
    """One condition: the final return and the area under the curve of each seed, and what follows from them.

    reached, ended: how many seeds reached the threshold at some time, and in their final return.
    """

    final_returns: dict[int, float]
    areas: dict[int, float]
    mean: Interval
    interquartile_mean: Interval
    median: float
    area: Interval
    reached: int
    ended: int
    curve: Curve

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.final_returns)


def performances(runs: Runs, steps: int, threshold: float | None) -> dict[str, Performance]:
    """The performance of each condition. `threshold`: the return at which the environment counts as solved, if any."""
    return {name: _performance(by_seed, steps, threshold) for name, by_seed in runs.items() if by_seed}


def _performance(runs: Mapping[int, Record], steps: int, threshold: float | None) -> Performance:
    grid = np.unique(np.linspace(0, steps, POINTS + 1)[1:].astype(np.int64))
    episodes = {seed: runs[seed]["episodes"] for seed in sorted(runs)}
    finals = {seed: stats.final_return(e["step"], e["return"], steps) for seed, e in episodes.items()}
    curves = np.stack([stats.learning_curve(e["step"], e["return"], grid.tolist()) for e in episodes.values()])
    areas = {seed: stats.area_under_curve(curve) for seed, curve in zip(episodes, curves, strict=True)}
    values = list(finals.values())
    bar = math.inf if threshold is None else threshold
    best = {seed: stats.best_window(e["return"]) for seed, e in episodes.items()}
    return Performance(
        final_returns=finals,
        areas=areas,
        mean=stats.bootstrap_interval(values),
        interquartile_mean=stats.bootstrap_interval(values, stats.interquartile_mean),
        median=float(np.median(values)),
        area=stats.bootstrap_interval(list(areas.values())),
        reached=sum(finals[seed] >= bar or best[seed] >= bar for seed in finals),
        ended=sum(value >= bar for value in values),
        curve=Curve(grid.astype(np.float64), *stats.bootstrap_band(curves)),
    )


@dataclass(frozen=True)
class Difference:
    """Mean of `name` - `reference`, seed by seed, over `seeds` pairs."""

    name: str
    reference: str
    interval: Interval
    seeds: int

    def __str__(self) -> str:
        return stats.verdict(self.name, self.reference, self.interval, self.seeds)


def difference(
    found: Mapping[str, Performance],
    name: str,
    reference: str,
    measure: Measure = "final_returns",
    confidence: float = 0.95,
) -> Difference | None:
    """The paired difference of two conditions in `measure`; None where one is missing."""
    pairs = contrast(found, {name: 1.0, reference: -1.0}, measure, confidence)
    return Difference(name, reference, pairs.interval, pairs.seeds) if pairs else None


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of conditions, taken seed by seed, over `seeds` of them."""

    interval: Interval
    seeds: int

    def __str__(self) -> str:
        estimate, low, high = self.interval.estimate, self.interval.low, self.interval.high
        bounds = "no interval" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
        return f"{estimate:+.1f} {bounds}, {self.seeds} seeds"


def contrast(
    found: Mapping[str, Performance],
    weights: Mapping[str, float],
    measure: Measure = "final_returns",
    confidence: float = 0.95,
) -> Contrast | None:
    """The mean over seeds of the sum of weight times measure over the conditions, with its bootstrap interval.

    A difference has the weights 1 and -1, a difference of differences 1, -1, -1 and 1, a slope those of
    `slope_weights`. Only seeds that all the conditions have count; None where there are none.
    """
    if not weights or not found.keys() >= weights.keys():
        return None
    measured = {name: getattr(found[name], measure) for name in weights}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in measured.values())))
    if not seeds:
        return None
    sums = [round(sum(w * measured[name][seed] for name, w in weights.items()), 9) for seed in seeds]  # 0 is to be 0
    return Contrast(stats.bootstrap_interval(sums, confidence=confidence), len(seeds))


def slope_weights(capacities: Mapping[str, int]) -> dict[str, float]:
    """The weights that make of the conditions' returns the least-squares slope over log10 of their capacities.

    The contrast is then the change of the return with every tenfold capacity.
    """
    x = np.log10(np.array(list(capacities.values()), dtype=np.float64))
    centred = x - x.mean()
    return dict(zip(capacities, (centred / (centred @ centred)).tolist(), strict=True))


def table(
    title: str,
    found: Mapping[str, Performance],
    threshold: float | None,
    reference: str,
    measures: Sequence[Measure] = ("final_returns",),
    confidence: float = 0.95,
) -> Table:
    """One row per condition, intervals below their estimates; in the last columns the differences to the reference.

    Interquartile means are in summary.json only: with them the table would not fit into 80 columns.
    """
    columns = ["arm", "final\nreturn\nmean", "area\nunder\ncurve"]
    if threshold is not None:
        columns.append(f"seeds:\nreached {threshold:g} /\nended there")
    for measure in measures:
        difference_of = {"final_returns": "difference", "areas": "area: diff."}[measure]
        columns.append(f"paired\n{difference_of}\nto {reference}")
    rows = []
    for name, arm in found.items():
        counts = [f"{arm.reached} / {arm.ended} of {arm.seeds}"] if threshold is not None else []
        pairs = [difference(found, name, reference, measure, confidence) for measure in measures]
        shown = [cell(pair.interval, sign="+") if pair and name != reference else "" for pair in pairs]
        rows.append((name, cell(arm.mean), cell(arm.area), *counts, *shown))
    return Table(title, tuple(columns), tuple(rows))


def notes(threshold: float | None) -> list[str]:
    """What is paired, and what the columns of `table` mean."""
    said = [
        "Paired seeds: the same initial weights, environment seeds and exploration dice in every arm.",
        "Final return: mean over the training episodes (epsilon-greedy) that end in the last 20% of steps, per seed.",
        "In brackets: 95% bootstrap interval over seeds, each for itself.",
        "Area: mean of the learning curve.",
    ]
    if threshold is not None:
        said.append(
            f"Reached {threshold:g}: {stats.WINDOW} episodes in a row, or those of the final return, had that mean. "
            "Ended there: final return at least that."
        )
    return said


def joint(comparisons: int) -> float:
    """The level of each of so many intervals at which all of them hold together with 95% (Bonferroni)."""
    return 1 - 0.05 / max(1, comparisons)


def joint_note(comparisons: int) -> str:
    """What `joint` means for the differences of `table`."""
    return (
        f"Paired differences: each interval at {joint(comparisons):.2%}, so that all {comparisons} of a column hold "
        "together with 95% (Bonferroni)."
    )


def rows(found: Mapping[str, Performance], labels: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One mapping of plain values for every condition and seed, beginning with the condition's `labels`."""
    for name, performance in found.items():
        for seed, value in performance.final_returns.items():
            measured = {"final_return": rounded(value), "area": rounded(performance.areas[seed])}
            yield {**labels[name], "seed": seed, **measured}


def cell(interval: Interval, sign: str = "") -> str:
    """An interval as a cell of a table: the estimate, and its bounds below."""
    estimate = f"{interval.estimate:{sign}.1f}"
    if math.isnan(interval.low):
        return estimate
    low, high = (f"{value:{sign}.{0 if abs(value) >= 9.95 else 1}f}" for value in (interval.low, interval.high))
    return f"{estimate}\n[{low}, {high}]"


def plain(found: Performance, threshold: float | None) -> dict[str, Any]:
    """The performance as plain values for summary.json."""
    content: dict[str, Any] = {
        "seeds": found.seeds,
        "final_return": {
            "per_seed": {str(seed): rounded(value) for seed, value in found.final_returns.items()},
            "mean": plain_interval(found.mean),
            "interquartile_mean": plain_interval(found.interquartile_mean),
            "median": rounded(found.median),
        },
        "area_under_curve": plain_interval(found.area),
    }
    if threshold is not None:
        for name in ("reached", "ended"):
            count = getattr(found, name)
            rate = plain_interval(stats.wilson_interval(count, found.seeds))
            content[name] = {"count": count, "rate": rate}
    return content


def plain_interval(interval: Interval) -> dict[str, float | None]:
    """An interval as plain values; NaN becomes None."""
    return {name: rounded(value) for name, value in asdict(interval).items()}


def plain_contrast(found: Contrast) -> dict[str, float | None]:
    """A contrast as plain values."""
    return {**plain_interval(found.interval), "seeds": found.seeds}


def rounded(value: float) -> float | None:
    """Four decimals; None for NaN."""
    return round(value, 4) if math.isfinite(value) else None
