"""What adds to a cluster, from any process of it."""

from __future__ import annotations

import atexit
import logging
import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaybank.arguments import chosen, named, picked, require_timeout, run_of, whole_number
from replaybank.convert import as_field, as_numeric, require_finite
from replaybank.ray.config import USUAL_SAMPLE
from replaybank.ray.directory import Directory
from replaybank.ray.joint import divisible
from replaybank.ray.outbox import Flushed, Outbox
from replaybank.ray.sender import Sender
from replaybank.ray.staging import Errors, Staging
from replaybank.ray.wire import MOST_TRANSITIONS, Arrays
from replaybank.rows import MAX_CAPACITY
from replaybank.schema import Schema

log = logging.getLogger("replaybank.ray")

Full = Literal["block", "drop_oldest"]
USUAL_ERROR = 1e6  # no sampler refuses a smaller TD error, whatever its alpha up to 48


class Writer:
    """Adds to a cluster, from one place: `streams` environment copies, all of whose transitions go to one shard.

    `ReplayCluster.writer` makes it, with the `directory` of the shards.
    `add`, `extend` and `end` are those of a `ReplayBuffer` of `streams` streams. They put transitions into a packet,
    which a thread sends when it holds `flush_size`, or its first is `flush_seconds` old. What is sent stays here until
    its shard acknowledges it: while a shard is away, up to `pending` transitions wait. Where these are all taken,
    full="block" waits for room, "drop_oldest" gives up the oldest that are not on their way; that is counted, and
    segments are closed there.

    `flush` waits until all is acknowledged. What is acknowledged is in the shard, once and in order, and nothing is
    sent twice into it; if the shard dies before it saves, that is lost: `stats` and `flush` tell how many.

    `in_flight`: packets that are on their way at a time. `timeout`: seconds that a call waits (None: the cluster's).

    It does nothing before it is used. Close it, or use it as a context: else what was not flushed is gone with its
    process, and its streams are closed only after `writer_timeout`. Several threads may use one; it belongs to the
    process that made it, and cannot be pickled.

    Raises TypeError or ValueError where an argument is out of range.
    """

    def __init__(
        self,
        directory: Directory,
        streams: int = 1,
        flush_size: int = 64,
        flush_seconds: float = 0.2,
        in_flight: int = 2,
        pending: int = 10_000,
        full: Full = "block",
        timeout: float | None = None,
    ) -> None:
        config = directory.config
        self._streams = whole_number("streams", streams, config.options.streams)
        size = whole_number("flush_size", flush_size, MOST_TRANSITIONS)
        in_flight = whole_number("in_flight", in_flight, 1000)
        self._most = whole_number("pending", pending, MAX_CAPACITY, least=max(size, self._streams))
        if not flush_seconds > 0:
            raise ValueError(f"flush_seconds: expected seconds > 0, given {flush_seconds!r}")
        if full not in ("block", "drop_oldest"):
            raise ValueError(f"full: expected 'block' or 'drop_oldest', given {full!r}")
        require_timeout(timeout)
        if config.limit is not None:
            config.limit.check(MAX_CAPACITY, size, USUAL_SAMPLE)
        self._schema = config.schema
        self._sampler = divisible(config.sampler)
        self._flush_seconds, self._full = flush_seconds, full
        self._timeout = config.options.timeout if timeout is None else timeout
        self._lead = -1 if self._streams == 1 else self._streams
        self._everyone = np.arange(self._streams)
        self._plain = self._schema.flat and not self._schema.extras
        self._ends: list[int] = []  # streams that begin a new segment with the next packet
        self._closed = self._started = False
        self._outbox = Outbox()
        self._changed = self._outbox.changed  # guards all of it
        self._staging = Staging(self._schema, size, self._streams)
        self._sender = Sender(directory, self._outbox, self._streams, in_flight, self._cut_what_is_due)

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
        td_error: Any = None,
        **extras: Any,
    ) -> None:
        """Adds one transition a stream, as `ReplayBuffer.add` does: arrays [streams, ...], with one stream without.

        `td_error` ([streams], or with one stream a number; NaN: not known): their priorities are |td_error| + epsilon
        from the beginning (Horgan et al. 2018), instead of the largest in the shard.

        Raises as `ReplayBuffer.add` does; TimeoutError, and adds nothing, where there is no room for too long, saying
        what is waited for; ValueError where the writer is closed.
        """
        errors = None if td_error is None else self._errors_of(td_error)
        with self._changed:
            if self._plain and mask is None and not extras:
                self._make_room(self._streams)
                if self._staging.add((obs, action, reward, next_obs, terminated, truncated), self._lead, errors):
                    self._staged()
                    return
            given = named(obs, action, reward, next_obs, terminated, truncated, extras)
            if self._streams == 1:
                self._lead = 1 if as_numeric("terminated", terminated).shape == (1,) else -1
            leaves, lead, owners = self._schema.values(given), self._lead, self._everyone
            if mask is not None:
                owners = chosen(mask, self._streams)
                leaves, lead = list(picked(self._schema, leaves, self._streams, lead, owners)), len(owners)
                errors = None if errors is None else errors[owners]
            arrays = self._schema.arrays(leaves, lead)
            self._put(tuple(array[np.newaxis] for array in arrays) if lead < 0 else arrays, owners, errors)

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
        td_error: Any = None,
        **extras: Any,
    ) -> None:
        """Adds n transitions of one stream, in order: arrays [n, ...], as `ReplayBuffer.extend` does.

        Raises as `add` does, and ValueError where they are more than `pending`.
        """
        n = run_of(stream, self._streams, terminated)
        given = named(obs, action, reward, next_obs, terminated, truncated, extras)
        errors = None if td_error is None else self._errors_of(td_error, (n,))
        arrays = self._schema.arrays(self._schema.values(given), n)
        with self._changed:
            self._put(arrays, np.full(n, stream, np.int64), errors)

    def end(self, mask: Any = None) -> None:
        """What the streams in `mask` (bool [streams]; None: all) add next begins a new segment."""
        streams = chosen(mask, self._streams)
        with self._changed:
            self._require_open()
            self._cut()
            self._ends = sorted({*self._ends, *streams.tolist()})

    def _errors_of(self, td_error: Any, shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
        """TD errors [n], one a stream if no shape is told; NaN where none is known."""
        if type(td_error) is float and self._streams == 1 and -USUAL_ERROR < td_error < USUAL_ERROR:
            return np.array([td_error])  # as loops give them: half of what `add` takes else
        errors = as_numeric("td_error", td_error)
        if shape is None:
            shape = errors.shape if self._streams == 1 and errors.shape in ((), (1,)) else (self._streams,)
        errors = as_field("td_error", errors, np.dtype(np.float64), shape, -1).reshape(-1)
        known = errors[~np.isnan(errors)]
        require_finite("td_error", known)
        self._sampler.priorities(known)
        return errors

    def _put(self, arrays: Arrays, owners: NDArray[np.int64], errors: Errors) -> None:
        """Stages arrays of the schema's dtypes and shapes, as many at a time as there is room for."""
        n = len(owners)
        if n > self._most:
            raise ValueError(f"extend: expected at most {self._most} transitions (pending), given {n}")
        self._make_room(n)
        done = 0
        while done < n:
            rest = None if errors is None else errors[done:]
            done += self._staging.put(tuple(array[done:] for array in arrays), owners[done:], rest)
            self._staged()

    def _staged(self) -> None:
        """Something was staged."""
        if not self._started:
            self._started = True
            atexit.register(self._say_what_is_left)
            self._sender.start()
        if self._staging.full:
            self._cut()

    def _make_room(self, n: int) -> None:
        """Waits, or gives up old ones, until there is room for n more."""
        self._require_open()
        deadline = time.monotonic() + self._timeout
        while len(self._staging) + self._outbox.waiting + n > self._most:
            if self._full == "drop_oldest" and self._drop():
                continue
            if not self._changed.wait(deadline - time.monotonic()):
                waiting = len(self._staging) + self._outbox.waiting
                raise TimeoutError(
                    f"writer: no room for {n} more within {self._timeout:g} s: "
                    f"{waiting} of {self._most} transitions wait; {self._sender.explained()}"
                )
            self._require_open()

    def _drop(self) -> bool:
        """Gives up the oldest packet that is not on its way; False where there is none."""
        message = self._outbox.drop()
        if message is None:
            self._cut()
            message = self._outbox.drop()
        if message is not None:
            self._sender.dropped(message)
        return message is not None

    def _cut(self) -> None:
        """Makes a packet of what is staged."""
        packet = self._staging.cut()
        if packet is not None:
            self._outbox.put(packet, self._ends)
            self._ends = []

    def _cut_what_is_due(self) -> float:
        """For the sender: gives the seconds until something is due."""
        if self._staging.age >= self._flush_seconds:
            self._cut()
        return self._flush_seconds

    def _require_open(self) -> None:
        if self._sender.failure is not None:
            raise RuntimeError(f"this writer has failed: {self._sender.failure}") from self._sender.failure
        if self._closed:
            raise ValueError("this writer is closed")
        if self._started and not self._sender.alive:
            raise ValueError("this writer belongs to the process that this one was forked from")

    # ---- waiting ----

    def flush(self, timeout: float | None = None) -> Flushed:
        """Waits until all that was added is acknowledged, and tells what became of it.

        Raises TimeoutError, with what is waited for, where that takes longer than `timeout` seconds (None: the
        writer's); nothing is lost by that.
        """
        with self._changed:
            self._require_open()
            self._flush(self._timeout if timeout is None else timeout)
            return self._outbox.told(len(self._staging))

    def _flush(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._cut()
        while self._outbox.messages:
            self._require_open()
            if not self._changed.wait(deadline - time.monotonic()) and self._outbox.messages:
                raise TimeoutError(
                    f"flush: {self._outbox.waiting} transitions are not acknowledged within {seconds:g} s; "
                    f"{self._sender.explained()}"
                )

    def stats(self) -> Flushed:
        """What has become of what was added so far, without waiting."""
        with self._changed:
            return self._outbox.told(len(self._staging))

    def close(self, timeout: float | None = None) -> Flushed:
        """Flushes, closes its streams, and ends its thread.

        Raises TimeoutError as `flush` does; it is closed then, too: what was not acknowledged is counted as dropped.
        """
        with self._changed:
            if self._closed:
                return self._outbox.told(0)
            try:
                if self._sender.failure is None:
                    self._flush(self._timeout if timeout is None else timeout)
            finally:
                self._closed = True
                self._outbox.give_up(self._staging.clear())
                self._sender.close()
        self._sender.join(1.0)
        atexit.unregister(self._say_what_is_left)
        return self.stats()

    def _say_what_is_left(self) -> None:
        """For the end of a process that has not closed it."""
        pending = self.stats().pending
        if pending:
            log.warning("a writer was not closed: no shard has acknowledged %d of its transitions", pending)

    @property
    def streams(self) -> int:
        """How many transitions one `add` brings."""
        return self._streams

    @property
    def schema(self) -> Schema:
        """What a transition is made of."""
        return self._schema

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Writer cannot be pickled: hand over the ReplayCluster, and call its writer() there")
