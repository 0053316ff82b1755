"""The folder of a study: its configuration, one file a run, and what was made of them.

Every file is written whole or not at all, and a run's file says with which settings it was made: so a study that was
interrupted goes on and ends with the files of one that never was, and runs of different settings never mix.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from replaybank.study import SettingError
from replaybank.study.base import Job, Record


class Folder:
    """Where a study keeps its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None  # where `open` moved an earlier study

    def open(self, study: str, config: Mapping[str, Any], jobs: Iterable[Job], resume: bool) -> None:
        """Make the folder ready for `jobs` and write config.json.

        Without `resume` a folder that holds a study is moved aside, to its name with a number. With it, SettingError if
        it is another study's or was made with other settings (seeds may be added), or holds a run of these jobs that is
        broken. SettingError, too, for a config.json that is no study's.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"--out: expected a folder, {self.path} is a file")
        written = self.config() if self._config.exists() else None
        if resume:
            if written:
                self._check_resumed(study, written, json.loads(json.dumps(config)))
            self.load(jobs)
        elif written or any(self.path.glob("runs/*/*.json")):
            taken = (self.path.with_name(f"{self.path.name}.{number}") for number in itertools.count(1))
            self.set_aside = self.path.rename(next(path for path in taken if not path.exists()))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"--out: cannot make the folder {self.path}: {error.strerror}") from error
        write_json(self._config, {"study": study, **config, "versions": _versions(), "machine": _machine()})

    def _check_resumed(self, study: str, written: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        if written["study"] != study:
            raise SettingError(f"--resume: {self.path} holds the study {written['study']!r}, asked for {study!r}")
        old, new = ({**each["settings"], "together": None} for each in (written, asked))  # how many share a process
        _check_same(old, new, self._config)
        left_out = sorted(set(written["seeds"]) - set(asked["seeds"]))
        if left_out:
            raise SettingError(f"--resume: {self.path} has seeds {left_out}, too; ask for those and any others")

    @property
    def _config(self) -> Path:
        return self.path / "config.json"

    def config(self) -> dict[str, Any]:
        """What config.json holds. Raises SettingError where there is none, or a broken one."""
        try:
            content = json.loads(self._config.read_text())
        except OSError as error:
            raise SettingError(
                f"{self.path} is no folder of a study: it has no config.json that can be read"
            ) from error
        except ValueError as error:
            raise SettingError(f"{self._config} is broken: {error}") from error
        kinds = {"study": str, "settings": dict, "seeds": list}
        if not isinstance(content, dict) or not all(isinstance(content.get(n), kind) for n, kind in kinds.items()):
            raise SettingError(f"{self._config} is no study's: expected a study, its settings and its seeds in it")
        return content

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those jobs, without the seeds that have a result."""
        left = (
            replace(job, seeds=tuple(s for s in job.seeds if not self._run(job.condition, s).exists())) for job in jobs
        )
        return [job for job in left if job.seeds]

    def save(self, job: Job, records: Mapping[int, Record]) -> None:
        """Keep a finished job's runs, and forget its unfinished work."""
        for seed, record in records.items():
            path = self._run(job.condition, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"condition": job.condition, "seed": seed, "settings": job.settings, "record": record}
            write_json(path, content, indent=None)
        shutil.rmtree(self.unfinished(job), ignore_errors=True)

    def load(self, jobs: Iterable[Job]) -> dict[str, dict[int, Record]]:
        """The runs of those jobs that are finished. SettingError names one that is broken or was made otherwise."""
        runs: dict[str, dict[int, Record]] = {}
        for job in jobs:
            for seed in job.seeds:
                path = self._run(job.condition, seed)
                if path.exists():
                    content = _read_run(path)
                    _check_same(content["settings"], job.settings, path)
                    others = runs.setdefault(job.condition, {})
                    for record in list(others.values())[:1]:
                        if record.keys() != content["record"].keys():
                            raise _broken(path, f"expected {sorted(record)} in its record, as in the others")
                    others[seed] = content["record"]
        return runs

    def unfinished(self, job: Job) -> Path:
        """Where a job keeps what it needs to go on."""
        return self.path / "unfinished" / job.name

    def log(self, condition: str, seed: int) -> Path:
        """The file of what a run told while it went on: one JSON object a line."""
        return self.path / "log" / condition / f"seed{seed}.jsonl"

    def _run(self, condition: str, seed: int) -> Path:
        return self.path / "runs" / condition / f"seed{seed}.json"


def _read_run(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), dict) and content[name] for name in ("settings", "record")
    ):
        raise _broken(path, "expected settings and a record in it")
    return content


def _broken(path: Path, why: str) -> SettingError:
    return SettingError(f"{path} is a broken result: {why}; remove it, and --resume makes it anew")


def _check_same(written: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    old, new = _flat(written), _flat(asked)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise SettingError(
                f"{path} was made with {name} {old.get(name)}, now asked for {new.get(name)}; "
                "use the same settings, another --out, or leave out --resume to start anew"
            )


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{within}{name}.") if isinstance(value, dict) else {within + name: value})
    return flat


def write_json(path: Path, content: object, indent: int | None = 2) -> None:
    """The file whole or not at all; NaN and infinities become null."""
    _write_whole(path, json.dumps(_plain(content), indent=indent, allow_nan=False) + "\n")


def _plain(content: object) -> object:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(name): _plain(value) for name, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, list | tuple) else content


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


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> dict[str, object]:
    return {"system": platform.system(), "architecture": platform.machine(), "cores": cores()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("replaybank", "torch", "gymnasium", "numpy", "scipy", "minatar"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
