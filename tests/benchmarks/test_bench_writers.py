"""Writer processes in the benchmark: what is counted is what has arrived, and what was written comes out."""

from __future__ import annotations

import os

import numpy as np
import pytest

import writers
from adapters.writers import SHARED_CONTENDERS, SharedReplaybank
from contender import LeftOutError, Setup
from transitions import FIELDS, trajectories

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend
CAPACITY = 5_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are forked")
@pytest.mark.parametrize("prioritized", [False, True], ids=writers.PRIORITIZED.values())
@pytest.mark.parametrize("kind", SHARED_CONTENDERS, ids=lambda kind: kind.name)
def test_what_writers_add_is_what_the_learner_samples(kind, prioritized):
    if kind.distribution != "replaybank":
        pytest.importorskip(kind.distribution)
    setup = Setup(CAPACITY, prioritized, 2)
    data = trajectories(CAPACITY, np.random.default_rng(0))
    fresh = trajectories(2 * 20 * writers.AT_A_TIME, np.random.default_rng(1))
    try:
        contender = writers.ready(kind, setup, data)
    except LeftOutError as reason:
        pytest.skip(str(reason))
    parts = [fresh.part(at, at + writers.AT_A_TIME) for at in range(0, len(fresh), writers.AT_A_TIME)]
    chunks = [contender.chunk_form(part) for part in parts]
    rates = writers.measure(contender, [chunks[:20], chunks[20:]], 0.3)
    assert rates.transitions > 0
    assert rates.batches > 0
    columns = contender.columns(contender.sample(256))
    known = {tuple(row) for row in np.concatenate([fresh.obs, data.obs])}
    found = {tuple(row) for row in np.asarray(columns["obs"])}
    assert found <= known
    assert found & {tuple(row) for row in fresh.obs}, "nothing of what the writers wrote comes out"
    assert set(FIELDS) <= set(columns)
    contender.close()


def test_a_row_is_what_a_bar_compares():
    found = {
        "replaybank": (SharedReplaybank.role, [writers.Rates(100.0, 10.0)] * 3),
        "cpprb": (
            SHARED_CONTENDERS[1].role,
            [writers.Rates(50.0, 1.0), writers.Rates(25.0, 1.0), writers.Rates(99, 1)],
        ),
    }
    there = writers.rows_of("uniform", 2, found)
    assert [row["key"] for row in there] == ["in-uniform-2", "out-uniform-2"]
    judged = {bar["row"]: bar for bar in writers.contest.judged(writers.BARS, there)}
    assert judged["in-uniform-2"]["measured"] == pytest.approx(2)
    assert judged["out-uniform-2"]["measured"] == pytest.approx(10)
    assert judged["out-uniform-2"]["met"]
