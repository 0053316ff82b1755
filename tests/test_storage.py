"""A buffer in mapped files is the buffer in memory, and after any end what the last save made true."""

from __future__ import annotations

import errno
import gc
import os
import signal
import struct
import subprocess
import sys
import textwrap
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank import storage as storage_

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mapped as on POSIX")
FRAMES = 3


class Twins:
    """The same calls on a buffer in memory and on one in files."""

    def __init__(self, rng: np.random.Generator, folder: Path, stacks: bool) -> None:
        self.rng, self.folder, self.stacks = rng, folder, stacks
        self.streams, self.capacity = int(rng.integers(1, 4)), int(rng.integers(20, 200))
        self.obs: list[Any] = [None] * self.streams
        self.memory, self.files = self.make(), self.make(storage=folder / "files")

    def make(self, **where: Any) -> rb.ReplayBuffer:
        view = rb.FrameStack(FRAMES) if self.stacks else rb.NStep(3, 0.9)
        return rb.ReplayBuffer(self.capacity, None, self.streams, rb.Prioritized(), view, seed=1, **where)

    def observation(self) -> Any:
        if self.rng.random() < 0.7:
            return np.repeat(self.rng.integers(0, 9, (1, 2)), FRAMES, 0).astype(np.float32)
        return self.rng.integers(0, 9, (FRAMES, 2)).astype(np.float32)

    def add(self) -> None:
        obs, after, ends = [], [], []
        for stream, here in enumerate(self.obs):
            here = self.observation() if here is None or self.rng.random() < 0.05 else here
            newest = self.rng.integers(0, 9, (1, 2)).astype(np.float32)
            following = np.concatenate([here[1:], newest]) if self.rng.random() < 0.95 else self.observation()
            end = bool(self.rng.random() < 0.1)
            self.obs[stream] = None if end else following
            obs.append(here)
            after.append(following)
            ends.append(end)
        zeros = np.zeros(self.streams)
        for buffer in (self.memory, self.files):
            buffer.add(np.array(obs), zeros, zeros, np.array(after), np.array(ends), zeros.astype(bool))

    def learn(self) -> None:
        one, other = self.memory.sample(4), self.files.sample(4)
        for name in tuple(one.keys()):
            assert np.array_equal(one[name], other[name]), name
        errors = self.rng.normal(size=4)
        for buffer in (self.memory, self.files):
            buffer.update_priorities(one.indices, errors)

    def save(self) -> None:
        self.files.save()
        self.memory.save(self.folder / "memory")

    def crash(self) -> int:
        """Both go on from their last save; gives how many transitions had left the files since."""
        del self.files
        gc.collect()
        self.files, self.memory = (rb.ReplayBuffer.load(self.folder / name) for name in ("files", "memory"))
        self.files.check_valid()
        added, kept = self.files.stats()["added"], len(self.files)
        assert added == self.memory.stats()["added"]
        gone = len(self.memory) - kept
        assert gone >= 0
        ids = np.arange(added - kept, added)
        usable = self.files.view.usable(self.files._rows, ids)
        ids = ids if usable is None else ids[usable]
        if len(ids):
            one, other = self.memory.read(ids), self.files.read(ids)
            for name in tuple(one.keys()):
                assert np.array_equal(one[name], other[name]), name
        if gone:
            self.memory._rows.drop(added - kept)
            self.memory._sampler.dropped(added - kept)
        self.obs = [None] * self.streams
        return gone


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_buffer_in_memory_whatever_happens(seed: int, tmp_path: Path) -> None:
    crashes = gone = 0
    for trial in range(6):
        rng = np.random.default_rng([seed, trial])
        twins = Twins(rng, tmp_path / str(trial), stacks=trial % 3 == 0)
        for t in range(int(rng.integers(5, 250))):
            twins.add()
            if t % 3 == 0 and len(twins.memory) > 20:
                twins.learn()
            if rng.random() < 0.01:
                twins.memory.clear()
                twins.files.clear()
            if rng.random() < 0.05:
                twins.save()
            if rng.random() < 0.02 and (twins.folder / "files" / "manifest.json").exists():
                gone += twins.crash()
                crashes += 1
        twins.files.check_valid()
    assert crashes > 1
    assert gone > 0


