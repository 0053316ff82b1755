"""The deque buffers of `textbook.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, EPSILON, Contender, Role
from textbook import DequeBuffer, PrioritizedDequeBuffer
from transitions import FIELDS, Transitions


class Textbook(Contender):
    """Its `add` keeps references: the only contender that copies nothing when it adds, so it is no peer of a bar."""

    name = "textbook deque"
    role = Role.REFERENCE

    def build(self) -> None:
        self._buffer: DequeBuffer | PrioritizedDequeBuffer
        if self.setup.prioritized:
            prioritized = PrioritizedDequeBuffer(self.setup.capacity, ALPHA, EPSILON, self.setup.seed)
            self._buffer = prioritized
            self.sample = lambda size: prioritized.sample(size, BETA)
            self.update = prioritized.update_priorities
        else:
            uniform = DequeBuffer(self.setup.capacity, self.setup.seed)
            self._buffer = uniform
            self.sample = uniform.sample
        self.add = self._buffer.push if self.setup.streams == 1 else self._push_all

    def _push_all(self, *step: Any) -> None:
        push = self._buffer.push
        for transition in zip(*step, strict=True):
            push(*transition)

    def fill(self, data: Transitions) -> None:
        self._buffer.memory.extend(data.steps())
        if isinstance(self._buffer, PrioritizedDequeBuffer):
            self._buffer.priorities.extend([1.0] * len(data))

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        """All at once: a deque needs up to 10 µs to reach one of a million entries."""
        assert isinstance(self._buffer, PrioritizedDequeBuffer)
        self._buffer.priorities = deque((priorities.astype(float) + EPSILON).tolist(), maxlen=self.setup.capacity)

    def indices(self, batch: Any) -> Any:
        return batch[1]

    def indices_of(self, places: NDArray[np.int64]) -> list[int]:
        return [int(place) for place in places]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return (*batch[0][:5], batch[2]) if self.setup.prioritized else batch[:5]

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        columns = batch[0] if self.setup.prioritized else batch
        named = dict(zip(FIELDS, columns, strict=True))
        if self.setup.prioritized:
            named["weights"] = batch[2]
        return named
