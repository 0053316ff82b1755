"""KeyboardInterrupt at any line of a save: the folder holds the last checkpoint or the new one, and saves go on."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import Life, differing, digest
from replaybank import snapshot

MODULES = tuple(f"replaybank{os.sep}{name}.py" for name in ("checkpoint", "files", "generator", "manifest", "snapshot"))


class Interrupt:
    """Raises KeyboardInterrupt at the line numbered `at` (of those in MODULES) that this thread runs."""

    def __init__(self, at: int) -> None:
        self.at, self.lines, self.where = at, 0, ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(MODULES):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self


def interrupted(buffer: rb.ReplayBuffer, folder: Path, at: int) -> Interrupt:
    """Saves, interrupted at that line."""
    interrupt = Interrupt(at)
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        buffer.save(folder)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupt


# Between an open and what closes it an interrupt leaves the file to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_line_of_a_save_leaves_the_last_checkpoint_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(snapshot, "PIECE_NBYTES", 600)
    monkeypatch.setattr(snapshot, "FILE_NBYTES", 2000)
    buffer = rb.ReplayBuffer(30, None, 2, rb.Prioritized(), rb.FrameStack(3), seed=0)
    life = Life(buffer, 1)
    for t in range(20):
        life.step(t)
    folder = tmp_path / "checkpoint"
    buffer.save(folder)
    lines = interrupted(buffer, tmp_path / "whole", -1).lines
    assert lines > 500
    rng = np.random.default_rng(0)
    tried = 0
    for at in rng.permutation(lines)[: 150 * effort].tolist():
        before = digest(rb.ReplayBuffer.load(folder))
        life.step(at)
        life.learn()
        now = digest(buffer)
        interrupt = interrupted(buffer, folder, at + 1)
        tried += bool(interrupt.where)
        assert not buffer._lock.mine, interrupt.where
        assert not buffer._saving.mine, interrupt.where
        assert buffer._rows is not None
        assert buffer._rows.guards == (), interrupt.where
        assert digest(rb.ReplayBuffer.load(folder)) in (before, now), interrupt.where
        life.step(at)
        buffer.check_valid()
        if at % 2:
            buffer.save(folder)
            assert differing(buffer, rb.ReplayBuffer.load(folder)) == [], interrupt.where
    assert tried > 100

    gc.collect()  # what is left behind warns
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("replaybank: save", "ThreadPool"))
    ]
    buffer.save(folder)
    shutil.rmtree(folder)
