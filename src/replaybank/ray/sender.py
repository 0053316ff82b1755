"""The thread that brings a writer's packets to a shard."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from replaybank.ray.calls import GONE, reason
from replaybank.ray.directory import ClusterClosed, Directory
from replaybank.ray.metrics import WriterMetrics
from replaybank.ray.outbox import Message, Outbox
from replaybank.ray.session import LOOK, RayEnded

log = logging.getLogger("replaybank.ray")

MOMENT = 0.01  # seconds that it waits for an answer before it looks for something new to send
AGAIN = 0.2  # seconds between two tries to reach a shard
LOOK_EVERY = 30.0  # seconds between two looks whether another shard has far fewer streams


class Sender:
    """Finds a shard, sends it what is in the outbox, in order, and again where it may not have come.

    `cut()` puts what is due into the outbox, and gives the seconds until there may be more. `in_flight`: packets that
    are on their way at a time.
    """

    def __init__(
        self, directory: Directory, outbox: Outbox, streams: int, in_flight: int, cut: Callable[[], float]
    ) -> None:
        self._directory, self._outbox, self._cut = directory, outbox, cut
        self._session = directory.session
        self._streams, self._in_flight = streams, in_flight
        # It is silent for a fourth of the time after which it would be dead.
        self._quiet = directory.config.options.writer_timeout / 4
        self._why = "nothing was sent yet"
        self._leave: Future[Any] | None = None  # the coordinator's answer, where a rate is held
        self._credit = 0  # transitions that may be sent
        self._shard: int | None = None
        self._home: int | None = None  # the last one that took this writer
        self._actor: Any = None
        self._joined = False
        self._number = secrets.randbits(62)
        self._heard = self._looked = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="replaybank-writer", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs: not in a process that was forked from the one that started it."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Says that there is no more; whoever calls holds the outbox."""
        self._closing = True
        self._outbox.changed.notify_all()

    def join(self, seconds: float) -> None:
        """Waits until the thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def dropped(self, message: Message) -> None:
        """A packet was given up; what was granted for it is for another one."""
        self._credit += message.packet.n if message.granted else 0

    def explained(self) -> str:
        """Why the first packet is still here; whoever calls holds the outbox."""
        head = self._outbox.messages[0] if self._outbox.messages else None
        if head is None or head.granted or self._directory.config.limit is None or not self._joined:
            return self._why
        try:
            return str(self._answer(self._directory.coordinator.why, "insert", head.packet.n, seconds=1.0))
        except GONE as error:
            return f"the coordinator does not answer: {reason(error)}"

    # ---- the thread ----

    def _work(self) -> None:
        metrics = WriterMetrics(self._directory.config.name, str(self._number))
        try:
            while not self._closing:
                self._step()
                metrics.report(self._told())
            metrics.report(self._told(), at_once=True)
            if self._joined:
                self._session.call(self._actor.leave.remote, self._number)
            if self._credit:
                self._session.call(self._directory.coordinator.give_back.remote, "insert", self._credit)
        except BaseException as error:
            with self._outbox.changed:
                if not self._closing:
                    self.failure = error
                    if not isinstance(error, RayEnded | ClusterClosed):
                        log.exception("a writer has failed")
                    elif self._outbox.waiting:
                        log.warning("%s before a shard acknowledged %d transitions", error, self._outbox.waiting)
                self._outbox.changed.notify_all()

    def _told(self) -> dict[str, int]:
        with self._outbox.changed:
            return self._outbox.told(0)._asdict()

    def _answer(self, method: Any, *args: Any, seconds: float | None = None) -> Any:
        seconds = self._directory.config.options.shard_timeout if seconds is None else seconds
        return self._session.get(self._session.call(method.remote, *args), seconds)

    def _step(self) -> None:
        if self._session.ended():
            raise RayEnded("Ray was shut down")
        with self._outbox.changed:
            wait = self._cut()
            if not self._outbox.messages and not self._closing:
                self._outbox.changed.wait(min(wait, self._quiet, LOOK))
        if not self._joined and (self._outbox.messages or self._shard is not None) and not self._join():
            time.sleep(AGAIN)
            return
        if not self._joined:
            return
        self._send()
        self._listen(wait)
        with self._outbox.changed:
            flying = any(message.sent is not None for message in self._outbox.messages)
            idle = not self._outbox.messages
        if not flying:
            self._be_heard()
        if idle:
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
                shard = self._answer(coordinator.place, self._streams, seconds=config.options.timeout)
                self._number = secrets.randbits(62)
                forgotten = self._answer(coordinator.forgotten, seconds=config.options.timeout)
                with self._outbox.changed:
                    self._outbox.move(lost=self._home in forgotten)
            if shard is None:
                return self._wait_for(f"no shard has {self._streams} free streams (streams={config.options.streams})")
            if shard not in members:
                return self._wait_for(f"shard {shard} is not known yet")
            self._actor = members[shard][0]
            had = self._outbox.received, self._outbox.acknowledged_here
            outcome, received, lost = self._answer(self._actor.join, self._number, self._streams, *had)
        except (*GONE, TimeoutError) as error:
            return self._wait_for(f"shard {shard} does not answer: {reason(error)}")
        self._shard = shard if outcome == "joined" else None
        if outcome != "joined":
            return self._wait_for(f"shard {shard} is {outcome}")
        self._home = shard
        with self._outbox.changed:
            new = self._outbox.send_again(received, lost)
        if new:
            log.warning("shard %d has lost %d transitions of this writer", shard, new)
        self._joined, self._heard = True, time.monotonic()
        self._looked = time.monotonic()
        return True

    def _wait_for(self, why: str) -> bool:
        with self._outbox.changed:
            self._why = why
        return False

    def _send(self) -> None:
        """Sends what may be sent, in order."""
        with self._outbox.changed:
            after = self._outbox.received
            for flying, message in enumerate(self._outbox.messages):
                if flying >= self._in_flight:
                    break
                if message.sent is None:
                    if not self._may_send(message):
                        break
                    n, tails, raw = message.packet
                    what = self._number, after, message.first, message.ends, n, tails, raw
                    message.sent = self._session.call(self._actor.insert.remote, *what)
                    self._heard = time.monotonic()
                after = message.end

    def _may_send(self, message: Message) -> bool:
        """Whether a packet may go, as far as a rate is held: leave is asked for all that wait, where there is some."""
        if self._directory.config.limit is None or message.granted:
            return True
        if self._leave is not None and self._leave.done():
            try:
                granted = self._leave.result()
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
            wanted = sum(message.packet.n for message in self._outbox.messages if not message.granted)
            seconds = self._directory.config.options.timeout
            grant = self._directory.coordinator.grant.remote
            self._leave = self._session.call(grant, "insert", n - self._credit, wanted - self._credit, seconds)
        return False

    def _listen(self, wait: float) -> None:
        """Looks for a moment for answers, and does what they say."""
        with self._outbox.changed:
            flying = [message for message in self._outbox.messages if message.sent is not None]
        awaited = [message.sent for message in flying[:1]] + ([] if self._leave is None else [self._leave])
        if awaited:
            self._session.wait(awaited, MOMENT if flying else min(self._quiet, wait))
        for message in flying:
            if not message.sent.done():
                if time.monotonic() - self._heard > self._directory.config.options.shard_timeout:
                    self._wait_for(f"shard {self._shard} has not answered for {time.monotonic() - self._heard:.1f} s")
                return
            try:
                outcome, received = message.sent.result()
            except GONE as error:
                self._joined = False
                self._wait_for(f"shard {self._shard} does not answer: {reason(error)}")
                return
            self._heard = time.monotonic()
            if outcome == "taken":
                with self._outbox.changed:
                    self._outbox.acknowledge(received)
                continue
            self._joined = False  # it will hear from `join` what is to be sent again
            if outcome == "draining":
                self._directory.look()
                self._shard = None
            return

    def _be_heard(self) -> None:
        """Says now and then that it is there, while nothing is on its way (as where a rate is held)."""
        now = time.monotonic()
        if now - self._heard < self._quiet:
            return
        self._heard = now
        try:
            outcome, _ = self._answer(self._actor.insert, self._number, 0, 0, [], 0, 0, None)
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
        try:
            place = self._answer(self._directory.coordinator.place, self._streams, self._shard)
        except GONE:
            return
        if place not in (None, self._shard):
            self._session.call(self._actor.leave.remote, self._number)
            self._joined, self._shard = False, None
