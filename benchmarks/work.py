"""Rows: kinds of work that a contender's buffer can be timed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contender import Contender
from timing import Trial
from transitions import Step

MakeTrial = Callable[[Contender, Sequence[Step]], Trial]


@dataclass(frozen=True)
class Row:
    """One kind of work, in microseconds a call."""

    key: str
    title: str
    trial: MakeTrial


def sample(size: int) -> MakeTrial:
    """Uniform or prioritized, as the buffer is."""
    return lambda contender, steps: contender.sampling(size)


def update(size: int) -> MakeTrial:
    return lambda contender, steps: contender.updating(size)


def whole_step(size: int) -> MakeTrial:
    return lambda contender, steps: contender.stepping(size, steps)


def add(contender: Contender, steps: Sequence[Step]) -> Trial:
    return contender.adding(steps)
