"""One cluster, simulated event by event: throughput, how busy each part is, how long flushes and samples take.

    python benchmarks/scale_simulation.py [--actors 1000] [--shards 64] [--size frames] [--batch 512] …

prints the figures of one scenario as JSON (`--help`: all that can be set). `scale.py` runs those of docs/scale.md.

What is assumed: a process is one server that does one thing at a time, in the order of arrival. That is meant of a
shard's two lines, too: inserts and draws have a thread each, but these share Python's lock, and so a core. A node's
link sends one message after the other, each way; a message is received when its last byte is. CPU times are those
measured, without spread; actors step at their rate, each interval up to a tenth longer or shorter, and begin at random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from typing import Any

import numpy as np
import simpy
import tyro

from scale_model import BEAT, LOOK, POLL, Costs, Scenario

Steps = Generator[simpy.Event, Any, None]


class Clock:
    """The environment, and the seconds that are counted: those from `begin` to `end`."""

    def __init__(self, begin: float, end: float) -> None:
        self.env = simpy.Environment()
        self.begin, self.end = begin, end

    def within(self, begin: float, end: float) -> float:
        """How much of a span is counted."""
        return max(0.0, min(end, self.end) - max(begin, self.begin))

    @property
    def counts(self) -> bool:
        return self.begin <= self.env.now <= self.end

    def share(self, seconds: float) -> float:
        return seconds / (self.end - self.begin)


class Process:
    """One server; with `cores` (a resource that several share) it also needs one of these to work."""

    def __init__(self, clock: Clock, cores: simpy.Resource | None = None) -> None:
        self._clock, self._cores = clock, cores
        self._line = simpy.Resource(clock.env)
        self._busy = self._waited = 0.0
        self.waits: list[float] = []

    def work(self, seconds: float) -> Steps:
        env = self._clock.env
        arrived = env.now
        with self._line.request() as turn:
            yield turn
            if self._cores is None:
                yield from self._do(arrived, seconds)
            else:
                with self._cores.request() as core:
                    yield core
                    yield from self._do(arrived, seconds)

    def _do(self, arrived: float, seconds: float) -> Steps:
        clock, begin = self._clock, self._clock.env.now
        self._busy += clock.within(begin, begin + seconds)
        self._waited += clock.within(arrived, begin)
        if clock.counts:
            self.waits.append(begin - arrived)
        yield clock.env.timeout(seconds)

    @property
    def utilisation(self) -> float:
        return self._clock.share(self._busy)

    @property
    def queue(self) -> float:
        """How many wait, on average."""
        return self._clock.share(self._waited)


class Link:
    """One way of a node's network: `through` says how long a message takes that comes to it now."""

    def __init__(self, clock: Clock, bytes_a_second: float) -> None:
        self._clock, self._pace = clock, bytes_a_second
        self._free = self._busy = 0.0

    def through(self, nbytes: float) -> float:
        now = self._clock.env.now
        begin = max(now, self._free)
        self._free = begin + nbytes / self._pace
        self._busy += self._clock.within(begin, self._free)
        return self._free - now

    @property
    def utilisation(self) -> float:
        return self._clock.share(self._busy)


class Node:
    """Two links."""

    def __init__(self, clock: Clock, bytes_a_second: float) -> None:
        self.out, self.into = Link(clock, bytes_a_second), Link(clock, bytes_a_second)


