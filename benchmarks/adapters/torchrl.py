"""TorchRL: a TensorDict of columns; its sum and minimum trees live in a compiled module of its wheel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, EPSILON, Contender, LeftOutError, Setup
from transitions import FIELDS, Step, Transitions


class TorchRL(Contender):
    name = "TorchRL"
    distribution = "torchrl"

    @classmethod
    def check(cls, setup: Setup) -> None:
        super().check(setup)
        os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")
        import torch
        import torchrl

        if not setup.prioritized:
            return
        try:
            import torchrl._torchrl
        except ImportError as error:
            raise LeftOutError(
                f"the compiled tree in the wheel of torchrl {torchrl.__version__} does not load "
                f"with torch {torch.__version__}"
            ) from error

    def build(self) -> None:
        import torch
        from tensordict import TensorDict
        from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer, TensorDictReplayBuffer

        self._tensordict = TensorDict
        self._torch = torch
        storage, options = LazyTensorStorage(self.setup.capacity, device=self.device()), self.options()
        if self.setup.prioritized:
            self._buffer = TensorDictPrioritizedReplayBuffer(
                alpha=ALPHA, beta=BETA, eps=EPSILON, storage=storage, **options
            )
            self.update = self._buffer.update_priority
        else:
            self._buffer = TensorDictReplayBuffer(storage=storage, **options)
        self.add = self._buffer.add if self.setup.streams == 1 else self._buffer.extend
        self.sample = self._buffer.sample

    def device(self) -> str:
        """Where the storage is."""
        return "cpu"

    def options(self) -> dict[str, Any]:
        """Of the buffer."""
        return {}

    def fill(self, data: Transitions) -> None:
        self._buffer.extend(self._rows(tuple(data.columns().values()), len(data)))

    def _rows(self, values: tuple[Any, ...], count: int) -> Any:
        tensors = {name: self._torch.as_tensor(value) for name, value in zip(FIELDS, values, strict=True)}
        return self._tensordict(tensors, batch_size=[count])

    def add_form(self, step: Step) -> tuple[Any]:
        if self.setup.streams > 1:
            return (self._rows(step, self.setup.streams),)
        return (self._rows(tuple(np.asarray(value)[None] for value in step), 1)[0],)

    def indices(self, batch: Any) -> Any:
        return batch["index"]

    def indices_of(self, places: NDArray[np.int64]) -> Any:
        return self._torch.from_numpy(places)

    def priority_form(self, priorities: NDArray[np.float32]) -> Any:
        return self._torch.from_numpy(priorities)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        fields = batch["obs"], batch["action"], batch["reward"], batch["next_obs"], batch["terminated"]
        return (*fields, batch["priority_weight"]) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        columns = {name: batch[name].numpy() for name in FIELDS}
        if self.setup.prioritized:
            columns["weights"] = batch["priority_weight"].numpy()
        return columns
