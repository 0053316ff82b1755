"""What adds to a cluster, from any process of it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from replaybank.arguments import named, picked, whole_number
from replaybank.convert import as_field, as_numeric, require_finite
from replaybank.ray.calls import GONE, ready, reason
from replaybank.ray.config import USUAL_SAMPLE
from replaybank.ray.directory import Directory
from replaybank.ray.joint import divisible
from replaybank.ray.metrics import WriterMetrics
from replaybank.ray.wire import MOST_TRANSITIONS, Packet, Transitions, Wire
from replaybank.rows import MAX_CAPACITY

log = logging.getLogger("replaybank.ray")

Full = Literal["block", "drop_oldest"]
MOMENT = 0.01  # seconds that the sender waits for an answer before it looks for something new to send
AGAIN = 0.2  # seconds between two tries to reach a shard
MOVE_EVERY = 30.0  # seconds between two looks whether another shard has far fewer streams


class Flushed(NamedTuple):
    """What became of all that a writer was given: transitions, over its life.

    acknowledged: a shard has them (or had: `lost` are those that a shard which died had not saved). pending: not
    acknowledged yet. dropped: given up since there was no room (full="drop_oldest").
    """

    acknowledged: int
    pending: int
    dropped: int
    lost: int


@dataclass
class Message:
    """A packet, the number of its first transition, and which streams begin a new segment there."""

    first: int
    ends: list[int]
    packet: Packet
    leave: Any = None  # the coordinator's answer, where a rate is held
    granted: bool = False
    sent: Any = None  # the shard's answer

    @property
    def end(self) -> int:
        return self.first + self.packet.n


class Writer:
    """Adds to a cluster, from one place: `streams` environment copies, all of whose transitions go to one shard.

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
        options = directory.config.options
        self._streams = whole_number("streams", streams, options.streams)
        self._size = whole_number("flush_size", flush_size, MOST_TRANSITIONS)
        self._in_flight = whole_number("in_flight", in_flight, 1000)
        self._most = whole_number("pending", pending, MAX_CAPACITY, least=max(self._size, self._streams))
        if not flush_seconds > 0:
            raise ValueError(f"flush_seconds: expected seconds > 0, given {flush_seconds!r}")
        if full not in ("block", "drop_oldest"):
            raise ValueError(f"full: expected 'block' or 'drop_oldest', given {full!r}")
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout: expected seconds >= 0, or None, given {timeout!r}")
        limit = directory.config.limit
        if limit is not None:
            limit.check(MAX_CAPACITY, self._size, USUAL_SAMPLE)
        self._directory = directory
        self._schema = directory.config.schema
        self._sampler = divisible(directory.config.sampler)
        self._wire = Wire(self._schema)
        self._flush_seconds, self._full = flush_seconds, full
        self._timeout = options.timeout if timeout is None else timeout
        # It is silent for a fourth of the time after which it would be dead.
        self._quiet = options.writer_timeout / 4
        self._lead = -1 if self._streams == 1 else self._streams

        self._changed = threading.Condition()  # guards all that follows
        self._arrays = tuple(np.empty((self._size, *leaf.shape), leaf.dtype) for leaf in self._schema.leaves)
        self._owners = np.empty(self._size, np.int64)
        self._errors = np.empty(self._size)
        self._staged, self._staged_at = 0, 0.0
        self._ends: list[int] = []  # of the next message
        self._outbox: deque[Message] = deque()  # cut, and not acknowledged
        self._waiting = 0  # transitions in it
        self._next = 0  # number of the next transition that is cut
        self._acknowledged = self._given_up = self._lost = 0
        self._received = 0  # those numbered below were acknowledged, lost or dropped
        self._why = "nothing was sent yet"
        self._flushing = self._closing = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

        # The thread's own.
        self._shard: int | None = None
        self._joined = False
        self._number = secrets.randbits(62)
        self._heard = self._moved = 0.0

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
        given = named(obs, action, reward, next_obs, terminated, truncated, extras)
        leaves = self._schema.values(given)
        lead = self._lead
        if self._streams == 1 and as_numeric("terminated", terminated).shape == (1,):
            lead = 1
        owners = np.arange(self._streams)
        errors = self._errors_of(td_error, lead)
        if mask is not None:
            owners = np.flatnonzero(self._streams_in(mask))
            leaves, lead = list(picked(self._schema, leaves, self._streams, lead, owners)), len(owners)
            errors = errors[owners]
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
        if not (isinstance(stream, int | np.integer) and 0 <= stream < self._streams):
            raise ValueError(f"stream: expected 0 to {self._streams - 1}, given {stream!r}")
        shape = as_numeric("terminated", terminated).shape
        if len(shape) != 1:
            raise ValueError(f"terminated: expected shape (n,), given {shape}; `add` takes single transitions")
        given = named(obs, action, reward, next_obs, terminated, truncated, extras)
        errors = self._errors_of(td_error, shape[0])
        arrays = self._schema.arrays(self._schema.values(given), shape[0])
        self._put(arrays, np.full(shape[0], stream, np.int64), errors)

    def end(self, mask: Any = None) -> None:
        """What these streams (bool [streams]; None: all) add next begins a new segment, whatever it looks like."""
        streams = np.arange(self._streams) if mask is None else np.flatnonzero(self._streams_in(mask))
        with self._changed:
            self._require_open()
            self._cut()
            self._ends = sorted({*self._ends, *streams.tolist()})

    def _errors_of(self, td_error: Any, lead: int) -> NDArray[np.float64]:
        n = max(lead, 1)
        if td_error is None:
            return np.full(n, np.nan)
        errors = as_field("td_error", td_error, np.dtype(np.float64), (), lead).reshape(n)
        known = errors[~np.isnan(errors)]
        require_finite("td_error", known)
        self._sampler.priorities(known)
        return errors

    def _streams_in(self, mask: Any) -> NDArray[np.bool_]:
        chosen = as_numeric("mask", mask)
        if chosen.dtype != bool or chosen.shape != (self._streams,):
            given = f"{chosen.dtype} of shape {chosen.shape}"
            raise ValueError(f"mask: expected bool of shape ({self._streams},), one a stream, given {given}")
        return chosen

    def _put(self, arrays: tuple[NDArray[Any], ...], owners: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        n = len(owners)
        if n > self._most:
            raise ValueError(f"extend: expected at most {self._most} transitions (pending), given {n}")
        with self._changed:
            self._require_open()
            self._make_room(n)
            done = 0
            while done < n:
                part = min(n - done, self._size - self._staged)
                here, there = slice(self._staged, self._staged + part), slice(done, done + part)
                for staged, array in zip(self._arrays, arrays, strict=True):
                    staged[here] = array[there]
                self._owners[here], self._errors[here] = owners[there], errors[there]
                if not self._staged:
                    self._staged_at = time.monotonic()
                self._staged, done = self._staged + part, done + part
                if self._staged == self._size:
                    self._cut()

    def _make_room(self, n: int) -> None:
        """Waits, or gives up old ones, until there is room for n more."""
        deadline = time.monotonic() + self._timeout
        while self._staged + self._waiting + n > self._most:
            if self._full == "drop_oldest" and self._drop():
                continue
            if not self._changed.wait(deadline - time.monotonic()):
                raise TimeoutError(
                    f"writer: no room for {n} more within {self._timeout:g} s: "
                    f"{self._staged + self._waiting} of {self._most} transitions wait; {self._why}"
                )
            self._require_open()

    def _drop(self) -> bool:
        """Gives up the oldest packet that is not on its way; False where there is none."""
        for i, message in enumerate(self._outbox):
            if message.sent is None:
                del self._outbox[i]
                self._waiting -= message.packet.n
                self._given_up += message.packet.n
                if message.leave is not None:
                    self._give_back(message)
                return True
        if self._staged:
            self._cut()
            return self._drop()
        return False

    def _give_back(self, message: Message) -> None:
        if message.granted:
            self._directory.coordinator.give_back.remote("insert", message.packet.n)

    def _cut(self) -> None:
        """Makes a packet of what is staged."""
        n = self._staged
        if n:
            arrays = tuple(array[:n] for array in self._arrays)
            packet = self._wire.pack(Transitions(arrays, self._owners[:n], self._errors[:n]))
            self._outbox.append(Message(self._next, self._ends, packet))
            self._next += n
            self._waiting += n
            self._staged, self._ends = 0, []
        if self._thread is None and self._outbox:
            self._thread = threading.Thread(target=self._work, name="replaybank-writer", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _require_open(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"this writer has failed: {self._failure}") from self._failure
        if self._closing:
            raise ValueError("this writer is closed")
        if self._thread is not None and not self._thread.is_alive():
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
            return self._told()

    def _flush(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._cut()
        while self._outbox:
            if self._failure is not None:
                raise RuntimeError(f"this writer has failed: {self._failure}") from self._failure
            if not self._changed.wait(deadline - time.monotonic()) and self._outbox:
                raise TimeoutError(
                    f"flush: {self._waiting} transitions are not acknowledged within {seconds:g} s; {self._why}"
                )

    def stats(self) -> Flushed:
        """What has become of what was added so far, without waiting."""
        with self._changed:
            return self._told()

    def _told(self) -> Flushed:
        return Flushed(self._acknowledged, self._staged + self._waiting, self._given_up, self._lost)

    def close(self, timeout: float | None = None) -> Flushed:
        """Flushes, closes its streams, and ends its thread.

        Raises TimeoutError as `flush` does; it is closed then, too: what was not acknowledged is counted as dropped.
        """
        with self._changed:
            if self._closing:
                return self._told()
            try:
                if self._failure is None:
                    self._flush(self._timeout if timeout is None else timeout)
            finally:
                self._closing = True
                left = sum(message.packet.n for message in self._outbox) + self._staged
                self._outbox.clear()
                self._waiting = self._staged = 0
                self._given_up += left
                self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(1.0)
        return self.stats()

    @property
    def streams(self) -> int:
        """How many transitions one `add` brings."""
        return self._streams

    @property
    def schema(self) -> Any:
        """What a transition is made of."""
        return self._schema

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Writer cannot be pickled: hand over the ReplayCluster, and call its writer() there")

    # ---- the thread ----

    def _work(self) -> None:
        metrics = WriterMetrics(self._directory.config.name, str(self._number))
        try:
            while not self._closing:
                self._step()
                metrics.report(self.stats()._asdict())
            metrics.report(self.stats()._asdict(), at_once=True)
            if self._joined and self._shard is not None:
                actor = self._actor()
                if actor is not None:
                    actor.leave.remote(self._number)
        except BaseException as error:
            with self._changed:
                if not self._closing:
                    self._failure = error
                    log.exception("a writer has failed")
                self._changed.notify_all()

    def _step(self) -> None:
        with self._changed:
            if self._staged and time.monotonic() - self._staged_at >= self._flush_seconds:
                self._cut()
            if not self._outbox and not self._closing:
                wait = self._flush_seconds if self._staged else min(self._flush_seconds, self._quiet)
                self._changed.wait(wait)
        if not self._joined and (self._outbox or self._shard is not None) and not self._join():
            time.sleep(AGAIN)
            return
        if not self._joined:
            return
        self._send()
        self._listen()
        self._be_heard()

    def _actor(self) -> Any:
        """The shard's actor; None where it is no member any more."""
        members = self._directory.members()
        return members[self._shard][0] if self._shard in members else None

    def _join(self) -> bool:
        """Finds a shard, and makes it take this writer, from the first transition that is not acknowledged on."""
        config, coordinator = self._directory.config, self._directory.coordinator
        actor = None if self._shard is None else self._actor()
        returning = actor is not None
        try:
            if actor is None:
                self._shard = ray.get(coordinator.place.remote(self._streams), timeout=config.options.timeout)
                if self._shard is None:
                    return self._wait_for(
                        f"no shard has {self._streams} free streams (streams={config.options.streams})"
                    )
                if self._shard not in self._directory.members():
                    self._directory.look()
                actor = self._actor()
                self._number = secrets.randbits(62)
                if actor is None:
                    return self._wait_for(f"shard {self._shard} is not known yet")
            call = actor.join.remote(self._number, self._streams, self._received)
            outcome, received = ray.get(call, timeout=config.options.shard_timeout)
        except (*GONE, TimeoutError) as error:
            return self._wait_for(f"shard {self._shard} does not answer: {reason(error)}")
        if outcome != "joined":
            self._shard = None
            return self._wait_for(f"shard {self._shard}: {outcome}")
        with self._changed:
            if returning and received < self._received:
                lost = min(self._received - received, self._acknowledged - self._lost)
                self._lost += lost
                log.warning("shard %d has lost %d transitions of this writer", self._shard, lost)
            for message in self._outbox:
                message.sent = None
            if received > self._received:
                self._acknowledge(received)
        self._joined, self._heard = True, time.monotonic()
        self._moved = self._moved or time.monotonic()
        return True

    def _wait_for(self, why: str) -> bool:
        with self._changed:
            self._why = why
        return False

    def _acknowledge(self, received: int) -> None:
        """Those numbered below `received` are in the shard."""
        while self._outbox and self._outbox[0].end <= received:
            message = self._outbox.popleft()
            self._waiting -= message.packet.n
            self._acknowledged += message.packet.n
        self._received = max(self._received, received)
        self._changed.notify_all()

    def _send(self) -> None:
        """Sends what may be sent, in order."""
        actor = self._actor()
        if actor is None:
            self._joined = False
            return
        with self._changed:
            after = self._received
            for flying, message in enumerate(self._outbox):
                if flying >= self._in_flight:
                    break
                if message.sent is None:
                    if not self._may_send(message):
                        break
                    n, tails, raw = message.packet
                    message.sent = actor.insert.remote(self._number, after, message.first, message.ends, n, tails, raw)
                    self._heard = time.monotonic()
                after = message.end

    def _may_send(self, message: Message) -> bool:
        if self._directory.config.limit is None or message.granted:
            return True
        if message.leave is None:
            seconds = self._directory.config.options.timeout
            message.leave = self._directory.coordinator.grant.remote("insert", message.packet.n, seconds)
        if not ready(message.leave):
            self._why = "the coordinator does not let more be inserted yet"
            return False
        try:
            why = ray.get(message.leave, timeout=0)
        except GONE as error:
            why = f"the coordinator does not answer: {reason(error)}"
        message.leave = None
        message.granted = not why
        if why:
            self._why = why
        return message.granted

    def _listen(self) -> None:
        """Looks for a moment for answers, and does what they say."""
        with self._changed:
            flying = [message for message in self._outbox if message.sent is not None]
            leaves = [message.leave for message in self._outbox if message.leave is not None]
        refs = [message.sent for message in flying] or leaves
        if refs:
            ray.wait(refs, num_returns=1, timeout=MOMENT if flying else min(self._quiet, self._flush_seconds))
        for message in flying:
            if not ready(message.sent):
                if time.monotonic() - self._heard > self._directory.config.options.shard_timeout:
                    self._wait_for(f"shard {self._shard} has not answered for {time.monotonic() - self._heard:.1f} s")
                return
            try:
                outcome, received = ray.get(message.sent, timeout=1.0)
            except GONE as error:
                self._joined = False
                self._wait_for(f"shard {self._shard} does not answer: {reason(error)}")
                return
            self._heard = time.monotonic()
            if outcome == "taken":
                with self._changed:
                    self._acknowledge(received)
                continue
            self._joined = False  # it will hear from `join` what is to be sent again
            if outcome == "draining":
                self._directory.look()
                self._shard = None
            return

    def _be_heard(self) -> None:
        """Says now and then that it is there, and goes where there is more room if nothing is on its way."""
        now = time.monotonic()
        if self._outbox or now - self._heard < self._quiet:
            return
        self._heard = now
        actor = self._actor()
        if actor is None:
            self._joined = False
            return
        call = actor.insert.remote(self._number, 0, 0, [], 0, 0, None)
        try:
            outcome, _ = ray.get(call, timeout=self._directory.config.options.shard_timeout)
        except GONE:
            outcome = "join"
        if outcome == "draining":
            self._shard = None
        if outcome != "taken":
            self._joined = False
