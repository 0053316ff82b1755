"""How often the 95% intervals of replaybank.study.stats hold the truth: simulated experiments, written to coverage.csv.

    python studies/coverage.py

About two minutes on two cores. A row is one method on one kind of values: the share of the experiments whose interval
holds the truth, and the shares in which the truth lies below and above it. By chance alone a coverage of 95% in 2,000
experiments comes out between 94.0 and 96.0. What the values stand for:

normal              returns of an agent that has settled
exponential         times and errors with a long tail
capped              returns as CartPole's: 70% of the runs end near the cap of 500, 30% fail (around 150)
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from replaybank.study import stats
from replaybank.study.stats import Interval

Array = npt.NDArray[np.float64]
Values = Callable[..., Array]

RESULTS = Path(__file__).with_name("coverage.csv")
COLUMNS = ("interval", "values", "runs", "experiments", "covers_percent", "truth_below_percent", "truth_above_percent")
EXPERIMENTS = {5: 500, 10: 2_000, 30: 500}
"""How many experiments are simulated with so many runs each."""
POINTS = np.array([4.0, 32.0, 256.0])
SLOPE = 1.1


@dataclass(frozen=True)
class Case:
    """An interval, the experiments it is tried on and the truth that it should hold."""

    interval: str
    values: str
    runs: int
    experiment: Callable[[np.random.Generator, int], Interval]
    truth: float


def normal(rng: np.random.Generator, size: Any, mean: float = 7.0, deviation: float = 1.0) -> Array:
    """Normal values, mean 7 and deviation 1 unless told."""
    return cast(Array, rng.normal(mean, deviation, size))


def exponential(rng: np.random.Generator, size: Any, mean: float = 1.0) -> Array:
    """Exponential values, mean 1 unless told."""
    return cast(Array, rng.exponential(mean, size))


def capped(rng: np.random.Generator, size: Any, good: float = 0.7) -> Array:
    """Two kinds of runs: a share `good` near the cap of 500, the others around 150."""
    near_cap, failed = np.minimum(500, rng.normal(480, 40, size)), rng.normal(150, 60, size)
    return cast(Array, np.where(rng.random(size) < good, near_cap, failed))


VALUES: dict[str, Values] = {"normal": normal, "exponential": exponential, "capped": capped}
STATISTICS = {"mean": stats.mean, "interquartile mean": stats.interquartile_mean, "median": stats.median}


def population(values: Values, statistic: stats.Statistic) -> float:
    """The statistic of a million values: the truth."""
    return float(statistic(values(np.random.default_rng(99), 1_000_000)))


def wins(values: Values, reference: Values) -> float:
    """P(X > Y) + P(X = Y) / 2 of a million values of each, exactly: from their ranks (Mann and Whitney 1947)."""
    rng, size = np.random.default_rng(99), 1_000_000
    ranks = scipy_stats.rankdata(np.concatenate([values(rng, size), reference(rng, size)]))
    return float((ranks[:size].sum() - size * (size + 1) / 2) / size**2)


# ---- one experiment: draw the runs, take the interval ---------------------------------


def single(values: Values, statistic: stats.Statistic, runs: int, rng: np.random.Generator, seed: int) -> Interval:
    return stats.bootstrap_interval(values(rng, runs), statistic, seed=seed)


def paired(values: Values, runs: int, rng: np.random.Generator, seed: int) -> Interval:
    shared = values(rng, runs)
    return stats.paired_difference(shared + values(rng, runs), shared, seed=seed)


def ratio(values: Values, statistic: stats.Statistic, runs: int, rng: np.random.Generator, seed: int) -> Interval:
    return stats.ratio_interval(2 * values(rng, runs), values(rng, runs), statistic, seed=seed)


def slope(
    spread: Callable[[np.random.Generator, Any], Array], runs: int, rng: np.random.Generator, seed: int
) -> Interval:
    return stats.log_slope(POINTS, POINTS**SLOPE * spread(rng, (runs, len(POINTS))), seed=seed)


def stratified(
    tasks: tuple[Values, ...], statistic: stats.Statistic, runs: int, rng: np.random.Generator, seed: int
) -> Interval:
    return stats.stratified_interval([values(rng, runs) for values in tasks], statistic, seed=seed)


def improvement(tasks: tuple[tuple[Values, Values], ...], runs: int, rng: np.random.Generator, seed: int) -> Interval:
    return stats.probability_of_improvement([v(rng, runs) for v, _ in tasks], [r(rng, runs) for _, r in tasks])


def share_above(threshold: float, runs: int, rng: np.random.Generator, seed: int) -> Interval:
    share, low, high = stats.performance_profile(rng.random(runs), [threshold])
    return Interval(float(share[0]), float(low[0]), float(high[0]))


# ---- all of them ----------------------------------------------------------------------


def cases() -> Iterator[Case]:
    for runs in EXPERIMENTS:
        names = ("mean",) if runs == 30 else tuple(STATISTICS)
        for (kind, values), name in itertools.product(VALUES.items(), names):
            statistic = STATISTICS[name]
            yield Case(name, kind, runs, partial(single, values, statistic, runs), population(values, statistic))
    for kind in ("normal", "exponential"):
        values = VALUES[kind]
        yield Case("paired difference", kind, 10, partial(paired, values, 10), population(values, stats.mean))
        for name in ("mean", "median"):
            yield Case(f"ratio of {name}s", kind, 10, partial(ratio, values, STATISTICS[name], 10), 2.0)
    yield Case("slope of log medians", "exponential", 10, partial(slope, exponential, 10), SLOPE)
    yield from several_tasks()
    yield from improvements()
    for share in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95):
        yield Case("performance profile", f"share {share}", 10, partial(share_above, 1 - share, 10), share)


def several_tasks() -> Iterator[Case]:
    tasks = {
        "2 tasks: normal, alike": (normal, normal),
        "2 tasks: normal, normal (deviation 3)": (normal, partial(normal, mean=8.0, deviation=3.0)),
    }
    for (kind, strata), name in itertools.product(tasks.items(), STATISTICS):
        rng, statistic = np.random.default_rng(99), STATISTICS[name]
        truth = float(statistic(np.concatenate([values(rng, 1_000_000) for values in strata])))
        yield Case(f"stratified {name}", kind, 10, partial(stratified, strata, statistic, 10), truth)


def improvements() -> Iterator[Case]:
    pairs: dict[str, tuple[Values, Values]] = {
        f"normal, {shift} deviations apart": (partial(normal, mean=7 + shift), normal)
        for shift in (0.0, 0.75, 1.5, 2.5)
    }
    pairs["normal, deviations 0.1 and 1"] = (partial(normal, deviation=0.1), normal)
    pairs["exponential, mean 8 and 1"] = (partial(exponential, mean=8.0), exponential)
    pairs["capped, 90% and 50% good"] = (partial(capped, good=0.9), partial(capped, good=0.5))
    for kind, pair in pairs.items():
        yield Case("probability of improvement", kind, 10, partial(improvement, (pair,), 10), wins(*pair))
    close, apart = (pairs[f"normal, {shift} deviations apart"] for shift in (0.75, 2.5))
    for kind, tasks in (("3 tasks alike", (close,) * 3), ("3 tasks that differ", (close, apart, apart[::-1]))):
        truth = sum(wins(*pair) for pair in tasks) / len(tasks)
        yield Case("probability of improvement", f"{kind} (normal)", 10, partial(improvement, tasks, 10), truth)


def measure(case: Case) -> tuple[Any, ...]:
    """A row of coverage.csv."""
    rng, experiments = np.random.default_rng(7), EXPERIMENTS[case.runs]
    found = [case.experiment(rng, seed) for seed in range(experiments)]
    below = sum(case.truth < each.low for each in found)
    above = sum(case.truth > each.high for each in found)
    if any(math.isnan(each.low) for each in found):
        raise RuntimeError(f"no interval in some experiments of {case.interval}, {case.values}")
    shares = [round(100 * count / experiments, 2) for count in (experiments - below - above, below, above)]
    return (case.interval, case.values, case.runs, experiments, *shares)


def main() -> None:
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(measure, cases()))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    for row in rows:
        print("{:<30} {:<52} {:>2} runs: {:5.1f}%  (below {:.1f}, above {:.1f})".format(*row[:3], *row[4:]))


if __name__ == "__main__":
    main()
