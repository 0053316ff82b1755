"""Checkpoints: seconds, bytes and memory to save and load, beside the peers' and beside writing the same bytes.

A million CartPole-size transitions with priorities, and 30,000 of Breakout. Every contender has a process of its own,
and checks that what it loads is what was saved.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

import contest
import machine
from adapters.durability import WAYS, Way
from bars import OURS, Bar, best_peer
from contender import LeftOutError, Role
from measuring import LeftOut, Part
from report import ABSENT, table, within

WORKER = Path(__file__).with_name("durability_worker.py")
SIZES = {"transitions": 1_000_000, "frames": 30_000}
QUICK = {"transitions": 5_000, "frames": 300}
TITLES = {"transitions": "transitions of CartPole's size", "frames": "of Breakout, 84×84, stacks of 4"}
MIB = 1 << 20
MOST_MEMORY = 64 * MIB
FLOOR = "write, one fsync"
FIRST = "the first save"

BARS = (
    *(Bar(f"{work}-save", 2, FLOOR, at_most=True) for work in SIZES),
    *(Bar(f"{work}-load", 1, note="of those that restore priorities") for work in SIZES),
    *(Bar(f"{work}-again", 0.1, FIRST, at_most=True, note="1% more transitions") for work in SIZES),
    *(
        Bar(f"{work}-again-updated", 0.1, FIRST, at_most=True, note="and an update of 256 for 4 of them")
        for work in SIZES
    ),
)


class Process:
    """A worker: gives an answer for each order."""

    def __init__(self, way: Way, work: str, count: int, folder: Path) -> None:
        self.way = way
        command = [sys.executable, str(WORKER), way.kind.name, work, str(count), str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def answer(self) -> dict[str, Any]:
        """The next one; raises LeftOutError with what went wrong there."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process died"}
        if "error" in found:
            raise LeftOutError(found["error"])
        return found

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([order, arguments]) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise LeftOutError("its process died") from None
        return self.answer()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # what a process that died has not read
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Measuring:
    """What a work's contenders do, turn after turn."""

    def __init__(self, work: str, count: int, repeats: int, folder: Path, left_out: LeftOut) -> None:
        self.work = work
        self.count = count
        self.repeats = repeats
        self.folder = folder
        self.left_out = left_out
        self.turns: dict[str, list[dict[str, Any]]] = {}
        self.again: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        self.background: list[dict[str, Any]] = []

    def together(self) -> None:
        """All contenders in turn, so that a busy machine hits all alike."""
        with ExitStack() as stack:
            ready = [process for way in WAYS[self.work] if (process := self.started(way, stack))]
            for turn in range(self.repeats):
                for process in list(ready):
                    machine.say(f"{self.work}, {turn + 1} of {self.repeats}: {process.way.kind.name}")
                    if not self.turn(process):
                        ready.remove(process)
            self.ours_alone(ready)

    def one_by_one(self) -> None:
        """Ours with the floors, in turn; then each peer, since all of their frames do not fit into memory at once."""
        with ExitStack() as stack:
            ready = [p for way in WAYS[self.work] if way.kind.role is not Role.PEER and (p := self.started(way, stack))]
            for turn in range(self.repeats):
                machine.say(f"{self.work}, {turn + 1} of {self.repeats}: {OURS} and the floors")
                for process in list(ready):
                    if not self.turn(process):
                        ready.remove(process)
            self.ours_alone(ready)
        for way in WAYS[self.work]:
            if way.kind.role is Role.PEER:
                machine.say(f"{self.work}: {way.kind.name}")
                with ExitStack() as stack:
                    process = self.started(way, stack)
                    for _ in range(self.repeats if process else 0):
                        if process and not self.turn(process):
                            break

    def started(self, way: Way, stack: ExitStack) -> Process | None:
        """A process whose buffer is full; a floor knows what to write. None where that fails: the report says why."""
        process = stack.enter_context(Process(way, self.work, self.count, self.folder / str(len(self.turns))))
        kept = self.folder / "kept"
        self.turns[way.kind.name] = []
        try:
            process.answer()
            if way.kind.role is Role.OURS:
                process.ask("keep")
            elif way.kind.role is Role.FLOOR:
                process.ask("read", checkpoint=str(kept))
        except LeftOutError as error:
            self.note(way, error)
            return None
        return process

    def turn(self, process: Process) -> bool:
        try:
            self.turns[process.way.kind.name].append(process.ask("turn"))
        except LeftOutError as error:
            self.note(process.way, error)
            return False
        return True

    def ours_alone(self, ready: Sequence[Process]) -> None:
        ours = next((process for process in ready if process.way.kind.role is Role.OURS), None)
        for _ in range(self.repeats if ours else 0):
            machine.say(f"{self.work}: {OURS}, again and in the background")
            try:
                assert ours is not None
                for updates, found in self.again.items():
                    found.append(ours.ask("again", updates=updates))
                self.background.append(ours.ask("background"))
            except LeftOutError as error:
                self.left_out.note(OURS, error, [f"{self.work}-again"])
                return

    def note(self, way: Way, error: LeftOutError) -> None:
        self.left_out.note(way.kind.name, error, [f"{self.work}-save", f"{self.work}-load"])

    def rows(self) -> list[dict[str, Any]]:
        ways = {way.kind.name: way for way in WAYS[self.work]}
        there = {name: turns for name, turns in self.turns.items() if turns}
        rows = []
        for verb in ("save", "load"):
            results = []
            for name, turns in there.items():
                way = ways[name]
                less = way.part > 1 or (verb == "load" and not way.priorities)
                role = Role.REFERENCE if less and way.kind.role is Role.PEER else way.kind.role
                memory = max(turn[f"{verb}_memory"] for turn in turns)
                more = {"bytes": turns[-1]["bytes"], "memory": memory, "note": way.note}
                results.append(_result(name, role, [turn[verb] for turn in turns]) | more)
            rows.append(_row(f"{self.work}-{verb}", f"{verb} {TITLES[self.work]}", results))
        for updates, found in self.again.items():
            if found:
                key, title = ("again-updated", "again, priorities too") if updates else ("again", "again")
                results = [
                    _result(OURS, Role.OURS, [one["second"] for one in found]),
                    _result(FIRST, Role.REFERENCE, [one["first"] for one in found]),
                ]
                rows.append(_row(f"{self.work}-{key}", f"save {title}", results))
        if self.background:
            names = {
                "add": "add",
                "sample": "sample",
                "add_without": "add, no save",
                "sample_without": "sample, no save",
            }
            results = [
                _result("the save itself", Role.DETAIL, [one["seconds"] for one in self.background]),
                *(_result(title, Role.DETAIL, [one[name] for one in self.background]) for name, title in names.items()),
            ]
            rows.append(_row(f"{self.work}-background", "longest call during a save in the background", results))
        return rows


