"""What a writer was given, until it is enough for a packet."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.ray.wire import Arrays, Packet, Transitions, Wire
from replaybank.rows import Rows
from replaybank.schema import Schema
from replaybank.views.transition import Transition

Errors = NDArray[np.float64] | None


class Staging:
    """Up to `size` transitions (or one a stream, if that is more), and their TD errors.

    They lie in rows, which take them as a buffer's do, and as fast; each is read once, in order.
    """

    def __init__(self, schema: Schema, size: int, streams: int) -> None:
        self._size, self._streams = size, streams
        room = max(size, streams)
        self._rows, self._view = Rows(schema, room, streams), Transition()
        self._owners, self._errors = np.empty(room, np.int64), np.empty(room)
        self._cut = 0  # rows before this one were
        self._since = 0.0
        self._everyone = np.arange(streams)
        self._rng = np.random.default_rng(0)  # a view is given one; this one draws nothing
        self._wire = Wire(schema)

    def __len__(self) -> int:
        return self._rows.added - self._cut

    @property
    def full(self) -> bool:
        """Whether it should be cut before one more comes of each stream."""
        return len(self) >= self._size or len(self) + self._streams > self._rows.capacity

    @property
    def age(self) -> float:
        """Seconds since the first of them came; 0 where there is none."""
        return time.monotonic() - self._since if len(self) else 0.0

    def add(self, values: tuple[Any, ...], lead: int, errors: Errors) -> bool:
        """Takes one transition a stream; False, and nothing, where a value is not plainly of its field's dtype."""
        if self._rows.append(values, lead) < 0:
            return False
        self._note(self._everyone, errors)
        return True

    def put(self, arrays: Arrays, owners: NDArray[np.int64], errors: Errors) -> int:
        """Takes as many as there is room for, from the first on; gives how many."""
        n = min(len(owners), self._rows.capacity - len(self))
        taken = self._rows.append(tuple(array[:n] for array in arrays), n, owners[:n])
        assert taken >= 0, "converted arrays are what the kernel takes"
        self._note(owners[:n], None if errors is None else errors[:n])
        return n

    def _note(self, owners: NDArray[np.int64], errors: Errors) -> None:
        end = len(self)
        if end == len(owners):
            self._since = time.monotonic()
        here = slice(end - len(owners), end)
        self._owners[here] = owners
        self._errors[here] = np.nan if errors is None else errors

    def cut(self) -> Packet | None:
        """All of them as a packet; None where there are none."""
        n, schema = len(self), self._rows.schema
        if not n:
            return None
        batch = self._view.read(self._rows, np.arange(self._cut, self._rows.added), self._rng)
        leaves = schema.values({name: batch[name] for name in schema.fields})
        packet = self._wire.pack(Transitions(tuple(leaves), self._owners[:n], self._errors[:n]))
        self._cut = self._rows.added
        return packet

    def clear(self) -> int:
        """Forgets them; gives how many there were."""
        n = len(self)
        self._cut = self._rows.added
        return n
