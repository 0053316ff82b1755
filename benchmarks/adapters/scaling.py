"""What `ray_scaling.py` asks of a library: shards, writers and a reader, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from contender import Role
from hands import AT_A_TIME, Report, cpu_seconds
from sizes import Size

PATIENCE = 120.0  # seconds for a process to answer


class Scale(NamedTuple):
    """What is built."""

    size: Size
    prioritized: bool
    shards: int
    writers: int


class Done(NamedTuple):
    """What writers and readers did in some seconds, and how many cores the other processes had in use meanwhile."""

    written: list[Report]
    read: list[Report]
    cores: dict[str, float]


class Task(Protocol):
    """Work that another process does meanwhile."""

    def result(self) -> Any: ...


class Process(Protocol):
    """A `Writing` or `Reading` in a process of its own."""

    def start(self, verb: str, *given: Any) -> Task:
        """Calls a method of it."""


class Contestant:
    """Shards, writers and a reader of one library, all up."""

    name: ClassVar[str]
    distribution: ClassVar[str | None] = None
    role: ClassVar[Role] = Role.PEER
    #: What was built, in words.
    how: ClassVar[str]

    writers: Sequence[Process]
    reader: Process

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.build()

    def build(self) -> None:
        """Starts all processes."""
        raise NotImplementedError

    def shards(self) -> Sequence[int]:
        """The process ids of the shards."""
        raise NotImplementedError

    def others(self) -> Mapping[str, Sequence[int]]:
        """Those of what else it needs, by name."""
        return {}

    def versions(self) -> Mapping[str, str]:
        """Of what is not installed here."""
        return {}

    def nbytes(self) -> Mapping[str, float]:
        """Of a message of AT_A_TIME transitions, a batch and an update as they travel, where that can be told."""
        return {}

    def close(self) -> None:
        """Ends all processes."""
        raise NotImplementedError

    def fill(self) -> int:
        """Adds what shards begin with; gives how many transitions that are."""
        share = -(-self.scale.size.filled // (len(self.writers) * AT_A_TIME)) * AT_A_TIME
        for task in [writer.start("fill", share) for writer in self.writers]:
            task.result()
        return share * len(self.writers)

    def work(self, writing: str | None, reading: str | None, warm: float, seconds: float) -> Done:
        """All in the same seconds, after as many of warming up."""
        writers = {"in": self.writers, "flush": self.writers[:1], None: ()}[writing]
        readers = [self.reader] if reading else []
        given = [(process, writing) for process in writers] + [(process, reading) for process in readers]
        for task in [process.start("prepare", mode) for process, mode in given]:
            task.result()
        groups = {"shards": self.shards(), **self.others()}
        begin = time.monotonic() + warm
        end = begin + seconds
        tasks = [process.start("perform", mode, begin, end) for process, mode in given]
        time.sleep(max(0.0, begin - time.monotonic()))
        before, started = _cpu(groups), time.monotonic()
        time.sleep(max(0.0, end - time.monotonic()))
        after, took = _cpu(groups), time.monotonic() - started
        reports: list[Report] = [task.result() for task in tasks]
        cores = {name: (after[name] - before[name]) / took for name in groups}
        return Done(reports[: len(writers)], reports[len(writers) :], cores)


def _cpu(groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: sum(cpu_seconds(pid) for pid in pids) for name, pids in groups.items()}
