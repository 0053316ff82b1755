"""`replaybank compare`: the same DQN with four memories, and what that does to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from replaybank.study import plots, stats
from replaybank.study.arms import ARMS
from replaybank.study.report import Report, definitions, footnotes, make_report, results_table, sentences, summary
from replaybank.study.runs import CompareConfig, Job, Results, Runs, write_csv, write_json
from replaybank.study.training import train_jobs


def compare(config: CompareConfig, console: Console | None = None) -> int:
    """Run the comparison and report it. Returns the exit status: 0, or 130 if Ctrl-C ended it early.

    Raises SettingError, before anything is written, for settings that cannot work.
    """
    console = console or Console()
    config.check_valid()
    results = Results(config.folder)
    _announce(config, results.open(config), console)
    if results.set_aside:
        console.print(f"The earlier results are now in {results.set_aside}.", highlight=False)
    began = time.monotonic()

    finished = train_jobs(config, config.jobs(), results, console)
    runs = _in_order(config, results.load(config.jobs()))
    if not runs:
        console.print("No job has finished, so there is nothing to report.")
        return 130
    report = make_report(config.env, config.steps, _threshold(config.env), runs)
    results.write_episodes(runs)
    content = summary(report, dict.fromkeys(runs, config.dqn.learning_rate))
    _draw(report, results.folder / "learning_curves.png")
    _tell(report, f"{config.env}, {config.steps:,} steps, the same settings for every arm", console)

    if config.lr_sweep and finished:
        finished = _own_learning_rates(config, results, console, content)
    write_json(results.folder / "summary.json", content)
    console.print()
    for note in footnotes(report):
        console.print(note, style="dim", highlight=False, markup=False)
    console.print(f"\nResults: {results.folder}  ({time.monotonic() - began:.0f} s)", highlight=False)
    if not finished:
        console.print("Not all runs have finished. The same command with --resume goes on.")
    return 0 if finished else 130


def _announce(config: CompareConfig, kept: int, console: Console) -> None:
    size = f"{config.seeds} seeds x {config.steps:,} steps an arm"
    console.print(f"[bold]replaybank compare[/]: DQN on {config.env}, {size}")
    console.print(definitions(config.arms))
    console.print(
        "Paired seeds: the same initial weights, environment seeds and exploration dice in every arm.\n"
        "The batch of online is 1, so it sees fewer samples per update; recent is the control for that."
    )
    if kept:
        console.print(f"{kept} finished jobs are kept.")


def _tell(report: Report, title: str, console: Console) -> None:
    console.print()
    console.print(title, style="bold", highlight=False)
    console.print(results_table(report))
    for sentence in sentences(report):
        console.print(f"  {sentence}", highlight=False, markup=False)


def _in_order(config: CompareConfig, runs: Mapping[str, Runs]) -> dict[str, Runs]:
    return {arm: dict(sorted(runs[arm].items())) for arm in config.arms if arm in runs}


def _threshold(env_id: str) -> float | None:
    """The return at which Gymnasium counts the environment as solved, if it says so (475 for CartPole-v1)."""
    return gym.spec(env_id).reward_threshold


def _draw(report: Report, path: Path) -> None:
    """The learning curves and each seed's final return, with what the arms mean below."""
    figure = Figure(figsize=(11, 5.6), dpi=150)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    curves = {name: arm.curve for name, arm in report.arms.items()}
    plots.learning_curves(left, curves, report.threshold)
    finals = {name: list(arm.final_returns.values()) for name, arm in report.arms.items()}
    plots.final_returns(right, finals, {name: arm.mean for name, arm in report.arms.items()}, report.threshold)
    seeds = max(len(values) for values in finals.values())
    title = f"DQN on {report.env}: one agent, {len(report.arms)} memories"
    subtitle = f"mean over {seeds} paired seeds; bands and bars: 95% bootstrap interval over seeds; dots: one seed each"
    plots.caption(figure, title, subtitle, {name: ARMS[name].definition for name in report.arms})
    figure.savefig(path)


# ---- each arm at its own learning rate -----------------------------------------------


def _own_learning_rates(config: CompareConfig, results: Results, console: Console, content: dict[str, Any]) -> bool:
    """Choose each arm's learning rate on the sweep's seeds, compare the arms at those, and add that to the summary."""
    console.print("\n[bold]Each arm's own learning rate[/], chosen (*) by mean final return on other seeds")
    jobs = config.sweep_jobs()
    if not train_jobs(config, jobs, results, console):
        return False
    chosen, rows, tried = _choose(config, results, jobs)
    own = [replace(job, learning_rate=chosen[job.arm]) for job in config.jobs()]
    finished = train_jobs(config, own, results, console)
    runs = _in_order(config, results.load(own))
    if not runs:
        return False
    report = make_report(config.env, config.steps, _threshold(config.env), runs)
    for arm, by_seed in runs.items():
        finals = report.arms[arm].final_returns
        rows += [("compare", arm, chosen[arm], seed, round(finals[seed], 4)) for seed in by_seed]
    write_csv(results.folder / "lr_sweep.csv", ("purpose", "arm", "learning_rate", "seed", "final_return"), rows)
    for arm, by_rate in tried.items():
        shown = ", ".join(f"{rate:g}: {value:.0f}{'*' * (rate == chosen[arm])}" for rate, value in by_rate.items())
        console.print(f"  {arm:<12} {shown}", highlight=False)
    _tell(report, f"{config.env}, {config.steps:,} steps, each arm at its own best learning rate", console)
    content["own_learning_rate"] = {"mean_final_return_by_rate": tried, **summary(report, chosen)}
    return finished


def _choose(
    config: CompareConfig, results: Results, jobs: list[Job]
) -> tuple[dict[str, float], list[tuple[object, ...]], dict[str, dict[float, float]]]:
    """The best learning rate of each arm, the sweep's rows, and the mean final return of each arm at each rate."""
    rows: list[tuple[object, ...]] = []
    tried: dict[str, dict[float, float]] = {arm: {} for arm in config.arms}
    for job in jobs:
        finals = []
        for seed, episodes in results.load([job])[job.arm].items():
            ends, returns = [e.step for e in episodes], [e.episode_return for e in episodes]
            finals.append(stats.final_return(ends, returns, config.steps))
            rows.append(("choose", job.arm, job.learning_rate, seed, round(finals[-1], 4)))
        tried[job.arm][job.learning_rate] = round(sum(finals) / len(finals), 4)
    chosen = {arm: max(by_rate, key=lambda rate: by_rate[rate]) for arm, by_rate in tried.items()}
    return chosen, rows, tried
