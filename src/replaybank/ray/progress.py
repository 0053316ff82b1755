"""How far a shard has come, in a place that outlives its process."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Progress:
    """A shard's epoch, and how many transitions it has ever taken: two numbers in a mapped file.

    What is written to the mapping is the system's, not the process's: a process that is killed has told all. A machine
    that dies has told what its system wrote back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        begin: NDArray[np.int64] = np.array([-1, 0])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() != begin.nbytes:
                file.truncate(0)
                file.write(begin.tobytes())
        with path.open("r+b") as file:
            self._held: NDArray[np.int64] = np.frombuffer(mmap.mmap(file.fileno(), begin.nbytes), np.int64)

    @property
    def epoch(self) -> int:
        """The last one that has begun; -1 before the first."""
        return self._held.item(0)

    @property
    def total(self) -> int:
        """Transitions ever taken, over all epochs."""
        return self._held.item(1)

    @total.setter
    def total(self, total: int) -> None:
        self._held[1] = total

    def begin(self, epoch: int, total: int) -> None:
        """A new epoch, in which so many have been taken before."""
        self._held[:] = (epoch, total)

    def remove(self) -> None:
        """Takes the file away."""
        with suppress(OSError):
            self._path.unlink()
