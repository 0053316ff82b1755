"""Mixtures: each part gets its share, probabilities are those of the mixture, and weights undo them where asked."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from contract import SamplerContract, differs, step, unordered

import replaybank as rb
from distribution import P_MIN, chi_square, power, tilted
from replaybank.samplers.base import Sampler

DRAWS = 2**16
SIZE = 32


class TestMixture(SamplerContract):
    def make(self) -> Sampler:
        return rb.Mixture([(0.5, rb.Uniform()), (0.25, rb.Prioritized()), (0.25, rb.RankPrioritized())], beta=0.4)


class TestMixtureOfTheRecentAndAll(SamplerContract):
    def make(self) -> Sampler:
        return rb.Mixture([(1, rb.Recent(0.9, 10, 3)), (3, rb.Uniform())])


class TestMixtureOfOne(SamplerContract):
    def make(self) -> Sampler:
        return rb.Mixture([(2.0, rb.Uniform(replace=False))], beta=1.0, weight_norm=None)


def test_every_part_hears_that_a_call_of_sample_failed() -> None:
    once, combined = rb.SampleOnce(), rb.Combined(rb.Uniform(), newest=2)
    sampler = attached([(1, once), (1, combined)])
    rng = np.random.default_rng(0)
    sampler.weights(sampler.draw(8, rng)[1])
    before = unordered(sampler.state())
    sampler.draw(8, rng)
    assert differs(unordered(sampler.state()), before)
    sampler.failed()
    np.testing.assert_equal(unordered(sampler.state()), before)


def attached(parts: list[tuple[float, Sampler]], size: int = SIZE, **settings: Any) -> rb.Mixture:
    sampler = rb.Mixture(parts, **settings)
    sampler.attach(size)
    sampler.added(0, size)
    rng = np.random.default_rng(7)
    sampler.update(np.arange(size), sampler.priorities(rng.normal(size=size)))
    return sampler


def errors_of() -> np.ndarray:
    return np.abs(np.random.default_rng(7).normal(size=SIZE))


def three(**settings: Any) -> rb.Mixture:
    return attached(
        [(2.0, rb.Uniform()), (1.0, rb.Prioritized(alpha=1.0, epsilon=0.0)), (1.0, rb.RankPrioritized(alpha=1.0))],
        **settings,
    )


def closed_form() -> np.ndarray:
    """1/2 uniform, 1/4 in proportion, 1/4 by rank, worked out from the errors."""
    errors = errors_of()
    ranks = np.empty(SIZE)
    ranks[np.argsort(-errors)] = np.arange(1, SIZE + 1)
    by_rank = (1 / ranks) / math.fsum(1 / ranks)
    return 0.5 / SIZE + 0.25 * errors / math.fsum(errors) + 0.25 * by_rank


def test_probabilities_are_those_of_the_mixture_whichever_part_drew() -> None:
    sampler = three()
    np.testing.assert_allclose(sampler.probability_of(np.arange(SIZE)), closed_form(), rtol=1e-13)
    for n in (1, 2, 7, 200):
        ids, probabilities = sampler.draw(n, np.random.default_rng(n))
        np.testing.assert_allclose(probabilities, closed_form()[ids], rtol=1e-13)


def test_draws_come_as_often_as_the_mixture_says() -> None:
    """2^16 independent draws (batches of one, each from a part drawn at random).

    Power against half of the ids 8% too often: > 0.99; 31 degrees of freedom.
    """
    expected = closed_form()
    assert power(DRAWS, expected, tilted(expected, 0.08)) > 0.99
    sampler, rng = three(), np.random.default_rng(0)
    counts = np.bincount([int(sampler.draw(1, rng)[0][0]) for _ in range(DRAWS)], minlength=SIZE)
    assert chi_square(counts, expected) > P_MIN
    # and another mixture of the same parts would not do
    assert chi_square(counts, 0.8 * expected + 0.2 / SIZE) < P_MIN


class Only(rb.Uniform):
    """A sampler that always gives one id, and counts."""

    def __init__(self, id_: int) -> None:
        super().__init__()
        self.id_ = id_
        self.drawn = 0
        self.samples = 0

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        assert n > 0
        self.drawn += n
        return np.full(n, self.id_), np.ones(n)

    def probability_of(self, ids: np.ndarray) -> np.ndarray:
        return (ids == self.id_).astype(float)

    def weights(self, probabilities: np.ndarray) -> np.ndarray:
        self.samples += 1
        return np.ones(len(probabilities), np.float32)


@pytest.mark.parametrize("n", [1, 3, 10, 64])
def test_each_part_gets_its_share_of_every_batch_and_exactly_so_on_average(n: int) -> None:
    """Counts are n * share rounded up or down; over 20,000 batches their mean is n * share within 4 standard errors."""
    shares = np.array([0.1, 0.25, 0.65])
    parts = [Only(i) for i in range(3)]
    sampler = rb.Mixture([(share * 8, part) for share, part in zip(shares, parts, strict=True)])  # type: ignore[misc]
    sampler.attach(3)
    sampler.added(0, 3)
    rng = np.random.default_rng(n)
    counts = np.array([np.bincount(sampler.draw(n, rng)[0], minlength=3) for _ in range(20_000)])
    assert (counts.sum(axis=1) == n).all()
    assert (np.abs(counts - n * shares) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), n * shares, atol=4 * 0.5 / np.sqrt(20_000))
    assert [part.drawn for part in parts] == counts.sum(axis=0).tolist()


def test_each_part_hears_once_that_a_sample_has_ended() -> None:
    """Schedules go on: an annealed beta's position, the update of a round."""
    recent, only = rb.Recent(0.5, 2000, 1), Only(3)
    sampler = rb.Mixture([(1, recent), (1, only)])  # type: ignore[list-item]
    buffer = rb.ReplayBuffer(16, sampler=sampler, seed=0)
    for t in range(16):
        buffer.add(*step(t))
    assert [recent.reach, buffer.sample(4) and recent.reach, buffer.sample(4) and recent.reach] == [11, 8, 5]
    assert only.samples == 2


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 32])
def test_weighted_means_are_unbiased_with_beta_one(n: int) -> None:
    """Values that grow with the errors: the weighted mean within 4 standard errors, the plain one far outside."""
    values = errors_of() * 10
    sampler, rng = three(beta=1.0, weight_norm=None), np.random.default_rng(n)
    batches = 20_000 // n + 3000
    weighted, plain = np.empty(batches), np.empty(batches)
    for i in range(batches):
        ids, probabilities = sampler.draw(n, rng)
        weighted[i] = (sampler.weights(probabilities) * values[ids]).mean()
        plain[i] = values[ids].mean()
    error = 4 * weighted.std() / np.sqrt(batches)
    assert abs(weighted.mean() - values.mean()) < error
    assert abs(plain.mean() - values.mean()) > 5 * error


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("weight_norm", ["batch", None])
def test_weights_follow_from_the_mixtures_probabilities(beta: float, weight_norm: Any) -> None:
    sampler = three(beta=beta, weight_norm=weight_norm)
    ids, probabilities = sampler.draw(20, np.random.default_rng(0))
    expected = (SIZE * closed_form()[ids]) ** -beta
    if weight_norm == "batch":
        expected /= expected.max()
    np.testing.assert_allclose(sampler.weights(probabilities), expected, rtol=2e-6)


