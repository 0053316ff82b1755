"""The figures of a comparison against hand computation and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from replaybank.study import stats
from replaybank.study.stats import Interval


def test_final_return_takes_the_episodes_that_end_in_the_last_fifth() -> None:
    # of 1000 steps the last fifth begins after step 800: an end at 800 is outside, at 801 inside
    assert stats.final_return([400, 800, 801, 1000], [1.0, 50.0, 10.0, 30.0], 1000) == 20.0


def test_final_return_falls_back_to_the_last_episode_and_then_to_nan() -> None:
    assert stats.final_return([100, 700], [3.0, 7.0], 1000) == 7.0
    assert math.isnan(stats.final_return([], [], 1000))


def test_best_window_is_the_largest_mean_of_so_many_in_a_row() -> None:
    returns = [0.0] * 5 + [500.0] * 9 + [250.0] + [0.0] * 5
    assert stats.best_window(returns, 10) == pytest.approx((9 * 500 + 250) / 10)
    assert math.isnan(stats.best_window(returns[:9], 10))


def test_learning_curve_averages_within_intervals_and_bridges_empty_ones() -> None:
    #                   (0,100]  (100,200]  (200,300]: empty  (300,400]
    curve = stats.learning_curve([150, 200, 400], [10.0, 20.0, 50.0], [100, 200, 300, 400])
    np.testing.assert_array_equal(curve, [10.0, 15.0, 15.0, 50.0])
    assert stats.area_under_curve(curve) == pytest.approx(22.5)
    assert np.isnan(stats.learning_curve([], [], [1, 2])).all()


def test_interquartile_mean_of_eight_is_the_mean_of_the_middle_four() -> None:
    assert float(stats.interquartile_mean(np.array([90.0, 1, 2, 3, 4, 5, 6, -70]))) == pytest.approx(
        (2 + 3 + 4 + 5) / 4
    )


def test_bootstrap_of_two_values_is_their_range() -> None:
    # a quarter of the resamples is (a, a), a quarter (b, b): all points beyond the quarters are a and b themselves
    assert stats.bootstrap_interval([2.0, 10.0]) == Interval(6.0, 2.0, 10.0)


def test_bootstrap_interval_agrees_with_the_normal_approximation_for_many_values() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, 400)
    half = 1.959964 * values.std() / math.sqrt(values.size)
    interval = stats.bootstrap_interval(values)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.06 * half)


@pytest.mark.parametrize(("size", "said"), [(5, 0.92), (10, 0.945)])
def test_an_interval_of_few_values_covers_what_its_docstring_says(size: int, said: float) -> None:
    # 1,000 trials: standard error 0.8 points. A plain percentile interval covers 85% and 90%, and fails here
    rng = np.random.default_rng(11)
    intervals = [stats.bootstrap_interval(rng.normal(7.0, 1.0, size), seed=k) for k in range(1_000)]
    assert np.mean([each.low <= 7.0 <= each.high for each in intervals]) == pytest.approx(said, abs=0.025)


def test_bootstrap_is_the_same_for_the_same_seed_and_needs_two_values() -> None:
    values = [1.0, 5.0, 2.0, 9.0]
    assert stats.bootstrap_interval(values, seed=3) == stats.bootstrap_interval(values, seed=3)
    one = stats.bootstrap_interval([4.0])
    assert one.estimate == 4.0
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_equal_values_give_a_point() -> None:
    assert stats.bootstrap_interval([500.0] * 5) == Interval(500.0, 500.0, 500.0)


def test_band_is_the_interval_of_each_point() -> None:
    curves = np.random.default_rng(2).normal(size=(6, 3)) + np.array([0.0, 10.0, 20.0])
    centre, low, high = stats.bootstrap_band(curves)
    np.testing.assert_allclose(centre, curves.mean(axis=0))
    for point in range(3):
        interval = stats.bootstrap_interval(curves[:, point])
        assert low[point] == pytest.approx(interval.low, abs=0.1)
        assert high[point] == pytest.approx(interval.high, abs=0.1)


def test_pairing_removes_what_the_seeds_share() -> None:
    shared = np.array([0.0, 100.0, 200.0, 300.0, 400.0])
    assert stats.paired_difference(shared + 5, shared) == Interval(5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="given 5 and 4"):
        stats.paired_difference(shared, shared[:4])


def test_wilson_interval_is_the_closed_form() -> None:
    successes, trials, z = 7, 10, 1.959964
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    interval = stats.wilson_interval(successes, trials)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx(
        (0.7, centre - half, centre + half), abs=1e-6
    )
    assert math.isnan(stats.wilson_interval(0, 0).estimate)


@pytest.mark.parametrize(
    ("interval", "seeds", "words"),
    [
        (Interval(5.0, 1.0, 9.0), 5, "uniform ends higher"),
        (Interval(-5.0, -9.0, -1.0), 5, "uniform ends lower"),
        (Interval(5.0, -1.0, 9.0), 5, "holds 0, no difference shown"),
        (Interval(5.0, 0.0, 9.0), 5, "holds 0, no difference shown"),
        (Interval(5.0, 1.0, 9.0), 4, "no claim with only 4 seeds"),
        (Interval(5.0, math.nan, math.nan), 1, "no interval and no claim"),
    ],
)
def test_the_words_claim_no_more_than_the_interval(interval: Interval, seeds: int, words: str) -> None:
    said = stats.verdict("uniform", "online", interval, seeds)
    assert words in said
    assert ("ends higher" in said) == (words == "uniform ends higher")
