"""PyTorch: the textbook interface.

The two classes here look like the replay buffers of tutorials (a deque of tuples; a list with an array of priorities),
so that code written against one runs with only its import changed:

    from replaybank.torch import ReplayBuffer, PrioritizedReplayBuffer

Both give CPU tensors. New code gains more from `replaybank.ReplayBuffer`, which knows truncation, streams and n-step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import buffer as bank
from replaybank.batch import Batch
from replaybank.convert import as_numeric
from replaybank.extras import of_extra
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.uniform import Uniform

with of_extra("torch"):
    import torch

FiveTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
SevenTensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class ReplayBuffer:
    """The textbook replay buffer: `push`, `sample`, `len`, `capacity`; first in first out.

    `sample` draws without repetition and refuses (ValueError) more than the buffer holds, as `random.sample` on a deque
    does. `done` means terminated: where an episode was cut off by a time limit, push False. Shapes and dtypes are taken
    from the first `push`; `seed` makes the draws repeatable.
    """

    def __init__(self, capacity: int, seed: Any = None) -> None:
        self._buffer = bank.ReplayBuffer(capacity, sampler=Uniform(replace=False), seed=seed)

    def push(self, state: Any, action: Any, reward: Any, next_state: Any, done: Any) -> None:
        """Adds one transition. `state` and `next_state` are anything NumPy makes numbers of, alike in shape.

        `action`: a number or an array; `reward`: a finite number; `done`: bool. Only values are kept. Raises TypeError
        or ValueError, and changes nothing, where they do not fit the first transition.
        """
        _push(self._buffer, state, action, reward, next_state, done)

    def sample(self, batch_size: int) -> FiveTensors:
        """(states, actions, rewards, next_states, dones): float32, int64, float32, float32, float32; [batch_size, ...].

        Actions that were pushed as floats come back as float32. Raises ValueError for more than the buffer holds.
        """
        return _five(self._buffer.sample(batch_size))

    @property
    def capacity(self) -> int:
        """The most transitions it holds."""
        return self._buffer.capacity

    def __len__(self) -> int:
        return len(self._buffer)


class PrioritizedReplayBuffer:
    """The textbook prioritized replay buffer: P(i) = p_i^alpha / sum_k p_k^alpha (Schaul et al. 2016, eq. 1).

    `capacity` and `seed` are those of `ReplayBuffer`. `indices` name places, 0 … len - 1: a list that is overwritten in
    a circle once it is full. New transitions get the largest priority in the buffer. `update_priorities` sets |TD
    error| + epsilon; `priorities[i] = x` sets x itself.
    """

    def __init__(self, capacity: int, alpha: float = 0.6, epsilon: float = 1e-6, seed: Any = None) -> None:
        self._sampler = Prioritized(alpha=alpha, epsilon=epsilon)
        self._buffer = bank.ReplayBuffer(capacity, sampler=self._sampler, seed=seed)

    def push(self, state: Any, action: Any, reward: Any, next_state: Any, done: Any) -> None:
        """Adds one transition, as `ReplayBuffer.push` does, with the largest priority in the buffer (1.0 if empty)."""
        _push(self._buffer, state, action, reward, next_state, done)

    def sample(self, batch_size: int) -> SevenTensors:
        """As `ReplayBuffer.sample`, with repetition; then indices (int64) and probabilities (float32), [batch_size].

        The importance weights are (len(buffer) * probabilities) ** -beta, divided by their maximum (eq. 2).
        """
        batch = self._buffer.sample(batch_size)
        indices = torch.from_numpy(batch.indices % self.capacity)
        return (*_five(batch), indices, torch.from_numpy(batch.probabilities.astype(np.float32)))

    def update_priorities(self, indices: Any, td_errors: Any) -> None:
        """Sets the priorities of the places `indices` [n] to |td_errors| ([n]) + epsilon.

        Raises ValueError or TypeError, and changes nothing, where a place does not exist or an error is not finite.
        """
        self._buffer.update_priorities(self._ids(indices), _detached(td_errors))

    @property
    def priorities(self) -> Priorities:
        """The raw priorities by place: read and written like an array of len(buffer)."""
        return Priorities(self)

    @property
    def alpha(self) -> float:
        """How much priorities count; may be set at any time."""
        return self._sampler.alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._sampler.alpha = alpha

    @property
    def epsilon(self) -> float:
        """What is added to the size of a TD error."""
        return self._sampler.epsilon

    @property
    def capacity(self) -> int:
        """The most transitions it holds."""
        return self._buffer.capacity

    def __len__(self) -> int:
        return len(self._buffer)

    def _ids(self, indices: Any) -> NDArray[np.int64]:
        """The ids that now sit at places."""
        places = as_numeric("indices", _detached(indices))
        if places.dtype.kind not in "iu" and places.size:
            raise TypeError(f"indices: expected integers, given {places.dtype}")
        wrong = places[(places < 0) | (places >= len(self))]
        if wrong.size:
            raise ValueError(f"indices: expected 0 to {len(self) - 1}, given {wrong.flat[0]}")
        oldest = self._sampler.window.oldest
        return np.asarray(oldest + (places - oldest) % self.capacity, np.int64)


class Priorities:
    """The raw priorities of `owner`, a `PrioritizedReplayBuffer`, float64 by place: a view.

    `priorities[i]`, `priorities[i] = x`, `len`, NumPy.
    """

    def __init__(self, owner: PrioritizedReplayBuffer) -> None:
        self._owner = owner

    def __len__(self) -> int:
        return len(self._owner)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        places = self._owner._ids(np.arange(len(self)))
        return self._owner._sampler.priority_of(places).astype(dtype or np.float64)

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __getitem__(self, index: Any) -> Any:
        places = self._places(index)
        found = self._owner._sampler.priority_of(self._owner._ids(places))
        return found[()]  # a number where one place was asked for

    def __setitem__(self, index: Any, priority: Any) -> None:
        """Sets raw priorities; raises ValueError where one is negative or not finite, IndexError for no such place."""
        places = self._places(index)
        values = _real("priority", _detached(priority)).astype(np.float64)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"priority: expected finite numbers >= 0, given {priority}")
        ids = self._owner._ids(places).reshape(-1)
        self._owner._sampler.update(ids, np.array(np.broadcast_to(values, places.shape)).reshape(-1))

    def _places(self, index: Any) -> NDArray[np.int64]:
        """The places that an index names; numbers (and arrays of them) without looking at all the others."""
        index, size = _detached(index), len(self)
        array = np.asarray(index)
        if array.dtype.kind not in "iu":
            masked: NDArray[np.int64] = np.arange(size)[index]  # slices too
            return masked
        places: NDArray[np.int64] = np.where(array < 0, array + size, array)
        if ((places < 0) | (places >= size)).any():
            raise IndexError(f"priorities: expected places 0 to {size - 1}, given {index}")
        return places

    def __repr__(self) -> str:
        return f"Priorities({np.asarray(self)})"


def _push(buffer: bank.ReplayBuffer, state: Any, action: Any, reward: Any, next_state: Any, done: Any) -> None:
    action = _detached(action)
    buffer.add(
        _state("state", state),
        _real("action", action) if buffer.schema is None else action,  # one array: what `sample` can give
        _detached(reward),
        _state("next_state", next_state),
        _detached(done),
        False,
    )


def _state(name: str, value: Any) -> NDArray[Any]:
    """States are stored as the float32 they come back as; uint8 images stay a quarter of that."""
    array = _real(name, _detached(value))
    return array if array.dtype.kind == "f" or array.dtype == np.uint8 else array.astype(np.float32)


def _real(name: str, value: Any) -> NDArray[Any]:
    """`value` as an array of real numbers."""
    array = as_numeric(name, value)
    if array.dtype.kind == "c":
        raise TypeError(f"{name}: expected real numbers, given {array.dtype}")
    return array


def _five(batch: Batch) -> FiveTensors:
    obs, action, reward, next_obs, done = (torch.from_numpy(field) for field in batch)
    actions = action.float() if action.is_floating_point() else action.long()
    return obs.float(), actions, reward, next_obs.float(), done.float()


def _detached(value: Any) -> Any:
    """Tensors, which textbook code hands over as they are, as arrays."""
    # Not isinstance: the metaclass of tensors makes that three times as slow, five times a push.
    if not hasattr(value, "detach"):
        return value
    try:
        return value.detach().cpu().numpy()
    except RuntimeError as error:  # a tensor without values
        raise TypeError(f"expected a tensor of numbers: {error}") from error
