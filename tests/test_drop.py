"""Rows that leave before newer ones push them out: what stays is what a smaller ring would hold."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank.rows import Rows
from replaybank.schema import Schema
from replaybank.segments import segments_of
from replaybank.views.base import View

SCHEMA = Schema.of({"obs": ("uint8", (3,)), "action": "int64"})


def walk(rng: np.random.Generator, streams: int, state: dict[int, Any]) -> dict[str, np.ndarray]:
    """One transition a stream: stacks of three frames of a byte, most of them shifted, some of them jumps."""
    obs, after = np.empty((2, streams, 3), np.uint8)
    for i in range(streams):
        obs[i] = state.get(i, rng.integers(0, 3, 3)) if rng.random() < 0.85 else rng.integers(0, 3, 3)
        after[i] = [*obs[i, 1:], rng.integers(0, 3)] if rng.random() < 0.85 else rng.integers(0, 3, 3)
        state[i] = after[i]
    flags = rng.random((2, streams)) < 0.07
    action, reward = rng.integers(0, 9, streams), rng.random(streams, np.float32)
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    return dict(zip(names, (obs, action, reward, after, *flags), strict=True))


def taken(rows: Rows, view: View) -> list[tuple[int, dict[str, bytes]]]:
    """What the view makes of each live id that it can use."""
    ids = np.arange(rows.oldest, rows.added)
    usable = view.usable(rows, ids)
    ids = ids if usable is None else ids[usable]
    rng = np.random.default_rng(0)
    batches = [(int(id_), view.read(rows, np.array([id_]), rng)) for id_ in ids]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "discount")
    return [(id_, {name: batch[name].tobytes() for name in names}) for id_, batch in batches]


VIEWS = {
    "transition": lambda: rb.Transition(),
    "nstep": lambda: rb.NStep(3, 0.9),
    "stacks": lambda: rb.FrameStack(3),
    "sequence": lambda: rb.Sequence(4),
}


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("kind", VIEWS)
def test_a_large_ring_that_drops_reads_as_a_small_one_that_overwrites(kind: str, streams: int) -> None:
    view = VIEWS[kind]()
    small, large = (Rows(SCHEMA, capacity, streams, view.stack(SCHEMA)) for capacity in (23, 61))
    rng, state = np.random.default_rng(streams), {}
    lead = -1 if streams == 1 else streams
    for turn in range(90):
        values = walk(rng, streams, state)
        leaves = tuple(part[0] if streams == 1 else part for part in SCHEMA.values(values))
        for rows in (small, large):
            rows.append(tuple(SCHEMA.arrays(leaves, lead)), lead)
        if turn % 3 == 2:  # between these the large one holds more
            large.drop(small.oldest)
            large.check_valid()
            assert len(large) == len(small)
            assert large.tails_in_use == small.tails_in_use
            assert taken(large, view) == taken(small, view)
            for one, other in zip(segments_of(large), segments_of(small), strict=True):
                assert one.ids.tolist() == other.ids.tolist()
        if turn == 60:
            for rows in (small, large):
                rows.clear()
                rows.check_valid()
                assert rows.empty
                assert rows.tails_in_use == 0


def test_a_copy_of_rows_that_dropped_some_holds_the_others() -> None:
    rows = Rows(SCHEMA, 40, 1)
    rng, state = np.random.default_rng(0), {}
    for turn in range(70):
        rows.append(tuple(SCHEMA.arrays([part[0] for part in SCHEMA.values(walk(rng, 1, state))], -1)), -1)
        if turn in (20, 55, 69):
            rows.drop(rows.oldest + 5)
            twin = object.__new__(Rows)
            twin.__setstate__(rows.__getstate__())
            twin.check_valid()
            assert taken(twin, rb.Transition()) == taken(rows, rb.Transition())
            assert twin.nbytes <= rows.nbytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory goes back at once on Linux only")
def test_memory_of_what_was_dropped_goes_back_and_nbytes_says_so() -> None:
    """Zeros are what given back pages hold, so the rows' memory itself tells what went back."""
    n, page = 5000, 4096
    schema = Schema.of({"obs": ("uint8", (700,)), "action": "int64"})
    rows = Rows(schema, n, 1)
    size = rows.dtype.itemsize
    full = np.ones(700, np.uint8)

    def add(count: int) -> None:
        for _ in range(count):
            rows.append((full, np.int64(7), np.float32(1), full, np.bool_(False), np.bool_(False)), -1)

    def held() -> int:
        whole = rows.data.view(np.uint8)
        return int(np.add.reduceat(whole, np.arange(0, whole.size, page)).astype(bool).sum()) * page

    rows.data.view(np.uint8)[:] = 0
    add(n // 2)
    for _ in range(30):
        before = rows.nbytes
        oldest = rows.oldest + 83
        rows.drop(oldest)
        assert before - 83 * size - page <= rows.nbytes <= before - 83 * size + 2 * page
        assert (rows.data["obs"][np.arange(rows.oldest, rows.added) % n] == 1).all()
        assert abs(held() - len(rows) * size) < 5 * page
        add(400)
        assert abs(rows.nbytes - len(rows) * size) < 2 * page
        assert abs(held() - len(rows) * size) < 5 * page
    rows.clear()
    assert rows.nbytes < 2 * page
    add(10)
    assert rows.nbytes < 3 * page + 10 * size


def test_clear_gives_the_memory_of_tails_and_frames_put_aside_back() -> None:
    view = rb.FrameStack(4)
    buffer = rb.ReplayBuffer(3000, {"obs": ("uint8", (4, 60)), "action": "int64"}, view=view)
    rng = np.random.default_rng(0)
    flags = np.zeros(2000, bool)
    for _ in range(2):
        obs, after = rng.integers(0, 255, (2, 2000, 4, 60)).astype(np.uint8)
        buffer.extend(obs, np.arange(2000), np.ones(2000), after, flags, flags)
        assert buffer.nbytes > 2000 * 60 * 8
        assert np.array_equal(buffer.read(np.arange(len(buffer)) + buffer._rows.oldest).next_obs, after)
        buffer.clear()
        buffer.check_valid()
        assert buffer.nbytes < 2 * 4096
