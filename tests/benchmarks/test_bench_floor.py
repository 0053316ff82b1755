"""The C floor does the work it stands for: it reads the right bytes and finds the right leaves."""

from __future__ import annotations

import numpy as np
import pytest

from contender import LeftOutError
from floor import BRANCHES, RECORD, Floor, compiled, to_records
from transitions import FIELDS, unrelated


def floor_of(capacity: int) -> Floor:
    try:
        return Floor(capacity)
    except LeftOutError as error:
        pytest.skip(str(error))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(LeftOutError, match="no-such-compiler"):
        compiled()


def test_read_gives_the_bytes_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    floor = floor_of(1_000)
    data = unrelated(1_000, rng)
    floor.records[:] = to_records(data)
    slots = rng.integers(0, 1_000, size=(3, 256))
    floor.read(slots)
    for name in FIELDS:
        np.testing.assert_array_equal(floor.columns[name][:256], data.columns()[name][slots[-1]])


@pytest.mark.parametrize("capacity", [1, 7, 8, 9, 64, 1_000, 4_097])
def test_walk_finds_the_leaf_of_every_stratum(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    floor = floor_of(capacity)
    priorities = rng.integers(1, 100, size=capacity).astype(np.float64)  # integers: sums are exact in any order
    floor.set_priorities(priorities)
    uniforms = rng.random((1, 256))
    floor.walk(uniforms)
    targets = (np.arange(256) + uniforms[0]) * priorities.sum() / 256
    expected = np.searchsorted(np.cumsum(priorities), targets, side="right")
    np.testing.assert_array_equal(floor.slots[:256], expected)


def test_walk_and_read_reads_what_it_found() -> None:
    rng = np.random.default_rng(3)
    floor = floor_of(500)
    floor.records[:] = to_records(unrelated(500, rng))
    floor.set_priorities(rng.random(500) + 0.1)
    floor.walk_and_read(rng.random((2, 64)))
    np.testing.assert_array_equal(floor.columns["obs"][:64], floor.records["obs"][floor.slots[:64]])


def test_update_leaves_every_sum_equal_to_its_children() -> None:
    rng = np.random.default_rng(4)
    floor = floor_of(5_000)
    leaves = rng.random(5_000)
    floor.set_priorities(leaves)
    slots, priorities = rng.integers(0, 5_000, size=(10, 256)), rng.random((10, 256))
    floor.update(slots, priorities)
    for call in range(10):
        leaves[slots[call]] = priorities[call]
    np.testing.assert_array_equal(floor.levels[-1][:5_000], leaves)
    for above, below in zip(floor.levels[:-1], floor.levels[1:], strict=True):
        sums = below.reshape(-1, BRANCHES).sum(axis=1)
        np.testing.assert_allclose(above[: len(sums)], sums, rtol=1e-14)


def test_add_goes_round() -> None:
    rng = np.random.default_rng(5)
    floor = floor_of(10)
    records = to_records(unrelated(13, rng))
    floor.add(records[:7])
    floor.add(records[7:])
    np.testing.assert_array_equal(floor.records, np.concatenate((records[10:], records[3:10])))


def test_a_step_adds_samples_and_updates_as_its_pieces_do() -> None:
    rng = np.random.default_rng(6)
    one, other = floor_of(700), floor_of(700)
    records, leaves = to_records(unrelated(700, rng)), rng.random(700) + 0.1
    for floor in (one, other):
        floor.records[:] = records
        floor.set_priorities(leaves)
    added, uniforms, priorities = to_records(unrelated(12, rng)), rng.random((3, 64)), rng.random((3, 64)) + 0.1
    one.step(added, 2.0, uniforms, priorities)
    for call in range(3):
        other.add(added[4 * call : 4 * call + 4])
        other.update(np.arange(4 * call, 4 * call + 4)[None], np.full((1, 4), 2.0))
        other.walk_and_read(uniforms[call : call + 1])
        other.update(other.slots[None, :64].copy(), priorities[call : call + 1])
    np.testing.assert_array_equal(one.records, other.records)
    np.testing.assert_array_equal(one.slots[:64], other.slots[:64])
    np.testing.assert_array_equal(one.columns["obs"][:64], other.columns["obs"][:64])
    for mine, theirs in zip(one.levels, other.levels, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_record_is_48_bytes() -> None:
    assert RECORD.itemsize == 48
