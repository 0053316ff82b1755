"""A shard: one buffer in an actor of its own, fed by writers and drawn from by readers."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.buffer import ReplayBuffer
from replaybank.ray import ids
from replaybank.ray.calls import ready
from replaybank.ray.config import NAMESPACE, Config
from replaybank.ray.metrics import ShardMetrics
from replaybank.ray.moving import Load, Unloaded, unloaded
from replaybank.ray.progress import Progress
from replaybank.ray.restoring import beside_ray, loaded
from replaybank.ray.session import Session
from replaybank.ray.wire import Packet, Transitions, Wire
from replaybank.rows import Rows
from replaybank.samplers.share import Share

log = logging.getLogger("replaybank.ray")

BEAT = 1.0  # seconds between two reports to the coordinator
REMEMBERED = 10_000  # writers that have died, should they come back
COUNTS = ("moved_in", "sampled", "updated", "stale", "repeated", "refused", "writers_died")


@dataclass
class Lease:
    """A writer that is here: which of the buffer's streams are its own, and when it was last heard of (monotonic)."""

    streams: NDArray[np.int64]
    heard: float


class Shard:
    """One `ReplayBuffer`, and what a cluster adds: writers' leases, ids that outlive a restart, saves, reports.

    Calls come in three lines that do not wait for one another: "write", "read" and "look". When Ray has restarted it,
    it goes on from its last checkpoint; what that does not have is counted as lost.
    """

    def __init__(self, config: Config, number: int) -> None:
        self._config, self.number = config, number
        # By its name: a handle would be an argument in the object store, without which there is no restart.
        coordinator = self._coordinator = ray.get_actor(config.name, namespace=NAMESPACE)
        context = ray.get_runtime_context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own call warns of another of its own
            again = context.was_current_actor_reconstructed
        epoch, known, self._draining = Session().ask(lambda: coordinator.begin.remote(number), 1e6, "the coordinator")
        checkpoint = config.checkpoint
        self._folder = None if checkpoint is None else checkpoint.folder(number)
        self._buffer = self._restored(again)
        notes = self._buffer.notes
        # By writer: the number of its next transition, how many were taken or are known to be lost, and the latter. It
        # is in each checkpoint.
        self._received: dict[str, list[int]] = notes.setdefault("received", {})
        self._counts: dict[str, int] = notes.setdefault("counts", dict.fromkeys(COUNTS, 0))
        saved_epoch = notes.get("epoch", -1)
        self._progress = Progress(beside_ray() if self._folder is None else self._folder.with_suffix(".progress"))
        self.epoch = max(epoch, saved_epoch + 1, self._progress.epoch + 1)
        self._base = ids.base(number, self.epoch)
        # Which ids of each epoch may still be here: those below.
        limits = [min(limit, self._added) for limit in notes.get("limits", [])]
        limits += [self._added] * (self.epoch - len(limits))
        notes["epoch"], notes["limits"] = self.epoch, limits
        self._limits = np.array([*limits, ids.MOST_IDS], np.int64)
        self._progress.begin(self.epoch, max(known, self._progress.total, self._added))
        self._wire = Wire(config.schema)
        self._leases: dict[int, Lease] = {}
        self._unmovable = 0
        self._free = deque(range(config.options.streams))
        self._dead: deque[int] = deque(int(uid) for uid in self._received)
        self._buffer.end()
        self._table = threading.Lock()  # of the leases: calls, and the thread that looks who is silent
        self._saved, self._save_seconds, self._save_failed = self._added, 0.0, ""
        self._saved_at: float | None = None  # monotonic
        self._metrics = ShardMetrics(config.name, number)
        self._node = context.get_node_id()
        self._closed = threading.Event()
        threading.Thread(target=self._beat_for_ever, name="replaybank-beat", daemon=True).start()
        if checkpoint is not None:
            threading.Thread(target=self._save_for_ever, name="replaybank-save", daemon=True).start()

    def _restored(self, again: bool) -> ReplayBuffer:
        config, folder = self._config, self._folder
        seed = None if config.seed is None else [config.seed, self.number]
        if folder is not None and folder.exists():
            assert config.checkpoint is not None
            if not again and not config.checkpoint.resume:
                raise ValueError(
                    f"checkpoint: {folder} holds one already; go on with it (resume=True), or choose another path"
                )
            buffer = loaded(folder, config)
            if buffer is not None:
                return buffer
        # One stream more than writers can have: for what comes from other shards.
        streams = config.options.streams + 1
        return ReplayBuffer(config.capacity, config.schema, streams, config.sampler, config.view, seed)

    # ---- writers ----

    @ray.method(concurrency_group="write")
    def join(self, writer: int, streams: int, number: int, acknowledged: int) -> tuple[str, int, int]:
        """Gives a writer (an id that no other has) so many streams, to go on from its transition `number`.

        `acknowledged`: how many this shard has acknowledged to it. ("joined", the number of the first transition that
        was not received, how many of those acknowledged are lost) or, with zeros, "draining" or "full": go elsewhere.
        To ask again changes nothing.
        """
        with self._table:
            if self._draining:
                return "draining", 0, 0
            lease = self._leases.get(writer)
            if lease is None:
                if len(self._free) < streams:
                    return "full", 0, 0
                owned = np.array([self._free.popleft() for _ in range(streams)], np.int64)
                lease = self._leases[writer] = Lease(owned, 0.0)
            lease.heard = time.monotonic()
            with self._buffer._lock:
                received, taken, lost = self._received.get(str(writer), (0, 0, 0))
                missing = max(acknowledged - taken, 0)
                if received < number:
                    self._rows.end(lease.streams)
                    received = number
                self._received[str(writer)] = [received, taken + missing, lost + missing]
            return "joined", received, lost + missing

    @ray.method(concurrency_group="write")
    def insert(
        self, writer: int, after: int, first: int, ends: list[int], n: int, tails: int, raw: NDArray[np.uint8] | None
    ) -> tuple[str, int]:
        """Takes a writer's transitions number `first` to first + n - 1; with n = 0 it only says that it is there.

        `after`: so many were sent before; where `first` is more, some were dropped between them, and all its streams
        begin a new segment. `ends`: those of its streams that do so anyway.

        ("taken", how many of its transitions were received), also where it has them already; "behind" and as many,
        where those sent before have not come; or, with 0, "join" (it has no lease: never had, or was silent for too
        long) or "draining". Raises ValueError or TypeError, and takes nothing, where a packet is not what a writer of
        this schema sends.
        """
        begin = time.perf_counter()
        with self._table:
            if self._draining:
                return "draining", 0
            lease = self._leases.get(writer)
            if lease is None:
                return "join", 0
            lease.heard = time.monotonic()
            received, taken, lost = self._received[str(writer)]
            if n == 0:
                return "taken", received
            try:
                found = self._checked(lease, after, first, ends, Packet(n, tails, raw))  # type: ignore[arg-type]
                if first < received < first + n or after < received < first:
                    raise ValueError(f"insert: transitions {after} to {first + n} contradict the {received} received")
            except (TypeError, ValueError):
                self._counts["refused"] += 1
                raise
            if first + n <= received:
                self._counts["repeated"] += n
                return "taken", received
            if after > received:
                return "behind", received

            def take(rows: Rows) -> None:
                rows.end(lease.streams if first > after else lease.streams[np.array(ends, np.int64)])
                _append(rows, found, lease.streams[found.owners])
                self._received[str(writer)] = [first + n, taken + n, lost]

            self._ingest(take, n)
            told = np.flatnonzero(~np.isnan(found.td_error))
            if told.size:
                self._buffer.update_priorities(self._added - n + told, found.td_error[told])
            self._metrics.inserted(time.perf_counter() - begin)
            return "taken", first + n

    def _checked(self, lease: Lease, after: int, first: int, ends: list[int], packet: Packet) -> Transitions:
        """The transitions of a packet, where all of it makes sense."""
        streams = len(lease.streams)
        if type(first) is not int or type(after) is not int or not 0 <= after <= first:
            raise ValueError(f"insert: expected 0 <= after <= first, given {after!r} and {first!r}")
        if not isinstance(ends, list) or any(type(one) is not int or not 0 <= one < streams for one in ends):
            raise ValueError(f"insert: ends: expected streams 0 to {streams - 1}, given {ends!r:.99}")
        found = self._wire.unpack(packet, streams)
        if np.isinf(found.td_error).any():
            raise ValueError("insert: td_error: expected finite numbers, given an infinity")
        self._buffer.sampler.priorities(found.td_error[~np.isnan(found.td_error)])  # raises where they are too large
        return found

    def _ingest(self, take: Any, n: int) -> None:
        if self._buffer._ingest(take) != n:
            raise RuntimeError("the buffer did not take what was checked")
        self._progress.total += n  # before anybody is told that it is here

    @ray.method(concurrency_group="write")
    def leave(self, writer: int) -> None:
        """Closes a writer's streams, and gives them back."""
        with self._table:
            self._close_streams(writer)
            with self._buffer._lock:
                self._received.pop(str(writer), None)

    def _close_streams(self, writer: int) -> None:
        lease = self._leases.pop(writer, None)
        if lease is not None:
            with self._buffer._lock:
                self._rows.end(lease.streams)
            self._free.extend(lease.streams.tolist())

    def _bury_the_silent(self) -> None:
        deadline = time.monotonic() - self._config.options.writer_timeout
        with self._table:
            for writer in [writer for writer, lease in self._leases.items() if lease.heard < deadline]:
                log.warning("shard %d: writer %d is silent: its streams are closed", self.number, writer)
                self._close_streams(writer)
                self._counts["writers_died"] += 1
                self._dead.append(writer)
            with self._buffer._lock:
                while len(self._dead) > REMEMBERED:
                    gone = self._dead.popleft()
                    if gone not in self._leases:
                        self._received.pop(str(gone), None)

    # ---- readers ----

    @ray.method(concurrency_group="read")
    def share(self) -> Share:
        """What this shard contributes to the whole now."""
        with self._buffer._lock:
            return self._buffer.sampler.share()  # type: ignore[attr-defined,no-any-return]

    @ray.method(concurrency_group="read")
    def draw(self, n: int) -> tuple[Share, Batch | None]:
        """Draws from this shard alone: the batch, its indices those of the cluster; None where nothing can be drawn.

        And the shard's share after the draw.
        """
        batch, begin = None, time.perf_counter()
        if self.share().mass > 0:
            batch = self._buffer.sample(n)
            batch.draw(batch.indices | self._base, batch.probabilities, batch.weights)
            self._counts["sampled"] += n
            self._metrics.drawn(time.perf_counter() - begin)
        return self.share(), batch

    @ray.method(concurrency_group="read")
    def draw_each(self, counts: list[int]) -> list[tuple[Share, Batch | None]]:
        """`draw` for several batches in one call, to be made with num_returns=len(counts): each is an answer alone."""
        return [self.draw(n) for n in counts]

    @ray.method(concurrency_group="read")
    def update(self, indices: NDArray[np.int64], td_error: NDArray[np.float64]) -> tuple[int, int]:
        """Sets the priorities of ids of the cluster that this shard gave out: how many were set, and how many stale."""
        _, epochs, own = ids.split(indices)
        known = epochs <= self.epoch
        known[known] &= own[known] < self._limits[epochs[known]]  # the others left with one that died
        report = self._buffer.update_priorities(own[known], td_error[known])
        stale = report.stale + len(own) - int(known.sum())
        self._counts["updated"] += report.updated
        self._counts["stale"] += stale
        return report.updated, stale

    # ---- leaving ----

    @ray.method(concurrency_group="write")
    def drain(self) -> int:
        """From now on takes nothing in; gives how many transitions there are to move."""
        with self._table:
            self._draining = True
            for writer in list(self._leases):
                self._close_streams(writer)
        return len(self._buffer)

    @ray.method(concurrency_group="read", num_returns=2)
    def unload(self, after: tuple[int, int], most: int) -> tuple[Load, Unloaded]:
        """Up to so many of its transitions, segment by segment, from where `Unloaded.last` was on.

        Stacks of frames whose older frames have left cannot be handed over, and are counted as lost.
        """
        load, told, unmovable = unloaded(self._buffer, self._wire, after, most)
        self._unmovable += unmovable
        return load, told

    @ray.method(concurrency_group="write")
    def take_in(self, load: Load) -> int:
        """Adds what another shard has unloaded, with its priorities; gives how many transitions these were."""
        stream = np.array([self._config.options.streams], np.int64)
        taken = 0
        for goes_on, packet in load:
            found = self._wire.unpack(packet, 1)

            def take(rows: Rows, found: Transitions = found, goes_on: bool = goes_on) -> None:
                if not goes_on:
                    rows.end(stream)
                _append(rows, found, np.repeat(stream, len(found.owners)))

            with self._table:
                self._ingest(take, packet.n)
                if not np.isnan(found.td_error).all():
                    with self._buffer._lock:
                        moved = np.arange(self._added - packet.n, self._added)
                        self._buffer.sampler.update(moved, np.ascontiguousarray(found.td_error))
                self._counts["moved_in"] += packet.n
            taken += packet.n
        return taken

    # ---- looking after itself ----

    @property
    def _rows(self) -> Rows:
        rows = self._buffer._rows
        assert rows is not None, "a shard's buffer has a schema"
        return rows

    @property
    def _added(self) -> int:
        return self._rows.added

    @ray.method(concurrency_group="look")
    def stats(self) -> dict[str, Any]:
        """What `ReplayCluster.stats` tells of a shard, but for what only the coordinator knows."""
        share, counts = self.share(), self._counts
        with self._table:  # so that no packet comes in between
            held, taken = self._buffer.stats(), self._progress.total
            writers, streams = len(self._leases), self._config.options.streams - len(self._free)
        return {
            "shard": self.number,
            "state": "draining" if self._draining else "open",
            "pid": os.getpid(),
            "node": self._node,
            "epoch": self.epoch,
            "size": held["size"],
            "capacity": held["capacity"],
            "mass": share.mass,
            "taken": taken,
            "inserted": taken - counts["moved_in"],
            "overwritten": held["overwritten"],
            "lost": taken - held["added"] + self._unmovable,
            "writers": writers,
            "streams": streams,
            "nbytes": held["nbytes"],
            "saved": self._saved,
            "save_seconds": self._save_seconds,
            "save_age": None if self._saved_at is None else time.monotonic() - self._saved_at,
            "save_failed": self._save_failed,
            **counts,
        }

    @ray.method(concurrency_group="look")
    def save(self) -> int:
        """Saves what changed since the last time; gives how many transitions it had ever added by then."""
        self._save()
        return self._saved

    def _save(self) -> None:
        assert self._folder is not None
        assert self._config.checkpoint is not None
        begin, added = time.monotonic(), self._added
        self._buffer.save(self._folder, compression=self._config.checkpoint.compression)
        self._saved, self._saved_at = added, time.monotonic()
        self._save_seconds = self._saved_at - begin

    def _save_for_ever(self) -> None:
        assert self._config.checkpoint is not None
        while not self._closed.wait(self._config.checkpoint.every):
            try:
                self._save()
                self._save_failed = ""
            except Exception as error:
                self._save_failed = f"{type(error).__name__}: {error}"
                log.exception("shard %d: not saved", self.number)

    def _beat_for_ever(self) -> None:
        told = None
        while not self._closed.wait(BEAT):
            with suppress(Exception):
                self._bury_the_silent()
                if told is None or ready(told):  # a coordinator that is away is not told all of it later
                    told = self._coordinator.beat.remote(self.number, self.stats())

    @ray.method(concurrency_group="look")
    def close(self, remove: bool = False) -> None:
        """Ends its threads; `remove` takes its checkpoint away."""
        self._closed.set()
        if remove and self._folder is not None:
            with self._buffer._saving:  # a save that is under way
                shutil.rmtree(self._folder, ignore_errors=True)
            self._progress.remove()


ShardActor = ray.remote(concurrency_groups={"write": 1, "read": 1, "look": 1})(Shard)


def _append(rows: Rows, found: Transitions, owners: NDArray[np.int64]) -> None:
    n = len(owners)
    if rows.append(found.arrays, n, owners) < 0:  # what came over the wire may lie anywhere
        taken = rows.append(tuple(np.array(array) for array in found.arrays), n, owners)
        assert taken >= 0, "arrays of the schema's dtypes and shapes are what the kernel takes"
