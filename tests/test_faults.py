"""Disks that fail, and power that goes: a folder holds the last checkpoint or the new one, whole, at every instant."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import Life, differing, digest
from disk import Died, Disk, between

HOW: tuple[tuple[Any, bool], ...] = (
    *((errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False), ("short", True), (errno.EMFILE, True)),
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is a model here: nothing waits for the real one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def begun(folder: Path, saves: int) -> tuple[rb.ReplayBuffer, Life]:
    """A buffer that wraps around, saved a few times, and with something new."""
    buffer = rb.ReplayBuffer(23, None, 2, rb.Prioritized(), seed=3)
    life = Life(buffer, 4)
    for _ in range(saves):
        for t in range(9):
            life.step(t)
        life.learn()
        buffer.save(folder)
    for t in range(6):
        life.step(t)
    life.learn()
    return buffer, life


def loaded(folder: Path) -> str | None:
    """The digest of what a folder holds; None where it holds nothing yet."""
    try:
        return digest(rb.ReplayBuffer.load(folder))
    except FileNotFoundError:
        return None


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux does")
@pytest.mark.parametrize("saves", [0, 2])
@pytest.mark.parametrize(("how", "for_good"), HOW)
def test_whatever_call_fails_the_folder_holds_the_last_checkpoint_or_the_new_one(
    tmp_path: Path, how: Any, for_good: bool, saves: int
) -> None:
    buffer, life = begun(tmp_path / "first", saves)
    before = loaded(tmp_path / "first")
    gc.collect()
    open_files = descriptors()
    for k in range(10**6):
        root = tmp_path / f"{k}"
        folder = root / "run" / "checkpoint" if saves == 0 else root
        if saves == 0:
            root.mkdir()
        else:
            shutil.copytree(tmp_path / "first", root)
        buffer._saves[str(folder)] = buffer._saves.get(str(tmp_path / "first"), "")
        disk = Disk(root, k, how, for_good)
        error = None
        with between(disk):
            try:
                buffer.save(folder, background=True).result()
            except OSError as raised:
                error = raised
        assert not [
            thread for thread in threading.enumerate() if thread.name.startswith(("replaybank: save", "ThreadPool"))
        ]
        assert buffer._rows is not None
        assert buffer._rows.guards == ()
        known = loaded(folder)
        now = digest(buffer)
        assert known in (before, now)
        assert error is not None or known == now
        del error
        assert descriptors() == open_files
        if disk.fail_at >= len(disk.calls):
            break
        buffer.save(folder)
        assert differing(buffer, rb.ReplayBuffer.load(folder)) == []
        manifest_files = {*map(str, folder.glob("*.npz"))}
        buffer.save(folder)
        assert len({*map(str, folder.glob("*.npz"))}) == len(manifest_files), "what was given up is not removed"
        shutil.rmtree(root)
    assert k > 20, "nothing was tried"


@pytest.mark.parametrize("saves", [0, 2])
def test_after_a_power_failure_the_folder_holds_the_last_checkpoint_or_the_new_one(
    tmp_path: Path, saves: int, effort: int
) -> None:
    rng = np.random.default_rng(saves)
    root = tmp_path / "disk"
    root.mkdir()
    folder = root / "some" / "where" / "else"
    buffer, life = begun(folder, saves)
    last = dict(buffer._saves)
    before, now = loaded(folder), digest(buffer)
    shutil.copytree(root, tmp_path / "first")
    seen = set()
    k = ended = 0
    while not ended:
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "first", root)
        buffer._saves = dict(last)
        disk = Disk(root, k, "die")
        with between(disk):
            try:
                buffer.save(folder)
                ended = 1
            except Died:
                pass
        assert loaded(folder) in (before, now), "the process alone"
        for i in range(3 * effort):
            lost = tmp_path / f"lost-{k}-{i}"
            lost.mkdir()
            disk.after_power_loss(rng, lost)
            known = loaded(lost / "some" / "where" / "else")
            assert known in ((now,) if ended else (before, now))
            seen.add(known)
            shutil.rmtree(lost)
        k += 1
    assert seen == {before, now}


def test_a_power_failure_after_a_killed_save_and_another_one(tmp_path: Path, effort: int) -> None:
    """What the killed one made true is on the disk for sure before the files of the one before it go."""
    rng = np.random.default_rng(0)
    root = tmp_path / "disk"
    root.mkdir()
    buffer, life = begun(root, 2)
    shutil.copytree(root, tmp_path / "first")
    before, now, last = loaded(root), digest(buffer), buffer._saves[str(root)]
    seen = set()
    with between(Disk(root)) as whole:
        buffer.save(root)
    published = whole.calls.index("replace")
    for killed, later in itertools.product(range(published - 1, published + 4), range(0, len(whole.calls) + 8, 3)):
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "first", root)
        disk = Disk(root, killed, "die")
        buffer._saves[str(root)] = last
        with between(disk), contextlib.suppress(Died):
            buffer.save(root)
        again = rb.ReplayBuffer.load(root)
        Life(again, 8).step(0)
        after = digest(again)
        disk.dead, disk.calls, disk.fail_at = False, [], later
        with between(disk), contextlib.suppress(Died):
            again.save(root)
        for i in range(2 * effort):
            (tmp_path / f"lost-{i}").mkdir()
            disk.after_power_loss(rng, tmp_path / f"lost-{i}")
            found = loaded(tmp_path / f"lost-{i}")
            assert found in (before, now, after)
            seen.add(("before", "now", "after")[(before, now, after).index(found)])
            shutil.rmtree(tmp_path / f"lost-{i}")
    assert seen == {"before", "now", "after"}
