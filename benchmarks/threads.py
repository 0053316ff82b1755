"""Threads: one adds transitions one at a time, one samples batches of 256, both as fast as they can.

Libraries that are not made for threads are behind a lock.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import contest
import machine
from adapters.cpprb import Cpprb
from adapters.replaybank import Replaybank
from adapters.sb3 import StableBaselines3
from adapters.torchrl import TorchRL
from contender import Contender, Setup
from measuring import LeftOut, Part, Settings, build
from report import table
from transitions import FIELDS, OBS_SIZE, Transitions, in_turn, trajectories

COUNT, QUICK = 100_000, 5_000  # transitions in every buffer
SIZE = 256
STEPS = 4_096  # that are added in turn
AT_A_TIME = 16  # calls between two looks at the clock's flag
PRIORITIZED = {False: "uniform", True: "prioritized"}
#: Ahead of these on both at once, uniform sampling.
AHEAD_OF = ("TorchRL", "NumPy with a lock")


class NumPyColumns(Contender):
    """What many write themselves: an array a field, a position, and a lock around both calls."""

    name = "NumPy with a lock"
    prioritizes = False
    dtypes: ClassVar[Sequence[Any]] = (np.float32, np.int64, np.float32, np.float32, bool, bool)

    def build(self) -> None:
        self._columns = [
            np.zeros((self.setup.capacity, OBS_SIZE) if name in ("obs", "next_obs") else self.setup.capacity, dtype)
            for name, dtype in zip(FIELDS, self.dtypes, strict=True)
        ]
        self._rng = np.random.default_rng(self.setup.seed)
        self._lock = threading.Lock()
        self._next = 0
        self.add, self.sample = self._write, self._take

    def fill(self, data: Transitions) -> None:
        for column, values in zip(self._columns, data.columns().values(), strict=True):
            column[:] = values

    def _write(self, *step: Any) -> None:
        with self._lock:
            for column, value in zip(self._columns, step, strict=True):
                column[self._next] = value
            self._next = (self._next + 1) % self.setup.capacity

    def _take(self, size: int) -> list[NDArray[Any]]:
        with self._lock:
            places = self._rng.integers(0, self.setup.capacity, size)
            return [column[places] for column in self._columns]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return tuple(batch[:5])


class LockedSB3(StableBaselines3):
    name = "SB3 with a lock"

    def build(self) -> None:
        super().build()
        self.add, self.sample = locked(self.add, self.sample)


class LockedCpprb(Cpprb):
    name = "cpprb with a lock"

    def build(self) -> None:
        super().build()
        self.add, self.sample = locked(self.add, self.sample)


def locked(*calls: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The calls, one at a time."""
    lock = threading.Lock()

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def one_at_a_time(*given: Any, **named: Any) -> Any:
            with lock:
                return call(*given, **named)

        return one_at_a_time

    return [guarded(call) for call in calls]


CONTENDERS: tuple[type[Contender], ...] = (Replaybank, TorchRL, NumPyColumns, LockedSB3, LockedCpprb)


def together(contender: Contender, forms: Sequence[tuple[Any, ...]], seconds: float) -> tuple[float, float]:
    """Transitions and batches a second, where one thread adds and one samples for so long."""
    running = threading.Event()
    running.set()
    counts, failures = {"adds": 0, "batches": 0}, []

    def adding() -> None:
        add = contender.add
        while running.is_set():
            for step in in_turn(forms, counts["adds"], AT_A_TIME):
                add(*step)
            counts["adds"] += AT_A_TIME

    def sampling() -> None:
        sample, unpack = contender.sample, contender.unpack
        while running.is_set():
            unpack(sample(SIZE))
            counts["batches"] += 1

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)
            running.clear()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (adding, sampling)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    running.clear()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    for error in failures:
        raise error
    return counts["adds"] / elapsed, counts["batches"] / elapsed


def entrants(setup: Setup, data: Transitions, left_out: LeftOut) -> Iterator[tuple[Contender, list[tuple[Any, ...]]]]:
    beyond = data.part(setup.capacity, len(data)).steps()
    for kind in CONTENDERS:
        machine.say(f"filling: {kind.name}")
        try:
            contender = build(kind, setup, data.part(0, setup.capacity), beyond[:64])
            forms = [contender.add_form(step) for step in beyond]
            together(contender, forms, 0.05)
        except Exception as error:  # whatever a peer fails with, the others go on and the report names it
            left_out.note(kind.name, error, [PRIORITIZED[setup.prioritized]])
        else:
            yield contender, forms


def measure(setup: Setup, data: Transitions, settings: Settings, left_out: LeftOut) -> dict[str, Any]:
    ready = list(entrants(setup, data, left_out))
    gc.collect()
    gc.freeze()
    machine.say(f"timing: {PRIORITIZED[setup.prioritized]}")
    found: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender, _ in ready}
    for _ in range(settings.repeats):
        for contender, forms in ready:
            found[contender.name].append(together(contender, forms, settings.seconds))
    gc.unfreeze()
    results = [
        {"name": name, "adds": spread(adds), "batches": spread(batches)}
        for name, pairs in found.items()
        for adds, batches in [zip(*pairs, strict=True)]
    ]
    return {"key": PRIORITIZED[setup.prioritized], "unit": "a second", "results": results}


def spread(values: Sequence[float]) -> dict[str, float]:
    lower, median, upper = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def bars(row: contest.Document) -> list[dict[str, Any]]:
    """Ours over each of AHEAD_OF, for adds and for batches: both are to be ahead."""
    medians = {result["name"]: (result["adds"]["median"], result["batches"]["median"]) for result in row["results"]}
    judged = []
    for name in AHEAD_OF:
        for place, what in enumerate(("transitions in", "batches out")):
            there = Replaybank.name in medians and name in medians
            ratio = medians[Replaybank.name][place] / medians[name][place] if there else None
            judged.append(
                {
                    "row": f"threads-{row['key']}",
                    "text": f"more {what} than {name}",
                    "limit": 1,
                    "at_most": False,
                    "against": name,
                    "measured": ratio,
                    "met": None if ratio is None else ratio > 1,
                }
            )
    return judged


def run(count: int, settings: Settings) -> dict[str, Any]:
    data = trajectories(count + STEPS, np.random.default_rng(0))
    left_out = LeftOut()
    rows = []
    for prioritized in PRIORITIZED:
        rows.append(measure(Setup(count, prioritized=prioritized), data, settings, left_out))
        gc.collect()
    return contest.document(
        CONTENDERS,
        {**asdict(settings), "transitions": count, "batch": SIZE},
        rows=rows,
        bars=bars(rows[0]),
        left_out=left_out.as_list(),
    )


def section(run: contest.Document) -> str:
    parts = []
    for row in run["rows"]:
        lines = [
            (result["name"], f"{result['adds']['median']:,.0f}", f"{result['batches']['median']:,.0f}")
            for result in row["results"]
        ]
        header = (f"{row['key']}, a second, at once", "transitions in", f"batches of {run['settings']['batch']} out")
        parts.append(table(header, lines))
    settings = run["settings"]
    parts.append(f"""{settings["transitions"]:,} CartPole-size transitions in every buffer. Medians of
{settings["repeats"]} repeats of {settings["seconds"] * 1e3:g} ms, in turn. The two threads share one
interpreter and its lock. A batch counts until the arrays of a loss are in hand.""")
    return "\n\n".join(parts)


def measured(quick: bool) -> dict[str, Any]:
    return run(QUICK if quick else COUNT, Settings(Settings.of(quick).repeats, 0.1 if quick else 0.5))


PART = Part("threads", "Two threads", measured, section)
