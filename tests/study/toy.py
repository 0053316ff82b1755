"""A study of nothing, quick and exact, for the tests of the runner: a run's record is a function of its seed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from replaybank.study import SettingError
from replaybank.study.base import Findings, Job, Record, Runs, Study, Table, Track
from replaybank.study.claims import Claim, Verdict, decide
from replaybank.study.stats import bootstrap_interval

CLAIM = Claim("positive", "the values are above 0", "nobody")


@dataclass(frozen=True)
class ToyConfig:
    conditions: tuple[str, ...] = ("plain", "double")
    factor: float = 1.0
    steps: int = 4
    follow: bool = False
    slow: str = ""
    fail: str = ""

    def check_valid(self) -> None:
        if self.factor <= 0:
            raise SettingError(f"--factor: expected above 0, given {self.factor}")


def job(config: ToyConfig, condition: str, seeds: Sequence[int]) -> Job:
    settings = {"factor": config.factor, "slow": config.slow == condition, "fail": config.fail == condition}
    return Job(condition, tuple(seeds), config.steps, settings)


def jobs(config: ToyConfig, seeds: Sequence[int]) -> list[Job]:
    groups = [seeds[k : k + 2] for k in range(0, len(seeds), 2)]
    return [job(config, condition, group) for group in groups for condition in config.conditions]


def then(config: ToyConfig, seeds: Sequence[int], runs: Runs) -> list[Job]:
    return [job(config, "later", seeds)] if config.follow else []


def run(job: Job, track: Track) -> Mapping[int, Record]:
    """Counts its steps; every second one it keeps what it has, so that it can go on from there."""
    kept = track.folder / "kept.json"
    begin = json.loads(kept.read_text()) if kept.exists() else 0
    if begin:
        track.begin(begin)
    for step in range(begin, job.steps):
        if job.settings["fail"]:
            raise ValueError("this one fails")
        for seed in job.seeds:
            track.scalar(seed, "charts/episodic_return", seed + step, step + 1)
        if job.settings["slow"]:
            track.folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(step + 1))
            time.sleep(0.05)
        track.progress(step + 1)
    factor = job.settings["factor"] * (2 if job.condition == "double" else 1)
    return {seed: {"value": factor * (seed + 1)} for seed in job.seeds}


def judge(config: ToyConfig, runs: Runs) -> Findings:
    values = {name: [record["value"] for record in by_seed.values()] for name, by_seed in runs.items()}
    intervals = {name: bootstrap_interval(each) for name, each in values.items()}
    verdicts = tuple(
        Verdict(CLAIM, decide(interval, "above", seeds=len(values[name])), name) for name, interval in intervals.items()
    )
    table = Table("Values", ("condition", "mean"), tuple((name, f"{i.estimate:.1f}") for name, i in intervals.items()))
    rows = tuple({"condition": n, "seed": s, **r} for n, by_seed in runs.items() for s, r in by_seed.items())
    return Findings((table,), verdicts, ("A note.",), {"means": {n: i.estimate for n, i in intervals.items()}}, rows)


def draw(config: ToyConfig, runs: Runs) -> Mapping[str, Figure]:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1])
    return {"toy": figure}


STUDY = Study(
    name="toy",
    question="does the runner run?",
    claims=(CLAIM,),
    config=ToyConfig,
    seeds=5,
    jobs=jobs,
    then=then,
    run=run,
    judge=judge,
    draw=draw,
    presets={"large": ToyConfig(factor=100.0)},
)
