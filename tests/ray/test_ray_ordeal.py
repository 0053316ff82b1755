"""Whatever dies under load, and when: nothing hangs, nothing is torn or invented, and what is lost is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hammering import GAMMA, SCHEMA, STEPS
from killing import Ordeal

import replaybank as rb
from replaybank.ray import Checkpoint, ClusterOptions, ReplayCluster
from scale import LONG

pytestmark = pytest.mark.usefixtures("ray_session")


def ordeal(folder, seed, events, every, shards=2, **load):
    path, notes = folder / "checkpoint", folder / "notes"
    notes.mkdir()
    options = ClusterOptions(timeout=60.0, shard_timeout=1.0, writer_timeout=4.0)
    with ReplayCluster(
        shards,
        3_000_000,  # more than they can add: nothing is overwritten, and all can be accounted for
        SCHEMA,
        rb.Prioritized(),
        rb.NStep(STEPS, GAMMA),
        checkpoint=Checkpoint(path, every=1.0),
        seed=0,
        options=options,
    ) as cluster:
        found = Ordeal(cluster, path, notes, np.random.default_rng(seed)).run(events, every, **load)
    print(found)
    assert min(found.events.values()) > 0, f"not all was killed: {found.events}"
    assert found.batches > 5 * events
    assert found.held > 100 * events


def test_whatever_is_killed_what_is_left_is_whole_and_the_rest_is_counted(tmp_path):
    ordeal(tmp_path, 0, 7, 1.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_minutes_of_it(tmp_path):
    """Of kills; with REPLAYBANK_LONG=1. Else a third as many, in less time."""
    events, every = (60, 2.0) if LONG else (14, 1.0)
    ordeal(tmp_path, 1, events, every, shards=3, writers=4, readers=2)