class Cluster:
    """All processes and nodes of a scenario, and what happened."""

    def __init__(self, scenario: Scenario, costs: Costs) -> None:
        s = self.scenario = scenario
        self.costs = costs
        clock = self.clock = Clock(s.warm, s.warm + s.seconds)
        env = self.env = clock.env
        self.rng = np.random.default_rng(s.seed)
        self.half = costs.call_bytes / 2
        cores = None if s.cores is None else simpy.Resource(env, s.cores)
        alone = Node(clock, math.inf)
        self.delay = 0.0 if s.cores else s.delay

        def nodes(processes: int, on_a_node: int) -> list[Node]:
            if s.cores:
                return [alone] * processes
            found = [Node(clock, s.link) for _ in range(math.ceil(processes / on_a_node))]
            return [found[i // on_a_node] for i in range(processes)]

        self.writers = [Process(clock, cores) for _ in range(s.actors)]
        self.shards = [Process(clock, cores) for _ in range(s.shards)]
        self.learners = [Process(clock, cores) for _ in range(s.learners)]
        self.coordinator = Process(clock, cores)
        self.actor_nodes = nodes(s.actors, s.actors_on_a_node)
        self.shard_nodes = nodes(s.shards, s.shards_on_a_node)
        self.learner_nodes = nodes(s.learners, 1)
        self.own_node = alone if s.cores else Node(clock, s.link)
        self.acknowledged = self.batches = 0
        self.flushes: list[float] = []
        self.samples: list[float] = []
        self.accelerated = self.flying = 0.0
        for number, writer in enumerate(self.writers):
            env.process(self._act(writer, self.actor_nodes[number], number % s.shards))
            env.process(self._every(LOOK, writer, costs.poll))
        for shard in self.shards:
            env.process(self._every(BEAT, shard, costs.beat))
        for learner, node in zip(self.learners, self.learner_nodes, strict=True):
            env.process(self._learn(learner, node))
            env.process(self._every(POLL, learner, costs.poll))

    def run(self) -> Cluster:
        self.env.run(self.clock.end)
        return self

    # ---- what a call is made of ----

    def _way(self, a: Node, b: Node, nbytes: float) -> Steps:
        """A message from node to node."""
        env = self.env
        if a is not b:
            yield env.timeout(a.out.through(nbytes))
            yield env.timeout(self.delay)
            yield env.timeout(b.into.through(nbytes))
        yield env.timeout(self.costs.way)

    def _call(self, a: Node, b: Node, server: Process, seconds: float, there: float = 0.0, back: float = 0.0) -> Steps:
        """A call with so many bytes there and back, and its CPU seconds at the server."""
        yield from self._way(a, b, there + self.half)
        yield from server.work(seconds)
        yield from self._way(b, a, back + self.half)

    def _leave(self, caller: Process, node: Node) -> Steps:
        grant = self.costs.grant
        yield from caller.work(grant.caller)
        yield from self._call(node, self.own_node, self.coordinator, grant.server)

    def _every(self, seconds: float, process: Process, cost: Any) -> Steps:
        """Small calls of the coordinator, now and then."""
        yield self.env.timeout(self.rng.random() * seconds)
        while True:
            yield from process.work(cost.caller)
            self.env.process(self.coordinator.work(cost.server))
            yield self.env.timeout(seconds)

    # ---- actors ----

    def _act(self, writer: Process, node: Node, shard: int) -> Steps:
        s, env, costs, rng = self.scenario, self.env, self.costs, self.rng
        n = s.packet
        room = simpy.Resource(env, max(1, s.pending // n))
        window = simpy.Resource(env, s.in_flight)
        pause = 0.0 if math.isinf(s.rate) else n / s.rate
        yield env.timeout(rng.random() * pause)
        due = env.now
        while True:
            due = max(env.now, due + pause * rng.uniform(0.9, 1.1))
            yield env.timeout(due - env.now)
            place = room.request()
            yield place
            yield from writer.work(costs.writer.each * n)
            env.process(self._send(writer, node, shard, n, window, room, place))

    def _send(
        self, writer: Process, node: Node, shard: int, n: int, window: simpy.Resource, room: simpy.Resource, place: Any
    ) -> Steps:
        s, costs, begin = self.scenario, self.costs, self.env.now
        with window.request() as turn:
            yield turn
            if s.rate_limit:
                yield from self._leave(writer, node)
            yield from writer.work(costs.writer.fixed)
            nbytes = costs.insert_bytes(n)
            yield from self._call(node, self.shard_nodes[shard], self.shards[shard], costs.insert(n), nbytes)
        room.release(place)
        now = self.env.now
        self.flying += self.clock.within(begin, now)
        if self.clock.counts:
            self.flushes.append(now - begin)
            self.acknowledged += n

    # ---- learners ----

    def _learn(self, learner: Process, node: Node) -> Steps:
        s, env = self.scenario, self.env
        ahead = [self._ask(learner, node) for _ in range(s.prefetch or 0)]
        untold: list[simpy.Event] = []
        step = env.timeout(0)
        while True:
            begin = env.now
            ahead.append(self._ask(learner, node))
            counts = yield ahead.pop(0)
            yield from learner.work(self._half_of(self.costs.reader_draw, s.asked, s.batch))
            if self.clock.counts:
                self.samples.append(env.now - begin)
                self.batches += 1
            yield step  # the accelerator is still at the last one
            self.accelerated += self.clock.within(env.now, env.now + s.step)
            step = env.timeout(s.step)
            if s.updates:
                # Those of the last batch, or of this one: as many, and as old.
                yield from learner.work(self.costs.reader_update(s.asked, s.batch))
                calls = self._to_shards(node, self.costs.update, self.costs.update_bytes, None, counts)
                if s.prefetch is None:
                    yield env.all_of(calls)
                else:
                    untold = [call for call in [*untold, *calls] if not call.processed]
                    while len(untold) > UNTOLD:
                        yield untold.pop(0)

    def _ask(self, learner: Process, node: Node) -> simpy.Process:
        return self.env.process(self._batch(learner, node))

    def _batch(self, learner: Process, node: Node) -> Generator[simpy.Event, Any, dict[int, int]]:
        """Asks for a batch; gives how many each shard has drawn."""
        s, costs = self.scenario, self.costs
        if s.rate_limit:
            yield from self._leave(learner, node)
        if s.prefetch is None:
            everyone = dict.fromkeys(range(s.shards), 0)
            yield from learner.work(costs.reader_draw.shard * s.shards)
            yield self.env.all_of(self._to_shards(node, costs.draw, None, None, everyone))
        # Stratified over shards of equal mass: the j-th of n points lies in the j-th of n equal ranges.
        points = (np.arange(s.batch) + self.rng.random(s.batch)) / s.batch
        drawn = np.bincount((points * s.shards).astype(int), minlength=s.shards)
        counts = {shard: int(n) for shard, n in enumerate(drawn) if n}
        yield from learner.work(costs.reader_draw.shard * len(counts) / 2)
        yield self.env.all_of(self._to_shards(node, costs.draw, None, costs.draw_bytes, counts))
        return counts

    @staticmethod
    def _half_of(cost: Any, shards: int, n: int) -> float:
        """What is done when answers have come; sending calls is the other half of what they cost."""
        return float(cost(shards, n) - cost.shard * shards / 2)

    def _to_shards(self, node: Node, cost: Any, there: Any, back: Any, counts: dict[int, int]) -> list[simpy.Process]:
        def size(line: Any, n: int) -> float:
            return 0.0 if line is None else line(n)

        return [
            self.env.process(
                self._call(node, self.shard_nodes[shard], self.shards[shard], cost(n), size(there, n), size(back, n))
            )
            for shard, n in counts.items()
        ]

    # ---- what happened ----

    def figures(self) -> dict[str, Any]:
        s = self.scenario
        busy = {
            "writer": _mean(self.writers),
            "shard": _mean(self.shards),
            "coordinator": self.coordinator.utilisation,
            "learner": _mean(self.learners),
            "accelerator": self.clock.share(self.accelerated) / max(1, s.learners),
            "actors' link out": _mean([node.out for node in dict.fromkeys(self.actor_nodes)]),
            "shards' link in": _mean([node.into for node in dict.fromkeys(self.shard_nodes)]),
            "shards' link out": _mean([node.out for node in dict.fromkeys(self.shard_nodes)]),
            "learner's link in": _mean([node.into for node in dict.fromkeys(self.learner_nodes)]),
        }
        return {
            "transitions": self.clock.share(self.acknowledged),
            "batches": self.clock.share(self.batches),
            "flush_ms": _times(self.flushes),
            "sample_ms": _times(self.samples),
            "utilisation": busy,
            "busiest_shard": max((shard.utilisation for shard in self.shards), default=0.0),
            "queue": {
                "writer": float(np.mean([one.queue for one in self.writers] or [0.0])),
                "shard": float(np.mean([one.queue for one in self.shards] or [0.0])),
                "coordinator": self.coordinator.queue,
                "learner": float(np.mean([one.queue for one in self.learners] or [0.0])),
            },
            "packets_on_their_way": self.clock.share(self.flying),
        }


UNTOLD = 64  # calls of update_priorities whose answers nobody has looked at yet, as the reader has it


def _mean(parts: Any) -> float:
    return float(np.mean([part.utilisation for part in parts])) if parts else 0.0


def _times(seconds: list[float]) -> dict[str, float] | None:
    """Milliseconds; None where nothing ended."""
    if not seconds:
        return None
    return {"median": 1e3 * float(np.median(seconds)), "p99": 1e3 * float(np.quantile(seconds, 0.99))}


def simulate(scenario: Scenario, costs: Costs | None = None) -> dict[str, Any]:
    """The figures of a scenario: rates a second, latencies, how busy, how long the queues."""
    return Cluster(scenario, costs or Costs.load(scenario.size)).run().figures()


if __name__ == "__main__":
    print(json.dumps(simulate(tyro.cli(Scenario, description=__doc__)), indent=1))
