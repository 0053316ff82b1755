"""Many writer processes, one learner, one machine.

In the learner's process::

    buffer = rb.ReplayBuffer(1_000_000, schema=rb.schema_of(env), streams=8)
    learner = shared.Learner(buffer)
    # start processes, with learner.address
    learner.drain()
    batch = buffer.sample(256)

In each of the others::

    with shared.Writer(address) as writer:
        writer.add(obs, action, reward, next_obs, terminated, truncated)

Needs a system with POSIX record locks: Linux or macOS.
"""

import importlib.util

if importlib.util.find_spec("fcntl") is None:
    raise ImportError("replaybank.shared needs Linux or macOS: it tells who is alive by POSIX record locks")

from replaybank.shared.home import LearnerGone
from replaybank.shared.learner import Drained, Learner, WriterReport
from replaybank.shared.writer import Writer

__all__ = ["Drained", "Learner", "LearnerGone", "Writer", "WriterReport"]
