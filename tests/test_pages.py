"""Of large arrays a checkpoint keeps the pages that changed; what is loaded is whole, and exact."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import Life, differing
from replaybank import pages

N = 3000  # priorities, in 6 pages


@pytest.fixture(autouse=True)
def small_arrays_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGE", 1)


def full(seed: int = 0) -> rb.ReplayBuffer:
    rng = np.random.default_rng(seed)
    buffer = rb.ReplayBuffer(N, sampler=rb.Prioritized(), seed=seed)
    buffer.extend(*transitions(0, N + 50))
    buffer.update_priorities(np.arange(50, N + 50), rng.normal(size=N))
    return buffer


def transitions(first: int, n: int) -> tuple[Any, ...]:
    obs = np.arange(first, first + n + 1, dtype=np.float32)[:, None]
    return (
        obs[:-1].copy(),
        np.arange(first, first + n),
        np.ones(n),
        obs[1:].copy(),
        np.zeros(n, bool),
        np.zeros(n, bool),
    )


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("state-*.npz"))


def test_what_is_loaded_is_what_was_saved_whatever_changed_in_between(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    buffer = full()
    kept = 0
    for turn in range(30):
        buffer.save(tmp_path)
        kept += len(list(tmp_path.glob("state-*.npz"))) == 2
        assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []
        if turn == 12:
            buffer = rb.ReplayBuffer.load(tmp_path)
        added = buffer.stats()["added"]
        if turn % 7 == 3:  # all of them
            buffer.update_priorities(np.arange(added - N, added), rng.normal(size=N))
        else:
            start = int(rng.integers(added - N, added - 40))
            buffer.update_priorities(np.arange(start, start + 40), rng.normal(size=40))
        if turn % 3 == 1:
            buffer.extend(*transitions(added, int(rng.integers(1, 100))))
    assert kept > 10, "pages were never kept"


def test_little_is_written_where_little_has_changed(tmp_path: Path) -> None:
    buffer = full()
    buffer.save(tmp_path)
    before = bytes_of(tmp_path)
    buffer.update_priorities([N], [3.0])
    buffer.save(tmp_path)
    assert bytes_of(tmp_path) - before < before / 3


def test_lives_of_many_saves_are_exact(tmp_path: Path) -> None:
    for seed, sampler in enumerate((rb.Prioritized(), rb.SampleOnce(), rb.RankPrioritized())):
        buffer = rb.ReplayBuffer(700, None, 2, sampler, rb.NStep(3, 0.9), seed=seed)
        life = Life(buffer, seed)
        for t in range(420):
            life.step(t)
            if t % 15 == 14:
                life.learn()
                buffer.save(tmp_path / str(seed))
                assert differing(buffer, rb.ReplayBuffer.load(tmp_path / str(seed))) == []


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_base_is_refused_by_its_name_and_the_next_save_is_whole_again(how: str, tmp_path: Path) -> None:
    buffer = full()
    buffer.save(tmp_path)
    (base,) = tmp_path.glob("state-*.npz")
    buffer.update_priorities([N], [3.0])
    buffer.save(tmp_path)
    assert base.exists()
    contents = bytearray(base.read_bytes())
    if how == "flipped":
        contents[contents.index(b"priorities") + 3000] ^= 1
        base.write_bytes(contents)
    elif how == "cut":
        base.write_bytes(contents[:-100])
    else:
        base.unlink()
    with pytest.raises(rb.CheckpointError, match=base.name):
        rb.ReplayBuffer.load(tmp_path)
    buffer.update_priorities(np.arange(50, N + 50), np.ones(N))
    buffer.save(tmp_path)
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


def test_a_storage_whose_base_is_damaged_is_refused_by_its_name_also_where_salvage_is_asked_for(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(N, sampler=rb.Prioritized(), seed=0, storage=tmp_path)
    buffer.extend(*transitions(0, N))
    buffer.save()
    (base,) = tmp_path.glob("state-*.npz")
    buffer.update_priorities([5], [3.0])
    buffer.save()
    contents = bytearray(base.read_bytes())
    contents[contents.index(b"priorities") + 3000] ^= 1
    base.write_bytes(contents)
    del buffer
    gc.collect()
    with pytest.raises(rb.CheckpointError, match=base.name):
        rb.ReplayBuffer.load(tmp_path, salvage=True)


def test_what_is_patched_does_not_reach_the_file(tmp_path: Path) -> None:
    buffer = full()
    buffer.save(tmp_path)
    (base,) = tmp_path.glob("state-*.npz")
    before = base.read_bytes()
    buffer.update_priorities([N], [3.0])
    buffer.save(tmp_path)
    rb.ReplayBuffer.load(tmp_path).update_priorities(np.arange(50, N + 50), np.ones(N))
    assert base.read_bytes() == before
