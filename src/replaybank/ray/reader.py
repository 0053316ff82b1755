"""Draws from all shards of a cluster as from one buffer."""

from __future__ import annotations

import copy
import itertools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import ArrayLike

from replaybank.arguments import ids_of, whole_number
from replaybank.batch import Batch
from replaybank.buffer import MOST_DRAWN
from replaybank.convert import as_numeric
from replaybank.prefetch import mover_for
from replaybank.ray import ids as global_ids
from replaybank.ray.assembly import assembled
from replaybank.ray.calls import GONE, answers, ready, reason
from replaybank.ray.config import USUAL_INSERT
from replaybank.ray.directory import Directory
from replaybank.ray.joint import allot, divisible, places, whole
from replaybank.ray.metrics import ReaderMetrics
from replaybank.rows import MAX_CAPACITY
from replaybank.samplers.share import Share

MOST_AHEAD = 1000  # batches that `batches` may have on their way
UNTOLD = 64  # calls of update_priorities whose answers nobody has looked at yet
FRESH = 0.2  # seconds for which what a shard said of itself is used by `batches`
AGAIN = 0.5  # seconds between two looks whether a shard that was away is back

_readers = itertools.count()  # of this process


class PriorityReport(NamedTuple):
    """What `update_priorities` did: how many were set; were overwritten, or lost with a shard; were for a shard that
    does not answer.
    """

    updated: int
    stale: int
    unsent: int


@dataclass
class Away:
    """A shard that failed: why, since when (monotonic), and the question to which an answer means that it is back."""

    why: str
    since: float
    probe: Any


@dataclass
class Request:
    """A batch on its way: the shares that its draws were allotted by, how many each shard was asked for, and the calls.

    `leave`: the coordinator's answer, where a rate is held.
    """

    n: int
    leave: Any = None
    shares: dict[int, Share] = field(default_factory=dict)
    draws: list[tuple[int, Any]] = field(default_factory=list)
    asked: float = 0.0


