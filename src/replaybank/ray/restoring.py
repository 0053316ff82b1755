"""What a shard finds when it starts: its checkpoint, and where it says how far it has come."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path

import ray

from replaybank.buffer import ReplayBuffer
from replaybank.files import CheckpointError
from replaybank.ray.config import Config

log = logging.getLogger("replaybank.ray")


def beside_ray() -> Path:
    """Where a shard without a checkpoint says how far it has come: in what Ray keeps on this machine while it runs.

    The name is the same after a restart. Restarted on another machine, the shard knows what it last reported.
    """
    session = ray._private.worker._global_node.get_session_dir_path()
    return Path(session) / f"replaybank-{ray.get_runtime_context().get_actor_id()}.progress"


def loaded(folder: Path, config: Config) -> ReplayBuffer | None:
    """The buffer of a checkpoint, or what is whole of it; None where nothing is, and the folder is put aside."""
    given = {"sampler": config.sampler, "view": config.view}
    try:
        buffer = ReplayBuffer.load(folder, **given)  # type: ignore[arg-type]
    except FileNotFoundError:
        return None
    except CheckpointError as error:
        log.warning("%s is damaged: %s", folder, error)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is lost is counted, and reported with the rest
                buffer = ReplayBuffer.load(folder, salvage=True, **given)  # type: ignore[arg-type]
        except CheckpointError:
            aside = folder.with_name(f"{folder.name}.damaged-{int(time.time())}")
            folder.rename(aside)
            log.warning("nothing of it could be read: it is kept as %s", aside)
            return None
    found = buffer.capacity, buffer.schema, buffer.streams
    if found != (config.capacity, config.schema, config.options.streams + 1):
        raise ValueError(
            f"checkpoint: {folder} is of a shard with capacity {found[0]}, {found[2] - 1} streams and {found[1]}; this "
            f"cluster has capacity {config.capacity} a shard, {config.options.streams} streams and {config.schema}"
        )
    return buffer
