"""Shards, writers, readers and the coordinator die at any instant: nothing hangs, nothing is invented, losses are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hammering import GAMMA, SCHEMA, STEPS, TIMEOUT
from killing import Ordeal

import replaybank as rb
from scale import LONG

ray = pytest.importorskip("ray")

from replaybank.ray import Checkpoint, ClusterOptions, ReplayCluster  # noqa: E402  where there is Ray

pytestmark = pytest.mark.usefixtures("ray_session")


def cluster_of(shards: int, path: Path | None = None, capacity: int = 2_000_000, **options) -> ReplayCluster:
    return ReplayCluster(
        shards,
        capacity,
        SCHEMA,
        rb.Prioritized(),
        rb.NStep(STEPS, GAMMA),
        checkpoint=None if path is None else Checkpoint(path, every=1.0),
        seed=0,
        options=ClusterOptions(**{"timeout": TIMEOUT, "shard_timeout": 1.0, "writer_timeout": 4.0, **options}),
    )


def ordeal(folder: Path, seed: int, events: int, every: float, **load: int) -> None:
    path, notes = folder / "checkpoint", folder / "notes"
    notes.mkdir()
    with cluster_of(2, path) as cluster:
        found = Ordeal(cluster, path, notes, np.random.default_rng(seed)).run(events, every, **load)
    print(found)
    assert min(found.events.values()) > 0, f"not all was killed: {found.events}"
    assert found.batches > 10 * events
    assert found.transitions > 100 * events


def test_whatever_is_killed_what_is_left_is_whole_and_the_rest_is_counted(tmp_path):
    ordeal(tmp_path, 0, 7, 1.5)


@pytest.mark.slow
def test_two_minutes_of_it(tmp_path):
    ordeal(tmp_path, 1, 63 if LONG else 14, 2.0, writers=4, readers=2)