class Reader:
    """Draws from all shards as one buffer that held everything would.

    `sample` asks the shards how much they hold, and then for transitions: P(i) is that of one buffer, exactly, and so
    are `probabilities` and `weights` (ray/joint.py says how, and what holds where others write meanwhile). `batches`
    does the same with what shards said with their last batches. `indices` of batches are ids of the cluster.

    A shard that fails or does not answer within `shard_timeout` is away: the others are drawn from, with probabilities
    over what they hold, until it answers again.

    `sampler`: what weights are computed with, as `buffer.sampler`: its `beta` may be set. `alpha` and what else the
    shards draw by is theirs. It does nothing before it is used; several threads may use one, one call after another.
    """

    def __init__(self, directory: Directory, seed: Any = None) -> None:
        self._directory = directory
        self._config = directory.config
        self.sampler = copy.deepcopy(divisible(self._config.sampler))
        self._checked = 0  # a batch of so many, or fewer, the rate limit allows
        self._rng = np.random.default_rng(seed)
        self._calls = 0
        self._shares: dict[int, tuple[Share, float]] = {}  # with when
        self._asked: dict[int, Any] = {}  # shares that are on their way
        self._away: dict[int, Away] = {}
        self._untold: deque[tuple[int, int, Any]] = deque()
        self._counts = dict.fromkeys(("batches", "sampled", "updated", "stale", "unsent", "failures"), 0)
        self._metrics = ReaderMetrics(self._config.name, str(next(_readers)))
        self._lock = Lock()

    # ---- drawing ----

    def sample(self, n: int, timeout: float | None = None) -> Batch:
        """`n` transitions of all shards.

        Raises ValueError where n < 1 or nothing can be drawn (all are empty, every priority is 0), TimeoutError where a
        rate is held and nothing more may be sampled within `timeout` seconds (None: the cluster's), or no shard
        answers.
        """
        n = self._size("sample: n", n)
        begin = time.monotonic()
        with self._lock:
            deadline = time.monotonic() + self._seconds(timeout)
            request = Request(n, self._ask_leave(n, deadline))
            actors = self._living(deadline)
            self._refresh(actors, deadline)
            self._await_leave(request, deadline)
            self._send(request, actors)
            batch = self._collect(request, deadline)
            self._measure(begin)
            return batch

    def batches(self, n: int, prefetch: int = 2, device: Any = None, timeout: float | None = None) -> Batches:
        """`sample(n)` for ever, with `prefetch` batches on their way while you work with this one.

        A batch is allotted to the shards by what they said last, a fifth of a second ago at most: its probabilities
        are those with which it was drawn. `device`: as in `ReplayBuffer.batches`. `timeout`: of each batch.

        Raises TypeError or ValueError where n or prefetch is no such number; `next` raises as `sample` does.
        """
        n = self._size("batches: n", n)
        ahead = whole_number("batches: prefetch", prefetch, MOST_AHEAD, least=0)
        return Batches(self, n, ahead, device, timeout)

    def _measure(self, begin: float) -> None:
        """A batch is there for which the caller has waited since `begin` (monotonic)."""
        self._metrics.sampled(time.monotonic() - begin)
        self._metrics.report(self._counts)

    def _size(self, name: str, n: Any) -> int:
        size = whole_number(name, n, MOST_DRAWN)
        if self._config.limit is not None and size > self._checked:
            self._config.limit.check(MAX_CAPACITY, USUAL_INSERT, size)
            self._checked = size
        return size

    def _seconds(self, timeout: float | None) -> float:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout: expected seconds >= 0, or None, given {timeout!r}")
        return self._config.options.timeout if timeout is None else timeout

    def _ask_leave(self, n: int, deadline: float) -> Any:
        if self._config.limit is None:
            return None
        return self._directory.coordinator.grant.remote("sample", n, n, max(deadline - time.monotonic(), 0.0))

    def _await_leave(self, request: Request, deadline: float) -> None:
        """Waits until a request may be sampled; raises TimeoutError, with the reason, where that takes too long."""
        while request.leave is not None:
            left = deadline - time.monotonic()
            try:
                why = ray.get(request.leave, timeout=max(left, 0.0) + 1.0)  # the coordinator is the one to end it
            except GONE as error:
                why = f"the coordinator of {self._config.name!r}: {reason(error)}"
            if isinstance(why, int):
                return
            if deadline - time.monotonic() < 0.1:
                raise TimeoutError(f"sample: {request.n} transitions could not be sampled in time: {why}")
            time.sleep(0.05)
            request.leave = self._ask_leave(request.n, deadline)

    def _living(self, deadline: float) -> dict[int, Any]:
        """The actors of shards to draw from; raises TimeoutError where there are none by then."""
        while True:
            members = self._directory.members()
            for number in [number for number in self._away if number not in members]:
                del self._away[number]
            for number, away in list(self._away.items()):
                self._look_after(number, away, members[number][0])
            living = {
                number: actor
                for number, (actor, state) in members.items()
                if state == "open" and number not in self._away
            }
            if living:
                return living
            if time.monotonic() >= deadline:
                whys = "; ".join(f"shard {number}: {away.why}" for number, away in sorted(self._away.items()))
                raise TimeoutError(f"sample: no shard of {self._config.name!r} answers: {whys or 'there are none'}")
            time.sleep(0.02)

    def _look_after(self, number: int, away: Away, actor: Any) -> None:
        """A shard that was away is back as soon as it answers."""
        if away.probe is None:
            if time.monotonic() - away.since >= AGAIN:
                away.probe = actor.share.remote()
        elif ready(away.probe):
            try:
                self._shares[number] = Share(*ray.get(away.probe, timeout=0)), time.monotonic()
                del self._away[number]
            except GONE as error:
                away.why, away.since, away.probe = reason(error), time.monotonic(), None

    def _lose(self, number: int, why: str) -> None:
        with suppress(TimeoutError):  # it may have been removed
            self._directory.look(self._config.options.shard_timeout)
        self._counts["failures"] += 1
        self._away[number] = Away(why, time.monotonic(), None)
        self._shares.pop(number, None)
        self._asked.pop(number, None)

    def _refresh(self, actors: dict[int, Any], deadline: float) -> None:
        """Asks all shards what they hold now."""
        self._asked.clear()
        refs = {number: actor.share.remote() for number, actor in actors.items()}
        self._take_shares(refs, deadline)

    def _take_shares(self, refs: dict[int, Any], deadline: float) -> None:
        found, failed = answers(refs, self._patience(deadline))
        for number, share in found.items():
            self._shares[number] = Share(*share), time.monotonic()
        for number, why in failed.items():
            self._lose(number, why)

    def _patience(self, deadline: float) -> float:
        return max(0.0, min(self._config.options.shard_timeout, deadline - time.monotonic()))

    def _renew(self, actors: dict[int, Any], deadline: float) -> None:
        """Sees to it that something is known of each shard, and little of it is old."""
        for number in [number for number in self._asked if number not in actors or ready(self._asked[number])]:
            ref = self._asked.pop(number)
            if number in actors:
                self._take_shares({number: ref}, deadline)
        unknown = {}
        now = time.monotonic()
        for number, actor in actors.items():
            if number in self._away or number in self._asked:
                continue
            if number not in self._shares:
                unknown[number] = actor.share.remote()
            elif now - self._shares[number][1] > FRESH:
                self._asked[number] = actor.share.remote()
        if unknown:
            self._take_shares(unknown, deadline)

    def _send(self, request: Request, actors: dict[int, Any]) -> None:
        """Allots a request's draws to shards by what is known of them, and asks for them."""
        known = {number: self._shares[number][0] for number in actors if number in self._shares}
        if not known:
            raise TimeoutError(f"sample: no shard of {self._config.name!r} answers")
        request.shares, request.asked = known, time.monotonic()
        self._ask_for(request, request.n, actors)

    def _ask_for(self, request: Request, n: int, actors: dict[int, Any]) -> None:
        counts = allot(self.sampler, list(request.shares.values()), n, self._rng)
        for number, count in zip(request.shares, counts.tolist(), strict=True):
            if count:
                request.draws.append((number, actors[number].draw.remote(count)))

    def _collect(self, request: Request, deadline: float) -> Batch:
        """Waits for a request's draws; those of a shard that fails are made from the others."""
        pieces: dict[int, list[Batch]] = {}
        while True:
            refs = dict(enumerate(ref for _, ref in request.draws))
            numbers = [number for number, _ in request.draws]
            found, failed = answers(refs, self._patience(deadline))
            for place, (share, batch) in found.items():
                number = numbers[place]
                if number in request.shares:
                    self._shares[number] = Share(*share), time.monotonic()
                    if batch is None:  # it came back with nothing, or all of it has become 0
                        request.shares.pop(number)
                    else:
                        pieces.setdefault(number, []).append(batch)
            for place, why in failed.items():
                number = numbers[place]
                if number in request.shares:
                    request.shares.pop(number)
                    self._lose(number, why)
            pieces = {number: batches for number, batches in pieces.items() if number in request.shares}
            missing = request.n - sum(len(batch) for batches in pieces.values() for batch in batches)
            if not missing:
                return self._whole(request, pieces)
            request.draws = []
            if self.sampler.distinct:  # another draw would not know of the first
                pieces, missing = {}, request.n
            if time.monotonic() >= deadline:
                raise TimeoutError(f"sample: {missing} of {request.n} transitions did not come in time")
            actors = self._living(deadline)
            request.shares = {number: share for number, share in request.shares.items() if number in actors}
            if not any(share.mass > 0 for share in request.shares.values()):
                self._refresh(actors, deadline)
                pieces = {}
                actors = self._living(deadline)
                request.shares = {number: self._shares[number][0] for number in actors if number in self._shares}
                missing = request.n
            self._ask_for(request, missing, actors)

    def _whole(self, request: Request, pieces: dict[int, list[Batch]]) -> Batch:
        drawn = [(number, batch) for number, batches in sorted(pieces.items()) for batch in batches]
        shares = list(request.shares.values())
        total = whole(shares)
        parts = [batch for _, batch in drawn]
        counts = np.array([len(batch) for batch in parts], np.int64)
        within = [batch.probabilities for batch in parts]
        probabilities = np.concatenate(
            [request.shares[number].mass / total.mass * own for (number, _), own in zip(drawn, within, strict=True)]
        )
        where = places(self.sampler, counts, self._rng)
        batch = assembled(parts, where)
        indices, chance = np.empty(request.n, np.int64), np.empty(request.n)
        begin = 0
        for part, place in zip(parts, where, strict=True):
            indices[place] = part.indices
            chance[place] = probabilities[begin : begin + len(part)]
            begin += len(part)
        weights = self.sampler.weigh(chance, total, self._calls)
        self._calls += 1
        batch.draw(indices, chance, weights)
        self._counts["batches"] += 1
        self._counts["sampled"] += request.n
        return batch

    # ---- priorities ----

    def update_priorities(
        self, indices: ArrayLike, td_error: ArrayLike, wait: bool = True, timeout: float | None = None
    ) -> PriorityReport | None:
        """Sets the priorities of `indices` (of the cluster, [n]) to |td_error| ([n]) + epsilon, each in its shard.

        Those that have been overwritten, or were lost with a shard that died, are skipped and counted as stale; those
        of a shard that does not answer are counted as unsent. With `wait=False` gives None at once: `stats` has the
        counts later.

        Raises ValueError or TypeError, and changes nothing, where ids cannot be of this cluster, lengths differ, or a
        TD error is not finite.
        """
        ids = ids_of(indices)
        errors = as_numeric("td_error", td_error)
        if errors.dtype.kind == "c":
            raise TypeError(f"td_error: expected real numbers, given {errors.dtype}")
        if errors.shape != ids.shape:
            raise ValueError(f"td_error: expected one an index, shape {ids.shape}, given {errors.shape}")
        errors = errors.astype(np.float64)
        self.sampler.priorities(errors)  # raises where one is not finite, or too large
        shards = global_ids.split(ids).shards
        with self._lock:
            deadline = time.monotonic() + self._seconds(timeout)
            members = self._directory.members()
            sent: list[tuple[int, int, Any]] = []
            unsent = gone = 0
            for number in np.unique(shards).tolist():
                mine = shards == number
                if number not in members:
                    gone += int(mine.sum())  # it was removed: its transitions have other ids now
                elif number in self._away:
                    unsent += int(mine.sum())
                else:
                    call = members[number][0].update.remote(ids[mine], errors[mine])
                    sent.append((number, int(mine.sum()), call))
            self._counts["unsent"] += unsent
            self._counts["stale"] += gone
            if not wait:
                self._untold.extend(sent)
                self._hear(UNTOLD, deadline)
                return None
            told = self._heard(sent, deadline)
            return PriorityReport(told.updated, told.stale + gone, told.unsent + unsent)

    def _hear(self, most: int, deadline: float) -> None:
        """Looks at the answers of updates, until at most so many are still due."""
        while self._untold and (len(self._untold) > most or ready(self._untold[0][2])):
            self._heard([self._untold.popleft()], deadline)

    def _heard(self, sent: list[tuple[int, int, Any]], deadline: float) -> PriorityReport:
        found, failed = answers({i: ref for i, (_, _, ref) in enumerate(sent)}, self._patience(deadline))
        updated, stale = (sum(told[i] for told in found.values()) for i in (0, 1))
        unsent = 0
        for i, why in failed.items():
            number, n, _ = sent[i]
            if number not in self._away:
                self._lose(number, why)
            if number in self._directory.members():
                unsent += n
            else:
                stale += n
        for name, n in (("updated", updated), ("stale", stale), ("unsent", unsent)):
            self._counts[name] += n
        return PriorityReport(updated, stale, unsent)

    # ---- the rest ----

    def size(self, timeout: float | None = None) -> int:
        """How many transitions all shards that answer hold now."""
        with self._lock:
            deadline = time.monotonic() + self._seconds(timeout)
            actors = self._living(deadline)
            self._refresh(actors, deadline)
            return sum(self._shares[number][0].size for number in actors if number in self._shares)

    def stats(self) -> dict[str, Any]:
        """Counts of this reader: batches, sampled, updated, stale, unsent; failures (of a shard), away (numbers, why).

        Of updates with `wait=False` those are counted whose answers have come.
        """
        with self._lock:
            self._hear(len(self._untold), 0.0)
            away = {number: away.why for number, away in sorted(self._away.items())}
            return {**self._counts, "untold": len(self._untold), "away": away}

    def close(self) -> None:
        """Waits for the answers of updates that are due."""
        with self._lock:
            self._hear(0, time.monotonic() + self._config.options.timeout)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Reader cannot be pickled: hand over the ReplayCluster, and call its reader() there")


