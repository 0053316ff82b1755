"""`replaybank study run shards`: does an agent learn through the shards of a cluster as it does through one buffer?

A cluster is to draw with the probabilities of one buffer and to weight with its weights. tests/ray holds that to
account draw by draw; here it is held to account by what it is for. The same DQN learns CartPole through one
`ReplayBuffer` and through a `ReplayCluster` of 1, 2 and 4 shards: every transition is added, every batch drawn and
every priority set through Ray, in step with the agent, so that the algorithm is the same.

That no difference is shown would say little: of few seeds it seldom is. So the rule, fixed before any of these runs was
made, is one of equivalence (two one-sided tests of 5%, Schuirmann 1987). Where the whole 90% interval of the difference
to one buffer lies within a margin, the claim is reproduced; where it lies wholly outside, it is not; else it is
undecided, and the evidence says how many seeds would probably decide. Two measures have a margin each (`MARGINS`): the
area under the learning curve, 10% of the most that an episode gives, and the final return, 15%.

Every update costs a dozen calls of Ray, and returns of CartPole vary much between seeds: at the settings of `compare` a
hundred seeds would be needed for the final return. Two things make the question affordable. CartPole-v0 ends an episode
after 200 steps instead of 500, and updates are few and large (every 4 steps, of 256 transitions, returns of 3 steps).
On 20 other seeds (1,000,000 and those after; one buffer) the standard deviation is then 19 in the area and 33 in the
final return. Runs of a seed share their first weights and the random numbers of environment and exploration, but not
their draws, and soon have little in common, so pairs help little: differences vary by up to sqrt(2) times as much, 27
and 47. If there is no difference, 20 seeds show that for the area with a probability of 0.88, for the final return of
0.73; 10 seeds of 0.41 and 0.23.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy.stats import norm

import replaybank as rb
from replaybank.samplers.base import Sampler
from replaybank.study import SettingError, performance, plots
from replaybank.study.agents import Condition, check_environment, run_agents, threshold_of
from replaybank.study.base import Findings, Job, Record, Runs, Study, Table, Track
from replaybank.study.claims import Claim, Verdict, decide_within
from replaybank.study.configs import check_at_least_one, rebuilt
from replaybank.study.dqn import DQNConfig, train
from replaybank.study.environments import make_env
from replaybank.study.memories import MEMORIES, BufferSettings, prioritized_sampler
from replaybank.study.performance import Contrast, Measure, Performance, contrast, performances
from replaybank.study.stats import Interval

if TYPE_CHECKING:
    from replaybank.study.cluster_buffer import ClusterBuffer

ENV = "CartPole-v0"
"""Episodes end after 200 steps, and returns vary less between seeds than those of CartPole-v1."""
ONE_BUFFER = "one-buffer"
SETTINGS = DQNConfig(
    learning_rate=3e-3,
    batch_size=256,
    capacity=10_000,
    hidden=(64, 64),
    n_step=3,
    target_period=25,
    train_period=4,
)
"""Few and large updates: 2,376 of them in 10,000 steps."""
MARGINS: dict[Measure, float] = {"areas": 20.0, "final_returns": 30.0}
"""How far from one buffer's counts as the same, in return; an episode gives 200 at most."""
SAID: dict[Measure, str] = {"areas": "area under the learning curve", "final_returns": "final return"}
CONFIDENCE = 0.90
"""Of the intervals that decide: both of its ends are a test of 5%."""


def claim(shards: int, measure: Measure) -> Claim:
    """That a cluster of so many shards is as good as one buffer in that measure."""
    few = "1 shard" if shards == 1 else f"{shards} shards"
    return Claim(
        f"{few}: {SAID[measure]}",
        f"through {few} the {SAID[measure]} is that of one buffer, within {MARGINS[measure]:g}",
        "what replaybank.ray promises: a cluster draws as one buffer would",
    )


@dataclass(frozen=True)
class ShardsConfig:
    """What `replaybank study run shards` runs. Needs the package Ray; every worker starts one of its own."""

    steps: int = 10_000
    """environment steps per condition and seed"""
    shards: tuple[int, ...] = (1, 2, 4)
    """sizes of the clusters that are compared with one buffer"""
    memory: Literal["prioritized", "uniform"] = "prioritized"
    """how batches are drawn, in all conditions"""
    together: int = 5
    """seeds that train in lock step in one process; each has a cluster of its own"""
    dqn: Annotated[DQNConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: SETTINGS)

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_at_least_one(steps=self.steps, together=self.together, shards=min(self.shards, default=0))
        if len(set(self.shards)) < len(self.shards):
            raise SettingError(f"--shards: expected each at most once, given {list(self.shards)}")
        self.dqn.check_valid()
        check_environment(ENV, self.steps)


# ---- what is run ---------------------------------------------------------------------


