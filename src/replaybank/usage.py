"""What became of transitions: which were ever drawn, and how old they are."""

from __future__ import annotations

from collections import deque
from time import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaybank.samplers.state import MOST, column, count, entry

if TYPE_CHECKING:
    from replaybank.rows import Rows

MARKS = 256  # in a full buffer: ages are known to so small a part of it
NO_IDS = np.empty(0, np.int64)


class Usage:
    """A bit for each slot: was it ever drawn? And marks in time: how much had been added and sampled when?

    It hears of each `sample`, of nothing else: what came in and left since the last one is found out then, so `add`
    costs nothing. Memory: one bit a slot from the first `sample` on, and MARKS marks.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.calls = 0  # of `sample`
        self._bits: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._added = 0  # at the last `sample`
        self._seen = np.zeros(2, np.int64)  # the oldest id when it last heard, and how many bits are set
        # (added, calls, time) at some moments: who has an id below `added` was there by then.
        self._marks: deque[tuple[int, int, float]] = deque([(0, 0, time())])
        self._due = 0  # with so many added, another mark is taken

    @staticmethod
    def bytes_for(capacity: int) -> int:
        """The most bytes it holds for a buffer of so many transitions."""
        return (capacity + 7) // 8

    @property
    def nbytes(self) -> int:
        """Bytes of the bits; those of the marks are a few thousand at most."""
        return self._bits.nbytes

    def sampled(self, ids: NDArray[np.int64], rows: Rows) -> None:
        """A call of `sample` gave these ids, live ones."""
        if not self._bits.size:
            self._bits = np.zeros((self.capacity + 7) // 8, np.uint8)
        self._added = rows.mark_drawn(self._bits, self._seen, ids)
        if self._added >= self._due:
            self._mark(rows.oldest, self._added)
        self.calls += 1

    def _mark(self, oldest: int, added: int) -> None:
        marks = self._marks
        marks.append((added, self.calls, time()))
        while len(marks) > 1 and marks[1][0] <= oldest:  # the oldest came in after the second: the first tells nothing
            marks.popleft()
        self._due = added + max(1, self.capacity // MARKS)

    def never_sampled(self, rows: Rows) -> float:
        """The share, from 0 to 1, of what is in the rows that no `sample` ever gave; 0 where there is nothing."""
        if self._bits.size:
            rows.mark_drawn(self._bits, self._seen, NO_IDS)
        return 1.0 - self._seen.item(1) / len(rows) if len(rows) else 0.0

    def drawn(self, ids: NDArray[np.int64], rows: Rows) -> NDArray[np.bool_]:
        """Which of these live ids ([n]) some `sample` ever gave: bool [n]."""
        if not self._bits.size:
            return np.zeros(len(ids), bool)
        rows.mark_drawn(self._bits, self._seen, NO_IDS)
        slots = ids % self.capacity
        drawn: NDArray[np.bool_] = (self._bits[slots >> 3] >> (slots & 7) & 1).astype(bool)
        return drawn

    def age(self, id_: int) -> tuple[int, float]:
        """Since a live id came in: calls of `sample`, and seconds.

        Counted from the last mark before it, so never too small; too large by what passed until the next mark, at most
        1 / MARKS of a full buffer, and the time until a first `sample`.
        """
        calls, when = max((mark for mark in self._marks if mark[0] <= id_), default=self._marks[0])[1:]
        return self.calls - calls, max(time() - when, 0.0)

    def state(self) -> dict[str, Any]:
        """What `restore` needs. `seen` and `bits` are windows, no copies; `times` (float64 [m]) are the system's."""
        return {
            "calls": self.calls,
            "seen": self._seen,
            "due": self._due,
            "added": self._added,
            "bits": self._bits[: (min(self._added, self.capacity) + 7) // 8],
            "marks": np.array([mark[:2] for mark in self._marks], np.int64).reshape(-1),
            "times": np.array([mark[2] for mark in self._marks]),
        }

    def restore(self, state: dict[str, Any], oldest: int = MOST, added: int = MOST) -> None:
        """Takes up a `state()` of one of the same capacity; the bits are copied. ValueError where it is none.

        `oldest` and `added`: the oldest id that is here, and the next one; it can know of no later ones.
        """
        calls, due = (count(state, name) for name in ("calls", "due"))
        added = count(state, "added", 0, added)
        used = (min(added, self.capacity) + 7) // 8 if len(entry(state, "bits")) else 0
        bits, seen = column(state, "bits", np.uint8, used), column(state, "seen", np.int64, 2)
        m = len(entry(state, "times"))
        times, marks = column(state, "times", np.float64, m), column(state, "marks", np.int64, 2 * m)
        if not 0 < m <= 2 * MARKS + 2 or not np.isfinite(times).all() or not (seen >= 0).all() or seen[0] > oldest:
            raise ValueError(f"state: expected 1 to {2 * MARKS + 2} marks and what was seen, found {m}, {seen}")
        if int(np.unpackbits(bits).sum()) != seen[1]:
            raise ValueError(f"state: seen: expected as many as there are bits, found {seen[1]}")
        pairs = marks.reshape(m, 2)
        if (np.diff(pairs, axis=0) < 0).any() or pairs.min() < 0 or pairs[-1, 0] > added or pairs[-1, 1] > calls:
            raise ValueError("state: marks must be in order")
        self.calls, self._added, self._due = calls, added, due
        self._seen[:] = seen
        self._bits = np.zeros((self.capacity + 7) // 8 if used else 0, np.uint8)
        self._bits[:used] = bits
        told = zip(pairs.tolist(), times.tolist(), strict=True)
        self._marks = deque((at, calls_then, when) for (at, calls_then), when in told)

    def __getstate__(self) -> dict[str, Any]:
        return {"capacity": self.capacity, **self.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Usage.__init__(self, state["capacity"])
        self.restore(state)

    def check_valid(self) -> None:
        """Raises AssertionError where it contradicts itself."""
        assert int(np.unpackbits(self._bits).sum()) == self._seen[1], "bits are counted wrongly"
        assert len(self._marks) <= 2 * MARKS + 2, "too many marks"
        added, calls, _ = zip(*self._marks, strict=True)
        assert list(added) == sorted(added)
        assert list(calls) == sorted(calls)
