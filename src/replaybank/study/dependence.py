"""How much a run of dependent values is worth: autocorrelation, effective sample size, and how far directions agree.

Pure functions on arrays. A batch of B values of variance s^2 whose mean has the variance v is worth s^2 / v independent
ones: its effective sample size, B for independent draws. For B consecutive values of a stationary series with the
autocorrelation rho_k the variance of the mean is s^2 / B (1 + 2 sum_{k<B} (1 - k/B) rho_k) (Box & Jenkins; Geyer 1992,
"Practical Markov chain Monte Carlo", sec. 3), and for B without bound the bracket is the integrated autocorrelation
time. Both ways are here: by the formula, and by the spread of batch means as it was found.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

WINDOW_FACTOR = 5.0
"""The sum of an autocorrelation time ends at the first lag that is so many times the sum up to there (Sokal 1997)."""


def autocorrelation(series: npt.ArrayLike) -> Array:
    """Autocorrelation [n] of `series` [n] at the lags 0 to n - 1, about its own mean; 0 beyond lag 0 if it is constant.

    The covariance at lag k is a sum of n - k products divided by n (the biased estimator, of smaller error).
    """
    values = np.asarray(series, dtype=np.float64)
    deviations = values - values.mean()
    size = 2 ** (2 * len(values) - 1).bit_length()  # so much padding that no lag wraps around
    spectrum = np.fft.rfft(deviations, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[: len(values)]
    if not deviations.any():
        return np.asarray(np.eye(1, len(values))[0])
    return np.asarray(covariance / covariance[0])


def autocorrelation_time(correlation: Array) -> float:
    """Integrated autocorrelation time, 1 + 2 sum rho_k, of `correlation` [lags from 0]: steps per independent value.

    The sum ends where the lag first reaches WINDOW_FACTOR times the sum up to it, for beyond that there is noise only
    (Sokal 1997, "Monte Carlo methods in statistical mechanics", sec. 3); a series too short for that is summed whole.
    """
    times = 2 * np.cumsum(correlation) - 1
    enough = np.arange(len(times)) >= WINDOW_FACTOR * times
    return float(times[np.argmax(enough)] if enough.any() else times[-1])


def expected_sample_size(correlation: Array, batch: int) -> float:
    """Effective sample size of `batch` consecutive values of a stationary series with this `correlation`.

    correlation: [lags from 0], at least `batch` of them.
    batch / (1 + 2 sum_{k<batch} (1 - k/batch) rho_k).
    """
    lags = np.arange(1, batch)
    return float(batch / (1 + 2 * np.sum((1 - lags / batch) * correlation[1:batch])))


def observed_sample_size(variance: npt.ArrayLike, squared_errors: npt.ArrayLike) -> float:
    """Effective sample size from the spread of batch means: variance / mean squared error of those means.

    variance: of one value about the mean of all, [] or [components]. squared_errors: of each batch's mean about the
    mean of all, [batches] or [batches, components]. Components count alike, each in units of its own variance; those
    without variance do not count. Raises ValueError if none has any.
    """
    spread = np.atleast_1d(np.asarray(variance, dtype=np.float64))
    errors = np.asarray(squared_errors, dtype=np.float64).mean(axis=0).reshape(-1)
    varied = spread > 0
    if not varied.any():
        raise ValueError("variance: expected one above 0, given none")
    return float(varied.sum() / np.sum(errors[varied] / spread[varied]))


def window_means(values: Array, batch: int) -> Array:
    """Means [n - batch + 1, ...] of every run of `batch` consecutive `values` [n, ...]."""
    sums = np.cumsum(np.concatenate([np.zeros((1, *values.shape[1:])), values]), axis=0)
    return np.asarray((sums[batch:] - sums[:-batch]) / batch)


def cosine(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> Array:
    """Cosine [...] of the angle between vectors `left` and `right` [..., length]; 0 where one of them is zero."""
    product = np.einsum("...i,...i->...", left, right).astype(np.float64)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return np.asarray(product / np.where(norms > 0, norms, 1.0))


def ranking_accuracy(lower: npt.ArrayLike, upper: npt.ArrayLike) -> float:
    """Share of the pairs of one of `lower` and one of `upper` in which the former is below; ties count half.

    1: all of `lower` are below all of `upper`; 1/2: chance. It is the area under the ROC curve (Hanley & McNeil 1982),
    and does not depend on the scale of the values.
    """
    below, above = np.asarray(lower, dtype=np.float64), np.sort(np.asarray(upper, dtype=np.float64))
    first = np.searchsorted(above, below, side="left")
    last = np.searchsorted(above, below, side="right")
    return float(1 - (first + last).mean() / (2 * len(above)))