def name(shards: int) -> str:
    """The name of a condition; 0 shards are one buffer."""
    return f"shards-{shards}" if shards else ONE_BUFFER


def sizes(config: ShardsConfig) -> tuple[int, ...]:
    """The clusters' sizes, 0 for one buffer first."""
    return (0, *config.shards)


def jobs(config: ShardsConfig, seeds: Sequence[int]) -> list[Job]:
    """Every condition with every seed; the largest cluster takes longest."""
    groups = [seeds[first : first + config.together] for first in range(0, len(seeds), config.together)]
    return [job(config, shards, group) for group in groups for shards in sorted(sizes(config), reverse=True)]


def job(config: ShardsConfig, shards: int, seeds: Sequence[int]) -> Job:
    """The runs of one condition."""
    ours = Condition(name(shards), ENV, config.steps, config.memory, config.dqn).job(seeds)
    return replace(ours, settings={**ours.settings, "shards": shards})


def run(job: Job, track: Track) -> Mapping[int, Record]:
    """Train a job's agents. Each record holds the run's `episodes`, of a cluster also what its shards took in."""
    return run_clusters(job, track) if job.settings["shards"] else run_agents(job, track)


def run_clusters(job: Job, track: Track) -> Mapping[int, Record]:
    """Train agents that each have a cluster of their own.

    A record holds `episodes`, and of each shard how many transitions it took in (`inserted`) and forgot
    (`overwritten`). Raises RuntimeError where a transition was lost on its way or a shard had none: such a run would
    not be what it is called.
    """
    from replaybank.study.cluster_buffer import ClusterBuffer

    asked = job.settings
    dqn = rebuilt(DQNConfig, asked["dqn"])
    schema = rb.schema_of(make_env(asked["env"]))
    buffers: dict[int, ClusterBuffer] = {}

    def make_buffer(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
        sampler: Sampler = prioritized_sampler(settings) if asked["memory"] == "prioritized" else rb.Uniform()
        buffer = ClusterBuffer(asked["shards"], settings, schema, sampler, dqn.is_update, seed)
        buffers[seed] = opened.enter_context(buffer)
        return cast(rb.ReplayBuffer, buffer)  # the agent adds, samples and updates; CartPole's trainings are not saved

    memory = replace(MEMORIES[asked["memory"]], make_buffer=make_buffer)
    with local_ray(), ExitStack() as opened:
        records = train(memory, asked["env"], job.seeds, asked["steps"], dqn, track)
        return {seed: {**record, **buffers[seed].account()} for seed, record in records.items()}


@contextmanager
def local_ray() -> Iterator[None]:
    """Ray for this process: the one that it has, or a small one for the time being."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init("local", num_cpus=2, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


# ---- what was found ------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A cluster of so many shards minus one buffer, in one measure, over the seeds that both have.

    needed: how many seeds would show that there is no difference, if there is none, with a probability of 0.8.
    """

    shards: int
    measure: Measure
    difference: Contrast
    needed: int

    def verdict(self) -> Verdict:
        """By the rule that this file begins with."""
        margin, found = MARGINS[self.measure], self.difference
        outcome = decide_within(found.interval, -margin, margin, seeds=found.seeds)
        evidence = f"difference {found} (90%)"
        if outcome == "undecided" and self.needed > found.seeds:
            evidence += f"; would take about {self.needed} seeds"
        return Verdict(claim(self.shards, self.measure), outcome, evidence)


def comparisons(config: ShardsConfig, found: Mapping[str, Performance]) -> list[Comparison]:
    """What decides, as far as its conditions have been run."""
    taken = []
    for shards in config.shards:
        for measure, margin in MARGINS.items():
            weights = {name(shards): 1.0, ONE_BUFFER: -1.0}
            if difference := contrast(found, weights, measure, CONFIDENCE):
                ours, theirs = (getattr(found[key], measure) for key in weights)
                pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
                taken.append(Comparison(shards, measure, difference, seeds_needed(pairs, margin)))
    return taken


def seeds_needed(differences: Sequence[float], margin: float) -> int:
    """About how many pairs that vary as these do, around 0, have a 90% interval within the margin 4 times of 5.

    Normal approximation: the interval's half width is 1.64 standard errors, and the mean is within 1.28 of 0 in 80% of
    samples, so their sum, 2.93 standard errors, is to be the margin. 0 for less than two differences.
    """
    if len(differences) < 2:
        return 0
    errors = norm.ppf(0.95) + norm.ppf(0.90)
    return math.ceil((errors * float(np.std(differences, ddof=1)) / margin) ** 2)


def judge(config: ShardsConfig, runs: Runs) -> Findings:
    """The conditions side by side, how evenly the shards were used, and what the differences decide."""
    threshold = threshold_of(ENV)
    found = _found(config, runs)
    title = f"{ENV}, {config.steps:,} steps, {config.memory}"
    shown = performance.table(title, found, threshold, ONE_BUFFER, tuple(MARGINS), CONFIDENCE)
    taken = comparisons(config, found)
    notes = [
        *performance.notes(threshold),
        "Differences to one-buffer: 90% intervals, which decide: both ends within the margin is a test of 5%.",
        "Pairs help little here: after a few hundred steps the runs of a seed have drawn other batches.",
    ]
    summary: dict[str, Any] = {
        "env": ENV,
        "steps": config.steps,
        "memory": config.memory,
        "threshold": threshold,
        "margins": MARGINS,
        "conditions": {key: performance.plain(ours, threshold) for key, ours in found.items()},
        "differences": {
            f"{name(each.shards)}: {SAID[each.measure]}": {
                **performance.plain_contrast(each.difference),
                "seeds_needed": each.needed,
            }
            for each in taken
        },
    }
    labels = {name(shards): {"memory": name(shards)} for shards in sizes(config)}
    rows = tuple(performance.rows(found, labels))
    tables = (shown, spread(config, runs)) if any(name(shards) in found for shards in config.shards) else (shown,)
    return Findings(tables, tuple(each.verdict() for each in taken), tuple(notes), summary, rows)


def _found(config: ShardsConfig, runs: Runs) -> dict[str, Performance]:
    by_name = {name(shards): runs.get(name(shards), {}) for shards in sizes(config)}
    return performances(by_name, config.steps, threshold_of(ENV))


def spread(config: ShardsConfig, runs: Runs) -> Table:
    """How a run's transitions were spread over the shards, and how many were forgotten: mean over seeds."""
    rows = []
    for shards in config.shards:
        if records := runs.get(name(shards), {}).values():
            inserted = np.array([record["inserted"] for record in records], np.float64)
            shares = inserted / inserted.sum(axis=1, keepdims=True)
            forgotten = np.mean([sum(record["overwritten"]) for record in records])
            fewest, most = shares.min(axis=1).mean(), shares.max(axis=1).mean()
            rows.append((name(shards), f"{fewest:.1%}", f"{most:.1%}", f"{forgotten:.0f}"))
    columns = ("cluster", "least used\nshard has", "most used\nshard has", "transitions\noverwritten")
    return Table("Each episode goes to the next shard", columns, tuple(rows))


def draw(config: ShardsConfig, runs: Runs) -> dict[str, Figure]:
    """Learning curves with the final returns, and the differences with their margins."""
    found = _found(config, runs)
    threshold = threshold_of(ENV)
    seeds = max(ours.seeds for ours in found.values())
    title = f"DQN on {ENV} through one buffer and through shards"
    subtitle = (
        f"{config.memory}, {seeds} seeds; bands and bars: 95% bootstrap interval of the mean; dots: one seed each"
    )
    figure = Figure(figsize=(8, 3.6))
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    plots.learning_curves(left, {key: ours.curve for key, ours in found.items()}, threshold)
    finals = {key: list(ours.final_returns.values()) for key, ours in found.items()}
    plots.final_returns(right, finals, {key: ours.mean for key, ours in found.items()}, threshold)
    plots.caption(figure, title, subtitle, {key: _definition(key) for key in found})
    figures = {"shards": figure}
    if taken := comparisons(config, found):
        figures["shards_differences"] = _draw_differences(taken)
    return figures


def _definition(condition: str) -> str:
    return "a ReplayBuffer in the agent's process" if condition == ONE_BUFFER else "a ReplayCluster, through Ray"


def _draw_differences(taken: Sequence[Comparison]) -> Figure:
    figure = Figure(figsize=(8, 2.4))
    for ax, (measure, margin) in zip(figure.subplots(1, 2), MARGINS.items(), strict=True):
        ax.axvspan(-margin, margin, color=plots.PALE, alpha=0.6, linewidth=0, zorder=0)
        shown: dict[str, Interval] = {
            name(each.shards): each.difference.interval for each in taken if each.measure == measure
        }
        plots.intervals(ax, shown)
        ax.set_xlim(-2 * margin, 2 * margin)
        ax.set_xlabel(f"{SAID[measure]}: difference to one buffer")
    subtitle = "bars: 90% interval over seeds; grey: the margin within which it counts as the same"
    plots.caption(figure, "Through shards minus through one buffer", subtitle, {})
    return figure


STUDY = Study(
    name="shards",
    question="does a DQN learn through the shards of a cluster as it does through one buffer?",
    claims=tuple(claim(shards, measure) for shards in ShardsConfig().shards for measure in MARGINS),
    config=ShardsConfig,
    seeds=20,
    jobs=jobs,
    run=run,
    judge=judge,
    draw=draw,
)
