"""How many transitions so many bytes hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from replaybank.rows import Rows
    from replaybank.samplers.base import Sampler

# A part of the capacity: so much leaves early at a time, where tails need the room, and so much is checked at a time.
DROPPED_AT_ONCE = 64
CHECKED_AT_ONCE = 256


@dataclass(frozen=True)
class Costs:
    """Bytes of the parts of a buffer.

    `row`: a transition; `tail`: an observation that no row holds; `aside`: the older frames of a stack that no rows
    hold, 0 where observations are no stacks; `streams`: the bookkeeping of all streams.
    """

    row: int
    tail: int
    aside: int
    streams: int

    @classmethod
    def of(cls, record: np.dtype[Any], frames: int, streams: int) -> Costs:
        """Of rows of this dtype, whose observations are stacks of so many frames."""
        frame, index = record["obs"].itemsize, 4
        return cls(record.itemsize, frame + 2 * index, (frames > 1) * ((frames - 1) * frame + index), 8 * streams)

    @property
    def beside(self) -> int:
        """The most that one transition costs beside its row."""
        return self.tail + 2 * self.aside

    def least(self, capacity: int, streams: int) -> int:
        """What `capacity` transitions cost at least: where every observation but the newest is shared."""
        return capacity * self.row + min(streams, capacity) * self.tail + self.streams

    def ahead(self, capacity: int, streams: int) -> int:
        """How many transitions there should always be room for, whatever they share."""
        return max(streams, capacity // CHECKED_AT_ONCE)

    def least_room(self, capacity: int, streams: int) -> int:
        """What so many transitions can cost, where there are no others."""
        return self.ahead(capacity, streams) * (self.row + self.beside) + streams * self.tail + self.streams

    def capacity(self, max_bytes: int, streams: int, most: int, rest: Callable[[int], int]) -> int:
        """How many transitions, `most` at most, can be in `max_bytes`; `rest`: what else costs how much for a capacity.

        Beside what they cost at least there is room for what the next few may bring. Raises ValueError where there is
        no room for one transition a stream.
        """

        def needed(capacity: int) -> int:
            ahead = self.ahead(capacity, streams) * self.beside
            return capacity * self.row + streams * self.tail + self.streams + ahead + rest(capacity)

        if needed(streams) > max_bytes:
            raise ValueError(
                f"max_bytes: expected at least {needed(streams)}, for one transition a stream ({streams} of them), "
                f"given {max_bytes}"
            )
        low, high = streams, min(max_bytes // self.row, most)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if needed(middle) <= max_bytes else (low, middle - 1)
        return low


class Budget:
    """Keeps rows, and a sampler that hears of what leaves, in `max_bytes`.

    Whether the next transitions share their observations is not known before they are there; so there must be room for
    them as if they did not. Where there is none the oldest leave, not one by one but a part of the capacity, which
    gives whole pages back.

    `beside`: bytes of what is neither in the rows nor in the sampler. Raises ValueError where the sampler leaves no
    room.
    """

    def __init__(self, max_bytes: int, rows: Rows, sampler: Sampler, beside: int) -> None:
        self.max_bytes = max_bytes
        self._rows = rows
        self._sampler = sampler
        self._for_rows = max_bytes - beside - sampler.bytes_for(rows.capacity)
        if rows.costs.least_room(rows.capacity, rows.streams) > self._for_rows:
            raise ValueError(f"max_bytes: {max_bytes} leave no room for transitions beside {sampler!r}")

    def fits(self, n: int) -> bool:
        """Whether `n` more transitions fit, whatever they share."""
        return self._rows.nbytes_after(n) <= self._for_rows

    def sure(self) -> int:
        """The id up to which (exclusive) transitions fit, whatever they share."""
        rows = self._rows
        return rows.added + (self._for_rows - rows.nbytes) // rows.next_costs

    def make_room(self, n: int) -> None:
        """Lets the oldest leave until `n` more transitions fit, whatever they share."""
        rows = self._rows
        if not self.fits(n) and rows.idle_bytes * DROPPED_AT_ONCE > self.max_bytes:  # a time of many tails is over
            rows.compact()
        while not (self.fits(n) or rows.empty):
            oldest = min(rows.oldest + max(rows.capacity // DROPPED_AT_ONCE, 1), rows.added)
            rows.drop(oldest)
            self._sampler.dropped(oldest)

    def append(self, arrays: tuple[NDArray[Any], ...], lead: int, owners: NDArray[np.int64] | None) -> int:
        """As `Rows.append` of converted arrays, a few at a time, with room made for each few; tells the sampler."""
        rows = self._rows
        first = rows.added
        if lead < 0:
            arrays, lead = tuple(array[np.newaxis] for array in arrays), 1
        if owners is None:
            owners = np.arange(lead)
        size = max(rows.capacity // CHECKED_AT_ONCE, 1)
        for begin in range(0, len(owners), size):
            part = slice(begin, begin + size)
            n = len(owners[part])
            self.make_room(n)
            at = rows.append(tuple(array[part] for array in arrays), n, owners[part])
            self._sampler.added(at, n)
        return first