def step(t: int) -> tuple[Any, ...]:
    return np.float32([t, t]), t, float(t), np.float32([t + 1, t + 1]), t % 10 == 9, False


def filled(folder: Path, n: int = 150, capacity: int = 100) -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(capacity, storage=folder)
    for t in range(n):
        buffer.add(*step(t))
    return buffer


def test_after_a_kill_it_is_what_the_last_save_made_true(tmp_path: Path) -> None:
    program = """
        import sys, os, signal, numpy as np, replaybank as rb
        buffer = rb.ReplayBuffer(1000, storage=sys.argv[1])
        for t in range(10**9):
            buffer.add(np.float32([t, t]), t, float(t), np.float32([t + 1, t + 1]), t % 10 == 9, False)
            if t == 1500:
                buffer.save()
                print("saved", flush=True)
    """
    for kill in range(3):
        folder = tmp_path / str(kill)
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "saved\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        buffer = rb.ReplayBuffer.load(folder)
        buffer.check_valid()
        assert buffer.stats()["added"] == 1501
        ids = np.arange(1501 - len(buffer), 1501)
        if len(ids):
            assert buffer.read(ids).action.tolist() == ids.tolist()
            assert buffer.read(ids).next_obs[:, 0].tolist() == (ids + 1).tolist()


def test_a_second_buffer_is_refused_and_so_is_a_new_one_over_a_checkpoint(tmp_path: Path) -> None:
    buffer = filled(tmp_path / "here")
    with pytest.raises(BlockingIOError, match="another buffer has its storage there"):
        rb.ReplayBuffer(10, storage=tmp_path / "here").add(*step(0))
    buffer.save()
    with pytest.raises(FileExistsError, match="holds a checkpoint"):
        rb.ReplayBuffer(10, storage=tmp_path / "here")
    with pytest.raises(BlockingIOError, match="another buffer"):
        rb.ReplayBuffer.load(tmp_path / "here")


def test_a_copy_and_another_checkpoint_are_of_their_own(tmp_path: Path) -> None:
    import copy

    buffer = filled(tmp_path / "here")
    twin = copy.deepcopy(buffer)
    buffer.save(tmp_path / "there")
    other = rb.ReplayBuffer.load(tmp_path / "there")
    buffer.add(*step(150))
    for one in (twin, other):
        one.check_valid()
        assert one.read(np.arange(50, 150)).action.tolist() == list(range(50, 150))
    assert not list((tmp_path / "there").glob("*.bin"))
    with pytest.raises(TypeError, match="save: expected a path"):
        twin.save()


def test_a_full_disk_is_an_error_and_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage_, "STEP_NBYTES", 1)
    buffer = filled(tmp_path / "here", 30)
    before = buffer.stats()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        buffer.extend(*map(np.array, zip(*(step(7 * t) for t in range(1000, 1020)), strict=True)))  # nothing is shared
    buffer.check_valid()
    assert buffer.stats()["size"] == before["size"]
    with pytest.raises(OSError, match="No space left"):
        rb.ReplayBuffer(10, storage=tmp_path / "there").add(*step(0))
    monkeypatch.undo()
    buffer.add(*step(3))
    buffer.check_valid()


@pytest.mark.parametrize("name", ["rows", "tails", "onward"])
def test_files_that_are_missing_or_short_are_refused(name: str, tmp_path: Path) -> None:
    buffer = filled(tmp_path / "here")
    buffer.save()
    del buffer
    gc.collect()
    file = tmp_path / "here" / f"{name}.bin"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(rb.CheckpointError, match=rf"{name}\.bin: expected"):
        rb.ReplayBuffer.load(tmp_path / "here")
    file.unlink()
    with pytest.raises(rb.CheckpointError, match=rf"{name}\.bin: expected"):
        rb.ReplayBuffer.load(tmp_path / "here")


