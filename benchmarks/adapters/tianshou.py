"""Tianshou: a Batch of NumPy columns, and a segment tree that Numba compiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, Contender
from transitions import FIELDS, Step, Transitions

NAMES = dict(zip(FIELDS, ("obs", "act", "rew", "obs_next", "terminated", "truncated"), strict=True))


class Tianshou(Contender):
    name = "Tianshou"
    distribution = "tianshou"
    chunk = 1_000_000
    options: ClassVar[Mapping[str, Any]] = {}

    def build(self) -> None:
        from tianshou.data import Batch, PrioritizedReplayBuffer, ReplayBuffer, VectorReplayBuffer

        capacity, streams = self.setup.capacity, self.setup.streams
        self._batch = Batch
        self._plain = ReplayBuffer
        if self.setup.prioritized:
            self._use(PrioritizedReplayBuffer(capacity, alpha=ALPHA, beta=BETA, **self.options))
        elif streams > 1:
            self._use(VectorReplayBuffer(capacity, streams))
        else:
            self._use(ReplayBuffer(capacity, **self.options))

    def _use(self, buffer: Any) -> None:
        self._buffer = buffer
        self.add = buffer.add
        self.sample = buffer.sample
        if self.setup.prioritized:
            self.update = buffer.update_weight

    def fill(self, data: Transitions) -> None:
        columns = {NAMES[name]: values for name, values in data.columns().items()}
        columns["done"] = data.terminated | data.truncated
        if self.setup.streams > 1:
            self._fill_streams(self._batch(**columns))
        elif self.setup.prioritized:
            self._buffer.update(self._plain.from_data(**columns))
        else:
            self._use(self._plain.from_data(**columns))

    def _fill_streams(self, batch: Any) -> None:
        """As `from_data` does for one stream: hand the data over and say that it counts. It has no public way."""
        self._buffer.set_batch(batch)
        for stream in self._buffer.buffers:
            stream._size = stream.maxsize
        self._buffer._lengths[:] = [stream.maxsize for stream in self._buffer.buffers]

    def add_form(self, step: Step) -> tuple[Any]:
        return (self._batch(**dict(zip(NAMES.values(), step, strict=True))),)

    def indices(self, batch: Any) -> Any:
        return batch[1]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        data = batch[0]
        fields = data.obs, data.act, data.rew, data.obs_next, data.terminated
        return (*fields, data.weight) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        columns = {name: batch[0][theirs] for name, theirs in NAMES.items()}
        if self.setup.prioritized:
            columns["weights"] = np.asarray(batch[0].weight)
        return columns
