"""`replaybank compare`: the same DQN with several memories, with and without a target network.

Mnih et al. (2015, Extended Data Table 3) trained a DQN with and without replay, with and without a target network, for
10 million frames of five Atari games, and report for each the best checkpoint of one run: with both 316.8 in Breakout,
with replay only 240.7, with the target network only 10.2, with neither 3.2; the same order of "with both" first and
"with neither" last in all five. What "without replay" means they do not say, and papers mean three things by it: one
update on the latest transition (here `online`), on the latest batch of them (here `recent`), or a buffer of one batch.

`--preset cleanrl` has the settings of CleanRL's dqn.py, for which its documentation gives 488.69 +- 16.11 in
CartPole-v1 and -91.54 +- 7.20 in Acrobot-v1 after 500,000 steps (3 seeds).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from replaybank.study import performance, plots, stats
from replaybank.study.agents import (
    Condition,
    at_rate,
    check_environment,
    jobs_of,
    run_agents,
    threshold_of,
)
from replaybank.study.base import Findings, Job, Runs, Study, Table
from replaybank.study.claims import Claim, Verdict, decide, decide_within
from replaybank.study.configs import check_at_least_one, check_names
from replaybank.study.dqn import DQNConfig
from replaybank.study.memories import MEMORIES
from replaybank.study.performance import (
    Difference,
    Performance,
    cell,
    difference,
    performances,
    plain,
    plain_interval,
)

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""What `--lr-sweep` tries for every arm, beside the preset's."""
SWEEP_SEEDS = 1_000_000
"""The sweep's seeds begin so far above the comparison's: a learning rate is never chosen on the seeds that judge it."""
SWEPT = 5
"""How many seeds a learning rate is chosen on."""
NO_TARGET = "-no-target"

ARMS: dict[str, str] = {name: MEMORIES[name].definition for name in ("online", "recent", "uniform", "prioritized")} | {
    name + NO_TARGET: f"as {name}, without a target network: the network rates its own next action"
    for name in ("online", "recent", "uniform")
}
_ARMS_HELP = "which arms to train. " + "; ".join(f"{name.upper()}: {text}" for name, text in ARMS.items())


@dataclass(frozen=True)
class CompareConfig:
    """What `replaybank compare` runs."""

    env: str = "CartPole-v1"
    """Gymnasium environment with Discrete actions and Box observations"""
    steps: int = 20_000
    """environment steps per arm and seed"""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(help=_ARMS_HELP)] = tuple(ARMS)
    lr_sweep: bool = False
    """also choose each arm's own learning rate, on other seeds, and compare the arms at those"""
    together: int = 5
    """seeds that train in lock step in one process"""
    dqn: Annotated[DQNConfig, tyro.conf.arg(name="")] = field(default_factory=DQNConfig)

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected; also for an unfit environment."""
        check_names("arms", self.arms, tuple(ARMS))
        check_at_least_one(steps=self.steps, together=self.together)
        self.dqn.check_valid()
        check_environment(self.env, self.steps)


CLEANRL = CompareConfig(
    steps=500_000,
    arms=("uniform",),
    dqn=DQNConfig(
        learning_rate=2.5e-4,
        final_learning_rate=2.5e-4,
        batch_size=128,
        capacity=10_000,
        hidden=(120, 84),
        double=False,
        loss="squared",
        target_period=50,
        train_period=10,
        learning_starts=10_000,
        epsilon_end=0.05,
        exploration_fraction=0.5,
    ),
)
"""CleanRL's dqn.py: an update every 10 steps, the target network every 500 steps, which is every 50 updates."""

