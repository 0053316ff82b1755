"""`replaybank study run is-trap`: how importance weights can make prioritized replay slower than uniform.

The Blind Cliffwalk of `cliffwalk`, tabular, with proportional prioritization and importance weights w = (N P)^-beta
divided by their largest: in the batch (`weight_norm="batch"`, the paper's and most libraries' way) or in the whole
buffer ("buffer"). Transitions are drawn in minibatches, learnt from one after the other, each with its weight, and then
re-prioritised together; uniform replay is then the same for every minibatch. In a minibatch of 1 the batch's own
largest weight is the weight itself, so that every weight is 1, whatever beta.

Why it can be slower. A transition of priority p is drawn with P = p^alpha / sum p^alpha, and its step is scaled by
w = (p_min / p)^(alpha beta). So one draw moves its value on average N P w times as far as one uniform draw:

    p^(alpha (1 - beta)) p_min^(alpha beta) / mean of p^alpha

With beta 1 that is p_min^alpha / mean of p^alpha for every transition alike: uniform replay with a smaller step, never
a larger one. The more the priorities differ, the smaller it is, for a transition whose error is 0 has a priority of
epsilon, 1e-6, and no weight exceeds 1. In a small memory the few transitions with an error make up the mean, and
learning is more than a hundred times slower. In a large memory the mass of those without one does, and full correction
comes back towards the speed of uniform replay: the whole gain is given away. In between, beta 0.4, the paper's first
value, is slower than uniform in small memories and faster in large ones.

What the weights are for is the second half: see `two_rewards`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import replaybank as rb
from replaybank.samplers.importance import WeightNorm
from replaybank.study import SettingError, stats, two_rewards, walk_plots
from replaybank.study.base import Findings, Job, Record, Runs, Study, Table, Track
from replaybank.study.claims import Claim, Outcome, Verdict, decide
from replaybank.study.configs import check_at_least_one
from replaybank.study.walk import Cliffwalk, Tabular, check_walk, generators, replay
from replaybank.study.walk_times import Times, curve_of, ratio_at, sizes, times_of, told

BLOCK = 4096
"""Transitions that uniform replay draws at once."""


@dataclass(frozen=True)
class Arm:
    """A way to replay the walk; beta None: uniformly."""

    beta: float | None
    norm: WeightNorm


ARMS = {
    "uniform": Arm(None, None),
    "beta 0": Arm(0.0, "batch"),
    "beta 0.4, batch": Arm(0.4, "batch"),
    "beta 0.4, buffer": Arm(0.4, "buffer"),
    "beta 1, batch": Arm(1.0, "batch"),
    "beta 1, buffer": Arm(1.0, "buffer"),
}


@dataclass(frozen=True)
class TrapConfig:
    """What `replaybank study run is-trap` runs."""

    fewest_states: int = 2
    """the smallest walk"""
    most_states: int = 16
    """the largest walk"""
    minibatch: int = 32
    """transitions that are drawn together"""
    alpha: float = 0.6
    """exponent of the priorities in the walk"""
    step_size: float = 0.25
    """of Q-learning in the walk; the paper's eta"""
    scale: float = 0.1
    """standard deviation of the normal initial values"""
    mse: float = 1e-3
    """the walk is learnt when the mean squared error to Q* is below this"""
    max_updates: int = 20_000_000
    """a run that has not learnt the walk after so many updates ends and is reported as such"""
    two_rewards_alpha: float = 1.0
    """exponent of the priorities where one value is learnt from two rewards"""
    two_rewards_transitions: int = 1000
    """of which a tenth has the large reward"""
    two_rewards_step_size: float = 0.002
    """of the value that is learnt from two rewards"""
    two_rewards_updates: int = 100_000
    """of it; the value is its mean over the second half of them"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_walk(self.fewest_states, self.most_states, self.step_size, self.scale, self.mse)
        check_at_least_one(minibatch=self.minibatch, max_updates=self.max_updates)
        for name in ("alpha", "two_rewards_alpha"):
            if not 0 <= getattr(self, name) <= 10:
                raise SettingError(f"--{name.replace('_', '-')}: expected from 0 to 10, given {getattr(self, name)}")
        if self.two_rewards_transitions < 10 or self.two_rewards_transitions % 10:
            expected = f"a multiple of 10, given {self.two_rewards_transitions}"
            raise SettingError(f"--two-rewards-transitions: expected {expected}")
        if not 0 < self.two_rewards_step_size <= 1:
            expected = f"above 0 and at most 1, given {self.two_rewards_step_size}"
            raise SettingError(f"--two-rewards-step-size: expected {expected}")
        if self.two_rewards_updates < 1000:
            raise SettingError(f"--two-rewards-updates: expected at least 1000, given {self.two_rewards_updates}")

    @property
    def states(self) -> list[int]:
        """The sizes of the walk."""
        return list(range(self.fewest_states, self.most_states + 1))


# ---- what is run ---------------------------------------------------------------------


def jobs(config: TrapConfig, seeds: Sequence[int]) -> list[Job]:
    """A job is one seed of an arm, in all sizes of the walk or with the two rewards; those with most weights first."""
    values = asdict(config)
    steps = sum(Cliffwalk(n).transitions for n in config.states)
    of_walk = {name: values[name] for name in ("minibatch", "alpha", "step_size", "scale", "mse", "max_updates")}
    of_rewards = {name: value for name, value in values.items() if name.startswith("two_rewards")}
    asked = [
        Job(file_name(name), (seed,), steps, {**asdict(arm), "states": config.states, **of_walk})
        for name, arm in reversed(ARMS.items())
        for seed in seeds
    ]
    for name, drawn in two_rewards.ARMS.items():
        settings = {**asdict(drawn), **of_rewards}
        asked += [Job(two_rewards.condition(name), (seed,), config.two_rewards_updates, settings) for seed in seeds]
    return asked


def file_name(name: str) -> str:
    """An arm's name without what file names should not have."""
    return name.replace(",", "").replace(" ", "-")


