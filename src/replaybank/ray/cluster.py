"""A replay buffer over many machines: what a user makes, hands around and asks."""

from __future__ import annotations

import copy
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from replaybank.arguments import whole_number
from replaybank.parts import as_part
from replaybank.ray.calls import GONE, answer, answers, reason
from replaybank.ray.config import NAMESPACE, USUAL_INSERT, USUAL_SAMPLE, Checkpoint, ClusterOptions, Config, shard_name
from replaybank.ray.coordinator import CoordinatorActor
from replaybank.ray.directory import ClusterClosed, Directory
from replaybank.ray.ids import MOST_SHARDS
from replaybank.ray.joint import divisible
from replaybank.ray.limiter import RateLimit
from replaybank.ray.reader import Reader
from replaybank.ray.session import Session
from replaybank.ray.shard import ShardActor
from replaybank.ray.writer import Full, Writer
from replaybank.rows import MAX_CAPACITY
from replaybank.samplers.base import Sampler
from replaybank.samplers.uniform import Uniform
from replaybank.schema import Schema
from replaybank.views.base import View
from replaybank.views.transition import Transition

# An actor that asks for nothing Ray puts anywhere, whatever its scheduling_strategy says; so each asks for one byte.
PLACED = {"num_cpus": 0, "memory": 1}


