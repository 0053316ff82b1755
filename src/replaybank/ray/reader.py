"""Draws from all shards of a cluster as from one buffer."""

from __future__ import annotations

import copy
import itertools
import time
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from replaybank.arguments import errors_of, ids_of, require_timeout, whole_number
from replaybank.batch import Batch
from replaybank.buffer import MOST_DRAWN
from replaybank.ray.batches import MOST_AHEAD, Batches
from replaybank.ray.config import USUAL_INSERT
from replaybank.ray.directory import ClusterClosed, Directory
from replaybank.ray.draws import Draws
from replaybank.ray.joint import divisible
from replaybank.ray.living import Living
from replaybank.ray.metrics import ReaderMetrics
from replaybank.ray.updates import PriorityReport, Updates
from replaybank.rows import MAX_CAPACITY

_readers = itertools.count()  # of this process


class Reader:
    """Draws from all shards as one buffer that held everything would. `ReplayCluster.reader` makes it.

    `directory`: the shards as this process sees them; `seed`: of how draws are allotted to them.

    `sample` asks the shards how much they hold, and then for transitions: P(i) is that of one buffer, exactly, and so
    are `probabilities` and `weights` (ray/joint.py says how, and what holds where others write meanwhile). `batches`
    does the same with what shards said with their last batches. `indices` of batches are ids of the cluster.

    A shard that fails or does not answer within `shard_timeout` is away: the others are drawn from, with probabilities
    over what they hold, until it answers again.

    `sampler`: what weights are computed with, as `buffer.sampler`: its `beta` may be set. `alpha` and what else the
    shards draw by is theirs. It does nothing before it is used; several threads may use one, one call after another.
    """

    def __init__(self, directory: Directory, seed: Any = None) -> None:
        config = self._config = directory.config
        self.sampler = copy.deepcopy(divisible(config.sampler))
        self._checked = 0  # a batch of so many, or fewer, the rate limit allows
        self._living = Living(directory)
        self._draws = Draws(self._living, self.sampler, np.random.default_rng(seed))
        self._updates = Updates(self._living)
        self._metrics = ReaderMetrics(config.name, str(next(_readers)))
        self._lock = Lock()

    def sample(self, n: int, timeout: float | None = None) -> Batch:
        """`n` transitions of all shards.

        Raises ValueError where n < 1 or nothing can be drawn (all are empty, every priority is 0), TimeoutError where a
        rate is held and nothing more may be sampled within `timeout` seconds (None: the cluster's), or no shard
        answers; RuntimeError, at once, where the cluster was closed or has ended with the process that made it.
        """
        n = self._size("sample: n", n)
        begin = time.monotonic()
        with self._lock:
            deadline = time.monotonic() + self._seconds(timeout)
            request = self._draws.request(n, deadline)
            actors = self._living.refreshed(deadline)
            if request.leave is not None:
                request.leave.wait(deadline)
            try:
                self._draws.send([request], actors)
                batch = self._draws.collect(request, deadline)
            except BaseException:
                if request.leave is not None:
                    request.leave.give_back()
                raise
            self._measure(begin)
            return batch

    def batches(self, n: int, prefetch: int = 2, device: Any = None, timeout: float | None = None) -> Batches:
        """`sample(n)` for ever, with up to `prefetch` batches on their way while you work with this one.

        They are asked for prefetch // 2 at a time: that many times fewer calls than of `sample`. A batch is allotted to
        the shards by what they said last, a fifth of a second ago at most: its probabilities are those with which it
        was drawn. `device`: as in `ReplayBuffer.batches`. `timeout`: of each batch.

        Raises TypeError or ValueError where n or prefetch is no such number; `next` raises as `sample` does.
        """
        n = self._size("batches: n", n)
        ahead = whole_number("batches: prefetch", prefetch, MOST_AHEAD, least=0)
        return Batches(self._draws, self._lock, self._measure, n, ahead, device, self._seconds(timeout))

    def update_priorities(
        self, indices: ArrayLike, td_error: ArrayLike, wait: bool = True, timeout: float | None = None
    ) -> PriorityReport | None:
        """Sets the priorities of `indices` (of the cluster, [n]) to |td_error| ([n]) + epsilon, each in its shard.

        Those that have been overwritten, or were lost with a shard that died, are skipped and counted as stale; those
        of a shard that does not answer within `timeout` seconds are counted as unsent. With `wait=False` gives None at
        once: `stats` has the counts later.

        Raises ValueError or TypeError, and changes nothing, where ids cannot be of this cluster, lengths differ, or a
        TD error is not finite.
        """
        ids = ids_of(indices)
        errors = errors_of(td_error, ids)
        errors = errors.astype(np.float64)
        self.sampler.priorities(errors)  # raises where one is not finite, or too large
        with self._lock:
            deadline = time.monotonic() + self._seconds(timeout)
            if wait:
                return self._updates.send(ids, errors, deadline)
            self._updates.post(ids, errors, deadline)
            return None

    def size(self, timeout: float | None = None) -> int:
        """How many transitions all shards that answer within `timeout` seconds (None: the cluster's) hold now."""
        with self._lock:
            deadline = time.monotonic() + self._seconds(timeout)
            actors = self._living.refreshed(deadline)
            return sum(share.size for share in self._living.shares(actors).values())

    def stats(self) -> dict[str, Any]:
        """Counts of this reader: batches, sampled, updated, stale, unsent; failures (of a shard), away (numbers, why).

        Of updates with `wait=False` those are counted whose answers have come.
        """
        with self._lock:
            with suppress(ClusterClosed):
                self._updates.hear(self._updates.untold, 0.0)
            away = {number: away.why for number, away in sorted(self._living.away.items())}
            return {**self._counts(), "untold": self._updates.untold, "away": away}

    def _counts(self) -> dict[str, int]:
        counts = {"batches": self._draws.batches, "sampled": self._draws.sampled, "failures": self._living.failures}
        return {**counts, **self._updates.counts}

    def _measure(self, begin: float) -> None:
        """A batch is there for which the caller has waited since `begin` (monotonic)."""
        self._metrics.sampled(time.monotonic() - begin)
        self._metrics.report(self._counts())

    def _size(self, name: str, n: Any) -> int:
        size = whole_number(name, n, MOST_DRAWN)
        if self._config.limit is not None and size > self._checked:
            self._config.limit.check(MAX_CAPACITY, USUAL_INSERT, size)
            self._checked = size
        return size

    def _seconds(self, timeout: float | None) -> float:
        require_timeout(timeout)
        return self._config.options.timeout if timeout is None else timeout

    def close(self) -> None:
        """Waits for the answers of updates that are due."""
        with self._lock, suppress(ClusterClosed):
            self._updates.hear(0, time.monotonic() + self._config.options.timeout)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Reader cannot be pickled: hand over the ReplayCluster, and call its reader() there")