def run(job: Job, track: Track) -> Mapping[int, Record]:
    """The updates in every size of the walk, or the value of the two rewards."""
    one = learn_walk_sizes if "states" in job.settings else two_rewards.learn
    return {seed: one(job, track, seed) for seed in job.seeds}


def learn_walk_sizes(job: Job, track: Track, seed: int) -> Record:
    """By size of the walk how many updates were made, and whether it was learnt."""
    return sizes(job, track, seed, learn_walk)


def learn_walk(settings: Mapping[str, Any], states: int, seed: int, beat: Callable[[], None]) -> tuple[int, bool]:
    """How many updates a run makes in the walk of that size, and whether it has learnt it."""
    walk = Cliffwalk(states)
    weights, memory = generators(seed, states)
    learner = Tabular(walk, weights, settings["step_size"], settings["scale"])
    enough, beta = settings["mse"] * walk.pairs, settings["beta"]
    if beta is None:
        buffer, together = walk.memory(rb.Uniform(), memory), BLOCK
    else:
        sampler = rb.Prioritized(settings["alpha"], beta=beta, weight_norm=settings["norm"])
        buffer, together = walk.memory(sampler, memory), settings["minibatch"]
    updates = replay(buffer, learner, together, enough, settings["max_updates"], beat)
    return updates, learner.squares < enough


# ---- what was found ------------------------------------------------------------------

_REPORT = "a user's report in Stable-Baselines3's pull request 1622: about ten times slower on this walk"
_PRODUCT = "expected here from N P w (docstring of is_trap.py)"
SMALL = 4
"""States of the walk at which partial correction is expected to be slower than uniform replay."""
FASTER = Claim(
    "faster without",
    "without importance weights prioritized replay needs far fewer updates than uniform",
    "Schaul et al. 2016, sec. 3.3, fig. 2 right (there with linear values)",
)
SLOWER = {
    f"beta 1, {norm}": Claim(
        f"slower, {norm}",
        f"with full importance weights (beta 1, largest of the {norm}) prioritized replay is slower than uniform",
        source,
    )
    for norm, source in (("batch", _REPORT), ("buffer", _PRODUCT))
}
CROSSING = {
    f"beta 0.4, {norm}": Claim(
        f"crossing, {norm}",
        f"with beta 0.4 (largest of the {norm}) it is slower than uniform in small memories and faster in large ones",
        _PRODUCT,
    )
    for norm in ("batch", "buffer")
}


