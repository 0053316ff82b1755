"""`replaybank study run cliffwalk`: in which order to replay, on the Blind Cliffwalk of Schaul et al. (2016).

A memory holds every experience that an agent can make, once for each of the 2^n sequences of actions, and one of its
2^(n+1) - 2 transitions saw a reward. How many updates of Q-learning until the mean squared error of all 2 n values is
below 1e-3? That depends on which transition is replayed next:

- uniform: any, all alike (`rb.Uniform`).
- oracle: the one whose update lowers the squared error most. Of equal transitions it does not matter which, so it looks
  at each pair of state and action once.
- greedy: the one with the largest TD error when it was last replayed; those never replayed come first, oldest first.
- proportional, rank: drawn by |TD error| + epsilon (`rb.Prioritized`) or by its rank (`rb.RankPrioritized`), one at a
  time and re-prioritised after each update; without importance weights, which the paper does not mention here.

An update always is one step on one transition. Uniform replay is drawn in blocks, which are bit for bit the same draws
as single ones. `linear` is the paper's second representation: a 1-hot state and a constant feature, with weights for
each action. N(0, 0.1) is read as a standard deviation of 0.1. What alpha was, the paper does not say; here it is the
paper's for Atari. Its figures plot about 2^n - 2 on the x axis where its text counts 2^(n+1) - 2, so slopes, order and
ratios are compared rather than positions.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import replaybank as rb
from replaybank.samplers.base import Sampler
from replaybank.study import SettingError, stats, walk_plots
from replaybank.study.base import Findings, Job, Record, Runs, Study, Table, Track
from replaybank.study.claims import Claim, Verdict, decide, decide_within
from replaybank.study.configs import check_at_least_one, check_names
from replaybank.study.walk import (
    BEAT,
    Cliffwalk,
    Learner,
    Linear,
    Tabular,
    check_walk,
    generators,
    pairs_of,
    replay,
)
from replaybank.study.walk_times import Times, curve_of, ratio_at, sizes, times_of, told

BLOCK = 4096
"""Transitions that uniform replay draws at once."""
LEAST_GAIN = 1e-12
"""An oracle that cannot lower the sum of squared errors by this much will not get below the threshold: it is stuck."""

SAMPLERS = ("rank", "proportional", "uniform", "greedy", "oracle")  # the longest first
FEATURES: Mapping[str, Callable[..., Learner]] = {"tabular": Tabular, "linear": Linear}


@dataclass(frozen=True)
class CliffwalkConfig:
    """What `replaybank study run cliffwalk` runs."""

    fewest_states: int = 2
    """the smallest walk"""
    most_states: int = 16
    """the largest walk"""
    samplers: tuple[str, ...] = ("uniform", "oracle", "greedy", "proportional", "rank")
    """how the next transition is chosen"""
    features: tuple[str, ...] = ("tabular", "linear")
    """representation of the values; linear: a 1-hot state and a constant feature"""
    step_size: float = 0.25
    """of Q-learning; the paper's eta"""
    scale: float = 0.1
    """standard deviation of the normal initial weights"""
    mse: float = 1e-3
    """the walk is learnt when the mean squared error to Q* is below this"""
    alpha: float = 0.6
    """exponent of proportional prioritization"""
    rank_alpha: float = 0.7
    """exponent of prioritization by rank"""
    max_updates: int = 20_000_000
    """a run that has not learnt the walk after so many updates ends and is reported as such"""
    slopes_from: int = 8
    """verdicts on slopes take walks of at least so many states: in small memories the 2 n values to learn decide, not
    the number of transitions"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_names("samplers", self.samplers, SAMPLERS)
        check_names("features", self.features, tuple(FEATURES))
        check_walk(self.fewest_states, self.most_states, self.step_size, self.scale, self.mse)
        check_at_least_one(max_updates=self.max_updates)
        for name in ("alpha", "rank_alpha"):
            if not 0 <= getattr(self, name) <= 30:
                raise SettingError(f"--{name.replace('_', '-')}: expected from 0 to 30, given {getattr(self, name)}")
        if not self.fewest_states <= self.slopes_from < self.most_states:
            expected = f"from {self.fewest_states} to {self.most_states - 1}, so that there are two sizes for a slope"
            raise SettingError(f"--slopes-from: expected {expected}, given {self.slopes_from}")

    @property
    def states(self) -> list[int]:
        """The sizes of the walk."""
        return list(range(self.fewest_states, self.most_states + 1))


# ---- the ways to choose --------------------------------------------------------------


def follow_oracle(walk: Cliffwalk, learner: Learner, enough: float, most: int) -> int:
    """Always the update that lowers `learner.squares` most, until that is below `enough`, or no update lowers it."""
    updates = 0
    while learner.squares >= enough and updates < most:
        best = min(range(walk.pairs), key=learner.change)
        if learner.change(best) > -LEAST_GAIN:
            return updates
        learner.update(best)
        updates += 1
    return updates


def follow_errors(pairs: Sequence[int], learner: Learner, enough: float, most: int, beat: Callable[[], None]) -> int:
    """Always the transition with the largest last |TD error|; those without one come first, and of equals the oldest.

    A heap of all transitions, of which an update only moves the one on top: sec. 3.2. `pairs` is the memory by id.
    """
    heap = [(-math.inf, i) for i in range(len(pairs))]
    updates = 0
    while learner.squares >= enough and updates < most:
        i = heap[0][1]
        heapq.heapreplace(heap, (-abs(learner.update(pairs[i])), i))
        updates += 1
        if updates % BEAT == 0:
            beat()
    return updates


def sampler_of(settings: Mapping[str, Any]) -> Sampler:
    """A new sampler of the library."""
    if settings["sampler"] == "uniform":
        return rb.Uniform()
    if settings["sampler"] == "proportional":
        return rb.Prioritized(settings["alpha"], beta=0.0)
    return rb.RankPrioritized(settings["rank_alpha"], beta=0.0)


def learn(settings: Mapping[str, Any], states: int, seed: int, beat: Callable[[], None]) -> tuple[int, bool]:
    """How many updates a run makes in the walk of that size, and whether it has learnt it."""
    walk = Cliffwalk(states)
    weights, memory = generators(seed, states)
    learner = FEATURES[settings["features"]](walk, weights, settings["step_size"], settings["scale"])
    enough, most = settings["mse"] * walk.pairs, settings["max_updates"]
    chosen = settings["sampler"]
    if chosen == "oracle":
        updates = follow_oracle(walk, learner, enough, most)
    elif chosen == "greedy":
        pairs = pairs_of(walk.memory(rb.Uniform(), memory))
        updates = follow_errors(pairs, learner, enough, most, beat)
    else:
        buffer = walk.memory(sampler_of(settings), memory)
        updates = replay(buffer, learner, BLOCK if chosen == "uniform" else 1, enough, most, beat)
    return updates, learner.squares < enough


# ---- what is run ---------------------------------------------------------------------


def condition(sampler: str, features: str) -> str:
    """The name of a condition."""
    return f"{sampler}-{features}"


def jobs(config: CliffwalkConfig, seeds: Sequence[int]) -> list[Job]:
    """A job is one seed of a condition, in all sizes of the walk; a step stands for a transition of the memories."""
    steps = sum(Cliffwalk(n).transitions for n in config.states)
    shared = {name: value for name, value in asdict(config).items() if name in _LEARNING}
    return [
        Job(
            condition(sampler, features),
            (seed,),
            steps,
            {"sampler": sampler, "features": features, "states": config.states, **shared},
        )
        for sampler in SAMPLERS
        if sampler in config.samplers
        for features in config.features
        for seed in seeds
    ]


_LEARNING = ("step_size", "scale", "mse", "alpha", "rank_alpha", "max_updates")


def run(job: Job, track: Track) -> Mapping[int, Record]:
    """By size of the walk how many updates were made, and whether it was learnt."""
    return {seed: sizes(job, track, seed, learn) for seed in job.seeds}


# ---- what was found ------------------------------------------------------------------


_PAPER = "Schaul et al. 2016"
SLOPE = (0.9, 1.1)
"""A number of updates counts as proportional to the number of transitions if its slope lies in here."""
ORACLE_SLOPE = 0.5
"""And as far from it if its slope lies below this."""
SLOPES = {
    ("uniform", "tabular"): Claim(
        "uniform", "with uniform replay the updates grow in proportion to the memory (slope 1)", f"{_PAPER}, fig. 1"
    ),
    ("oracle", "tabular"): Claim(
        "oracle", "with an oracle they grow exponentially slower (slope below 0.5)", f"{_PAPER}, sec. 3.1, fig. 1"
    ),
    ("greedy", "tabular"): Claim(
        "greedy slope", "with greedy replay they grow in proportion to the memory, too", f"{_PAPER}, fig. 2 left"
    ),
    ("proportional", "linear"): Claim(
        "proportional slope",
        "linear: proportional prioritization gains a constant factor (its slope is 1, too)",
        f"{_PAPER}, fig. 2 right",
    ),
    ("rank", "linear"): Claim(
        "rank slope",
        "linear: prioritization by rank gains a constant factor (its slope is 1, too)",
        f"{_PAPER}, fig. 2 right",
    ),
}
FASTER = {
    ("greedy", "tabular"): Claim(
        "greedy", "greedy replay needs substantially fewer updates than uniform", f"{_PAPER}, sec. 3.2, fig. 2 left"
    ),
    ("proportional", "linear"): Claim(
        "proportional",
        "linear: proportional prioritization needs far fewer updates than uniform",
        f"{_PAPER}, sec. 3.3, fig. 2 right",
    ),
    ("rank", "linear"): Claim(
        "rank",
        "linear: prioritization by rank needs far fewer updates than uniform",
        f"{_PAPER}, sec. 3.3, fig. 2 right",
    ),
}


def judge(config: CliffwalkConfig, runs: Runs) -> Findings:
    """Medians by size, slopes, ratios to uniform replay, and what they say of the paper's claims."""
    found = found_in(config, runs)
    tables = [_medians(config, features, found) for features in config.features]
    verdicts = [*_slope_verdicts(config, found), *_ratio_verdicts(config, found)]
    rows = [
        {"sampler": sampler, "features": features, "seed": seed, "states": n, "transitions": Cliffwalk(n).transitions}
        | {"updates": made, "learnt": learnt}
        for sampler, features in found
        for seed, record in sorted(runs[condition(sampler, features)].items())
        for n, made, learnt in zip(record["states"], record["updates"], record["learnt"], strict=True)
    ]
    return Findings(
        (*tables, _rates(config, found)),
        tuple(verdicts),
        tuple(_notes(config, found)),
        _summary(config, found),
        tuple(rows),
    )


