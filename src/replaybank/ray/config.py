"""What a cluster is made with."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replaybank.files import compressor
from replaybank.ray.limiter import RateLimit
from replaybank.rows import MAX_CAPACITY
from replaybank.samplers.base import Sampler
from replaybank.schema import Schema
from replaybank.views.base import View

NAMESPACE = "replaybank"  # of Ray's named actors
# What a rate limit reckons with where it does not know how much others insert or sample at a time.
USUAL_INSERT, USUAL_SAMPLE = 64, 256


def shard_name(cluster: str, shard: int) -> str:
    """The name of a shard's actor."""
    return f"{cluster}/shard-{shard:04d}"


@dataclass(frozen=True)
class Checkpoint:
    """Each shard saves what changed to `path`/shard-0000 … every so many seconds, in the background.

    A shard that Ray restarts goes on from its last one; so `path` must be the same place on every machine where Ray may
    restart it (a network's file system), or actor_options must keep shards where their files are. `compression`: as
    `ReplayBuffer.save` takes it. `resume`: go on with what a former cluster has left there (else that is refused).
    """

    path: str | os.PathLike[str]
    every: float = 60.0
    compression: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.every, int | float) and 0 < self.every < math.inf):
            raise ValueError(f"Checkpoint: every must be seconds > 0, given {self.every!r}")
        compressor(self.compression)

    def folder(self, shard: int) -> Path:
        """Where a shard saves."""
        return Path(self.path).absolute() / f"shard-{shard:04d}"

    def folders(self) -> list[Path]:
        """Those of shards that have saved here, as far as this machine sees."""
        return sorted(path for path in Path(self.path).absolute().glob("shard-*") if path.is_dir())


@dataclass(frozen=True)
class ClusterOptions:
    """The rest of a cluster's settings.

    `name`: by which `attach` finds it (None: one that nobody has). `streams`: the most that one shard's writers can
    have at a time. `timeout`: seconds that a call waits if nothing else is said. `shard_timeout`: seconds after which a
    shard that does not answer a reader is away, and the others take its place. `writer_timeout`: seconds of silence
    after which a writer is dead. `detached`: the cluster outlives the process that made it, until `close`.
    `actor_options`: of each shard's actor, as Ray's `options` takes them (resources, num_cpus, scheduling_strategy …).
    """

    name: str | None = None
    streams: int = 1024
    timeout: float = 30.0
    shard_timeout: float = 2.0
    writer_timeout: float = 30.0
    detached: bool = False
    actor_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name is not None and not (isinstance(self.name, str) and 0 < len(self.name) <= 100):
            raise ValueError(f"ClusterOptions: name must be a text of 1 to 100 characters, given {self.name!r}")
        if not (isinstance(self.streams, int) and 1 <= self.streams < MAX_CAPACITY):
            raise ValueError(f"ClusterOptions: streams must be an integer of at least 1, given {self.streams!r}")
        for name in ("timeout", "shard_timeout", "writer_timeout"):
            seconds = getattr(self, name)
            if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
                raise ValueError(f"ClusterOptions: {name} must be seconds > 0, given {seconds!r}")


@dataclass(frozen=True)
class Config:
    """What all of a cluster's actors, readers and writers know. `capacity`: of one shard."""

    name: str
    capacity: int
    schema: Schema
    sampler: Sampler
    view: View
    limit: RateLimit | None
    checkpoint: Checkpoint | None
    seed: int | None
    options: ClusterOptions
