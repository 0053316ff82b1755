"""What two_hosts.py runs on the first of two hosts: a writer and a reader here, and two shards on the other.

usage: python two_hosts_worker.py SIZE SECONDS

Its lines are of JSON. {"traffic": true} asks what went over the wire so far, and is answered on its input with the
bytes there and back; the last one is {"done": rows}.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray

import replaybank as rb
from hands import ALPHA, AT_A_TIME, BATCH, BETA
from replaybank.ray import ClusterOptions, Reader, ReplayCluster, Writer
from sizes import CARTPOLE, FRAMES, Size

SIZES = {size.name: size for size in (CARTPOLE, FRAMES)}
PREFETCH = (0, 4, 16)


def traffic() -> tuple[int, int]:
    """Bytes that went over the wire so far: to the other host, and back."""
    print(json.dumps({"traffic": True}), flush=True)
    there, back = json.loads(sys.stdin.readline())
    return there, back


def repeated(call: Callable[[], int], seconds: float) -> dict[str, float]:
    """What is done over and over: how long a call takes, how many transitions a second, and bytes of each."""
    call()  # what is only done once
    before, calls, done, begin = traffic(), [], 0, time.perf_counter()
    while len(calls) < 5 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        done += call()
        calls.append(time.perf_counter() - start)
    took = time.perf_counter() - begin
    after = traffic()
    return {
        "calls": len(calls),
        "median_ms": round(float(np.median(calls)) * 1e3, 3),
        "p99_ms": round(float(np.quantile(calls, 0.99)) * 1e3, 3),
        "a_second": round(done / took, 1),
        "bytes_there": round((after[0] - before[0]) / done, 1),
        "bytes_back": round((after[1] - before[1]) / done, 1),
    }


def measured(size: Size, seconds: float) -> list[dict[str, Any]]:
    options = ClusterOptions(actor_options={"resources": {"host_b": 1}, "num_cpus": 0}, timeout=120.0)
    schema = {"obs": (size.dtype, size.shape), "action": ("int64", ()), "reward": ("float32", ())}
    sampler = rb.Prioritized(ALPHA, BETA)
    with (
        ReplayCluster(2, size.capacity, schema, sampler, seed=0, options=options) as cluster,
        cluster.reader() as reader,
        cluster.writer(flush_size=AT_A_TIME) as streaming,
        cluster.writer(flush_size=AT_A_TIME) as other,
    ):
        steps = itertools.cycle(size.steps(seed=1))
        rows = [("transitions in", repeated(lambda: streamed(streaming, steps, 16 * AT_A_TIME), seconds))]
        streamed(other, steps, size.distinct)  # goes to the other shard
        rows.append((f"{AT_A_TIME} transitions, flushed", repeated(lambda: streamed(other, steps, AT_A_TIME), seconds)))
        rows.append((f"sample({BATCH})", repeated(lambda: len(reader.sample(BATCH)), seconds)))
        for ahead in PREFETCH:
            with prefetched(reader, ahead) as draw:
                rows.append((f"batches({BATCH}, prefetch={ahead})", repeated(draw, seconds)))
        indices = reader.sample(BATCH).indices
        errors = np.abs(np.random.default_rng(0).standard_normal(BATCH))
        rows.append((f"update_priorities of {BATCH}", repeated(lambda: updated(reader, indices, errors), seconds)))
        return [{"what": what, **row} for what, row in rows]


def streamed(writer: Writer, steps: Iterator[Any], n: int) -> int:
    for obs, action, reward, next_obs, terminated, truncated, td_error in itertools.islice(steps, n):
        writer.add(obs, action, reward, next_obs, terminated, truncated, td_error=td_error)
    writer.flush()
    return n


@contextmanager
def prefetched(reader: Reader, ahead: int) -> Iterator[Callable[[], int]]:
    with reader.batches(BATCH, prefetch=ahead) as batches:
        yield lambda: len(next(batches))


def updated(reader: Reader, indices: Any, errors: Any) -> int:
    reader.update_priorities(indices, errors)
    return len(indices)


def main() -> None:
    ray.init(log_to_driver=False, logging_level="ERROR")
    rows = measured(SIZES[sys.argv[1]], float(sys.argv[2]))
    ray.shutdown()
    print(json.dumps({"done": rows}), flush=True)


if __name__ == "__main__":
    main()
