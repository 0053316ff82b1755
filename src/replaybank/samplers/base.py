"""What every sampler is, and the ids it draws from."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


class Window:
    """The ids that are in the buffer, as a sampler knows them: [oldest, added). It never sees data."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added = 0  # the id that comes next
        self.start = 0  # older ids were cleared away
        self.oldest = 0  # the oldest live id; equal to `added` where there is none

    def __len__(self) -> int:
        return self.added - self.oldest

    def extend_to(self, added: int) -> None:
        """All ids below `added` have been given out; those older than the last `capacity` have left."""
        self.added = added
        self.oldest = max(self.start, added - self.capacity)

    def clear(self) -> None:
        """All ids have left."""
        self.start = self.oldest = self.added

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"added": self.added, "start": self.start}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a `state()`."""
        self.start = int(state["start"])
        self.extend_to(int(state["added"]))


class Sampler(Protocol):
    """Decides which ids are drawn.

    A buffer calls `attach` once and then tells of everything it adds. A sampler belongs to one buffer.
    """

    def attach(self, capacity: int) -> None:
        """Starts with an empty buffer of `capacity` transitions; raises ValueError where one is attached already."""
        ...

    def added(self, first_id: int, n: int) -> None:
        """Ids first_id … first_id + n - 1 came in; those older than the last `capacity` ones left."""
        ...

    def cleared(self) -> None:
        """Everything left; ids go on."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        """`n` live ids (int64 [n]) and the probability with which each was drawn (float64 [n])."""
        ...

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        """Importance weights (float32 [n]) for what one call of `sample` drew. Called once a `sample`."""
        ...

    def priorities(self, td_error: Floats) -> Floats:
        """The raw priorities that TD errors stand for; raises ValueError for those that stand for none."""
        ...

    def update(self, ids: Ids, priorities: Floats) -> int:
        """Sets raw priorities; ids that have left are skipped. Gives how many were set."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next draws depend on but the generator: NumPy arrays and numbers, copied."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a `state()` of a sampler of the same kind and capacity."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def check_valid(self) -> None:
        """Raises AssertionError where the sampler contradicts itself."""
        ...


def magnitudes(td_error: Floats, epsilon: float) -> Floats:
    """|td_error| + epsilon; raises ValueError where one is not finite."""
    found = np.empty(len(td_error))
    if not math.isfinite(kernels.magnitudes(td_error, epsilon, found)):
        wrong = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"td_error: expected finite numbers, given {td_error[wrong]} at position {wrong}")
    return found


def attached_once(window: Window | None, capacity: int) -> Window:
    """A new window, or ValueError where the sampler has one already."""
    if window is not None:
        raise ValueError("this sampler belongs to another buffer; give each buffer a sampler of its own")
    return Window(capacity)
