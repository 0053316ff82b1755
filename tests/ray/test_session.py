"""Ray is shut down while writers' threads are at work: they end, start no second Ray, and do not end the process."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

BEGIN = """
import os, signal, sys, time
import numpy as np, ray
import replaybank as rb
from replaybank.ray import ClusterOptions, ReplayCluster

SCHEMA = {"obs": ("float32", (3,)), "action": "int64"}

def begin():
    ray.init(num_cpus=4, object_store_memory=200_000_000, include_dashboard=False, logging_level="ERROR",
             log_to_driver=False)

def writers_at_work(n):
    cluster = ReplayCluster(1, 1000, SCHEMA, options=ClusterOptions(shard_timeout=0.5, timeout=20.0))
    writers = [cluster.writer() for _ in range(n)]
    for writer in writers:
        add(writer)
        writer.flush()
    return cluster, writers

def add(writer):
    for i in range(100):
        writer.add(np.full(3, i), i, 1.0, np.full(3, i + 1), False, False)
"""

# Some wait for a shard that hangs, some for one that is gone, some for work.
SHUT_DOWN = """
for again in range(2):
    begin()
    cluster, waiting = writers_at_work(3)
    pid = next(shard["pid"] for shard in cluster.stats()["shards"])
    os.kill(pid, signal.SIGSTOP)
    for writer in waiting:
        add(writer)
    gone, bereft = writers_at_work(3)
    gone.close()
    for writer in bereft:
        add(writer)
    _, idle = writers_at_work(3)
    time.sleep(0.3)
    ray.shutdown()
    for writer in (*waiting, *bereft, *idle):
        try:
            time.sleep(0.3)
            writer.flush(timeout=5.0)
        except RuntimeError as error:
            closed = writer in bereft and f"the cluster {gone.name!r} was closed" in str(error)
            assert closed or str(error) == "this writer has failed: Ray was shut down", error
        else:
            raise AssertionError("there is no Ray")
    assert not ray.is_initialized(), "a thread has started another"
    assert waiting[0].close().dropped == 100
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
print("well")
"""

LEFT = """
begin()
cluster, writers = writers_at_work(4)
os.kill(next(shard["pid"] for shard in cluster.stats()["shards"]), signal.SIGSTOP)
for writer in writers:
    add(writer)
print("well")
"""


def ran(program, *, seconds=90):
    command = [sys.executable, "-c", dedent(BEGIN + program)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)


@pytest.mark.usefixtures("ray_home")
def test_writers_end_with_the_ray_that_they_belong_to():
    done = ran(SHUT_DOWN)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
    assert "Ray was shut down before a shard acknowledged 100 transitions" in done.stderr


@pytest.mark.usefixtures("ray_home")
def test_a_program_that_leaves_its_writers_open_ends_well_and_says_what_is_lost():
    done = ran(LEFT)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
    assert done.stderr.count("a writer was not closed: no shard has acknowledged 100 of its transitions") == 4
