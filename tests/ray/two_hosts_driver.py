"""What test_two_hosts.py runs on the first of two hosts: a cluster, writers on both hosts, a reader here.

usage: python two_hosts_driver.py SCENARIO

It asks for what is not in its power with a line of JSON on its output, and waits for an answer on its input:
{"line": [delay, loss]}, {"kill": "b"}. Its last line is {"done": what was found}. A transition says who wrote it, and
as which of its transitions, with a checksum; so whoever sees one knows whether it is whole, and which others must be.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

import replaybank as rb
from replaybank.ray import ClusterOptions, ReplayCluster, Writer

SCHEMA = {"obs": ("int64", (3,)), "action": ("int64", ()), "reward": ("float64", ())}
DELAY, LOSS = 0.01, 0.01
EPISODE = 50
SEATED = {"resources": {"seat": 1}, "num_cpus": 0}  # one on each host
ON_B = {"resources": {"host_b": 1}, "num_cpus": 0}

Ints = NDArray[np.int64]


def seen_by(writer: Any, serial: Any) -> Ints:
    """The observations [n, 3] before a writer's transitions."""
    writer, serial = np.broadcast_arrays(np.asarray(writer, np.int64), np.asarray(serial, np.int64))
    return np.stack([writer, serial, checksum(writer, serial)], axis=-1)


def checksum(writer: Ints, serial: Ints) -> Ints:
    return (writer * 1_000_003 + serial * 998_244_353 + 12_345) % 2_147_483_647


def td_error_of(writer: Any, serial: Any) -> NDArray[np.float64]:
    return 0.5 + (np.asarray(serial) * 7 + np.asarray(writer) * 3) % 11 / 10.0


def write(writer: Writer, name: int, first: int, n: int) -> None:
    """Adds a writer's transitions number `first` to first + n - 1."""
    serial = np.arange(first, first + n)
    ends = serial % EPISODE == EPISODE - 1
    writer.extend(
        seen_by(name, serial),
        serial % 7,
        serial / 4.0,
        seen_by(name, serial + 1),
        ends,
        np.zeros(n, bool),
        td_error=td_error_of(name, serial),
    )


def wrong(batch: rb.Batch) -> int:
    """How many of a batch's transitions no writer wrote so."""
    writer, serial = batch.obs[:, 0], batch.obs[:, 1]
    right = (batch.obs == seen_by(writer, serial)).all(axis=1) & (batch.next_obs == seen_by(writer, serial + 1)).all(
        axis=1
    )
    right &= (batch.action == serial % 7) & (batch.reward == serial / 4.0)
    right &= batch.terminated == (serial % EPISODE == EPISODE - 1)
    return int((~right).sum())


def keys(batch: rb.Batch) -> list[tuple[int, int]]:
    return [(int(writer), int(serial)) for writer, serial, _ in batch.obs]


@ray.remote(num_cpus=0, max_concurrency=2)
class Actor:
    """Writes without a pause, a few at a time, until it is told to stop."""

    def __init__(self, cluster: ReplayCluster, name: int) -> None:
        self._writer = cluster.writer(flush_size=32, flush_seconds=0.05, timeout=60.0)
        self._name, self._added = name, 0
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def add(self, n: int) -> tuple[int, ...]:
        write(self._writer, self._name, self._added, n)
        self._added += n
        return tuple(self._writer.flush())

    def keep_adding(self, a_second: int) -> None:
        self._idle.clear()
        try:
            while not self._stop.wait(16 / a_second):
                write(self._writer, self._name, self._added, 16)
                self._added += 16
        finally:
            self._idle.set()

    def stop(self) -> tuple[int, tuple[int, ...]]:
        """How many it added, and what became of them."""
        self._stop.set()
        assert self._idle.wait(60.0), "it writes for ever"
        return self._added, tuple(self._writer.flush(60.0))

    def stats(self) -> tuple[int, ...]:
        return tuple(self._writer.stats())


def crew(cluster: ReplayCluster, places: str) -> dict[int, Any]:
    """Writers by number, on hosts such as "aab"."""
    return {
        name: Actor.options(resources={f"host_{place}": 1}).remote(cluster, name) for name, place in enumerate(places)
    }


def in_turn(actors: dict[int, Any], n: int) -> None:
    """One after the other, so that each is told of a shard that has the fewest writers by then."""
    for actor in actors.values():
        ray.get(actor.add.remote(n))


def told(order: dict[str, Any]) -> None:
    """Asks whoever started this to do something, and waits until it is done."""
    print(json.dumps(order), flush=True)
    sys.stdin.readline()


