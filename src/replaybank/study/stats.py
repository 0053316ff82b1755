"""What a set of runs says, as pure functions. A run is a list of finished episodes: their last steps and their returns.

Intervals are over seeds: the seeds are the sample, and no interval says anything about another environment. Paired
differences are taken seed by seed before the bootstrap, since two overlapping intervals are no test.

How often an interval of 95% holds the truth is measured, not believed: `python studies/coverage.py` writes
studies/coverage.csv. The plain percentile bootstrap of few seeds does not (Colas et al. 2019, "A hitchhiker's guide to
statistical comparisons of reinforcement learning algorithms", find the same in their tests), so every method here was
chosen by its coverage at 5 to 30 seeds. Bootstrap intervals of means stay short where a rare value carries the mean:
of 10 exponential values 90% hold it instead of 95%, of 5 returns with rare failures 82%.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

Array = npt.NDArray[np.float64]
Sample = Sequence[float] | Array
"""One value per run."""
Statistic = Callable[..., Array]
"""A function of (values, axis) that takes one axis away, such as `mean`."""

FINAL_SHARE = 0.2
"""The final return is taken over the episodes that end in this last share of a run's steps."""
WINDOW = 5
"""A threshold counts as reached when the mean return of this many episodes in a row is at or above it."""

SEEDS_FOR_A_CLAIM = 5
"""Below this many paired seeds a difference is shown, but nothing is claimed."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; `low` and `high` are NaN where the sample is too small for one."""

    estimate: float
    low: float
    high: float


# ---- one run -------------------------------------------------------------------------


def final_return(ends: Sequence[int], returns: Sequence[float], steps: int) -> float:
    """Mean return of the episodes that end in the last 20% of `steps`; of the last episode if none does.

    ends: the run's step (counted from 1) at which each episode ended, ascending. returns: their undiscounted returns.
    NaN if no episode ended.
    """
    if not returns:
        return math.nan
    late = [value for end, value in zip(ends, returns, strict=True) if end > (1 - FINAL_SHARE) * steps]
    return float(np.mean(late or returns[-1:]))


def best_window(returns: Sequence[float], window: int = WINDOW) -> float:
    """Largest mean of `window` returns (by episode) in a row; NaN with fewer episodes than that."""
    if len(returns) < window:
        return math.nan
    return float(np.convolve(returns, np.full(window, 1 / window), mode="valid").max())


def learning_curve(ends: Sequence[int], returns: Sequence[float], grid: Sequence[int]) -> Array:
    """Mean return of the episodes that ended in each interval (grid[k-1], grid[k]], the first from 0; [len(grid)].

    ends, returns: as in `final_return`. grid: steps, rising.
    An interval without an end repeats the one before it, and the first episode's return stands before the first end.
    NaN throughout if no episode ended.
    """
    curve = np.full(len(grid), np.nan)
    latest = returns[0] if returns else math.nan
    where = np.searchsorted(np.asarray(grid), np.asarray(ends, dtype=np.int64), side="left")
    values = np.asarray(returns, dtype=np.float64)
    for k in range(len(grid)):
        here = values[where == k]
        latest = float(here.mean()) if here.size else latest
        curve[k] = latest
    return curve


def area_under_curve(curve: Array) -> float:
    """Area under a learning curve with even intervals, divided by its length: the mean return over the whole run."""
    return float(np.mean(curve))


# ---- over seeds ----------------------------------------------------------------------


def mean(values: Array, axis: int = -1) -> Array:
    """Arithmetic mean of `values` along `axis`."""
    return np.asarray(np.mean(values, axis=axis))


def median(values: Array, axis: int = -1) -> Array:
    """Median of `values` along `axis`; of an even number of values the mean of the middle two."""
    return np.asarray(np.median(values, axis=axis))


def interquartile_mean(values: Array, axis: int = -1) -> Array:
    """Mean of the middle half of `values` along `axis` (Agarwal et al. 2021).

    With seeds of one environment it can trim away real failures.
    """
    return np.asarray(scipy_stats.trim_mean(values, 0.25, axis=axis))


