"""Batches drawn over all shards that answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaybank.batch import Batch
from replaybank.ray.assembly import assembled
from replaybank.ray.calls import answers
from replaybank.ray.joint import allot, places, whole
from replaybank.ray.leave import Leave
from replaybank.ray.living import Living
from replaybank.samplers.share import Divisible, Share


@dataclass
class Request:
    """A batch on its way: the shares that its draws are allotted by, and the calls that make them, by shard.

    `leave`: where a rate is held.
    """

    n: int
    leave: Leave | None = None
    shares: dict[int, Share] = field(default_factory=dict)
    draws: list[tuple[int, Any]] = field(default_factory=list)


class Draws:
    """Allots requests to shards, and makes batches of their answers: ray/joint.py says with which probabilities."""

    def __init__(self, living: Living, sampler: Divisible, rng: np.random.Generator) -> None:
        self.batches = self.sampled = 0
        self.living = living
        self._sampler, self._rng = sampler, rng
        self._calls = 0

    def request(self, n: int, deadline: float) -> Request:
        """One of n, which waits for its leave, if need be, until so long (monotonic)."""
        directory = self.living.directory
        return Request(n, None if directory.config.limit is None else Leave(directory, n, deadline))

    def send(self, requests: Sequence[Request], actors: dict[int, Any]) -> None:
        """Asks these shards for requests, each allotted by what is known of them; of each shard in one call for all.

        A request is allotted and drawn as if it were the only one: so each batch has the law that it has when it is
        asked for alone, whatever the sampler, and none tells anything of another. What is saved is calls.

        Raises TimeoutError where nothing is known of any, ValueError where nothing can be drawn; nothing is sent then.
        """
        known = self.living.shares(actors)
        if not known:
            raise self.living.nobody()
        for request in requests:
            request.shares = dict(known)
        self._ask([(request, request.n) for request in requests], actors)

    def _ask(self, wanted: Sequence[tuple[Request, int]], actors: dict[int, Any]) -> None:
        of_shard: dict[int, list[tuple[Request, int]]] = {}
        for request, n in wanted:
            counts = allot(self._sampler, list(request.shares.values()), n, self._rng).tolist()
            for number, count in zip(request.shares, counts, strict=True):
                if count:
                    of_shard.setdefault(number, []).append((request, count))
        for number, draws in of_shard.items():
            for (request, _), ref in zip(draws, _calls(actors[number], [n for _, n in draws]), strict=True):
                request.draws.append((number, ref))

    def collect(self, request: Request, deadline: float) -> Batch:
        """Waits for a request's draws; those of a shard that fails are made from the others."""
        pieces: dict[int, list[Batch]] = {}
        while True:
            self._take(request, pieces, deadline)
            missing = request.n - sum(len(batch) for batches in pieces.values() for batch in batches)
            if not missing:
                return self._whole(request, pieces)
            request.draws = []
            if self._sampler.distinct:  # another draw would not know of the first
                pieces, missing = {}, request.n
            if time.monotonic() >= deadline:
                raise TimeoutError(f"sample: {missing} of {request.n} transitions did not come in time")
            actors = self.living.actors(deadline)
            request.shares = {number: share for number, share in request.shares.items() if number in actors}
            if not any(share.mass > 0 for share in request.shares.values()):
                actors = self.living.refreshed(deadline)
                pieces, missing = {}, request.n
                request.shares = self.living.shares(actors)
            self._ask([(request, missing)], actors)

    def _take(self, request: Request, pieces: dict[int, list[Batch]], deadline: float) -> None:
        """What the shards have drawn; leaves those out of the request that failed, or have nothing any more."""
        numbers = [number for number, _ in request.draws]
        refs = dict(enumerate(ref for _, ref in request.draws))
        away = {place: ref for place, ref in refs.items() if numbers[place] in self.living.away}
        found, failed = answers(
            {place: ref for place, ref in refs.items() if place not in away}, self.living.patience(deadline)
        )
        late, lost = answers(away, 0.0)  # another request has waited for these shards
        found |= late
        for place in lost:
            request.shares.pop(numbers[place], None)
        for place, (share, batch) in found.items():
            number = numbers[place]
            if number in request.shares:
                self.living.heard(number, share)
                if batch is None:  # it came back with nothing, or all of it has become 0
                    request.shares.pop(number)
                else:
                    pieces.setdefault(number, []).append(batch)
        for place, why in failed.items():
            number = numbers[place]
            if number in request.shares:
                request.shares.pop(number)
                self.living.lose(number, why)
        for number in [number for number in pieces if number not in request.shares]:
            del pieces[number]

    def _whole(self, request: Request, pieces: dict[int, list[Batch]]) -> Batch:
        drawn = [(number, part) for number, parts in sorted(pieces.items()) for part in parts]
        shares, parts = request.shares, [part for _, part in drawn]
        total = whole(list(shares.values()))
        counts = np.array([len(part) for part in parts], np.int64)
        where = places(self._sampler, counts, self._rng)
        batch = assembled(parts, where)
        indices, chance = np.empty(request.n, np.int64), np.empty(request.n)
        for (number, part), place in zip(drawn, where, strict=True):
            indices[place] = part.indices
            chance[place] = shares[number].mass / total.mass * part.probabilities
        batch.draw(indices, chance, self._sampler.weigh(chance, total, self._calls))
        self._calls += 1
        self.batches += 1
        self.sampled += request.n
        return batch


def _calls(actor: Any, counts: list[int]) -> list[Any]:
    """An answer for each of several draws of a shard, all of one call."""
    if len(counts) == 1:
        return [actor.draw.remote(counts[0])]
    return list(actor.draw_each.options(num_returns=len(counts)).remote(counts))