class ReplayCluster:
    """The last `capacity` transitions of any number of writers, in `shards` actors of Ray, drawn from as one buffer.

    Each shard is a `ReplayBuffer` of ceil(capacity / shards) transitions in a process of its own, wherever Ray places
    it. `schema`, `sampler` and `view` are those of a `ReplayBuffer`; the sampler is one whose probabilities add up over
    shards: `Uniform` or `Prioritized`. A new transition without a td_error gets the largest priority of its shard.

    `samples_per_insert`: a number, or a `RateLimit`: how many transitions are drawn for each that is added, held within
    a band. `checkpoint`: a path, or a `Checkpoint`. `seed`: of draws; with several processes their order is chance all
    the same. `options`: the rest.

    A handle: it may be sent to Ray's tasks and actors, and `attach(name)` finds it from elsewhere. Ray must have been
    started (`ray.init`); else Ray starts itself here.

    Raises TypeError or ValueError where an argument is not what it must be, writers and readers would wait for each
    other for ever, or the checkpoint's path holds one already; RuntimeError where the name is taken; TimeoutError where
    Ray cannot start the shards in time.
    """

    def __init__(
        self,
        shards: int = 4,
        capacity: int = 1_000_000,
        schema: Schema | Mapping[str, Any] | None = None,
        sampler: Sampler | None = None,
        view: View | None = None,
        samples_per_insert: float | RateLimit | None = None,
        checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
        seed: int | None = None,
        options: ClusterOptions | None = None,
    ) -> None:
        shards = whole_number("shards", shards, MOST_SHARDS)
        capacity = whole_number("capacity", capacity, MAX_CAPACITY, least=shards)
        if schema is None:
            raise ValueError("schema: expected what transitions are made of, such as rb.schema_of(env), given None")
        options = ClusterOptions() if options is None else options
        limit = samples_per_insert
        if limit is not None and not isinstance(limit, RateLimit):
            limit = RateLimit(limit, min_size=min(1000, capacity))
        if limit is not None:
            limit.check(capacity, USUAL_INSERT, USUAL_SAMPLE)
        if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint(checkpoint)
        if checkpoint is not None:
            _require_fit(checkpoint, shards)
        config = Config(
            name=options.name or f"replaybank-{secrets.token_hex(4)}",
            capacity=-(-capacity // shards),
            schema=schema if isinstance(schema, Schema) else Schema.of(schema),
            sampler=copy.deepcopy(divisible(Uniform() if sampler is None else sampler)),
            view=as_part("view", Transition() if view is None else view, View, "Transition()"),
            limit=limit,
            checkpoint=checkpoint,
            seed=None if seed is None else whole_number("seed", seed, 2**63 - 1, least=0),
            options=options,
        )
        # With whoever makes the cluster, and not on some other machine, whose end would then be the end of two things.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        placed: dict[str, Any] = {"namespace": NAMESPACE, "name": config.name, "max_restarts": -1, **PLACED}
        placed["scheduling_strategy"] = here
        if options.detached:
            placed["lifetime"] = "detached"
        try:
            coordinator = CoordinatorActor.options(**placed, max_concurrency=100_000).remote(config)
        except ValueError as error:
            raise RuntimeError(f"name: there is a cluster {config.name!r} already: {reason(error)}") from None
        self._directory = Directory(coordinator, config)
        self._started: list[Any] = []
        try:
            started = [self._start(number) for number in range(shards)]
            self._await(started)
        except BaseException:
            self.close()
            raise

    @classmethod
    def _of(cls, coordinator: Any, config: Config) -> ReplayCluster:
        cluster = cls.__new__(cls)
        cluster._directory = Directory(coordinator, config)
        cluster._started = []
        return cluster

    def __reduce__(self) -> Any:
        return ReplayCluster._of, (self._directory.coordinator, self._directory.config)

    def _start(self, number: int) -> tuple[int, Any]:
        config = self._directory.config
        given: dict[str, Any] = {**PLACED, "scheduling_strategy": "SPREAD", **config.options.actor_options}
        given |= {"max_restarts": -1, "max_task_retries": 0}
        given |= {"name": shard_name(config.name, number), "namespace": NAMESPACE}
        if config.options.detached:
            given["lifetime"] = "detached"
        actor = ShardActor.options(**given).remote(config, number)
        # Ray ends an actor when the handle goes that made it; those that others hand back do not count.
        self._started.append(actor)
        return number, actor

    def _await(self, started: list[tuple[int, Any]]) -> None:
        """Waits until shards are there, and lets them be known."""
        deadline = time.monotonic() + self._directory.config.options.timeout
        found = {}
        for number, actor in started:
            try:
                found[number] = ray.get(actor.stats.remote(), timeout=max(deadline - time.monotonic(), 0.0))
            except ray.exceptions.GetTimeoutError:
                raise TimeoutError(
                    f"shard {number} was not started within {self._directory.config.options.timeout:g} s; has the "
                    f"cluster room for it (actor_options={self._directory.config.options.actor_options})?"
                ) from None
            except ray.exceptions.ActorDiedError as error:
                raise _cause(error) from None
        for number, actor in started:
            self._ask(self._directory.coordinator.enroll.remote(number, actor, found[number]), "enroll")
        self._directory.look()

    def _ask(self, ref: Any, what: str) -> Any:
        return answer(ref, self._directory.config.options.timeout, f"{what}: the coordinator of {self.name!r}")

    # ---- using it ----

    @property
    def name(self) -> str:
        """By which `attach` finds it."""
        return self._directory.config.name

    @property
    def schema(self) -> Schema:
        """What a transition is made of."""
        return self._directory.config.schema

    def writer(
        self,
        streams: int = 1,
        flush_size: int = 64,
        flush_seconds: float = 0.2,
        in_flight: int = 2,
        pending: int = 10_000,
        full: Full = "block",
        timeout: float | None = None,
    ) -> Writer:
        """What adds to the cluster from this process, with settings as in `Writer`."""
        return Writer(self._own(), streams, flush_size, flush_seconds, in_flight, pending, full, timeout)

    def reader(self, seed: Any = None) -> Reader:
        """What draws from the cluster in this process: see `Reader`. `seed`: of how draws are allotted to shards."""
        if seed is None and self._directory.config.seed is not None:
            seed = [self._directory.config.seed, MOST_SHARDS]
        return Reader(self._own(), seed)

    def connect(self) -> tuple[Writer, Reader]:
        """A writer of one stream, and a reader. Neither does anything before it is used."""
        return self.writer(), self.reader()

    def _own(self) -> Directory:
        """Each has its own: it is used in one thread."""
        config = self._directory.config
        return Directory(self._directory.coordinator, copy.copy(config))

    # ---- looking after it ----

    def stats(self, timeout: float | None = None) -> dict[str, Any]:
        """Counts of the whole and of each shard, at most about a second old; docs/ray.md lists them.

        `timeout`: seconds to wait for them (None: the cluster's); then TimeoutError. RuntimeError where it is closed.
        """
        seconds = self._directory.config.options.timeout if timeout is None else timeout
        found: dict[str, Any] = self._directory.ask(self._directory.coordinator.stats.remote, "stats", seconds)
        return found

    def save(self, timeout: float | None = None) -> int:
        """Makes all shards save what changed; gives how many transitions their checkpoints have ever been given.

        Raises ValueError where the cluster has no checkpoint, TimeoutError where a shard does not answer within
        `timeout` seconds (None: the cluster's).
        """
        if self._directory.config.checkpoint is None:
            raise ValueError("save: this cluster was made without a checkpoint")
        self._directory.look()
        refs = {number: actor.save.remote() for number, (actor, _) in self._directory.members().items()}
        deadline = time.monotonic() + (self._directory.config.options.timeout if timeout is None else timeout)
        return sum(answer(ref, deadline - time.monotonic(), f"save: shard {number}") for number, ref in refs.items())

    def add_shard(self) -> int:
        """One more shard of the same capacity; gives its number. New writers go there first.

        It belongs to the process that adds it, unless the cluster is detached.
        """
        self._directory.look()
        number = self._ask(self._directory.coordinator.number.remote(), "add_shard")
        if number >= MOST_SHARDS:
            raise RuntimeError(f"add_shard: ids are for {MOST_SHARDS} shards, over a cluster's life")
        self._await([self._start(number)])
        return int(number)

    def drain(self, shard: int, timeout: float | None = None) -> int:
        """Moves what a shard holds to the others, and removes it; gives how many transitions were moved.

        Its writers go elsewhere at once, and it is not drawn from any more: what is still to be moved cannot be drawn
        meanwhile. Transitions keep their priorities, and get new ids: their old ones are stale.

        Raises ValueError, and changes nothing, where there is no such shard, it is the last one, or the others have no
        room for what it holds (add one first); TimeoutError where it takes longer than `timeout` seconds: it goes on
        where it stopped when called again.
        """
        from replaybank.ray.drain import drained

        return drained(self._directory, shard, timeout)

    def forget(self, shard: int) -> int:
        """Removes a shard that will not come back, with what it holds; gives how many transitions it was known to hold.

        They are counted as lost. Its writers go elsewhere with what was not acknowledged. Its checkpoint stays.
        A healthy shard is given up, too: `drain` is what keeps its transitions.
        """
        actor, _ = self._directory.members_with(shard)[shard]
        directory, patience = self._directory, self._directory.config.options.shard_timeout
        directory.ask(lambda: directory.coordinator.give_up.remote(shard), "forget")
        drained, _ = answers({shard: actor.drain.remote()}, patience)  # if it lives, it takes nothing any more
        told, _ = answers({shard: actor.stats.remote()}, patience if drained else 0.0)
        ray.kill(actor, no_restart=True)
        lost: int = self._ask(directory.coordinator.forget.remote(shard, told.get(shard)), "forget")
        directory.look()
        return lost

    def close(self) -> None:
        """Ends all of it: transitions that no checkpoint has are gone. Saves once more where there is a checkpoint."""
        directory = self._directory
        if directory.session.ended():
            return  # it ended with its Ray; any call would start another one
        members: dict[int, tuple[Any, str]] = {}
        try:
            _, members = directory.ask(directory.coordinator.members.remote, "close", 5.0)
            if directory.config.checkpoint is not None and members:
                self.save()
        except (*GONE, TimeoutError, ClusterClosed):
            pass  # it is gone already, or cannot be reached: it ends all the same
        finally:
            for actor, _ in members.values():
                ray.kill(actor, no_restart=True)
            ray.kill(directory.coordinator, no_restart=True)

    def __enter__(self) -> ReplayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        config = self._directory.config
        parts = f"{type(config.sampler).__name__}, {type(config.view).__name__}"
        return f"ReplayCluster({self.name!r}, {config.capacity} transitions a shard, {parts})"


def attach(name: str) -> ReplayCluster:
    """The cluster of this name, from another process or driver of the same Ray.

    Raises ValueError where there is none, naming those that there are.
    """
    try:
        coordinator = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        there = [
            one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE
        ]
        known = sorted({one.partition("/shard-")[0] for one in there})
        those = f"expected one of {', '.join(known)}" if known else "there is no cluster in this Ray"
        raise ValueError(f"name: {those}, given {name!r}") from None
    return ReplayCluster._of(coordinator, Session().ask(coordinator.config.remote, 10.0, f"attach: {name!r}"))


def _require_fit(checkpoint: Checkpoint, shards: int) -> None:
    there = checkpoint.folders()
    if there and not checkpoint.resume:
        raise ValueError(
            f"checkpoint: {Path(checkpoint.path)} holds one of {len(there)} shards already; go on with it "
            "(resume=True), or choose another path"
        )
    if there and len(there) != shards:
        raise ValueError(f"checkpoint: {Path(checkpoint.path)} is of {len(there)} shards, given shards={shards}")


def _cause(error: BaseException) -> BaseException:
    """What a shard's constructor raised."""
    lines = str(error).splitlines()  # Ray gives its text, and not the error
    told = [line.partition("ValueError: ")[2] for line in lines if line.startswith("ValueError: ")]
    return ValueError(told[-1]) if told else RuntimeError(f"a shard could not be started: {error}")
