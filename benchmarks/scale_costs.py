"""What each call of a `ReplayCluster` costs: CPU time at both ends, bytes, memory. docs/scale.md reckons with it.

    python benchmarks/scale_costs.py [--quick] [--out FILE]

Costs that grow with the transitions or the shards of a call are measured at the two ends of a range and taken as linear
in between. CPU time is of whole processes, all their threads. Needs a minute, and a machine with nothing else to do.
Prints the costs and keeps them as JSON, which `scale.py` reads. Bytes are read off the loopback interface, where
other programs may talk, too; for it alone:

    unshare --net --map-root-user sh -c 'ip link set lo up; python benchmarks/scale_costs.py'
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import ray

import machine
import replaybank as rb
from replaybank.ray import ClusterOptions, RateLimit, ReplayCluster
from replaybank.ray.shard import ShardActor
from replaybank.ray.wire import MOST_TRANSITIONS, Transitions, Wire

RESULTS = Path(__file__).with_name("scale_costs.json")
PATIENCE = 120.0
PATIENT = ClusterOptions(timeout=PATIENCE, shard_timeout=PATIENCE / 4)
FEW, MANY = 16, 256  # transitions of a message or a draw
CAPACITY = 4_000  # transitions, of a shard
SHARDS = 6  # of the larger cluster
MEMBERS = 64  # shards that a coordinator is made to know
WINDOW = 8  # calls on their way at a time
SIZES = {"cartpole": ((4,), "float32"), "frames": ((84, 84), "uint8")}


class Spent(NamedTuple):
    """CPU seconds of one of something: of the process that asks, and of those that serve."""

    caller: float
    server: float


class Line(NamedTuple):
    """Seconds or bytes of a call with n items: fixed + each * n."""

    fixed: float
    each: float

    @classmethod
    def through(cls, few: tuple[float, float], many: tuple[float, float]) -> Line:
        """Through two points (n, value); neither part is below 0."""
        each = max(0.0, (many[1] - few[1]) / (many[0] - few[0]))
        return cls(max(0.0, few[1] - each * few[0]), each)


class Caller:
    """In an actor's process: makes calls, and tells how much CPU time this process spent on one."""

    def write(self, cluster: ReplayCluster, shape: tuple[int, ...], dtype: str, size: int, seconds: float) -> Any:
        """Adds one by one in packets of `size`: (transitions, CPU seconds). Every hundredth ends an episode."""
        rng = np.random.default_rng(0)
        obs = (rng.random((101, *shape)) * 255).astype(dtype)
        with cluster.writer(flush_size=size, flush_seconds=60.0) as writer:
            writer.flush()
            count, cpu, end = 0, time.process_time(), time.monotonic() + seconds
            while time.monotonic() < end:
                for i in range(100):
                    writer.add(obs[i], i % 4, 1.0, obs[i + 1], i == 99, False, td_error=1.0)
                count += 100
            writer.flush()
            return count, time.process_time() - cpu

    def read(self, cluster: ReplayCluster, n: int, seconds: float) -> Any:
        """Draws batches of n with a prefetch: (batches, CPU seconds)."""
        with cluster.reader() as reader, reader.batches(n, prefetch=WINDOW // 2) as batches:
            return _repeat(lambda: next(batches), seconds)

    def update(self, cluster: ReplayCluster, n: int, seconds: float) -> Any:
        """Updates the priorities of batches of n without waiting: (batches, CPU seconds)."""
        with cluster.reader() as reader:
            indices, errors = reader.sample(n).indices, np.ones(n)
            return _repeat(lambda: reader.update_priorities(indices, errors, wait=False), seconds)

    def call(self, actor: Any, verb: str, given: tuple[Any, ...], seconds: float) -> Any:
        """Calls an actor, WINDOW of them at a time: (calls, CPU seconds)."""
        due: deque[Any] = deque()

        def once() -> None:
            due.append(getattr(actor, verb).remote(*given))
            if len(due) > WINDOW:
                ray.get(due.popleft(), timeout=PATIENCE)

        found = _repeat(once, seconds)
        ray.get(list(due), timeout=PATIENCE)
        return found

    def latencies(self, actor: Any, verb: str, count: int) -> list[float]:
        """Seconds of each of so many calls, one after the other."""
        found = []
        for _ in range(count):
            begin = time.perf_counter()
            ray.get(getattr(actor, verb).remote(), timeout=PATIENCE)
            found.append(time.perf_counter() - begin)
        return found

    def memory(self) -> int:
        return memory(os.getpid())


def _repeat(work: Callable[[], object], seconds: float) -> tuple[int, float]:
    for _ in range(20):
        work()
    count, cpu, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        work()
        count += 1
    return count, time.process_time() - cpu


def memory(pid: int) -> int:
    """Bytes that are this process's alone."""
    return int(psutil.Process(pid).memory_full_info().uss)


def cpu(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


class Cluster:
    """A cluster, a process that calls it, and the ids of its processes."""

    def __init__(self, shards: int, size: str, **more: Any) -> None:
        shape, dtype = SIZES[size]
        self.given = shape, dtype
        self.schema = rb.Schema.of({"obs": (dtype, shape), "action": "int64"})
        self.cluster = ReplayCluster(
            shards, CAPACITY * shards, self.schema, rb.Prioritized(), seed=0, options=PATIENT, **more
        )
        self.coordinator = self.cluster._directory.coordinator
        self.caller = ray.remote(num_cpus=0)(Caller).remote()
        self.actors = [actor for actor, _ in self.cluster._directory.members().values()]
        self.shard = self.actors[0]
        self.shards = [self.pid(actor) for actor in self.actors]

    def pid(self, actor: Any) -> int:
        return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=PATIENCE))

    def spent(self, pids: list[int], verb: str, *given: Any) -> Spent:
        """What one of `Caller`'s things costs, its own process and these."""
        method = getattr(self.caller, verb)
        before = cpu(pids)
        count, caller = ray.get(method.remote(*given), timeout=PATIENCE)
        return Spent(caller / count, (cpu(pids) - before) / count)

    def fill(self) -> None:
        """Fills each shard; where writers would go is the coordinator's business."""
        (shape, dtype), n, at_once = self.given, CAPACITY, 200
        obs = (np.random.default_rng(0).random((n + 1, *shape)) * 255).astype(dtype)
        no, wire = np.zeros(at_once, bool), Wire(self.schema)
        for number, actor in enumerate(self.actors):
            ray.get(actor.join.remote(number, 1, 0, 0), timeout=PATIENCE)
            for first in range(0, n, at_once):
                part, after = obs[first : first + at_once], obs[first + 1 : first + 1 + at_once]
                given = {"obs": part, "action": np.zeros(at_once, np.int64), "reward": np.ones(at_once)}
                given |= {"next_obs": after, "terminated": no, "truncated": no}
                arrays = self.schema.arrays(self.schema.values(given), at_once)
                packet = wire.pack(Transitions(arrays, np.zeros(at_once, np.int64), np.ones(at_once)))
                ray.get(actor.insert.remote(number, first, first, [], *packet), timeout=PATIENCE)
            ray.get(actor.leave.remote(number), timeout=PATIENCE)

    def close(self) -> None:
        ray.kill(self.caller)
        self.cluster.close()


