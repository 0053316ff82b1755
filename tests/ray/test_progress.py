"""How far a shard has come outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from replaybank.ray.progress import Progress


def test_it_begins_with_nothing_and_remembers(tmp_path):
    path = tmp_path / "deep" / "shard-0000.progress"
    progress = Progress(path)
    assert (progress.epoch, progress.total) == (-1, 0)
    progress.begin(3, 100)
    progress.total += 28
    assert (Progress(path).epoch, Progress(path).total) == (3, 128)
    progress.remove()
    assert not path.exists()
    progress.remove()


def test_a_file_that_was_cut_short_begins_anew(tmp_path):
    path = tmp_path / "p"
    path.write_bytes(b"abc")
    assert (Progress(path).epoch, Progress(path).total) == (-1, 0)


def test_a_killed_process_has_told_all(tmp_path):
    path = tmp_path / "p"
    program = f"""
import os, signal
from pathlib import Path
from replaybank.ray.progress import Progress
progress = Progress(Path({str(path)!r}))
progress.begin(2, 10)
for _ in range(1000):
    progress.total += 3
os.kill(os.getpid(), signal.SIGKILL)
"""
    code = subprocess.run([sys.executable, "-c", program], check=False, env=dict(os.environ)).returncode
    assert code == -signal.SIGKILL
    assert (Progress(path).epoch, Progress(path).total) == (2, 3010)
