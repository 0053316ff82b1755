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
from replaybank.ray.wire import MOST_TRANSITIONS, Arrays, Packet, Transitions, Wire
from replaybank.rows import MAX_CAPACITY, Rows
from replaybank.views.transition import Transition

log = logging.getLogger("replaybank.ray")

Full = Literal["block", "drop_oldest"]
MOMENT = 0.01  # seconds that the sender waits for an answer before it looks for something new to send
AGAIN = 0.2  # seconds between two tries to reach a shard
LOOK_EVERY = 30.0  # seconds between two looks whether another shard has far fewer streams


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
    granted: bool = False  # where a rate is held: it may be sent
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
        self._everyone = np.arange(self._streams)
        self._plain = self._schema.flat and not self._schema.extras
        self._rng = np.random.default_rng(0)  # a view is given one; this one draws nothing

        self._changed = threading.Condition()  # guards all that follows
        # What is staged lies in rows, which take it as a buffer does; each is read once, in order.
        room = max(self._size, self._streams)
        self._rows, self._view = Rows(self._schema, room, self._streams), Transition()
        self._owners, self._errors = np.empty(room, np.int64), np.empty(room)
        self._cut_to, self._staged_at = 0, 0.0  # rows before this one were cut
        self._ends: list[int] = []  # of the next message
        self._outbox: deque[Message] = deque()  # cut, and not acknowledged
        self._waiting = 0  # transitions in it
        self._next = 0  # number of the next transition that is cut
        self._acknowledged = self._given_up = self._lost_elsewhere = 0
        self._acknowledged_here = self._lost_here = 0  # by the shard where it is now
        self._received = 0  # those numbered below were acknowledged, lost or dropped
        self._why = "nothing was sent yet"
        self._flushing = self._closing = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

        # The thread's own.
        self._leave: Any = None  # the coordinator's answer, where a rate is held
        self._credit = 0  # transitions that may be sent
        self._shard: int | None = None
        self._actor: Any = None
        self._joined = False
        self._number = secrets.randbits(62)
        self._heard = self._looked = 0.0

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
                values = (obs, action, reward, next_obs, terminated, truncated)
                if self._rows.append(values, self._lead) >= 0:
                    self._stage(self._everyone, errors)
                    return
            given = named(obs, action, reward, next_obs, terminated, truncated, extras)
            if self._streams == 1:
                self._lead = 1 if as_numeric("terminated", terminated).shape == (1,) else -1
            leaves, lead, owners = self._schema.values(given), self._lead, self._everyone
            if mask is not None:
                owners = np.flatnonzero(self._streams_in(mask))
                leaves, lead = list(picked(self._schema, leaves, self._streams, lead, owners)), len(owners)
                errors = None if errors is None else errors[owners]
            self._put(self._schema.arrays(leaves, lead), lead, owners, errors)

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
        errors = None if td_error is None else self._errors_of(td_error, shape)
        arrays = self._schema.arrays(self._schema.values(given), shape[0])
        with self._changed:
            self._put(arrays, shape[0], np.full(shape[0], stream, np.int64), errors)

    def end(self, mask: Any = None) -> None:
        """What these streams (bool [streams]; None: all) add next begins a new segment, whatever it looks like."""
        streams = np.arange(self._streams) if mask is None else np.flatnonzero(self._streams_in(mask))
        with self._changed:
            self._require_open()
            self._cut()
            self._ends = sorted({*self._ends, *streams.tolist()})

    def _errors_of(self, td_error: Any, shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
        """TD errors [n], one a stream if no shape is told; NaN where none is known."""
        errors = as_numeric("td_error", td_error)
        if shape is None:
            shape = errors.shape if self._streams == 1 and errors.shape in ((), (1,)) else (self._streams,)
        errors = as_field("td_error", errors, np.dtype(np.float64), shape, -1).reshape(-1)
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

    def _put(self, arrays: Arrays, lead: int, owners: NDArray[np.int64], errors: NDArray[np.float64] | None) -> None:
        """Stages arrays of the schema's dtypes and shapes, as many at a time as there is room for."""
        n = len(owners)
        if n > self._most:
            raise ValueError(f"extend: expected at most {self._most} transitions (pending), given {n}")
        self._make_room(n)
        arrays = tuple(array[np.newaxis] for array in arrays) if lead < 0 else arrays
        done = 0
        while done < n:
            part = slice(done, done + self._rows.capacity - self._staged)
            taken = self._rows.append(tuple(array[part] for array in arrays), len(owners[part]), owners[part])
            assert taken >= 0, "converted arrays are what the kernel takes"
            done += len(owners[part])
            self._stage(owners[part], None if errors is None else errors[part])

    @property
    def _staged(self) -> int:
        return self._rows.added - self._cut_to

    def _stage(self, owners: NDArray[np.int64], errors: NDArray[np.float64] | None) -> None:
        """Notes whose the rows are that were just appended, and cuts a packet where it is full."""
        n, staged = len(owners), self._staged
        if staged == n:
            self._staged_at = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="replaybank-writer", daemon=True)
                self._thread.start()
        here = slice(staged - n, staged)
        self._owners[here] = owners
        self._errors[here] = np.nan if errors is None else errors
        if staged + self._streams > self._rows.capacity or staged >= self._size:
            self._cut()

    def _make_room(self, n: int) -> None:
        """Waits, or gives up old ones, until there is room for n more."""
        self._require_open()
        deadline = time.monotonic() + self._timeout
        while self._staged + self._waiting + n > self._most:
            if self._full == "drop_oldest" and self._drop():
                continue
            if not self._changed.wait(deadline - time.monotonic()):
                raise TimeoutError(
                    f"writer: no room for {n} more within {self._timeout:g} s: "
                    f"{self._staged + self._waiting} of {self._most} transitions wait; {self._explained()}"
                )
            self._require_open()

    def _drop(self) -> bool:
        """Gives up the oldest packet that is not on its way; False where there is none."""
        for i, message in enumerate(self._outbox):
            if message.sent is None:
                del self._outbox[i]
                self._waiting -= message.packet.n
                self._given_up += message.packet.n
                self._credit += message.packet.n if message.granted else 0
                return True
        if self._staged:
            self._cut()
            return self._drop()
        return False

    def _cut(self) -> None:
        """Makes a packet of what is staged."""
        n = self._staged
        if n:
            batch = self._view.read(self._rows, np.arange(self._cut_to, self._rows.added), self._rng)
            leaves = self._schema.values({name: batch[name] for name in self._schema.fields})
            packet = self._wire.pack(Transitions(tuple(leaves), self._owners[:n], self._errors[:n]))
            self._outbox.append(Message(self._next, self._ends, packet))
            self._next += n
            self._waiting += n
            self._cut_to, self._ends = self._rows.added, []
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
                    f"flush: {self._waiting} transitions are not acknowledged within {seconds:g} s; {self._explained()}"
                )

    def _explained(self) -> str:
        """Why the first packet is still here."""
        head = self._outbox[0] if self._outbox else None
        if head is None or head.granted or self._directory.config.limit is None or not self._joined:
            return self._why
        try:
            call = self._directory.coordinator.why.remote("insert", head.packet.n)
            return str(ray.get(call, timeout=1.0))
        except GONE as error:
            return f"the coordinator does not answer: {reason(error)}"

    def stats(self) -> Flushed:
        """What has become of what was added so far, without waiting."""
        with self._changed:
            return self._told()

    def _told(self) -> Flushed:
        return Flushed(
            self._acknowledged, self._staged + self._waiting, self._given_up, self._lost_elsewhere + self._lost_here
        )

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
                left = self._waiting + self._staged
                self._outbox.clear()
                self._waiting, self._cut_to = 0, self._rows.added
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
            if self._joined:
                self._actor.leave.remote(self._number)
            if self._credit:
                self._directory.coordinator.give_back.remote("insert", self._credit)
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
        if not self._outbox:
            self._be_heard()
            self._look_around()

    def _join(self) -> bool:
        """Finds a shard, and makes it take this writer, from the first transition that is not acknowledged on."""
        config, coordinator = self._directory.config, self._directory.coordinator
        shard = self._shard
        try:
            self._directory.look()
            members = self._directory.members()
            returning = shard in members
            if not returning:
                shard = ray.get(coordinator.place.remote(self._streams), timeout=config.options.timeout)
                self._number = secrets.randbits(62)
                with self._changed:
                    self._lost_elsewhere += self._lost_here
                    self._acknowledged_here = self._lost_here = 0
            if shard is None:
                return self._wait_for(f"no shard has {self._streams} free streams (streams={config.options.streams})")
            if shard not in members:
                return self._wait_for(f"shard {shard} is not known yet")
            self._actor = members[shard][0]
            call = self._actor.join.remote(self._number, self._streams, self._received, self._acknowledged_here)
            outcome, received, lost = ray.get(call, timeout=config.options.shard_timeout)
        except (*GONE, TimeoutError) as error:
            return self._wait_for(f"shard {shard} does not answer: {reason(error)}")
        self._shard = shard if outcome == "joined" else None
        if outcome != "joined":
            return self._wait_for(f"shard {shard} is {outcome}")
        with self._changed:
            if lost > self._lost_here:
                log.warning("shard %d has lost %d transitions of this writer", self._shard, lost - self._lost_here)
                self._lost_here = lost
            for message in self._outbox:
                message.sent = None
            if received > self._received:
                self._acknowledge(received)
        self._joined, self._heard = True, time.monotonic()
        self._looked = time.monotonic()
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
            self._acknowledged_here += message.packet.n
        self._received = max(self._received, received)
        self._changed.notify_all()

    def _send(self) -> None:
        """Sends what may be sent, in order."""
        with self._changed:
            after = self._received
            for flying, message in enumerate(self._outbox):
                if flying >= self._in_flight:
                    break
                if message.sent is None:
                    if not self._may_send(message):
                        break
                    n, tails, raw = message.packet
                    message.sent = self._actor.insert.remote(
                        self._number, after, message.first, message.ends, n, tails, raw
                    )
                    self._heard = time.monotonic()
                after = message.end

    def _may_send(self, message: Message) -> bool:
        """Whether a packet may go, as far as a rate is held: leave is asked for all that wait, where there is some."""
        if self._directory.config.limit is None or message.granted:
            return True
        if self._leave is not None and ready(self._leave):
            try:
                granted = ray.get(self._leave, timeout=0)
            except GONE as error:
                granted = f"the coordinator does not answer: {reason(error)}"
            self._leave = None
            if isinstance(granted, int):
                self._credit += granted
            else:
                self._why = granted
        n = message.packet.n
        if self._credit >= n:
            self._credit -= n
            message.granted = True
            return True
        if self._leave is None:
            wanted = sum(message.packet.n for message in self._outbox if not message.granted)
            seconds = self._directory.config.options.timeout
            grant = self._directory.coordinator.grant
            self._leave = grant.remote("insert", n - self._credit, wanted - self._credit, seconds)
        return False

    def _listen(self) -> None:
        """Looks for a moment for answers, and does what they say."""
        with self._changed:
            flying = [message for message in self._outbox if message.sent is not None]
        refs = [message.sent for message in flying] + ([] if self._leave is None else [self._leave])
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
        """Says now and then that it is there, while there is nothing to send."""
        now = time.monotonic()
        if now - self._heard < self._quiet:
            return
        self._heard = now
        call = self._actor.insert.remote(self._number, 0, 0, [], 0, 0, None)
        try:
            outcome, _ = ray.get(call, timeout=self._directory.config.options.shard_timeout)
        except GONE:
            outcome = "join"
        if outcome == "draining":
            self._shard = None
        if outcome != "taken":
            self._joined = False

    def _look_around(self) -> None:
        """Leaves for another shard, while nothing is on its way, where that has far fewer streams: a new one."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY or not self._joined:
            return
        self._looked = now
        call = self._directory.coordinator.place.remote(self._streams, self._shard)
        try:
            place = ray.get(call, timeout=self._directory.config.options.shard_timeout)
        except GONE:
            return
        if place not in (None, self._shard):
            self._actor.leave.remote(self._number)
            self._joined, self._shard = False, None