_MNIH = "Mnih et al. 2015, Extended Data Table 3"
PAIRS: dict[tuple[str, str], Claim] = {
    ("uniform", "online"): Claim(
        "replay", "with a target network, replay ends higher than no replay (batch 1)", f"{_MNIH}: 5 of 5 games"
    ),
    ("uniform", "recent"): Claim(
        "old experience",
        "learning from consecutive samples is inefficient: replay ends higher than the latest batch",
        "Mnih et al. 2015, Methods",
    ),
    ("uniform", "uniform" + NO_TARGET): Claim(
        "target network", "with replay, a target network ends higher than none", f"{_MNIH}: 5 of 5 games"
    ),
    ("uniform" + NO_TARGET, "online"): Claim(
        "replay against target network",
        "replay without a target network ends higher than a target network without replay",
        f"{_MNIH}: 4 of 5 games, not in Seaquest",
    ),
    ("online", "online" + NO_TARGET): Claim(
        "target network without replay",
        "without replay (batch 1), too, a target network ends higher than none",
        f"{_MNIH}: 5 of 5 games",
    ),
    ("prioritized", "uniform"): Claim(
        "prioritized", "prioritized replay ends higher than uniform", "Schaul et al. 2016, sec. 4: 41 of 49 games"
    ),
}
PUBLISHED = {"CartPole-v1": (488.69, 16.11), "Acrobot-v1": (-91.54, 7.20)}
CLEANRL_CLAIM = Claim(
    "cleanrl",
    "DQN with CleanRL's settings ends where CleanRL's does",
    "CleanRL's documentation, dqn.py: CartPole-v1 488.69 +- 16.11, Acrobot-v1 -91.54 +- 7.20, 3 seeds",
)


# ---- what is run ---------------------------------------------------------------------


def condition(config: CompareConfig, arm: str, learning_rate: float) -> Condition:
    """An arm at a learning rate, which its name tells where it is not the preset's."""
    memory = arm.removesuffix(NO_TARGET)
    dqn = config.dqn
    if learning_rate != dqn.learning_rate:
        dqn = at_rate(dqn, learning_rate)
    if arm != memory:
        dqn = replace(dqn, target_period=1, tau=1.0)  # the target network is the network itself
    return Condition(rate_name(config, arm, learning_rate), config.env, config.steps, memory, dqn)


def rate_name(config: CompareConfig, arm: str, learning_rate: float) -> str:
    """The name of the arm's condition at that learning rate."""
    return arm if learning_rate == config.dqn.learning_rate else f"{arm}-lr{learning_rate:g}"


def jobs(config: CompareConfig, seeds: Sequence[int]) -> list[Job]:
    """Every arm at the preset; for a sweep also every arm at every learning rate, on seeds of its own."""
    preset = [condition(config, arm, config.dqn.learning_rate) for arm in config.arms]
    asked = jobs_of(preset, seeds, config.together)
    if config.lr_sweep:
        swept = [condition(config, arm, rate) for rate in _rates(config) for arm in config.arms]
        asked += jobs_of(swept, range(SWEEP_SEEDS, SWEEP_SEEDS + SWEPT), config.together)
    return asked


def then(config: CompareConfig, seeds: Sequence[int], runs: Runs) -> list[Job]:
    """After a sweep every arm at its own learning rate, where it is not the preset's."""
    if not config.lr_sweep:
        return []
    own = {arm: rate for arm, rate in chosen_rates(config, runs).items() if rate != config.dqn.learning_rate}
    return jobs_of([condition(config, arm, rate) for arm, rate in own.items()], seeds, config.together)


def _rates(config: CompareConfig) -> list[float]:
    return sorted({*LEARNING_RATES, config.dqn.learning_rate})


def sweep(config: CompareConfig, runs: Runs) -> dict[str, dict[float, float]]:
    """The mean final return of each arm at each learning rate, on the sweep's seeds."""
    tried: dict[str, dict[float, float]] = {}
    for arm in config.arms:
        for rate in _rates(config):
            by_seed = _seeds_of(runs.get(rate_name(config, arm, rate), {}), sweep=True)
            finals = [stats.final_return(e["step"], e["return"], config.steps) for e in by_seed.values()]
            if finals:
                tried.setdefault(arm, {})[rate] = sum(finals) / len(finals)
    return tried


def chosen_rates(config: CompareConfig, runs: Runs) -> dict[str, float]:
    """Each arm's best learning rate, by mean final return on the sweep's seeds."""
    return {arm: max(by_rate, key=lambda rate: by_rate[rate]) for arm, by_rate in sweep(config, runs).items()}


def _seeds_of(by_seed: Mapping[int, Any], sweep: bool) -> dict[int, Any]:
    """The episodes of the sweep's seeds, or of those that judge."""
    return {seed: record["episodes"] for seed, record in by_seed.items() if (seed >= SWEEP_SEEDS) == sweep}


# ---- what was found ------------------------------------------------------------------