def all_there(cluster: ReplayCluster, seconds: float) -> dict[str, Any]:
    """Its counts once every shard has told its own since now."""
    began, end = time.monotonic(), time.monotonic() + seconds
    while True:
        stats = cluster.stats()
        waited = time.monotonic() - began
        if all(shard["state"] == "open" and shard["beat_age"] < waited - 1.0 for shard in stats["shards"]):
            return stats
        if time.monotonic() > end:
            raise TimeoutError(f"shards have not reported: {stats['shards']}")
        time.sleep(0.1)


def placement() -> list[Any]:
    """Where a cluster's actors are if nobody says where: (the coordinator's host, how many shards each host has)."""
    found = []
    for _ in range(3):
        with ReplayCluster(4, 100, SCHEMA) as cluster:
            coordinator = cluster._directory.coordinator
            name = ray.get(coordinator.__ray_call__.remote(lambda _: socket.gethostname()))
            nodes = [shard["node"] for shard in all_there(cluster, 30.0)["shards"]]
            found.append([name, sorted(nodes.count(node["NodeID"]) for node in ray.nodes())])
    return found


def delivery() -> dict[str, Any]:
    """Both shards on the other host: what was flushed can be drawn, as often as it should be."""
    sampler = rb.Prioritized(alpha=0.6, beta=0.5)
    options = ClusterOptions(actor_options=ON_B, timeout=60.0)
    with ReplayCluster(2, 8192, SCHEMA, sampler, seed=0, options=options) as cluster, cluster.reader() as reader:
        actors = crew(cluster, "aab")
        flushed = ray.get([actor.add.remote(n) for actor, n in zip(actors.values(), (500, 300, 700), strict=True)])
        size = reader.size()
        draws, batches, bad = 4096, 20, 0
        counts: dict[tuple[int, int], int] = {}
        probability: dict[tuple[int, int], set[float]] = {}
        heaviest = 0.0
        for _ in range(batches):
            batch = reader.sample(draws)
            bad += wrong(batch)
            heaviest = max(heaviest, float(batch.weights.max()))
            for key, chance in zip(keys(batch), batch.probabilities.tolist(), strict=True):
                counts[key] = counts.get(key, 0) + 1
                probability.setdefault(key, set()).add(chance)
        report = reader.update_priorities(batch.indices, np.full(draws, 2.0))
        assert report is not None
        return {
            "flushed": flushed,
            "size": size,
            "inserted": cluster.stats()["inserted"] if all_there(cluster, 30.0) else -1,
            "nodes": len({shard["node"] for shard in cluster.stats()["shards"]}),
            "wrong": bad,
            "draws": draws * batches,
            "heaviest": heaviest,
            "drawn": [[*key, counts[key], sorted(probability[key])] for key in sorted(counts)],
            "report": [*report],
            "renewed": len(set(batch.indices.tolist())),
        }


def cut_off() -> dict[str, Any]:
    """Both shards on the other host, and the wire is cut: every call says so in its time, and goes on afterwards."""
    options = ClusterOptions(actor_options=ON_B, timeout=20.0, shard_timeout=1.0)
    with (
        ReplayCluster(2, 8192, SCHEMA, seed=0, options=options) as cluster,
        cluster.reader() as reader,
        cluster.writer(pending=64, flush_size=16, timeout=2.0) as writer,
        cluster.reader() as ahead,
        ahead.batches(64, prefetch=4, timeout=2.0) as batches,
    ):
        write(writer, 0, 0, 64)
        writer.flush(20.0)
        batch, _ = reader.sample(64), next(batches)
        told({"line": [DELAY, 1.0]})
        found = {
            "sample": timed(lambda: reader.sample(64, timeout=2.0)),
            "next": timed(lambda: [next(batches) for _ in range(10)]),
            "update": timed(lambda: reader.update_priorities(batch.indices, batch.reward, timeout=2.0)),
            "add": timed(lambda: [write(writer, 0, 64, 48), write(writer, 0, 112, 48)]),
            "flush": timed(lambda: writer.flush(1.0)),
            "stats": timed(cluster.stats),
        }
        told({"line": [DELAY, LOSS]})
        flushed = writer.flush(20.0)
        return {
            **found,
            "flushed": [*flushed],
            "after": timed(lambda: [wrong(reader.sample(64)), wrong(next(batches))]),
            "size": reader.size(),
        }


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    begin = time.monotonic()
    try:
        answer = repr(call())
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    return {"took": time.monotonic() - begin, "answer": answer}


