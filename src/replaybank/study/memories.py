"""Memories: what an agent remembers and what an update learns from. Any of them goes with any agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import replaybank as rb
from replaybank.samplers.base import Sampler
from replaybank.views.base import View


@dataclass(frozen=True)
class BufferSettings:
    """What a run prescribes for any memory's buffer.

    capacity: transitions the remembering ones hold. batch_size: transitions per update. gamma: discount per step.
    n_step: steps of a return. alpha, beta: prioritized replay's exponents (Schaul et al. 2016, sec. 3.3 and 3.4), beta
    at the first update. updates: how many updates the run makes, over which beta rises to 1. min_priority: LAP's
    smallest priority, in units of the TD error.
    """

    capacity: int
    batch_size: int
    gamma: float
    alpha: float
    beta: float
    updates: int
    n_step: int = 1
    min_priority: float = 1.0


@dataclass(frozen=True)
class Memory:
    """`make_buffer(settings, seed)` builds it, `batch_size(settings)` is what an update draws from it."""

    name: str
    definition: str
    make_buffer: Callable[[BufferSettings, int], rb.ReplayBuffer]
    batch_size: Callable[[BufferSettings], int] = lambda settings: settings.batch_size


def view_of(settings: BufferSettings) -> View:
    """What a draw means: one step, or the return of several."""
    one_step = settings.n_step == 1
    return rb.Transition(gamma=settings.gamma) if one_step else rb.NStep(settings.n_step, gamma=settings.gamma)


def prioritized_sampler(settings: BufferSettings) -> Sampler:
    """By TD error, importance weights with beta rising to 1 over the run's updates."""
    return rb.Prioritized(alpha=settings.alpha, beta=rb.linear(settings.beta, 1.0, settings.updates))


def _buffer(capacity: int, sampler: Sampler, settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return rb.ReplayBuffer(capacity, sampler=sampler, view=view_of(settings), seed=seed)


def _latest(capacity: int, settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    """The last `capacity` transitions, drawn without repetition: a batch of that size is exactly those, each once."""
    return _buffer(capacity, rb.Uniform(replace=False), settings, seed)


def _online(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _latest(1, settings, seed)


def _recent(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _latest(settings.batch_size, settings, seed)


def _uniform(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _buffer(settings.capacity, rb.Uniform(), settings, seed)


def _combined(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _buffer(settings.capacity, rb.Combined(rb.Uniform()), settings, seed)


def _prioritized(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    return _buffer(settings.capacity, prioritized_sampler(settings), settings, seed)


def _rank(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    sampler = rb.RankPrioritized(alpha=settings.alpha, beta=rb.linear(settings.beta, 1.0, settings.updates))
    return _buffer(settings.capacity, sampler, settings, seed)


def _lap(settings: BufferSettings, seed: int) -> rb.ReplayBuffer:
    sampler = rb.Prioritized(alpha=settings.alpha, beta=0.0, min_priority=settings.min_priority)
    return _buffer(settings.capacity, sampler, settings, seed)


MEMORIES: dict[str, Memory] = {
    memory.name: memory
    for memory in (
        Memory(
            "online", "no memory: each update sees the latest transition only (batch 1)", _online, lambda settings: 1
        ),
        Memory("recent", "the latest batch-size transitions: as many samples per update, still correlated", _recent),
        Memory("uniform", "a batch drawn uniformly from everything remembered", _uniform),
        Memory("prioritized", "a batch drawn by TD error, importance weights with beta rising to 1", _prioritized),
        Memory("rank", "a batch drawn by the rank of the TD error, importance weights with beta rising to 1", _rank),
        Memory("lap", "a batch drawn by the TD error, at least min-priority, no weights (LAP)", _lap),
        Memory("combined", "the newest transition and a batch drawn uniformly (CER)", _combined),
    )
}
