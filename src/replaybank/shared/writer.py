"""What adds to a learner's buffer from another process."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.arguments import chosen, named, picked, require_timeout, run_of, whole_number
from replaybank.convert import as_numeric
from replaybank.rows import MAX_CAPACITY, Rows
from replaybank.schema import Schema
from replaybank.shared import home, locks
from replaybank.shared.home import LearnerGone
from replaybank.shared.ring import (
    DONE,
    DROPPED,
    FULL,
    NOT_PLAIN,
    PAGE,
    TOO_LARGE,
    TRANSITIONS,
    Damaged,
    Ring,
    message_nbytes,
)
from replaybank.stacking import Stacking

LOOK_EVERY = 0.1  # seconds between two looks at whether the learner lives
SHORTEST, LONGEST = 2e-5, 2e-3  # seconds between two looks for room


class Writer:
    """Adds to the buffer of the learner at `address`, from any process of this machine, at any time.

    `add`, `extend` and `end` are those of a `ReplayBuffer` of `streams` streams. A call is one message: when it
    returns, all of it is there for the learner, and where it raises (but for LearnerGone, which may come too late to
    tell), nothing.

    `timeout`: the most seconds to wait for room in the ring, or for others that join; None: for ever. Where the learner
    was made with full="drop_oldest" there is room at once, but while it reads the very message that is in the way.

    Close it, or use it as a context: a process that ends without is reported as dead. A Writer belongs to the process
    that made it: neither a pickle nor a fork of it can be used. Several threads may use one; each call is one step.

    Raises LearnerGone where there is no learner at the address, RuntimeError where too few streams are free.
    """

    def __init__(self, address: str, streams: int = 1, timeout: float | None = 60.0) -> None:
        self._streams = whole_number("streams", streams, MAX_CAPACITY)
        require_timeout(timeout)
        self._timeout = timeout
        self._lock = Lock()
        self._directory = Path(address)
        # Before it joins: should another learner take over meanwhile, this is still the lock of the one that is gone.
        self._watch = _watch(self._directory)
        try:
            self._number, self._ring, about = _join(self._directory, self._streams, timeout)
        except BaseException as error:
            _unwatch(self._watch)
            if isinstance(error, FileNotFoundError):  # swept away meanwhile
                raise home.gone(self._directory) from None
            raise
        self._close = weakref.finalize(self, _close, self._ring, self._watch, os.getpid())
        _writers.add(self)
        self._learner = about["pid"]
        self._schema = Schema.of_plain(about["schema"])
        self._stack = None if about["stack"] is None else Stacking.of_plain(about["stack"])
        self._drop = about["full"] == "drop_oldest"
        self._ring_bytes = about["ring_bytes"]
        self._plan = Rows(self._schema, 1, 1, self._stack).plan
        self._plain = self._schema.flat and not self._schema.extras
        self._lead = -1 if self._streams == 1 else self._streams
        # Without owners a message is of one stream; with them, each transition has its own.
        self._everyone = None if self._streams == 1 else np.arange(self._streams)
        self._look_at = 0.0

    # ---- adding ----

    def add(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any,
        *,
        mask: Any = None,
        **extras: Any,
    ) -> None:
        """Adds one transition a stream, in stream order, as `ReplayBuffer.add` does.

        Raises as that does, and TimeoutError where the ring stays full, LearnerGone where nobody will read it.
        """
        with self._lock:
            self._require_learner()
            if self._plain and mask is None and not extras:
                values = (obs, action, reward, next_obs, terminated, truncated)
                if self._send(values, self._lead, self._everyone):
                    return
            given = named(obs, action, reward, next_obs, terminated, truncated, extras)
            if self._streams == 1:
                self._lead = 1 if as_numeric("terminated", terminated).shape == (1,) else -1
            owners = self._everyone if mask is None else chosen(mask, self._streams)
            self._append(given, self._lead, owners, 0, masked=mask is not None)

    def extend(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any,
        *,
        stream: int = 0,
        **extras: Any,
    ) -> None:
        """Adds n transitions of one stream, in order: arrays [n, ...], as `ReplayBuffer.extend` does.

        Raises as `add` does, and ValueError where they are more than half of the ring.
        """
        n = run_of(stream, self._streams, terminated)
        with self._lock:
            self._require_learner()
            given = named(obs, action, reward, next_obs, terminated, truncated, extras)
            self._append(given, n, None, int(stream))

    def end(self, mask: Any = None) -> None:
        """What the streams in `mask` (bool [streams]; None: all) add next begins a new segment."""
        streams = chosen(mask, self._streams)
        with self._lock:
            self._require_learner()
            self._publish(lambda: kernels.channel_end(self._ring.channel, streams, self._drop), 0)

    def _append(
        self, given: dict[str, Any], lead: int, owners: NDArray[np.int64] | None, stream: int, masked: bool = False
    ) -> None:
        """Publishes what is plainly of the fields' dtypes and shapes at once, and the rest once it is converted."""
        leaves = self._schema.values(given)
        n = abs(lead) if owners is None else len(owners)  # a lead of -1 is one transition
        if n and self._send(tuple(leaves), lead, owners, stream, masked):
            return
        if masked:
            leaves, lead = picked(self._schema, leaves, self._streams, lead, owners), n
        arrays = self._schema.arrays(leaves, lead)
        if n:
            sent = self._send(arrays, lead, owners, stream)
            assert sent, "converted arrays are what the kernel takes"

    def _send(
        self,
        values: tuple[Any, ...],
        lead: int,
        owners: NDArray[np.int64] | None,
        stream: int = 0,
        item_a_stream: bool = False,
    ) -> bool:
        """Publishes one message; False, and nothing, where a value is not plainly of its leaf's dtype and shape."""
        if self._stack is not None:
            split = self._stack.split_values(self._schema, values, lead)
            if split is None:
                return False
            values = split
        stream = stream if owners is None else -1
        given = self._ring.channel, self._plan, values, lead, owners, stream, item_a_stream, self._drop
        status = kernels.channel_push(*given)
        if status == DONE:
            return True
        if status == NOT_PLAIN:
            return False
        self._publish(lambda: kernels.channel_push(*given), abs(lead) if owners is None else len(owners))
        return True

    def _publish(self, push: Callable[[], int], n: int) -> None:
        """Pushes until there is room."""
        begin = time.monotonic()
        pause = SHORTEST
        while (status := push()) == FULL:
            waited = time.monotonic() - begin
            if self._timeout is not None and waited >= self._timeout:
                raise TimeoutError(
                    f"writer {self._number} (process {os.getpid()}) waited {waited:.3g} s for the learner (process "
                    f"{self._learner}) to drain its ring, which is full; nothing of this call was added. Drain more "
                    "often, give the learner more ring_bytes, or full='drop_oldest'"
                )
            self._require_learner()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)
        if status == TOO_LARGE:
            items = [leaf.nbytes for leaf in self._schema.leaves]
            needed = -(-2 * message_nbytes(items, n, owners=True) // PAGE) * PAGE
            raise ValueError(
                f"{n} transitions at a time are too many for a ring of {self._ring_bytes} bytes: add fewer in one "
                f"call, or give the learner ring_bytes={needed}"
            )
        if status != DONE:
            raise LearnerGone(
                f"the learner at {str(self._directory)!r} has let writer {self._number} go, as it was closed or found "
                "the ring damaged; what it has not read yet is lost"
            )

    def _require_learner(self) -> None:
        if not self._close.alive:
            raise ValueError(
                "this writer is closed, or belongs to the process that this one was forked from: make another"
            )
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            if not self._learner_lives():
                with suppress(OSError):
                    home.bury(self._directory)
                raise LearnerGone(
                    f"the learner at {str(self._directory)!r} (process {self._learner}) is dead; what it had not read "
                    "yet is lost"
                )

    def _learner_lives(self) -> bool:
        if self._watch is not None:
            return locks.holder(self._watch) != 0
        with suppress(FileNotFoundError):
            return locks.is_mine(self._directory / home.LEARNER)
        return False

    # ---- the rest ----

    @property
    def streams(self) -> int:
        """How many transitions one `add` brings."""
        return self._streams

    def stats(self) -> dict[str, int]:
        """Counts: transitions added, and of them those that were dropped before the learner read them."""
        memory = self._ring.memory
        return {"added": memory.item(TRANSITIONS), "dropped": memory.item(DROPPED)}

    def close(self) -> None:
        """Leaves: the learner takes what was added, then gives the streams to others."""
        with self._lock:
            if not self._close.alive:
                return
            lives = self._learner_lives()
            self._close()
            if not lives:
                with suppress(OSError):
                    home.bury(self._directory)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Writer cannot be pickled: hand over the learner's address, and make a Writer(address) of it")

    def __repr__(self) -> str:
        return f"Writer({str(self._directory)!r}, streams={self._streams})"


def _join(directory: Path, streams: int, timeout: float | None) -> tuple[int, Ring, dict[str, Any]]:
    """Takes free streams and makes a ring for them: number, ring, and what the learner says."""
    with home.joining(directory, timeout) as counter:
        about = home.description(directory)
        rings = home.rings(directory)
        for path in directory.glob(f"[0-9]*{home.UNFINISHED}"):  # of one that was killed here
            path.unlink(missing_ok=True)
        taken = {stream for path in rings.values() for stream in _streams_of(path, about)}
        free = [stream for stream in range(about["streams"]) if stream not in taken][:streams]
        if len(free) < streams:
            raise RuntimeError(
                f"asked for {streams} streams, but of the buffer's {about['streams']} only {len(free)} are free: "
                f"{len(rings)} writers have the others. Give ReplayBuffer more streams, or close a writer; those of a "
                "closed or dead one are free once the learner has drained it"
            )
        number = max([home.joined(counter), *rings]) + 1
        ring = Ring.create(directory / f"{number}{home.UNFINISHED}", free, about["ring_bytes"])
        ring.path = ring.path.rename(directory / f"{number}{home.RING}")
        home.count_joined(counter, number)
        _rings[ring.path] = ring
        return number, ring, about


def _streams_of(path: Path, about: dict[str, Any]) -> list[int]:
    """The streams of another writer; none where the learner has just let it go, or will not have it."""
    mine = _rings.get(path)
    if mine is not None and locks.is_at(mine.fd, path):  # opened again, this process's lock would drop
        return [*map(int, mine.streams)]
    try:
        ring = Ring.attach(path, about["streams"], about["ring_bytes"])
    except (FileNotFoundError, Damaged):
        return []
    streams: list[int] = ring.streams.tolist()
    ring.close(clean=False)
    return streams


def _watch(directory: Path) -> int | None:
    """The file whose lock tells whether the learner lives; None where that is this process.

    To open and close it there would drop the lock. Raises LearnerGone where there is none.
    """
    path = directory / home.LEARNER
    try:
        return None if locks.is_mine(path) else os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise home.gone(directory) from None


def _unwatch(watch: int | None) -> None:
    if watch is not None:
        os.close(watch)


def _close(ring: Ring, watch: int | None, pid: int) -> None:
    """Leaves in peace, unless this is a fork of the process whose ring it is."""
    if os.getpid() == pid:
        if _rings.get(ring.path) is ring:
            del _rings[ring.path]
        ring.close(clean=True)
        _unwatch(watch)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_rings: dict[Path, Ring] = {}  # this process's


def _forget() -> None:
    """A forked child has no writer: its parent's ring has one producer."""
    _rings.clear()
    for writer in _writers:
        writer._close.detach()
        writer._lock = Lock()


os.register_at_fork(after_in_child=_forget)
