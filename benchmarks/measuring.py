"""What all parts of the suite share: full buffers, a row timed for everybody in turn, and who was left out and why."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import machine
from bars import OURS, best_peer
from contender import Contender, LeftOutError, NoSuchWorkError, Role, Setup
from timing import Trial, interleave
from transitions import Step, Transitions, priorities_like_td_errors
from work import Row

#: Steps that every buffer takes beyond its capacity before the clock runs.
WRAPPED = 64
#: A row is within this many times its floor, or the page says that it is not.
NEAR = 1.5


@dataclass(frozen=True)
class Settings:
    """How many repeats a row has, and how many seconds each of them takes for each contender."""

    repeats: int
    seconds: float

    @classmethod
    def of(cls, quick: bool) -> Settings:
        return cls(5, 0.02) if quick else cls(11, 0.05)


@dataclass(frozen=True)
class Part:
    """One part of the suite. `run` measures (True: quick); `section` says in Markdown what was measured."""

    key: str
    title: str
    run: Callable[[bool], dict[str, Any]]
    section: Callable[[Mapping[str, Any]], str]


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


def measure_rows(
    rows: Sequence[Row], there: Sequence[Entrant], settings: Settings, left_out: LeftOut
) -> list[dict[str, Any]]:
    """One row after the other, each of them for everybody in turn."""
    gc.collect()
    gc.freeze()
    measured = [measure_row(row, there, settings, left_out) for row in rows]
    gc.unfreeze()
    return measured


def measure_row(row: Row, there: Sequence[Entrant], settings: Settings, left_out: LeftOut) -> dict[str, Any]:
    machine.say(f"timing: {row.key}")
    trials: dict[str, Trial] = {}
    roles: dict[str, Role] = {}
    for entrant in there:
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


def floor_of(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quickest floor of a row."""
    floors = [result for result in row["results"] if result["role"] == Role.FLOOR.value]
    return min(floors, key=lambda result: result["median"], default=None)


def times_floor(row: Mapping[str, Any]) -> float | None:
    """How many times as long as its floor our median takes; None where one of the two is missing."""
    floor = floor_of(row)
    ours = next((result for result in row["results"] if result["role"] == Role.OURS.value), None)
    return ours["median"] / floor["median"] if ours and floor else None
