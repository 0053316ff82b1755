"""What a comparison consists of, and its files: configuration, jobs, resumable results.

A job is one arm with a group of seeds that train in lock step. Each finished job leaves one file under `parts/`,
written whole or not at all; the result files are made from those, so an interrupted comparison that goes on ends with
the same ones as one that was never interrupted.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import tyro

from replaybank.study import SettingError
from replaybank.study.arms import ARMS, check_arms
from replaybank.study.dqn import DQNConfig, Episode, make_env

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""What `--lr-sweep` tries for every arm, beside the preset's."""
SWEEP_SEEDS = 1_000_000
"""The sweep's seeds begin so far above the comparison's: a learning rate is never chosen on the seeds that judge it."""
COLUMNS = ("arm", "seed", "episode", "step", "return", "length")


_ARMS_HELP = "which arms to train. " + "; ".join(f"{arm.name.upper()}: {arm.definition}" for arm in ARMS.values())


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class CompareConfig:
    """What `replaybank compare` runs."""

    env: str = "CartPole-v1"
    """Gymnasium environment with Discrete actions and Box observations"""
    seeds: int = 10
    """paired seeds per arm; 5 or more for an interval that means something"""
    steps: int = 20_000
    """environment steps per arm and seed"""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(help=_ARMS_HELP)] = tuple(ARMS)
    out: Path | None = None
    """folder of the results; left out: runs/compare/ENV"""
    resume: bool = False
    """go on where an interrupted comparison stopped; finished jobs are kept"""
    lr_sweep: bool = False
    """also choose each arm's own learning rate, on other seeds, and compare the arms at those"""
    tensorboard: bool = False
    """write TensorBoard events while training"""
    workers: int = field(default_factory=cores)
    """processes that train at the same time"""
    first_seed: int = 0
    """the seeds are first-seed, first-seed + 1, ..."""
    seeds_per_job: int = 5
    """seeds that train in lock step in one process"""
    dqn: Annotated[DQNConfig, tyro.conf.arg(name="")] = field(default_factory=DQNConfig)

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected; also for an unfit environment."""
        check_arms(self.arms)
        for flag in ("seeds", "steps", "workers", "seeds_per_job"):
            count = getattr(self, flag)
            if count < 1:
                raise SettingError(f"--{flag.replace('_', '-')}: expected at least 1, given {count}")
        if not 0 <= self.first_seed < SWEEP_SEEDS - self.seeds:
            most = SWEEP_SEEDS - self.seeds - 1
            raise SettingError(f"--first-seed: expected from 0 to {most}, given {self.first_seed}")
        self.dqn.check_valid()
        env = make_env(self.env)
        longest = env.spec.max_episode_steps if env.spec else None
        env.close()
        if longest is not None and self.steps < longest:
            raise SettingError(
                f"--steps: expected at least {longest}, the longest episode of {self.env}, so that one surely ends; "
                f"given {self.steps}"
            )

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("runs") / "compare" / re.sub(r"[^\w.-]+", "-", self.env)

    def fingerprint(self) -> dict[str, Any]:
        """All that a finished job depends on: what must be equal for `--resume`."""
        return {"env": self.env, "steps": self.steps, "dqn": json.loads(json.dumps(asdict(self.dqn)))}

    def jobs(self) -> list[Job]:
        """The comparison at the preset. In a group of seeds `online`, soonest done, comes last: no worker idles."""
        first = range(self.first_seed, self.first_seed + self.seeds)
        order = sorted(self.arms, key=lambda arm: arm == "online")
        return [Job(arm, seeds, self.dqn.learning_rate) for seeds in self._groups(first) for arm in order]

    def sweep_jobs(self) -> list[Job]:
        """Every arm at every learning rate of the sweep, on seeds of its own: as many as in one job."""
        count = min(self.seeds, self.seeds_per_job)
        seeds = tuple(range(self.first_seed + SWEEP_SEEDS, self.first_seed + SWEEP_SEEDS + count))
        rates = sorted({*LEARNING_RATES, self.dqn.learning_rate})
        return [Job(arm, seeds, rate) for rate in rates for arm in self.arms]

    def at(self, learning_rate: float) -> DQNConfig:
        """The preset with another learning rate that falls in the same proportion."""
        ratio = self.dqn.final_learning_rate / self.dqn.learning_rate
        return replace(self.dqn, learning_rate=learning_rate, final_learning_rate=learning_rate * ratio)

    def _groups(self, seeds: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(seeds[k : k + self.seeds_per_job]) for k in range(0, len(seeds), self.seeds_per_job)]


@dataclass(frozen=True)
class Job:
    """One arm at one learning rate with the seeds that train in lock step."""

    arm: str
    seeds: tuple[int, ...]
    learning_rate: float

    @property
    def name(self) -> str:
        """Says what the job is; also its file's name."""
        return f"{self.arm}-lr{self.learning_rate:g}-seeds{self.seeds[0]}-{self.seeds[-1]}"