def judge(config: TrapConfig, runs: Runs) -> Findings:
    """Medians and ratios to uniform replay by size of the walk; and the values of the two rewards."""
    times = {name: times_of(runs[file_name(name)]) for name in ARMS if runs.get(file_name(name))}
    values = two_rewards.values_of(runs)
    tables, verdicts = [], []
    if times:
        tables += [_medians(config, times), _ratios(config, times)]
        verdicts += list(_walk_verdicts(config, times))
    if values:
        tables.append(two_rewards.table(config.two_rewards_alpha, values))
        verdicts += two_rewards.verdicts(config.two_rewards_alpha, values)
    rows = [
        {"arm": name, "seed": seed, "states": n, "transitions": Cliffwalk(n).transitions}
        | {"updates": made, "learnt": learnt, "value": ""}
        for name in times
        for seed, record in sorted(runs[file_name(name)].items())
        for n, made, learnt in zip(record["states"], record["updates"], record["learnt"], strict=True)
    ]
    rows += [
        {"arm": f"two rewards, {name}", "seed": seed, "states": "", "transitions": config.two_rewards_transitions}
        | {"updates": config.two_rewards_updates, "learnt": "", "value": value}
        for name, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return Findings(tuple(tables), tuple(verdicts), _NOTES, _summary(config, times, values), tuple(rows))


def relative(values: Times, reference: Times) -> list[float]:
    """The ratio of the medians in each size of the walk; infinite where the first never learnt it."""
    ratios = np.full(len(values.medians), np.inf)
    np.divide(values.medians, reference.medians, out=ratios, where=np.isfinite(values.medians))
    return [float(ratio) for ratio in ratios]


def crossing(states: Sequence[int], ratios: Sequence[float]) -> str:
    """Between which sizes of the walk the ratio to uniform replay falls below 1 and stays there."""
    above = [k for k, ratio in enumerate(ratios) if not ratio < 1]
    if not above:
        return "everywhere"
    last = above[-1]
    if last == len(states) - 1:
        return "nowhere"
    return f"n = {states[last]} to {states[last + 1]}"


def _medians(config: TrapConfig, times: Mapping[str, Times]) -> Table:
    rows = tuple(
        (str(n), f"{Cliffwalk(n).transitions:,}", *(one.cell(k) for one in times.values()))
        for k, n in enumerate(config.states)
    )
    columns = ("n", "transitions", *(name.replace(", ", "\n") for name in times))
    return Table(f"Median updates until the walk is learnt, minibatches of {config.minibatch}", columns, rows)


def _ratios(config: TrapConfig, times: Mapping[str, Times]) -> Table:
    rows = []
    for name, one in times.items():
        if name != "uniform" and "uniform" in times:
            ratios = relative(one, times["uniform"])
            worst = int(np.argmax(ratios))
            at_first, at_worst, at_last = (told(ratio_at(one, times["uniform"], k)[0], 2, "\n") for k in (0, worst, -1))
            largest = f"{at_worst}\nat n = {config.states[worst]}"
            rows.append((name, at_first, largest, at_last, crossing(config.states, ratios)))
    columns = ("arm", f"n = {config.states[0]}", "largest", f"n = {config.states[-1]}", "below 1\nfor good")
    return Table("Updates relative to uniform replay (above 1: slower)", columns, tuple(rows))


def _walk_verdicts(config: TrapConfig, times: Mapping[str, Times]) -> Iterator[Verdict]:
    if "uniform" not in times:
        return
    first, last = config.states[0], config.states[-1]
    small = min(max(SMALL, first), last)

    def ratio(name: str, n: int) -> tuple[stats.Interval, int]:
        return ratio_at(times[name], times["uniform"], config.states.index(n))

    if "beta 0" in times:
        interval, seeds = ratio("beta 0", last)
        evidence = f"updates relative to uniform at n = {last}: {told(interval, 3)}, {seeds} seeds"
        yield Verdict(FASTER, decide(interval, "below", 1.0, seeds=seeds), evidence)
    for name, claim in SLOWER.items():
        if name in times:
            interval, seeds = ratio(name, last)
            ratios = relative(times[name], times["uniform"])
            worst = f"at most {max(ratios):,.3g} at n = {config.states[int(np.argmax(ratios))]}"
            evidence = f"updates relative to uniform at n = {last}: {told(interval, 2)}; {worst}; {seeds} seeds"
            yield Verdict(claim, decide(interval, "above", 1.0, seeds=seeds), evidence)
    for name, claim in CROSSING.items():
        if name in times:
            (at_small, seeds), (at_last, _) = ratio(name, small), ratio(name, last)
            outcomes = {decide(at_small, "above", 1.0, seeds=seeds), decide(at_last, "below", 1.0, seeds=seeds)}
            outcome = next(one for one in _WEAKEST if one in outcomes)
            evidence = f"n = {small}: {told(at_small, 2)}, n = {last}: {told(at_last, 2)}, {seeds} seeds"
            yield Verdict(claim, outcome, f"updates relative to uniform at {evidence}")


_WEAKEST: tuple[Outcome, ...] = ("not reproduced", "undecided", "reproduced")


_NOTES = (
    "In brackets: 95% bootstrap intervals over seeds; ratios are of medians, paired by seed (same memory, same initial "
    "values). A run that never learnt the walk counts as infinitely long.",
    "Why: a draw moves a value on average N P w times as far as a uniform one. With beta 1 that is the same for all "
    "transitions, and at most 1: uniform replay with smaller steps. A transition without an error has a priority of "
    "1e-6 and the largest weight; next to it the weights of those that matter are next to nothing.",
    f"Crossings are asked for at n = {SMALL} and at the largest n.",
    two_rewards.NOTE,
)


def _summary(
    config: TrapConfig, times: Mapping[str, Times], values: Mapping[str, Mapping[int, float]]
) -> dict[str, Any]:
    return {
        "states": config.states,
        "transitions": [Cliffwalk(n).transitions for n in config.states],
        "walk": {
            name: {
                "seeds": len(one.seeds),
                "median_updates": one.medians.tolist(),
                "not_learnt": np.isinf(one.updates).sum(axis=0).tolist(),
                **(
                    _relative_summary(config, one, times["uniform"]) if name != "uniform" and "uniform" in times else {}
                ),
            }
            for name, one in times.items()
        },
        "two_rewards": two_rewards.summary(config.two_rewards_alpha, values),
    }


def _relative_summary(config: TrapConfig, one: Times, uniform: Times) -> dict[str, Any]:
    ratios = relative(one, uniform)
    return {"relative_to_uniform": ratios, "below_uniform_for_good": crossing(config.states, ratios)}


def draw(config: TrapConfig, runs: Runs) -> dict[str, Figure]:
    """Updates against transitions, the same relative to uniform replay, and the limits of the two rewards."""
    times = {name: times_of(runs[file_name(name)]) for name in ARMS if runs.get(file_name(name))}
    values = two_rewards.values_of(runs)
    figures = {}
    if "uniform" in times:
        transitions = [Cliffwalk(n).transitions for n in config.states]
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        walk_plots.scaling(
            left, {name: curve_of(one) for name, one in times.items()}, "Updates until the walk is learnt", "updates"
        )
        walk_plots.diagonal(left, transitions)
        walk_plots.legend_below(figure, left, 4)
        uniform = np.where(np.isinf(times["uniform"].medians), np.nan, times["uniform"].medians)
        slowness = {name: curve_of(one, uniform) for name, one in times.items() if name != "uniform"}
        walk_plots.scaling(right, slowness, "Relative to uniform replay", "times the median of uniform")
        walk_plots.level(right, 1.0, "as slow as uniform")
        figure.suptitle(
            f"Prioritized replay and its importance weights: median of {len(times['uniform'].seeds)} runs, and range",
            fontsize=12,
        )
        figures["is-trap"] = figure
    if values:
        figures["two-rewards"] = two_rewards.draw(config.two_rewards_alpha, values)
    return figures


STUDY = Study(
    name="is-trap",
    question="can the importance weights of prioritized replay make it slower than uniform?",
    claims=(FASTER, *SLOWER.values(), *CROSSING.values(), *two_rewards.EXPECTED.values()),
    config=TrapConfig,
    seeds=10,
    jobs=jobs,
    run=run,
    judge=judge,
    draw=draw,
)
