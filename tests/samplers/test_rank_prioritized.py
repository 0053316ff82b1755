"""Draws by rank come as often as the closed form says, with its weights (Schaul et al. 2016, sec. 3.3)."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from contract import SamplerContract, step

import replaybank as rb
from distribution import P_MIN, chi_square, power, stratified_chi_square, stratified_power, tilted
from replaybank.samplers.base import Sampler

DRAWS = 2**20
SIZE = 64
START = 3 * SIZE + 5  # the buffer has wrapped, and slot 0 is not the oldest


class TestRankPrioritized(SamplerContract):
    def make(self) -> Sampler:
        return rb.RankPrioritized()


class TestRankPrioritizedByTheBuffersSmallest(SamplerContract):
    def make(self) -> Sampler:
        return rb.RankPrioritized(alpha=1.0, beta=rb.linear(0.4, 1.0, 50), weight_norm="buffer")


class TestRankPrioritizedWithoutAlpha(SamplerContract):
    def make(self) -> Sampler:
        return rb.RankPrioritized(alpha=0.0, beta=0.0, weight_norm=None)


def attached(errors: np.ndarray, start: int = START, **settings: Any) -> rb.RankPrioritized:
    """A sampler over ids `start`, start + 1, … in a full ring, with these TD errors."""
    n = len(errors)
    sampler = rb.RankPrioritized(**settings)
    sampler.attach(n)
    sampler.added(0, start)
    sampler.added(start, n)
    sampler.update(np.arange(start, start + n), sampler.priorities(errors))
    return sampler


def errors_of(n: int = SIZE, seed: int = 0) -> np.ndarray:
    """TD errors of either sign over two decades, in no order."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.geomspace(0.1, 10.0, n)) * rng.choice([-1.0, 1.0], n)


def ranks(errors: np.ndarray) -> np.ndarray:
    """The rank of each, from 1 on, by sorting; of equal ones the later ranks higher."""
    order = sorted(range(len(errors)), key=lambda i: (-abs(errors[i]), -i))
    found = np.empty(len(errors))
    found[order] = np.arange(1, len(errors) + 1)
    return found


def closed_form(errors: np.ndarray, alpha: float) -> np.ndarray:
    masses = ranks(errors) ** -alpha
    return masses / math.fsum(masses)


