"""What the fault tests of `replaybank.ray` write and read, and what must be true of it whatever was killed.

Each transition is a function of its life (one stream of one writer's process) and its serial number in it: whoever
reads one can tell whether it is whole, and whether what follows it does. Writers and readers are actors or drivers of
their own; each notes in a log of its own what it saw, so that a SIGKILL takes nothing of it.

usage: python hammering.py write|read ADDRESS NAME FOLDER NUMBER
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = {"obs": ("int64", (3,)), "action": "int64", "noise": ("uint8", (40,))}
STEPS, GAMMA = 3, 0.5  # powers of 0.5 and whole rewards: float32 holds n-step sums exactly
MOST_STREAMS = 8  # of a writer: life = number of the process * MOST_STREAMS + stream
TIMEOUT = 10.0  # seconds, of each blocking call
MARGIN = 30.0  # seconds that a busy machine may add to it before a call is taken to hang
STOP = "stop"  # the file that tells all to come to an end
BATCH = 64


# ---- transitions ----


def mix(*words: Any) -> np.ndarray:
    """A hash of whole numbers, uint64 [n] (the finalizer of SplitMix64: Steele, Lea & Flood 2014)."""
    z = np.zeros(np.broadcast_shapes((1,), *(np.shape(word) for word in words)), np.uint64)
    for word in words:
        z = (z ^ np.asarray(word, np.int64).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z


def observations(life: Any, serial: Any) -> np.ndarray:
    """Who, which one, and a hash of both: int64 [n, 3]."""
    life, serial = np.broadcast_arrays(np.atleast_1d(np.asarray(life, np.int64)), serial)
    return np.stack([life, serial, mix(life, serial).astype(np.int64)], axis=1)


def rewards(life: Any, serial: Any) -> np.ndarray:
    """Whole numbers from -128 to 127, float32 [n]."""
    return ((mix(life, serial, 1) % np.uint64(256)).astype(np.float32) - 128.0).astype(np.float32)


def ends(serial: Any) -> tuple[np.ndarray, np.ndarray]:
    """Whether a transition is terminated and whether it is truncated, bool [n] each."""
    serial = np.atleast_1d(serial)
    terminated = serial % 19 == 18
    return terminated, (serial % 23 == 22) & ~terminated


def parted(serial: Any) -> np.ndarray:
    """Whether the writer calls `end` after this transition, bool [n]: nothing else says that the next is another's."""
    return np.atleast_1d(serial) % 29 == 28


def last_of_segment(serial: Any) -> np.ndarray:
    """Whether no window may go on from this transition, bool [n]."""
    terminated, truncated = ends(serial)
    return terminated | truncated | parted(serial)


def steps(life: Any, serial: Any) -> dict[str, np.ndarray]:
    """Transitions as `extend` takes them, each of them whole: arrays [n, ...]."""
    terminated, truncated = ends(np.broadcast_arrays(np.atleast_1d(life), serial)[1])
    return {
        "obs": observations(life, serial),
        "action": mix(life, serial, 2).astype(np.int64),
        "reward": rewards(life, serial),
        "next_obs": observations(life, np.asarray(serial) + 1),
        "terminated": terminated,
        "truncated": truncated,
        "noise": mix(np.atleast_1d(life)[..., None], np.atleast_1d(serial)[..., None], 3, np.arange(5)).view(np.uint8),
    }


def require(right: Any, what: str, *shown: Any) -> None:
    """Raises AssertionError where not all is right, with the first row of each array that is shown."""
    wrong = np.flatnonzero(~np.atleast_1d(right))
    if wrong.size:
        rows = ", ".join(str(np.asarray(one)[wrong[0]].tolist()) for one in shown)
        raise AssertionError(f"{what}: {wrong.size} of {np.size(right)}, the first at {wrong[0]}: {rows}")


def verify(batch: Any, most: int = STEPS) -> np.ndarray:
    """What a batch of at most `most` steps says is true: int64 [n, 2], the life and the serial of each transition.

    Raises AssertionError where a transition is torn or invented, or a window goes where it must not.
    """
    life, serial = batch.obs[:, 0], batch.obs[:, 1]
    length = batch.next_obs[:, 1] - serial
    last = serial + length - 1
    whole = steps(life, serial)
    require(serial >= 0, "no such serial", batch.obs)
    for name in ("obs", "action", "noise"):
        right = (batch[name] == whole[name]).reshape(len(serial), -1).all(axis=1)
        require(right, f"{name} is torn or invented", batch.obs, batch[name], whole[name])
    require((length >= 1) & (length <= most), "next_obs is of another step", batch.obs, batch.next_obs)
    right = (batch.next_obs == observations(life, last + 1)).all(axis=1)
    require(right, "next_obs is torn or invented", batch.obs, batch.next_obs)
    terminated, truncated = ends(last)
    require(batch.terminated == terminated, "terminated", batch.obs, batch.next_obs, batch.terminated)
    require(batch.truncated == truncated, "truncated", batch.obs, batch.next_obs, batch.truncated)
    total = np.zeros(len(serial), np.float32)
    for i in range(most):
        within = i < length
        total += np.where(within, np.float32(GAMMA**i) * rewards(life, serial + i), np.float32(0))
        crossed = within & (i < length - 1) & last_of_segment(serial + i)
        require(~crossed, "a window goes beyond the end of a segment", batch.obs, batch.next_obs)
    require(batch.reward == total, "reward is no n-step sum", batch.obs, batch.next_obs, batch.reward, total)
    discount = np.where(terminated, 0.0, GAMMA**length)
    require(batch.discount == discount, "discount", batch.obs, batch.next_obs, batch.discount)
    return np.stack([life, serial], axis=1)