@contextmanager
def built(shards: int, size: str, **more: Any) -> Iterator[Cluster]:
    machine.say(f"{size}, shards: {shards}")
    cluster = Cluster(shards, size, **more)
    try:
        yield cluster
    finally:
        cluster.close()


def of_size(size: str, seconds: float) -> dict[str, Any]:
    """Costs of what carries transitions."""
    write: dict[int, Spent] = {}
    read: dict[tuple[int, int], Spent] = {}
    update: dict[tuple[int, int], Spent] = {}
    with built(1, size) as one:
        one.fill()
        for n in (FEW, MANY):
            write[n] = one.spent(one.shards, "write", one.cluster, *one.given, n, seconds)
        for n in (FEW, MANY):
            read[1, n] = one.spent(one.shards, "read", one.cluster, n, seconds)
            update[1, n] = one.spent(one.shards, "update", one.cluster, n, seconds)
        row = ray.get(one.shard.stats.remote(), timeout=PATIENCE)
        drawn = [nbytes(ray.get(one.shard.draw.remote(n), timeout=PATIENCE)) for n in (FEW, MANY)]
        updates = [nbytes(np.zeros(n, np.int64), np.zeros(n)) for n in (FEW, MANY)]
        packets = [packet_nbytes(one.schema, n) for n in (FEW, MANY)]
    with built(SHARDS, size) as several:
        several.fill()
        n = MANY // SHARDS * SHARDS
        read[SHARDS, MANY] = several.spent(several.shards, "read", several.cluster, n, seconds)
        update[SHARDS, MANY] = several.spent(several.shards, "update", several.cluster, n, seconds)

    def line(few: float, many: float) -> Line:
        return Line.through((FEW, few), (MANY, many))

    found: dict[str, Any] = {
        # A writer's CPU time for n transitions in a packet, and its shard's for the packet.
        "writer": line(FEW * write[FEW].caller, MANY * write[MANY].caller),
        "insert": line(FEW * write[FEW].server, MANY * write[MANY].server),
        "insert_bytes": line(*packets),
        "draw": line(read[1, FEW].server, read[1, MANY].server),
        "draw_bytes": line(*drawn),
        "update": line(update[1, FEW].server, update[1, MANY].server),
        "update_bytes": line(*updates),
    }
    for name, spent in (("reader_draw", read), ("reader_update", update)):
        transitions = line(spent[1, FEW].caller, spent[1, MANY].caller)
        calls = Line.through((1, spent[1, MANY].caller), (SHARDS, spent[SHARDS, MANY].caller))
        # Of a batch: what it costs whatever it is, for each shard it is drawn from, and for each transition.
        fixed = max(0.0, transitions.fixed - calls.each)
        found[name] = {"fixed": fixed, "shard": calls.each, "transition": transitions.each}
    found["transition_nbytes"] = row["nbytes"] / row["capacity"]
    # What the lines say of several shards, and what was measured there: how straight they are.
    share = MANY // SHARDS
    found["check"] = {
        f"shards' CPU for a batch from {SHARDS}": [
            SHARDS * (found["draw"].fixed + found["draw"].each * share),
            read[SHARDS, MANY].server,
        ]
    }
    return found


