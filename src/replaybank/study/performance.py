"""How well agents did: final returns, areas and learning curves of conditions, computed from their finished runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from replaybank.study import stats
from replaybank.study.base import Record, Runs
from replaybank.study.plots import Curve
from replaybank.study.stats import Interval

POINTS = 40
"""Intervals of a learning curve."""


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
    found: Mapping[str, Performance], name: str, reference: str, measure: str = "final_returns"
) -> Difference | None:
    """The paired difference of two conditions in `measure` (`final_returns` or `areas`); None where one is missing."""
    if name not in found or reference not in found:
        return None
    ours, theirs = getattr(found[name], measure), getattr(found[reference], measure)
    pairs = sorted(ours.keys() & theirs.keys())
    if not pairs:
        return None
    interval = stats.paired_difference([ours[seed] for seed in pairs], [theirs[seed] for seed in pairs])
    return Difference(name, reference, interval, len(pairs))


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


def rounded(value: float) -> float | None:
    """Four decimals; None for NaN."""
    return round(value, 4) if math.isfinite(value) else None
