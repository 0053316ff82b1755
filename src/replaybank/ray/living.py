"""Which shards of a cluster answer a reader, and what each of them holds."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from replaybank.ray.calls import GONE, answers, ready, reason
from replaybank.ray.directory import Directory
from replaybank.samplers.share import Share

FRESH = 0.2  # seconds for which `known` uses what a shard said of itself
AGAIN = 0.5  # seconds between two looks whether a shard that was away is back


@dataclass
class Away:
    """A shard that failed: why, since when (monotonic), and the question to which an answer means that it is back."""

    why: str
    since: float
    probe: Any


class Living:
    """The open shards that answer, by number, and their shares as they said last.

    A shard that fails or does not answer within `shard_timeout` is `away`, until it answers again. `failures`: how
    often that was.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.away: dict[int, Away] = {}
        self.failures = 0
        self._shares: dict[int, tuple[Share, float]] = {}  # with when
        self._asked: dict[int, Any] = {}  # shares that are on their way

    def actors(self, deadline: float) -> dict[int, Any]:
        """The actors of shards to draw from; raises TimeoutError where there are none by then."""
        while True:
            members = self.directory.members()
            for number in [number for number in self.away if number not in members]:
                del self.away[number]
            for number, away in list(self.away.items()):
                self._look_after(number, away, members[number][0])
            living = {
                number: actor
                for number, (actor, state) in members.items()
                if state == "open" and number not in self.away
            }
            if living:
                return living
            if time.monotonic() >= deadline:
                raise self.nobody()
            time.sleep(0.02)

    def nobody(self) -> TimeoutError:
        """Nothing can be drawn, and why."""
        whys = "; ".join(f"shard {number}: {away.why}" for number, away in sorted(self.away.items()))
        return TimeoutError(f"sample: no shard of {self.directory.config.name!r} answers: {whys or 'there are none'}")

    def _look_after(self, number: int, away: Away, actor: Any) -> None:
        """A shard that was away is back as soon as it answers."""
        if away.probe is None:
            if time.monotonic() - away.since >= AGAIN:
                away.probe = actor.share.remote()
        elif ready(away.probe):
            try:
                self.heard(number, ray.get(away.probe, timeout=0))
                del self.away[number]
            except GONE as error:
                away.why, away.since, away.probe = reason(error), time.monotonic(), None

    def lose(self, number: int, why: str) -> None:
        """A shard has failed."""
        with suppress(TimeoutError):  # it may have been removed
            self.directory.look(self.directory.config.options.shard_timeout)
        self.failures += 1
        self.away[number] = Away(why, time.monotonic(), None)
        self._shares.pop(number, None)
        self._asked.pop(number, None)

    def patience(self, deadline: float) -> float:
        """Seconds to wait for a shard."""
        return max(0.0, min(self.directory.config.options.shard_timeout, deadline - time.monotonic()))

    # ---- shares ----

    def shares(self, actors: dict[int, Any]) -> dict[int, Share]:
        """Those of these shards of which one is known."""
        return {number: self._shares[number][0] for number in actors if number in self._shares}

    def heard(self, number: int, share: tuple[int, float, float]) -> None:
        """A shard has just said what it holds."""
        self._shares[number] = Share(*share), time.monotonic()

    def refreshed(self, deadline: float) -> dict[int, Any]:
        """`actors` that have just said what they hold.

        Raises TimeoutError where there are none by then, or none that holds anything, while others do not answer.
        """
        while True:
            actors = self.actors(deadline)
            self._asked.clear()
            self._take({number: actor.share.remote() for number, actor in actors.items()}, deadline)
            living = {number: actor for number, actor in actors.items() if number not in self.away}
            held = self.shares(living).values()
            if living and (not self.away or any(share.mass > 0 for share in held)):
                return living
            if time.monotonic() >= deadline:
                raise self.nobody()
            time.sleep(0.02)

    def known(self, deadline: float) -> dict[int, Any]:
        """`actors` of whose shares all are known, and few of them are old; waits only for those that never said it."""
        actors = self.actors(deadline)
        for number in [number for number in self._asked if number not in actors or ready(self._asked[number])]:
            ref = self._asked.pop(number)
            if number in actors:
                self._take({number: ref}, deadline)
        unknown = {}
        now = time.monotonic()
        for number, actor in actors.items():
            if number in self.away or number in self._asked:
                continue
            if number not in self._shares:
                unknown[number] = actor.share.remote()
            elif now - self._shares[number][1] > FRESH:
                self._asked[number] = actor.share.remote()
        if unknown:
            self._take(unknown, deadline)
        living = {number: actor for number, actor in actors.items() if number not in self.away}
        if self.away and not any(share.mass > 0 for share in self.shares(living).values()):
            return self.refreshed(deadline)
        return living

    def _take(self, refs: dict[int, Any], deadline: float) -> None:
        found, failed = answers(refs, self.patience(deadline))
        for number, share in found.items():
            self.heard(number, share)
        for number, why in failed.items():
            self.lose(number, why)
