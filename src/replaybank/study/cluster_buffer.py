"""A cluster of replay shards as an agent knows a buffer: `add`, `sample` and `update_priorities`, in step with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from numpy.typing import ArrayLike

import replaybank as rb
from replaybank.ray import ClusterOptions, ReplayCluster
from replaybank.samplers.base import Sampler
from replaybank.study.environments import Array
from replaybank.study.memories import BufferSettings, view_of

PATIENCE = 120.0
"""Seconds that a busy machine may take to answer. A shard that is slower would be left out of a draw, and the runs
would differ in more than their memory."""
UNASKED = 10.0
"""Seconds after which a writer sends what nobody has asked for: not before it is drawn from, else."""


class ClusterBuffer:
    """A `ReplayCluster` with its writers and its reader, used as one `ReplayBuffer` with one stream is.

    A stream stays in the shard where it began, so that an agent in one environment would fill one shard only: here each
    episode goes to the next of as many writers as there are shards, which the cluster puts into different ones.

    All calls of the cluster are made by one thread, in the order in which one buffer would be called: what was added
    before a draw can be drawn, priorities are set before what is added next. `draws_after(step)`: whether a batch will
    be asked for after the transition with that number (from 0); then it is drawn at once, while agents that train in
    lock step with this one take their own step. It is the batch that would be drawn later.
    """

    def __init__(
        self,
        shards: int,
        settings: BufferSettings,
        schema: rb.Schema,
        sampler: Sampler,
        draws_after: Callable[[int], bool],
        seed: int,
    ) -> None:
        self._cluster = ReplayCluster(
            shards=shards,
            capacity=settings.capacity,
            schema=schema,
            sampler=sampler,
            view=view_of(settings),
            seed=seed,
            options=ClusterOptions(timeout=PATIENCE, shard_timeout=PATIENCE, writer_timeout=PATIENCE),
        )
        self._writers = [self._cluster.writer(flush_seconds=UNASKED) for _ in range(shards)]
        self._reader = self._cluster.reader()
        self._batch_size, self._draws_after = settings.batch_size, draws_after
        self._turn = 0
        self._written: set[int] = set()  # writers that may hold what no shard has acknowledged
        self._thread = ThreadPoolExecutor(1)
        self._drawing: Future[rb.Batch] | None = None
        self._updating: Future[Any] | None = None
        self._added = 0

    def add(
        self, obs: Array, action: ArrayLike, reward: float, next_obs: Array, terminated: bool, truncated: bool
    ) -> None:
        """One transition of the one environment."""
        self._writers[self._turn].add(obs, action, reward, next_obs, terminated, truncated)
        self._written.add(self._turn)
        if terminated or truncated:
            self._turn = (self._turn + 1) % len(self._writers)
        self._added += 1
        if self._draws_after(self._added - 1):
            self._drawing = self._thread.submit(self._draw, self._batch_size)

    def sample(self, n: int) -> rb.Batch:
        """`n` of all that was added, as one buffer would draw them."""
        drawing, self._drawing = self._drawing or self._thread.submit(self._draw, n), None
        return drawing.result()

    def update_priorities(self, ids: Array, td_error: ArrayLike) -> None:
        """Set the priorities of drawn transitions."""
        self._updating = self._thread.submit(self._reader.update_priorities, ids, td_error)

    def _draw(self, n: int) -> rb.Batch:
        self._flush()
        return self._reader.sample(n)

    def _flush(self) -> None:
        if self._updating is not None:
            self._updating.result()  # it is done; raises what it raised
        for turn in self._written:
            self._writers[turn].flush()
        self._written.clear()

    def account(self) -> dict[str, list[int]]:
        """What each shard took in (`inserted`) and has forgotten (`overwritten`), both [shards].

        Raises RuntimeError unless every transition came to a shard, each shard has some, none was lost, and no draw or
        update had to do without a shard.
        """
        self._thread.submit(self._flush).result()
        deadline = time.monotonic() + PATIENCE
        stats: dict[str, Any] = self._cluster.stats()
        while stats["inserted"] < self._added and time.monotonic() < deadline:  # shards report once a second
            time.sleep(0.1)
            stats = self._cluster.stats()
        kept = {name: [int(shard[name]) for shard in stats["shards"]] for name in ("inserted", "overwritten")}
        failures = self._reader.stats()["failures"]
        if stats["lost"] or failures or sum(kept["inserted"]) != self._added or not all(kept["inserted"]):
            raise RuntimeError(
                f"expected all of {self._added} transitions, some in each shard, and that every shard always answered; "
                f"found {failures} failures and {stats}"
            )
        return kept

    def close(self) -> None:
        """Let its actors go, and what they hold."""
        self._thread.shutdown()
        self._reader.close()
        for writer in self._writers:
            writer.close()
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
