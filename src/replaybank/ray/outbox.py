"""What a writer has cut into packets, until a shard has it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from replaybank.ray.wire import Packet


class Flushed(NamedTuple):
    """What became of all that a writer was given: transitions, over its life.

    acknowledged: a shard has them (or had: `lost` are those that a shard which died had not saved). pending: not
    acknowledged yet. dropped: given up since there was no room (full="drop_oldest"), or at the end.
    """

    acknowledged: int
    pending: int
    dropped: int
    lost: int


@dataclass
class Message:
    """A packet, the number of its first transition, and which streams begin a new segment there.

    `granted`: where a rate is held, it may be sent. `sent`: the shard's answer; None while it is not on its way.
    """

    first: int
    ends: list[int]
    packet: Packet
    granted: bool = False
    sent: Any = None

    @property
    def end(self) -> int:
        return self.first + self.packet.n


class Outbox:
    """Packets in order, and what became of those that left. Whoever touches it holds `changed`, but for `told`.

    A transition's number counts what the writer was ever given. Those below `received` were acknowledged, lost or
    dropped.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.messages: deque[Message] = deque()
        self.waiting = 0  # transitions in them
        self.received = 0
        self.acknowledged_here = 0  # by the shard where the writer is now
        self._next = self._acknowledged = self._dropped = 0
        self._lost_here = self._lost_elsewhere = 0

    def put(self, packet: Packet, ends: list[int]) -> None:
        """One more packet at the end."""
        self.messages.append(Message(self._next, ends, packet))
        self._next += packet.n
        self.waiting += packet.n
        self.changed.notify_all()

    def drop(self) -> Message | None:
        """Gives up the oldest packet that is not on its way; None where there is none."""
        for place, message in enumerate(self.messages):
            if message.sent is None:
                del self.messages[place]
                self.waiting -= message.packet.n
                self._dropped += message.packet.n
                return message
        return None

    def give_up(self, more: int) -> None:
        """Drops all that is left, and `more` that were not even cut."""
        self._dropped += self.waiting + more
        self.messages.clear()
        self.waiting = 0
        self.changed.notify_all()

    def acknowledge(self, received: int) -> None:
        """Those numbered below `received` are in the shard."""
        while self.messages and self.messages[0].end <= received:
            n = self.messages.popleft().packet.n
            self.waiting -= n
            self._acknowledged += n
            self.acknowledged_here += n
        self.received = max(self.received, received)
        self.changed.notify_all()

    def send_again(self, received: int, lost: int) -> int:
        """A shard has taken the writer, and goes on from `received`; of what it had acknowledged so many are lost.

        Gives how many of these are new.
        """
        new = max(lost - self._lost_here, 0)
        self._lost_here += new
        for message in self.messages:
            message.sent = None
        if received > self.received:
            self.acknowledge(received)
        return new

    def move(self, lost: bool) -> None:
        """Another shard is next. `lost`: all that the last one had acknowledged is."""
        self._lost_elsewhere += self.acknowledged_here if lost else self._lost_here
        self.acknowledged_here = self._lost_here = 0

    def told(self, staged: int) -> Flushed:
        """What became of all, with so many that are not cut yet."""
        lost = self._lost_elsewhere + self._lost_here
        return Flushed(self._acknowledged, staged + self.waiting, self._dropped, lost)
