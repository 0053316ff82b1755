"""cpprb: a buffer of columns in Cython, sum and minimum trees in C++."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, EPSILON, Contender
from transitions import FIELDS, OBS_SIZE, Step, Transitions


class Cpprb(Contender):
    name = "cpprb"
    distribution = "cpprb"
    fields: ClassVar[Mapping[str, Any]] = {
        "obs": {"shape": OBS_SIZE, "dtype": np.float32},
        "action": {"dtype": np.int64},
        "reward": {"dtype": np.float32},
        "next_obs": {"shape": OBS_SIZE, "dtype": np.float32},
        "terminated": {"dtype": np.bool_},
        "truncated": {"dtype": np.bool_},
    }
    options: ClassVar[Mapping[str, Any]] = {}

    def build(self) -> None:
        import cpprb

        capacity, fields, options = self.setup.capacity, dict(self.fields), self.options
        if self.setup.prioritized:
            self._buffer = cpprb.PrioritizedReplayBuffer(capacity, fields, alpha=ALPHA, eps=EPSILON, **options)
            self.update = self._buffer.update_priorities
            self.sample = lambda size: self._buffer.sample(size, BETA)
        else:
            self._buffer = cpprb.ReplayBuffer(capacity, fields, **options)
            self.sample = self._buffer.sample
        self.add = lambda fields: self._buffer.add(**fields)

    def fill(self, data: Transitions) -> None:
        self._buffer.add(**data.columns())

    def add_form(self, step: Step) -> tuple[dict[str, Any]]:
        return (dict(zip(FIELDS, step, strict=True)),)

    def indices(self, batch: Any) -> Any:
        return batch["indexes"]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        fields = batch["obs"], batch["action"], batch["reward"], batch["next_obs"], batch["terminated"]
        return (*fields, batch["weights"]) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        columns = {name: batch[name] if name.endswith("obs") else batch[name][:, 0] for name in FIELDS}
        if self.setup.prioritized:
            columns["weights"] = batch["weights"]
        return columns

    def indices_of(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        return places.astype(np.uint64)
