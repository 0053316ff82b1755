"""A cluster as its readers and writers see it: where the shards are."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from replaybank.ray.calls import GONE
from replaybank.ray.config import Config
from replaybank.ray.session import Session

LOOK_EVERY = 1.0  # seconds between two looks at who is there


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
            with suppress(*GONE):  # while the coordinator is away, what is known stays
                self._learn(*self._asked.result())
            self._asked = None
        if self._asked is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_EVERY
            self._asked = self.session.call(self.coordinator.members.remote, self._version)
        return self._members

    def look(self, seconds: float | None = None) -> None:
        """Asks, and waits for the answer; raises TimeoutError where there is none."""
        call = partial(self.coordinator.members.remote, self._version)
        self._learn(*self.ask(call, "which shards there are", seconds))

    def members_with(self, shard: int) -> dict[int, tuple[Any, str]]:
        """Who is there now; raises ValueError where that shard is not."""
        self.look()
        if shard not in self._members:
            raise ValueError(f"shard: expected one of {', '.join(map(str, sorted(self._members)))}, given {shard!r}")
        return self._members

    def ask(self, call: Callable[[], Any], what: str, seconds: float | None = None) -> Any:
        """What the coordinator says; raises TimeoutError where it does not."""
        seconds = self.config.options.timeout if seconds is None else seconds
        return self.session.ask(call, seconds, f"{what}: the coordinator of {self.config.name!r}")

    def _learn(self, version: int, members: dict[int, tuple[Any, str]] | None) -> None:
        if members:
            self._version, self._members = version, members
