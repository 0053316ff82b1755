"""How long runs on the Blind Cliffwalk took, by size of the walk: what one leaves, and what many say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replaybank.study import stats, walk_plots
from replaybank.study.base import Job, Record, Track
from replaybank.study.walk import Cliffwalk

Learn = Callable[[Mapping[str, Any], int, int, Callable[[], None]], tuple[int, bool]]
"""(settings of the job, states, seed, beat) to the number of updates, and whether the walk was learnt."""


def sizes(
    job: Job,
    track: Track,
    seed: int,
    learn: Callable[[Mapping[str, Any], int, int, Callable[[], None]], tuple[int, bool]],
) -> Record:
    """One run of `learn` in every size of the walk."""
    done, updates, learnt = 0, [], []
    for n in job.settings["states"]:
        made, reached = learn(job.settings, n, seed, lambda at=done: track.progress(at))  # type: ignore[misc]
        updates.append(made)
        learnt.append(reached)
        done += Cliffwalk(n).transitions
        track.scalar(seed, "charts/updates", made, Cliffwalk(n).transitions)
        track.progress(done, f"n = {n}")
    return {"states": job.settings["states"], "updates": updates, "learnt": learnt}


@dataclass(frozen=True)
class Times:
    """Of one condition the updates until the walk was learnt ([seeds, sizes], infinite where it was not)."""

    seeds: list[int]
    transitions: stats.Array
    updates: stats.Array

    @property
    def medians(self) -> stats.Array:
        """By size."""
        return np.asarray(np.median(self.updates, axis=0))

    def cell(self, size: int) -> str:
        """The median, and how many runs never learnt the walk where some did not."""
        failed = int(np.isinf(self.updates[:, size]).sum())
        if failed == len(self.seeds):
            return "never"
        middle = f"{self.medians[size]:,.0f}" if math.isfinite(self.medians[size]) else ""
        return f"{middle} ({failed} never)".strip() if failed else middle


def times_of(records: Mapping[int, Record]) -> Times:
    """The runs of one condition, by seed."""
    seeds = sorted(records)
    states = records[seeds[0]]["states"]
    transitions = np.array([Cliffwalk(n).transitions for n in states], dtype=np.float64)
    rows = [np.where(records[s]["learnt"], np.array(records[s]["updates"], dtype=np.float64), np.inf) for s in seeds]
    return Times(seeds, transitions, np.array(rows))


def ratio_at(values: Times, reference: Times, size: int) -> tuple[stats.Interval, int]:
    """The ratio of the medians at a size with its interval, paired by seed, and the number of pairs.

    An infinite median gives no interval.
    """
    shared = sorted(set(values.seeds) & set(reference.seeds))
    above, below = ([times.updates[times.seeds.index(seed), size] for seed in shared] for times in (values, reference))
    if not shared:
        return stats.Interval(math.nan, math.nan, math.nan), 0
    return stats.ratio_interval(above, below, stats.median), len(shared)


def told(interval: stats.Interval, digits: int, gap: str = " ") -> str:
    """`1.02 [0.98, 1.05]`, with `gap` between; without the bounds where there are none."""
    if math.isnan(interval.estimate):
        return "-"
    estimate = f"{interval.estimate:,.{digits}f}"
    if math.isnan(interval.low):
        return estimate
    return f"{estimate}{gap}[{interval.low:,.{digits}f}, {interval.high:,.{digits}f}]"


def curve_of(times: Times) -> walk_plots.Curve:
    """Medians and the range of the runs; where a run did not learn the walk, up to nowhere."""
    shown = np.where(np.isinf(times.updates), np.nan, times.updates)
    middle = np.where(np.isinf(times.medians), np.nan, times.medians)
    return walk_plots.Curve(times.transitions, middle, shown.min(axis=0), shown.max(axis=0))