Runs = dict[int, list[Episode]]
"""The episodes of each seed."""


class Results:
    """The folder of a comparison."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self.set_aside: Path | None = None  # where `open` moved an earlier comparison

    def open(self, config: CompareConfig) -> int:
        """Make the folder ready and write config.json. Returns how many finished jobs it holds and keeps.

        Without `config.resume` an earlier comparison is moved aside, to the folder's name with a number. With it,
        SettingError if it was made with other settings.
        """
        written = self.folder / "config.json"
        if config.resume and written.exists():
            _check_same(json.loads(written.read_text()), config.fingerprint(), written)
        if not config.resume and any(self.parts.glob("*.json")):
            taken = (self.folder.with_name(f"{self.folder.name}.{number}") for number in itertools.count(1))
            self.set_aside = self.folder.rename(next(path for path in taken if not path.exists()))
        self.parts.mkdir(parents=True, exist_ok=True)
        extent = {name: getattr(config, name) for name in ("seeds", "first_seed", "seeds_per_job", "arms")}
        write_json(written, {**config.fingerprint(), **extent, "versions": _versions()})
        return len(list(self.parts.glob("*.json")))

    def has(self, job: Job) -> bool:
        """Whether the job is finished."""
        return self._part(job).exists()

    def save(self, job: Job, episodes: Iterable[Episode]) -> None:
        """Keep a finished job's episodes."""
        rows = [[e.seed, e.episode, e.step, e.episode_return, e.length] for e in episodes]
        write_json(self._part(job), {**asdict(job), "episodes": rows})

    def load(self, jobs: Iterable[Job]) -> dict[str, Runs]:
        """Arm by arm the runs of those jobs that are finished."""
        runs: defaultdict[str, Runs] = defaultdict(dict)
        for job in jobs:
            if self.has(job):
                rows = json.loads(self._part(job).read_text())["episodes"]
                runs[job.arm].update({seed: [] for seed in job.seeds})
                for row in rows:
                    runs[job.arm][row[0]].append(Episode(*row))
        return dict(runs)

    def write_episodes(self, runs: Mapping[str, Runs]) -> None:
        """results.csv: one row per finished episode."""
        rows = [
            (arm, seed, e.episode, e.step, e.episode_return, e.length)
            for arm, by_seed in runs.items()
            for seed, episodes in sorted(by_seed.items())
            for e in episodes
        ]
        write_csv(self.folder / "results.csv", COLUMNS, rows)

    def _part(self, job: Job) -> Path:
        return self.parts / f"{job.name}.json"


def write_json(path: Path, content: object) -> None:
    """The file whole or not at all."""
    _write_whole(path, json.dumps(content, indent=None if path.parent.name == "parts" else 2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The file whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    _write_whole(path, text.getvalue())


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def _check_same(written: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    old, new = ({**settings, **settings["dqn"]} for settings in (written, asked))
    for name in new:
        if name != "dqn" and old.get(name) != new[name]:
            raise SettingError(
                f"--resume: {path} was made with {name} {old.get(name)}, now asked for {new[name]}; "
                "use the same settings, another --out, or leave out --resume to start anew"
            )


def _versions() -> dict[str, str]:
    found = {}
    for package in ("replaybank", "torch", "gymnasium", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