def judge(config: CompareConfig, runs: Runs) -> Findings:
    """The arms at the preset; after a sweep also at their own learning rates."""
    preset = dict.fromkeys(config.arms, config.dqn.learning_rate)
    found = _found(config, runs, preset)
    threshold = threshold_of(config.env)
    title = f"{config.env}, {config.steps:,} steps, the same settings for every arm"
    tables = [_definitions(config), *([_table(title, found, threshold)] if found else [])]
    differences = [pair for pair in (difference(found, *names) for names in PAIRS) if pair]
    notes = _notes(threshold)
    summary: dict[str, Any] = _summary(config, found, preset, differences)
    rows = list(_rows(found, preset))
    if config.lr_sweep and (tried := sweep(config, runs)):
        chosen = chosen_rates(config, runs)
        tables.append(_sweep_table(tried, chosen))
        summary["mean_final_return_by_rate"] = tried
    if config.lr_sweep and (own := _found(config, runs, chosen_rates(config, runs))):
        own_differences = [pair for pair in (difference(own, *names) for names in PAIRS) if pair]
        tables.append(_table("Each arm at its own learning rate", own, threshold))
        notes += [f"At own learning rates: {pair}" for pair in own_differences]
        summary["own_learning_rate"] = _summary(config, own, chosen, own_differences)
        rows += [row for row in _rows(own, chosen) if row["learning_rate"] != config.dqn.learning_rate]
    verdicts = [_verdict(pair) for pair in differences]
    if config.dqn == CLEANRL.dqn and config.steps == CLEANRL.steps and "uniform" in found:
        verdicts += _cleanrl(config.env, found["uniform"])
    return Findings(tuple(tables), tuple(verdicts), tuple(notes), summary, tuple(rows))


def _found(config: CompareConfig, runs: Runs, rates: Mapping[str, float]) -> dict[str, Performance]:
    names = {arm: rate_name(config, arm, rate) for arm, rate in rates.items()}
    judged = {
        arm: {seed: record for seed, record in runs.get(name, {}).items() if seed < SWEEP_SEEDS}
        for arm, name in names.items()
    }
    return performances(judged, config.steps, threshold_of(config.env))


def _verdict(pair: Difference) -> Verdict:
    claim = PAIRS[pair.name, pair.reference]
    return Verdict(claim, decide(pair.interval, "above", seeds=pair.seeds), str(pair))


def _cleanrl(env: str, uniform: Performance) -> list[Verdict]:
    """Whether the mean return lies within the published mean and its deviation."""
    if env not in PUBLISHED:
        return []
    published, deviation = PUBLISHED[env]
    low, high = published - deviation, published + deviation
    outcome = decide_within(uniform.mean, low, high, seeds=uniform.seeds)
    ours = cell(uniform.mean).replace("\n", " ")
    return [Verdict(CLEANRL_CLAIM, outcome, f"{ours} with {uniform.seeds} seeds; published {published} +- {deviation}")]


def _definitions(config: CompareConfig) -> Table:
    """What each arm is: papers mean different things by "without replay"."""
    rows = tuple((arm, ARMS[arm]) for arm in config.arms)
    return Table("The arms differ in their memory and their target network only", ("arm", "what it is"), rows)


def _table(title: str, found: Mapping[str, Performance], threshold: float | None) -> Table:
    """One row per arm."""
    reference = "online" if "online" in found else next(iter(found))
    return performance.table(title, found, threshold, reference)


def _sweep_table(tried: Mapping[str, Mapping[float, float]], chosen: Mapping[str, float]) -> Table:
    title = f"Each arm's own learning rate, chosen (*) by mean final return on {SWEPT} other seeds"
    rates = sorted({rate for by_rate in tried.values() for rate in by_rate})
    rows = tuple(
        (arm, *(f"{by_rate[rate]:.0f}{'*' * (rate == chosen[arm])}" if rate in by_rate else "" for rate in rates))
        for arm, by_rate in tried.items()
    )
    return Table(title, ("arm", *(f"{rate:g}" for rate in rates)), rows)


def _notes(threshold: float | None) -> list[str]:
    updates = (
        "An update of online sees 1 transition, of the others a whole batch. recent and uniform: the same number of "
        "samples, but from the latest experience or from all of it."
    )
    return [*performance.notes(threshold), updates]


