"""Who is in a cluster, how many may be inserted and sampled, and how all of it does: one actor knows."""

from __future__ import annotations

import asyncio
import secrets
import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from replaybank.ray.config import NAMESPACE, Config, shard_name
from replaybank.ray.limiter import Kind, Limiter
from replaybank.ray.metrics import EVERY, ClusterMetrics

AWAY = 4.0  # seconds without a report after which a shard is told of as away
COMING = 5.0  # seconds that a writer may take from being sent to a shard until the shard reports it
SETTLING = 3.0  # seconds that a restarted one listens to who is there, before it says
SUMS = ("size", "capacity", "inserted", "sampled", "updated", "stale", "overwritten", "lost", "writers", "writers_died")
KEPT = ("inserted", "sampled", "updated", "stale", "overwritten", "lost", "writers_died")  # of a shard that was removed


@dataclass
class Member:
    """A shard, as far as it is known. `heard`: when it last reported (monotonic seconds); 0 if never."""

    actor: Any
    state: str = "open"
    heard: float = 0.0
    stats: dict[str, Any] = field(default_factory=dict)
    placed: list[tuple[float, int]] = field(default_factory=list)  # when (monotonic), and how many streams

    def streams(self) -> int:
        """Those it reported, and those that were sent there lately: they may not have come when it last reported."""
        soon = time.monotonic() - COMING
        self.placed = [(when, streams) for when, streams in self.placed if when > soon]
        return int(self.stats.get("streams", 0)) + sum(streams for _, streams in self.placed)


