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
from replaybank.study import correlation_tables as tables
from replaybank.study.base import Findings, Job, Record, Runs, Study, Track
from replaybank.study.claims import Claim, Outcome, Verdict, decide
from replaybank.study.configs import check_at_least_one, rebuilt
from replaybank.study.dqn import DQNConfig, News
from replaybank.study.looks import GAPS, LAGS, SERIES, autocorrelations, batch_measures, knowledge
from replaybank.study.performance import plain_interval, rounded
from replaybank.study.plots import Curve
from replaybank.study.streams import LEARNERS, Life

ENV = "CartPole-v1"
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
    order = sorted(LEARNERS, key=lambda name: name != tables.SHARED)
    groups = [tuple(seeds[k : k + config.together]) for k in range(0, len(seeds), config.together)]
    shared = {"steps": config.steps, "looks": config.looks, "dqn": json.loads(json.dumps(asdict(config.dqn)))}
    return [
        Job(actor, group, config.steps, {**shared, "learners": list(LEARNERS) if actor == tables.SHARED else [actor]})
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


def verdicts(config: CorrelationConfig, runs: Runs) -> Iterator[Verdict]:
    """One for each claim of which the runs are there. The rule: the whole interval on the claimed side of the bound."""
    batch = config.dqn.batch_size
    early, late = tables.quarters(config.looks)
    if runs.get(tables.SHARED):
        seen = tables.mean_of(runs, tables.SHARED, "ess/consecutive/observation")
        worth, bound = tables.interval_of(seen), MOST_LOST * batch
        outcome = decide(worth, "below", bound, seeds=len(seen))
        evidence = f"{batch} consecutive are worth {tables.text_of(worth)} independent ones; the bound is {bound:g}"
        yield _verdict("correlated stream", outcome, evidence, len(seen))
        random, consecutive = (
            tables.mean_of(runs, tables.SHARED, f"ess/{kind}/gradient") for kind in ("random", "consecutive")
        )
        ratio = stats.ratio_interval(list(random.values()), list(consecutive.values()))
        outcome = decide(ratio, "above", 1.0, seeds=len(random))
        yield _verdict("variance of the updates", outcome, f"{tables.text_of(ratio)} times", len(random))
        yield from (
            _higher(
                key,
                tables.mean_of(runs, tables.SHARED, higher, looks),
                tables.mean_of(runs, tables.SHARED, lower, other),
                f"{higher} - {lower}",
            )
            for key, higher, looks, lower, other in (
                ("direction", "cosine/all/uniform", slice(None), "cosine/newest/recent", slice(None)),
                (
                    "repetition",
                    f"cosine/gap {tables.disjoint_gap(batch)}/recent",
                    slice(None),
                    "cosine/apart/recent",
                    slice(None),
                ),
                ("replay remembers", "ranking/uniform", late, "ranking/recent", late),
                ("replay remembers online", "ranking/single", late, "ranking/online", late),
            )
        )
        for key, name in (("forgetting", "recent"), ("forgetting online", "online")):
            tag = f"ranking/{name}"
            change, seeds = tables.difference_of(
                tables.mean_of(runs, tables.SHARED, tag, late), tables.mean_of(runs, tables.SHARED, tag, early)
            )
            yield _verdict(
                key, decide(change, "below", seeds=seeds), f"late - early {tables.text_of(change, '+')}", seeds
            )
    for key, higher, lower in (("learning", "uniform", "recent"), ("learning online", "single", "online")):
        if runs.get(higher) and runs.get(lower):
            ours, theirs = (
                tables.final_returns(runs, higher, config.steps),
                tables.final_returns(runs, lower, config.steps),
            )
            yield _higher(key, ours, theirs, f"{higher} - {lower}")


def _higher(key: str, values: tables.BySeed, reference: tables.BySeed, words: str) -> Verdict:
    interval, seeds = tables.difference_of(values, reference)
    return _verdict(key, decide(interval, "above", seeds=seeds), f"{words}: {tables.text_of(interval, '+')}", seeds)


def _verdict(key: str, outcome: Outcome, evidence: str, seeds: int) -> Verdict:
    return Verdict(CLAIMS[key], outcome, f"{evidence}, {seeds} seeds")


def judge(config: CorrelationConfig, runs: Runs) -> Findings:
    """The tables on each stream that is there, and the verdicts."""
    streams = [
        name for name in (tables.SHARED, *(name for name in LEARNERS if name != tables.SHARED)) if runs.get(name)
    ]
    batch = config.dqn.batch_size
    shared = [tables.worth, tables.directions, tables.coverage] if tables.SHARED in streams else []
    shown = (
        *(table(runs, batch) for table in shared),
        tables.agents(runs, streams, config.steps, batch),
        tables.knowledge(runs, streams, config.looks),
    )
    notes = (
        "In brackets: 95% bootstrap interval over seeds. Every measure is averaged over the looks of a run.",
        f"Learners: {'; '.join(f'{name}: {learner.definition}' for name, learner in LEARNERS.items())}.",
        f"On the stream of {tables.SHARED} all learners learn from what that agent lives through; others act alone.",
        "A learner that does not act may diverge on another's stream (Ostrovski et al. 2021). Fall error tells: an "
        "early fall is worth 1. Where it is large, a lost ranking is not forgetting alone: see the own streams.",
        "Ranking: share of the pairs of an early fall and another early transition that the network ranks rightly.",
        "A random batch from n transitions holds the newest one with probability 1 - (1 - 1/n)^batch: a large memory "
        "uses new experience late (Zhang & Sutton 2017).",
    )
    found = tuple(verdicts(config, runs))
    return Findings(shown, found, notes, _summary(config, runs, streams), tuple(_rows(runs)))


def _summary(config: CorrelationConfig, runs: Runs, streams: Sequence[str]) -> dict[str, Any]:
    """Every measure of every stream with its interval, the ranking also early and late, and the final returns."""
    early, late = tables.quarters(config.looks)
    found: dict[str, Any] = {}
    for name in streams:
        tags = next(iter(runs[name].values()))["measures"]
        found[name] = {
            "seeds": len(runs[name]),
            "final_return": plain_interval(tables.interval_of(tables.final_returns(runs, name, config.steps))),
            "measures": {tag: plain_interval(tables.interval_of(tables.mean_of(runs, name, tag))) for tag in tags},
            "early": {
                tag: plain_interval(tables.interval_of(tables.mean_of(runs, name, tag, early)))
                for tag in _of_learners(tags)
            },
            "late": {
                tag: plain_interval(tables.interval_of(tables.mean_of(runs, name, tag, late)))
                for tag in _of_learners(tags)
            },
        }
    return {"env": ENV, "steps": config.steps, "streams": found}


def _of_learners(tags: Mapping[str, Any]) -> list[str]:
    return [tag for tag in tags if tag.startswith(("ranking/", *(f"{error}/" for error in tables.ERRORS)))]


def _rows(runs: Runs) -> Iterator[dict[str, Any]]:
    """A row a measure and run: the mean over its looks."""
    for stream, by_seed in runs.items():
        for seed, record in sorted(by_seed.items()):
            for tag, values in record["measures"].items():
                yield {"stream": stream, "seed": seed, "measure": tag, "mean": rounded(float(np.mean(values)))}


# ---- how it is drawn -----------------------------------------------------------------


def draw(config: CorrelationConfig, runs: Runs) -> Mapping[str, Figure]:
    """One figure of the shared stream: autocorrelation, worth, directions, forgetting."""
    records = list(runs.get(tables.SHARED, {}).values())
    if not records:
        return {}
    batch = config.dqn.batch_size
    figure = Figure(figsize=(7.2, 6.4))
    axes = list(figure.subplots(2, 2).flat)
    series = {name: _curve(LAGS, [r["autocorrelation"][name] for r in records]) for name in (*SERIES, "drawn")}
    correlation_plots.autocorrelations(axes[0], series, batch)
    quantities = (*SERIES, "observation", "gradient")
    worths = {
        kind: {
            name: tables.interval_of(tables.mean_of(runs, tables.SHARED, f"ess/{kind}/{name}")) for name in quantities
        }
        for kind in ("consecutive", "random")
    }
    correlation_plots.worth(axes[1], worths["consecutive"], worths["random"], batch)
    apart = {
        name: _curve(GAPS, [[np.mean(r["measures"][f"cosine/gap {gap}/{name}"]) for gap in GAPS] for r in records])
        for name in ("recent", "online")
    }
    levels = {
        name: tables.interval_of(tables.mean_of(runs, tables.SHARED, f"cosine/apart/{name}"))
        for name in ("uniform", "single")
    }
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
