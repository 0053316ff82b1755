"""Batches of a cluster for ever, asked for ahead of the one who works with them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import takewhile
from threading import Lock
from typing import Any

from replaybank.batch import Batch
from replaybank.prefetch import mover_for
from replaybank.ray.draws import Draws, Request
from replaybank.ray.session import Session

MOST_AHEAD = 1000  # batches that may be on their way


class Batches(Iterator[Batch]):
    """What `Reader.batches` gives. Ends with `close()`, or as a context manager.

    Requests are sent in groups of half of what is prefetched: a shard gets one call a group, since calls, whatever
    their size, are what a batch costs the learner. Where a rate is held each batch has leave of its own, and a group is
    of those that have it: so no rate is held to more than n at a time.
    """

    def __init__(
        self,
        draws: Draws,
        lock: Lock,
        served: Callable[[float], None],
        n: int,
        prefetch: int,
        device: Any,
        seconds: float,
    ) -> None:
        """`lock` is held while `draws` is used; `served` is told since when (monotonic) a batch was waited for."""
        self._draws, self._lock, self._served = draws, lock, served
        self._session = Session()
        self._n, self._prefetch, self._seconds = n, prefetch, seconds
        self._group = max(1, prefetch // 2)
        self._mover = mover_for(device, pin=True)
        self._due: deque[Request] = deque()  # in the order in which they are handed out
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        begin = time.monotonic()
        with self._lock:
            self._session.require()
            deadline = time.monotonic() + self._seconds
            self._ask(deadline)
            request = self._due[0]
            if not request.draws:
                if request.leave is not None:
                    request.leave.wait(deadline)
                self._send([request], deadline)
            batch = self._draws.collect(request, deadline)
            self._due.popleft()
            self._send_granted(deadline)
            self._served(begin)
        return self._mover.hand_out(self._mover.move(batch))

    def _ask(self, deadline: float) -> None:
        """Sees to it that this batch and those that are prefetched are on their way, but for less than a group."""
        missing = self._prefetch + 1 - len(self._due)
        if missing >= self._group or not self._due:
            until = time.monotonic() + self._seconds
            self._due.extend([self._draws.request(self._n, until) for _ in range(missing)])
        self._send_granted(deadline)

    def _send_granted(self, deadline: float) -> None:
        unsent = [request for request in self._due if not request.draws]
        granted = list(takewhile(lambda request: request.leave is None or request.leave.granted(), unsent))
        for begin in range(0, len(granted), self._group):
            group = granted[begin : begin + self._group]
            try:
                self._send(group, deadline)
            except (ValueError, TimeoutError):
                if group[0] is self._due[0]:
                    raise
                return  # it is asked for again when it is due

    def _send(self, group: list[Request], deadline: float) -> None:
        self._draws.send(group, self._draws.living.known(deadline))

    def close(self) -> None:
        """Ends it; what is on its way is dropped, and given back where a rate is held."""
        if self._closed:
            return
        self._closed = True
        for request in self._due:
            if request.leave is not None:
                request.leave.give_back()
        self._due.clear()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