def drawn(sampler: rb.RankPrioritized, batch: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """All draws in batches, as places in the array of errors [batches, batch]."""
    rng = np.random.default_rng(seed)
    return np.array([sampler.draw(batch, rng)[0] for _ in range(draws // batch)]) - START


# ---- how often -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.7, 1.0])
def test_single_draws_come_as_often_as_their_ranks_say(alpha: float) -> None:
    """2^18 independent draws over 64 ids of a wrapped buffer.

    Power against half of the ids 4% too often: > 0.999 (63 degrees of freedom, at either alpha).
    """
    expected = closed_form(errors_of(), alpha)
    assert power(DRAWS // 4, expected, tilted(expected, 0.04)) > 0.999
    places = drawn(attached(errors_of(), alpha=alpha), 1, seed=2, draws=DRAWS // 4)
    assert chi_square(np.bincount(places[:, 0], minlength=SIZE), expected) > P_MIN


@pytest.mark.parametrize("batch", [7, 256])
def test_each_draw_of_a_batch_comes_from_its_own_range(batch: int) -> None:
    """In the order of ranks, which is that of the cumulated probabilities. Power against a 2% lean: > 0.95."""
    expected = np.sort(closed_form(errors_of(), 0.7))[::-1]
    assert stratified_power(DRAWS // batch, batch, expected, tilted(expected)) > 0.95
    places = drawn(attached(errors_of(), alpha=0.7), batch, seed=batch)
    by_rank = ranks(errors_of()).astype(int)[places] - 1
    assert stratified_chi_square(by_rank, expected) > P_MIN


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_the_tests_of_frequency_see_a_slightly_wrong_alpha(batch: int) -> None:
    """The same tests, draws and seeds against alpha = 0.72: the exact draws of 0.7 fail them."""
    wrong = closed_form(errors_of(), 0.72)
    draws = DRAWS // 4 if batch == 1 else DRAWS
    places = drawn(attached(errors_of(), alpha=0.7), batch, seed=2 if batch == 1 else batch, draws=draws)
    if batch == 1:
        assert chi_square(np.bincount(places[:, 0], minlength=SIZE), wrong) < P_MIN
    else:
        by_rank = ranks(errors_of()).astype(int)[places] - 1
        assert stratified_chi_square(by_rank, np.sort(wrong)[::-1]) < P_MIN


# ---- only ranks count ------------------------------------------------------------------------------------------------


def test_outliers_and_scales_do_not_matter() -> None:
    """An outlier of 1e300, errors of 1e-300, all within a billionth, or any other monotone map: the same draws."""
    errors = errors_of(500)
    first = attached(errors, start=777)
    expected = [array.tobytes() for array in first.draw(300, np.random.default_rng(3))]
    outlier = errors.copy()
    outlier[np.argmax(np.abs(errors))] = 1e300
    close = np.copysign(1.0 - 1e-12 * ranks(errors), errors)
    for other in (outlier, errors * 1e-300, errors * 1e290, np.copysign(np.log1p(np.abs(errors)), errors), close):
        sampler = attached(other, start=777)
        assert [array.tobytes() for array in sampler.draw(300, np.random.default_rng(3))] == expected


def test_of_equal_priorities_the_newer_one_ranks_higher() -> None:
    sampler = attached(np.array([2.0, 1.0, -2.0, 1.0, 3.0]), start=9, alpha=1.0)
    found = sampler.probability_of(np.arange(9, 14))
    np.testing.assert_allclose(found, 1 / np.array([3, 5, 2, 4, 1]) / (137 / 60), rtol=1e-15)


def test_newcomers_have_the_first_ranks_and_the_largest_priority_now_in_the_buffer() -> None:
    sampler = attached(np.array([5.0, 1.0, 2.0]), start=3, alpha=1.0)
    sampler.added(6, 1)  # the 5 leaves, and its value is what the newcomer gets
    assert sampler.priority_of(np.array([4, 5, 6])).tolist() == [1.0, 2.0, 5.0]
    sampler.update(np.array([6]), np.array([0.5]))
    sampler.added(7, 1)  # not the largest ever
    assert sampler.priority_of(np.array([5, 6, 7])).tolist() == [2.0, 0.5, 2.0]
    assert np.argmax(sampler.probability_of(np.array([5, 6, 7]))) == 2
    sampler.update(np.array([5, 6, 7]), np.zeros(3))
    sampler.added(8, 1)  # never 0: nothing could come before it for good
    assert sampler.priority_of(np.array([8])).tolist() == [1.0]
    sampler.check_valid()


def test_a_priority_of_zero_is_drawn_by_its_rank() -> None:
    sampler = attached(np.array([0.0, 0.0, 1.0]), start=3, alpha=1.0)
    np.testing.assert_allclose(sampler.probability_of(np.array([3, 4, 5])), np.array([2, 3, 6]) / 11, rtol=1e-15)
    assert set(sampler.draw(100, np.random.default_rng(0))[0].tolist()) == {3, 4, 5}


@pytest.mark.parametrize("capacity", [1, 2, 31, 33, 1000])
def test_a_life_of_adds_and_updates_keeps_ranks_exact(capacity: int) -> None:
    """Against sorting a dict of all live priorities; with ties, duplicate and stale ids, and more than fit at once."""
    sampler = rb.RankPrioritized(alpha=0.9)
    sampler.attach(capacity)
    rng = np.random.default_rng(capacity)
    model: dict[int, float] = {}
    added = 0
    for turn in range(60):
        n = int(rng.choice([1, 3, capacity // 2 + 1, capacity, 2 * capacity + 3]))
        newcomer = max(model.values(), default=0.0) or 1.0
        sampler.added(added, n)
        model |= dict.fromkeys(range(added, added + n), newcomer)
        added += n
        model = {id_: model[id_] for id_ in model if id_ >= added - capacity}
        ids = rng.integers(max(0, added - 2 * capacity), added, int(rng.integers(1, 2 * capacity + 1)))
        errors = rng.choice([rng.normal(size=len(ids)), np.round(rng.normal(size=len(ids)), 1)])
        set_ = sampler.update(ids, sampler.priorities(errors))
        assert set_ == sum(id_ in model for id_ in ids.tolist())
        model |= {i: abs(e) for i, e in zip(ids.tolist(), errors.tolist(), strict=True) if i in model}
        if turn % 10 == 9:
            sampler.check_valid()
        order = sorted(model, key=lambda id_: (-model[id_], -id_))
        masses = np.arange(1.0, len(order) + 1) ** -0.9
        np.testing.assert_allclose(sampler.probability_of(np.array(order)), masses / math.fsum(masses), rtol=1e-13)
        if turn % 7 == 5:
            oldest = added if turn == 40 else int(rng.integers(min(model) - 3, added + 1))
            sampler.dropped(oldest)
            model = {id_: priority for id_, priority in model.items() if id_ >= oldest}


# ---- probabilities, weights, settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0, 2.0, 30.0])
def test_probabilities_are_exact(alpha: float) -> None:
    errors = errors_of(1000, seed=1)
    sampler = attached(errors, start=1234, alpha=alpha)
    ids, probabilities = sampler.draw(5000, np.random.default_rng(0))
    np.testing.assert_allclose(probabilities, closed_form(errors, alpha)[ids - 1234], rtol=1e-13)
    np.testing.assert_allclose(sampler.probability_of(ids), closed_form(errors, alpha)[ids - 1234], rtol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weight_norm", ["batch", "buffer", None])
def test_weights_follow_eq_2(beta: float, weight_norm: Any) -> None:
    errors = errors_of(200, seed=2)
    sampler = attached(errors, start=777, alpha=0.7, beta=beta, weight_norm=weight_norm)
    ids, probabilities = sampler.draw(50, np.random.default_rng(0))
    every = closed_form(errors, 0.7)
    expected = (200 * every[ids - 777]) ** -beta
    if weight_norm == "batch":
        expected /= expected.max()
    elif weight_norm == "buffer":
        expected /= ((200 * every) ** -beta).max()
    np.testing.assert_allclose(sampler.weights(probabilities), expected, rtol=2e-6)


def test_alpha_can_change_at_any_time_exactly() -> None:
    changed, fresh = attached(errors_of(100), alpha=0.3), attached(errors_of(100), alpha=1.1)
    for alpha in (0.0, 2.0, 1.1):
        changed.alpha = alpha
        changed.check_valid()
    for sampler in (changed, fresh):
        sampler.added(START + 100, 7)
    one, other = (sampler.draw(40, np.random.default_rng(0)) for sampler in (changed, fresh))
    assert [array.tobytes() for array in one] == [array.tobytes() for array in other]


def test_alpha_can_change_in_a_buffer_that_is_not_full() -> None:
    sampler = rb.RankPrioritized()
    buffer = rb.ReplayBuffer(100, sampler=sampler, seed=0)
    for t in range(7):
        buffer.add(*step(t))
    sampler.alpha = 0.0
    batch = buffer.sample(1000)
    assert set(batch.indices.tolist()) == set(range(7))
    np.testing.assert_allclose(batch.probabilities, 1 / 7, rtol=1e-15)
    buffer.check_valid()


def test_beta_follows_its_schedule_one_position_a_sample() -> None:
    sampler = attached(np.array([1.0, 2.0]), alpha=1.0, beta=rb.linear(0.5, 1.0, 5), weight_norm="buffer")
    for beta in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0):
        np.testing.assert_allclose(sampler.weights(np.array([2 / 3, 1 / 3])), [0.5**beta, 1.0], rtol=1e-6)
    sampler.beta = 0.0
    assert sampler.weights(np.array([2 / 3, 1 / 3])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": 31.0}, "alpha"),
        ({"alpha": "0.6"}, "alpha"),
        ({"beta": -1.0}, "beta"),
        ({"beta": None}, "beta"),
        ({"weight_norm": "max"}, "weight_norm"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"RankPrioritized: {words}.*given"):
        rb.RankPrioritized(**settings)


def test_a_bad_alpha_set_later_changes_nothing() -> None:
    sampler = attached(errors_of())
    before = sampler.draw(20, np.random.default_rng(0))
    with pytest.raises(ValueError, match="alpha"):
        sampler.alpha = -1.0
    assert sampler.alpha == 0.7
    assert sampler.draw(20, np.random.default_rng(0))[1].tobytes() == before[1].tobytes()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_priorities_that_are_not_finite_are_refused_and_change_nothing(wrong: float) -> None:
    sampler = attached(errors_of())
    before = copy.deepcopy(sampler.state())
    with pytest.raises(ValueError, match="finite"):
        sampler.update(np.array([START, START + 1]), np.array([1.0, wrong]))
    np.testing.assert_equal(sampler.state(), before)
    sampler.check_valid()


def test_a_buffer_can_be_read_from_it_end_to_end() -> None:
    buffer = rb.ReplayBuffer(50, sampler=rb.RankPrioritized(alpha=1.0), view=rb.NStep(3, 0.9), streams=2, seed=0)
    for t in range(100):
        obs = np.array([t, t + 1000.0])
        buffer.add(obs, np.zeros(2, int), obs, obs + 1, np.zeros(2, bool), np.zeros(2, bool))
        batch = buffer.sample(16)
        report = buffer.update_priorities(batch.indices, np.sin(batch.reward))
        assert report == (16, 0)
    buffer.check_valid()
