"""Places that rows take and give back, for what rows hold beside themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.storage import Memory


class Pool:
    """Records by place. Places that were given back are taken again before those that nobody ever had.

    Nothing is touched before it is needed: what is reserved costs no memory yet.

    `counts` (int64 [2]): how many places were ever used, and how many of these are free; they are the first ones of
    `free`. A window on the cursor of the rows: the kernels take places and give them back, too.
    """

    def __init__(
        self, name: str, memory: Memory, dtype: np.dtype[Any], shape: tuple[int, ...], counts: NDArray[np.int64]
    ) -> None:
        """Each place holds records [*shape] of a dtype; as yet there are none."""
        self._name = name
        self._memory = memory
        self._dtype = dtype
        self._shape = shape
        self.counts = counts
        self.records: NDArray[Any] = np.empty((0, *shape), dtype)
        self.free: NDArray[np.uint32] = np.empty(0, np.uint32)

    @property
    def used(self) -> int:
        """Places that were ever used."""
        return self.counts.item(0)

    @property
    def taken(self) -> int:
        """Places that hold something."""
        return self.counts.item(0) - self.counts.item(1)

    def reserve(self, n: int, needed: int) -> None:
        """Makes it `n` places, no fewer than are used, of which `needed` are about to be. The arrays are new ones."""
        used, idle = self.counts.tolist()
        records, free = self.records, self.free
        dtype = np.dtype((self._dtype, self._shape)) if self._shape else self._dtype
        self.records = self._memory.array(self._name, n, dtype, needed)
        self.free = np.empty(n, np.uint32)
        self.records[:used] = records[:used]
        self.free[:idle] = free[:idle]

    def take(self, n: int) -> NDArray[np.int64]:
        """`n` places that hold nothing. Raises ValueError, and takes none, where there are fewer."""
        used, idle = self.counts.tolist()
        again = min(n, idle)
        end = used + n - again
        if end > len(self.records):
            raise ValueError("more is held than there are places")
        self.counts[:] = end, idle - again
        return np.concatenate([self.free[idle - again : idle], np.arange(used, end)]).astype(np.int64)

    def reopen(self, used: int, taken: NDArray[np.int64]) -> None:
        """Goes on with so many places used, of which only these hold something. Raises ValueError if it cannot."""
        if not 0 <= used <= len(self.records) or (taken >= used).any():
            raise ValueError("what rows hold is beyond what is in use")
        idle = np.ones(used, bool)
        idle[taken] = False
        self.counts[:] = used, idle.sum()
        self.free[: idle.sum()] = np.flatnonzero(idle)

    def clear(self) -> None:
        """Nothing is held any more; the memory goes back to the system."""
        give_back(self.records, 0, self.used)
        give_back(self.free, 0, self.used)
        self.counts[:] = 0

    def check_valid(self, taken: NDArray[np.int64]) -> None:
        """Raises AssertionError where the places that rows hold, and the free ones, are not each of the used once."""
        used, idle = self.counts.tolist()
        assert used <= len(self.records)
        found = np.concatenate([taken, self.free[:idle].astype(np.int64)])
        assert len(np.unique(found)) == len(found) == used, "what a row holds is lost or held twice"


def give_back(array: NDArray[Any], first: int, end: int) -> int:
    """Gives the memory of these items back to the system, up to pages; gives the byte up to which that went."""
    size = array.nbytes // max(len(array), 1)
    return kernels.release(array, first * size, end * size)
