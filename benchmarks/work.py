"""The work that is timed: groups of full buffers, and the rows measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from adapters import CONTENDERS
from adapters.floor import FloorContender
from adapters.replaybank import Replaybank
from contender import Contender, Setup
from timing import Trial
from transitions import Step, Transitions, trajectories, unrelated

MILLION = 1_000_000
PRIORITIZED = "prioritized sample with weights"
#: Steps beyond the capacity: they make the buffer wrap around, and are what is added while the clock runs.
BEYOND = 4_096

MakeTrial = Callable[[Contender, Sequence[Step]], Trial]


class Run(IntEnum):
    """The shortest kind of run that a row belongs to."""

    ALWAYS = 0
    DEFAULT = 1
    FULL = 2


@dataclass(frozen=True)
class Row:
    """One kind of work, in microseconds a call."""

    key: str
    title: str
    trial: MakeTrial
    run: Run = Run.ALWAYS


@dataclass(frozen=True)
class Group:
    """Rows that share the same full buffers, one buffer for each entrant and setup; the first setup is the row's."""

    setups: tuple[Setup, ...]
    data: Callable[[int, np.random.Generator], Transitions]
    rows: tuple[Row, ...]
    entrants: tuple[type[Contender], ...] = CONTENDERS


def uniform(size: int) -> MakeTrial:
    return lambda contender, steps: contender.sampling(size)


prioritized = uniform


def update(size: int) -> MakeTrial:
    return lambda contender, steps: contender.updating(size)


def whole_step(size: int) -> MakeTrial:
    return lambda contender, steps: contender.stepping(size, steps)


def add(contender: Contender, steps: Sequence[Step]) -> Trial:
    return contender.adding(steps)


GROUPS: tuple[Group, ...] = (
    Group(
        (Setup(MILLION),),
        trajectories,
        (
            Row("uniform", "uniform sample, 256", uniform(256)),
            Row("uniform-32", "uniform sample, 32", uniform(32), Run.FULL),
            Row("uniform-1024", "uniform sample, 1024", uniform(1024), Run.FULL),
            Row("uniform-4096", "uniform sample, 4096", uniform(4096), Run.FULL),
            Row("add", "add one", add),
        ),
    ),
    Group(
        (Setup(MILLION, prioritized=True),),
        trajectories,
        (
            Row("prioritized", f"{PRIORITIZED}, 256", prioritized(256)),
            Row("prioritized-32", f"{PRIORITIZED}, 32", prioritized(32), Run.FULL),
            Row("prioritized-1024", f"{PRIORITIZED}, 1024", prioritized(1024), Run.FULL),
            Row("prioritized-4096", f"{PRIORITIZED}, 4096", prioritized(4096), Run.FULL),
            Row("update", "update_priorities, 256", update(256)),
            Row("update-4096", "update_priorities, 4096", update(4096)),
            Row("step", "whole step: 4 adds, prioritized sample 256, update 256", whole_step(256)),
        ),
    ),
    Group(
        (Setup(MILLION, streams=64),),
        trajectories,
        (Row("add-64", "add 64 from 64 streams", add),),
    ),
    Group(
        (Setup(10 * MILLION, prioritized=True), Setup(MILLION, prioritized=True)),
        trajectories,
        (Row("prioritized-10m", f"{PRIORITIZED}, 256, of 10M rows", prioritized(256)),),
        entrants=(Replaybank, FloorContender),
    ),
    Group(
        (Setup(MILLION),),
        unrelated,
        (
            Row("uniform-unrelated", "uniform sample, 256, random states", uniform(256), Run.DEFAULT),
            Row("add-unrelated", "add one, random states", add, Run.DEFAULT),
        ),
    ),
    Group(
        (Setup(MILLION, prioritized=True),),
        unrelated,
        (
            Row(
                "prioritized-unrelated",
                f"{PRIORITIZED}, 256, random states",
                prioritized(256),
                Run.DEFAULT,
            ),
            Row("step-unrelated", "whole step, random states", whole_step(256), Run.DEFAULT),
        ),
    ),
)


def transitions_for(group: Group, setup: Setup) -> Transitions:
    """Enough to fill the buffer, and BEYOND more (with many streams, at least 256 steps)."""
    beyond = max(BEYOND, 256 * setup.streams)
    return group.data(setup.capacity + beyond, np.random.default_rng(setup.seed))


def entrant_name(kind: type[Contender], setup: Setup, group: Group) -> str:
    """The contender's name, with its size where the setup is there for comparison."""
    if setup == group.setups[0]:
        return kind.name
    return f"{kind.name} at {setup.capacity // MILLION}M"
