"""Chi-square tests of draws, and what they can see.

A chi-square test of N draws over cells with probabilities p has, where the truth is q, a noncentral chi-square
statistic with noncentrality N * sum((q - p)^2 / p). Its power is the chance that it exceeds the bound for P_MIN.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

P_MIN = 1e-4  # a right sampler fails one fixed seed in 10^4; the seeds here are fixed and were seen to pass


def chi_square(observed: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of independent draws: `observed` counts against their probabilities (both [cells], summing to 1)."""
    expected = observed.sum() * probabilities
    assert (observed[expected == 0] == 0).all(), "what cannot be drawn was drawn"
    seen = expected > 0
    assert expected[seen].min() > 5, "too few draws for the test to mean anything"
    return float(stats.chisquare(observed[seen], expected[seen]).pvalue)


def power(draws: int, probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The chance that `chi_square` of so many draws gives p < P_MIN where `truth` holds instead of `probabilities`."""
    cells = len(probabilities) - 1
    shift = draws * float(((truth - probabilities) ** 2 / probabilities).sum())
    return float(stats.ncx2.sf(stats.chi2.isf(P_MIN, cells), cells, shift))


def stratified_chi_square(positions: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of stratified batches: `positions` [batches, n] holds the cell that draw j of each batch fell into.

    Counts over whole batches vary less than multinomial ones, and a plain chi-square of them would pass almost all.
    But draw j falls into [j/n, (j+1)/n) of the cumulated probabilities, independently of the other draws: so each j has
    its own known distribution, the share of its range that each cell covers, and the statistics of all j add up.
    """
    n = positions.shape[1]
    edges = np.concatenate([[0.0], np.cumsum(probabilities)])
    statistic, freedom = 0.0, 0
    for j in range(n):
        low, high = np.clip(edges[:-1], j / n, (j + 1) / n), np.clip(edges[1:], j / n, (j + 1) / n)
        expected = len(positions) * n * (high - low)
        observed = np.bincount(positions[:, j], minlength=len(probabilities))
        if observed[expected < 1e-6].any():
            return 0.0  # draw j fell outside its range
        whole = expected >= 20  # slivers at the edges go together
        expected = np.append(expected[whole], expected[~whole].sum())
        observed = np.append(observed[whole], observed[~whole].sum())
        seen = expected >= 5
        statistic += float(((observed - expected)[seen] ** 2 / expected[seen]).sum())
        freedom += int(seen.sum()) - 1
    return float(stats.chi2.sf(statistic, freedom))


def stratified_power(batches: int, n: int, probabilities: np.ndarray, truth: np.ndarray) -> float:
    """A lower bound of the chance that `stratified_chi_square` gives p < P_MIN where `truth` holds.

    The chi-square divergence is jointly convex, so merging the ranges only loses what they show: the noncentrality is
    at least that of the counts over all draws, with at most n + cells - 1 degrees of freedom.
    """
    cells = n + len(probabilities) - 1
    shift = batches * n * float(((truth - probabilities) ** 2 / probabilities).sum())
    return float(stats.ncx2.sf(stats.chi2.isf(P_MIN, cells), cells, shift))


def tilted(probabilities: np.ndarray, by: float = 0.02) -> np.ndarray:
    """The first half of the cells drawn `by` too often, the others correspondingly too rarely."""
    half = len(probabilities) // 2
    low = probabilities[:half].sum()
    return np.concatenate([probabilities[:half] * (1 + by), probabilities[half:] * (1 - by * low / (1 - low))])