Found = Mapping[tuple[str, str], Times]


def found_in(config: CliffwalkConfig, runs: Runs) -> dict[tuple[str, str], Times]:
    """By sampler and features; those without a finished run are left out."""
    return {
        (sampler, features): times_of(runs[condition(sampler, features)])
        for features in config.features
        for sampler in config.samplers
        if runs.get(condition(sampler, features))
    }


def slope_of(config: CliffwalkConfig, times: Times, fewest: int) -> stats.Interval:
    """Of log median updates on log transitions, in walks of at least `fewest` states."""
    some = np.array(config.states) >= fewest
    if some.sum() < 2:
        return stats.Interval(math.nan, math.nan, math.nan)
    return stats.log_slope(times.transitions[some], times.updates[:, some])


def _slope_verdicts(config: CliffwalkConfig, found: Found) -> list[Verdict]:
    verdicts = []
    for (sampler, features), claim in SLOPES.items():
        if (sampler, features) not in found:
            continue
        times = found[sampler, features]
        slope, seeds = slope_of(config, times, config.slopes_from), len(times.seeds)
        if sampler == "oracle":
            outcome = decide(slope, "below", ORACLE_SLOPE, seeds=seeds)
        else:
            outcome = decide_within(slope, *SLOPE, seeds=seeds)
        evidence = f"{told(slope, 3)} from n = {config.slopes_from} on, {seeds} seeds"
        verdicts.append(Verdict(claim, outcome, evidence))
    return verdicts


