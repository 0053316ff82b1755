"""The C floor as contenders: the work of a row with nothing around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, EPSILON, Contender, LeftOutError, NoSuchWorkError, Role, Setup
from floor import LANES, Floor, compiled, to_records
from timing import Inputs, Trial
from transitions import Step, Transitions, priorities_like_td_errors


class FloorContender(Contender):
    """Uniform: read one record a row. Prioritized: walk the tree, then read one record a row. Update: the tree."""

    name = "C floor"
    role = Role.FLOOR
    #: Batches in a row inside C, so that the way there costs nothing.
    length: ClassVar[int] = 100

    @classmethod
    def check(cls, setup: Setup) -> None:
        if setup.streams > 1:
            raise NoSuchWorkError
        compiled()

    def build(self) -> None:
        self._floor = Floor(self.setup.capacity)
        self._rng = np.random.default_rng(self.setup.seed)
        self.add = lambda *step: None

    def fill(self, data: Transitions) -> None:
        self._floor.records[:] = to_records(data)

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        self._floor.set_priorities(_leaves(priorities))

    def adding(self, steps: Sequence[Step]) -> Trial:
        raise NoSuchWorkError

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
        raise NoSuchWorkError

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

    def updating(self, size: int) -> Trial:
        raise NoSuchWorkError


def _leaves(priorities: NDArray[np.float32]) -> NDArray[np.float64]:
    return (priorities.astype(np.float64) + EPSILON) ** ALPHA


def _fits(size: int) -> None:
    if size > LANES:
        raise LeftOutError(f"has {LANES} lanes")
