"""Priorities on their way to the shards."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.ray import ids as global_ids
from replaybank.ray.calls import answers, ready
from replaybank.ray.living import Living

UNTOLD = 64  # calls whose answers nobody has looked at yet


class PriorityReport(NamedTuple):
    """What `update_priorities` did: how many ids were `updated`; `stale`: overwritten, or lost with a shard; `unsent`:
    for a shard that does not answer.
    """

    updated: int
    stale: int
    unsent: int


class Sent(NamedTuple):
    """A call on its way: to which shard, of how many priorities."""

    shard: int
    n: int
    ref: Any


class Updates:
    """Sends priorities to the shards whose ids they are for, and counts what became of them (`counts`)."""

    def __init__(self, living: Living) -> None:
        self.counts = dict.fromkeys(PriorityReport._fields, 0)
        self._living = living
        self._untold: deque[Sent] = deque()

    def send(self, ids: NDArray[np.int64], td_error: NDArray[np.float64], deadline: float) -> PriorityReport:
        """Waits until each shard has answered. Raises ValueError for negative ids, and sends nothing."""
        sent, gone, unsent = self._sent(ids, td_error)
        told = self._heard(sent, deadline)
        return PriorityReport(told.updated, told.stale + gone, told.unsent + unsent)

    def post(self, ids: NDArray[np.int64], td_error: NDArray[np.float64], deadline: float) -> None:
        """Does not wait, unless the answers of many calls are due. Raises as `send`."""
        self._untold.extend(self._sent(ids, td_error)[0])
        self.hear(UNTOLD, deadline)

    @property
    def untold(self) -> int:
        """Calls whose answers have not been looked at."""
        return len(self._untold)

    def hear(self, most: int, deadline: float) -> None:
        """Looks at the answers of `post`, until at most so many are still due."""
        while self._untold and (len(self._untold) > most or ready(self._untold[0].ref)):
            self._heard([self._untold.popleft()], deadline)

    def _sent(self, ids: NDArray[np.int64], td_error: NDArray[np.float64]) -> tuple[list[Sent], int, int]:
        """The calls; and how many were for shards that have been removed, and for shards that are away."""
        shards = global_ids.split(ids).shards
        members = self._living.directory.members()
        sent: list[Sent] = []
        gone = unsent = 0
        for number in np.unique(shards).tolist():
            mine = shards == number
            n = int(mine.sum())
            if number not in members:
                gone += n  # its transitions have other ids now
            elif number in self._living.away:
                unsent += n
            else:
                sent.append(Sent(number, n, members[number][0].update.remote(ids[mine], td_error[mine])))
        self._count(PriorityReport(0, gone, unsent))
        return sent, gone, unsent

    def _heard(self, sent: list[Sent], deadline: float) -> PriorityReport:
        found, failed = answers({i: one.ref for i, one in enumerate(sent)}, self._living.patience(deadline))
        updated, stale = (sum(told[i] for told in found.values()) for i in (0, 1))
        unsent = 0
        for i, why in failed.items():
            if sent[i].shard not in self._living.away:
                self._living.lose(sent[i].shard, why)
            if sent[i].shard in self._living.directory.members():
                unsent += sent[i].n
            else:
                stale += sent[i].n
        report = PriorityReport(updated, stale, unsent)
        self._count(report)
        return report

    def _count(self, report: PriorityReport) -> None:
        for name, n in report._asdict().items():
            self.counts[name] += n
