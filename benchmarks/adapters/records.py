"""One NumPy record array with `take`: how far plain NumPy gets with the right layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contender import Contender, NoSuchWorkError, Role, Setup
from floor import RECORD, to_records
from transitions import FIELDS, Transitions


class Records(Contender):
    """A reference, not a buffer: it checks nothing, and its columns are views of records, not contiguous."""

    name = "NumPy records"
    role = Role.REFERENCE

    @classmethod
    def check(cls, setup: Setup) -> None:
        if setup.prioritized:
            raise NoSuchWorkError

    def build(self) -> None:
        self._records = np.zeros(self.setup.capacity, RECORD)
        self._rng = np.random.default_rng(self.setup.seed)
        self._next = 0
        self.add = self._write
        self.sample = self._take

    def fill(self, data: Transitions) -> None:
        self._records[:] = to_records(data)

    def _write(self, *step: Any) -> None:
        if self.setup.streams == 1:
            self._records[self._next] = step
            self._next = (self._next + 1) % len(self._records)
            return
        count = self.setup.streams
        places = np.arange(self._next, self._next + count) % len(self._records)
        for name, values in zip(FIELDS, step, strict=True):
            self._records[name][places] = values
        self._next = (self._next + count) % len(self._records)

    def _take(self, size: int) -> NDArray[np.void]:
        return self._records.take(self._rng.integers(0, len(self._records), size))

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch["obs"], batch["action"], batch["reward"], batch["next_obs"], batch["terminated"]

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {name: batch[name] for name in FIELDS}
