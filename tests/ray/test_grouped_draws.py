"""Batches that are asked for in groups are, each by itself and all together, those that are asked for alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from test_joint import SIZES, Bank, Hotelling, Make, distinct, expected, leaning, prioritized, seen, uniform

import replaybank as rb
from distribution import P_MIN, chi_square, power, stratified_chi_square, stratified_power
from replaybank.batch import Batch
from replaybank.ray import ClusterOptions, RateLimit, ReplayCluster, draws, joint
from replaybank.ray.draws import Draws, Request

GROUP, N = 4, 50


class Answer:
    """What a call that is made here and now has for an answer; `draw` and `draw_each` of `Actor` are such calls."""

    def __init__(self, call: Callable[..., Any], given: Any, returns: int = 1) -> None:
        self.call, self.given, self.returns = call, given, returns

    def options(self, num_returns: int) -> Answer:
        return Answer(self.call, self.given, num_returns)

    def remote(self, *args: Any) -> Any:
        answer = self.call(*args)
        assert self.returns == 1 or len(answer) == self.returns
        return answer


class Actor:
    """A shard without Ray."""

    def __init__(self, buffer: rb.ReplayBuffer, base: int) -> None:
        self.buffer, self.base, self.calls = buffer, base, 0
        self.why = ""  # it does not answer
        self.draw, self.draw_each = Answer(self._draw, None), Answer(self._draw_each, None)

    def share(self) -> Any:
        return self.buffer.sampler.share()  # type: ignore[attr-defined]

    def _one(self, n: int) -> Any:
        batch = self.buffer.sample(n)
        batch.draw(batch.indices | self.base, batch.probabilities, batch.weights)
        return self.why or (tuple(self.share()), batch)

    def _draw(self, n: int) -> Any:
        self.calls += 1
        return self._one(n)

    def _draw_each(self, counts: list[int]) -> list[Any]:
        self.calls += 1
        return [self._one(n) for n in counts]


class Present:
    """`Living` without Ray: all are known, until one is lost."""

    def __init__(self, actors: Sequence[Actor]) -> None:
        self.all = dict(enumerate(actors))
        self.lost: set[int] = set()
        self.away: dict[int, Any] = {}

    def actors(self, deadline: float) -> dict[int, Actor]:
        return {number: actor for number, actor in self.all.items() if number not in self.lost}

    def shares(self, actors: dict[int, Actor]) -> dict[int, Any]:
        return {number: actor.share() for number, actor in actors.items()}

    def lose(self, number: int, why: str) -> None:
        self.lost.add(number)

    def heard(self, number: int, share: Any) -> None:
        pass

    def patience(self, deadline: float) -> float:
        return 0.0


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "ray_session" not in request.fixturenames:

        def answers(refs: dict[int, Any], _: float) -> tuple[dict[int, Any], dict[int, Any]]:
            failed = {place: ref for place, ref in refs.items() if isinstance(ref, str)}
            return {place: ref for place, ref in refs.items() if place not in failed}, failed

        monkeypatch.setattr(draws, "answers", answers)


class Groups:
    """Groups of batches over the shards of a bank (300 transitions)."""

    def __init__(self, make: Make, sizes: Sequence[int], seed: int = 0) -> None:
        self.bank = Bank(make, sizes, seed)
        self.actors = [Actor(buffer, number << 51) for number, buffer in enumerate(self.bank.shards)]
        self.living = Present(self.actors)
        rng = np.random.default_rng(seed)
        self.draws = Draws(self.living, joint.divisible(make()), rng)  # type: ignore[arg-type]

    def group(self, n: int = N, group: int = GROUP) -> list[Batch]:
        requests = [Request(n) for _ in range(group)]
        self.draws.send(requests, self.living.actors(0.0))
        return [self.draws.collect(request, float("inf")) for request in requests]

    def drawn(self, number: int, n: int = N, group: int = GROUP) -> np.ndarray:
        """Transitions [number, group, n] in the order of the batches."""
        return np.array([[batch.obs[:, 0] for batch in self.group(n, group)] for _ in range(number)], np.int64)


def cells(drawn: np.ndarray) -> np.ndarray:
    """Where transitions of one full shard of 300 lie in the sum: by slot, and transition 0 has id 151."""
    return (drawn + 151) % 300


P = np.roll(expected(prioritized), 151)


# ---- the law of a batch ----


@pytest.mark.parametrize("place", range(GROUP))
def test_the_draws_of_a_batch_in_a_group_fall_into_one_range_each(place: int) -> None:
    """One shard, 800 groups: draw i of the batch at each place of the group is in the i-th of 50 ranges, and there as
    probable as its share. Seen with probability 0.99: every other transition 10% too often.
    """
    drawn = cells(grouped_once()[:, place])
    assert stratified_chi_square(drawn, P) > P_MIN
    assert stratified_power(len(drawn), N, P, leaning(P, 0.1)) > 0.99


def grouped_once(found: list[np.ndarray] = []) -> np.ndarray:  # noqa: B006
    if not found:
        found.append(Groups(prioritized, [300]).drawn(800))
    return found[0]


def test_every_jth_of_one_large_draw_would_be_found_out() -> None:
    """Batch j of the j-th, (j + g)-th … of g * n consecutive draws: each in its range, but only in a quarter of it."""
    large = Groups(prioritized, [300]).drawn(800, N * GROUP, 1)[:, 0]
    for place in range(GROUP):
        assert stratified_chi_square(cells(large[:, place::GROUP]), P) < P_MIN


def test_consecutive_runs_of_one_large_draw_would_be_found_out() -> None:
    large = Groups(prioritized, [300]).drawn(400, N * GROUP, 1)[:, 0]
    assert stratified_chi_square(cells(large[:, :N]), P) < P_MIN


@pytest.mark.parametrize("make", [uniform, distinct, prioritized])
def test_transitions_come_as_often_in_each_batch_of_a_group(make: Make) -> None:
    """Seven shards, 800 groups of two batches of 250. Seen with probability 0.99: every other transition 7% too often
    (Uniform), 3% (the others).
    """
    drawn = Groups(make, SIZES[7]).drawn(800, 250, 2)
    p = expected(make)
    for place in range(2):
        test = Hotelling(drawn[:, place], 300)
        assert test.p_value(p) > P_MIN
        assert seen(test.power, p) < (0.07 if make is uniform else 0.03)


@pytest.mark.parametrize("make", [uniform, distinct, prioritized])
def test_batches_of_a_group_tell_nothing_of_each_other(make: Make) -> None:
    """Two shards of 5 transitions in all, 8,000 groups of two batches of one draw each: all 25 pairs as independent
    draws would be. Seen with probability 0.99: a pair twice the same 40% too often.
    """
    drawn = Groups(make, [2, 3]).drawn(8000, 1, 2)[:, :, 0]
    p = Bank(make, [2, 3]).one.sampler.probability_of(np.arange(3, 8))
    pairs = np.outer(p, p).ravel()
    same = np.eye(5, dtype=bool).ravel()
    off = np.where(same, pairs * 1.4, pairs * (1 - 0.4 * pairs[same].sum() / pairs[~same].sum()))
    often = 8000 * pairs > 20

    def joined(cells: np.ndarray) -> np.ndarray:
        """What is rare taken together."""
        return cells if often.all() else np.append(cells[often], cells[~often].sum())

    assert chi_square(joined(np.bincount(drawn @ [5, 1], minlength=25)), joined(pairs)) > P_MIN
    assert power(8000, joined(pairs), joined(off)) > 0.99


def test_draws_without_replacement_are_grouped_beyond_what_there_is() -> None:
    for batch in Groups(distinct, [70, 5, 150, 75]).group(200):
        assert len(set(batch.obs[:, 0].tolist())) == 200


# ---- what is said of a batch ----


def test_probabilities_and_weights_are_of_each_batch_alone() -> None:
    groups = Groups(lambda: rb.Prioritized(0.6, lambda call: min(1.0, 0.1 * call)), SIZES[4])
    p = expected(prioritized)
    for call, batch in enumerate(itertools.chain(groups.group(), groups.group())):
        mine = p[batch.obs[:, 0].astype(int)]
        np.testing.assert_allclose(batch.probabilities, mine, rtol=1e-12)
        np.testing.assert_allclose(batch.weights, (mine / mine.min()) ** -min(1.0, 0.1 * call), rtol=1e-5)
        owners = np.searchsorted(groups.bank.starts, batch.obs[:, 0], side="right") - 1
        assert (batch.indices >> 51 == owners).all()


def test_a_group_costs_each_shard_one_call_and_a_batch_alone_too() -> None:
    groups = Groups(prioritized, [100, 200])
    groups.group()
    assert [actor.calls for actor in groups.actors] == [1, 1]
    groups.group(group=1)
    assert [actor.calls for actor in groups.actors] == [2, 2]
    tiny = Groups(prioritized, SIZES[7])
    for _ in range(50):  # some shards have draws of some batches of the group only
        assert [len(batch) for batch in tiny.group(2)] == [2] * GROUP


def test_what_cannot_be_drawn_is_said_and_nothing_is_asked_for() -> None:
    groups = Groups(distinct, [100, 200])
    requests = [Request(300), Request(301)]
    with pytest.raises(ValueError, match="asked for 301"):
        groups.draws.send(requests, groups.living.actors(0.0))
    assert [actor.calls for actor in groups.actors] == [0, 0]
    assert not any(request.draws for request in requests)


@pytest.mark.parametrize("make", [distinct, prioritized])
def test_the_others_draw_for_a_shard_that_fails_in_all_batches_of_a_group(make: Make) -> None:
    """60 groups during which shard 2 of 4 (150 of 300 transitions) fails: no batch is short, or has some of it."""
    p = expected(make)
    kept = np.concatenate([np.arange(75), np.arange(225, 300)])
    alone = np.zeros(300)
    alone[kept] = p[kept] / p[kept].sum()
    found = []
    for seed in range(60):
        groups = Groups(make, SIZES[4], seed)
        groups.actors[2].why = "it has died"
        for batch in groups.group():
            drawn = batch.obs[:, 0].astype(int)
            np.testing.assert_allclose(batch.probabilities, alone[drawn], rtol=1e-12)
            assert make is prioritized or len(set(drawn.tolist())) == N
            found.append(drawn)
        assert groups.living.lost == {2}
    counts = np.bincount(np.concatenate(found), minlength=300)
    by_shard = [counts[:75].sum(), counts[225:].sum()]
    share = alone[:75].sum()
    # Counts vary less than those of independent draws, so a bound of 5 of their deviations is on the safe side.
    assert abs(by_shard[0] - counts.sum() * share) < 5 * np.sqrt(counts.sum() * share * (1 - share)) + 1


# ---- with Ray ----


names = (f"grouped-{n}" for n in itertools.count())


@pytest.fixture
def cluster(ray_session: None, request: pytest.FixtureRequest) -> Iterator[ReplayCluster]:
    """200 and 600 transitions with priorities 1 … 800."""
    limit = getattr(request, "param", None)
    options = ClusterOptions(name=next(names), streams=4)
    schema = {"obs": ("float32", (3,)), "action": "int64"}
    made = ReplayCluster(
        2, 2000, schema, sampler=rb.Prioritized(1.0), options=options, seed=0, samples_per_insert=limit
    )
    with made as cluster:
        writers = [cluster.writer(), cluster.writer()]
        for writer, begin, end in zip(writers, (0, 200), (200, 800), strict=True):
            numbers = np.arange(begin, end)
            obs = np.repeat(numbers[:, None], 3, axis=1).astype(np.float32)
            never = np.zeros(len(numbers), bool)
            td_error = numbers + 1.0
            writer.extend(obs, numbers, numbers.astype(np.float32), obs + 1, never, never, td_error=td_error)
            writer.flush()
        yield cluster
        for writer in writers:
            writer.close()


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What each call of a shard from now on asks for."""
    made: list[list[int]] = []
    call = draws._calls

    def counted(actor: Any, counts: list[int]) -> list[Any]:
        made.append(counts)
        return call(actor, counts)

    monkeypatch.setattr(draws, "_calls", counted)
    return made


