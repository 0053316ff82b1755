"""A cluster of replay shards as an agent knows a buffer: `add`, `sample` and `update_priorities`, in step with it."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

import replaybank as rb
from replaybank.ray import ClusterOptions, ReplayCluster
from replaybank.samplers.base import Sampler
from replaybank.study.environments import Array
from replaybank.views.base import View

PATIENCE = 120.0
"""Seconds that a busy machine may take to answer. A shard that is slower would be left out of a draw, and the runs
would differ in more than their memory."""


class ClusterBuffer:
    """A `ReplayCluster` with its writers and its reader, used as one `ReplayBuffer` with one stream is.

    A stream stays in the shard where it began, so that an agent in one environment would fill one shard only: here each
    episode goes to the next of as many writers as there are shards, which the cluster has put into different ones. A
    draw comes after all that was added before it, and a priority is set before the next draw, as in one buffer.
    """

    def __init__(
        self, shards: int, capacity: int, schema: rb.Schema, sampler: Sampler, view: View, seed: int
    ) -> None:
        self.cluster = ReplayCluster(
            shards=shards,
            capacity=capacity,
            schema=schema,
            sampler=sampler,
            view=view,
            seed=seed,
            options=ClusterOptions(timeout=PATIENCE, shard_timeout=PATIENCE, writer_timeout=PATIENCE),
        )
        self._writers = [self.cluster.writer() for _ in range(shards)]
        self._reader = self.cluster.reader()
        self._turn = 0
        self._written: set[int] = set()  # writers that may hold what no shard has acknowledged
        self.added = 0

    def add(
        self, obs: Array, action: ArrayLike, reward: float, next_obs: Array, terminated: bool, truncated: bool
    ) -> None:
        """One transition of the one environment."""
        self._writers[self._turn].add(obs, action, reward, next_obs, terminated, truncated)
        self._written.add(self._turn)
        self.added += 1
        if terminated or truncated:
            self._turn = (self._turn + 1) % len(self._writers)

    def sample(self, n: int) -> rb.Batch:
        """`n` of all that was added, as one buffer would draw them."""
        self._flush()
        return self._reader.sample(n)

    def update_priorities(self, ids: Array, td_error: ArrayLike) -> None:
        """Set the priorities of drawn transitions."""
        self._reader.update_priorities(ids, td_error)

    def _flush(self) -> None:
        for turn in self._written:
            self._writers[turn].flush()
        self._written.clear()

    def account(self) -> dict[str, list[int]]:
        """What each shard took in and has overwritten, [shards].

        Raises RuntimeError unless every transition is in a shard, each shard has some, and none was lost.
        """
        self._flush()
        stats: dict[str, Any] = self.cluster.stats()
        kept = {name: [int(shard[name]) for shard in stats["shards"]] for name in ("inserted", "overwritten")}
        if stats["lost"] or sum(kept["inserted"]) != self.added or not all(kept["inserted"]):
            raise RuntimeError(f"expected all {self.added} transitions, spread over all shards, found {stats}")
        return kept

    def close(self) -> None:
        """Let its actors go."""
        self._reader.close()
        for writer in self._writers:
            writer.close()
        self.cluster.close()
