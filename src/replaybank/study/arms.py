"""The arms of the comparison: what each remembers and what it learns from. They differ in nothing but their buffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import replaybank as rb
from replaybank.study import SettingError


@dataclass(frozen=True)
class BufferSettings:
    """What the run prescribes for any arm's buffer.

    capacity: transitions the remembering arms hold. batch_size: transitions per update. gamma: discount per step.
    alpha, beta: prioritized replay's exponents (Schaul et al. 2016, sec. 3.3 and 3.4), beta at the first update.
    updates: how many updates the run makes, over which beta rises to 1.
    """

    capacity: int
    batch_size: int
    gamma: float
    alpha: float
    beta: float
    updates: int


@dataclass(frozen=True)
class Arm:
    """A way to remember: `make_buffer(settings, seed)` builds the memory, `batch_size(settings)` is what it draws."""

    name: str
    definition: str
    make_buffer: Callable[[BufferSettings, int], rb.ReplayBuffer]
    batch_size: Callable[[BufferSettings], int] = lambda settings: settings.batch_size


def _latest(capacity: int, settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    """The last `capacity` transitions, drawn without repetition: a batch of that size is exactly those, each once."""
    sampler = rb.Uniform(replace=False)
    return rb.ReplayBuffer(capacity, sampler=sampler, view=rb.Transition(gamma=settings.gamma), seed=seed)


def _online(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _latest(1, settings, seed)


def _recent(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _latest(settings.batch_size, settings, seed)


def _uniform(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return rb.ReplayBuffer(settings.capacity, sampler=rb.Uniform(), view=rb.Transition(gamma=settings.gamma), seed=seed)


def _prioritized(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    sampler = rb.Prioritized(alpha=settings.alpha, beta=rb.linear(settings.beta, 1.0, settings.updates))
    return rb.ReplayBuffer(settings.capacity, sampler=sampler, view=rb.Transition(gamma=settings.gamma), seed=seed)


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("online", "no memory: each update sees the latest transition only (batch 1)", _online, lambda settings: 1),
        Arm("recent", "the latest batch-size transitions: as many samples per update, still correlated", _recent),
        Arm("uniform", "a batch drawn uniformly from everything remembered", _uniform),
        Arm("prioritized", "a batch drawn by TD error, importance weights with beta rising to 1", _prioritized),
    )
}


def check_arms(names: tuple[str, ...]) -> None:
    """Raise SettingError, naming given and expected, unless `names` are known arms, at least one and none twice."""
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise SettingError(f"--arms: {unknown[0]!r} is no arm; expected some of {', '.join(ARMS)}")
    if not names or len(set(names)) < len(names):
        raise SettingError(f"--arms: expected each arm at most once and at least one arm, given {list(names)}")
