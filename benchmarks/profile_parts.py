"""Where the time of `add`, `sample` and `update_priorities` goes, part by part, with caches swept between the parts.

    python benchmarks/profile_parts.py           # prints it
    python benchmarks/profile_parts.py --write   # and keeps it: benchmarks/profile.json, the table of docs/why-fast.md

A million transitions of CartPole's size, batches of 256, fresh indices and priorities; median µs a call. Looks behind
the public names.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import machine

machine.use_one_thread()

import numpy as np  # noqa: E402

import replaybank as rb  # noqa: E402
from replaybank import kernels  # noqa: E402

ROWS, BATCH, CALLS, REPEATS = 1_000_000, 256, 1_500, 9
HERE = Path(__file__).parent
RESULT = HERE / "profile.json"
PAGE = HERE.parent / "docs" / "why-fast.md"
MARKS = "<!-- python benchmarks/profile_parts.py --write -->", "<!-- end -->"


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

    walks = {f"  the tree walk, {n} abreast in a register": walk(n) for n in (1, 4, 8) if n <= kernels.LANES}
    return {
        "add one": lambda i: uniform.add(*steps[i]),
        "  the kernel `append`": lambda i: alone.append(steps[i], -1),
        "uniform sample": lambda i: uniform.sample(BATCH),
        "prioritized sample": lambda i: prioritized.sample(BATCH),
        "  what Python costs (a sample of 1)": lambda i: prioritized.sample(1),
        "  256 random numbers": lambda i: prioritized._rng.random(BATCH),
        "  `draw`, random numbers and tree walk in it": lambda i: sampler.draw(BATCH, prioritized._rng),
        **walks,
        "  `read`": lambda i: prioritized.view.read(rows, ids[i], prioritized._rng),
        "  `weights`, 256 single-precision powers": lambda i: sampler.weights(probabilities),
        "`update_priorities`": lambda i: prioritized.update_priorities(ids[i], errors[i]),
        "  what Python costs (an update of 1)": lambda i: prioritized.update_priorities(ids[0][:1], errors[0][:1]),
        "  priority ** alpha, 256 double-precision powers": lambda i: np.power(errors[i], 0.6),
        "  the sum tree": lambda i: sampler._masses.update(ids[i], errors[i], oldest, added),
        "  the raw priorities and their maximum": lambda i: sampler._raw.update(ids[i], errors[i], oldest, added),
    }


def measured() -> dict[str, Any]:
    """Medians and quartiles in µs a call, and with what they were taken."""
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
    rows = []
    for (name, _), found in zip(timed, times, strict=True):
        low, middle, high = np.quantile(found, (0.25, 0.5, 0.75)).tolist()
        rows.append({"part": name, "median": middle, "lower_quartile": low, "upper_quartile": high})
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "python": machine.python(),
        "hardware": machine.hardware(),
        "versions": machine.versions(("numpy", "replaybank")),
        "settings": {"rows": ROWS, "batch": BATCH, "calls": CALLS, "repeats": REPEATS},
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result as the page shows it."""
    with_what = f"{result['hardware']['processor']}, {result['python']}, NumPy {result['versions']['numpy']}"
    lines = [f"{with_what}, {result['date'][:10]}; µs a call:", "", "| part | median | quartiles |"]
    lines.append("| --- | ---: | ---: |")
    for row in result["rows"]:
        name = re.sub("^  ", "– of that: ", row["part"])
        quartiles = f"{row['lower_quartile']:.2f} to {row['upper_quartile']:.2f}"
        lines.append(f"| {name} | {row['median']:.2f} | {quartiles} |")
    return "\n".join(lines)


def with_table(page: str, result: dict[str, Any]) -> str:
    """The page, with this result between its marks."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{table(result)}\n\n{MARKS[1]}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of a call goes, part by part.")
    parser.add_argument("--write", action="store_true", help="keep the result, and write it into docs/why-fast.md")
    write = parser.parse_args().write
    result = measured()
    print(table(result))
    if write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(), result))


if __name__ == "__main__":
    main()
