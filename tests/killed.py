"""A training run that dies: run by test_kills.py, killed by it, and begun again from what it had saved.

usage: python killed.py; then on its input lines of FOLDER LOG PHASE: each begins a run, whose process id it answers

A run goes on for ever. What it does after so many calls depends on nothing but their number, so whoever sees a buffer
knows what it must be. LOG gets the number of calls that a save had seen, for sure, once it has returned, with one write
each. PHASE is a file of one byte: what the save was at.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import replaybank as rb
from replaybank import checkpoint, files, snapshot

STREAMS, BATCH = 3, 8
PHASES = ("between saves", "state", "transitions", "waiting for the disk", "manifest", "old files")


def begin() -> rb.ReplayBuffer:
    """The buffer of the first run."""
    sampler = rb.Prioritized(0.6, rb.linear(0.4, 1.0, 2000))
    return rb.ReplayBuffer(600, None, STREAMS, sampler, rb.NStep(3, 0.9), seed=1)


def calls(buffer: rb.ReplayBuffer) -> int:
    """How many of its calls a run has made, each of them an `add`, a `sample` and an update in turn."""
    counts = buffer.stats()
    return counts["added"] // STREAMS + (counts["sampled"] + counts["updated"] + counts["stale"]) // BATCH


def ends_before(t: int) -> bool:
    """Whether a run ends all segments before its step t."""
    return t % 11 == 0


def call(buffer: rb.ReplayBuffer) -> None:
    """The next call."""
    t, turn = divmod(calls(buffer), 3)
    rng = np.random.default_rng([t, turn])
    if turn == 0:
        obs = (np.arange(STREAMS * 20).reshape(STREAMS, 20) + t).astype(np.float32)
        ends = rng.random((2, STREAMS)) < 0.05
        if ends_before(t):
            buffer.end()  # once more makes no difference
        buffer.add(obs, rng.integers(0, 9, STREAMS), rng.normal(size=STREAMS), obs + 1, *ends, t=np.full(STREAMS, t))
    elif turn == 1:
        buffer.sample(BATCH)
    else:
        added = buffer.stats()["added"]
        ids = rng.integers(max(0, added - 700), added, BATCH)
        buffer.update_priorities(ids, rng.normal(size=BATCH))


def run(folder: Path, log: int, phase: Any) -> None:
    """Saves all the time, by turns in the background and not."""
    watch(phase)
    snapshot.PIECE_NBYTES, snapshot.FILE_NBYTES = 1 << 12, 1 << 15  # so that rows leave before their turn
    buffer = rb.ReplayBuffer.load(folder) if (folder / checkpoint.MANIFEST).exists() else begin()
    while True:
        seen = calls(buffer)
        rng = np.random.default_rng(seen)
        saving = buffer.save(folder, background=True)
        assert saving is not None
        while not saving.done():
            call(buffer)
        saving.result()
        os.write(log, b"%d\n" % seen)
        for _ in range(int(rng.choice([1, 5, 40, 300]))):
            call(buffer)
        if rng.random() < 0.5:
            seen = calls(buffer)
            buffer.save(folder)
            os.write(log, b"%d\n" % seen)
            call(buffer)


def watch(phase: Any) -> None:
    """Has the phase of a save noted."""

    def noted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noting(*arguments: Any, **named: Any) -> Any:
            before, phase[0] = phase[0], PHASES.index(name)
            try:
                return function(*arguments, **named)
            finally:
                phase[0] = before

        return noting

    checkpoint.Contents = noted(checkpoint.Contents, "state")  # type: ignore[misc, assignment]
    checkpoint._write_state = noted(checkpoint._write_state, "state")
    snapshot.Snapshot.write_all = noted(snapshot.Snapshot.write_all, "transitions")  # type: ignore[method-assign]
    files.os.fsync = noted(os.fsync, "waiting for the disk")  # type: ignore[attr-defined]
    checkpoint.publish = noted(checkpoint.publish, "manifest")
    checkpoint.sweep = noted(checkpoint.sweep, "old files")


if __name__ == "__main__":
    for line in sys.stdin:
        folder, log, phase = line.split()
        child = os.fork()
        if not child:
            with open(phase, "r+b") as file:
                run(Path(folder), os.open(log, os.O_WRONLY | os.O_APPEND), mmap.mmap(file.fileno(), 1))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
