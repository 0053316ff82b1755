"""A process at work on a sharded replay: it writes or reads as it is told, counts, and says what that cost it.

Nothing here knows a library, so that all of them run the same loops; Reverb's interpreter imports it, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np
import psutil

AT_A_TIME, BATCH, PREFETCH = 64, 256, 4
ALPHA, BETA, EPSILON = 0.6, 0.4, 1e-6

#: obs, action, reward, next_obs, terminated, truncated, td_error
Step = tuple[Any, ...]
#: JSON can hold it: {"count", "seconds", "cpu", "latencies"}.
Report = dict[str, Any]


class Inlet(Protocol):
    """A library's writer: takes a step at a time and sends messages of AT_A_TIME of them."""

    def add(self, *step: Any) -> object: ...

    def flush(self) -> object:
        """Waits until all that was added is with its shard."""

    def taken(self) -> int:
        """How many of the transitions that were ever added are with their shards, as far as this process knows."""

    def close(self) -> object: ...


class Outlet(Protocol):
    """A library's reader."""

    def sample(self) -> Any:
        """A batch of BATCH."""

    def batches(self) -> Iterator[Any]:
        """The same one after the other, PREFETCH of them asked for in advance; to be closed."""

    def update(self, batch: Any, td_error: Any, wait: bool) -> object:
        """New priorities (|td_error| + EPSILON) ** ALPHA, float32 [BATCH]; returns once all are set where it waits."""

    def unpack(self, batch: Any) -> dict[str, Any]:
        """What a loss takes, [BATCH, ...]: obs, action, reward, next_obs, terminated; where prioritized, weights."""

    def close(self) -> object: ...


class Reading:
    """A learner's process. Modes: "sample" and "update" alone, "both" in turn, "batches" as "both" with a prefetch."""

    def __init__(self, outlet: Outlet, prioritized: bool) -> None:
        self.outlet, self._prioritized = outlet, prioritized
        errors = np.random.default_rng(0).standard_normal((64, BATCH), dtype=np.float32)
        self._errors = cycle(list(errors))
        self._latencies: dict[str, list[float]] = {"sample": [], "update": []}
        self._work: Callable[[], object]
        self._source: Any = None

    def prepare(self, mode: str) -> None:
        """Makes ready for `perform`, which is to come next."""
        sample = self.outlet.sample
        if mode == "batches":
            self._source = source = self.outlet.batches()
            next(source)
            self._work = lambda: self._step(lambda: next(source), wait=False)
        elif mode == "update":
            batches = cycle([sample() for _ in range(2)])
            self._work = lambda: self._update(next(batches), wait=True)
        elif mode == "both":
            self._work = lambda: self._step(sample, wait=True)
        else:
            assert mode == "sample", mode
            self._work = lambda: self._take(sample)

    def perform(self, mode: str, begin: float, end: float) -> Report:
        """Works until `end`, counts from `begin` on (both `time.monotonic()`)."""

        def clear() -> int:
            self._latencies = {"sample": [], "update": []}
            return 0

        clear()
        report = within(self._work, clear, lambda: max(map(len, self._latencies.values())), begin, end)
        if self._source is not None:
            self._source.close()
            self._source = None
        return {**report, "latencies": {name: times for name, times in self._latencies.items() if times}}

    def batch(self) -> dict[str, list[Any]]:
        """One batch's columns as lists, for tests."""
        columns = self.outlet.unpack(self.outlet.sample())
        return {name: np.asarray(values).tolist() for name, values in columns.items()}

    def memory(self) -> int:
        return memory(os.getpid())

    def close(self) -> None:
        self.outlet.close()

    def _take(self, sample: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        batch = sample()
        self.outlet.unpack(batch)
        self._latencies["sample"].append(time.perf_counter() - start)
        return batch

    def _update(self, batch: Any, wait: bool) -> None:
        errors = next(self._errors)
        start = time.perf_counter()
        self.outlet.update(batch, errors, wait)
        self._latencies["update"].append(time.perf_counter() - start)

    def _step(self, sample: Callable[[], Any], wait: bool) -> None:
        batch = self._take(sample)
        if self._prioritized:
            self._update(batch, wait)


class Writing:
    """An actor's process. Modes: "in", as fast as it can, and "flush": waits for every AT_A_TIME transitions."""

    def __init__(self, inlet: Inlet, steps: Sequence[Step]) -> None:
        self.inlet = inlet
        self._steps = cycle(steps)
        self._latencies: list[float] = []

    def prepare(self, mode: str) -> None:
        """Nothing is needed."""

    def perform(self, mode: str, begin: float, end: float) -> Report:
        """Works until `end`, counts from `begin` on what has arrived (both `time.monotonic()`)."""
        inlet = self.inlet

        def clear() -> int:
            self._latencies = []
            return inlet.taken()

        report = within(self._flushed if mode == "flush" else self._chunk, clear, inlet.taken, begin, end)
        inlet.flush()
        return {**report, "latencies": {"flush": self._latencies} if mode == "flush" else {}}

    def fill(self, count: int) -> None:
        """Adds so many, and waits until they are there."""
        add = self.inlet.add
        for step in islice(self._steps, count):
            add(*step)
        self.inlet.flush()

    def memory(self) -> int:
        return memory(os.getpid())

    def close(self) -> None:
        self.inlet.close()

    def _chunk(self) -> None:
        add = self.inlet.add
        for step in islice(self._steps, AT_A_TIME):
            add(*step)

    def _flushed(self) -> None:
        start = time.perf_counter()
        self._chunk()
        self.inlet.flush()
        self._latencies.append(time.perf_counter() - start)


def within(
    step: Callable[[], object], clear: Callable[[], int], count: Callable[[], int], begin: float, end: float
) -> Report:
    """Repeats `step` until `end`, and tells count, seconds and the process's CPU seconds since `begin`.

    `clear` is called at `begin` and gives the count by then.
    """
    while time.monotonic() < begin:
        step()
    before, cpu, start = clear(), time.process_time(), time.monotonic()
    step()  # one at least, however long the last one took
    while time.monotonic() < end:
        step()
    seconds = time.monotonic() - start
    return {"count": count() - before, "seconds": seconds, "cpu": time.process_time() - cpu}


def memory(pid: int) -> int:
    """Bytes that are this process's alone (USS; where the system does not tell, RSS)."""
    found = psutil.Process(pid).memory_full_info()
    return int(getattr(found, "uss", found.rss))


def cpu_seconds(pid: int) -> float:
    """Of all its threads, since it began; in steps of the system's clock, usually 10 ms."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