def nbytes(*given: Any) -> int:
    """How long a call's arguments or result are when Ray has serialized them."""
    buffers: list[Any] = []
    text = ray.cloudpickle.dumps(given, protocol=5, buffer_callback=buffers.append)
    return len(text) + sum(buffer.raw().nbytes for buffer in buffers)


def packet_nbytes(schema: rb.Schema, n: int) -> int:
    """Of a packet of n transitions of one episode."""
    shape, dtype = schema.leaves[0].shape, schema.leaves[0].dtype
    obs = np.arange(n + 1, dtype=np.uint8).reshape(-1, *[1] * len(shape)) + np.zeros((n + 1, *shape), dtype)
    no = np.zeros(n, bool)
    named = {"obs": obs[:-1], "action": np.zeros(n, np.int64), "reward": np.ones(n), "next_obs": obs[1:]}
    arrays = schema.arrays(schema.values({**named, "terminated": no, "truncated": no}), n)
    packet = Wire(schema).pack(Transitions(arrays, np.zeros(n, np.int64), np.ones(n)))
    assert packet.tails == 1
    return nbytes(2**60, MOST_TRANSITIONS, MOST_TRANSITIONS, [], *packet)


def of_calls(seconds: float) -> dict[str, Any]:
    """Costs of what carries none, and of processes."""
    with built(1, "cartpole", samples_per_insert=RateLimit(1.0, min_size=1, tolerance=1e12)) as one:
        coordinator = [one.pid(one.coordinator)]

        def asked(verb: str, *given: Any) -> Spent:
            return one.spent(coordinator, "call", one.coordinator, verb, given, seconds)

        memories = {
            "shard": memory(one.shards[0]),
            "coordinator": memory(coordinator[0]),
            "process": ray.get(one.caller.memory.remote(), timeout=PATIENCE),
        }
        stats = ray.get(one.shard.stats.remote(), timeout=PATIENCE)
        grant, beat = asked("grant", "insert", 1, 1, 30.0), asked("beat", 0, stats)
        empty = one.spent(one.shards, "call", one.shard, "share", (), seconds)
        before, count = psutil.net_io_counters(pernic=True)["lo"].bytes_sent, 2_000
        latencies = np.array(ray.get(one.caller.latencies.remote(one.shard, "share", count), timeout=PATIENCE))
        called = (psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before) / count
        ray.get(one.caller.write.remote(one.cluster, *one.given, MANY, 0.5), timeout=PATIENCE)
        memories["writer"] = ray.get(one.caller.memory.remote(), timeout=PATIENCE)
        look = [told_of(one, asked)]
        # Shards that never start, as nothing has so many cores, have handles all the same.
        more = [ShardActor.options(num_cpus=10_000).remote(None, number) for number in range(1, MEMBERS)]
        known = [one.coordinator.enroll.remote(i, actor, stats) for i, actor in enumerate(more, 1)]
        ray.get(known, timeout=PATIENCE)
        look.append(told_of(one, asked))
        version, _ = ray.get(one.coordinator.members.remote(), timeout=PATIENCE)
        poll = asked("members", version)
        for actor in more:
            ray.kill(actor)
    return {
        "grant": grant._asdict(),
        "beat": beat._asdict(),
        "empty": empty._asdict(),  # a shard's call that does next to nothing
        "poll": poll._asdict(),  # who is there, where that is known
        # The same for one who does not know, by the number of shards.
        "look": {
            name: Line.through((1, look[0][name]), (MEMBERS, look[1][name])) for name in ("caller", "server", "bytes")
        },
        "call_bytes": called,  # both ways together, beside what is carried
        "call_seconds": {"median": float(np.median(latencies)), "p99": float(np.quantile(latencies, 0.99))},
        "memory": memories,
    }


