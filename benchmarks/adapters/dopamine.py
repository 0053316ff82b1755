"""Dopamine: transitions as objects in a dictionary, batches stacked from them; a sum tree in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, LOSS_FIELDS, Contender
from transitions import Step, Transitions


class AsGiven:
    """An accumulator for transitions that are whole already.

    Dopamine's own makes one of two steps in a row: an episode's last transition does not come out, and its end stands
    at the one before. What comes out is to be what went in.
    """

    def accumulate(self, transition: Any) -> Iterable[Any]:
        return (transition,)

    def clear(self) -> None:
        """It keeps nothing."""


class Dopamine(Contender):
    """The buffer of its JAX agents, without compression; new transitions get the greatest priority, as in Rainbow.

    Where it evicts, it holds one more than `max_capacity` for a moment; where that is a power of two, its tree has no
    place for it, and is made for one more. The weights are computed from the probabilities that it gives.
    """

    name = "Dopamine"
    distribution = "dopamine-rl"

    def build(self) -> None:
        from dopamine.jax.replay_memory.elements import ReplayElement
        from dopamine.jax.replay_memory.replay_buffer import ReplayBuffer
        from dopamine.jax.replay_memory.samplers import PrioritizedSamplingDistribution, UniformSamplingDistribution

        setup = self.setup
        self._element = ReplayElement
        self._plain = UniformSamplingDistribution(setup.seed)
        if setup.prioritized:
            self._drawn = PrioritizedSamplingDistribution(
                setup.seed, priority_exponent=ALPHA, max_capacity=setup.capacity + 1
            )
        self._buffer = ReplayBuffer(AsGiven(), self._plain, batch_size=32, max_capacity=setup.capacity, compress=False)
        self.sample = lambda size: self._buffer.sample(size, with_sample_metadata=True)
        self.update = lambda keys, priorities: self._buffer.update(keys, priorities=priorities)

    def fill(self, data: Transitions) -> None:
        """As of uniform sampling, then handed over: a million writes to its tree, one at a time, take minutes."""
        add_one = self._buffer.add
        for step in data.steps():
            add_one(self._form(step))
        if self.setup.prioritized:
            tree = self._drawn._sum_tree
            self._drawn.from_state_dict({"sum_tree": tree.to_state_dict(), **self._plain.to_state_dict()})
            self._buffer._sampling_distribution = self._drawn

            def add_one(element: Any) -> None:
                self._buffer.add(element, priority=tree.max_recorded_priority)

        def add_many(elements: Iterable[Any]) -> None:
            for element in elements:
                add_one(element)

        self.add = add_one if self.setup.streams == 1 else add_many

    def _form(self, step: Step) -> Any:
        obs, action, reward, next_obs, terminated, truncated = step
        return self._element(obs, action, np.float32(reward), next_obs, terminated, truncated)

    def add_form(self, step: Step) -> tuple[Any]:
        if self.setup.streams == 1:
            return (self._form(step),)
        return ([self._form(row) for row in zip(*step, strict=True)],)

    def indices(self, batch: Any) -> Any:
        return batch[1].keys

    def indices_of(self, places: NDArray[np.int64]) -> NDArray[np.int32]:
        return (self._buffer.add_count - self.setup.capacity + places).astype(np.int32)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        data, drawn = batch
        fields = data.state, data.action, data.reward, data.next_state, data.is_terminal
        if not self.setup.prioritized:
            return fields
        weights = (self.setup.capacity * drawn.probabilities) ** -BETA
        return (*fields, weights / weights.max())

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        names = (*LOSS_FIELDS, "weights") if self.setup.prioritized else LOSS_FIELDS
        return dict(zip(names, self.unpack(batch), strict=True)) | {"truncated": batch[0].episode_end}
