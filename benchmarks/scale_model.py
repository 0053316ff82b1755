"""A cluster on paper: what it is made of, what a call costs, and what each of its parts then has to do.

Everything here is a product of a few numbers, as in docs/scale.md. `scale_simulation.py` adds what
products cannot tell: how long things wait.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

COSTS = Path(__file__).with_name("scale_costs.json")

BEAT = 1.0  # seconds between two reports of a shard
POLL = 1.0  # seconds between two looks of a reader at who is there
LOOK = 30.0  # seconds between two questions of a writer whether it should move


class Line(NamedTuple):
    """Seconds or bytes of a call with n items: fixed + each * n."""

    fixed: float
    each: float

    def __call__(self, n: float) -> float:
        return self.fixed + self.each * n


class Batch(NamedTuple):
    """CPU seconds of a learner's process for a batch: in any case, for each shard it is of, for each transition."""

    fixed: float
    shard: float
    transition: float

    def __call__(self, shards: float, n: float) -> float:
        return self.fixed + self.shard * shards + self.transition * n


class Ends(NamedTuple):
    """CPU seconds of a call: of the process that makes it, and of the one that answers."""

    caller: float
    server: float


@dataclass(frozen=True)
class Costs:
    """What `scale_costs.py` measured, for one size of transitions. CPU is in seconds."""

    writer: Line  # of a packet, in the writer's process
    insert: Line  # of a packet, in the shard
    insert_bytes: Line
    draw: Line  # of a call, in the shard
    draw_bytes: Line
    update: Line
    update_bytes: Line
    reader_draw: Batch
    reader_update: Batch
    grant: Ends
    beat: Ends
    poll: Ends
    look: Mapping[str, Line]  # by the number of shards: caller, server, bytes
    call_bytes: float  # of every call, both ways together, beside what it carries
    way: float  # seconds of a call, one way, that are neither CPU time nor the link's
    memory: Mapping[str, int]
    transition_nbytes: float  # in a shard

    @classmethod
    def of(cls, measured: Mapping[str, Any], size: str) -> Costs:
        """Those of transitions of a size, of a run of `scale_costs.py`."""
        calls, own = measured["calls"], dict(measured["sizes"][size])
        batches = {name: Batch(**own[name]) for name in ("reader_draw", "reader_update")}
        lines = {name: Line(**own[name]) for name in LINES}
        empty = Ends(**calls["empty"])
        return cls(
            **lines,
            **batches,
            **{name: Ends(**calls[name]) for name in ("grant", "beat", "poll")},
            look={name: Line(**line) for name, line in calls["look"].items()},
            call_bytes=calls["call_bytes"],
            way=max(0.0, calls["call_seconds"]["median"] - empty.caller - empty.server) / 2,
            memory=calls["memory"],
            transition_nbytes=own["transition_nbytes"],
        )

    @classmethod
    def load(cls, size: str, path: Path = COSTS) -> Costs:
        return cls.of(json.loads(path.read_text()), size)


LINES = ("writer", "insert", "insert_bytes", "draw", "draw_bytes", "update", "update_bytes")


@dataclass(frozen=True)
class Scenario:
    """A cluster and what is asked of it. Its processes have a core each, unless `cores` says how many there are."""

    actors: int = 1000
    """Processes with a writer of one stream."""
    rate: float = 35.0
    """Transitions a second of each actor; inf: as fast as its writer takes them."""
    size: Literal["cartpole", "frames"] = "frames"
    """4 float32, or 84 x 84 bytes."""
    shards: int = 64
    learners: int = 1
    """Processes with a reader; 0: none."""
    batch: int = 512
    step: float = 1 / 19
    """Seconds that the accelerator takes for a batch, while the process gets the next one."""
    prefetch: int | None = 4
    """Batches on their way; None: the learner asks with `sample`, and waits for its updates."""
    updates: bool = True
    """Whether priorities are set anew after each step."""
    capacity: int = 2_000_000
    """Transitions over all shards."""
    flush_size: int = 64
    flush_seconds: float = 0.2
    in_flight: int = 2
    pending: int = 10_000
    rate_limit: bool = False
    """Each packet and each batch asks the coordinator for leave; it is assumed that none has to wait for it."""
    actors_on_a_node: int = 32
    shards_on_a_node: int = 8
    gbit: float = 10.0
    """Of each node's link, each way."""
    delay: float = 50e-6
    """Seconds from one node to another, beside what a message's bytes take."""
    cores: int | None = None
    """Everything on one machine with so many cores and no network; None: on nodes, and a core for each process."""
    warm: float = 1.0
    """Seconds before anything is counted."""
    seconds: float = 4.0
    """Seconds that are counted."""
    seed: int = 0

    @property
    def packet(self) -> int:
        """Transitions of a packet: it goes when it is full, or old."""
        return self.flush_size if math.isinf(self.rate) else min(self.flush_size, self.most_in_time)

    @property
    def most_in_time(self) -> int:
        return max(1, round(self.rate * self.flush_seconds))

    @property
    def asked(self) -> int:
        """Shards that a batch is drawn from."""
        return min(self.shards, self.batch)

    @property
    def link(self) -> float:
        """Bytes a second."""
        return self.gbit * 1e9 / 8


