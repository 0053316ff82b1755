"""What an adapter offers: one library's buffer and the calls that a training loop would make on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import cycle, islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from timing import Inputs, Trial
from transitions import FIELDS, Step, Transitions, priorities_like_td_errors

ALPHA = 0.6
BETA = 0.4
EPSILON = 1e-6
LOSS_FIELDS = FIELDS[:5]  # the loss does not look at truncated


class Role(Enum):
    """How a contender's time is used."""

    OURS = "ours"
    PEER = "peer"  # a bar is a ratio to the best of these
    COMPILED = "compiled"  # many steps inside one compiled program: a peer's best case, with a bar of its own
    REFERENCE = "reference"  # shown, never a bar
    FLOOR = "floor"  # C alone
    DETAIL = "detail"  # shown in the table of its row alone


class LeftOutError(Exception):
    """A contender that cannot take part; the message says why, and the report names both."""


class NoSuchWorkError(Exception):
    """A contender with nothing to time here, and nobody would look for it."""


@dataclass(frozen=True)
class Setup:
    """The buffer that every contender builds."""

    capacity: int
    prioritized: bool = False
    streams: int = 1
    seed: int = 0


class Contender:
    """A full buffer of one library.

    An adapter sets `add`, `sample` and `update` in its `build`, bound methods of the library where possible, so that
    no wrapper's cost is charged to it. `add_form` brings a step into the form that the library's `add` takes
    (a `Batch`, a `TensorDict`); it runs outside of the timed region, to the peers' benefit.
    """

    add: Callable[..., object]
    sample: Callable[[int], Any]
    update: Callable[..., object]

    name: ClassVar[str]
    distribution: ClassVar[str | None] = None
    role: ClassVar[Role] = Role.PEER
    #: False where the library has no prioritized buffer.
    prioritizes: ClassVar[bool] = True
    #: True where the oldest go an episode at a time, so that fewer than `capacity` may be held.
    whole_episodes: ClassVar[bool] = False
    #: The most transitions that it is asked to hold, where filling it with more takes minutes; None: as many as all.
    most: ClassVar[int | None] = None
    #: Of what is not installed here, by name.
    versions: Mapping[str, str] = {}
    #: How many priorities at a time `set_priorities` hands to `update`.
    chunk: ClassVar[int] = 8_000

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.build()

    def build(self) -> None:
        """Make the empty buffer and set the calls."""
        raise NotImplementedError

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise LeftOutError where this setup is not possible."""
        if setup.prioritized and not cls.prioritizes:
            raise LeftOutError("has no prioritized buffer")

    def fill(self, data: Transitions) -> None:
        """Put `capacity` transitions in, by the library's own quickest means."""
        raise NotImplementedError

    def add_form(self, step: Step) -> tuple[Any, ...]:
        return step

    def indices(self, batch: Any) -> Any:
        """What `update` takes to say which transitions of this batch it means."""
        raise NotImplementedError

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        """The arrays that a loss takes, as the library has them: LOSS_FIELDS, where prioritized with the weights.

        Timed together with `sample`: what a library hands out lazily is part of its time.
        """
        raise NotImplementedError

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        """The batch as NumPy columns under our names, for tests; `weights` with them where prioritized."""
        raise NotImplementedError

    def indices_of(self, places: NDArray[np.int64]) -> Any:
        """Indices for `update` from places 0 … capacity - 1."""
        return places

    def priority_form(self, priorities: NDArray[np.float32]) -> Any:
        return priorities

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        """Give every transition its own priority."""
        places = np.arange(self.setup.capacity)
        for start in range(0, len(places), self.chunk):
            part = slice(start, start + self.chunk)
            self.update(self.indices_of(places[part]), self.priority_form(priorities[part]))

    def source(self, steps: Sequence[Step]) -> Callable[[int], list[tuple[Any, ...]]]:
        """Gives the next so many steps in the form that `add` takes, beginning again after the last."""
        endless = cycle([self.add_form(step) for step in steps])
        return lambda count: list(islice(endless, count))

    def adding(self, steps: Sequence[Step]) -> Trial:
        return Trial(self.source(steps), self.add)

    def sampling(self, size: int) -> Trial:
        sample, unpack = self.sample, self.unpack
        return Trial(lambda calls: [(size,)] * calls, lambda size: unpack(sample(size)))

    def updating(self, size: int) -> Trial:
        rng = np.random.default_rng(self.setup.seed)

        def prepare(calls: int) -> Inputs:
            places = rng.integers(0, self.setup.capacity, size=(calls, size))
            priorities = priorities_like_td_errors((calls, size), rng)
            return [
                (self.indices_of(row), self.priority_form(values))
                for row, values in zip(places, priorities, strict=True)
            ]

        return Trial(prepare, self.update)

    def stepping(self, size: int, steps: Sequence[Step]) -> Trial:
        """Four adds, one prioritized sample, one update: what a DQN that trains every fourth step asks for."""
        rng = np.random.default_rng(self.setup.seed)
        source = self.source(steps)

        def prepare(calls: int) -> Inputs:
            adds = source(4 * calls)
            priorities = priorities_like_td_errors((calls, size), rng)
            return [
                (*adds[4 * call : 4 * call + 4], self.priority_form(values)) for call, values in enumerate(priorities)
            ]

        add, sample, unpack, indices, update = self.add, self.sample, self.unpack, self.indices, self.update

        def step(first: Any, second: Any, third: Any, fourth: Any, priorities: Any) -> None:
            add(*first)
            add(*second)
            add(*third)
            add(*fourth)
            batch = sample(size)
            unpack(batch)
            update(indices(batch), priorities)

        return Trial(prepare, step)
