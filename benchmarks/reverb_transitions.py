"""Reverb's table of single transitions, in an interpreter of its own: it needs TensorFlow 2.15 and NumPy 1.

Reads pickled tuples (verb, what it takes …) from the standard input, and writes what the method of that name gives.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import reverb
import tensorflow as tf

TABLE = "transitions"
FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
DTYPES = (np.float32, np.int64, np.float32, np.float32, np.bool_, np.bool_)
OBS_SIZE = 4
#: Items of one writer that are on their way at most.
ON_THE_WAY = 32
#: Samples asked for at once while keys are gathered.
GATHERED = 1_024


class Inlet:
    """A writer; as each item is one step, it serves any number of streams, and sooner than a writer for each."""

    def __init__(self, client: reverb.Client) -> None:
        self._writer = client.trajectory_writer(num_keep_alive_refs=1)
        self._since = 0

    def add(self, step: Sequence[Any], priority: float) -> None:
        self._writer.append(dict(zip(FIELDS, step, strict=True)))
        self._writer.create_item(TABLE, priority, {name: self._writer.history[name][-1] for name in FIELDS})
        self._since += 1
        if self._since == ON_THE_WAY:
            self._writer.flush(block_until_num_items=ON_THE_WAY)
            self._since = 0

    def flush(self) -> None:
        self._writer.flush()


class Worker:
    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("dm-reverb", "tensorflow-cpu")}

    def serve(self, capacity: int, alpha: float | None, beta: float, streams: int) -> None:
        """Prioritized where there is an `alpha`."""
        shapes = [(OBS_SIZE,) if name.endswith("obs") else () for name in FIELDS]
        table = reverb.Table(
            TABLE,
            sampler=reverb.selectors.Uniform() if alpha is None else reverb.selectors.Prioritized(alpha),
            remover=reverb.selectors.Fifo(),
            max_size=capacity,
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature={
                name: tf.TensorSpec(shape, tf.as_dtype(dtype))
                for name, shape, dtype in zip(FIELDS, shapes, DTYPES, strict=True)
            },
        )
        self._server = reverb.Server([table])
        self._address = f"localhost:{self._server.port}"
        self._client = reverb.Client(self._address)
        self._inlet = Inlet(self._client)
        self._streams = streams
        self._beta = None if alpha is None else beta
        self._ahead: dict[int, Iterator[Any]] = {}
        self._steps: list[Sequence[Any]] = []
        self._next = 0

    def fill(self, columns: dict[str, Any], priorities: Any) -> None:
        for step, priority in zip(self._typed(columns), priorities.tolist(), strict=True):
            self._inlet.add(step, priority)
        self._inlet.flush()

    def steps(self, columns: dict[str, Any]) -> None:
        """What `add` and `step` add in turn."""
        self._steps = self._typed(columns)
        self._next = 0

    def _typed(self, columns: dict[str, Any]) -> list[Sequence[Any]]:
        typed = [np.asarray(columns[name], dtype) for name, dtype in zip(FIELDS, DTYPES, strict=True)]
        return list(zip(*typed, strict=True))

    def add_one(self, step: Sequence[Any]) -> None:
        (typed,) = self._typed({name: [value] for name, value in zip(FIELDS, step, strict=True)})
        self._add(typed)
        self._inlet.flush()

    def add(self, count: int) -> None:
        for _ in range(count):
            self._add_next()
        self._inlet.flush()

    def _add_next(self) -> None:
        self._add(self._steps[self._next])
        self._next = (self._next + 1) % len(self._steps)

    def _add(self, step: Sequence[Any]) -> None:
        for row in [step] if self._streams == 1 else zip(*step, strict=True):
            self._inlet.add(row, 1.0)

    def sample(self, size: int, count: int) -> None:
        for _ in range(count):
            self._batch(size)

    def draw(self, size: int) -> dict[str, Any]:
        """A batch that was not read ahead."""
        self._ahead.pop(size, None)
        data, key, weights = self._batch(size)
        del self._ahead[size]
        return {**data, "key": key, **({} if weights is None else {"weights": weights})}

    def _batch(self, size: int) -> tuple[dict[str, Any], Any, Any]:
        if size not in self._ahead:
            self._ahead[size] = iter(
                reverb.TrajectoryDataset.from_table_signature(
                    self._address, TABLE, max_in_flight_samples_per_worker=2 * size
                )
                .map(lambda one: (one.data, one.info.key, one.info.probability, one.info.table_size))
                .batch(size, drop_remainder=True)
                .prefetch(1)
                .as_numpy_iterator()
            )
        data, key, probability, held = next(self._ahead[size])
        if self._beta is None:
            return data, key, None
        weights = (held * probability) ** -self._beta
        return data, key, weights / weights.max()

    def update(self, keys: Any, priorities: Any) -> None:
        """One update a row."""
        for row, values in zip(keys, priorities, strict=True):
            self._mutate(row, values)

    def _mutate(self, keys: Any, priorities: Any) -> None:
        self._client.mutate_priorities(TABLE, updates=dict(zip(keys.tolist(), priorities.tolist(), strict=True)))

    def step(self, priorities: Any) -> None:
        """Four adds, one sample, one update, for each row of priorities."""
        for values in priorities:
            for _ in range(4):
                self._add_next()
            _, key, _ = self._batch(len(values))
            self._mutate(key, values)

    def keys(self, count: int) -> list[int]:
        """Of so many items. What was drawn gets priority 0 until all are found."""
        found: dict[int, float] = {}
        while len(found) < count:
            infos = [one.info for one in self._client.sample(TABLE, GATHERED, emit_timesteps=False)]
            new = {info.key: info.priority for info in infos if info.key not in found}
            found.update(new)
            self._client.mutate_priorities(TABLE, updates=dict.fromkeys(new, 0.0))
        self._client.mutate_priorities(TABLE, updates=found)
        return list(found)[:count]


def main() -> None:
    worker = Worker()
    while True:
        try:
            verb, *given = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(getattr(worker, verb)(*given), sys.stdout.buffer, protocol=4)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