class Watch:
    """A reader at work in a thread of its own: what it drew, how long each draw took, and what it raised."""

    def __init__(self, cluster: ReplayCluster, timeout: float) -> None:
        self._reader, self._timeout = cluster.reader(), timeout
        self.began = time.monotonic()
        self.calls: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            call: dict[str, Any] = {"at": begin - self.began, "shards": [], "wrong": 0, "error": ""}
            try:
                batch = self._reader.sample(128, timeout=self._timeout)
            except (TimeoutError, ValueError) as error:
                call["error"] = f"{type(error).__name__}: {error}"
                time.sleep(0.1)
            else:
                call["shards"], call["wrong"] = sorted(set((batch.indices >> 51).tolist())), wrong(batch)
            call["took"] = time.monotonic() - begin
            self.calls.append(call)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def census(cluster: ReplayCluster) -> dict[str, Any]:
    """Every transition there is, once."""
    reader = cluster.reader()
    size = reader.size()
    batch = reader.sample(size)
    writers: dict[int, list[int]] = {}
    for name, serial in keys(batch):
        writers.setdefault(name, []).append(serial)
    return {
        "size": size,
        "wrong": wrong(batch),
        "ids": len(set(batch.indices.tolist())),
        "serials": {name: sorted(serials) for name, serials in writers.items()},
    }


def seated(capacity: int, timeout: float) -> ReplayCluster:
    """A shard on each host."""
    options = ClusterOptions(actor_options=SEATED, timeout=timeout, shard_timeout=1.0)
    return ReplayCluster(2, capacity, SCHEMA, rb.Uniform(replace=False), seed=0, options=options)


def cut() -> dict[str, Any]:
    """The wire is cut for some seconds, while all write and sample."""
    with seated(200_000, 60.0) as cluster:
        actors = crew(cluster, "aabb")
        in_turn(actors, 200)
        watch = Watch(cluster, timeout=5.0)
        load = [actor.keep_adding.remote(400) for actor in actors.values()]
        time.sleep(2.0)
        told({"line": [DELAY, 1.0]})
        cut_at = time.monotonic() - watch.began
        time.sleep(4.0)
        waiting = {name: ray.get(actors[name].stats.remote(), timeout=10.0) for name in (0, 1)}  # those on this host
        told({"line": [DELAY, LOSS]})
        mended_at = time.monotonic() - watch.began
        time.sleep(6.0)
        stopped = ray.get([actor.stop.remote() for actor in actors.values()])
        ray.get(load)
        time.sleep(1.0)
        watch.end()
        stats = all_there(cluster, 30.0)
        return {
            "cut": [cut_at, mended_at],
            "waiting": waiting,
            "stopped": stopped,
            "calls": watch.calls,
            "stats": stats,
            "census": census(cluster),
        }


def death() -> dict[str, Any]:
    """The other host dies, with a shard and two writers on it, while all write and sample."""
    with seated(200_000, 60.0) as cluster:
        actors = crew(cluster, "aabb")
        in_turn(actors, 200)
        watch = Watch(cluster, timeout=5.0)
        load = [actor.keep_adding.remote(400) for actor in actors.values()]
        time.sleep(3.0)
        before = cluster.stats()
        told({"kill": "b"})
        died_at = time.monotonic() - watch.began
        end = time.monotonic() + 60.0
        while (stats := cluster.stats())["shards"] and all(shard["state"] == "open" for shard in stats["shards"]):
            if time.monotonic() > end:
                raise TimeoutError("nobody noticed that a shard died")
            time.sleep(0.2)
        away = [shard for shard in stats["shards"] if shard["state"] == "away"]
        noticed_at = time.monotonic() - watch.began
        time.sleep(3.0)
        stuck = {name: ray.get(actors[name].stats.remote(), timeout=10.0) for name in (0, 1)}
        lost = [cluster.forget(shard["shard"]) for shard in away]
        forgotten_at = time.monotonic() - watch.began
        time.sleep(2.0)
        stopped = ray.get([actors[name].stop.remote() for name in (0, 1)])
        ray.get(load[:2])
        watch.end()
        return {
            "died": died_at,
            "noticed": noticed_at,
            "forgotten": forgotten_at,
            "before": before,
            "away": away,
            "lost": lost,
            "stuck": stuck,
            "stopped": stopped,
            "calls": watch.calls,
            "stats": all_there(cluster, 30.0),
            "census": census(cluster),
        }


SCENARIOS: dict[str, Callable[[], Any]] = {
    scenario.__name__: scenario for scenario in (placement, delivery, cut_off, cut, death)
}


def main() -> None:
    ray.init(log_to_driver=False)
    found = SCENARIOS[sys.argv[1]]()
    ray.shutdown()
    print(json.dumps({"done": found}), flush=True)


if __name__ == "__main__":
    main()
