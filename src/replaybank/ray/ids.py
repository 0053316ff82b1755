"""Ids of transitions in a cluster: which shard has it, since which of its restarts, and its id there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHARD_BITS, EPOCH_BITS, ID_BITS = 12, 9, 42  # 63 bits: an int64 that is never negative
MOST_SHARDS, MOST_EPOCHS, MOST_IDS = 1 << SHARD_BITS, 1 << EPOCH_BITS, 1 << ID_BITS


class Parts(NamedTuple):
    """What global ids (int64 [n]) are made of: three arrays int64 [n]."""

    shards: NDArray[np.int64]
    epochs: NDArray[np.int64]
    ids: NDArray[np.int64]


def base(shard: int, epoch: int) -> int:
    """What a shard adds to its own ids in this epoch.

    An epoch is the time between two of a shard's restarts. A restarted one goes on from its checkpoint, so it gives
    numbers out again that it gave to transitions which are lost; with the epoch these are other ids.

    Raises RuntimeError where the shard or epoch has no place in an id.
    """
    if not (0 <= shard < MOST_SHARDS and 0 <= epoch < MOST_EPOCHS):
        raise RuntimeError(f"shard {shard}, epoch {epoch}: ids are for {MOST_SHARDS} shards and {MOST_EPOCHS} epochs")
    return (shard << EPOCH_BITS | epoch) << ID_BITS


def split(ids: NDArray[np.int64]) -> Parts:
    """The parts of global ids; raises ValueError for negative ones."""
    if ids.size and ids.min() < 0:
        raise ValueError(f"indices: {ids.min()} was never given out")
    return Parts(ids >> (EPOCH_BITS + ID_BITS), ids >> ID_BITS & (MOST_EPOCHS - 1), ids & (MOST_IDS - 1))