def _ratio_verdicts(config: CliffwalkConfig, found: Found) -> list[Verdict]:
    verdicts = []
    for (sampler, features), claim in FASTER.items():
        if (sampler, features) in found and ("uniform", features) in found:
            ratio, seeds = ratio_at(found["uniform", features], found[sampler, features], -1)
            outcome = decide(ratio, "above", 1.0, seeds=seeds)
            evidence = f"uniform / {sampler} at n = {config.most_states}: {told(ratio, 1)}, {seeds} seeds"
            verdicts.append(Verdict(claim, outcome, evidence))
    return verdicts


def _medians(config: CliffwalkConfig, features: str, found: Found) -> Table:
    shown = {sampler: found[sampler, features] for sampler in config.samplers if (sampler, features) in found}
    rows = tuple(
        (str(n), f"{Cliffwalk(n).transitions:,}", *(times.cell(k) for times in shown.values()))
        for k, n in enumerate(config.states)
    )
    return Table(f"Median updates until the walk is learnt, {features}", ("n", "transitions", *shown), rows)


def _rates(config: CliffwalkConfig, found: Found) -> Table:
    rows = []
    for (sampler, features), times in found.items():
        slopes = [slope_of(config, times, fewest) for fewest in (config.slopes_from, config.fewest_states)]
        ratio = ""
        if sampler != "uniform" and ("uniform", features) in found:
            ratio = told(ratio_at(found["uniform", features], times, -1)[0], 1, "\n")
        rows.append((condition(sampler, features), *(told(slope, 3, "\n") for slope in slopes), ratio))
    columns = (
        "condition",
        f"slope\nfrom n = {config.slopes_from}",
        "slope\nall n",
        f"uniform / it\nat n = {config.most_states}",
    )
    return Table("Slope of log updates on log transitions, and how much faster than uniform", columns, tuple(rows))


