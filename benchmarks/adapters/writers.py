"""Buffers that several processes write to while one samples: how each library does that.

Every loop is the same: the writers add 64 transitions at a time, as fast as they can; the learner takes in what needs
taking in, samples 256, gets the arrays of a loss in hand, and, where prioritized, updates their priorities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adapters.cpprb import Cpprb
from adapters.replaybank import Replaybank
from adapters.torchrl import TorchRL
from contender import ALPHA, BETA, EPSILON, Contender, LeftOutError, Setup
from transitions import Transitions

#: What the learner takes in between two batches, at most: as many as it samples. Twice as much costs batches, half as
#: much costs transitions.
MOST = 256

Write = Callable[[Any], object]


class SharedContender(Contender):
    """A full buffer of one library that other processes can write to."""

    def chunk_form(self, data: Transitions) -> Any:
        """The transitions as the library's call for many of them takes them."""
        return data.columns()

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """In a writer's process: what adds a chunk."""
        raise NotImplementedError

    def take_in(self) -> int:
        """In the learner's: moves what the writers have left; how many transitions that were.

        0 where the writers write into the buffer itself: then they count.
        """
        return 0

    def settle(self) -> None:
        """When the writers have left: takes in what they left behind."""

    def close(self) -> None:
        """Gives shared memory back."""


class SharedReplaybank(SharedContender, Replaybank):
    """Writers have rings; the learner drains them."""

    def fill(self, data: Transitions) -> None:
        from replaybank import shared

        super().fill(data)
        self._shared = shared
        self._learner = shared.Learner(self._buffer)

    @contextmanager
    def writing(self) -> Iterator[Write]:
        with self._shared.Writer(self._learner.address) as writer:
            yield lambda columns: writer.extend(**columns)

    def take_in(self) -> int:
        return int(self._learner.drain(MOST).transitions)

    def settle(self) -> None:
        while self._learner.stats()["writers"]:
            self._learner.drain()

    def close(self) -> None:
        self._learner.close()


class SharedCpprb(SharedContender, Cpprb):
    """MPReplayBuffer and MPPrioritizedReplayBuffer: columns and trees in shared memory, and locks."""

    def build(self) -> None:
        import cpprb

        capacity, fields = self.setup.capacity, dict(self.fields)
        if self.setup.prioritized:
            self._buffer = cpprb.MPPrioritizedReplayBuffer(capacity, fields, alpha=ALPHA, eps=EPSILON)
            self.update = self._buffer.update_priorities
            self.sample = lambda size: self._buffer.sample(size, BETA)
        else:
            self._buffer = cpprb.MPReplayBuffer(capacity, fields)
            self.sample = self._buffer.sample

    @contextmanager
    def writing(self) -> Iterator[Write]:
        yield lambda columns: self._buffer.add(**columns)


class SharedTorchRL(SharedContender, TorchRL):
    """A storage in memory-mapped files, and a cursor behind a lock."""

    name = "TorchRL, LazyMemmapStorage"

    @classmethod
    def check(cls, setup: Setup) -> None:
        if setup.prioritized:
            raise LeftOutError("its prioritized sampler cannot be shared between processes")
        super().check(setup)

    def build(self) -> None:
        import torch
        from tensordict import TensorDict
        from torchrl.data import ReplayBuffer

        self._tensordict, self._torch = TensorDict, torch
        self._buffer = ReplayBuffer(storage=self._storage(), shared=True)
        self.sample = self._buffer.sample

    def _storage(self) -> Any:
        from torchrl.data import LazyMemmapStorage

        return LazyMemmapStorage(self.setup.capacity)

    def chunk_form(self, data: Transitions) -> Any:
        return self._rows(tuple(data.columns().values()), len(data))

    @contextmanager
    def writing(self) -> Iterator[Write]:
        yield self._buffer.extend


class SharedTorchRLTensors(SharedTorchRL):
    """The same with tensors in shared memory."""

    name = "TorchRL, LazyTensorStorage"

    def _storage(self) -> Any:
        from torchrl.data import LazyTensorStorage

        return LazyTensorStorage(self.setup.capacity)

    def fill(self, data: Transitions) -> None:
        super().fill(data)
        self._buffer._storage._storage.share_memory_()


SHARED_CONTENDERS: Sequence[type[SharedContender]] = (
    SharedReplaybank,
    SharedCpprb,
    SharedTorchRL,
    SharedTorchRLTensors,
)