class Batches(Iterator[Batch]):
    """Batches of a cluster, for ever: what `Reader.batches` gives. Ends with `close()`, or as a context manager."""

    def __init__(self, reader: Reader, n: int, prefetch: int, device: Any, timeout: float | None) -> None:
        self._reader, self._n, self._prefetch, self._timeout = reader, n, prefetch, timeout
        self._mover = mover_for(device, pin=True)
        self._due: deque[Request] = deque()  # in the order in which they are handed out
        self._closed = False
        reader._seconds(timeout)

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        reader, begin = self._reader, time.monotonic()
        with reader._lock:
            deadline = time.monotonic() + reader._seconds(self._timeout)
            self._ask(self._prefetch + 1, deadline)
            request = self._due[0]
            if not request.draws:
                reader._await_leave(request, deadline)
                self._send(request, deadline)
            batch = reader._collect(request, deadline)
            self._due.popleft()
            self._ask(self._prefetch, deadline)
            reader._measure(begin)
        return self._mover.hand_out(self._mover.move(batch))

    def _ask(self, n: int, deadline: float) -> None:
        """Sees to it that n batches are on their way."""
        reader = self._reader
        while len(self._due) < n:
            leave = reader._ask_leave(self._n, time.monotonic() + reader._seconds(self._timeout))
            self._due.append(Request(self._n, leave))
        for request in self._due:
            if request.draws:
                continue
            if request.leave is not None and not (ready(request.leave) and self._granted(request)):
                return
            try:
                self._send(request, deadline)
            except (ValueError, TimeoutError):
                if request is self._due[0]:
                    raise
                return  # it is asked for again when it is due

    def _granted(self, request: Request) -> bool:
        try:
            return isinstance(ray.get(request.leave, timeout=0), int)
        except GONE:
            return False  # `_await_leave` asks again

    def _send(self, request: Request, deadline: float) -> None:
        reader = self._reader
        actors = reader._living(deadline)
        reader._renew(actors, deadline)
        reader._send(request, {number: actor for number, actor in actors.items() if number not in reader._away})

    def close(self) -> None:
        """Ends it; what is on its way is dropped, and given back where a rate is held."""
        if self._closed:
            return
        self._closed = True
        for request in self._due:
            if request.leave is not None and ready(request.leave) and self._granted(request):
                self._reader._directory.coordinator.give_back.remote("sample", request.n)
        self._due.clear()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