class Coordinator:
    """One async actor a cluster. It holds nothing that cannot be found again: shards report to it once a second.

    No transition passes through it. Writers ask it once where to go, and both sides for leave where a rate is held.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._members: dict[int, Member] = {}
        self._epochs: dict[int, int] = {}
        self._gone: set[int] = set()  # shards that were removed
        self._forgotten: set[int] = set()  # of these, with what they held
        self._unloaded: dict[int, tuple[int, int]] = {}  # how far those that leave have handed over what they hold
        self._version = secrets.randbits(40)  # another than the one of before, should this be a restart
        self._removed: dict[str, int] = dict.fromkeys(KEPT, 0)
        self._metrics = ClusterMetrics(config.name)
        self._reporting: asyncio.Task[None] | None = None
        self._limiter = None if config.limit is None else Limiter(config.limit)
        self._waiting: dict[Kind, deque[tuple[int, asyncio.Future[None]]]] = {"insert": deque(), "sample": deque()}
        self._last: dict[Kind, float] = {"insert": time.monotonic(), "sample": time.monotonic()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own call warns of another of its own
            self._again = ray.get_runtime_context().was_current_actor_reconstructed
        self._settled = time.monotonic() + (SETTLING if self._again else 0.0)
        self._unheard: set[int] = set()  # that were there before this actor was restarted
        if self._again:
            self._find_shards()

    def _find_shards(self) -> None:
        """Who was a shard before this actor was restarted, also those that are being restarted themselves."""
        prefix = shard_name(self._config.name, 0)[:-4]
        for named in ray.util.list_named_actors(all_namespaces=True):
            if named["namespace"] == NAMESPACE and named["name"].startswith(prefix):
                with suppress(ValueError):  # it has left meanwhile
                    actor = ray.get_actor(named["name"], namespace=NAMESPACE)
                    self._members[int(named["name"].removeprefix(prefix))] = Member(actor)
        self._unheard.update(self._members)

    async def config(self) -> Config:
        """What the cluster was made with."""
        return self._config

    # ---- shards ----

    async def begin(self, shard: int) -> tuple[int, int, bool]:
        """For a shard that starts: its epoch, how many transitions it had taken when it was last heard of, and whether
        it is to leave.
        """
        await self._settle()
        member = self._members.get(shard)
        epoch = self._epochs[shard] = self._epochs.get(shard, -1) + 1
        if member is None:
            return epoch, 0, False
        return epoch, member.stats.get("taken", 0), member.state == "draining"

    async def number(self) -> int:
        """The number of a new shard: one that none ever had."""
        await self._settle()
        return max([*self._members, *self._epochs, *self._gone], default=-1) + 1

    async def give_up(self, shard: int) -> None:
        """A shard is to be removed with what it holds."""
        self._forgotten.add(shard)
        await self.set_state(shard, "draining")

    async def forgotten(self) -> set[int]:
        """The shards that are, or were, removed with what they held."""
        return self._forgotten

    async def enroll(self, shard: int, actor: Any, stats: dict[str, Any]) -> None:
        """A new shard is there."""
        if shard not in self._members:
            self._members[shard] = Member(actor, heard=time.monotonic(), stats=stats)
            self._version += 1

    async def beat(self, shard: int, stats: dict[str, Any]) -> None:
        """A shard's report."""
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report_for_ever())
        self._epochs[shard] = max(stats["epoch"], self._epochs.get(shard, -1))
        if shard in self._gone:
            return
        if shard not in self._members:
            return  # it is not enrolled yet
        member = self._members[shard]
        if shard in self._unheard:
            self._unheard.remove(shard)
            member.state = stats["state"]
            self._recount(stats)
        member.stats, member.heard = stats, time.monotonic()

    def _recount(self, stats: dict[str, Any]) -> None:
        """A restarted coordinator learns from each shard what was inserted and sampled there."""
        if self._limiter is not None:
            limiter = self._limiter
            limiter.restore(limiter.inserted + stats["inserted"], limiter.sampled + stats["sampled"])
            self._advance()

    async def set_state(self, shard: int, state: str) -> None:
        """Says that a shard is open, or draining."""
        self._members[shard].state = state
        self._version += 1

    async def unloaded(self, shard: int, last: tuple[int, int] | None = None) -> tuple[int, int]:
        """How far a shard that leaves has handed over what it holds; `last`: it has come that far."""
        if last is not None:
            self._unloaded[shard] = last
        return self._unloaded.get(shard, (-1, 0))

    async def remove(self, shard: int, stats: dict[str, Any]) -> None:
        """A shard has left; what it counted is kept."""
        if self._members.pop(shard, None) is not None:
            self._gone.add(shard)
            self._version += 1
            for name in KEPT:
                self._removed[name] += stats.get(name, 0)

    async def forget(self, shard: int, stats: dict[str, Any] | None) -> int:
        """Removes a shard with what it holds, which is lost; gives how much that was. `stats`: its last, if any."""
        if shard not in self._members:
            return 0
        stats = self._members[shard].stats if stats is None else stats
        lost = int(stats.get("size", 0))
        await self.remove(shard, {**stats, "lost": stats.get("lost", 0) + lost})
        return lost

    async def members(self, known: int = -1) -> tuple[int, dict[int, tuple[Any, str]] | None]:
        """The shards: (version, {number: (actor, state)}), or None where `known` is the version still.

        Actors are dear to send: of 64 both sides have milliseconds of work.
        """
        await self._settle()
        if known == self._version:
            return known, None
        return self._version, {number: (member.actor, member.state) for number, member in self._members.items()}

    async def place(self, streams: int, now: int | None = None) -> int | None:
        """The shard that a writer with so many streams should go to; None where no open one has so many free.

        `now`: where it is. It should stay unless that is full, leaving, or has more than its part of all streams.
        """
        await self._settle()
        used = {number: member.streams() for number, member in self._members.items() if member.state == "open"}
        if now in used and used[now] <= min(used.values()) + streams:
            return now
        alive = {number: n for number, n in used.items() if not self._is_away(self._members[number])} or used
        most = self._config.options.streams - streams
        room = {number: n for number, n in alive.items() if self._members[number].stats.get("streams", 0) <= most}
        if not room:
            return None
        chosen = min(room, key=lambda number: (room[number], number))
        self._members[chosen].placed.append((time.monotonic(), streams))
        return chosen

    async def _settle(self) -> None:
        await asyncio.sleep(max(0.0, self._settled - time.monotonic()))

    @staticmethod
    def _is_away(member: Member) -> bool:
        return member.heard > 0 and time.monotonic() - member.heard > AWAY

    # ---- the rate ----

    async def grant(self, kind: Kind, n: int, most: int, seconds: float) -> int | str:
        """Waits up to so many seconds until n may be inserted or sampled, and counts them; else says why not.

        Where nobody waits, up to `most` are granted at once. Gives how many.
        """
        limiter = self._limiter
        assert limiter is not None
        await self._settle()
        if not self._waiting[kind]:
            may = limiter.may_insert if kind == "insert" else limiter.may_sample
            for granted in (most, n):
                if may(granted):
                    self._count(kind, granted)
                    self._advance()
                    return granted
        leave: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[kind].append((n, leave))
        self._advance()
        try:
            await asyncio.wait_for(asyncio.shield(leave), seconds)
            return n
        except TimeoutError:
            if leave.done():
                return n
            leave.cancel()
            self._waiting[kind] = deque(entry for entry in self._waiting[kind] if entry[1] is not leave)
            return await self.why(kind, n)

    async def why(self, kind: Kind, n: int) -> str:
        """Why n may not be inserted or sampled now, and for how long the other side has done nothing."""
        assert self._limiter is not None
        other: Kind = "sample" if kind == "insert" else "insert"
        quiet = time.monotonic() - self._last[other]
        done = "was sampled" if other == "sample" else "was inserted"
        writers = sum(member.stats.get("writers", 0) for member in self._members.values())
        return f"{self._limiter.why(kind, n)}; {writers} writers, nothing {done} for {quiet:.1f} s"

    async def give_back(self, kind: Kind, n: int) -> None:
        """What was granted was not used."""
        if self._limiter is not None:
            self._limiter.give_back(kind, min(n, self._counted(kind)))
            self._advance()

    def _counted(self, kind: Kind) -> int:
        assert self._limiter is not None
        return self._limiter.inserted if kind == "insert" else self._limiter.sampled

    def _advance(self) -> None:
        """Lets go on who may, in the order in which they asked."""
        limiter = self._limiter
        assert limiter is not None
        moved = True
        while moved:
            moved = False
            kinds: tuple[Kind, Kind] = ("insert", "sample")
            for kind in kinds:
                queue = self._waiting[kind]
                may = limiter.may_insert if kind == "insert" else limiter.may_sample
                while queue and (queue[0][1].done() or may(queue[0][0])):
                    n, leave = queue.popleft()
                    if not leave.done():
                        self._count(kind, n)
                        leave.set_result(None)
                        moved = True

    def _count(self, kind: Kind, n: int) -> None:
        assert self._limiter is not None
        (self._limiter.inserted_ if kind == "insert" else self._limiter.sampled_)(n)
        self._last[kind] = time.monotonic()

    # ---- how it does ----

    async def stats(self) -> dict[str, Any]:
        """What `ReplayCluster.stats` gives."""
        now = time.monotonic()
        shards = []
        for number, member in sorted(self._members.items()):
            told = {"shard": number, **member.stats, "beat_age": now - member.heard if member.heard else 0.0}
            told["state"] = "away" if self._is_away(member) else member.state
            shards.append(told)
        sums = {name: sum(told.get(name, 0) for told in shards) + self._removed.get(name, 0) for name in SUMS}
        return {"name": self._config.name, "shards": shards, **sums, "rate_limit": self._rate()}

    async def _report_for_ever(self) -> None:
        while True:
            await asyncio.to_thread(self._metrics.report, await self.stats())
            await asyncio.sleep(EVERY)

    def _rate(self) -> dict[str, Any] | None:
        limiter = self._limiter
        if limiter is None:
            return None
        return {
            **limiter.settings,
            "measured": limiter.measured,
            "ahead": limiter.ahead,
            "waiting_to_insert": len(self._waiting["insert"]),
            "waiting_to_sample": len(self._waiting["sample"]),
        }


CoordinatorActor = ray.remote(Coordinator)