def verify_draw(batch: Any, n: int) -> None:
    """What the sampler says of each transition can be: it was drawn with a probability that is none of nothing."""
    require(np.array([len(batch) == n]), f"{len(batch)} transitions, asked for {n}")
    right = (batch.probabilities > 0) & (batch.probabilities <= 1)
    require(right, "probability", batch.indices, batch.probabilities)
    require(np.isfinite(batch.weights) & (batch.weights > 0), "weight", batch.indices, batch.weights)
    require(batch.weights <= 1, "weight above the largest", batch.indices, batch.weights)
    require(np.array([batch.weights.max() == 1]), "no weight is the largest")
    require(batch.indices >= 0, "no such id", batch.indices)


# ---- processes ----


class Log:
    """What one process saw: lines, each with one write, in a file that no other process writes to.

    The first says which process it is. `hung` gets the stacks of a call that does not come back.
    """

    def __init__(self, folder: Path, role: str, number: int) -> None:
        self.path = folder / f"{role}-{number}.log"
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._hung = (folder / f"{role}-{number}.hung").open("w")
        self.note("pid", os.getpid())

    def note(self, what: str, *numbers: Any) -> None:
        """One line: a word, and numbers."""
        os.write(self._fd, (" ".join([what, *map(str, numbers)]) + "\n").encode())

    def timed(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """What a blocking call gives, None where it ran into its time-out; it is noted where it does not come back."""
        faulthandler.dump_traceback_later(TIMEOUT + MARGIN, file=self._hung)
        try:
            return call(*arguments, **keywords)
        except TimeoutError as error:
            self.note("timeout", getattr(call, "__name__", call), str(error).replace("\n", " "))
            return None
        except ValueError as error:
            if "empty" not in str(error):  # so are shards that have come back with nothing, or got nothing yet
                raise
            time.sleep(0.1)
            return None
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def noting(folder: Path, role: str, number: int) -> Iterator[Log]:
    """A log; an error that nobody expects is noted in a file of its own."""
    try:
        yield Log(folder, role, number)
    except BaseException:
        (folder / f"{role}-{number}.wrong").write_text(traceback.format_exc())
        raise


def write(cluster: Any, folder: Path, number: int, pace: float = 0.02) -> None:
    """Adds its lives step by step until it is told to stop, and notes after each flush what became of it.

    Lines "flushed": steps added (of each stream), and the transitions acknowledged, pending, dropped and lost so far.
    """
    rng = np.random.default_rng(number)
    streams = int(rng.choice([1, 1, 3]))
    lives = number * MOST_STREAMS + np.arange(streams)
    with noting(folder, "writer", number) as log:
        writer = cluster.writer(streams=streams, flush_size=32, flush_seconds=0.1, timeout=TIMEOUT)
        log.note("streams", streams)
        serial = 0
        while not (folder / STOP).exists():
            for _ in range(int(rng.choice([1, 3, 40]))):
                values = steps(lives, serial)
                if streams == 1:
                    values = {name: array[0] for name, array in values.items()}
                if not log.timed(added, writer, values):
                    break  # nothing was added: the same again
                if parted(serial)[0]:
                    writer.end()
                serial += 1
            if rng.random() < 0.3 and (flushed := log.timed(writer.flush, timeout=TIMEOUT)) is not None:
                log.note("flushed", serial, *flushed)
            time.sleep(pace * rng.random())
        while (flushed := log.timed(writer.flush, timeout=TIMEOUT)) is None:
            pass
        log.note("flushed", serial, *flushed)
        log.timed(writer.close, timeout=TIMEOUT)
        log.note("closed", serial)


def read(cluster: Any, folder: Path, number: int, pace: float = 0.02) -> None:
    """Samples, checks and updates until it is told to stop; notes the id, life and serial of all it saw.

    Ids go to a file of int64 [n, 3], a write each batch. Lines "updated": set, stale and unsent.
    """
    rng = np.random.default_rng(number)
    with noting(folder, "reader", number) as log, cluster.reader() as reader:
        ids = os.open(folder / f"reader-{number}.ids", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def seen(batch: Any) -> None:
            verify_draw(batch, BATCH)
            found = np.column_stack([batch.indices, verify(batch)])
            os.write(ids, np.ascontiguousarray(found, np.int64).tobytes())
            wait = bool(rng.random() < 0.3)
            errors = rng.normal(size=BATCH)
            report = log.timed(reader.update_priorities, batch.indices, errors, wait=wait, timeout=TIMEOUT)
            if report is not None:
                require(np.array([sum(report) == BATCH]), f"of {BATCH} updates {report} are counted")
                log.note("updated", *report)
            time.sleep(pace * rng.random())

        turn = 0
        while not (folder / STOP).exists():
            turn += 1
            with reader.batches(BATCH, prefetch=3, timeout=TIMEOUT) as batches:
                for _ in range(20):
                    batch = log.timed(next, batches) if turn % 2 else log.timed(reader.sample, BATCH, timeout=TIMEOUT)
                    if batch is not None:
                        seen(batch)
        log.note("stats", reader.stats())


def added(writer: Any, values: dict[str, Any]) -> bool:
    writer.add(**values)
    return True


ROLES = {"write": write, "read": read}

if __name__ == "__main__":
    import ray

    from replaybank.ray import attach

    role, address, name, folder, number = sys.argv[1:]
    ray.init(address=address, log_to_driver=False)
    ROLES[role](attach(name), Path(folder), int(number))
