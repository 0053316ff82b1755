"""What became of transitions: how old they are, whether they were ever drawn, and how likely they are to be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from replaybank.inspection.fields import within
from replaybank.inspection.histograms import Bins
from replaybank.inspection.report import Age, Priorities, Transition, Use
from replaybank.rows import Rows
from replaybank.samplers.base import CHUNK, Floats, Ids, Sampler
from replaybank.usage import Usage

SLICES = 50
FEW = 8  # numbers of an action or reward that are told


@runtime_checkable
class Ranking(Protocol):
    """A sampler that keeps a priority of each transition."""

    def priority_of(self, ids: Ids) -> Floats: ...
    def probability_of(self, ids: Ids) -> Floats: ...
    def effective_size(self) -> float: ...


def rankings(sampler: Sampler) -> Iterator[Ranking]:
    """The sampler and those that it is made of, as far as they keep priorities."""
    if isinstance(sampler, Ranking):
        yield sampler
    settings = sampler.settings()
    parts = [part for _, part in settings.get("parts", ())] + [settings.get("sampler")]
    for part in parts:
        if part is not None:
            yield from rankings(part)


def use_of(rows: Rows, usage: Usage, sampled: int) -> Use:
    """Of rows that hold something."""
    oldest, added = rows.oldest, rows.added
    bounds = _slices(rows)
    never = np.zeros(len(bounds), np.int64)
    for ids in _ids(rows):
        missed = ids[~usage.drawn(ids, rows)]
        never += np.bincount(_slice_of(bounds, missed), minlength=len(bounds))
    return Use(
        calls=usage.calls,
        sampled=sampled,
        never_sampled=float(never.sum() / len(rows)),
        oldest=_age(rows, usage, oldest),
        middle=_age(rows, usage, (oldest + added - 1) // 2),
        newest=_age(rows, usage, added - 1),
        slices=tuple(bounds.tolist()),
        never_sampled_by_slice=tuple((never / np.diff(bounds, append=added)).tolist()),
    )


def priorities_of(rows: Rows, ranking: Any, usage: Usage | None, top: int) -> Priorities:
    """Of rows that hold something. Two passes over the priorities; `usage` is None where it is not known."""
    size, bounds = len(rows), _slices(rows)
    low, high, least, total, zeros = math.inf, 0.0, math.inf, 0.0, 0
    by_slice = np.zeros(len(bounds))
    best = np.empty(0, np.int64)
    for ids in _ids(rows):
        found = ranking.priority_of(ids)
        positive = found[found > 0]
        low, high = min(low, found.min().item()), max(high, found.max().item())
        least = min(least, positive.min(initial=math.inf).item())
        total += found.sum().item()
        zeros += len(found) - len(positive)
        by_slice += np.bincount(_slice_of(bounds, ids), found, len(bounds))
        best = _largest(ranking, np.concatenate([best, _candidates(ids, found, top)]), top)
    histogram, draws = None, np.zeros(0)
    if least < math.inf:
        bins = Bins(least, high, log=True)
        draws = np.zeros(len(bins.counts))
        for ids in _ids(rows):
            found = ranking.priority_of(ids)
            positive = found > 0
            places = bins.add(found[positive])
            draws += np.bincount(places, ranking.probability_of(ids)[positive], len(draws))
        histogram = bins.histogram()
    return Priorities(
        sampler=type(ranking).__name__,
        low=low,
        mean=total / size,
        high=high,
        zeros=zeros,
        histogram=histogram,
        draws=tuple(draws.tolist()),
        effective_size=ranking.effective_size(),
        mean_by_slice=tuple((by_slice / np.diff(bounds, append=rows.added)).tolist()),
        top=_transitions(rows, ranking, usage, best),
    )


def text_of(description: Any) -> str:
    """A sampler, view or schedule (`plain.described`) in the words that make it."""
    if isinstance(description, list):
        return "[" + ", ".join(map(text_of, description)) + "]"
    if not isinstance(description, dict):
        return repr(description)
    if description.get("kind") is None:
        return str(description.get("what"))
    settings = ", ".join(f"{name}={text_of(value)}" for name, value in description["settings"].items())
    return f"{description['kind']}({settings})"


def _ids(rows: Rows) -> Iterator[NDArray[np.int64]]:
    for first in range(rows.oldest, rows.added, CHUNK):
        yield np.arange(first, min(first + CHUNK, rows.added))


def _slices(rows: Rows) -> NDArray[np.int64]:
    """The first ids of equal parts of what is here."""
    return rows.oldest + np.arange(min(SLICES, len(rows))) * len(rows) // min(SLICES, len(rows))


def _slice_of(bounds: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(bounds, ids, side="right") - 1


def _age(rows: Rows, usage: Usage, id_: int) -> Age:
    return Age(id_, rows.added - 1 - id_, *usage.age(id_))


def _candidates(ids: NDArray[np.int64], found: Floats, top: int) -> NDArray[np.int64]:
    """Those among which the top ones of these are: of equal priorities the newest."""
    if not 0 < top < len(ids):
        return ids[: len(ids) * (top > 0)]
    bar = np.partition(found, -top)[-top]
    return np.concatenate([ids[found > bar], ids[found == bar][-top:]])


def _largest(ranking: Any, ids: NDArray[np.int64], top: int) -> NDArray[np.int64]:
    """The top ones of these, the first first."""
    return np.ascontiguousarray(ids[np.lexsort((ids, ranking.priority_of(ids)))][::-1][:top])


def _transitions(rows: Rows, ranking: Any, usage: Usage | None, ids: NDArray[np.int64]) -> tuple[Transition, ...]:
    slots = ids % rows.capacity
    records, steps = rows.data[slots], rows.steps_before(ids).tolist()
    priorities, probabilities = ranking.priority_of(ids).tolist(), ranking.probability_of(ids).tolist()
    sampled = [None] * len(ids) if usage is None else usage.drawn(ids, rows).tolist()
    found = []
    for at, id_ in enumerate(ids.tolist()):
        age = None if usage is None else _age(rows, usage, id_)
        found.append(
            Transition(
                id=id_,
                priority=priorities[at],
                probability=probabilities[at],
                likely=probabilities[at] * len(rows),
                age=age,
                sampled=sampled[at],
                step=steps[at],
                action=_few(records[at], "action"),
                reward=_few(records[at], "reward"),
                terminated=bool(records["terminated"][at]),
                truncated=bool(records["truncated"][at]),
            )
        )
    return tuple(found)


def _few(record: Any, name: str) -> Any:
    """What a field holds, as plain numbers, if it is one array of a few; complex numbers, and others, are None."""
    value = np.asarray(within(record, (name,)))
    if value.dtype.names is not None or value.dtype.kind == "c" or value.size > FEW:
        return None
    return value.tolist()