def _result(name: str, role: Role, seconds: Sequence[float]) -> dict[str, Any]:
    lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    quartiles = {"lower_quartile": lower, "upper_quartile": upper, "repeats": len(seconds)}
    return {"name": name, "role": role.value, "median": median, **quartiles}


def _row(key: str, title: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    best = best_peer(results)
    return {
        "key": key,
        "title": title,
        "unit": "seconds",
        "results": results,
        "best_peer": best["name"] if best else None,
    }


def memory_bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most 64 MiB beyond what the buffer holds, while it saves and while it loads."""
    bars = []
    for row in rows:
        ours = next((result for result in row["results"] if result["name"] == OURS and "memory" in result), None)
        if ours:
            measured = ours["memory"] / MOST_MEMORY
            words = {"text": "at most 64 MiB of extra memory", "against": "64 MiB", "limit": 1.0, "at_most": True}
            bars.append({"row": row["key"], **words, "measured": measured, "met": measured <= 1})
    return bars


def run(sizes: dict[str, int], repeats: int, folder: Path) -> dict[str, Any]:
    left_out = LeftOut()
    rows: list[dict[str, Any]] = []
    for work, count in sizes.items():
        turns = repeats if work == "transitions" else max(repeats // 2, 1)
        measuring = Measuring(work, count, turns, folder / work, left_out)
        measuring.folder.mkdir()
        (measuring.together if work == "transitions" else measuring.one_by_one)()
        shutil.rmtree(measuring.folder)
        rows.extend(measuring.rows())
    return contest.document(
        [way.kind for work in sizes for way in WAYS[work]],
        {"sizes": sizes, "repeats": repeats},
        rows=rows,
        bars=[*contest.judged(BARS, rows), *memory_bars(rows)],
        left_out=left_out.as_list(),
    )


def section(run: contest.Document) -> str:
    rows = {row["key"]: row for row in run["rows"]}
    parts = []
    for work, count in run["settings"]["sizes"].items():
        parts.append(f"### {count:,} {TITLES[work]}\n\n{_work(rows[f'{work}-save'], rows[f'{work}-load'])}")
        for key in ("again", "again-updated", "background"):
            row = rows.get(f"{work}-{key}")
            if row:
                lines = [
                    (result["name"], f"{_seconds(result['median'])} {within(result)}") for result in row["results"]
                ]
                parts.append(table((row["title"], "seconds"), lines))
    return "\n\n".join([*parts, _notes(run["settings"])])


def _work(save: contest.Document, load: contest.Document) -> str:
    loads = {result["name"]: result for result in load["results"]}
    lines = []
    for result in sorted(save["results"], key=lambda result: float(result["median"])):
        loaded = loads[result["name"]]
        cells = (
            f"{_seconds(result['median'])} {within(result)}",
            f"{_seconds(loaded['median'])} {within(loaded)}",
            *(f"{value / MIB:,.0f}" for value in (result["bytes"], result["memory"], loaded["memory"])),
            result["note"] or ABSENT,
        )
        lines.append((result["name"], *cells))
    return table(("", "save, s", "load, s", "MiB on disk", "extra MiB, save", "extra MiB, load", ""), lines)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds >= 1e-3 else f"{seconds:.2g}"


def _notes(settings: contest.Document) -> str:
    return f"""Medians of {settings["repeats"]} turns, half as many for frames. Each saves to a fresh path, loads
that, compares, and deletes. The transitions' contenders take turns; of the frames' only replaybank and the
floors do, since all buffers of frames do not fit into memory at once. Loads read files that the system still
has in memory. replaybank and the floors wait for the disk (fsync); no peer does. Extra memory: the most
resident bytes while it saves beyond those before, and while it loads beyond those after; the largest of all
turns. The floors write the bytes of replaybank's checkpoint, in pieces of 4 MiB.

`again`: a save to a fresh path, then 1% more transitions, then a save to the same path. In the background: a loop
of `add` and `sample(256)` for as long as the save takes, and for as long without it; the longest call of each loop."""


def measured(quick: bool) -> dict[str, Any]:
    """Where TMPDIR says: what is measured is its disk, too."""
    with tempfile.TemporaryDirectory() as folder:
        return run(QUICK if quick else SIZES, 2 if quick else 5, Path(folder))


PART = Part("checkpoints", "Save and load", measured, section)
