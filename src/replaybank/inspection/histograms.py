"""Bins for values that come in pieces: chosen from their range, filled piece by piece."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.inspection.report import Distribution, Histogram, Number

BINS = 50
EXACT = 2**52  # up to here halves of whole numbers are exact in float64


class Bins:
    """At most BINS equal bins from `low` to `high`; for whole numbers each bin holds equally many of them.

    `log`: in equal ratios, for values above 0.
    """

    def __init__(self, low: Number, high: Number, whole: bool = False, log: bool = False) -> None:
        self._low = low
        self._each = 0  # whole numbers a bin
        if whole and max(abs(low), abs(high)) < EXACT:
            self._each = -(-(int(high) - int(low) + 1) // BINS)
            bins = -(-(int(high) - int(low) + 1) // self._each)
            self.edges = int(low) - 0.5 + self._each * np.arange(bins + 1, dtype=np.float64)
        else:
            self.edges = _edges(float(low), float(high), log)
        self.counts = np.zeros(len(self.edges) - 1, np.int64)

    def places(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The bin of each value [n], all from low to high."""
        if self._each:
            return (values.astype(np.int64) - int(self._low)) // self._each
        found = np.searchsorted(self.edges, values.astype(np.float64), side="right") - 1
        return np.clip(found, 0, len(self.counts) - 1)  # the highest value is the last bin's upper edge

    def add(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Counts finite values [n], all from low to high; gives the bin of each."""
        places = self.places(values)
        self.counts += np.bincount(places, minlength=len(self.counts))
        return places

    def histogram(self) -> Histogram:
        """What was counted."""
        return Histogram(tuple(self.edges.tolist()), tuple(self.counts.tolist()))


def _edges(low: float, high: float, log: bool) -> NDArray[np.float64]:
    if low == high:
        wide = (low - 0.5, low + 0.5) if abs(low) < EXACT and not log else (0.0, 0.0)
        return np.array(wide if wide[0] < wide[1] else (math.nextafter(low, -math.inf), math.nextafter(low, math.inf)))
    if log:
        edges = np.exp(np.linspace(math.log(low), math.log(high), BINS + 1))
    elif math.isfinite(high - low):
        edges = np.linspace(low, high, BINS + 1)
    else:
        part = np.linspace(0.0, 1.0, BINS + 1)
        edges = low * (1.0 - part) + high * part
    edges[[0, -1]] = low, high
    return np.unique(np.clip(edges, low, high))


def distribution(values: NDArray[Any]) -> Distribution | None:
    """Of values [n]; None where there are none."""
    if not len(values):
        return None
    finite = values[np.isfinite(values)]
    histogram = None
    if len(finite):
        bins = Bins(finite.min().item(), finite.max().item(), whole=bool((finite == np.rint(finite)).all()))
        bins.add(finite)
        histogram = bins.histogram()
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float64 is told as not known
        mean, median = float(values.mean(dtype=np.float64)), float(np.median(values))
    return Distribution(len(values), float(values.min()), mean, median, float(values.max()), histogram)
