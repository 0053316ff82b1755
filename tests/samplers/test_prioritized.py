"""Prioritized draws come as often as the closed form says, with its weights (Schaul et al. 2016, eqs. 1 and 2)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from contract import SamplerContract, step
from hypothesis import given
from hypothesis import strategies as st

import replaybank as rb
from distribution import P_MIN, chi_square, power, stratified_chi_square, stratified_power, tilted
from replaybank.samplers.base import Sampler

DRAWS = 2**20
SIZE = 64
START = 3 * SIZE + 5  # the buffer has wrapped, and slot 0 is not the oldest


class TestPrioritized(SamplerContract):
    def make(self) -> Sampler:
        return rb.Prioritized()


class TestPrioritizedByTheBuffersSmallest(SamplerContract):
    def make(self) -> Sampler:
        return rb.Prioritized(alpha=1.0, beta=rb.linear(0.4, 1.0, 50), weight_norm="buffer")


class TestPrioritizedWithoutAlpha(SamplerContract):
    def make(self) -> Sampler:
        return rb.Prioritized(alpha=0.0, beta=0.0, epsilon=0.0, weight_norm=None)


def attached(priorities: np.ndarray, start: int = START, **settings: Any) -> rb.Prioritized:
    """A sampler over ids `start`, start + 1, … in a full ring, with these raw priorities."""
    n = len(priorities)
    sampler = rb.Prioritized(**settings)
    sampler.attach(n)
    sampler.added(0, start)
    sampler.added(start, n)
    sampler.update(np.arange(start, start + n), priorities)
    return sampler


def wide(n: int = SIZE) -> np.ndarray:
    """Priorities over two decades, in no order."""
    return np.random.default_rng(0).permutation(np.geomspace(0.1, 10.0, n))


def drawn(sampler: rb.Prioritized, batch: int, seed: int, start: int = START) -> np.ndarray:
    """2^20 draws in batches, as slots [batches, batch] (the cumulated order of the tree)."""
    rng = np.random.default_rng(seed)
    n = sampler.window.capacity
    return np.array([sampler.draw(batch, rng)[0] for _ in range(DRAWS // batch)]) % n


def by_slot(masses: np.ndarray, start: int = START) -> np.ndarray:
    """Probabilities in the order of slots."""
    return np.roll(masses / masses.sum(), start % len(masses))


# ---- how often -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_single_draws_come_as_often_as_eq_1_says(alpha: float) -> None:
    """2^20 batches of one: independent draws, a plain chi-square over 64 ids of a wrapped buffer.

    Power against half of the ids 2% too often: > 0.999 (noncentrality > 150, 63 degrees of freedom, at either alpha).
    """
    expected = by_slot(wide() ** alpha)
    assert power(DRAWS, expected, tilted(expected)) > 0.999
    slots = drawn(attached(wide(), alpha=alpha), 1, seed=2)
    assert chi_square(np.bincount(slots[:, 0], minlength=SIZE), expected) > P_MIN


@pytest.mark.parametrize("batch", [7, 16, 256])
def test_each_draw_of_a_batch_comes_from_its_own_range_as_eq_1_says(batch: int) -> None:
    """2^20 draws in stratified batches, each position against the share of its own range (see distribution.py).

    Power against half of the ids 2% too often: > 0.95 at batch 256, and more at smaller ones.
    """
    expected = by_slot(wide() ** 0.6)
    assert stratified_power(DRAWS // batch, batch, expected, tilted(expected)) > 0.95
    slots = drawn(attached(wide(), alpha=0.6), batch, seed=batch)
    assert stratified_chi_square(slots, expected) > P_MIN


@pytest.mark.parametrize("batch", [1, 7, 16, 256])
def test_the_tests_of_frequency_see_a_bias_of_two_percent(batch: int) -> None:
    """The same tests, draws and seeds, with a sampler whose masses lean by 2% in the first half of the slots."""
    expected = by_slot(wide() ** 0.6)
    leaning = np.roll(tilted(expected), -START % -SIZE)
    slots = drawn(attached(leaning, alpha=1.0), batch, seed=2 if batch == 1 else batch)
    if batch == 1:
        assert chi_square(np.bincount(slots[:, 0], minlength=SIZE), expected) < P_MIN
    else:
        assert stratified_chi_square(slots, expected) < P_MIN


def test_a_stratified_batch_takes_one_from_each_range() -> None:
    """A batch as large as the buffer, with equal priorities, is every transition once: App. B.2.1."""
    sampler = attached(np.ones(SIZE), alpha=0.6)
    for seed in range(50):
        ids, _ = sampler.draw(SIZE, np.random.default_rng(seed))
        assert sorted(ids.tolist()) == list(range(START, START + SIZE))


def test_with_alpha_zero_draws_are_uniform_whatever_the_priorities() -> None:
    """Power against a 2% lean: > 0.999999 (noncentrality 419, 63 degrees of freedom)."""
    even = np.full(SIZE, 1 / SIZE)
    assert power(DRAWS, even, tilted(even)) > 0.999999
    priorities = wide()
    priorities[::5] = 0.0
    sampler = attached(priorities, alpha=0.0)
    slots = drawn(sampler, 1, seed=3)
    assert chi_square(np.bincount(slots[:, 0], minlength=SIZE), even) > P_MIN
    assert (sampler.draw(9, np.random.default_rng(0))[1] == 1 / SIZE).all()


def test_alpha_zero_in_a_buffer_that_is_not_full_draws_live_ids_only() -> None:
    buffer = rb.ReplayBuffer(100, sampler=rb.Prioritized(alpha=0.5), seed=0)
    for t in range(7):
        buffer.add(*step(t))
    buffer.sampler.alpha = 0.0
    batch = buffer.sample(1000)
    assert set(batch.indices.tolist()) == set(range(7))
    np.testing.assert_allclose(batch.probabilities, 1 / 7, rtol=1e-15)
    buffer.check_valid()


@pytest.mark.parametrize("alpha", [0.01, 0.6, 1.0])
@pytest.mark.parametrize("batch", [1, 8, 50])
def test_a_zero_priority_is_never_drawn(alpha: float, batch: int) -> None:
    """Also where the zeros stand at the ends of families, of the ring and of the tree: rounding may not lead there."""
    rng = np.random.default_rng(batch)
    for n in (2, 8, 9, 64, 65, 513):
        for _ in range(20):
            priorities = rng.random(n) * 10.0 ** rng.integers(-12, 1, n)
            priorities[rng.random(n) < 0.7] = 0.0
            priorities[rng.integers(n)] = 1e-12
            sampler = attached(priorities, start=n + 3, alpha=alpha, epsilon=0.0)
            for edge in (0.0, np.nextafter(1.0, 0.0), None):
                ids, probabilities = sampler.draw(batch, Constant(edge) if edge is not None else rng)
                assert (priorities[ids - n - 3] > 0).all()
                assert (probabilities > 0).all()


class Constant:
    """A generator that gives one number for ever."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, n: int) -> np.ndarray:
        return np.full(n, self.value)