def _notes(config: CliffwalkConfig, found: Found) -> list[str]:
    notes = [
        "In brackets: 95% bootstrap intervals over seeds; ratios are of medians, paired by seed (same memory, same "
        "initial values).",
        f"Slope 1 is said of an interval within {SLOPE[0]} and {SLOPE[1]}, exponentially slower growth of one below "
        f"{ORACLE_SLOPE}. Small memories are left out of verdicts on slopes: there the updates that 2 n values need "
        "outnumber the transitions.",
    ]
    for (sampler, features), times in found.items():
        if never := int(np.isinf(times.updates).sum()):
            capped = int((np.isinf(times.updates) & (times.made >= config.max_updates)).sum())
            why = (
                f"{capped} made {config.max_updates:,} updates, {never - capped} were stuck where no update lowers the "
            )
            why += "error any more"
            told_of = f"{never} of {times.updates.size} runs never learnt the walk ({why})"
            notes.append(f"{condition(sampler, features)}: {told_of}; they count as infinitely long.")
    return notes


def _summary(config: CliffwalkConfig, found: Found) -> dict[str, Any]:
    return {
        "states": config.states,
        "transitions": [Cliffwalk(n).transitions for n in config.states],
        "conditions": {
            condition(sampler, features): {
                "seeds": len(times.seeds),
                "median_updates": times.medians.tolist(),
                "not_learnt": np.isinf(times.updates).sum(axis=0).tolist(),
                "slope": asdict(slope_of(config, times, config.slopes_from)),
                "slope_all_sizes": asdict(slope_of(config, times, config.fewest_states)),
            }
            for (sampler, features), times in found.items()
        },
    }


def draw(config: CliffwalkConfig, runs: Runs) -> dict[str, Figure]:
    """Updates against transitions for each representation, as in the paper's figures 1 and 2."""
    found = found_in(config, runs)
    features = [name for name in config.features if any(name == of for _, of in found)]
    figure = Figure(figsize=(4.2 * len(features), 4.4), layout="constrained")
    axes = figure.subplots(1, len(features), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, features, strict=True):
        curves = {sampler: curve_of(times) for (sampler, of), times in found.items() if of == name}
        walk_plots.diagonal(ax, [Cliffwalk(n).transitions for n in config.states])
        walk_plots.scaling(ax, curves, f"{name} values", "updates until MSE < " + f"{config.mse:g}")
        walk_plots.legend(ax, "upper left")
    seeds = max(len(times.seeds) for times in found.values())
    figure.suptitle(f"Blind Cliffwalk: median of {seeds} runs, and their range", fontsize=12)
    return {"cliffwalk": figure}


STUDY = Study(
    name="cliffwalk",
    question="how much does the order of replay matter where one transition in 2^(n+1) - 2 saw a reward?",
    claims=(*SLOPES.values(), *FASTER.values()),
    config=CliffwalkConfig,
    seeds=10,
    jobs=jobs,
    run=run,
    judge=judge,
    draw=draw,
)