class Load(NamedTuple):
    """What a second brings, over the whole cluster."""

    packets: float
    batches: float


def offered(scenario: Scenario) -> Load:
    """What actors and learners bring where nothing holds them up; both must have a pace of their own."""
    batches = scenario.learners / scenario.step if scenario.learners else 0.0
    return Load(scenario.actors * scenario.rate / scenario.packet, batches)


def utilisation(costs: Costs, scenario: Scenario, load: Load | None = None) -> dict[str, float]:
    """Which part of its time each resource is busy (utilisation law: arrivals a second times seconds each).

    Above 1 it cannot be: the load is more than the cluster takes. Shards, writers, learners and nodes are taken to
    have equal parts of the load.
    """
    packets, batches = offered(scenario) if load is None else load
    s, n = scenario, scenario.packet
    calls = batches * s.asked  # of draws, and as many of updates
    part = s.batch / s.asked
    update = 1.0 if s.updates else 0.0
    asks = 2 if s.prefetch is None else 1  # a `sample` asks all shards for their mass first
    leave = 1.0 if s.rate_limit else 0.0
    insert_bytes = packets * (costs.insert_bytes(n) + costs.call_bytes / 2)
    draw_bytes = calls * (costs.draw_bytes(part) + costs.call_bytes / 2)
    update_bytes = calls * update * (costs.update_bytes(part) + costs.call_bytes / 2)
    small = costs.call_bytes / 2
    actor_nodes = math.ceil(s.actors / s.actors_on_a_node)
    shard_nodes = math.ceil(s.shards / s.shards_on_a_node)
    learners = max(1, s.learners)
    shard = packets * costs.insert(n) + calls * (costs.draw(part) + update * costs.update(part))
    shard += calls * (asks - 1) * costs.draw.fixed
    reader = costs.reader_draw(s.asked, s.batch) + update * costs.reader_update(s.asked, s.batch)
    reader += (asks - 1) * s.asked * costs.reader_draw.shard + leave * costs.grant.caller
    coordinator = leave * (packets + batches) * costs.grant.server + s.shards / BEAT * costs.beat.server
    coordinator += (s.learners / POLL + s.actors / LOOK) * costs.poll.server
    return {
        "writer": packets / s.actors * (costs.writer(n) + leave * costs.grant.caller) + costs.poll.caller / LOOK,
        "shard": shard / s.shards + costs.beat.caller / BEAT,
        "coordinator": coordinator,
        "learner": batches / learners * reader + (costs.poll.caller / POLL if s.learners else 0.0),
        "accelerator": batches / learners * s.step,
        "actors' link out": insert_bytes / actor_nodes / s.link,
        "shards' link in": (insert_bytes + update_bytes + calls * asks * small) / shard_nodes / s.link,
        "shards' link out": (draw_bytes + packets * small + calls * (update + asks - 1) * small) / shard_nodes / s.link,
        "learner's link in": (draw_bytes + calls * (update + asks - 1) * small) / learners / s.link,
    }


def first(busy: Mapping[str, float]) -> str:
    """The resource that is full first as all of the load grows."""
    return max((name for name in busy if name != "accelerator"), key=lambda name: busy[name])


def memory(costs: Costs, scenario: Scenario) -> dict[str, float]:
    """Bytes: of a shard, of a node of shards, and what a writer takes of its actor."""
    held = scenario.capacity / scenario.shards * costs.transition_nbytes
    shard = costs.memory["shard"] + held
    return {
        "shard": shard,
        "shards' node": shard * scenario.shards_on_a_node,
        "writer": float(max(0, costs.memory["writer"] - costs.memory["process"])),
        "coordinator": float(costs.memory["coordinator"]),
    }
