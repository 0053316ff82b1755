"""replaybank.ray: a cluster of shards."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import ray

import replaybank as rb
from adapters.scaling import PATIENCE, Contestant, Scale
from contender import Role
from hands import ALPHA, AT_A_TIME, BATCH, BETA, PREFETCH, Reading, Step, Writing
from ray_hands import RayProcess, nbytes, own_processes
from replaybank.ray import ClusterOptions, RateLimit, ReplayCluster
from replaybank.ray.wire import Packet, Transitions, Wire


class Inlet:
    def __init__(self, writer: Any, prioritized: bool) -> None:
        self._writer = writer
        self.add = self._add_with_error if prioritized else self._add
        self.flush, self.close = writer.flush, writer.close

    def _add_with_error(
        self, obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any, truncated: Any, td_error: Any
    ) -> None:
        self._writer.add(obs, action, reward, next_obs, terminated, truncated, td_error=td_error)

    def _add(
        self, obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any, truncated: Any, td_error: Any
    ) -> None:
        self._writer.add(obs, action, reward, next_obs, terminated, truncated)

    def taken(self) -> int:
        return int(self._writer.stats().acknowledged)


class Outlet:
    def __init__(self, reader: Any, prioritized: bool) -> None:
        self._reader, self._prioritized = reader, prioritized

    def sample(self) -> Any:
        return self._reader.sample(BATCH)

    def batches(self) -> Iterator[Any]:
        with self._reader.batches(BATCH, prefetch=PREFETCH) as batches:
            yield from batches

    def update(self, batch: Any, td_error: Any, wait: bool) -> None:
        self._reader.update_priorities(batch.indices, td_error, wait=wait)

    def unpack(self, batch: Any) -> dict[str, Any]:
        names = ("obs", "action", "reward", "next_obs", "terminated", *(("weights",) if self._prioritized else ()))
        return {name: getattr(batch, name) for name in names}

    def close(self) -> None:
        self._reader.close()


def _writing(cluster: ReplayCluster, scale: Scale, number: int) -> Writing:
    writer = cluster.writer(flush_size=AT_A_TIME)
    return Writing(Inlet(writer, scale.prioritized), scale.size.steps(number))


def _reading(cluster: ReplayCluster, prioritized: bool) -> Reading:
    return Reading(Outlet(cluster.reader(), prioritized), prioritized)


class ReplaybankShards(Contestant):
    name = "replaybank"
    distribution = "replaybank"
    role = Role.OURS
    how: ClassVar[str] = (
        "ReplayCluster, no checkpoint; writers with one stream each and flush_size=64, in_flight=2; the reader draws "
        "each batch over all shards with the probabilities of one buffer: sample asks all shards for their mass first, "
        "batches(prefetch=4) goes by what they said last."
    )
    #: Inserts and samples ask the coordinator for leave.
    limit: ClassVar[RateLimit | None] = None

    def build(self) -> None:
        size, prioritized, shards, writers = self.scale
        self._schema = rb.Schema.of({"obs": (size.dtype, size.shape), "action": "int64"})
        self._cluster = ReplayCluster(
            shards=shards,
            capacity=size.capacity,
            schema=self._schema,
            sampler=rb.Prioritized(ALPHA, BETA) if prioritized else rb.Uniform(),
            samples_per_insert=self.limit,
            options=ClusterOptions(actor_options={"num_cpus": 0}),
        )
        call = self._cluster._directory.coordinator.__ray_call__.remote(lambda actor: os.getpid())
        self._coordinator = ray.get(call, timeout=PATIENCE)
        self.writers = [RayProcess(partial(_writing, self._cluster, self.scale, number)) for number in range(writers)]
        self.reader = RayProcess(partial(_reading, self._cluster, prioritized))

    def shards(self) -> Sequence[int]:
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            found = [shard["pid"] for shard in self._cluster.stats()["shards"] if "pid" in shard]
            if len(found) == self.scale.shards:
                return found
            time.sleep(0.1)
        raise TimeoutError("shards have not reported")

    def others(self) -> Mapping[str, Sequence[int]]:
        return {"ray": own_processes(), "coordinator": [self._coordinator]}

    def nbytes(self) -> Mapping[str, float]:
        rows: list[Step] = self.scale.size.steps(0)[:AT_A_TIME]
        *columns, errors = (np.array(values) for values in zip(*rows, strict=True))
        owners = np.zeros(AT_A_TIME, np.int64)
        given = dict(zip(("obs", "action", "reward", "next_obs", "terminated", "truncated"), columns, strict=True))
        arrays = self._schema.arrays(self._schema.values(given), AT_A_TIME)
        packet: Packet = Wire(self._schema).pack(Transitions(arrays, owners, errors))
        found = {"transitions": float(nbytes(2**60, 2**20, 2**20, [], *packet))}
        actors = [actor for actor, _ in self._cluster._directory.members().values()]
        shares = ray.get([actor.share.remote() for actor in actors], timeout=PATIENCE)
        actors = [
            actor for actor, share in zip(actors, shares, strict=True) if share.size
        ]  # few writers leave some empty
        share = BATCH // len(actors)
        drawn = ray.get([actor.draw.remote(share) for actor in actors], timeout=PATIENCE)
        found["batch"] = sum(nbytes(one) for one in drawn)
        if self.scale.prioritized:
            found["update"] = sum(nbytes(batch.indices, np.zeros(share)) for _, batch in drawn)
        return found

    def close(self) -> None:
        for process in (*self.writers, self.reader):
            process.end()
        self._cluster.close()


class LimitedShards(ReplaybankShards):
    """With a rate limit so wide that nobody ever waits for it."""

    limit = RateLimit(1.0, min_size=1, tolerance=1e12)
