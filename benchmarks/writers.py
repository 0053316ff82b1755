"""Writer processes and one learner: transitions a second in, and batches a second out at the same time.

One and two processes add 64 transitions at a time, as fast as they can, while the learner samples (and, prioritized,
updates) batches of 256.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_bool, c_int64
from dataclasses import asdict
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

import contest
import machine
from adapters.writers import MOST, SHARED_CONTENDERS, SharedContender
from bars import Bar, best_peer
from contender import ALPHA, BETA, Role, Setup
from measuring import LeftOut, Part, Settings
from report import ABSENT, table, within
from transitions import Transitions, priorities_like_td_errors, trajectories

COUNT, QUICK = 1_000_000, 20_000  # transitions in every buffer
AT_A_TIME, BATCH = 64, 256
WRITERS = (1, 2)
PRIORITIZED = {False: "uniform", True: "prioritized"}
#: What each writer adds, over and over.
CHUNKS = 256
#: Seconds before the clock starts, with everybody at work.
WARM = 0.3
#: Seconds for a writer to start or to stop.
PATIENCE = 60.0

BARS = tuple(
    Bar(f"{direction}-{kind}-{count}", limit, "cpprb")
    for kind, out in (("uniform", 5), ("prioritized", 20))
    for count in WRITERS
    for direction, limit in (("in", 1), ("out", out))
)


class Rates(NamedTuple):
    """Per second: transitions into the buffer, and batches out of it."""

    transitions: float
    batches: float


class Crew:
    """Writer processes at work until they are told to stop."""

    def __init__(self, contender: SharedContender, chunks: Sequence[Sequence[Any]]) -> None:
        context = multiprocessing.get_context("fork")
        self._stop = context.RawValue(c_bool, False)
        self._counts = context.RawArray(c_int64, len(chunks))
        self._processes = [
            context.Process(target=self._work, args=(contender, mine, number), daemon=True)
            for number, mine in enumerate(chunks)
        ]
        for process in self._processes:
            process.start()

    def _work(self, contender: SharedContender, chunks: Sequence[Any], number: int) -> None:
        with contender.writing() as write:
            for chunk in cycle(chunks):
                if self._stop.value:
                    break
                write(chunk)
                self._counts[number] += AT_A_TIME
        os._exit(0)  # nothing of the parent's is this process's to clean up

    @property
    def written(self) -> int:
        """Transitions, by all of them."""
        return sum(self._counts)

    @property
    def at_work(self) -> bool:
        """Whether each has written. Raises where one has ended."""
        ended = [process.exitcode for process in self._processes if process.exitcode is not None]
        if ended:
            raise RuntimeError(f"a writer ended with {ended[0]}")
        return all(self._counts)

    def stop(self, meanwhile: Callable[[], object]) -> None:
        """Tells them, and does `meanwhile` until they have: one of them may wait for room."""
        self._stop.value = True
        end = time.monotonic() + PATIENCE
        while any(process.is_alive() for process in self._processes) and time.monotonic() < end:
            meanwhile()
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def crew(contender: SharedContender, chunks: Sequence[Sequence[Any]]) -> Iterator[Crew]:
    workers = Crew(contender, chunks)
    try:
        yield workers
    finally:
        workers.stop(contender.take_in)
        contender.settle()


def measure(contender: SharedContender, chunks: Sequence[Sequence[Any]], seconds: float) -> Rates:
    """What goes in and comes out while as many writers as there are lists of chunks are at work."""
    rng = np.random.default_rng(0)
    priorities = cycle([contender.priority_form(row) for row in priorities_like_td_errors((64, BATCH), rng)])
    take_in, sample, unpack = contender.take_in, contender.sample, contender.unpack

    def step() -> int:
        taken = take_in()
        batch = sample(BATCH)
        unpack(batch)
        if contender.setup.prioritized:
            contender.update(contender.indices(batch), next(priorities))
        return taken

    def run(done: Callable[[], bool]) -> tuple[int, int, float]:
        begin, taken, batches = time.perf_counter(), 0, 0
        while not done():
            taken += step()
            batches += 1
        return taken, batches, time.perf_counter() - begin

    with crew(contender, chunks) as workers:
        limit = time.perf_counter() + PATIENCE
        run(lambda: workers.at_work or time.perf_counter() > limit)
        warm = time.perf_counter() + WARM
        run(lambda: time.perf_counter() > warm)
        written = workers.written
        end = time.perf_counter() + seconds
        taken, batches, took = run(lambda: time.perf_counter() > end)
        written = workers.written - written
    return Rates((taken or written) / took, batches / took)


def ready(kind: type[SharedContender], setup: Setup, data: Transitions) -> SharedContender:
    kind.check(setup)
    contender = kind(setup)
    contender.fill(data)
    contender.unpack(contender.sample(BATCH))
    return contender


def rows_of(kind: str, count: int, found: dict[str, tuple[Role, list[Rates]]]) -> list[dict[str, Any]]:
    """A row for what goes in and one for what comes out: microseconds for one of them, as bars compare times."""
    plural = "writers" if count > 1 else "writer"
    rows = []
    for key, title, which in (("in", "transitions", "transitions"), ("out", "batches", "batches")):
        results = []
        for name, (role, rates) in found.items():
            times = [1e6 / max(getattr(rate, which), 1e-9) for rate in rates]
            lower, median, upper = (float(value) for value in np.quantile(times, (0.25, 0.5, 0.75)))
            result = {"name": name, "role": role.value, "median": median}
            results.append({**result, "lower_quartile": lower, "upper_quartile": upper, "a_second": 1e6 / median})
        best = best_peer(results)
        rows.append(
            {
                "key": f"{key}-{kind}-{count}",
                "title": f"{kind}, {count} {plural}: {title}/s",
                "results": results,
                "best_peer": best["name"] if best else None,
            }
        )
    return rows


def run(count: int, settings: Settings) -> dict[str, Any]:
    data = trajectories(count, np.random.default_rng(0))
    fresh = trajectories(max(WRITERS) * CHUNKS * AT_A_TIME, np.random.default_rng(1))
    left_out = LeftOut()
    measured: list[dict[str, Any]] = []
    for prioritized, kind in PRIORITIZED.items():
        keys = [f"{way}-{kind}-{count}" for way in ("in", "out") for count in WRITERS]
        there: list[tuple[SharedContender, list[list[Any]]]] = []
        for contestant in SHARED_CONTENDERS:
            machine.say(f"filling: {contestant.name}, {kind}")
            try:
                contender = ready(contestant, Setup(count, prioritized, max(WRITERS)), data)
            except Exception as error:  # whatever a peer fails with, the others go on and the report names it
                left_out.note(contestant.name, error, keys)
                continue
            parts = [fresh.part(start, start + AT_A_TIME) for start in range(0, len(fresh), AT_A_TIME)]
            chunks = [contender.chunk_form(part) for part in parts]
            there.append((contender, [chunks[:CHUNKS], chunks[CHUNKS:]]))
        for writers in WRITERS:
            found: dict[str, tuple[Role, list[Rates]]] = {}
            for _ in range(settings.repeats):
                for contender, chunks in list(there):
                    try:
                        rates = measure(contender, chunks[:writers], settings.seconds)
                    except Exception as error:
                        left_out.note(contender.name, error, keys)
                        there = [entry for entry in there if entry[0] is not contender]
                        contender.close()
                    else:
                        machine.say(
                            f"{contender.name}, {kind}, {writers}: {rates.transitions:,.0f} {rates.batches:,.0f}"
                        )
                        found.setdefault(contender.name, (contender.role, []))[1].append(rates)
            measured.extend(rows_of(kind, writers, found))
        for contender, _ in there:
            contender.close()
        del there
    return contest.document(
        SHARED_CONTENDERS,
        {
            "transitions": count,
            **asdict(settings),
            "cores": os.cpu_count(),
            "at_a_time": AT_A_TIME,
            "batch": BATCH,
            "most": MOST,
            "alpha": ALPHA,
            "beta": BETA,
        },
        rows=measured,
        bars=contest.judged(BARS, measured),
        left_out=left_out.as_list(),
    )


def section(run: contest.Document) -> str:
    names = list(dict.fromkeys(result["name"] for row in run["rows"] for result in row["results"]))
    lines = []
    for row in run["rows"]:
        rates = {result["name"]: f"{result['a_second']:,.0f} {within(result)}" for result in row["results"]}
        cells = [f"**{rates[name]}**" if name == row["best_peer"] else rates.get(name, ABSENT) for name in names]
        lines.append((row["title"], *cells))
    return f"{table(('', *names), lines)}\n\n{_notes(run['settings'])}"


def _notes(settings: contest.Document) -> str:
    return f"""{settings["transitions"]:,} transitions of CartPole's size in every buffer; each writer adds
{settings["at_a_time"]} at a time, as fast as it can, from arrays made beforehand; the learner samples batches
of {settings["batch"]} until the arrays of a loss are in hand and, prioritized, updates them. Both counts are of
the same {settings["seconds"]:g} s; medians of {settings["repeats"]} repeats, the libraries in turn;
{settings["cores"]} cores for all processes together.

replaybank's learner drains at most {settings["most"]:,} transitions before each batch: that shares its time between
the two, and writers that are faster wait. What counts as taken in is in the buffer, and may be sampled. The others'
writers write into the buffer themselves. The best peer is in bold."""


def measured(quick: bool) -> dict[str, Any]:
    return run(QUICK if quick else COUNT, Settings(2, 0.3) if quick else Settings(5, 1.5))


PART = Part("writers", "Writer processes", measured, section)
