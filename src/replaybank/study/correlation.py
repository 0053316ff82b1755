"""What the network sees: how much consecutive experience repeats itself, and what a network forgets that sees it once.

Textbooks give replay two reasons. Consecutive samples are strongly correlated, so learning from them is inefficient,
and drawing at random reduces the variance of the updates (Mnih et al. 2015, Methods). And what a network no longer
sees it forgets, and has to learn again (Lin 1992, who calls it the re-learning problem; McCloskey & Cohen 1989; French
1999). Here both are measured on the stream of a real agent, the DQN of `compare` on CartPole-v1.

**Learners.** Two numbers of transitions an update, 1 and 64, drawn from two places, the newest or everything so far:
`online` (the newest 1), `single` (1 at random), `recent` (the newest 64), `uniform` (64 at random). Everything is kept.
In the condition `uniform` all four learn from the stream of the agent that learns as `uniform`; only that one acts
(Ostrovski et al. 2021 call the others passive). So they differ in what they draw and not in what there is to be drawn.
In the conditions `online`, `single` and `recent` that one learner acts, on a stream of its own.

**Measures**, at each look at the actor's n transitions so far and at its weights as they are then:

- Autocorrelation rho_k of each component of the observation and of the TD error, about the mean of all n, episodes one
  after another as they were lived through. Its integrated time, 1 + 2 sum rho_k (window of Sokal 1997): how many steps
  bring one independent value.
- Effective sample size (ESS) of 64 transitions: s^2 / v, where s^2 is the variance over all n and v the mean squared
  distance of the mean of 64 from that of all n, found from batches at every place of the stream or drawn at random. 64
  independent ones are worth 64. `observation`: all four components, each in units of its variance; `gradient`: the
  vector of the TD loss's gradient. By the formula for a stationary series: 64 / (1 + 2 sum_{k<64} (1 - k/64) rho_k).
- Cosines between gradients of the TD loss at the same weights: of a batch and of all n transitions; of two batches
  some steps apart (of the lives of `online` and `recent`: so many updates apart); of two batches far apart (`recent`:
  half of the stream) or drawn one after the other. Gradients as the alignment of updates: Bengio et al. 2020.
- What each learner still knows of the first 500 transitions, which precede all learning and are the same for a seed in
  every condition. A transition that ends in a fall is worth 1, its reward, under any policy, and any other one at least
  1 + gamma. So a network that knows ranks every early fall below every other early transition. The ranking accuracy is
  the share of such pairs in the right order (the area under the ROC curve): 1 is right, 1/2 is chance, and it does not
  depend on the scale of the values. Early: mean over the first quarter of the looks, late: over the last one.

Every measure is averaged over the looks of a run; intervals are over seeds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from matplotlib.figure import Figure

from replaybank.study import SettingError, correlation_plots, stats
from replaybank.study.base import Findings, Job, Record, Runs, Study, Table, Track
from replaybank.study.claims import Claim, Outcome, Verdict, decide
from replaybank.study.configs import check_at_least_one, rebuilt
from replaybank.study.dqn import DQNConfig, News
from replaybank.study.looks import GAPS, LAGS, SERIES, autocorrelations, batch_measures, knowledge
from replaybank.study.performance import plain_interval, rounded
from replaybank.study.plots import Curve
from replaybank.study.stats import Interval
from replaybank.study.streams import LEARNERS, Life

ENV = "CartPole-v1"
SHARED = "uniform"
"""The condition on whose stream all learners learn."""
MOST_LOST = 0.5
"""Consecutive samples count as strongly correlated if they are worth less than this share of that many independent."""


@dataclass(frozen=True)
class CorrelationConfig:
    """What `replaybank study run correlation` runs."""

    steps: int = 20_000
    """environment steps per condition and seed"""
    looks: int = 20
    """how often each run is looked at"""
    together: int = 5
    """seeds that train in lock step in one process"""
    dqn: Annotated[DQNConfig, tyro.conf.arg(name="")] = field(default_factory=DQNConfig)

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_at_least_one(looks=self.looks, together=self.together)
        self.dqn.check_valid()
        least = 1000 * max(2, self.looks)  # room for the largest lag
        if self.steps < least:
            expected = f"at least {least}, 1000 for each look and 2000 in all"
            raise SettingError(f"--steps: expected {expected}; given {self.steps}")
        if self.dqn.capacity < self.steps:
            expected = f"at least --steps, {self.steps}, so that nothing is dropped"
            raise SettingError(f"--capacity: expected {expected}; given {self.dqn.capacity}")
        kinds = {"network": ("mlp", self.dqn.network), "loss": ("huber", self.dqn.loss), "n-step": (1, self.dqn.n_step)}
        for flag, (expected_kind, given) in kinds.items():
            if given != expected_kind:
                raise SettingError(f"--{flag}: gradients are taken for {expected_kind} only; given {given}")
        if not 2 <= self.dqn.batch_size <= 256:
            raise SettingError(f"--batch-size: expected from 2 to 256, given {self.dqn.batch_size}")
        if self.dqn.learning_starts < 200:
            expected = "at least 200, so that early transitions include falls"
            raise SettingError(f"--learning-starts: expected {expected}; given {self.dqn.learning_starts}")
        if self.dqn.updates(self.steps) // self.looks < self.dqn.target_period:
            raise SettingError(f"--target-period: expected at most the updates between looks, {self.dqn.target_period}")


_MNIH = "Mnih et al. 2015, Methods (training algorithm)"
_FORGETTING = "Lin 1992 (re-learning problem); McCloskey & Cohen 1989; French 1999"
CLAIMS: dict[str, Claim] = {
    claim.key: claim
    for claim in (
        Claim(
            "correlated stream",
            "consecutive samples are strongly correlated: a batch of them is worth less than half as many independent "
            "ones (ESS of the observation)",
            _MNIH,
        ),
        Claim(
            "variance of the updates",
            "random draws reduce the variance of the updates: ESS of a batch's gradient, random / consecutive",
            _MNIH,
        ),
        Claim(
            "direction",
            "a random batch's gradient points more towards the gradient over all experience than the newest batch's",
            _MNIH,
        ),
        Claim(
            "repetition",
            "neighbouring batches of consecutive samples repeat each other: their gradients agree more than those of "
            "batches far apart",
            f"{_MNIH}; the measure: Bengio et al. 2020",
        ),
        Claim("forgetting", "who sees only the newest batch forgets: late ranking of early falls - early", _FORGETTING),
        Claim("forgetting online", "who sees only the newest transition forgets: late - early ranking", _FORGETTING),
        Claim(
            "replay remembers",
            "replay knows more of early falls than the newest batch, late, on one stream: uniform - recent",
            _FORGETTING,
        ),
        Claim(
            "replay remembers online",
            "the same with batch 1: single - online",
            _FORGETTING,
        ),
        Claim(
            "learning",
            "random draws end higher than consecutive ones, on own streams, batch 64: uniform - recent, final return",
            _MNIH,
        ),
        Claim("learning online", "the same with batch 1: single - online, final return", _MNIH),
    )
}


# ---- what is run ---------------------------------------------------------------------


def jobs(config: CorrelationConfig, seeds: Sequence[int]) -> list[Job]:
    """A condition for each learner that acts; the one with four learners, the longest, first."""
    order = sorted(LEARNERS, key=lambda name: name != SHARED)
    groups = [tuple(seeds[k : k + config.together]) for k in range(0, len(seeds), config.together)]
    shared = {"steps": config.steps, "looks": config.looks, "dqn": json.loads(json.dumps(asdict(config.dqn)))}
    return [
        Job(actor, group, config.steps, {**shared, "learners": list(LEARNERS) if actor == SHARED else [actor]})
        for actor in order
        for group in groups
    ]


def run(job: Job, track: Track) -> Mapping[int, Record]:
    """Live and look. Each record holds the run's episodes, the steps of its looks, and every measure look by look."""
    settings = job.settings
    config = rebuilt(DQNConfig, settings["dqn"])
    measures: dict[int, dict[str, list[float]]] = {seed: defaultdict(list) for seed in job.seeds}
    correlations: dict[int, dict[str, list[float]]] = {}
    looked: dict[int, list[int]] = {seed: [] for seed in job.seeds}
    life = Life(ENV, job.seeds, settings["steps"], config, job.condition, settings["learners"])
    news = News(life.environments, 0)

    def report(step: int) -> None:
        news.tell(track, step, ())
        track.progress(step)

    for look in life.looks(settings["looks"], report):
        seed = job.seeds[look.place]
        found = batch_measures(look, job.condition, config.batch_size)
        for name in settings["learners"]:
            found |= knowledge(look, name, config.learning_starts)
        for tag, value in found.items():
            measures[seed][tag].append(round(value, 6))
            track.scalar(seed, tag, value, look.step)
        looked[seed].append(look.step)
        if len(looked[seed]) == settings["looks"]:
            correlations[seed] = autocorrelations(look, job.condition)
    return {
        environment.seed: {
            "episodes": environment.episodes,
            "step": looked[environment.seed],
            "measures": dict(measures[environment.seed]),
            "autocorrelation": correlations[environment.seed],
        }
        for environment in life.environments
    }


