"""Where the time of `sample` and `update_priorities` goes, part by part, with caches swept between the parts.

    python benchmarks/profile_parts.py

A million transitions of CartPole's size, batches of 256, fresh indices and priorities; median µs a call. Looks behind
the public names; the figures in docs/architecture.md come from here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter_ns

import machine

machine.use_one_thread()

import numpy as np  # noqa: E402

import replaybank as rb  # noqa: E402
from replaybank import kernels  # noqa: E402

ROWS, BATCH, CALLS, REPEATS = 1_000_000, 256, 1_500, 9


def full(sampler: rb.Uniform | rb.Prioritized, rng: np.random.Generator) -> rb.ReplayBuffer:
    """A buffer that has wrapped around, of one stream with an end every 200 steps."""
    buffer = rb.ReplayBuffer(ROWS, sampler=sampler, view=rb.Transition(0.99), seed=0)
    count = ROWS + ROWS // 4
    obs = rng.random((count + 1, 4), dtype=np.float32)
    ends = np.arange(count) % 200 == 199
    buffer.extend(obs[:-1], rng.integers(0, 2, count), rng.random(count), obs[1:], ends, np.zeros(count, bool))
    return buffer


def parts(rng: np.random.Generator) -> dict[str, Callable[[int], object]]:
    """What is timed: whole calls, the same with a batch of one (what Python costs), and their parts."""
    uniform, prioritized = full(rb.Uniform(), rng), full(rb.Prioritized(), rng)
    rows, sampler = prioritized._rows, prioritized.sampler
    assert rows is not None
    alone = full(rb.Uniform(), rng)._rows  # for the kernel: its sampler hears nothing of what is appended
    assert alone is not None
    assert isinstance(sampler, rb.Prioritized)
    oldest, added = rows.oldest, rows.added
    ids = [rng.integers(oldest, added, BATCH) for _ in range(CALLS)]
    errors = [rng.random(BATCH) for _ in range(CALLS)]
    for some, few in zip(ids, errors, strict=True):
        prioritized.update_priorities(some, few)
    probabilities = prioritized.sample(BATCH).probabilities
    obs = rng.random((CALLS + 1, 4), dtype=np.float32)
    steps = [(obs[i], 1, 1.0, obs[i + 1], False, False) for i in range(CALLS)]
    uniforms = rng.random((CALLS, BATCH))
    found = np.empty(BATCH, np.int64), np.empty(BATCH)

    def walk(lanes: int) -> Callable[[int], object]:
        tree = sampler._masses._tree
        return lambda i: kernels.tree_find(tree, ROWS, oldest, added, uniforms[i].copy(), *found, lanes)

    walks = {f"  tree walk, {n} abreast in a register": walk(n) for n in (1, 4, 8) if n <= kernels.LANES}
    return {
        "add": lambda i: uniform.add(*steps[i]),
        "  the kernel append": lambda i: alone.append(steps[i], -1),
        "uniform sample": lambda i: uniform.sample(BATCH),
        "prioritized sample": lambda i: prioritized.sample(BATCH),
        "  sample of 1 transition": lambda i: prioritized.sample(1),
        "  random numbers": lambda i: prioritized._rng.random(BATCH),
        "  draw, random numbers included": lambda i: sampler.draw(BATCH, prioritized._rng),
        **walks,
        "  read": lambda i: prioritized.view.read(rows, ids[i], prioritized._rng),
        "  weights": lambda i: sampler.weights(probabilities),
        "update_priorities": lambda i: prioritized.update_priorities(ids[i], errors[i]),
        "  update of 1 transition": lambda i: prioritized.update_priorities(ids[0][:1], errors[0][:1]),
        "  priority ** alpha": lambda i: np.power(errors[i], 0.6),
        "  sum tree": lambda i: sampler._masses.update(ids[i], errors[i], oldest, added),
        "  maximum tree (raw priorities)": lambda i: sampler._raw.update(ids[i], errors[i], oldest, added),
    }


def main() -> None:
    rng = np.random.default_rng(0)
    timed = list(parts(rng).items())
    sweep = np.ones(40_000_000)
    gc.collect()
    gc.disable()
    times: list[list[float]] = [[] for _ in timed]
    for _ in range(REPEATS):
        for (_, call), found in zip(timed, times, strict=True):
            sweep.sum()
            begin = perf_counter_ns()
            for i in range(CALLS):
                call(i)
            found.append((perf_counter_ns() - begin) / CALLS / 1e3)
    for (name, _), found in zip(timed, times, strict=True):
        print(f"{name:38s} {np.median(found):6.2f}")


if __name__ == "__main__":
    main()
