"""A cluster under load, SIGKILL and SIGSTOP by a plan, and the account of it all."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hammering
import numpy as np
import ray
from hammering import MOST_STREAMS, STOP, TIMEOUT, require, verify

import replaybank as rb

ROUND = ("shard", "writer", "reader", "shard", "hang", "writer", "coordinator")
PATIENCE = 120.0  # seconds for what only has to come at some time


def until(done: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `done` gives as soon as that is true; it may end in a TimeoutError meanwhile."""
    deadline = time.monotonic() + seconds
    found = None
    while time.monotonic() < deadline:
        try:
            found = done()
        except TimeoutError as error:
            found = error
        else:
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}: {found}")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to a process of Ray's or of ours."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert command.startswith(b"ray::") or b"hammering.py" in command, f"process {pid} is {command!r}"
    os.kill(pid, number)


def process_of(actor: Any) -> int:
    """The process that an actor is in, as Ray knows it; waits for one that is being restarted."""

    def alive() -> int:
        pid: int = ray._private.state.actors(actor._actor_id.hex())["Pid"]
        return pid if Path(f"/proc/{pid}").exists() else 0

    found: int = until(alive, "an actor to have a process")
    return found


def actor() -> Any:
    """Runs a role of `hammering` in a process of Ray's, which knows nothing of this folder."""
    here = str(Path(__file__).parent)

    class Actor:
        def run(self, role: str, *arguments: Any) -> None:
            sys.path.insert(0, here)
            importlib.import_module("hammering").ROLES[role](*arguments)

    return ray.remote(num_cpus=0)(Actor).remote()


@dataclass
class Worker:
    """A writer or reader: a driver of its own (`process`), or an actor's call (`ref`)."""

    role: str
    number: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    actor: Any = None
    ref: Any = None
    killed: bool = False

    def ended(self) -> bool:
        if self.process is not None:
            return self.process.poll() is not None
        return bool(ray.wait([self.ref], timeout=0)[0])

    def why(self) -> str:
        """What it said as it ended."""
        if self.process is not None:
            return self.log.with_suffix(".err").read_text()
        try:
            return str(ray.get(self.ref, timeout=TIMEOUT))
        except ray.exceptions.RayError as error:
            return str(error)

    def lines(self) -> list[list[str]]:
        """The whole lines of its log, as words."""
        if not self.log.exists():
            return []
        return [line.split() for line in self.log.read_text().rpartition("\n")[0].splitlines()]

    def told(self, what: str) -> list[list[int]]:
        """The numbers of its lines of one kind."""
        return [[int(word) for word in line[1:]] for line in self.lines() if line[0] == what]


@dataclass
class Load:
    """Writers and readers on one cluster, each in a process of its own: actors and drivers by turns."""

    cluster: Any
    folder: Path
    workers: list[Worker] = field(default_factory=list)

    def start(self, role: str) -> Worker:
        """One more, with a number that no other has."""
        number = len(self.workers) + 1
        name = {"write": "writer", "read": "reader"}[role]
        worker = Worker(role, number, self.folder / f"{name}-{number}.log")
        if sum(one.role == role for one in self.workers) % 2:
            worker.actor = actor()
            worker.ref = worker.actor.run.remote(role, self.cluster, self.folder, number)
        else:
            address = ray.get_runtime_context().gcs_address
            command = [sys.executable, hammering.__file__, role, address, self.cluster.name, self.folder, str(number)]
            with (self.folder / f"{name}-{number}.err").open("wb") as errors:
                worker.process = subprocess.Popen([*map(str, command)], stdout=errors, stderr=errors)
        self.workers.append(worker)
        return worker

    def at_work(self, role: str) -> list[Worker]:
        """Those that have begun, and were not killed."""
        return [one for one in self.workers if one.role == role and not one.killed and len(one.lines()) > 1]

    def kill(self, worker: Worker) -> None:
        """SIGKILL."""
        [[pid]] = worker.told("pid")
        kill(pid)
        worker.killed = True
        if worker.process is not None:
            worker.process.wait()

    def look(self) -> None:
        """Raises AssertionError where a process saw what must not be, does not come back, or has ended."""
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".wrong", ".hung") and path.stat().st_size:
                raise AssertionError(f"{path.name}:\n{path.read_text()}")
        for worker in self.workers:
            if not worker.killed and worker.ended() and not (self.folder / STOP).exists():
                raise AssertionError(f"{worker} has ended: {worker.why()}")

    def stop(self) -> None:
        """All come to an end in peace."""
        (self.folder / STOP).touch()
        until(lambda: all(one.ended() for one in self.workers if not one.killed), "writers and readers to end")
        self.look()
        for worker in self.workers:
            if not worker.killed and worker.ref is not None:
                ray.get(worker.ref)
            if not worker.killed and worker.process is not None:
                assert worker.process.returncode == 0, worker.why()
            if worker.actor is not None:
                ray.kill(worker.actor)

    def end(self) -> None:
        """Nothing is left running, whatever happened."""
        for worker in self.workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()
            if worker.actor is not None:
                ray.kill(worker.actor)


