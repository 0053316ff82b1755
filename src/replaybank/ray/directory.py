"""A cluster as its readers and writers see it: where the shards are."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from replaybank.ray.calls import GONE
from replaybank.ray.config import NAMESPACE, Config
from replaybank.ray.session import Session

LOOK_EVERY = 1.0  # seconds between two looks at who is there


class ClusterClosed(RuntimeError):
    """The cluster was closed, or has ended with the process that made it: it will not answer again."""


class Directory:
    """The shards of a cluster by number: (actor, state). Looks again every second, without waiting for the answer."""

    def __init__(self, coordinator: Any, config: Config) -> None:
        self.coordinator = coordinator
        self.config = config
        self.session = Session()
        self._members: dict[int, tuple[Any, str]] = {}
        self._version = -1
        self._asked: Future[Any] | None = None
        self._next = 0.0

    def members(self) -> dict[int, tuple[Any, str]]:
        """Who is there, as far as is known now. Waits only for the first answer."""
        if not self._members:
            self.look()
        if self._asked is not None and self._asked.done():
            answer, self._asked = self._asked, None
            try:
                self._learn(*answer.result())
            except GONE:
                self.require_open()  # while the coordinator is away, what is known stays
        if self._asked is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_EVERY
            self._asked = self.session.call(self.coordinator.members.remote, self._version)
        return self._members

    def look(self, seconds: float | None = None) -> None:
        """Asks, and waits for the answer; raises as `ask`."""
        call = partial(self.coordinator.members.remote, self._version)
        self._learn(*self.ask(call, "which shards there are", seconds))

    def members_with(self, shard: int) -> dict[int, tuple[Any, str]]:
        """Who is there now; raises ValueError where that shard is not."""
        self.look()
        if shard not in self._members:
            raise ValueError(f"shard: expected one of {', '.join(map(str, sorted(self._members)))}, given {shard!r}")
        return self._members

    def ask(self, call: Callable[[], Any], what: str, seconds: float | None = None) -> Any:
        """What the coordinator says; raises TimeoutError where it does not, ClusterClosed where it never will."""
        seconds = self.config.options.timeout if seconds is None else seconds
        return self.session.ask(call, seconds, f"{what}: the coordinator of {self.config.name!r}", self.require_open)

    def require_open(self) -> None:
        """Raises ClusterClosed where the coordinator has ended for good: Ray keeps the name of one that it restarts."""
        name = self.config.name
        there = self.session.found(name, NAMESPACE)
        if there is None or there._actor_id != self.coordinator._actor_id:
            raise ClusterClosed(f"the cluster {name!r} was closed, or has ended with the process that made it")

    def _learn(self, version: int, members: dict[int, tuple[Any, str]] | None) -> None:
        if members:
            self._version, self._members = version, members
