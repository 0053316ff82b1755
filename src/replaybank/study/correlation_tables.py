"""The tables of the study `correlation`, and the figures of its runs that they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from replaybank.study import stats
from replaybank.study.base import Runs, Table
from replaybank.study.looks import GAPS, SERIES
from replaybank.study.stats import Interval
from replaybank.study.streams import LEARNERS

SHARED = "uniform"
"""The condition on whose stream all learners learn."""
ERRORS = ("fall error", "early TD error", "newest TD error")
SPANS = ("episodes", "age", "newest")

BySeed = dict[int, float]


def mean_of(runs: Runs, condition: str, tag: str, looks: slice = slice(None)) -> BySeed:
    """A measure of each seed of a condition, averaged over those looks; empty where the condition has no runs."""
    found = runs.get(condition, {})
    return {seed: float(np.mean(record["measures"][tag][looks])) for seed, record in sorted(found.items())}


def final_returns(runs: Runs, condition: str, steps: int) -> BySeed:
    """The final return of each seed of a condition."""
    episodes = {seed: record["episodes"] for seed, record in sorted(runs.get(condition, {}).items())}
    return {seed: stats.final_return(e["step"], e["return"], steps) for seed, e in episodes.items()}


def quarters(looks: int) -> tuple[slice, slice]:
    """The early and the late looks: the first and the last quarter."""
    quarter = max(1, looks // 4)
    return slice(0, quarter), slice(looks - quarter, None)


def interval_of(values: BySeed) -> Interval:
    """The mean over seeds with its interval."""
    return stats.bootstrap_interval(list(values.values()))


def difference_of(values: BySeed, reference: BySeed) -> tuple[Interval, int]:
    """The paired difference over the seeds that both have, and how many they are."""
    pairs = sorted(values.keys() & reference.keys())
    interval = stats.paired_difference([values[seed] for seed in pairs], [reference[seed] for seed in pairs])
    return interval, len(pairs)


def disjoint_gap(batch: int) -> int:
    """The smallest gap at which two consecutive batches share no transition."""
    return min(gap for gap in GAPS if gap >= batch)


def worth(runs: Runs, batch: int) -> Table:
    """What a batch of the shared stream is worth, for each quantity."""
    columns = ("ess/consecutive", "ess/formula", "ess/random", "time")
    rows = []
    for name in (*SERIES, "observation", "gradient"):
        known = (column if column in ("ess/consecutive", "ess/random") or name in SERIES else "" for column in columns)
        rows.append((name, *(_measured(runs, SHARED, f"{column}/{name}") if column else "" for column in known)))
    heads = ("of", f"{batch}\nconsecutive", "by the\nformula", f"{batch} at\nrandom", "autocorrelation\ntime, steps")
    return Table(
        f"What {batch} transitions of the stream of {SHARED} are worth, in independent ones", heads, tuple(rows)
    )


def directions(runs: Runs, batch: int) -> Table:
    """How alike gradients are, for each kind of batch."""
    disjoint = f"gap {disjoint_gap(batch)}"
    columns = ("all", "newest", "gap 1", disjoint, "apart")
    wanted = {
        "online": ("all", "newest", "gap 1", disjoint),
        "single": ("all", "apart"),
        "recent": columns,
        "uniform": ("all", "apart"),
    }
    rows = tuple(
        (name, *(_measured(runs, SHARED, f"cosine/{c}/{name}") if c in wanted[name] else "" for c in columns))
        for name in LEARNERS
    )
    updates = f"{disjoint.removeprefix('gap ')} updates\napart"
    heads = (
        "batch",
        "any batch\nand all",
        "the newest\nand all",
        "1 update\napart",
        updates,
        "far apart or\ndrawn anew",
    )
    return Table(f"Cosine between gradients, on the stream and at the weights of {SHARED}", heads, rows)


def coverage(runs: Runs, batch: int) -> Table:
    """What a batch spans."""
    latest = ("consecutive", *(_measured(runs, SHARED, f"{tag}/consecutive") for tag in SPANS))
    random = ("at random", *(_measured(runs, SHARED, f"{tag}/random") for tag in SPANS))
    heads = (
        f"{batch} transitions",
        "episodes\nthey span",
        "mean age,\nsteps",
        "share that holds\nthe newest",
    )
    return Table(f"What a batch of the stream of {SHARED} spans", heads, (latest, random))


def agents(runs: Runs, streams: Sequence[str], steps: int, batch: int) -> Table:
    """Final return and stream of each agent."""
    rows = []
    for name in streams:
        worths = (_measured(runs, name, f"ess/consecutive/{what}") for what in ("observation", "TD error", "gradient"))
        rows.append((name, _cell(final_returns(runs, name, steps)), *worths))
    worth = f"{batch} consecutive\nare worth:"
    heads = (
        "agent",
        "final\nreturn",
        f"{worth}\nobservation",
        "TD error",
        "gradient",
    )
    return Table("Every agent on its own stream", heads, tuple(rows))


def knowledge(runs: Runs, streams: Sequence[str], looks: int) -> Table:
    """What each learner knows of each stream's early transitions, early and late."""
    early, late = quarters(looks)
    rows = []
    for stream in streams:
        for name in LEARNERS if stream == SHARED else (stream,):
            before, after = (mean_of(runs, stream, f"ranking/{name}", part) for part in (early, late))
            error = _cell(mean_of(runs, stream, f"fall error/{name}", late))
            change = text_of(difference_of(after, before)[0], "+").replace(" [", "\n[")
            rows.append((name, stream, _cell(before), _cell(after), change, error))
    heads = ("learner", "stream\nof", "ranking\nearly", "ranking\nlate", "late -\nearly", "fall error,\nlate")
    return Table("What networks know of the transitions before all learning", heads, tuple(rows))


def _measured(runs: Runs, stream: str, tag: str) -> str:
    return _cell(mean_of(runs, stream, tag))


def _cell(values: BySeed) -> str:
    return text_of(interval_of(values)).replace(" [", "\n[")


def text_of(interval: Interval, sign: str = "") -> str:
    """An interval in a line."""
    values = (interval.estimate, interval.low, interval.high)
    if max(abs(value) for value in values) >= 10_000:
        return f"{values[0]:{sign}.2g} [{values[1]:{sign}.1g}, {values[2]:{sign}.1g}]"
    digits = 2 if abs(interval.estimate) < 9.95 else 0 if abs(interval.estimate) >= 99.5 else 1
    estimate, low, high = (f"{value:{sign}.{digits}f}" for value in values)
    return estimate if np.isnan(interval.low) else f"{estimate} [{low}, {high}]"