def plan(rng: np.random.Generator, events: int, every: float) -> list[tuple[float, str]]:
    """When to do what: each kind in turn, in random order, at random times, `every` seconds on average."""
    kinds = [str(kind) for _ in range(-(-events // len(ROUND))) for kind in rng.permutation(ROUND)][:events]
    return [*zip(rng.uniform(0, 2 * every, events).tolist(), kinds, strict=True)]


# ---- what the shards hold ----


@dataclass(frozen=True)
class Contents:
    """A shard's checkpoint: ids int64 [n], lives and serials int64 [n, 2], and how many links are missing."""

    ids: np.ndarray
    found: np.ndarray
    unlinked: int


def contents(folder: Path) -> Contents:
    """What a checkpoint has, all of it verified, one step at a time and as windows."""
    buffer = rb.ReplayBuffer.load(folder)
    buffer.check_valid()
    stats = buffer.stats()
    ids = np.arange(stats["added"] - stats["size"], stats["added"])
    if not ids.size:
        return Contents(ids, np.empty((0, 2), np.int64), 0)
    found = verify(buffer.read(ids, rb.Transition(hammering.GAMMA)), 1)
    verify(buffer.read(ids, rb.NStep(hammering.STEPS, hammering.GAMMA)))
    order = np.lexsort((ids, found[:, 0]))
    lives, serials = found[order].T
    same = lives[1:] == lives[:-1]
    require(~same | (serials[1:] > serials[:-1]), "a life's transitions are not in order", found[order][1:])
    goes_on = same & (serials[1:] == serials[:-1] + 1) & ~hammering.last_of_segment(serials[:-1])
    linked = buffer.walk(ids[order][:-1], 1)[0][:, 1] == ids[order][1:]
    return Contents(ids, found, int((goes_on & ~linked).sum()))


def pairs(found: np.ndarray) -> set[tuple[int, int]]:
    return {(life, serial) for life, serial in found.tolist()}


# ---- the ordeal ----


@dataclass
class Account:
    """What an ordeal has shown; printed by the test that runs it."""

    events: dict[str, int]
    batches: int
    transitions: int
    held: int
    lost: int
    timeouts: int
    unlinked: int


@dataclass
class Ordeal:
    """A cluster with checkpoints in `path`, under load, with something killed every so often."""

    cluster: Any
    path: Path
    folder: Path
    rng: np.random.Generator
    load: Load = field(init=False)
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROUND, 0))
    checkpointed: list[np.ndarray] = field(default_factory=list)  # what was there when a shard died

    def __post_init__(self) -> None:
        self.load = Load(self.cluster, self.folder)

    def run(self, events: int, every: float, writers: int = 3, readers: int = 1) -> Account:
        """All of it."""
        try:
            for _ in range(writers):
                self.load.start("write")
            until(lambda: self.cluster.stats()["size"] > 1000, "the first transitions")
            for _ in range(readers):
                self.load.start("read")
            until(lambda: self.at_work("read", readers) and self.at_work("write", writers), "all to work")
            for pause, kind in plan(self.rng, events, every):
                self.wait(pause)
                getattr(self, kind)()
                self.events[kind] += 1
            self.wait(2 * every)
            self.load.stop()
            return self.account()
        finally:
            self.load.end()

    def at_work(self, role: str, n: int) -> bool:
        self.load.look()
        return len(self.load.at_work(role)) >= n

    def wait(self, seconds: float) -> None:
        """Looks for what is wrong meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.load.look()
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def alive(self) -> list[dict[str, Any]]:
        """What the shards say whose processes are there."""
        shards = self.cluster.stats()["shards"]
        return [shard for shard in shards if Path(f"/proc/{shard.get('pid', 'none')}").exists()]

    # ---- what happens ----

    def shard(self) -> None:
        """Kills one, and looks at what Ray will restart it with."""
        shards = until(self.alive, "a shard to kill")
        chosen = shards[self.rng.integers(len(shards))]
        kill(chosen["pid"])
        self.checkpointed.append(contents(self.path / f"shard-{chosen['shard']:04d}").found)

    def writer(self) -> None:
        self.one_of("write")

    def reader(self) -> None:
        self.one_of("read")

    def one_of(self, role: str) -> None:
        """Kills one, and starts another."""
        workers = until(lambda: self.load.at_work(role), f"one to {role}")
        self.load.kill(workers[self.rng.integers(len(workers))])
        self.load.start(role)

    def hang(self) -> None:
        """A shard does nothing for longer than readers wait for it."""
        shards = until(self.alive, "a shard to stop")
        pid = shards[self.rng.integers(len(shards))]["pid"]
        kill(pid, signal.SIGSTOP)
        try:
            self.wait(1.5)
        finally:
            kill(pid, signal.SIGCONT)

    def coordinator(self) -> None:
        kill(process_of(self.cluster._directory.coordinator))

    # ---- what must be true in the end ----

    def account(self) -> Account:
        """Raises AssertionError where something is lost and not counted, twice there, or never was added."""
        stopped = time.monotonic()
        quiet = until(lambda: self.all_quiet(stopped), "all shards to be there, and nobody to write")
        self.cluster.save(timeout=PATIENCE)
        shards = self.cluster.stats()["shards"]
        held = [contents(self.path / f"shard-{shard['shard']:04d}") for shard in shards]
        assert len(shards) == len(held) > 0
        for shard, there in zip(shards, held, strict=True):
            assert shard["inserted"] - shard["lost"] - shard["overwritten"] == shard["size"] == len(there.ids), shard
            assert shard["overwritten"] == 0, "the capacity should be enough for all"
            assert shard["refused"] == 0, shard
        for name in ("size", "inserted", "lost", "overwritten", "sampled", "updated", "stale"):
            assert quiet[name] == sum(shard[name] for shard in quiet["shards"]), name
        everything = np.concatenate([there.found for there in held])
        here = pairs(everything)
        assert len(here) == len(everything), f"{len(everything) - len(here)} transitions are there twice"
        for found in self.checkpointed:
            missing = pairs(found) - here
            assert not missing, f"{len(missing)} of {len(found)} that were in a checkpoint did not come back"
        unlinked = sum(there.unlinked for there in held)
        breaks = len(self.load.workers) * MOST_STREAMS * sum(self.events.values())
        assert unlinked <= breaks, f"{unlinked} transitions have lost the one that follows"
        gone = sum(
            self.missing(worker, [there.found for there in held])
            for worker in self.load.workers
            if worker.role == "write"
        )
        lost = sum(shard["lost"] for shard in shards)
        assert gone <= lost, f"{gone} acknowledged transitions are gone, {lost} are counted lost"
        dead = sum(worker.killed for worker in self.load.workers if worker.role == "write")
        assert quiet["writers_died"] <= dead
        return Account(
            self.events,
            self.seen(),
            sum(shard["inserted"] for shard in shards),
            len(everything),
            lost,
            sum(len([line for line in worker.lines() if line[0] == "timeout"]) for worker in self.load.workers),
            unlinked,
        )

    def all_quiet(self, since: float) -> Any:
        """What the cluster says once all shards have reported since then, and all writers have left or are dead."""
        stats = self.cluster.stats()
        oldest = max(shard["beat_age"] for shard in stats["shards"])
        there = len(self.alive()) == len(stats["shards"]) and 0 < oldest < time.monotonic() - since
        return stats if there and stats["writers"] == 0 else None

    def missing(self, worker: Worker, held: list[np.ndarray]) -> int:
        """How many of a writer's acknowledged transitions are in no shard; one that lives knows them all."""
        [[streams]] = worker.told("streams") or [[1]]
        flushed = worker.told("flushed")
        everything = np.concatenate(held)
        mine = everything[everything[:, 0] // MOST_STREAMS == worker.number]
        number = mine[:, 1] * streams + mine[:, 0] % MOST_STREAMS  # in the order in which it added them
        added, acknowledged, pending, dropped, lost = flushed[-1] if flushed else (0, 0, 0, 0, 0)
        gone = acknowledged - int((number < acknowledged).sum())
        assert gone >= 0
        if not worker.killed:
            assert (added * streams, 0, 0) == (acknowledged, pending, dropped), f"{worker}: {flushed[-1]}"
            assert number.size == 0 or number.max() < acknowledged, f"{worker} has not added all of these"
            stayed = sum(bool((there[:, 0] // MOST_STREAMS == worker.number).any()) for there in held) == 1
            told = gone == lost if stayed else gone >= lost  # of a shard that it has left it hears nothing
            assert told, f"{worker} was told of {lost} lost transitions, {gone} are gone"
        return gone

    def seen(self) -> int:
        """How many batches all readers saw; an id is one transition's, for all of them and for ever."""
        parts = [np.fromfile(path, np.int64) for path in sorted(self.folder.glob("reader-*.ids"))]
        rows = np.concatenate([part[: len(part) // 3 * 3].reshape(-1, 3) for part in parts])
        rows = np.unique(rows, axis=0)
        again = rows[1:, 0] == rows[:-1, 0]
        require(~again, "one id for two transitions", rows[:-1], rows[1:])
        return sum(len(part) for part in parts) // 3 // hammering.BATCH
