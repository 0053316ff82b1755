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
    learn: Learn,
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
    """Of one condition, by seed and size of the walk, how many updates were `made`, and after how many it was learnt.

    transitions: [sizes]; made, updates: [seeds, sizes], updates infinite where the walk was not learnt.
    """

    seeds: list[int]
    transitions: stats.Array
    made: stats.Array
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
    made = np.array([records[seed]["updates"] for seed in seeds], dtype=np.float64)
    learnt = np.array([records[seed]["learnt"] for seed in seeds])
    return Times(seeds, transitions, made, np.where(learnt, made, np.inf))


def ratio_at(values: Times, reference: Times, size: int) -> tuple[stats.Interval, int]:
    """The ratio of the medians at a size with its interval, paired by seed, and the number of pairs.

    No ratio where a median is infinite, no interval where a run never learnt the walk.
    """
    shared = sorted(set(values.seeds) & set(reference.seeds))
    above, below = ([times.updates[times.seeds.index(seed), size] for seed in shared] for times in (values, reference))
    if not shared or math.isinf(np.median(above)) or math.isinf(np.median(below)):
        return stats.Interval(math.nan, math.nan, math.nan), len(shared)
    return stats.ratio_interval(above, below, stats.median), len(shared)


def told(interval: stats.Interval, digits: int, gap: str = " ") -> str:
    """`1.02 [0.98, 1.05]`, with `gap` between; without the bounds where there are none."""
    if math.isnan(interval.estimate):
        return "-"
    estimate = f"{interval.estimate:,.{digits}f}"
    if math.isnan(interval.low):
        return estimate
    return f"{estimate}{gap}[{interval.low:,.{digits}f}, {interval.high:,.{digits}f}]"


def curve_of(times: Times, unit: stats.Array | float = 1.0) -> walk_plots.Curve:
    """Medians and range of the runs in units of `unit` (one, or one a size); nothing where a run learnt no walk."""
    shown = np.where(np.isinf(times.updates), np.nan, times.updates) / unit
    middle = np.where(np.isinf(times.medians), np.nan, times.medians) / unit
    return walk_plots.Curve(times.transitions, middle, shown.min(axis=0), shown.max(axis=0))