def _summary(
    config: CompareConfig,
    found: Mapping[str, Performance],
    rates: Mapping[str, float],
    differences: Sequence[Difference],
) -> dict[str, Any]:
    threshold = threshold_of(config.env)
    arms = {
        arm: {"definition": ARMS[arm], "learning_rate": rates[arm], **plain(ours, threshold)}
        for arm, ours in found.items()
    }
    return {
        "env": config.env,
        "steps": config.steps,
        "threshold": threshold,
        "arms": arms,
        "paired_differences": {f"{p.name} - {p.reference}": plain_interval(p.interval) for p in differences},
    }


def _rows(found: Mapping[str, Performance], rates: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    return performance.rows(found, {arm: {"arm": arm, "learning_rate": rates[arm]} for arm in found})


def draw(config: CompareConfig, runs: Runs) -> dict[str, Figure]:
    """The learning curves and each seed's final return; the differences; and the table of replay and target network."""
    found = _found(config, runs, dict.fromkeys(config.arms, config.dqn.learning_rate))
    if not found:
        return {}
    threshold = threshold_of(config.env)
    seeds = max(arm.seeds for arm in found.values())
    title = f"DQN on {config.env}: one agent, {len({arm.removesuffix(NO_TARGET) for arm in found})} memories"
    subtitle = f"mean over {seeds} paired seeds; bands and bars: 95% bootstrap interval over seeds; dots: one seed each"
    figure = Figure(figsize=(8, 3.6))
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    shown = {name: arm for name, arm in found.items() if not name.endswith(NO_TARGET)} or found
    plots.learning_curves(left, {name: arm.curve for name, arm in shown.items()}, threshold)
    finals = {name: list(arm.final_returns.values()) for name, arm in shown.items()}
    plots.final_returns(right, finals, {name: arm.mean for name, arm in shown.items()}, threshold)
    plots.caption(figure, title, subtitle, {name: ARMS[name] for name in shown})
    figures = {"learning_curves": figure}
    differences = [pair for pair in (difference(found, *names) for names in PAIRS) if pair]
    if differences:
        figures["differences"] = _draw_differences(config, shown, differences)
    if any(name.endswith(NO_TARGET) for name in found):
        figures["replay_and_target"] = _draw_grid(config, found)
    return figures


def _draw_differences(
    config: CompareConfig, found: Mapping[str, Performance], differences: Sequence[Difference]
) -> Figure:
    """What is claimed of pairs of arms, and how the seeds of those in `found` are spread."""
    figure = Figure(figsize=(8, 3.4))
    left, right = figure.subplots(1, 2)
    plots.intervals(left, {f"{pair.name} - {pair.reference}": pair.interval for pair in differences})
    left.set_xlabel("difference of the final return")
    finals = {name: np.array(list(arm.final_returns.values())) for name, arm in found.items()}
    together = np.concatenate(list(finals.values()))
    low, high = together.min(), together.max()
    thresholds = np.linspace(low, high if high > low else low + 1, 200)
    plots.profile(
        right, thresholds, {name: stats.performance_profile(ours, thresholds) for name, ours in finals.items()}
    )
    right.set_xlabel("final return")
    seeds = max(arm.seeds for arm in found.values())
    subtitle = (
        f"{seeds} paired seeds. Left: mean difference with its 95% bootstrap interval. "
        "Right: share of the seeds that end above a return, with 95% Wilson bounds at each"
    )
    plots.caption(figure, f"DQN on {config.env}: what the seeds allow to say", subtitle, dict.fromkeys(finals, ""))
    return figure


def _draw_grid(config: CompareConfig, found: Mapping[str, Performance]) -> Figure:
    """Replay against target network, as in Mnih et al.'s table."""
    cells = {
        (name.removesuffix(NO_TARGET), "no target network" if name.endswith(NO_TARGET) else "target network"): arm.mean
        for name, arm in found.items()
        if name != "prioritized"
    }
    figure = Figure(figsize=(5.5, 2.8))
    plots.grid(figure.subplots(), cells)
    seeds = max(arm.seeds for arm in found.values())
    subtitle = f"mean final return over {seeds} paired seeds, 95% bootstrap interval"
    plots.caption(figure, f"Replay and target network on {config.env}", subtitle, {})
    return figure


STUDY = Study(
    name="compare",
    question="what does the memory do to the same agent, with and without a target network?",
    claims=(*PAIRS.values(), CLEANRL_CLAIM),
    config=CompareConfig,
    seeds=10,
    jobs=jobs,
    then=then,
    run=run_agents,
    judge=judge,
    draw=draw,
    presets={"cleanrl": CLEANRL},
)
