"""Draws over several buffers come as often, and weigh as much, as those of one buffer that holds the same.

Counts of a stratified or distinct batch vary less than multinomial ones, and a plain chi-square of their sums would
pass almost anything. But batches are independent of each other: so the mean of their count vectors is held against the
expected one in the metric of their own covariance (Hotelling's T^2), which is what a chi-square is to multinomial
counts. It sees the smaller a bias the less the counts vary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

import replaybank as rb
from distribution import P_MIN, chi_square, power
from replaybank.ray import joint
from replaybank.samplers.base import Sampler
from replaybank.samplers.share import Share

DRAWS = 10**6
SIZES = {1: [300], 2: [40, 260], 4: [70, 5, 150, 75], 7: [1, 50, 3, 91, 17, 64, 74]}
ALPHA = 0.6

Make = Callable[[], Sampler]


def chances_of(shares: Sequence[Share], within: Sequence[np.ndarray]) -> np.ndarray:
    """The probability of each draw, shard after shard: the shard's share of all times that within it."""
    total = joint.whole(shares).mass
    return np.concatenate([share.mass / total * own for share, own in zip(shares, within, strict=True)])


class Bank:
    """k buffers that hold transitions 0 … 299 in their order, and one that holds all; all have wrapped."""

    def __init__(self, make: Make, sizes: Sequence[int], seed: int = 0) -> None:
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        td_error = td_errors(self.starts[-1])
        self.shards = [
            filled(make(), np.arange(a, b), td_error[a:b], seed + int(a)) for a, b in itertools.pairwise(self.starts)
        ]
        self.one = filled(make(), np.arange(self.starts[-1]), td_error, seed)
        self.sampler = joint.divisible(make())
        self.rng = np.random.default_rng(seed)

    def shares(self) -> list[Share]:
        return [joint.divisible(shard.sampler).share() for shard in self.shards]

    def draw(
        self, n: int, shares: Sequence[Share] | None = None, believed: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Transitions [n] and the probability of each, in the order of the batch. `believed`: what `allot` is told."""
        shares = self.shares() if shares is None else shares
        counts = joint.allot(self.sampler, shares if believed is None else believed, n, self.rng)
        batches = [shard.sample(m) if m else None for shard, m in zip(self.shards, counts.tolist(), strict=True)]
        within = [np.empty(0) if batch is None else batch.probabilities for batch in batches]
        chances = np.split(chances_of(shares, within), np.cumsum(counts)[:-1])
        drawn, probabilities = np.full(n, -1.0), np.full(n, np.nan)
        for batch, place, own in zip(batches, joint.places(self.sampler, counts, self.rng), chances, strict=True):
            drawn[place] = np.empty(0) if batch is None else batch.obs[:, 0]
            probabilities[place] = own
        return drawn.astype(np.int64), probabilities

    def batches(self, number: int, n: int, **how: Any) -> np.ndarray:
        """Transitions [number, n]; shares do not change meanwhile."""
        shares = self.shares()
        return np.array([self.draw(n, shares, **how)[0] for _ in range(number)])


def td_errors(n: int) -> np.ndarray:
    """Over three decades, the heavier ones in front: shards differ in mass much more than in size."""
    return np.geomspace(10.0, 0.01, n) * np.random.default_rng(9).uniform(0.5, 2.0, n)


def filled(sampler: Sampler, numbers: np.ndarray, td_error: np.ndarray, seed: int) -> rb.ReplayBuffer:
    """A full buffer whose observations are these numbers; others were there before."""
    n = len(numbers)
    obs = np.concatenate([np.full(n // 2 + 1, -1.0), numbers]).astype(np.float32)[:, None]
    never = np.zeros(len(obs), bool)
    buffer = rb.ReplayBuffer(n, schema={"obs": (np.float32, (1,)), "action": np.int64}, sampler=sampler, seed=seed)
    buffer.extend(obs, np.zeros(len(obs), np.int64), np.zeros(len(obs), np.float32), obs, never, never)
    buffer.update_priorities(np.arange(n // 2 + 1, len(obs)), td_error)
    return buffer


def uniform() -> Sampler:
    return rb.Uniform()


def distinct() -> Sampler:
    return rb.Uniform(replace=False)


def prioritized() -> Sampler:
    return rb.Prioritized(ALPHA)


def expected(make: Make, n: int = 300) -> np.ndarray:
    """P(i) of one buffer, in plain Python: Schaul et al. 2016, eq. 1."""
    if not isinstance(make(), rb.Prioritized):
        return np.full(n, 1 / n)
    masses = [(abs(error) + 1e-6) ** ALPHA for error in td_errors(n).tolist()]
    return np.array(masses) / math.fsum(masses)


class Hotelling:
    """T^2 of the mean counts of independent batches ([batches, n] of cells), less one cell: counts sum to n."""

    def __init__(self, drawn: np.ndarray, cells: int) -> None:
        self.batches, self.n = drawn.shape
        self.cells = cells - 1
        counts = np.zeros((self.batches, cells))
        np.add.at(counts, (np.arange(self.batches)[:, None], drawn), 1.0)
        self.mean = counts.mean(axis=0)[:-1]
        self.inverse = np.linalg.inv(np.cov(counts[:, :-1].T))

    def p_value(self, probabilities: np.ndarray) -> float:
        return float(stats.f.sf(self._f(self.mean - self.n * probabilities[:-1]), *self._freedom))

    def power(self, probabilities: np.ndarray, truth: np.ndarray) -> float:
        """The chance of p < P_MIN where `truth` holds."""
        bound = stats.f.isf(P_MIN, *self._freedom)
        shift = self._f(self.n * (truth - probabilities)[:-1]) * self.cells * (self.batches - 1)
        return float(stats.ncf.sf(bound, *self._freedom, shift / (self.batches - self.cells)))

    @property
    def _freedom(self) -> tuple[int, int]:
        return self.cells, self.batches - self.cells

    def _f(self, off: np.ndarray) -> float:
        squared = self.batches * float(off @ self.inverse @ off)
        return squared * (self.batches - self.cells) / (self.cells * (self.batches - 1))


def leaning(probabilities: np.ndarray, by: float) -> np.ndarray:
    """Every other cell drawn `by` too often, the rest correspondingly too rarely: in all shards."""
    lean = probabilities.copy()
    odd = probabilities[1::2].sum()
    lean[1::2] *= 1 + by
    lean[::2] *= 1 - by * odd / (1 - odd)
    return lean


def seen(power_of: Callable[[np.ndarray, np.ndarray], float], probabilities: np.ndarray) -> float:
    """By how much every other transition must come too often to be seen with probability 0.99."""
    return float(optimize.brentq(lambda by: power_of(probabilities, leaning(probabilities, by)) - 0.99, 1e-4, 0.5))


# ---- how often -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", SIZES)
@pytest.mark.parametrize("make", [uniform, distinct, prioritized])
def test_transitions_come_as_often_as_from_one_buffer(make: Make, shards: int) -> None:
    """10^6 draws in batches of 250 of 300 transitions.

    Seen with probability 0.99: every other transition 1.4% too often (Uniform), 0.6% (without replacement), 0.5%
    (Prioritized), whatever the number of shards; computed from the covariance that the batches have, and asserted.
    """
    bank = Bank(make, SIZES[shards])
    test = Hotelling(bank.batches(DRAWS // 250, 250), 300)
    p = expected(make)
    np.testing.assert_allclose(bank.one.sampler.probability_of(np.arange(151, 451)), p, rtol=1e-12)
    assert test.p_value(p) > P_MIN
    assert seen(test.power, p) < {uniform: 0.014, distinct: 0.006, prioritized: 0.005}[make]


@pytest.mark.parametrize("n", [1, 3])
def test_batches_smaller_than_the_number_of_shards_do_too(n: int) -> None:
    """30,000 prioritized batches over 7 shards; of one draw each a plain chi-square, since they are independent.

    Seen with probability 0.99: every other transition 10% too often.
    """
    drawn = Bank(prioritized, SIZES[7]).batches(30_000, n)
    p = expected(prioritized)
    cells = np.repeat(np.arange(100), 3)  # three by three: the rarest alone come too rarely for the test
    coarse = np.bincount(cells, p)
    if n == 1:
        assert chi_square(np.bincount(cells[drawn[:, 0]], minlength=100), coarse) > P_MIN
        assert seen(lambda p, q: power(30_000, p, q), coarse) < 0.1
    else:
        test = Hotelling(cells[drawn], 100)
        assert test.p_value(coarse) > P_MIN
        assert seen(test.power, coarse) < 0.1


def test_shards_that_are_drawn_by_their_size_are_found_out() -> None:
    """The same test, draws and seeds; also where one mass of seven is 1% too large."""
    bank = Bank(prioritized, SIZES[7])
    by_size = [share._replace(mass=float(share.size)) for share in bank.shares()]
    assert Hotelling(bank.batches(4000, 250, believed=by_size), 300).p_value(expected(prioritized)) < P_MIN
    bank, shares = Bank(prioritized, SIZES[7]), bank.shares()
    shares[1] = shares[1]._replace(mass=1.01 * shares[1].mass)
    assert Hotelling(bank.batches(4000, 250, believed=shares), 300).p_value(expected(prioritized)) < P_MIN


def test_batches_without_replacement_are_any_set_of_one_buffers() -> None:
    """5 transitions over 2 shards, 30,000 batches of 2: each of the 20 ordered pairs equally often.

    Seen with probability 0.99: half of the pairs 5% too often.
    """
    drawn = Bank(distinct, [2, 3]).batches(30_000, 2)
    pairs = drawn @ [5, 1]
    even = np.array([0.0 if a == b else 1 / 20 for a in range(5) for b in range(5)])
    assert chi_square(np.bincount(pairs, minlength=25), even) > P_MIN
    assert seen(lambda p, q: power(30_000, p, q), np.full(20, 1 / 20)) < 0.05


def test_independent_draws_tell_nothing_of_each_other() -> None:
    """5 transitions over 2 shards, 30,000 batches of 2: each of the 25 ordered pairs equally often, also x with x.

    Seen with probability 0.99: half of the pairs 6% too often.
    """
    drawn = Bank(uniform, [2, 3]).batches(30_000, 2)
    even = np.full(25, 1 / 25)
    assert chi_square(np.bincount(drawn @ [5, 1], minlength=25), even) > P_MIN
    assert seen(lambda p, q: power(30_000, p, q), even) < 0.06


def test_a_whole_epoch_without_replacement_is_each_once() -> None:
    bank = Bank(distinct, SIZES[4])
    assert sorted(bank.draw(300)[0].tolist()) == list(range(300))
    with pytest.raises(ValueError, match=r"at most 300 .* asked for 301; the shards hold 70, 5, 150, 75"):
        bank.draw(301)


def test_a_shard_that_is_away_leaves_one_buffer_of_the_others() -> None:
    """Its draws are made from the rest by their shares: 2000 batches of 250, Hotelling as above."""
    bank = Bank(prioritized, SIZES[4])
    shares, away = bank.shares(), 2
    rest = [share for k, share in enumerate(shares) if k != away]
    living = np.array([i for i in range(300) if not bank.starts[away] <= i < bank.starts[away + 1]])
    place = np.full(300, -1)
    place[living] = np.arange(len(living))
    drawn = []
    for _ in range(2000):
        counts = joint.allot(bank.sampler, shares, 250, bank.rng)
        counts = np.delete(counts, away) + joint.allot(bank.sampler, rest, int(counts[away]), bank.rng)
        others = [shard for k, shard in enumerate(bank.shards) if k != away]
        batches = [shard.sample(m) for shard, m in zip(others, counts.tolist(), strict=True)]
        drawn.append(np.concatenate([batch.obs[:, 0] for batch in batches]).astype(np.int64))
        if len(drawn) == 1:
            p = expected(prioritized)[living] / expected(prioritized)[living].sum()
            chances = chances_of(rest, [batch.probabilities for batch in batches])
            np.testing.assert_allclose(chances, p[place[drawn[0]]], rtol=1e-12)
    test = Hotelling(place[np.array(drawn)], len(living))
    assert test.p_value(p) > P_MIN
    assert seen(test.power, p) < 0.01


def test_the_probability_is_that_of_the_draw_where_shares_are_older() -> None:
    """Shares from before priorities changed: the probabilities that are reported, and not those of now, are the ones.

    Seen with probability 0.99: every other transition 1% too often.
    """
    bank = Bank(prioritized, [100, 50])
    old = bank.shares()
    bank.shards[0].update_priorities(np.arange(51, 151), 30 * td_errors(100)[::-1])
    drawn, reported = zip(*(bank.draw(250, old) for _ in range(2000)), strict=True)
    p = np.full(150, np.nan)
    p[np.concatenate(drawn)] = np.concatenate(reported)
    assert p.sum() == pytest.approx(1, rel=1e-12)
    test = Hotelling(np.array(drawn), 150)
    assert test.p_value(p) > P_MIN
    assert seen(test.power, p) < 0.01
    now = bank.shares()
    moved = p * np.repeat([new.mass / before.mass for new, before in zip(now, old, strict=True)], [100, 50])
    assert test.p_value(moved / moved.sum()) < P_MIN


# ---- probabilities and weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", SIZES)
@pytest.mark.parametrize("beta", [0.0, 0.7, rb.linear(0.4, 1.0, 5)])
@pytest.mark.parametrize("weight_norm", ["batch", "buffer", None])
def test_probabilities_and_weights_are_those_of_one_buffer(weight_norm: Any, beta: Any, shards: int) -> None:
    """Eight batches: the schedule goes on with each, and ends within them. float32: 1 part in 10^6."""
    bank = Bank(lambda: rb.Prioritized(ALPHA, beta, weight_norm=weight_norm), SIZES[shards])
    one = bank.one.sampler
    for calls in range(8):
        drawn, probabilities = bank.draw(64)
        exact = one.probability_of(drawn + 151)
        np.testing.assert_allclose(probabilities, exact, rtol=1e-12)
        weights = bank.sampler.weigh(probabilities, joint.whole(bank.shares()), calls)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, one.weights(exact), rtol=1e-6)
        every = (300 * expected(prioritized)) ** -(beta(calls) if callable(beta) else beta)  # eq. 2, by itself
        largest = {"batch": every[drawn].max(), "buffer": every.max(), None: 1.0}[weight_norm]
        np.testing.assert_allclose(weights, every[drawn] / largest, rtol=1e-5)


@pytest.mark.parametrize("weight_norm", ["batch", "buffer"])
def test_weights_that_each_shard_makes_for_itself_are_not_those(weight_norm: Any) -> None:
    bank = Bank(lambda: rb.Prioritized(ALPHA, 0.7, weight_norm=weight_norm), SIZES[4])
    batches = [shard.sample(16) for shard in bank.shards]
    drawn = np.concatenate([batch.obs[:, 0] for batch in batches]).astype(np.int64)
    right = bank.one.sampler.weights(bank.one.sampler.probability_of(drawn + 151))
    assert np.abs(np.concatenate([batch.weights for batch in batches]) / right - 1).max() > 0.1


@pytest.mark.parametrize("make", [uniform, distinct])
def test_uniform_draws_weigh_one_each(make: Make) -> None:
    bank = Bank(make, SIZES[7])
    _, probabilities = bank.draw(100)
    np.testing.assert_allclose(probabilities, 1 / 300, rtol=1e-12)
    assert bank.sampler.weigh(probabilities, joint.whole(bank.shares()), 0).tolist() == [1.0] * 100


def test_a_buffers_share_is_what_it_holds() -> None:
    buffer = Bank(lambda: rb.Prioritized(ALPHA, weight_norm="buffer"), [300]).one
    masses = [(abs(error) + 1e-6) ** ALPHA for error in td_errors(300).tolist()]
    assert buffer.sampler.share() == pytest.approx((300, math.fsum(masses), min(masses)), rel=1e-12)
    assert math.isnan(share_of(rb.Prioritized()).smallest)
    assert share_of(rb.Uniform())[:2] == (300, 300.0)
    buffer.clear()
    assert buffer.sampler.share() == (0, 0.0, 0.0)


def share_of(sampler: Any) -> Share:
    filled(sampler, np.arange(300), td_errors(300), 0)
    return sampler.share()


def test_a_shard_without_mass_does_not_count_as_the_smallest() -> None:
    found = joint.whole([Share(3, 0.0, 0.0), Share(5, 2.0, 0.25), Share(0, 0.0, 0.0), Share(1, 0.5, 0.5)])
    assert found == (9, 2.5, 0.25)
    assert math.isnan(joint.whole([Share(3, 3.0, math.nan), Share(4, 4.0, math.nan)]).smallest)


# ---- how many of each ----------------------------------------------------------------------------------------------

masses = st.one_of(st.just(0.0), st.floats(1e-300, 1e280), st.floats(0.1, 10.0))
some = st.lists(st.tuples(st.integers(0, 10**12), masses), min_size=1, max_size=20)


def shares_of(pairs: Sequence[tuple[int, float]]) -> list[Share]:
    """Without size there is no mass."""
    return [Share(size, mass if size else 0.0, math.nan) for size, mass in pairs]


@given(some, st.integers(0, 300), st.integers(0, 2**32))
def test_stratified_allotments_are_within_two_of_their_share(pairs: Any, n: int, seed: int) -> None:
    shares = shares_of(pairs)
    total = math.fsum(share.mass for share in shares)
    if total:
        counts = joint.allot(rb.Prioritized(), shares, n, np.random.default_rng(seed))
        assert counts.dtype == np.int64
        assert len(counts) == len(shares)
        assert counts.sum() == n
        for count, share in zip(counts.tolist(), shares, strict=True):
            assert count == 0 or share.mass > 0
            assert abs(count - n * (share.mass / total)) < 2 + 1e-9


@given(some, st.integers(0, 300), st.integers(0, 2**32), st.booleans())
def test_uniform_allotments_sum_up_and_leave_out_the_empty(pairs: Any, n: int, seed: int, replace: bool) -> None:
    shares = [Share(size, float(size), math.nan) for size, _ in pairs]
    sizes = np.array([share.size for share in shares])
    if n <= sizes.sum() and sizes.any():
        counts = joint.allot(rb.Uniform(replace), shares, n, np.random.default_rng(seed))
        assert counts.sum() == n
        assert not counts[sizes == 0].any()
        assert replace or (counts <= sizes).all()


class Constant:
    """A generator that gives one number for ever."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, n: int) -> np.ndarray:
        return np.full(n, self.value)


@given(st.lists(masses, min_size=1, max_size=20), st.integers(1, 300), st.sampled_from([0.0, np.nextafter(1.0, 0.0)]))
def test_points_at_the_edges_do_not_fall_on_what_has_no_mass(sizes: list[float], n: int, edge: float) -> None:
    shares = [Share(1, mass, math.nan) for mass in sizes]
    if any(sizes):
        for sampler in (rb.Prioritized(), rb.Uniform()):
            counts = joint.allot(sampler, shares, n, Constant(edge))
            assert counts.sum() == n
            assert not counts[np.array(sizes) == 0].any()


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=9), st.integers(0, 99), st.sampled_from([uniform, prioritized])
)
def test_each_place_in_a_batch_is_taken_once(counts: list[int], seed: int, make: Make) -> None:
    sampler = joint.divisible(make())
    places = joint.places(sampler, np.array(counts), np.random.default_rng(seed))
    batch = np.full(sum(counts), -1)
    for shard, (count, place) in enumerate(zip(counts, places, strict=True)):
        assert len(batch[place]) == count
        batch[place] = shard
    assert np.bincount(batch, minlength=len(counts)).tolist() == counts
    assert not sampler.stratified or (np.diff(batch) >= 0).all()