def test_zero_td_error_without_epsilon_is_never_drawn_and_with_it_is() -> None:
    for epsilon, found in ((0.0, {1}), (1e-2, {0, 1})):
        buffer = rb.ReplayBuffer(2, sampler=rb.Prioritized(epsilon=epsilon), seed=0)
        buffer.add(*step(0))
        buffer.add(*step(1))
        buffer.update_priorities([0, 1], [0.0, 1.0])
        assert set(np.concatenate([buffer.sample(1).indices for _ in range(2000)]).tolist()) == found


def test_a_buffer_of_zero_priorities_says_so_and_recovers() -> None:
    buffer = rb.ReplayBuffer(5, sampler=rb.Prioritized(epsilon=0.0), seed=0)
    for t in range(3):
        buffer.add(*step(t))
    buffer.update_priorities([0, 1, 2], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"every priority .* is 0.*epsilon"):
        buffer.sample(2)
    buffer.update_priorities([1], [-2.0])
    assert set(buffer.sample(9).indices.tolist()) == {1}
    buffer.check_valid()


# ---- probabilities and weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0, 2.0])
def test_probabilities_are_exact(alpha: float) -> None:
    priorities = 10.0 ** np.random.default_rng(1).uniform(-6, 6, 1000)
    sampler = attached(priorities, start=1234, alpha=alpha)
    ids, probabilities = sampler.draw(5000, np.random.default_rng(0))
    masses = [priority**alpha for priority in priorities.tolist()]
    expected = np.array([masses[id_ - 1234] for id_ in ids.tolist()]) / math.fsum(masses)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("weight_norm", ["batch", "buffer", None])