def test_batches_of_a_cluster_come_in_groups(cluster: ReplayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 batches of 200: 15 groups of 4 but for the edges. Seen with probability 0.99: every other twentieth of the
    mass 10% too often.
    """
    made = calls_of(monkeypatch)
    reader = cluster.reader(seed=0)
    p = np.arange(1, 801) / (800 * 801 / 2)
    drawn = []
    with reader.batches(200, prefetch=8) as batches:
        for batch in itertools.islice(batches, 60):
            np.testing.assert_allclose(batch.probabilities, p[batch.action], rtol=1e-6)
            assert (batch.obs == batch.action[:, None]).all()
            assert batch.weights.max() == 1.0
            drawn.append(batch.action)
            reader.update_priorities(batch.indices, batch.action + 1.0, wait=False)
    part = np.minimum((np.cumsum(p) - p / 2) * 20, 19).astype(int)
    coarse = np.bincount(part, p)
    assert chi_square(np.bincount(part[np.concatenate(drawn)], minlength=20), coarse) > P_MIN
    assert power(12_000, coarse, leaning(coarse, 0.1)) > 0.99
    assert 60 <= sum(map(len, made)) / 2 <= 60 + 8 + 1
    assert len(made) / 2 <= (60 + 8 + 1) / 4 + 1
    assert {len(counts) for counts in made} == {1, 4}  # the first nine are 4, 4 and 1
    assert reader.stats()["batches"] == 60
    reader.close()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_few_batches_ahead_are_asked_for_one_by_one(
    cluster: ReplayCluster, prefetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls_of(monkeypatch)
    with cluster.reader().batches(20, prefetch=prefetch) as batches:
        for batch in itertools.islice(batches, 5):
            assert len(batch) == 20
    assert {len(counts) for counts in made} == {1}
    assert len(made) == 2 * (5 + prefetch)


@pytest.mark.parametrize("cluster", [RateLimit(2.0, min_size=400, tolerance=1000)], indirect=True)
def test_groups_keep_the_rate(cluster: ReplayCluster) -> None:
    """800 transitions inserted let 800 + 1,000 be sampled: 28 batches of 64."""
    reader = cluster.reader()
    with (
        reader.batches(64, prefetch=8, timeout=0.5) as batches,
        pytest.raises(TimeoutError, match="could not be sampled in time"),
    ):
        list(batches)
    assert reader.stats()["batches"] in range(28 - 8, 29)
    rate = cluster.stats()["rate_limit"]
    assert rate["ahead"] >= -1000