def test_beta_follows_its_schedule() -> None:
    sampler = three(beta=rb.linear(0.0, 1.0, 2), weight_norm=None)
    found = [sampler.weights(np.array([4 / SIZE])).item() for _ in range(4)]
    np.testing.assert_allclose(found, [1.0, 0.5, 0.25, 0.25], rtol=1e-6)


# ---- priorities ------------------------------------------------------------------------------------------------------


def test_every_part_makes_its_own_priorities_of_td_errors() -> None:
    with_epsilon, lap, by_rank = rb.Prioritized(epsilon=0.5), rb.Prioritized(min_priority=1.0), rb.RankPrioritized()
    buffer = rb.ReplayBuffer(4, sampler=rb.Mixture([(1, with_epsilon), (1, lap), (1, by_rank), (1, rb.Uniform())]))
    for t in range(6):
        buffer.add(*step(t))
    assert buffer.update_priorities([1, 2, 3, 5], [9.0, -0.25, 2.0, -3.0]) == (3, 1)
    ids = np.array([2, 3, 5])
    assert with_epsilon.priority_of(ids).tolist() == [0.75, 2.5, 3.5]
    assert lap.priority_of(ids).tolist() == [1.0, 2.0, 3.0]
    assert by_rank.priority_of(ids).tolist() == [0.25, 2.0, 3.0]
    buffer.check_valid()