def test_weights_follow_eq_2(alpha: float, beta: float, weight_norm: Any) -> None:
    """w = (N P)^-beta, over the largest in the batch, or the largest that anything in the buffer would have."""
    priorities = 10.0 ** np.random.default_rng(2).uniform(-3, 3, 200)
    sampler = attached(priorities, start=777, alpha=alpha, beta=beta, weight_norm=weight_norm)
    ids, probabilities = sampler.draw(50, np.random.default_rng(0))
    every = priorities**alpha / math.fsum(priorities**alpha)
    expected = (200 * every[ids - 777]) ** -beta
    if weight_norm == "batch":
        expected /= expected.max()
    elif weight_norm == "buffer":
        expected /= ((200 * every) ** -beta).max()
    weights = sampler.weights(probabilities)
    np.testing.assert_allclose(weights, expected, rtol=2e-6)
    if weight_norm is not None:
        assert weights.max() <= 1
    if weight_norm == "batch":
        assert weights.max() == 1


def test_one_near_zero_priority_does_not_scale_the_batchs_weights() -> None:
    """TorchRL divides by the smallest probability of the buffer: all weights become 1e-11 (its own docstring)."""
    priorities = np.ones(100)
    priorities[17] = 1e-30
    sampler = attached(priorities, start=0, alpha=1.0, beta=0.4)
    assert sampler.weights(sampler.draw(32, np.random.default_rng(0))[1]).tolist() == [1.0] * 32


@pytest.mark.parametrize("smallest", [1e-12, 1e-30, 1e-60])
def test_weights_over_the_buffers_largest_hold_for_tiny_priorities_too(smallest: float) -> None:
    """(p_min / p)^beta fits float32 long after p_min / p has left it."""
    sampler = attached(np.array([1.0, smallest, 1.0]), start=0, alpha=1.0, beta=0.4, epsilon=0.0, weight_norm="buffer")
    _, probabilities = sampler.draw(8, np.random.default_rng(0))
    np.testing.assert_allclose(sampler.weights(probabilities), smallest**0.4, rtol=1e-5)


def test_beta_follows_its_schedule_one_position_a_sample() -> None:
    """linear(0.4, 1.0, 5): 0.4, 0.52, …, 1.0 from the sixth call on; probabilities are those of a two-row buffer."""
    buffer = rb.ReplayBuffer(2, sampler=rb.Prioritized(1.0, rb.linear(0.4, 1.0, 5), 0.0, "buffer"), seed=0)
    buffer.add(*step(0))
    buffer.add(*step(1))
    buffer.update_priorities([0, 1], [1.0, 4.0])
    for beta in (0.4, 0.52, 0.64, 0.76, 0.88, 1.0, 1.0, 1.0):
        batch = buffer.sample(10)
        heavy = batch.weights[batch.indices == 1]
        np.testing.assert_allclose(heavy, 0.25**beta, rtol=1e-6)
        assert (batch.weights[batch.indices == 0] == 1).all()


def test_linear_is_a_straight_line_that_ends_exactly_where_it_says() -> None:
    schedule = rb.linear(0.1, 0.7, 3)
    np.testing.assert_allclose([schedule(i) for i in range(6)], [0.1, 0.3, 0.5, 0.7, 0.7, 0.7], rtol=1e-15)
    assert schedule(3) == schedule(10**12) == 0.7
    assert schedule(-5) == 0.1
    assert [rb.linear(1.0, 0.0, 2)(i) for i in range(3)] == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="steps"):
        rb.linear(0.4, 1.0, 0)


def test_beta_can_be_set_at_any_time() -> None:
    sampler = attached(np.array([1.0, 3.0]), start=0, alpha=1.0, beta=0.0, weight_norm=None)
    probabilities = np.array([0.25, 0.75])
    assert sampler.weights(probabilities).tolist() == [1.0, 1.0]
    sampler.beta = 1.0
    np.testing.assert_allclose(sampler.weights(probabilities), [2.0, 2 / 3], rtol=1e-6)


# ---- priorities ------------------------------------------------------------------------------------------------------