# ---- what was found ------------------------------------------------------------------

BySeed = dict[int, float]


def mean_of(runs: Runs, condition: str, tag: str, looks: slice = slice(None)) -> BySeed:
    """A measure of each seed of a condition, averaged over those looks; empty where the condition has no runs."""
    found = runs.get(condition, {})
    return {seed: float(np.mean(record["measures"][tag][looks])) for seed, record in sorted(found.items())}


def final_returns(config: CorrelationConfig, runs: Runs, condition: str) -> BySeed:
    """The final return of each seed of a condition."""
    episodes = {seed: record["episodes"] for seed, record in sorted(runs.get(condition, {}).items())}
    return {seed: stats.final_return(e["step"], e["return"], config.steps) for seed, e in episodes.items()}


def quarters(config: CorrelationConfig) -> tuple[slice, slice]:
    """The early and the late looks: the first and the last quarter."""
    quarter = max(1, config.looks // 4)
    return slice(0, quarter), slice(config.looks - quarter, None)


def _interval(values: BySeed) -> Interval:
    return stats.bootstrap_interval(list(values.values()))


def _difference(values: BySeed, reference: BySeed) -> tuple[Interval, int]:
    """The paired difference over the seeds that both have, and how many they are."""
    pairs = sorted(values.keys() & reference.keys())
    interval = stats.paired_difference([values[seed] for seed in pairs], [reference[seed] for seed in pairs])
    return interval, len(pairs)


def verdicts(config: CorrelationConfig, runs: Runs) -> Iterator[Verdict]:
    """One for each claim of which the runs are there. The rule: the whole interval on the claimed side of the bound."""
    batch = config.dqn.batch_size
    early, late = quarters(config)
    if runs.get(SHARED):
        seen = mean_of(runs, SHARED, "ess/consecutive/observation")
        worth, bound = _interval(seen), MOST_LOST * batch
        outcome = decide(worth, "below", bound, seeds=len(seen))
        evidence = f"{batch} consecutive are worth {_text(worth)} independent ones; the bound is {bound:g}"
        yield _verdict("correlated stream", outcome, evidence, len(seen))
        random, consecutive = (mean_of(runs, SHARED, f"ess/{kind}/gradient") for kind in ("random", "consecutive"))
        ratio = stats.ratio_interval(list(random.values()), list(consecutive.values()))
        outcome = decide(ratio, "above", 1.0, seeds=len(random))
        yield _verdict("variance of the updates", outcome, f"{_text(ratio)} times", len(random))
        yield from (
            _higher(
                key, mean_of(runs, SHARED, higher, looks), mean_of(runs, SHARED, lower, other), f"{higher} - {lower}"
            )
            for key, higher, looks, lower, other in (
                ("direction", "cosine/all/uniform", slice(None), "cosine/newest/recent", slice(None)),
                ("repetition", f"cosine/gap {_gap(batch)}/recent", slice(None), "cosine/apart/recent", slice(None)),
                ("replay remembers", "ranking/uniform", late, "ranking/recent", late),
                ("replay remembers online", "ranking/single", late, "ranking/online", late),
            )
        )
        for key, name in (("forgetting", "recent"), ("forgetting online", "online")):
            tag = f"ranking/{name}"
            change, seeds = _difference(mean_of(runs, SHARED, tag, late), mean_of(runs, SHARED, tag, early))
            yield _verdict(key, decide(change, "below", seeds=seeds), f"late - early {_text(change, '+')}", seeds)
    for key, higher, lower in (("learning", "uniform", "recent"), ("learning online", "single", "online")):
        if runs.get(higher) and runs.get(lower):
            ours, theirs = final_returns(config, runs, higher), final_returns(config, runs, lower)
            yield _higher(key, ours, theirs, f"{higher} - {lower}")


def _higher(key: str, values: BySeed, reference: BySeed, words: str) -> Verdict:
    interval, seeds = _difference(values, reference)
    return _verdict(key, decide(interval, "above", seeds=seeds), f"{words}: {_text(interval, '+')}", seeds)


def _verdict(key: str, outcome: Outcome, evidence: str, seeds: int) -> Verdict:
    return Verdict(CLAIMS[key], outcome, f"{evidence}, {seeds} seeds")


def _gap(batch: int) -> int:
    """The smallest gap at which two consecutive batches share no transition."""
    return min(gap for gap in GAPS if gap >= batch)


def judge(config: CorrelationConfig, runs: Runs) -> Findings:
    """The tables on each stream that is there, and the verdicts."""
    batch = config.dqn.batch_size
    streams = [name for name in (SHARED, *LEARNERS) if runs.get(name)]
    streams = list(dict.fromkeys(streams))
    tables = [table for name in streams for table in (_worth(config, runs, name), _directions(config, runs, name))]
    tables += [_knowledge(config, runs, streams), _coverage(runs, streams, batch), _returns(config, runs, streams)]
    notes = (
        "In brackets: 95% bootstrap interval over seeds. Every measure is averaged over the looks of a run.",
        f"Learners: {'; '.join(f'{name}: {learner.definition}' for name, learner in LEARNERS.items())}.",
        f"All learners of the stream of {SHARED} learn from what that agent lives through; on other streams one acts.",
        "Ranking: share of the pairs of an early fall and another early transition that the network ranks rightly.",
        "A random batch from n transitions holds the newest one with probability 1 - (1 - 1/n)^batch: a large memory "
        "uses new experience late (Zhang & Sutton 2017).",
    )
    return Findings(
        tuple(tables), tuple(verdicts(config, runs)), notes, _summary(config, runs, streams), tuple(_rows(runs))
    )


def _worth(config: CorrelationConfig, runs: Runs, stream: str) -> Table:
    batch = config.dqn.batch_size
    rows = []
    for name in (*SERIES, "observation", "gradient"):
        columns = [f"ess/consecutive/{name}", f"ess/formula/{name}", f"ess/random/{name}", f"time/{name}"]
        known = next(iter(runs[stream].values()))["measures"]
        shown = (_text(_interval(mean_of(runs, stream, tag))) if tag in known else "" for tag in columns)
        rows.append((name, *shown))
    title = f"What {batch} transitions of the stream of {stream} are worth, in independent ones"
    return Table(
        title,
        ("of", f"{batch} consecutive", "by the formula", f"{batch} at random", "autocorrelation time, steps"),
        tuple(rows),
    )


def _directions(config: CorrelationConfig, runs: Runs, stream: str) -> Table:
    disjoint = f"gap {_gap(config.dqn.batch_size)}"
    wanted = {name: ["all", "apart"] for name in LEARNERS}
    wanted["online"] = ["all", "newest", "gap 1", disjoint]
    wanted["recent"] = ["all", "newest", "gap 1", disjoint, "apart"]
    columns = ("all", "newest", "gap 1", disjoint, "apart")
    rows = tuple(
        (
            name,
            *(
                _text(_interval(mean_of(runs, stream, f"cosine/{column}/{name}"))) if column in wanted[name] else ""
                for column in columns
            ),
        )
        for name in LEARNERS
    )
    heads = (
        "batch",
        "with all experience",
        "newest batch with all",
        "one update apart",
        f"{disjoint.removeprefix('gap ')} updates apart",
        "far apart or drawn anew",
    )
    return Table(f"Cosine between gradients on the stream of {stream}, at that agent's weights", heads, rows)


def _knowledge(config: CorrelationConfig, runs: Runs, streams: Sequence[str]) -> Table:
    early, late = quarters(config)
    rows = []
    for stream in streams:
        for name in LEARNERS if stream == SHARED else (stream,):
            before, after = (mean_of(runs, stream, f"ranking/{name}", looks) for looks in (early, late))
            errors = (mean_of(runs, stream, f"{tag}/{name}", late) for tag in _ERRORS)
            change = _text(_difference(after, before)[0], "+")
            shown = [_text(_interval(values)) for values in (before, after)]
            rows.append((stream, name, *shown, change, *(_text(_interval(values)) for values in errors)))
    heads = (
        "stream of",
        "learner",
        "ranking early",
        "ranking late",
        "late - early",
        *(f"{tag}, late" for tag in _ERRORS),
    )
    return Table("What the network knows of the transitions before all learning", heads, tuple(rows))


_ERRORS = ("fall error", "early TD error", "newest TD error")


def _coverage(runs: Runs, streams: Sequence[str], batch: int) -> Table:
    tags = [f"{tag}/{kind}" for tag in ("episodes", "age") for kind in ("consecutive", "random")] + ["newest/random"]
    rows = tuple((name, *(_text(_interval(mean_of(runs, name, tag))) for tag in tags)) for name in streams)
    heads = (
        "stream of",
        "episodes, consecutive",
        "episodes, random",
        "mean age of the newest, steps",
        "mean age, random",
        "share with the newest, random",
    )
    return Table(f"What a batch of {batch} spans", heads, rows)


def _returns(config: CorrelationConfig, runs: Runs, streams: Sequence[str]) -> Table:
    rows = tuple((name, _text(_interval(final_returns(config, runs, name)))) for name in streams)
    return Table("Final return of each agent on its own stream", ("learner", "final return"), rows)


def _text(interval: Interval, sign: str = "") -> str:
    values = (interval.estimate, interval.low, interval.high)
    digits = 2 if abs(interval.estimate) < 9.95 else 0 if abs(interval.estimate) >= 99.5 else 1
    estimate, low, high = (f"{value:{sign}.{digits}f}" for value in values)
    return estimate if np.isnan(interval.low) else f"{estimate} [{low}, {high}]"


def _summary(config: CorrelationConfig, runs: Runs, streams: Sequence[str]) -> dict[str, Any]:
    """Every measure of every stream with its interval, the ranking also early and late, and the final returns."""
    early, late = quarters(config)
    found: dict[str, Any] = {}
    for name in streams:
        tags = next(iter(runs[name].values()))["measures"]
        found[name] = {
            "seeds": len(runs[name]),
            "final_return": plain_interval(_interval(final_returns(config, runs, name))),
            "measures": {tag: plain_interval(_interval(mean_of(runs, name, tag))) for tag in tags},
            "early": {tag: plain_interval(_interval(mean_of(runs, name, tag, early))) for tag in _of_learners(tags)},
            "late": {tag: plain_interval(_interval(mean_of(runs, name, tag, late))) for tag in _of_learners(tags)},
        }
    return {"env": ENV, "steps": config.steps, "streams": found}


def _of_learners(tags: Mapping[str, Any]) -> list[str]:
    return [tag for tag in tags if tag.startswith(("ranking/", *(f"{error}/" for error in _ERRORS)))]


def _rows(runs: Runs) -> Iterator[dict[str, Any]]:
    """A row a measure and run: the mean over its looks."""
    for stream, by_seed in runs.items():
        for seed, record in sorted(by_seed.items()):
            for tag, values in record["measures"].items():
                yield {"stream": stream, "seed": seed, "measure": tag, "mean": rounded(float(np.mean(values)))}


# ---- how it is drawn -----------------------------------------------------------------


def draw(config: CorrelationConfig, runs: Runs) -> Mapping[str, Figure]:
    """One figure of the shared stream: autocorrelation, worth, directions, forgetting."""
    records = list(runs.get(SHARED, {}).values())
    if not records:
        return {}
    batch = config.dqn.batch_size
    figure = Figure(figsize=(7.2, 6.4))
    axes = list(figure.subplots(2, 2).flat)
    series = {name: _curve(LAGS, [r["autocorrelation"][name] for r in records]) for name in (*SERIES, "drawn")}
    correlation_plots.autocorrelations(axes[0], series, batch)
    quantities = (*SERIES, "observation", "gradient")
    kinds = ("consecutive", "random")
    worth = {name: tuple(_interval(mean_of(runs, SHARED, f"ess/{k}/{name}")) for k in kinds) for name in quantities}
    correlation_plots.worth(axes[1], worth, batch)
    apart = {
        name: _curve(GAPS, [[np.mean(r["measures"][f"cosine/gap {gap}/{name}"]) for gap in GAPS] for r in records])
        for name in ("recent", "online")
    }
    levels = {name: _interval(mean_of(runs, SHARED, f"cosine/apart/{name}")) for name in ("uniform", "single")}
    correlation_plots.directions(axes[2], apart, levels)
    steps = np.mean([r["step"] for r in records], axis=0)
    known = {name: _curve(steps, [r["measures"][f"ranking/{name}"] for r in records]) for name in LEARNERS}
    correlation_plots.knowledge(axes[3], known)
    titles = (
        "how long the stream remembers itself",
        f"what {batch} transitions are worth",
        "how alike two updates are",
        "what each learner still knows",
    )
    correlation_plots.titled(figure, axes, titles)
    return {"correlation": figure}


def _curve(x: npt.ArrayLike, by_seed: Sequence[Sequence[float]]) -> Curve:
    """Mean over seeds with its band, at each of `x`."""
    return Curve(np.asarray(x, dtype=np.float64), *stats.bootstrap_band(np.asarray(by_seed, dtype=np.float64)))


STUDY = Study(
    name="correlation",
    question="how much consecutive experience repeats itself, and what a network forgets that sees it once",
    claims=tuple(CLAIMS.values()),
    config=CorrelationConfig,
    seeds=10,
    jobs=jobs,
    run=run,
    judge=judge,
    draw=draw,
)
