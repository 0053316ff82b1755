"""Reverb's server, writer and reader of `ray_scaling.py`, each in a process of an interpreter of its own.

`python reverb_shards.py ROLE JSON` says a line once it is up; then it answers each line [verb, argument, ...] of the
standard input with what that method of its `Writing` or `Reading` gives. A server says its port, and waits.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from itertools import cycle
from typing import Any, NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import reverb
import tensorflow as tf

from hands import ALPHA, AT_A_TIME, BATCH, BETA, EPSILON, PREFETCH, Reading, Writing
from sizes import Size

TABLE = "transitions"
IN_FLIGHT = 2 * AT_A_TIME  # items that no server has taken yet
SCALARS = {"action": np.int64, "reward": np.float32, "terminated": np.bool_, "truncated": np.bool_}


class Inlet:
    """Every step's observation once; an item is two of them and the numbers between."""

    def __init__(self, port: int) -> None:
        self._writer = reverb.Client(f"localhost:{port}").trajectory_writer(num_keep_alive_refs=2)
        self._known: Any = None
        self._items = 0

    def add(self, *step: Any) -> None:
        obs, action, reward, next_obs, terminated, truncated, error = step
        writer = self._writer
        if obs is not self._known:
            if self._known is not None:  # the last observation needs numbers beside it, too
                writer.append({name: dtype(0) for name, dtype in SCALARS.items()})
                writer.end_episode()
            writer.append({"obs": obs}, partial_step=True)
        scalars = zip(SCALARS.items(), (action, reward, terminated, truncated), strict=True)
        writer.append({name: dtype(value) for (name, dtype), value in scalars})
        writer.append({"obs": next_obs}, partial_step=True)
        self._known = next_obs
        history = writer.history
        item = {"obs": history["obs"][-2:], **{name: history[name][-2:-1] for name in SCALARS}}
        writer.create_item(TABLE, abs(error) + EPSILON, item)
        self._items += 1
        if self._items % AT_A_TIME == 0:
            writer.flush(block_until_num_items=IN_FLIGHT)

    def flush(self) -> None:
        self._writer.flush()

    def taken(self) -> int:
        """All but IN_FLIGHT at most, which makes no difference between two of these counts."""
        return self._items

    def close(self) -> None:
        self._writer.close()


class Drawn(NamedTuple):
    """`data`: by column, [BATCH, ...]; `servers`: of each which one it is from."""

    data: Any
    keys: Any
    probability: Any
    table_size: Any
    servers: Any


class Outlet:
    def __init__(self, ports: list[int], prioritized: bool) -> None:
        self._addresses = [f"localhost:{port}" for port in ports]
        self._clients = [reverb.Client(address) for address in self._addresses]
        self._turn = cycle(range(len(ports)))
        self._prioritized = prioritized
        self._ahead: Iterator[Any] | None = None

    def sample(self) -> Drawn:
        number = next(self._turn)
        found = list(self._clients[number].sample(TABLE, BATCH, emit_timesteps=False, unpack_as_table_signature=True))
        data = {name: np.stack([one.data[name] for one in found]) for name in ("obs", *SCALARS)}
        infos = [one.info for one in found]
        keys, probability, table_size = (
            np.array([getattr(info, name) for info in infos], dtype).reshape(BATCH)
            for name, dtype in (("key", np.uint64), ("probability", np.float64), ("table_size", np.int64))
        )
        return Drawn(data, keys, probability, table_size, np.full(BATCH, number))

    def batches(self) -> Iterator[Drawn]:
        if self._ahead is None:
            self._ahead = self._dataset().prefetch(PREFETCH).as_numpy_iterator()
        for found in self._ahead:
            yield Drawn(*found)

    def _dataset(self) -> Any:
        share = BATCH // len(self._addresses)
        parts = [
            reverb.TrajectoryDataset.from_table_signature(address, TABLE, max_in_flight_samples_per_worker=2 * BATCH)
            .map(lambda one: (one.data, one.info.key, one.info.probability, one.info.table_size))
            .batch(share, drop_remainder=True)
            for address in self._addresses
        ]
        servers = np.repeat(np.arange(len(parts)), share)

        def joined(*found: Any) -> Any:
            return (*tf.nest.map_structure(lambda *values: tf.concat(values, 0), *found), servers)

        return tf.data.Dataset.zip(tuple(parts)).map(joined)

    def update(self, batch: Drawn, td_error: Any, wait: bool) -> None:
        priorities = np.abs(td_error) + EPSILON
        for number, client in enumerate(self._clients):
            mine = batch.servers == number
            if mine.any():
                new = dict(zip(batch.keys[mine].tolist(), priorities[mine].tolist(), strict=True))
                client.mutate_priorities(TABLE, updates=new)

    def unpack(self, batch: Drawn) -> dict[str, Any]:
        data = batch.data
        found = {name: data[name][:, 0] for name in ("action", "reward", "terminated")}
        found |= {"obs": data["obs"][:, 0], "next_obs": data["obs"][:, 1]}
        if self._prioritized:
            weights = (batch.probability * batch.table_size) ** -BETA
            found["weights"] = weights / weights.max()
        return found

    def close(self) -> None:
        self._ahead = None


def server(shape: list[int], dtype: str, prioritized: bool, capacity: int) -> Any:
    spec = {name: tf.TensorSpec((1,), tf.as_dtype(kind)) for name, kind in SCALARS.items()}
    table = reverb.Table(
        TABLE,
        sampler=reverb.selectors.Prioritized(ALPHA) if prioritized else reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={"obs": tf.TensorSpec((2, *shape), tf.as_dtype(dtype)), **spec},
    )
    return reverb.Server([table])


def hand(role: str, about: dict[str, Any]) -> Writing | Reading:
    if role == "reader":
        return Reading(Outlet(about["ports"], about["prioritized"]), about["prioritized"])
    size = Size("", tuple(about["shape"]), about["dtype"], 0, 0, about["distinct"])
    return Writing(Inlet(about["port"]), size.steps(about["seed"]))


def main() -> None:
    role, about = sys.argv[1], json.loads(sys.argv[2])
    if role == "server":
        serving = server(**about)
        versions = {name: metadata.version(name) for name in ("dm-reverb", "tensorflow-cpu")}
        print(json.dumps({"port": serving.port, "versions": versions}), flush=True)
        sys.stdin.read()
        return
    at_work = hand(role, about)
    print("null", flush=True)
    for line in sys.stdin:
        verb, *given = json.loads(line)
        print(json.dumps(getattr(at_work, verb)(*given)), flush=True)


if __name__ == "__main__":
    main()