@given(
    errors=st.lists(st.floats(-1e100, 1e100, allow_subnormal=False), min_size=1, max_size=20),
    alphas=st.lists(st.sampled_from([0.0, 0.25, 0.6, 1.0, 1.7]), min_size=1, max_size=5),
)
def test_alpha_can_change_at_any_time_exactly(errors: list[float], alphas: list[float]) -> None:
    """A buffer whose alpha was changed on the way equals one that had the last alpha from the start, bit for bit."""
    buffers = [rb.ReplayBuffer(20, sampler=rb.Prioritized(alpha, epsilon=1e-3), seed=1) for alpha in (0.6, alphas[-1])]
    for buffer in buffers:
        for t in range(30):
            buffer.add(*step(t))
        buffer.update_priorities(np.arange(10, 10 + len(errors)), errors)
    for alpha in alphas:
        buffers[0].sampler.alpha = alpha
    for buffer in buffers:
        for t in range(3):  # newcomers after the change
            buffer.add(*step(t))
        buffer.check_valid()
    one, other = (buffer.sample(40) for buffer in buffers)
    assert one.indices.tolist() == other.indices.tolist()
    assert one.probabilities.tobytes() == other.probabilities.tobytes()


def test_the_size_of_a_td_error_counts_and_epsilon_is_added() -> None:
    sampler = rb.Prioritized(epsilon=0.5)
    assert sampler.priorities(np.array([-2.0, 0.0, -0.0, 3.0])).tolist() == [2.5, 0.5, 0.5, 3.5]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"alpha": "0.6"}, "alpha"),
        ({"alpha": None}, "alpha"),
        ({"beta": -1.0}, "beta"),
        ({"beta": "0.4"}, "beta"),
        ({"epsilon": -1e-9}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"weight_norm": "max"}, "weight_norm"),
        ({"weight_norm": True}, "weight_norm"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{words}.*given"):
        rb.Prioritized(**settings)


@pytest.mark.parametrize("alpha", [-0.5, float("nan"), float("inf"), "1", None])
def test_a_bad_alpha_set_later_changes_nothing(alpha: Any) -> None:
    sampler = attached(wide())
    before = sampler.draw(20, np.random.default_rng(0))
    with pytest.raises((ValueError, TypeError), match="alpha"):
        sampler.alpha = alpha
    assert sampler.alpha == 0.6
    assert sampler.draw(20, np.random.default_rng(0))[1].tobytes() == before[1].tobytes()
    sampler.check_valid()


@pytest.mark.parametrize(("priority", "alpha"), [(1e200, 2.0), (1e295, 1.0)])
def test_priorities_too_large_to_sum_are_refused_before_anything_changes(priority: float, alpha: float) -> None:
    """And with an error of ours, not with NumPy's warning of an overflow first."""
    sampler = attached(np.ones(4), start=0, alpha=alpha)
    before = sampler.state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="too large"):
            sampler.update(np.array([0, 1]), np.array([2.0, priority]))
        np.testing.assert_equal(sampler.state(), before)
        sampler.check_valid()
        sampler.alpha = 0.1
        sampler.update(np.array([0, 1]), np.array([2.0, priority]))
        with pytest.raises(ValueError, match="alpha"):
            sampler.alpha = alpha
    assert sampler.alpha == 0.1
    sampler.check_valid()


def test_huge_priorities_that_can_be_summed_are_drawn_rightly() -> None:
    sampler = attached(np.array([1e150, 3e150, 1e-150]), start=0, alpha=1.0)
    ids, probabilities = sampler.draw(400, np.random.default_rng(0))
    assert np.bincount(ids, minlength=3).tolist() == [100, 300, 0]
    np.testing.assert_allclose(probabilities, np.array([0.25, 0.75])[ids], rtol=1e-15)


def test_a_smallest_mass_that_underflows_does_not_turn_into_another_norm() -> None:
    """priority ** alpha may be 0 in float64 where the priority is not: such a row is never drawn and never counts."""
    sampler = attached(np.array([1e-200, 1.0, 3.0]), start=0, alpha=2.0, beta=0.4, epsilon=0.0, weight_norm="buffer")
    weights = sampler.weights(np.array([0.9, 0.9]))  # the batch's own largest would give ones
    np.testing.assert_allclose(weights, (1 / 9) ** 0.4, rtol=1e-6)


# ---- LAP -------------------------------------------------------------------------------------------------------------


class TestPrioritizedWithASmallestPriority(SamplerContract):
    def make(self) -> Sampler:
        return rb.Prioritized(alpha=0.4, beta=0.0, min_priority=1.0)