def test_td_errors_that_one_part_cannot_take_change_no_part() -> None:
    buffer = rb.ReplayBuffer(4, sampler=rb.Mixture([(1, rb.Prioritized(alpha=0.1)), (1, rb.Prioritized(alpha=2.0))]))
    for t in range(4):
        buffer.add(*step(t))
    before = copy.deepcopy(buffer.sampler.state())
    for wrong in (np.nan, 1e200):
        with pytest.raises(ValueError, match="td_error"):
            buffer.update_priorities([0, 1], [1.0, wrong])
        np.testing.assert_equal(buffer.sampler.state(), before)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_parts_are_told_with_their_shares() -> None:
    uniform, recent = rb.Uniform(), rb.Recent()
    assert rb.Mixture([(3, uniform), (1, recent)]).parts == [(0.75, uniform), (0.25, recent)]


SAME = rb.Uniform()


@pytest.mark.parametrize(
    ("parts", "settings", "error", "words"),
    [
        ([], {}, ValueError, "at least one pair"),
        ([(0.0, rb.Uniform())], {}, ValueError, "weight must be above 0"),
        ([(-1.0, rb.Uniform())], {}, ValueError, "weight must be a finite number"),
        ([(float("nan"), rb.Uniform())], {}, ValueError, "weight must be a finite number"),
        ([(1.0, rb.Uniform)], {}, TypeError, "expected a sampler"),
        ([(rb.Uniform(), 1.0)], {}, ValueError, "weight"),
        ([rb.Uniform()], {}, TypeError, "pairs"),
        ([(1, SAME), (2, SAME)], {}, ValueError, "sampler of its own"),
        ([(1, SAME)], {"beta": -1.0}, ValueError, "beta"),
        ([(1, SAME)], {"weight_norm": "buffer"}, ValueError, "weight_norm"),
    ],
)
def test_bad_settings_are_refused_by_name(parts: Any, settings: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=f"Mixture: .*{words}.*given"):
        rb.Mixture(parts, **settings)


@pytest.mark.parametrize("newest", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_what_a_part_that_always_gives_the_newest_adds_counts_whichever_part_drew(newest: int, first: bool) -> None:
    """Half of eight come from Combined: the newest, and uniform ones for the rest; P is what an id's share comes to."""
    parts: list[tuple[float, Sampler]] = [(1, rb.Combined(newest=newest)), (1, rb.Uniform())]
    buffer = rb.ReplayBuffer(SIZE, sampler=rb.Mixture(parts if first else parts[::-1]), seed=0)
    for t in range(SIZE):
        buffer.add(*step(t))
    expected = np.full(SIZE, (4 - newest) / 4 / SIZE * 0.5 + 0.5 / SIZE)
    expected[-newest:] += 0.5 / 4
    assert math.fsum(expected) == pytest.approx(1.0)
    for _ in range(50):
        batch = buffer.sample(8)
        np.testing.assert_allclose(batch.probabilities, expected[batch.indices], rtol=1e-13)
