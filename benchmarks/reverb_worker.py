"""Reverb in an interpreter of its own: it needs TensorFlow 2.15 and NumPy 1, which the others do not go with.

`python reverb_worker.py EXPERIENCE.npz LENGTH` fills a table with every sequence of LENGTH steps of one episode, and
says its versions. Then it answers each line `SIZE CALLS` of the standard input once it has drawn CALLS batches; with a
third word, it saves the last one under that name.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import reverb
import tensorflow as tf

TABLE = "sequences"
FIELDS = ("obs", "action", "reward", "terminated")


def serve(columns: dict[str, Any], length: int) -> Any:
    count = len(columns["reward"])
    table = reverb.Table(
        TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=count,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={
            name: tf.TensorSpec((length, *columns[name].shape[1:]), tf.as_dtype(columns[name].dtype)) for name in FIELDS
        },
    )
    server = reverb.Server([table])
    ends = columns["terminated"] | columns["truncated"]
    begin = 0
    with reverb.Client(f"localhost:{server.port}").trajectory_writer(num_keep_alive_refs=length) as writer:
        for number in range(count):
            writer.append({name: columns[name][number] for name in FIELDS})
            if number - begin + 1 >= length:
                writer.create_item(TABLE, 1.0, {name: writer.history[name][-length:] for name in FIELDS})
            if number % length == 0:
                writer.flush()
            if ends[number]:
                writer.end_episode()
                begin = number + 1
    return server


def batches(server: Any, size: int) -> Iterator[dict[str, Any]]:
    """Each with its own copy of what Reverb gives, in NumPy."""
    drawn = reverb.TrajectoryDataset.from_table_signature(
        f"localhost:{server.port}", TABLE, max_in_flight_samples_per_worker=2 * size
    )
    return iter(drawn.map(lambda sample: sample.data).batch(size).prefetch(1).as_numpy_iterator())


def main() -> None:
    with np.load(sys.argv[1]) as kept:
        server = serve(dict(kept), int(sys.argv[2]))
    print(json.dumps({name: metadata.version(name) for name in ("dm-reverb", "tensorflow-cpu")}), flush=True)
    running: dict[int, Iterator[dict[str, Any]]] = {}
    for line in sys.stdin:
        size, calls, *path = line.split()
        if size not in running:
            running[size] = batches(server, int(size))
        for _ in range(int(calls)):
            batch = next(running[size])
        if path:
            np.savez(path[0], **batch)
        print("done", flush=True)


if __name__ == "__main__":
    main()
