"""Links that are made again from what a checkpoint keeps: the kernel and its twin in plain Python agree."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import VIEWS, Life
from replaybank import kernels, reference
from replaybank.rows import NONE, Rows

ODD = (0, 1, 2, 3, 5, 40, 2**31, NONE - 1, NONE)


def lived(view: str, seed: int) -> Rows:
    """Rows with all kinds of links."""
    buffer = rb.ReplayBuffer(37, None, (1, 3)[seed % 2], view=VIEWS[view](), seed=1)
    life = Life(buffer, seed)
    for t in range((10, 25, 60)[seed % 3]):
        life.step(t)
        if t == 30 and seed % 4 == 0:
            buffer.clear()
    assert buffer._rows is not None
    return buffer._rows


def outcome(relink: Any, rows: Rows) -> tuple[int, list[bytes]]:
    """What it answers, and, where all is well, all that it may have made."""
    store = copy.deepcopy(rows._store)
    answer = relink(store)
    data, _, _, free, free_older, _, _, cursor, _ = store
    live = np.arange(rows.oldest, rows.added) % rows.capacity
    made = [data["link_next"][live], free[: cursor[3]], free_older[: cursor[5]], cursor]
    return answer, [array.tobytes() for array in made] if answer < 0 else []


@pytest.mark.parametrize("view", ["Transition", "FrameStack", "zeros"])
@pytest.mark.parametrize("seed", range(6))
def test_links_are_made_as_they_were(view: str, seed: int) -> None:
    rows = lived(view, seed)
    live = np.arange(rows.oldest, rows.added) % rows.capacity
    before = rows.data["link_next"][live].copy()
    free = sorted(rows._free[: rows._cursor[3]].tolist())
    rows.data["link_next"] = 77
    assert outcome(kernels.relink, rows) == outcome(reference.relink, rows)
    assert kernels.relink(rows._store) == -1
    assert np.array_equal(rows.data["link_next"][live], before)
    assert sorted(rows._free[: rows._cursor[3]].tolist()) == free
    rows.check_valid()


@pytest.mark.parametrize("view", ["Transition", "FrameStack", "zeros"])
def test_what_contradicts_is_found_by_both(view: str) -> None:
    """At the same row; and where neither finds anything, the rows are valid."""
    found = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        rows = lived(view, seed % 24)
        slots = np.arange(rows.oldest, rows.added) % rows.capacity
        links = [name for name in rows.data.dtype.names or () if name.startswith("link_")]
        for _ in range(int(rng.integers(1, 4))):
            slot, other = rng.choice(slots, 2)
            match rng.integers(6):
                case 0 | 1:
                    rows.data[str(rng.choice(links))][slot] = rng.choice(ODD)
                case 2:
                    name = str(rng.choice(links))
                    rows.data[name][slot] = rows.data[name][other]
                case 3:
                    flags = rows.data[str(rng.choice(["terminated", "truncated"]))].view(np.uint8)
                    flags[slot] = rng.choice([0, 1, 2, 255])
                case 4:
                    rows.newest[rng.integers(rows.streams)] = rng.choice([-1, rows.added, *slots.tolist()])
                case 5:
                    tail = rows.data["link_tail"][slots]
                    rows._onward[rng.choice(tail[tail < rows.capacity])] = rng.choice([0, 1, 2, 9, NONE])
        answer = outcome(kernels.relink, rows)
        assert answer == outcome(reference.relink, rows), seed
        found += answer[0] >= 0
        if answer[0] < 0:
            assert kernels.relink(rows._store) == -1
            rows.check_valid()
    assert 50 < found < 147