def test_nothing_to_draw_is_said() -> None:
    rng = np.random.default_rng(0)
    for sampler in (rb.Uniform(), rb.Prioritized()):
        with pytest.raises(ValueError, match="asked for 5 transitions, but all 2 shards are empty; add some"):
            joint.allot(sampler, [Share(0, 0.0, 0.0)] * 2, 5, rng)
    with pytest.raises(ValueError, match=r"every priority in all 2 shards is 0; .*epsilon"):
        joint.allot(rb.Prioritized(), [Share(3, 0.0, 0.0), Share(0, 0.0, 0.0)], 5, rng)


# ---- which samplers ------------------------------------------------------------------------------------------------


def test_samplers_whose_probabilities_add_up_are_taken_and_others_named() -> None:
    for sampler in (rb.Uniform(), rb.Uniform(replace=False), rb.Prioritized()):
        assert joint.divisible(sampler) is sampler
    others: list[Any] = [
        rb.RankPrioritized(),
        rb.Recent(),
        rb.SampleOnce(),
        rb.Combined(rb.Uniform()),
        rb.Mixture([(1.0, rb.Uniform())]),
    ]
    for other in others:
        with pytest.raises(ValueError, match=f"Uniform or Prioritized, given .*{type(other).__name__}"):
            joint.divisible(other)
    for wrong in (None, rb.Uniform, "Uniform"):
        with pytest.raises(TypeError, match="sampler: expected a sampler"):
            joint.divisible(wrong)