def test_a_smallest_priority_holds_from_below_and_takes_epsilons_place() -> None:
    """max(|td|, p_min); with an epsilon that is given, max(|td| + epsilon, p_min); without p_min, |td| + 1e-6."""
    errors = np.array([0.0, -0.25, 1.0, -3.0])
    assert rb.Prioritized(min_priority=1.0).priorities(errors).tolist() == [1.0, 1.0, 1.0, 3.0]
    assert rb.Prioritized(min_priority=0.5, epsilon=0.5).priorities(errors).tolist() == [0.5, 0.75, 1.5, 3.5]
    assert rb.Prioritized(min_priority=0.0).priorities(errors).tolist() == [0.0, 0.25, 1.0, 3.0]
    assert rb.Prioritized().priorities(errors).tolist() == [1e-6, 0.25 + 1e-6, 1.0 + 1e-6, 3.0 + 1e-6]
    sampler = rb.Prioritized()
    sampler.min_priority = 2.0
    assert sampler.priorities(errors).tolist() == [2.0, 2.0, 2.0, 3.0 + 1e-6]


def test_lap_draws_as_its_paper_says_and_has_no_weights() -> None:
    """p = max(|td|^alpha, 1) / sum (Fujimoto et al. 2020, eq. 7); 2^18 draws; power against a 4% lean: > 0.999."""
    errors = np.random.default_rng(0).permutation(np.geomspace(0.01, 10.0, SIZE))
    masses = np.maximum(errors**0.4, 1.0)
    expected = by_slot(masses)
    assert power(DRAWS // 4, expected, tilted(expected, 0.04)) > 0.999
    sampler = attached(np.zeros(SIZE), alpha=0.4, beta=0.0, min_priority=1.0)
    sampler.update(np.arange(START, START + SIZE), sampler.priorities(errors))
    np.testing.assert_allclose(
        sampler.probability_of(np.arange(START, START + SIZE)), masses / masses.sum(), rtol=1e-13
    )
    rng = np.random.default_rng(0)
    slots = np.array([sampler.draw(1, rng)[0][0] for _ in range(DRAWS // 4)]) % SIZE
    counts = np.bincount(slots, minlength=SIZE)
    assert chi_square(counts, expected) > P_MIN
    assert chi_square(counts, by_slot(np.maximum(errors**0.4, 0.9))) < P_MIN
    assert sampler.weights(np.array([0.1, 0.01])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "1"])
def test_a_bad_smallest_priority_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"Prioritized: min_priority.*given"):
        rb.Prioritized(min_priority=wrong)


def test_a_state_with_priorities_where_nothing_is_held_is_refused() -> None:
    sampler = rb.Prioritized()
    buffer = rb.ReplayBuffer(8, sampler=sampler, seed=0)
    for t in range(5):
        buffer.add(*step(t))
    buffer.clear()
    for t in range(2):
        buffer.add(*step(t))
    state = sampler.state()
    assert state["priorities"].tolist() == [0, 0, 0, 0, 0, 1, 1]
    for slot in (0, 4):
        wrong = {**state, "priorities": np.where(np.arange(7) == slot, 1.0, state["priorities"])}
        with pytest.raises(ValueError, match="priorities must be 0 in slots that hold nothing"):
            sampler.restore(wrong)
        sampler.check_valid()
    other = rb.Prioritized(alpha=2.0)
    other.attach(8)
    with pytest.raises(ValueError, match=r"1e\+300.*too large to sum"):
        other.restore({**state, "priorities": np.where(np.arange(7) < 5, 0.0, 1e300)})
    other.check_valid()


def test_the_effective_size_of_a_large_buffer_is_summed_exactly_a_part_at_a_time() -> None:
    n = 150_001
    sampler = rb.Prioritized(alpha=1.0, epsilon=0.0)
    sampler.attach(n)
    sampler.added(0, n + 1000)
    priorities = np.random.default_rng(0).random(n) ** 8
    sampler.update(np.arange(1000, n + 1000), priorities)
    assert math.isclose(sampler.effective_size(), math.fsum(priorities) ** 2 / math.fsum(priorities**2), rel_tol=1e-12)
    sampler.update(np.arange(1000, n + 1000), np.zeros(n))
    assert sampler.effective_size() == 0, "nothing can be drawn"
    sampler.update(np.array([n + 5]), np.array([1e-150]))
    assert sampler.effective_size() == 1