def test_the_horizon_is_on_the_disk_before_anything_is_overwritten(tmp_path: Path) -> None:
    buffer = filled(tmp_path / "here", 100)
    horizon = (tmp_path / "here" / "horizon").read_bytes()
    assert not horizon.strip(b"\0"), "nothing was overwritten yet"
    buffer.add(*step(100))
    assert horizon_of(tmp_path / "here")[1] >= 1


def test_a_torn_horizon_leaves_the_one_before() -> None:
    numbers = storage_.HORIZON.pack(5, 77)
    whole = numbers + struct.pack("<I", zlib.crc32(numbers))
    assert storage_._horizon_of(whole) == (5, 77)
    for torn in (whole[:-1] + b"x", whole[:9], whole[:16] + bytes(4)):
        assert storage_._horizon_of(torn) == storage_.DAMAGED
    assert storage_._horizon_of(b"") == storage_._horizon_of(bytes(20)) == (0, 0)


def test_save_needs_a_path_where_there_is_no_storage_and_storage_no_max_bytes(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="save: expected a path"):
        rb.ReplayBuffer(10).save()
    with pytest.raises(ValueError, match="one of storage and max_bytes"):
        rb.ReplayBuffer(max_bytes=10**6, storage=tmp_path)


def horizon_of(folder: Path) -> tuple[int, int]:
    stored = (folder / "horizon").read_bytes()
    return max(storage_._horizon_of(stored[at : at + storage_.HORIZON_NBYTES]) for at in storage_.HORIZONS)


def horizon_file(folder: Path, *moves: int) -> None:
    """Writes into each place which horizon it is, one of 10 a move; negative: damaged."""
    stored = bytearray(storage_.HORIZONS[-1] + storage_.HORIZON_NBYTES)
    for at, move in zip(storage_.HORIZONS, moves, strict=True):
        numbers = storage_.HORIZON.pack(abs(move), 10 * abs(move))
        crc = zlib.crc32(numbers) ^ (move < 0)
        stored[at : at + storage_.HORIZON_NBYTES] = numbers + struct.pack("<I", crc)
    (folder / "horizon").write_bytes(stored)


def saved(folder: Path, n: int = 150) -> None:
    buffer = filled(folder, n)
    buffer.save()
    del buffer
    gc.collect()


def test_a_horizon_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "here")
    horizon_file(tmp_path / "here", -9, -8)
    with pytest.raises(rb.CheckpointError, match="horizon is damaged"):
        rb.ReplayBuffer.load(tmp_path / "here")
    (tmp_path / "here" / "horizon").unlink()
    with pytest.raises(rb.CheckpointError, match="horizon is missing"):
        rb.ReplayBuffer.load(tmp_path / "here")
    assert not (tmp_path / "here" / "horizon").exists()


@pytest.mark.parametrize("moves", [(8, 9), (8, 7), (8, -9), (-8, 9), (-10, 9)])
def test_the_horizon_that_counts_is_never_the_one_that_is_written_over(moves: tuple[int, int], tmp_path: Path) -> None:
    saved(tmp_path / "here")
    horizon_file(tmp_path / "here", *moves)
    buffer = rb.ReplayBuffer.load(tmp_path / "here")
    counts = max(moves)
    assert len(buffer) == 150 - 10 * counts
    for t in range(150, 101 + 10 * counts):  # the last one moves it
        buffer.add(*step(t))
    stored = (tmp_path / "here" / "horizon").read_bytes()
    at = storage_.HORIZONS[moves.index(counts)]
    assert storage_._horizon_of(stored[at : at + storage_.HORIZON_NBYTES]) == (counts, 10 * counts)
    assert horizon_of(tmp_path / "here")[0] == counts + 1


def test_all_that_was_saved_is_there_where_nothing_came_after(tmp_path: Path) -> None:
    for n in (2000, 2001, 2015, 2016):
        folder = tmp_path / str(n)
        buffer = filled(folder, n, capacity=1000)
        buffer.save()
        expected = buffer.sample(50)
        del buffer
        gc.collect()
        loaded = rb.ReplayBuffer.load(folder)
        assert len(loaded) == 1000
        assert loaded.sample(50).indices.tolist() == expected.indices.tolist()
        loaded.add(*step(n))
        assert horizon_of(folder)[1] > n - 1000, "it is on the disk before the next one takes a place"


