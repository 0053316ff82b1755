"""Our own buffer: everything that is timed goes through its public interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, EPSILON, Contender, Role
from transitions import FIELDS, Transitions


class Replaybank(Contender):
    name = "replaybank"
    distribution = "replaybank"
    role = Role.OURS

    def build(self) -> None:
        import replaybank as rb

        setup = self.setup
        self._buffer = rb.ReplayBuffer(
            capacity=setup.capacity,
            streams=setup.streams,
            sampler=rb.Prioritized(alpha=ALPHA, beta=BETA, epsilon=EPSILON) if setup.prioritized else rb.Uniform(),
            view=self.view(),
            seed=setup.seed,
        )
        self.add = self._buffer.add
        self.sample = self._buffer.sample
        self.update = self._buffer.update_priorities

    def view(self) -> Any:
        import replaybank as rb

        return rb.Transition(gamma=0.99)

    def fill(self, data: Transitions) -> None:
        if self.setup.streams > 1:
            for step in data.vector_steps(self.setup.streams):
                self.add(*step)
            return
        for start in range(0, len(data), 1_000_000):
            self._buffer.extend(*data.part(start, start + 1_000_000).columns().values())

    def indices(self, batch: Any) -> Any:
        return batch.indices

    def indices_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        oldest: int = self._buffer._rows.oldest  # stats() tells it too, for a pass over all priorities
        return places + oldest

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        fields = batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminated
        return (*fields, batch.weights) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        names = (*FIELDS, "weights") if self.setup.prioritized else FIELDS
        return {name: getattr(batch, name) for name in names}
