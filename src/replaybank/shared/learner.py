"""The one process that owns the buffer, and takes in what the writers publish."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

from replaybank.arguments import whole_number
from replaybank.buffer import ReplayBuffer
from replaybank.rows import MAX_CAPACITY, Rows
from replaybank.shared import home, locks
from replaybank.shared.ring import DROPPED, PAGE, TRANSITIONS, Damaged, Ring, message_nbytes

log = logging.getLogger("replaybank.shared")

Full = Literal["block", "drop_oldest"]
State = Literal["open", "closed", "died", "damaged", "abandoned"]
LEAST_RING = 2**22  # bytes, where nothing else is asked for
TRANSITIONS_A_RING = 256  # room for so many at least
LARGEST_RING = 2**40
LOOK_EVERY = 0.01  # seconds between two looks at who has died (a few microseconds a writer)
USUAL, USUAL_BYTES = 2**16, 2**24  # what `drain` takes at most, where it is not told
REMEMBERED = 100  # writers that have left


class WriterReport(NamedTuple):
    """What the learner knows of a writer: its `number`, its process (`pid`) and its `streams` of the buffer.

    `state`: open; closed (it said so); died (its process ended without); damaged (its ring made no sense: what was left
    in it is lost); abandoned (the learner closed first). `transitions`: taken into the buffer. `dropped`: overwritten
    before they were (full="drop_oldest" only). `waiting`: published, neither taken nor dropped yet; what is still
    waiting in a ring that is damaged is lost.
    """

    number: int
    pid: int
    streams: tuple[int, ...]
    state: State
    transitions: int
    dropped: int
    waiting: int


class Drained(NamedTuple):
    """What one `drain` brought: transitions taken, dropped by writers meanwhile, and the writers that have left."""

    transitions: int
    dropped: int
    left: tuple[WriterReport, ...]


NOTHING = Drained(0, 0, ())


class Learner:
    """Takes what writer processes add into `buffer`: each has its own ring in shared memory, and `drain` empties them.

    Nobody waits for a lock: not `sample`, whatever the writers do, and not the writers, but for room in their own ring.
    What a writer has added is there once its call has returned, whole, and in the order of its calls; a process that is
    killed in the middle of a call has added nothing with it. Hand `address`, a string, to the processes that write.

    The buffer must have been given a schema. Its `streams` are how many the writers can have at a time, all together: a
    writer takes those that are free, and gives them back when it leaves or dies; then its segments are closed. While
    writers are there, add to the buffer through them alone.

    `name`: of the learner, on this machine, for this user (None: one that nobody has). Of one name there is one living
    learner; what a dead one has left is removed. `ring_bytes`: of each writer's ring (None: 4 MiB, or what 256
    transitions need); one call can publish half of it. `full`: what a writer does where its ring is full: "block" waits
    for the learner, "drop_oldest" overwrites what it published first; that is counted, and segments are closed there.

    Raises ValueError where the buffer has no schema, or has max_bytes, or an argument is out of range, RuntimeError
    where the name's learner is alive.
    """

    def __init__(
        self, buffer: ReplayBuffer, name: str | None = None, ring_bytes: int | None = None, full: Full = "block"
    ) -> None:
        rows = buffer._rows
        if rows is None:
            raise ValueError("buffer: it has no schema yet, and writers need one: ReplayBuffer(schema=…)")
        if buffer.max_bytes is not None:
            raise ValueError("buffer: it has max_bytes, and what writers bring is not weighed; give it a capacity")
        if full not in ("block", "drop_oldest"):
            raise ValueError(f"full: expected 'block' or 'drop_oldest', given {full!r}")
        items = [leaf.nbytes for leaf in rows.schema.leaves]
        least = 2 * message_nbytes(items, 1, owners=True)
        if ring_bytes is None:
            ring_bytes = max(LEAST_RING, TRANSITIONS_A_RING * least)
        ring_bytes = whole_number("ring_bytes", ring_bytes, LARGEST_RING)
        if ring_bytes < least:
            raise ValueError(f"ring_bytes: a transition needs {least} or more, given {ring_bytes}")
        self._buffer = buffer
        self._full = full
        self._ring_bytes = -(-ring_bytes // PAGE) * PAGE
        self._largest = self._ring_bytes // 2 // sum(items)  # transitions that a message can hold
        self._usual = max(1, min(USUAL, USUAL_BYTES // sum(items)))
        self._rings: dict[int, Ring] = {}
        self._dead: set[int] = set()
        self._left: deque[WriterReport] = deque(maxlen=REMEMBERED)
        self._counts: Counter[str] = Counter()
        self._turn = self._joined = 0
        self._next_look = 0.0
        self._lock = Lock()
        home.sweep()
        self._directory = home.place(name)
        fd = home.claim(self._directory)
        about = {
            "schema": rows.schema.plain(),
            "stack": None if rows.stack is None else rows.stack.plain(),
            "streams": buffer.streams,
            "ring_bytes": self._ring_bytes,
            "full": full,
            "pid": os.getpid(),
        }
        try:
            home.describe(self._directory, about)
            self._counter = home.counter(self._directory)
        except BaseException:
            home.remove(self._directory)
            locks.release(fd)
            raise
        self._leave = weakref.finalize(self, _leave, self._directory, fd, self._rings, os.getpid())
        _learners.add(self)

    @property
    def address(self) -> str:
        """Where writers find this learner: `Writer(address)`, in any process of this user on this machine."""
        return str(self._directory)

    def drain(self, most: int | None = None) -> Drained:
        """Moves what the writers have published into the buffer, and waits for nothing.

        `most`: up to so many transitions (but one message at least), so that a call takes a bounded time however fast
        the writers are: equal shares for all of them, and what is left of those for who has more. None: as many as take
        a few milliseconds, 65,536 or 16 MiB of them.

        What a dead writer has published is taken, then its streams are closed and given back. Raises ValueError where
        the learner is closed.
        """
        most = self._usual if most is None else whole_number("drain: most", most, MAX_CAPACITY)
        with self._lock:
            self._require_open()
            if self._counter.item() != self._joined or time.monotonic() >= self._next_look:
                self._look()
            elif not self._dead and all(ring.quiet for ring in self._rings.values()):
                return NOTHING
            return self._drain(most)

    def writers(self) -> list[WriterReport]:
        """The writers that are here, by number, and before them the last hundred that have left."""
        with self._lock:
            if self._leave.alive:
                self._look()
            return [*self._left, *(_report(number, ring, "open") for number, ring in sorted(self._rings.items()))]

    def stats(self) -> dict[str, int]:
        """Counts: writers here now and transitions waiting in their rings; ever: joined, closed, died, damaged,
        abandoned (writers), transitions (taken) and dropped.
        """
        there = [report for report in self.writers() if report.state == "open"]
        counts = self._counts
        return {
            "writers": len(there),
            "waiting": sum(report.waiting for report in there),
            **{name: counts[name] for name in ("joined", "closed", "died", "damaged", "abandoned")},
            **{name: counts[name] for name in ("transitions", "dropped")},
        }

    def close(self) -> None:
        """Takes what is there, turns the writers away, and removes the shared memory. The buffer stays."""
        with self._lock:
            if not self._leave.alive:
                return
            with suppress(OSError), home.joining(self._directory, timeout=1.0):
                (self._directory / home.ABOUT).unlink(missing_ok=True)  # nobody joins any more
            self._look()
            for ring in self._rings.values():
                ring.abandon()
            self._drain(MAX_CAPACITY)
            self._buffer._ingest(lambda rows: self._let_go(rows, list(self._rings), "abandoned"))
            self._leave()

    def __enter__(self) -> Learner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Learner cannot be pickled: hand over its address, and make a Writer(address) of it")

    def __repr__(self) -> str:
        return f"Learner({self.address!r}, {len(self._rings)} writers)"

    # ---- behind the lock ----

    def _require_open(self) -> None:
        if not self._leave.alive:
            raise ValueError("the learner is closed, or belongs to the process that this one was forked from")

    def _look(self) -> None:
        """Finds writers that have joined, and those that have died."""
        self._joined, self._next_look = self._counter.item(), time.monotonic() + LOOK_EVERY
        taken = {stream for ring in self._rings.values() for stream in ring.streams.tolist()}
        for number, path in sorted(home.rings(self._directory).items()):
            if number in self._rings:
                continue
            try:
                ring = Ring.attach(path, self._buffer.streams, self._ring_bytes)
                if taken.intersection(ring.streams.tolist()):
                    ring.abandon()
                    ring.close(clean=False)
                    raise Damaged(f"{path.name} is for streams that another writer has")
            except (Damaged, OSError) as error:
                self._counts["damaged"] += 1
                log.warning("a writer was refused: %s", error)
                path.unlink(missing_ok=True)
                continue
            self._rings[number] = ring
            taken.update(ring.streams.tolist())
            self._counts["joined"] += 1
            log.info("writer %d (process %d) has joined, with %d streams", number, ring.pid, len(ring.streams))
        self._dead = {number for number, ring in self._rings.items() if not ring.alive}

    def _drain(self, most: int) -> Drained:
        before = self._counts["transitions"], self._counts["dropped"]
        left: list[WriterReport] = []
        if self._rings:
            self._buffer._ingest(lambda rows: left.extend(self._take(rows, most)))
        counts = self._counts
        return Drained(counts["transitions"] - before[0], counts["dropped"] - before[1], tuple(left))

    def _take(self, rows: Rows, budget: int) -> list[WriterReport]:
        """Takes up to `budget` transitions: equal shares, and what is left of it from those who have more."""
        self._turn += 1
        turn = self._turn % len(self._rings)
        numbers = [*self._rings]
        numbers = numbers[turn:] + numbers[:turn]
        gone = [number for number in numbers if number in self._dead or self._rings[number].closed]
        damaged: list[int] = []
        while numbers and budget > 0:
            share = -(-budget // len(numbers))
            hungry = []
            for number in numbers:
                taken, sound = self._take_from(rows, self._rings[number], min(share, budget))
                budget -= taken
                if not sound:
                    damaged.append(number)
                elif taken and not self._rings[number].empty:
                    hungry.append(number)
                if budget <= 0:
                    break
            numbers = hungry
        left = self._let_go(rows, damaged, "damaged")
        for number in gone:
            if number in self._rings and self._rings[number].empty:
                left += self._let_go(rows, [number], "closed" if self._rings[number].closed else "died")
        return left

    def _take_from(self, rows: Rows, ring: Ring, most: int) -> tuple[int, bool]:
        """How many transitions it took, and whether what it found made sense."""
        _, before, _, dropped = ring.memory.tolist()
        # No more than may be there: the rows make room, on the disk where they lie there, for all that may come.
        most = min(most, max(1, ring.published - before - dropped), 2 * self._largest)
        status = rows.drain(ring.channel, ring.streams, most, self._largest)
        _, now, _, dropped_now = ring.memory.tolist()
        self._counts["transitions"] += now - before
        self._counts["dropped"] += dropped_now - dropped
        return now - before, status >= 0

    def _let_go(self, rows: Rows, numbers: list[int], outcome: State) -> list[WriterReport]:
        """Closes the streams of writers that have left, and gives them back."""
        reports = []
        for number in numbers:
            ring, state = self._rings[number], outcome
            rows.end(ring.streams)
            ring.abandon()
            if state in ("closed", "died"):  # what was dropped, and nothing came after it that would have told
                missed = ring.published - ring.memory.item(TRANSITIONS) - ring.memory.item(DROPPED)
                if missed < 0 or (missed > 0 and self._full == "block"):
                    state = "damaged"
                else:
                    ring.memory[DROPPED] += missed
                    self._counts["dropped"] += missed
            report = _report(number, ring, state)
            ring.path.unlink(missing_ok=True)
            ring.close(clean=False)
            del self._rings[number]
            self._dead.discard(number)
            self._counts[state] += 1
            level = logging.INFO if state in ("closed", "abandoned") else logging.WARNING
            what = "%s of writer %d (process %d): %d transitions taken, %d dropped, %d lost"
            log.log(level, what, state, number, report.pid, report.transitions, report.dropped, report.waiting)
            self._left.append(report)
            reports.append(report)
        return reports


def _report(number: int, ring: Ring, state: State) -> WriterReport:
    taken, dropped = ring.memory.item(TRANSITIONS), ring.memory.item(DROPPED)
    waiting = max(0, ring.published - taken - dropped)
    return WriterReport(number, ring.pid, tuple(ring.streams.tolist()), state, taken, dropped, waiting)


def _leave(directory: Path, fd: int, rings: dict[int, Ring], pid: int) -> None:
    """Removes the shared memory, unless this is a fork of the process whose it is."""
    if os.getpid() != pid:
        return
    for ring in rings.values():
        ring.abandon()
        ring.close(clean=False)
    rings.clear()
    home.remove(directory)
    locks.release(fd)


_learners: weakref.WeakSet[Learner] = weakref.WeakSet()


def _forget() -> None:
    """A forked child is no learner."""
    for learner in _learners:
        learner._leave.detach()
        learner._lock = Lock()


os.register_at_fork(after_in_child=_forget)
