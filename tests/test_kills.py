"""SIGKILL at any instant: what is loaded was true at one instant, and no older than the last save that returned."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import replaybank as rb
from checkpoints import differing, digest
from killed import PHASES, begin, call, calls, ends_before

HERE = Path(__file__).parent


class Truth:
    """The run that nobody killed. It only ever goes on."""

    def __init__(self) -> None:
        self.buffer = begin()

    def at(self, number: int) -> list[str]:
        """The digests after so many calls: two where segments are ended before the next one."""
        while calls(self.buffer) < number:
            call(self.buffer)
        assert calls(self.buffer) == number, "older than what was loaded before"
        found = [digest(self.buffer)]
        t, turn = divmod(number, 3)
        rows = self.buffer._rows
        if turn == 0 and ends_before(t) and rows is not None:
            newest = rows.newest.copy()
            self.buffer.end()
            found.append(digest(self.buffer))
            rows.newest[:] = newest
        return found


def kill_and_load(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills a run so many times, each going on from what the last one left; gives how often each phase was hit."""
    rng = np.random.default_rng(seed)
    truth, hit = Truth(), dict.fromkeys(PHASES, 0)
    log, phase, kept = folder / "log", folder / "phase", folder / "checkpoint"
    log.touch()
    phase.write_bytes(b"\0")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, HERE / "killed.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for number in range(kills):
            phase.write_bytes(b"\0")
            print(kept, log, phase, file=nursery.stdin, flush=True)
            child = int(nursery.stdout.readline())
            await_phase(phase, int(rng.integers(len(PHASES))))
            time.sleep(float(rng.choice([0.0, 0.01, 0.1]) * rng.random()))
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline() == "dead\n"
            hit[PHASES[phase.read_bytes()[0]]] += 1
            returned = [int(line) for line in log.read_text().split()]
            try:
                buffer = rb.ReplayBuffer.load(kept)
            except FileNotFoundError:
                assert not returned
                continue
            buffer.check_valid()
            assert calls(buffer) >= max(returned, default=0), f"kill {number}: older than a save that returned"
            known = truth.at(calls(buffer))
            assert digest(buffer) in known, f"kill {number}: never so: {differing(buffer, truth.buffer)}"
        nursery.stdin.close()
    return hit


def await_phase(file: Path, wanted: int) -> None:
    """Waits until a run is at this phase of a save, or a quarter of a second."""
    end = time.monotonic() + 0.25
    with file.open("rb") as bytes_, mmap.mmap(bytes_.fileno(), 1, access=mmap.ACCESS_READ) as phase:
        while phase[0] != wanted and time.monotonic() < end:
            pass


needs_signals = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")


@needs_signals
def test_a_run_that_is_killed_goes_on_from_one_instant(tmp_path: Path) -> None:
    hit = kill_and_load(tmp_path, 20, 0)
    assert sum(hit.values()) == 20


@needs_signals
@pytest.mark.slow
def test_a_run_that_is_killed_often_goes_on_from_one_instant(tmp_path: Path, effort: int) -> None:
    hit = kill_and_load(tmp_path, 25 * effort, 1)
    assert sum(count > 0 for count in hit.values()) >= 3, hit


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        print(kill_and_load(Path(scratch), int(sys.argv[1]), int(sys.argv[2])))