def expanded(confidence: float, freedom: float, narrowing: float) -> float:
    """The level at which a percentile interval is to be taken, so that it holds the truth as often as `confidence`.

    Resampling n values forgets that their variance is itself an estimate (`freedom`: its degrees of freedom, n - 1)
    and, for a mean, a factor n / (n - 1) of it (`narrowing`). The remedy is the expanded percentile interval
    (Hesterberg 2015, "What teachers should know about the bootstrap"). Of 95% intervals for the mean of 5, 10, 20
    normal values it brings those that hold it from 85, 90, 93 to 92, 95, 95%.
    """
    quantile = scipy_stats.t.ppf((1 - confidence) / 2, freedom) * math.sqrt(narrowing)
    return float(1 - 2 * scipy_stats.norm.cdf(quantile))


def bootstrap_interval(
    values: Sample, statistic: Statistic = mean, *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Expanded percentile bootstrap over `values`, one per seed; the same `seed` gives the same interval.

    `statistic`: of an array along its last axis, such as `mean`. `confidence`: in (0, 1), how often it is to hold the
    truth. 10,000 resamples. Equal values give a point; one value gives no interval. The resampled mean is too narrow by
    (n - 1) / n; a resampled median or interquartile mean is not, and is expanded for its degrees of freedom alone.
    Measured coverage of 95% intervals of 10 normal values: mean 95, interquartile mean 96, median 96%.
    """
    sample = np.asarray(values, dtype=np.float64)
    low, high = _bootstrap(sample, statistic, confidence, resamples=10_000, seed=seed)
    return Interval(float(statistic(sample)), float(low), float(high))


def stratified_interval(
    groups: Sequence[Sample], statistic: Statistic = mean, *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """`statistic` of all runs of all groups together, by the stratified bootstrap (Agarwal et al. 2021, section 4).

    groups: one value per run, by task; every task's runs are resampled among themselves, since another experiment
    would have the same tasks. A task counts by its number of runs, and its values must be on a scale shared by all
    tasks. Expanded as for the mean in `bootstrap_interval`, whatever the statistic, with the degrees of freedom of
    Satterthwaite 1946; measured coverage of 2 tasks of 10 runs: 95 to 97%. No interval if a group has fewer than two
    runs. 10,000 resamples. `confidence` and `seed` as in `bootstrap_interval`.
    """
    samples = [np.asarray(group, dtype=np.float64) for group in groups]
    together = np.concatenate(samples)
    estimate = float(statistic(together))
    if min(map(len, samples)) < 2 or not np.isfinite(together).all():
        return Interval(estimate, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    resampled = np.concatenate([sample[_rows(rng, len(sample))] for sample in samples], axis=1)
    return _percentiles(estimate, statistic(resampled, axis=1), _stratified_level(samples, confidence))


def _stratified_level(samples: Sequence[Array], confidence: float) -> float:
    sizes = np.array([len(sample) for sample in samples])
    shares = sizes * np.array([sample.var(ddof=1) for sample in samples])
    if not shares.any():
        return confidence
    freedom = shares.sum() ** 2 / (shares**2 / (sizes - 1)).sum()
    narrowing = shares.sum() / (shares * (sizes - 1) / sizes).sum()
    return expanded(confidence, freedom, narrowing)


def _rows(rng: np.random.Generator, size: int) -> npt.NDArray[np.int64]:
    """10,000 resamples of `size` rows, with replacement; [10,000, size]."""
    return rng.integers(size, size=(10_000, size))


def _percentiles(estimate: float, resampled: Array, level: float) -> Interval:
    low, high = np.quantile(resampled, ((1 - level) / 2, (1 + level) / 2))
    return Interval(estimate, float(low), float(high))


def bootstrap_band(curves: Array, *, confidence: float = 0.95, seed: int = 0) -> tuple[Array, Array, Array]:
    """Mean [points], lower and upper bound [points] over the seeds of `curves` [seeds, points], point by point.

    `confidence` and `seed` as in `bootstrap_interval`.
    """
    low, high = _bootstrap(curves, mean, confidence, resamples=5_000, seed=seed)
    return mean(curves, axis=0), low, high


def _bootstrap(
    sample: Array, statistic: Statistic, confidence: float, resamples: int, seed: int
) -> tuple[Array, Array]:
    """Bounds over the first axis; NaN with fewer than two values or with values that are not finite."""
    if len(sample) < 2 or not np.isfinite(sample).all():
        nothing = np.full(sample.shape[1:], np.nan)
        return nothing, nothing
    result = scipy_stats.bootstrap(
        (sample,),
        statistic,
        axis=0,
        n_resamples=resamples,
        confidence_level=_level(len(sample), statistic, confidence),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.confidence_interval.low), np.asarray(result.confidence_interval.high)


def _level(size: int, statistic: Statistic, confidence: float) -> float:
    return expanded(confidence, size - 1, size / (size - 1) if statistic is mean else 1.0)


def paired_difference(values: Sample, reference: Sample, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `values - reference`, seed by seed, with its bootstrap interval. Both in the same order of seeds.

    `confidence` and `seed` as in `bootstrap_interval`.
    """
    ours, theirs = _paired(values, reference)
    return bootstrap_interval(ours - theirs, confidence=confidence, seed=seed)


def ratio_interval(
    values: Sample,
    reference: Sample,
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`statistic(values) / statistic(reference)` by the paired bootstrap: pairs, one per seed, are resampled together.

    For times, counts and errors, where "half as long" says more than a difference. The ratio of means is expanded as
    in `bootstrap_interval`; that of medians or interquartile means is a plain percentile interval: wide enough.
    Measured coverage of 95% intervals of 10 normal pairs: of means 95, of medians 95%. No interval with fewer than two
    pairs, or where the interval of the denominator alone holds 0: the ratio could then be anything. 10,000 resamples.
    `confidence` and `seed` as in `bootstrap_interval`.
    """
    ours, theirs = _paired(values, reference)
    above, below = float(statistic(ours)), float(statistic(theirs))
    estimate = above / below if below else math.nan
    if len(ours) < 2 or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Interval(estimate, math.nan, math.nan)
    level = _level(len(ours), statistic, confidence) if statistic is mean else confidence
    rows = _rows(np.random.default_rng(seed), len(ours))
    numerators, denominators = statistic(ours[rows], axis=1), statistic(theirs[rows], axis=1)
    denominator = _percentiles(below, denominators, level)
    if denominator.low <= 0 <= denominator.high:
        return Interval(estimate, math.nan, math.nan)
    # a resample beyond that interval may still divide by 0 or change sign: it goes to the far end, where it belongs
    kept = np.sign(denominators) == np.sign(below)
    far = np.where(numerators < 0, -math.inf, math.inf) * np.sign(below)
    ratios = np.divide(numerators, denominators, out=far, where=kept)
    return _percentiles(estimate, ratios, level)


def _paired(values: Sample, reference: Sample) -> tuple[Array, Array]:
    if len(values) != len(reference):
        raise ValueError(f"paired values need the same seeds: given {len(values)} and {len(reference)}")
    return np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)


def log_slope(x: Sample, y_by_seed: Sequence[Sample] | Array, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Slope of log y on log x: the exponent b of y = a x^b, by least squares through the medians over seeds.

    x: [points], positive, at least two different. y_by_seed: [seeds, points], positive. Whole seeds are resampled
    (10,000 times), so what a seed's points share is kept. A plain percentile interval: wide enough for medians,
    measured coverage of 95% intervals of 10 seeds: 95%. No interval with fewer than two seeds or where a value is not
    finite. An infinite y (a run that never got there) leaves the estimate as long as the medians are finite.
    `confidence` and `seed` as in `bootstrap_interval`.
    """
    place, values = np.asarray(x, dtype=np.float64), np.asarray(y_by_seed, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(place):
        raise ValueError(f"expected y_by_seed [seeds, {len(place)}], one value per x, given {list(values.shape)}")
    if not (place > 0).all() or (values <= 0).any() or len(np.unique(place)) < 2:
        raise ValueError("a slope of logarithms needs positive values and at least two different x")
    centred = np.log(place) - np.log(place).mean()
    weights = centred / (centred**2).sum()
    medians = median(values, axis=0)
    estimate = float(np.log(medians) @ weights) if np.isfinite(medians).all() else math.nan
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(estimate, math.nan, math.nan)
    rows = _rows(np.random.default_rng(seed), len(values))
    return _percentiles(estimate, np.log(median(values[rows], axis=1)) @ weights, confidence)


# ---- shares --------------------------------------------------------------------------


def probability_of_improvement(
    values: Sample | Sequence[Sample],
    reference: Sample | Sequence[Sample],
    *,
    confidence: float = 0.95,
) -> Interval:
    """P(X > Y) + P(X = Y) / 2 of a run X of `values` and a run Y of `reference`, mean over tasks (Agarwal et al. 2021).

    Each is one value per run, or a sequence of those, one per task. Runs are not paired by seed; where they share
    luck, the interval is wider than it need be. It is the score interval of Newcombe 2006 ("Confidence intervals for
    an effect size measure based on the Mann-Whitney statistic, part 2", method 5), not a bootstrap: of two samples
    that do not overlap any bootstrap says 100% with certainty, and at P = 0.96 and 10 runs each it covers 75%, this
    one 96%. Where one sample varies 10 times as much as the other, it covers 90%. Of several tasks it covers 94 to 98%,
    more where some have P = 0 and others 1. No interval if a sample has fewer than two runs. `confidence`: in (0, 1).
    """
    pairs = [
        (np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64))
        for ours, theirs in zip(_by_task(values), _by_task(reference), strict=True)
    ]
    wins = np.array([(np.sign(np.subtract.outer(ours, theirs)) / 2 + 0.5).mean() for ours, theirs in pairs])
    runs = np.array([(len(ours), len(theirs)) for ours, theirs in pairs])
    share = float(wins.mean())
    if runs.min() < 2 or not math.isfinite(share):
        return Interval(share, math.nan, math.nan)
    z = float(scipy_stats.norm.ppf((1 + confidence) / 2))
    return Interval(share, 1 - _upper_bound(1 - wins, runs, z), _upper_bound(wins, runs, z))


def _by_task(values: Sample | Sequence[Sample]) -> Sequence[Sample]:
    return cast(Sequence[Sample], [values] if np.ndim(values[0]) == 0 else values)


def _upper_bound(wins: Array, runs: npt.NDArray[np.int64], z: float) -> float:
    """The largest mean P that is at most `z` standard errors above that of `wins` [tasks], the error being that at P.

    runs: [tasks, 2]. That tasks differ takes from the variance: it is scaled as it is by their own shares, which are
    drawn to their mean by one run's weight, since shares of few runs differ by chance, too.
    """
    share = float(wins.mean())
    shrunk = (wins * runs.min(axis=1) + share) / (runs.min(axis=1) + 1)
    alike = _variance(share, runs)
    scale = _variance(shrunk, runs) / alike if alike else 1.0
    low, high = share, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        inside = (middle - share) ** 2 <= z**2 * scale * _variance(middle, runs)
        low, high = (middle, high) if inside else (low, middle)
    return low


def _variance(p: Array | float, runs: npt.NDArray[np.int64]) -> float:
    """Variance of the mean of the tasks' shares of wins (Hanley and McNeil 1982: exact for exponential values)."""
    ours, theirs = runs[:, 0], runs[:, 1]
    shared_run = ((ours + theirs) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))
    return float((p * (1 - p) * (1 + shared_run) / (ours * theirs)).sum()) / len(runs) ** 2


def performance_profile(values: Sample, thresholds: Sample, *, confidence: float = 0.95) -> tuple[Array, Array, Array]:
    """Share of runs above each threshold, lower and upper bound, each [thresholds] (Agarwal et al. 2021, section 4.3).

    values: one per run, [runs] or [tasks, runs] of scores on one scale, pooled. The bounds are Wilson's, threshold by
    threshold: a band for the whole curve would be wider. Measured coverage of 10 runs: 96% in the mean over shares from
    1 to 99%, 90% at the worst (runs come in tenths); more than that where tasks differ. NaN without runs. `confidence`:
    in (0, 1).
    """
    scores = np.ravel(np.asarray(values, dtype=np.float64))
    counts = (scores[:, np.newaxis] > np.asarray(thresholds, dtype=np.float64)).sum(axis=0)
    points = [wilson_interval(int(count), scores.size, confidence=confidence) for count in counts]
    share, low, high = np.array([(each.estimate, each.low, each.high) for each in points]).reshape(-1, 3).T
    return share, low, high


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Success rate, successes of trials, with its Wilson score interval (Wilson 1927), from 0 to 1.

    `confidence`: in (0, 1).
    """
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan)
    bounds = scipy_stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(bounds.low), float(bounds.high))


def verdict(name: str, reference: str, difference: Interval, seeds: int) -> str:
    """A sentence about the paired `difference` of `name` and `reference`.

    It claims no more than its interval allows, and nothing below 5 seeds.
    """
    if math.isnan(difference.low):
        return f"{name} - {reference}: {difference.estimate:+.1f}, one paired seed: no interval and no claim"
    words = f"{name} - {reference}: {difference.estimate:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
    if seeds < SEEDS_FOR_A_CLAIM:
        return f"{words}: no claim with only {seeds} seeds"
    if difference.low > 0:
        return f"{words}: {name} ends higher"
    if difference.high < 0:
        return f"{words}: {name} ends lower"
    return f"{words}: the interval holds 0, no difference shown with {seeds} seeds"
