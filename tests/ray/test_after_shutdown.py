"""What is left of a cluster after `ray.shutdown()` says so, and starts no other Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="needs Ray")

PROGRAM = """
import ray, replaybank as rb
from replaybank.ray import ReplayCluster
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
schema = {"obs": ("float32", (1,)), "action": "int64"}
cluster = ReplayCluster(shards=1, capacity=100, schema=schema)
reader = cluster.reader()
with cluster.writer() as writer:
    for t in range(20):
        writer.add([t], 0, 0.0, [t + 1], False, False)
batches = reader.batches(4, prefetch=2)
next(batches)
ray.shutdown()
for call in (lambda: next(batches), lambda: next(batches), lambda: reader.sample(4), cluster.stats):
    try:
        call()
    except RuntimeError as error:
        print(error)
    assert not ray.is_initialized()
cluster.close()
assert not ray.is_initialized()
"""


def test_batches_draws_and_close_start_no_other_ray() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Ray was shut down"] * 4
