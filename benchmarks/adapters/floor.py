"""The C floor as contenders: the work of a row with nothing around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, EPSILON, Contender, LeftOutError, NoSuchWorkError, Role, Setup
from floor import LANES, Floor, compiled, to_records
from timing import Inputs, Trial
from transitions import FIELDS, Step, Transitions, priorities_like_td_errors

#: Transitions that are filled in at once.
AT_ONCE = 1_000_000
OBS = ("obs", "next_obs")


class FloorContender(Contender):
    """Adds copy records, batches read one a row; prioritized, the tree is walked first; an update adds up its sums.

    The whole step is all of that: newcomers have their place in the tree, too.
    """

    name = "C floor"
    role = Role.FLOOR
    #: Batches in a row inside C, so that the way there costs nothing.
    length: ClassVar[int] = 100

    @classmethod
    def check(cls, setup: Setup) -> None:
        compiled()

    def build(self) -> None:
        self._floor = Floor(self.setup.capacity)
        self._rng = np.random.default_rng(self.setup.seed)
        self.add = self._floor.add

    def fill(self, data: Transitions) -> None:
        for start in range(0, len(data), AT_ONCE):
            self._floor.records[start : start + AT_ONCE] = to_records(data.part(start, start + AT_ONCE))

    def add_form(self, step: Step) -> tuple[Any, ...]:
        columns = (
            np.atleast_1d(value) if name not in OBS else np.atleast_2d(value)
            for name, value in zip(FIELDS, step, strict=True)
        )
        return (to_records(Transitions(*columns)),)

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        self._floor.set_priorities(_leaves(priorities))

    def adding(self, steps: Sequence[Step]) -> Trial:
        records = self._records(steps)
        return Trial(lambda calls: [(records,)] * calls, self._floor.add, len(records) // self.setup.streams)

    def sampling(self, size: int) -> Trial:
        _fits(size)
        if self.setup.prioritized:
            return Trial(self._uniforms(size), self._floor.walk_and_read, self.length)
        return Trial(lambda calls: [(self._places(size),) for _ in range(calls)], self._floor.read, self.length)

    def updating(self, size: int) -> Trial:
        _fits(size)

        def prepare(calls: int) -> Inputs:
            shape = self.length, size
            return [(self._places(size), _leaves(priorities_like_td_errors(shape, self._rng))) for _ in range(calls)]

        return Trial(prepare, self._floor.update, self.length)

    def stepping(self, size: int, steps: Sequence[Step]) -> Trial:
        _fits(size)
        records = self._records(steps)[: 4 * self.length]
        shape = self.length, size

        def prepare(calls: int) -> Inputs:
            return [
                (records, 1.0, self._rng.random(shape), _leaves(priorities_like_td_errors(shape, self._rng)))
                for _ in range(calls)
            ]

        return Trial(prepare, self._floor.step, self.length)

    def _records(self, steps: Sequence[Step]) -> NDArray[np.void]:
        return np.concatenate([self.add_form(step)[0] for step in steps])

    def _places(self, size: int) -> NDArray[np.int64]:
        return self._rng.integers(0, self.setup.capacity, size=(self.length, size))

    def _uniforms(self, size: int) -> Callable[[int], Inputs]:
        return lambda calls: [(self._rng.random((self.length, size)),) for _ in range(calls)]


class FloorWalk(FloorContender):
    """The way down the tree without the rows, to see what is what."""

    name = "C floor, tree walk alone"
    role = Role.DETAIL

    @classmethod
    def check(cls, setup: Setup) -> None:
        super().check(setup)
        if not setup.prioritized:
            raise NoSuchWorkError

    def sampling(self, size: int) -> Trial:
        _fits(size)
        return Trial(self._uniforms(size), self._floor.walk, self.length)

    def adding(self, steps: Sequence[Step]) -> Trial:
        raise NoSuchWorkError

    def updating(self, size: int) -> Trial:
        raise NoSuchWorkError

    def stepping(self, size: int, steps: Sequence[Step]) -> Trial:
        raise NoSuchWorkError


def _leaves(priorities: NDArray[np.float32]) -> NDArray[np.float64]:
    return (priorities.astype(np.float64) + EPSILON) ** ALPHA


def _fits(size: int) -> None:
    if size > LANES:
        raise LeftOutError(f"has {LANES} lanes")
