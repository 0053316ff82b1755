"""What every sampler is, and the ids it draws from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.convert import is_finite
from replaybank.kernels import Lock
from replaybank.samplers.state import count

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


class Window:
    """The ids that are in the buffer, as a sampler knows them: [oldest, added). It never sees data."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added = 0  # the id that comes next
        self.start = 0  # older ids were dropped
        self.oldest = 0  # the oldest live id; equal to `added` where there is none

    def __len__(self) -> int:
        return self.added - self.oldest

    def extend_to(self, added: int) -> None:
        """All ids below `added` have been given out; those older than the last `capacity` have left."""
        self.added = added
        self.oldest = max(self.start, added - self.capacity)

    def drop(self, oldest: int) -> None:
        """All ids below `oldest` have left, though newer ones did not push them out."""
        self.start = max(self.start, oldest)
        self.extend_to(max(self.added, oldest))

    def ids(self) -> Ids:
        """All live ids, oldest first."""
        return np.arange(self.oldest, self.added)

    @property
    def used(self) -> int:
        """How many slots (id % capacity), from the first on, ever held something."""
        return min(self.added, self.capacity)

    def slots(self) -> tuple[slice, ...]:
        """The slots of all live ids, oldest first: one run of them, or two where they go round."""
        if self.oldest == self.added:
            return ()
        first, end = self.oldest % self.capacity, (self.added - 1) % self.capacity + 1
        return (slice(first, end),) if first < end else (slice(first, self.capacity), slice(0, end))

    def gaps(self) -> tuple[slice, ...]:
        """Of the slots that ever held something those that hold nothing now: at most two runs."""
        ends = sorted([0, self.used, *(end for run in self.slots() for end in (run.start, run.stop))])
        return tuple(slice(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if a < b)

    def state(self) -> dict[str, Any]:
        """What `restored` needs."""
        return {"added": self.added, "start": self.start}

    def restored(self, state: Any) -> Window:
        """Another one of this capacity, as a `state()` has it; raises ValueError where that contradicts itself."""
        window = Window(self.capacity)
        added = count(state, "added")
        window.start = count(state, "start", 0, added)
        window.extend_to(added)
        return window


class Sampler(Protocol):
    """Decides which ids are drawn.

    A buffer calls `attach` once and then tells of everything it adds. A sampler belongs to one buffer.
    """

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        """Starts with an empty buffer of `capacity` transitions; raises ValueError where one is attached already.

        `lock`: the buffer's, held whenever it calls one of these verbs (but not here). What sets something that draws
        or updates depend on takes it first, if other threads may draw meanwhile. None: there are none.
        """
        ...

    def added(self, first_id: int, n: int) -> None:
        """Ids first_id … first_id + n - 1 came in; those older than the last `capacity` ones left.

        Ids that came in before and that it was not told of (an interrupt, an error in another sampler) come in, too.
        The buffer holds all of them already: what is raised here reaches the caller of `add`, and takes nothing back.
        """
        ...

    def dropped(self, oldest: int) -> None:
        """All ids below `oldest` have left, though newer ones did not push them out; with `oldest` the next id, all.

        Ids go on. Those below `oldest` that it was not told of have left, too.
        """
        ...

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        """`n` live ids (int64 [n]) and the probability with which each was drawn (float64 [n]), by `rng` alone."""
        ...

    def probability_of(self, ids: Ids) -> Floats:
        """The probability (float64 [n]) with which one draw now gives each of these live ids; it may be 0."""
        ...

    def effective_size(self) -> float:
        """1 / sum of P(i)^2 over the buffer (Kish 1965): how many transitions, drawn uniformly, repeat as often.

        From 1 (one is always drawn) to the number of live ids (all alike); 0 where none can be drawn.
        """
        ...

    @property
    def distinct(self) -> bool:
        """Whether one `draw` never gives an id twice; asking it for more ids than there are is then a ValueError."""
        ...

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        """Importance weights (float32 [n]) for what one call of `sample` drew with `probabilities` (float64 [n]).

        Called once a `sample`, at its end.
        """
        ...

    def failed(self) -> None:
        """The call of `sample` ends with an error instead: nobody gets what was drawn since the last `weights`.

        Those are to be drawn again as if they had not been; what the generator gave is spent.
        """
        ...

    def priorities(self, td_error: Floats) -> Floats:
        """The raw priorities (float64 [n]) that `td_error` (float64 [n]) stands for.

        Raises ValueError where it stands for none.
        """
        ...

    def update(self, ids: Ids, priorities: Floats) -> int:
        """Sets raw `priorities` (float64 [n]) of `ids` (int64 [n]); those that have left are skipped.

        Gives how many were set.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make such a sampler again, as they are now.

        Numbers, strings, None, lists of them, schedules, and other samplers.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything but `settings()` and the generator that the next draws depend on.

        Arrays, numbers, and dicts of them. Arrays are windows on what the sampler holds, in the order of slots
        (id % capacity) where it keeps them so, and true until its next call: whoever wants to keep them copies them.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a `state()` of a sampler of the same kind, settings and capacity.

        Raises ValueError where it is no such state; the sampler is then as it was, or as `attach` made it.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def bytes_for(self, capacity: int) -> int:
        """The most bytes it holds for a buffer of `capacity` transitions, attached or not. Never less for more."""
        ...

    def check_valid(self) -> None:
        """Raises AssertionError where the sampler contradicts itself."""
        ...


def magnitudes(td_error: Floats, epsilon: float = 0.0) -> tuple[Floats, float]:
    """|td_error| + epsilon, and the largest of them (0 of none); raises ValueError where one is not finite."""
    found = np.empty(len(td_error))
    largest = kernels.magnitudes(td_error, epsilon, found)
    if not math.isfinite(largest):
        wrong = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(f"td_error: expected finite numbers, given {td_error[wrong]} at position {wrong}")
    return found, largest


CHUNK = 1 << 16  # ids at a time, where all of them are looked at


def kish(probability_of: Callable[[Ids], Floats], first: int, end: int) -> float:
    """1 / sum of P(i)^2 of the ids first … end - 1; 0 where all P are 0."""
    total = 0.0
    for begin in range(first, end, CHUNK):
        probabilities = probability_of(np.arange(begin, min(begin + CHUNK, end)))
        total += float(np.dot(probabilities, probabilities))
    return 1.0 / total if total else 0.0


def ones(n: int) -> NDArray[np.float32]:
    """The weights of samplers that correct for nothing (float32 [n])."""
    weights = np.empty(n, np.float32)
    weights.fill(1.0)
    return weights


def spread(n: int, rng: np.random.Generator, oldest: int, size: int) -> tuple[Ids, Floats]:
    """`n` independent draws of the ids oldest … oldest + size - 1, all with the same probability."""
    ids, probabilities = np.empty(n, np.int64), np.empty(n)
    kernels.spread(rng.random(n), oldest, size, ids)
    probabilities.fill(1.0 / size)
    return ids, probabilities


def not_negative(owner: str, name: str, value: Any) -> float:
    """`value` if it is a finite number >= 0, else ValueError."""
    if not (is_finite(value) and value >= 0):
        raise ValueError(f"{owner}: {name} must be a finite number >= 0, given {value!r}")
    return float(value)


def whole_number(owner: str, name: str, value: Any) -> int:
    """`value` if it is an integer >= 1, else ValueError."""
    if not (isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1):
        raise ValueError(f"{owner}: {name} must be an integer of at least 1, given {value!r}")
    return int(value)


def attached(window: Window | None) -> Window:
    """The window of a sampler, or ValueError where it has none yet."""
    if window is None:
        raise ValueError("this sampler belongs to no buffer yet")
    return window


def attached_once(window: Window | None, capacity: int) -> Window:
    """A new window, or ValueError where the sampler has one already."""
    if window is not None:
        raise ValueError("this sampler belongs to another buffer; give each buffer a sampler of its own")
    return Window(capacity)
