"""Threads on one buffer: one adds transitions, one samples batches of 256, at once; and 1, 2 or 4 at one of the two.

Each goes as fast as it can, a transition at a time. Libraries that are not made for threads are behind a lock.
On a free-threaded Python: `PYTHON_GIL=0 python -m benchmarks --full --only threads --out FILE`.
Without PYTHON_GIL=0, the first extension that is not made for it takes the global lock back for all.
"""

from __future__ import annotations

import gc
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
from report import table, within
from transitions import FIELDS, OBS_SIZE, Transitions, in_turn, trajectories

COUNT, QUICK = 100_000, 5_000  # transitions in every buffer
SIZE = 256
STEPS = 4_096  # that are added in turn
AT_A_TIME = 16  # calls between two looks at the clock's flag
TEAMS = (1, 2, 4)
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


@dataclass(frozen=True)
class Crew:
    """Threads on one buffer."""

    adders: int = 0
    samplers: int = 0


ONE_EACH = Crew(1, 1)
TEAMS_OF = {
    "transitions in": {size: Crew(adders=size) for size in TEAMS},
    f"batches of {SIZE} out": {size: Crew(samplers=size) for size in TEAMS},
}
CREWS = (ONE_EACH, *(crew for teams in TEAMS_OF.values() for crew in teams.values()))


def together(
    contender: Contender, forms: Sequence[tuple[Any, ...]], seconds: float, crew: Crew = ONE_EACH
) -> tuple[float, float]:
    """Transitions and batches a second, of all threads of a crew that works for so long."""
    running = threading.Event()
    running.set()
    adds, batches, failures = [0] * crew.adders, [0] * crew.samplers, []

    def adding(number: int) -> None:
        add, begin = contender.add, number * len(forms) // crew.adders
        while running.is_set():
            for step in in_turn(forms, begin + adds[number], AT_A_TIME):
                add(*step)
            adds[number] += AT_A_TIME

    def sampling(number: int) -> None:
        sample, unpack = contender.sample, contender.unpack
        while running.is_set():
            unpack(sample(SIZE))
            batches[number] += 1

    def guarded(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except Exception as error:
            failures.append(error)
            running.clear()

    parts = [(adding, number) for number in range(crew.adders)]
    parts += [(sampling, number) for number in range(crew.samplers)]
    threads = [threading.Thread(target=guarded, args=part) for part in parts]
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
    return sum(adds) / elapsed, sum(batches) / elapsed


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


def measure(
    setup: Setup, data: Transitions, settings: Settings, left_out: LeftOut
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of one of each, and the rows of teams."""
    ready = list(entrants(setup, data, left_out))
    key = PRIORITIZED[setup.prioritized]
    gc.collect()
    gc.freeze()
    machine.say(f"timing: {key}")
    found: dict[tuple[str, Crew], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(settings.repeats):
        for crew in CREWS:
            for contender, forms in ready:
                found[contender.name, crew].append(together(contender, forms, settings.seconds, crew))
    gc.unfreeze()
    spreads = {
        at: {"adds": spread(adds), "batches": spread(batches)}
        for at, pairs in found.items()
        for adds, batches in [zip(*pairs, strict=True)]
    }
    names = [contender.name for contender, _ in ready]
    row = {
        "key": key,
        "unit": "a second",
        "results": [{"name": name, **spreads[name, ONE_EACH]} for name in names],
    }
    teams = [
        {
            "key": key,
            "work": work,
            "unit": "a second, all threads together",
            "results": [
                {
                    "name": name,
                    "threads": {
                        str(size): spreads[name, crew]["adds" if crew.adders else "batches"]
                        for size, crew in crews.items()
                    },
                }
                for name in names
            ],
        }
        for work, crews in TEAMS_OF.items()
    ]
    return row, teams


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
    rows, teams = [], []
    for prioritized in PRIORITIZED:
        row, more = measure(Setup(count, prioritized=prioritized), data, settings, left_out)
        rows.append(row)
        teams += more
        gc.collect()
    return contest.document(
        CONTENDERS,
        {**asdict(settings), "transitions": count, "batch": SIZE},
        interpreter=interpreter(),
        rows=rows,
        teams=teams,
        bars=bars(rows[0]),
        left_out=left_out.as_list(),
    )


def interpreter() -> str:
    """What its threads share, now that every extension is loaded."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "with a global lock"
    return "free-threaded, with a global lock again" if sys._is_gil_enabled() else "free-threaded"


def section(run: contest.Document) -> str:
    parts = []
    for row in run["rows"]:
        lines = [(result["name"], _rate(result["adds"]), _rate(result["batches"])) for result in row["results"]]
        header = (f"{row['key']}, a second, at once", "transitions in", f"batches of {run['settings']['batch']} out")
        parts.append(table(header, lines))
    for team in run["teams"]:
        lines = [(result["name"], *map(_rate, result["threads"].values())) for result in team["results"]]
        header = (f"{team['key']}, a second: {team['work']}", *(f"{size} thread{'s' * (size > 1)}" for size in TEAMS))
        parts.append(table(header, lines))
    settings = run["settings"]
    parts.append(f"""{settings["transitions"]:,} CartPole-size transitions in every buffer. Medians of
{settings["repeats"]} repeats of {settings["seconds"] * 1e3:g} ms, in turn. All threads share one buffer and one
interpreter ({run["interpreter"]}); where several do the same, the rate is that of all together. A batch counts until
the arrays of a loss are in hand.""")
    return "\n\n".join(parts)


def _rate(found: contest.Document) -> str:
    return f"{found['median']:,.0f} {within(found)}"


def measured(quick: bool) -> dict[str, Any]:
    return run(QUICK if quick else COUNT, Settings(5, 0.1) if quick else Settings(9, 0.25))


PART = Part("threads", "Threads", measured, section)
