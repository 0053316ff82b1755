"""What other processes do in the tests of `replaybank.shared`. Every transition says whose it is and which one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

import replaybank as rb
from replaybank import shared
from replaybank.shared import home

# obs: writer and number; a transition goes on from the one before, and never ends.
SCHEMA = {"obs": ("int64", (2,)), "action": "int64"}


def buffer(capacity=1_000_000, streams=8, **options):
    return rb.ReplayBuffer(capacity, SCHEMA, streams=streams, **options)


def steps(life, first, n):
    """Transitions `first` … `first + n - 1` of a life, as `extend` takes them."""
    numbers = np.arange(first, first + n + 1)
    obs = np.stack([np.full(n + 1, life), numbers], axis=1)
    off = np.zeros(n, bool)
    return obs[:-1], numbers[:-1], np.zeros(n, np.float32), obs[1:], off, off


def write(address, life, n, at_a_time=1, streams=1):
    """Writes a whole life of `n` transitions, then leaves in peace."""
    with shared.Writer(address, streams, timeout=60.0) as writer:
        for first in range(0, n, at_a_time):
            writer.extend(*steps(life, first, min(at_a_time, n - first)))


def write_until_killed(address, life, seed):
    """Adds messages of random sizes, and ends now and then, for ever."""
    rng = np.random.default_rng(seed)
    writer = None
    while writer is None:
        try:
            writer = shared.Writer(address, timeout=60.0)
        except RuntimeError:  # the streams of the one before are not free yet
            time.sleep(0.001)
    first = 0
    while True:
        n = int(rng.choice([1, 1, 3, 64, 500]))
        writer.extend(*steps(life, first, n))
        first += n
        if n == 3:
            writer.end()


def hold_streams(address, streams, told):
    """Has a writer, and says so, until it is told to go."""
    with shared.Writer(address, streams):
        told.send(None)
        told.recv()


def leave_without_closing(address, n):
    writer = shared.Writer(address)
    writer.extend(*steps(0, 0, n))
    os._exit(0)


def learn_for_ever(base, name, ready):
    """A learner that never drains, in a process that will be killed."""
    home._base = lambda: Path(base)
    learner = shared.Learner(buffer(), name=name, ring_bytes=8192)
    ready.send(learner.address)
    time.sleep(600)


def try_to_learn(base, name, answer):
    home._base = lambda: Path(base)
    try:
        with shared.Learner(buffer(), name=name):
            answer.send("alive")
    except RuntimeError as error:
        answer.send(str(error))
