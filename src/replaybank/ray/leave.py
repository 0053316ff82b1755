"""A reader's leave to sample, where a rate is held."""

from __future__ import annotations

import time
from typing import Any

import ray

from replaybank.ray.calls import GONE, ready, reason
from replaybank.ray.directory import Directory


class Leave:
    """Asked of the coordinator, which waits until n more may be sampled, and counts them."""

    def __init__(self, directory: Directory, n: int, deadline: float) -> None:
        self._directory, self._n = directory, n
        self._ref = self._ask(deadline)

    def _ask(self, deadline: float) -> Any:
        seconds = max(deadline - time.monotonic(), 0.0)
        return self._directory.coordinator.grant.remote("sample", self._n, self._n, seconds)

    def granted(self) -> bool:
        """Whether it is there now."""
        try:
            return ready(self._ref) and isinstance(ray.get(self._ref, timeout=0), int)
        except GONE:
            return False  # `wait` asks again

    def wait(self, deadline: float) -> None:
        """Until it is there; raises TimeoutError, with the reason, where that takes too long, or ClusterClosed."""
        while True:
            left = deadline - time.monotonic()
            try:
                why = ray.get(self._ref, timeout=max(left, 0.0) + 1.0)  # the coordinator is the one to end it
            except GONE as error:
                self._directory.require_open()
                why = f"the coordinator of {self._directory.config.name!r}: {reason(error)}"
            if isinstance(why, int):
                return
            if deadline - time.monotonic() < 0.1:
                raise TimeoutError(f"sample: {self._n} transitions could not be sampled in time: {why}")
            time.sleep(0.05)
            self._ref = self._ask(deadline)

    def give_back(self) -> None:
        """It is not used."""
        if self.granted():
            self._directory.coordinator.give_back.remote("sample", self._n)
