"""Large batches are read by several threads: the same bits, whatever their number, also after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank.batch import Batch

SIZE = 2000
N = 700  # each batch below is larger than the 2 MiB from which the work is split


def rows(threads: int | None) -> rb.ReplayBuffer:
    return rb.ReplayBuffer(SIZE, view=rb.NStep(3, 0.9), seed=0, threads=threads)


def sequences(threads: int | None) -> rb.ReplayBuffer:
    return rb.ReplayBuffer(SIZE, view=rb.Sequence(9, burn_in=2), seed=0, threads=threads)


def frames(threads: int | None) -> rb.ReplayBuffer:
    return rb.ReplayBuffer(SIZE, view=rb.FrameStack(4, adds="frames"), seed=0, threads=threads)


KINDS = [rows, sequences, frames]


def filled(buffer: rb.ReplayBuffer) -> rb.ReplayBuffer:
    rng = np.random.default_rng(1)
    obs = rng.integers(0, 255, (SIZE + 601, 40, 40), dtype=np.uint8)
    ends = rng.random(SIZE + 600) < 0.03
    reward = rng.random(SIZE + 600).astype(np.float32)
    buffer.extend(obs[:-1], ends, reward, obs[1:], ends, np.zeros_like(ends))
    return buffer


def shown(batch: Batch) -> list[bytes]:
    return [name.encode() + np.asarray(value).tobytes() for name, value in batch.items()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind: Callable[[int | None], rb.ReplayBuffer]) -> None:
    expected = None
    for threads in (1, 2, 3, 7, None):
        buffer = filled(kind(threads))
        batches = [buffer.sample(n) for n in (N, 2 * N + 1, 5 * N, 3)]
        assert batches[0].block.nbytes > 2 << 20
        found = [shown(batch) for batch in batches]
        expected = expected or found
        assert found == expected


def test_several_buffers_may_ask_at_once() -> None:
    kinds = [kind for kind in KINDS for _ in range(2)]
    expected = [[shown(buffer.sample(N)) for _ in range(5)] for buffer in (filled(kind(1)) for kind in kinds)]
    buffers = [filled(kind(3)) for kind in kinds]
    found: list[Any] = [None] * len(buffers)

    def work(i: int) -> None:
        found[i] = [shown(buffers[i].sample(N)) for _ in range(5)]

    crowd = [threading.Thread(target=work, args=(i,)) for i in range(len(buffers))]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert found == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_threads_of_its_own_and_all_exit() -> None:
    script = f"""
import os, signal, numpy as np, replaybank as rb
buffer = rb.ReplayBuffer({SIZE}, seed=0, threads=3)
x = np.arange({SIZE} * 3000, dtype=np.float32).reshape({SIZE}, 3000)
f = np.zeros({SIZE}, bool)
buffer.extend(x, f, f, x, f, f)
buffer.sample(500)
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        batch = buffer.sample(500)
        os._exit(not (batch.obs == x[batch.indices]).all())
    assert os.waitpid(child, 0)[1] == 0
    buffer.sample(500)
print("fine")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_number_of_threads_that_is_none_is_refused() -> None:
    for threads in (0, -1, 65):
        with pytest.raises(ValueError, match="threads: expected 1 to 64"):
            rb.ReplayBuffer(5, threads=threads)
    with pytest.raises(TypeError, match="threads: expected an integer"):
        rb.ReplayBuffer(5, threads=1.5)  # type: ignore[arg-type]
