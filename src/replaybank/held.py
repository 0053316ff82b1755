"""What rows hold beside themselves, and pieces of rows with it, as a checkpoint takes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.layout import STACK_LINKS
from replaybank.rows import NONE, Rows


class Held(NamedTuple):
    """By id: the next observations that no row holds (tails), and the older frames that were put aside.

    `onward`: the distance to the stream's next row, where the segment ends and the stream goes on. `older` are those
    of the observation, `next_older` of the next one: [n, frames - 1] of the records that tails are.
    """

    tail_ids: NDArray[np.int64]
    tails: NDArray[Any]
    onward: NDArray[np.uint32]
    older_ids: NDArray[np.int64]
    older: NDArray[Any]
    next_older_ids: NDArray[np.int64]
    next_older: NDArray[Any]

    @classmethod
    def of(cls, rows: Rows, ids: NDArray[np.int64], own: bool = True) -> Held:
        """What live rows (ids [n]) hold beside themselves; without `own` not the frames of their own observations."""
        slots = ids % rows.capacity
        tail = rows.data["link_tail"][slots]
        has = tail != NONE
        found = [ids[has], rows.tails[tail[has]], rows.onward[tail[has]]]
        for link in STACK_LINKS:
            wanted = rows.stack is not None and (own or link != STACK_LINKS[0])
            older = rows.data[link][slots] if wanted else np.full(len(ids), NONE, np.uint32)
            found += [ids[older != NONE], rows.older[older[older != NONE]]]
        return cls._make(found)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(array.nbytes for array in self)

    def since(self, oldest: int) -> Held:
        """What rows from `oldest` on hold."""
        arrays: tuple[NDArray[Any], ...] = self
        tail, older, following = (ids >= oldest for ids in (self.tail_ids, self.older_ids, self.next_older_ids))
        which = (tail, tail, tail, older, older, following, following)
        return Held._make(array[mask] for array, mask in zip(arrays, which, strict=True))


class Piece(NamedTuple):
    """Transitions from `first` on as a checkpoint keeps them: records [n], and what they and others hold.

    Of the records' links only `previous` and `step` mean anything.
    """

    first: int
    records: NDArray[Any]
    held: Held

    @classmethod
    def of(cls, rows: Rows, first: int, end: int, still_open: NDArray[np.int64], room: NDArray[np.uint8]) -> Piece:
        """Copies live rows and what they hold, but for what those that are `still_open` (ids) may hand on.

        `room` [m, bytes of a record] is where the records are copied to, m >= end - first.
        """
        records, begin = room[: end - first], first % rows.capacity
        whole = min(end - first, rows.capacity - begin)
        stored = rows.data.view(np.uint8).reshape(rows.capacity, rows.dtype.itemsize)
        records[:whole] = stored[begin : begin + whole]
        records[whole:] = stored[: end - first - whole]
        ids = np.arange(first, end)
        settled = np.ones(len(ids), bool)
        settled[still_open[(still_open >= first) & (still_open < end)] - first] = False
        copied = records.reshape(-1).view(rows.dtype)
        beside = [copied[link] != NONE for link in ("link_tail", *(STACK_LINKS if rows.stack is not None else ()))]
        held = Held.of(rows, ids[settled & np.logical_or.reduce(beside)])
        if rows.stack is not None:  # what their own observations hold never moves on
            held_open = Held.of(rows, ids[~settled])
            joined = (np.concatenate(pair) for pair in zip(held[3:5], held_open[3:5], strict=True))
            held = Held._make((*held[:3], *joined, *held[5:]))
        return cls(first, copied, held)
