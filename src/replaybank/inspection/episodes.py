"""Episodes and streams: how long, with what return, and which are not whole."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.inspection.histograms import distribution
from replaybank.inspection.report import Count, Episodes, Streams
from replaybank.rows import NONE, Rows
from replaybank.schema import Leaf

IDS = 1 << 17  # that are looked at, or walked along, at a time
MOST_REWARDS = 8  # components of a reward that returns are told of


class _Runs(NamedTuple):
    """Runs of linked transitions: their ends and lengths, and what is true of each ([n])."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    length: NDArray[np.int64]
    complete: NDArray[np.bool_]  # the first step is here
    ended: NDArray[np.bool_]
    open: NDArray[np.bool_]
    onward: NDArray[np.int64]  # the distance from the last one to where the stream goes on, 0 for nowhere

    @property
    def whole(self) -> NDArray[np.bool_]:
        return self.complete & self.ended


def episodes_of(rows: Rows) -> tuple[Episodes, Streams]:
    """All of it, in pieces: but for the lengths and returns of whole episodes nothing is kept of any."""
    reward = next(leaf for leaf in rows.schema.leaves if leaf.path == ("reward",))
    components = min(math.prod(reward.shape), MOST_REWARDS)
    counts = np.zeros((4, 2), np.int64)
    terminated = truncated = 0
    lengths, returns = [np.empty(0, np.int64)], [np.empty((0, components))]
    lanes = _Lanes(rows)
    for first in range(rows.oldest, rows.added, IDS):
        runs = _runs(rows, np.arange(first, min(first + IDS, rows.added)))
        kinds = (runs.whole, runs.ended & ~runs.complete, runs.open, ~runs.ended & ~runs.open)
        counts += [[kind.sum(), runs.length[kind].sum()] for kind in kinds]
        last = runs.last[runs.whole] % rows.capacity
        terminated += int(rows.data["terminated"][last].sum())
        truncated += int(rows.data["truncated"][last].sum())
        lengths.append(runs.length[runs.whole])
        returns.append(_returns(rows, reward, runs.first[runs.whole], lengths[-1])[:, :components])
        lanes.follow(runs)
    every = np.concatenate(returns)
    by_component = [distribution(every[:, at]) for at in range(components)]
    whole, left, still_open, broken = (Count(runs, transitions) for runs, transitions in counts.tolist())
    found = Episodes(
        whole=whole,
        beginning_left=left,
        open=still_open,
        broken_off=broken,
        terminated=terminated,
        truncated=truncated,
        lengths=distribution(np.concatenate(lengths)),
        returns=tuple(returned for returned in by_component if returned is not None),
    )
    return found, lanes.streams()


def _runs(rows: Rows, ids: NDArray[np.int64]) -> _Runs:
    """The runs that end among these."""
    data, capacity = rows.data, rows.capacity
    last = ids[data["link_next"][ids % capacity] == 0]
    slots = last % capacity
    first, taken = rows.follow(last, np.full(len(last), capacity), forward=False)
    ended = data["terminated"][slots] | data["truncated"][slots]
    tails = data["link_tail"][slots]
    onward = np.where(tails != NONE, rows.onward[np.where(tails != NONE, tails, 0)], 0).astype(np.int64)
    still_open = np.isin(last, rows.newest[rows.newest >= 0]) & ~ended
    return _Runs(first, last, taken + 1, rows.steps_before(first) == 0, ended, still_open, onward)


def _returns(rows: Rows, reward: Leaf, first: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum of rewards of the `length` transitions from each of `first` on: [n, components of the reward]."""
    totals = np.zeros((len(first), math.prod(reward.shape)))
    order = np.argsort(length, kind="stable")[::-1]  # paths of about one length go together
    while len(order):
        steps = int(min(length[order[0]], IDS))
        group, order = np.split(order, [max(IDS // steps, 1)])
        here, left = first[group], length[group]
        while len(group):
            path, _ = rows.walk(here, min(int(left.max()), IDS))
            count = np.minimum(left, path.shape[1] - 1)
            with np.errstate(over="ignore", invalid="ignore"):
                totals[group] += rows.returns(reward, path, count, 1.0).reshape(len(group), -1)
            left = left - count
            group, here, left = group[left > 0], path[left > 0, -1], left[left > 0]
    return totals


class _Lanes:
    """Which runs belong to one stream: each is followed to the next as they come, and at last to a stream."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._awaited: dict[int, list[int]] = {}  # by the first id of the next run: transitions and whole runs so far
        self._last: dict[int, list[int]] = {}  # by the id with which it ends
        self._whole = 0

    def follow(self, runs: _Runs) -> None:
        """Goes on with the runs that end next, in the order of their last ids."""
        self._whole += int(runs.whole.sum())
        if self._rows.streams == 1:
            return
        columns: list[Any] = [runs.first, runs.last, runs.length, runs.whole, runs.onward]
        for first, last, length, whole, onward in zip(*(column.tolist() for column in columns), strict=True):
            lane = self._awaited.pop(first, None) or [0, 0]
            lane[0] += length
            lane[1] += whole
            if onward:
                self._awaited[last + onward] = lane
            else:
                self._last[last] = lane

    def streams(self) -> Streams:
        """What each stream has here. Rows that a stream no longer knows of belong to nobody known."""
        rows = self._rows
        never = int((rows.newest == -1).sum())
        if rows.streams == 1:
            return Streams(1, never, (len(rows),), (self._whole,))
        newest = np.where(rows.newest < -1, -2 - rows.newest, rows.newest).tolist()
        found = [self._last.pop(last, [0, 0]) for last in newest]
        if self._last or self._awaited:
            return Streams(rows.streams, never, None, None)
        transitions, whole = zip(*found, strict=True)
        return Streams(rows.streams, never, tuple(transitions), tuple(whole))