def told_of(one: Cluster, asked: Callable[..., Spent]) -> dict[str, float]:
    """What it costs to tell who all the shards are."""
    spent = asked("members", -1)
    return {**spent._asdict(), "bytes": nbytes(ray.get(one.coordinator.members.remote(), timeout=PATIENCE))}


def run(seconds: float) -> dict[str, Any]:
    load = os.getloadavg()
    found = {"calls": of_calls(seconds), "sizes": {size: of_size(size, seconds) for size in SIZES}}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "python": machine.python(),
        "hardware": machine.hardware(),
        "versions": machine.versions(["numpy", "ray"]),
        "load_average": {"before": load, "after": os.getloadavg()},
        **_plain(found),
    }


def _plain(found: Any) -> Any:
    """Lines as JSON has them."""
    if isinstance(found, Line):
        return found._asdict()
    return {key: _plain(value) for key, value in found.items()} if isinstance(found, dict) else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half a second for each cost instead of three")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} beside this file, for whole runs alone")
    options = parser.parse_args()
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # Ray's own
    ray.init(
        num_cpus=16,  # processes that share the cores there are
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        found = run(0.5 if options.quick else 3.0)
    finally:
        ray.shutdown()
    text = json.dumps(found, indent=1) + "\n"
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.write_text(text, encoding="utf-8")
        machine.say(f"written: {out}")
    print(text)


if __name__ == "__main__":
    main()