def stacks(n: int) -> tuple[Any, ...]:
    """Steps of one episode from its start, whose stacks of frames all follow from each other."""
    obs = np.maximum(np.arange(n + 1)[:, None] + np.arange(1 - FRAMES, 1), 0).astype(np.float32)[..., None]
    return obs[:-1], np.arange(n), np.zeros(n), obs[1:], np.zeros(n, bool), np.zeros(n, bool)


def test_what_was_loaded_may_take_more_room_for_frames_put_aside(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(1000, view=rb.FrameStack(FRAMES), storage=tmp_path / "here")
    for values in zip(*stacks(5), strict=True):
        buffer.add(*values)
    buffer.save()
    del buffer
    gc.collect()
    loaded = rb.ReplayBuffer.load(tmp_path / "here")
    loaded.extend(*stacks(200))
    loaded.check_valid()
    assert loaded.read(np.arange(5, 205)).obs.tolist() == stacks(200)[0].tolist()


def test_frames_put_aside_that_are_missing_are_refused(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(100, view=rb.FrameStack(FRAMES), storage=tmp_path / "here")
    obs, *rest = stacks(9)
    buffer.extend(obs[::-1], *rest)  # nothing follows from anything
    assert buffer._rows is not None
    assert buffer._rows.used[1] > 0
    buffer.save()
    del buffer
    gc.collect()
    (tmp_path / "here" / "older.bin").unlink()
    with pytest.raises(rb.CheckpointError, match=r"older\.bin: expected"):
        rb.ReplayBuffer.load(tmp_path / "here")


def test_files_that_are_made_while_a_save_waits_for_the_disk_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_.Storage(tmp_path / "here")
    storage.array("rows", 10, np.dtype(np.int64), 10)
    fsync = os.fsync

    def slow(file: int) -> None:
        fsync(file)
        storage.array(f"older{len(storage._files)}", 10, np.dtype(np.int64), 10)

    monkeypatch.setattr(os, "fsync", slow)
    storage.flush()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where another test has imported it
def test_a_fork_changes_nothing_and_holds_nothing(tmp_path: Path) -> None:
    buffer = filled(tmp_path / "here")
    buffer.save()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        status = 1
        try:
            for call in (partial(buffer.add, *step(1)), buffer.clear, buffer.save):
                with pytest.raises(RuntimeError, match="process"):
                    call()
            buffer.__dict__.clear()
            gc.collect()
            status = 0
        finally:
            os.read(read, 1)  # until the parent is done
            os._exit(status)
    os.close(read)
    try:
        with pytest.raises(BlockingIOError):
            rb.ReplayBuffer.load(tmp_path / "here")
        buffer.check_valid()
        del buffer
        gc.collect()
        assert len(rb.ReplayBuffer.load(tmp_path / "here")) == 100
    finally:
        os.close(write)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_checkpoint_that_comes_while_it_waits_for_the_folder_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = storage_.hold_alone

    def late(*given: Any) -> Any:
        saved(tmp_path / "here")
        return hold(*given)

    free = storage_.Storage(tmp_path / "other")
    del free
    monkeypatch.setattr(storage_, "hold_alone", lambda *given: (monkeypatch.undo(), late(*given))[1])
    with pytest.raises(FileExistsError, match="holds a checkpoint"):
        storage_.Storage(tmp_path / "here")
    assert len(rb.ReplayBuffer.load(tmp_path / "here")) == 100


def test_where_files_cannot_be_read_in_place_it_says_so_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pread")  # as on Windows
    with pytest.raises(OSError, match="storage: rows in mapped files need a POSIX system"):
        rb.ReplayBuffer(10, {"obs": "float32", "action": "int64"}, storage=tmp_path / "here")
    assert not (tmp_path / "here").exists()
