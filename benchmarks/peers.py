"""replaybank and its peers: the same work for all of them, in one run.

    python benchmarks/peers.py [--quick] [--full] [--only ROW] [--repeats N] [--out FILE]

Prints a report and keeps it as JSON. Libraries that are not installed, or that fail, are left out and named.
"""

from __future__ import annotations

import argparse
import gc
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import machine
import report
from adapters import CONTENDERS
from bars import BARS, OURS, best_peer, judge
from contender import ALPHA, BETA, Contender, LeftOutError, NoSuchWorkError, Role, Setup
from timing import Trial, interleave
from transitions import Step, Transitions, priorities_like_td_errors
from work import GROUPS, Group, Row, Run, entrant_name, transitions_for

#: Steps that every buffer takes beyond its capacity before the clock runs.
WRAPPED = 64


@dataclass
class Settings:
    repeats: int
    seconds: float


@dataclass
class LeftOut:
    """Who could not take part in which rows, and why."""

    entries: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def note(self, name: str, error: Exception, rows: Sequence[str]) -> None:
        if isinstance(error, NoSuchWorkError):
            return
        reason = str(error) if isinstance(error, LeftOutError) else _reason(error)
        known = self.entries.setdefault((name, reason), [])
        known.extend(row for row in rows if row not in known)

    def as_list(self) -> list[dict[str, Any]]:
        return [{"name": name, "reason": reason, "rows": rows} for (name, reason), rows in self.entries.items()]


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"not installed (no module named {error.name})"
    return f"{type(error).__name__}: {machine.without_paths(str(error))}"


@dataclass(frozen=True)
class Entrant:
    """A contender with its buffer full, and the steps that it adds while the clock runs."""

    name: str
    role: Role
    contender: Contender
    steps: Sequence[Step]


def build(kind: type[Contender], setup: Setup, data: Transitions, beyond: Sequence[Step]) -> Contender:
    """Build, fill, add some steps beyond the capacity, and give every transition its own priority."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind.check(setup)
        contender = kind(setup)
        contender.fill(data)
        for step in beyond:
            contender.add(*contender.add_form(step))
        if setup.prioritized:
            contender.set_priorities(priorities_like_td_errors(setup.capacity, np.random.default_rng(setup.seed)))
    return contender


def entrants(group: Group, rows: Sequence[Row], left_out: LeftOut) -> Iterator[Entrant]:
    for setup in group.setups:
        data = transitions_for(group, setup)
        beyond = data.part(setup.capacity, len(data))
        steps = beyond.steps() if setup.streams == 1 else beyond.vector_steps(setup.streams)
        data = data.part(0, setup.capacity)
        for kind in group.entrants:
            name = entrant_name(kind, setup, group)
            try:
                contender = build(kind, setup, data, steps[:WRAPPED])
            except Exception as error:  # whatever a peer fails with, the others go on and the report names it
                left_out.note(name, error, [row.key for row in rows])
            else:
                role = kind.role if setup == group.setups[0] else Role.DETAIL
                yield Entrant(name, role, contender, steps)


def measure_group(group: Group, rows: Sequence[Row], settings: Settings, left_out: LeftOut) -> list[dict[str, Any]]:
    machine.say(f"filling: {', '.join(row.key for row in rows)}")
    ready = list(entrants(group, rows, left_out))
    gc.collect()
    gc.freeze()
    measured = [measure_row(row, ready, settings, left_out) for row in rows]
    gc.unfreeze()
    return measured


def measure_row(row: Row, ready: Sequence[Entrant], settings: Settings, left_out: LeftOut) -> dict[str, Any]:
    machine.say(f"timing: {row.key}")
    trials: dict[str, Trial] = {}
    roles: dict[str, Role] = {}
    for entrant in ready:
        roles[entrant.name] = entrant.role
        try:
            trials[entrant.name] = row.trial(entrant.contender, entrant.steps)
        except Exception as error:
            left_out.note(entrant.name, error, [row.key])
    timings = interleave(
        trials, settings.repeats, settings.seconds, lambda name, error: left_out.note(name, error, [row.key])
    )
    results = [{"name": name, "role": roles[name].value, **asdict(timing)} for name, timing in timings.items()]
    best = best_peer(results)
    ours = timings.get(OURS)
    return {
        "key": row.key,
        "title": row.title,
        "unit": "microseconds",
        "results": results,
        "best_peer": best["name"] if best else None,
        "times_ours": {name: timing.median / ours.median for name, timing in timings.items()} if ours else {},
    }


def run(keys: Sequence[str], settings: Settings) -> dict[str, Any]:
    left_out = LeftOut()
    rows: list[dict[str, Any]] = []
    for group in GROUPS:
        wanted = [row for row in group.rows if row.key in keys]
        if wanted:
            rows.extend(measure_group(group, wanted, settings, left_out))
            gc.collect()
    results = {row["key"]: row["results"] for row in rows}
    distributions = [kind.distribution for kind in CONTENDERS if kind.distribution]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "python": machine.python(),
        "hardware": machine.hardware(),
        "versions": machine.versions([*distributions, "numpy", "torch", "jax", "numba", "tensordict"]),
        "settings": {**asdict(settings), "alpha": ALPHA, "beta": BETA},
        "rows": rows,
        "bars": [judge(bar, results[bar.row]) for bar in BARS if bar.row in results],
        "left_out": left_out.as_list(),
    }


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    rows = [row for group in GROUPS for row in group.rows]
    keys = [row.key for row in rows]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"rows: {', '.join(keys)}")
    parser.add_argument("--quick", action="store_true", help="few and short repeats, about a minute")
    parser.add_argument("--full", action="store_true", help="batches of 32, 1024 and 4096 too")
    parser.add_argument("--only", action="append", choices=keys, metavar="ROW", help="may be repeated")
    parser.add_argument("--repeats", type=int, help="repeats a row (15, quick: 5)")
    parser.add_argument("--out", type=Path, help="default: results.json beside this file, for whole runs alone")
    options = parser.parse_args(given)
    kind = Run.FULL if options.full else Run.ALWAYS if options.quick else Run.DEFAULT
    options.rows = options.only or [row.key for row in rows if row.run <= kind]
    if options.out is None and not (options.quick or options.only):
        options.out = report.RESULTS
    return options


def main() -> None:
    options = arguments()
    machine.use_one_thread()
    settings = Settings(repeats=15, seconds=0.05)
    if options.quick:
        settings = Settings(repeats=5, seconds=0.02)
    if options.repeats:
        settings = replace(settings, repeats=options.repeats)
    measured = run(options.rows, settings)
    if options.out:
        options.out.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        machine.say(f"written: {options.out}")
    print(report.markdown(measured), end="")


if __name__ == "__main__":
    main()
