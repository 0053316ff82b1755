"""Emphasizing recent experience: uniform draws from the newest c_k (Wang & Ross 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contract import SamplerContract, step

import replaybank as rb
from distribution import P_MIN, chi_square, power, tilted
from replaybank.samplers.base import Sampler

DRAWS = 2**20


class TestRecent(SamplerContract):
    def make(self) -> Sampler:
        return rb.Recent(eta=0.9, updates=100, minimum=5)


class TestRecentAnnealed(SamplerContract):
    def make(self) -> Sampler:
        return rb.Recent(eta=rb.linear(0.99, 1.0, 50), updates=7, minimum=1)


def attached(size: int, capacity: int, start: int = 0, **settings: Any) -> rb.Recent:
    sampler = rb.Recent(**settings)
    sampler.attach(capacity)
    sampler.added(0, start)
    sampler.added(start, size)
    return sampler


def advance(sampler: rb.Recent, calls: int) -> None:
    for _ in range(calls):
        sampler.weights(np.ones(1))


def test_the_range_shrinks_as_the_paper_says_and_starts_anew_each_round() -> None:
    """c_k = max(N eta^(k 1000 / K), c_min), k = 1 … K; by hand for N = 1000, eta = 0.998, K = 4, c_min = 200."""
    sampler = attached(1000, 1000, start=3000, eta=0.998, updates=4, minimum=200)
    by_hand = [606, 367, 222, 200]  # 1000 * 0.998^250 = 606.2…, ^500 = 367.5…, ^750 = 222.8…, ^1000 = 135.0…
    for _ in range(3):
        for expected in by_hand:
            assert sampler.reach == expected
            advance(sampler, 1)


def test_it_never_reaches_beyond_what_there_is() -> None:
    sampler = attached(10, 1000, eta=0.9, updates=100, minimum=50)
    assert sampler.reach == 10
    sampler.added(10, 30)
    assert sampler.reach == 40
    sampler.dropped(40)
    sampler.added(40, 2)
    assert sampler.reach == 2
    assert set(sampler.draw(100, np.random.default_rng(0))[0].tolist()) == {40, 41}


def test_only_the_newest_are_drawn_and_each_equally_often() -> None:
    """2^20 draws from the newest 48 of 64 in a wrapped buffer. Power against a 2% lean: > 0.999999."""
    sampler = attached(64, 64, start=197, eta=0.755 ** (1 / 1000), updates=1, minimum=1)
    assert sampler.reach == 48
    expected = np.concatenate([np.zeros(16), np.full(48, 1 / 48)])
    assert power(DRAWS, expected[16:], tilted(expected[16:])) > 0.999999
    ids, probabilities = sampler.draw(DRAWS, np.random.default_rng(0))
    counts = np.bincount(ids - 197, minlength=64)
    assert chi_square(counts, expected) > P_MIN
    assert (probabilities == 1 / 48).all()
    np.testing.assert_array_equal(sampler.probability_of(np.arange(197, 261)), expected)


def test_the_test_of_frequency_sees_a_range_that_is_one_too_short() -> None:
    sampler = attached(64, 64, start=197, eta=0.74 ** (1 / 1000), updates=1, minimum=1)
    assert sampler.reach == 47
    counts = np.bincount(sampler.draw(DRAWS, np.random.default_rng(0))[0] - 197, minlength=64)
    assert chi_square(counts[16:], np.full(48, 1 / 48)) < P_MIN


def test_with_eta_one_draws_are_those_of_a_uniform_sampler() -> None:
    recent, uniform = attached(50, 50, start=70, eta=1.0), rb.Uniform()
    uniform.attach(50)
    uniform.added(0, 120)
    for n in (1, 7, 100):
        a, b = (sampler.draw(n, np.random.default_rng(n)) for sampler in (recent, uniform))
        assert a[0].tobytes() == b[0].tobytes()
        assert a[1].tobytes() == b[1].tobytes()


def test_a_redraw_within_a_sample_stays_in_its_update() -> None:
    """The position moves on in `weights`, once a `sample`, however often the view makes the buffer draw."""

    class Odd(rb.Transition):
        def usable(self, rows: Any, ids: np.ndarray) -> Any:
            return ids % 2 == 1

    sampler = rb.Recent(eta=0.99, updates=10, minimum=1)
    buffer = rb.ReplayBuffer(100, sampler=sampler, view=Odd(), seed=0)
    for t in range(100):
        buffer.add(*step(t))
    for k in range(1, 11):
        reach = int(100 * 0.99 ** (k * 100))
        assert sampler.reach == max(reach, 1)
        if reach > 1:
            assert buffer.sample(20).indices.min() >= 100 - reach
        else:
            sampler.weights(np.ones(1))


def test_a_new_number_of_updates_begins_a_round_and_a_checkpoint_keeps_it() -> None:
    sampler = attached(1000, 1000, eta=0.998, updates=4, minimum=1)
    advance(sampler, 3)
    sampler.updates = 2
    twin = attached(5, 1000, eta=0.998, updates=2, minimum=1)
    twin.restore(sampler.state())
    for each in (sampler, twin):
        found = []
        for _ in range(3):
            found.append(each.reach)
            advance(each, 1)
        assert found == [367, 135, 367]


def test_eta_may_be_annealed() -> None:
    sampler = attached(1000, 1000, eta=rb.linear(0.998, 1.0, 2), updates=1, minimum=1)
    found = []
    for _ in range(4):
        found.append(sampler.reach)
        advance(sampler, 1)
    assert found == [135, 367, 1000, 1000]  # 0.998^1000, 0.999^1000, 1


def test_weights_are_ones() -> None:
    assert attached(9, 9).weights(np.full(4, 0.1)).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eta": 0.0}, "eta"),
        ({"eta": 1.01}, "eta"),
        ({"eta": float("nan")}, "eta"),
        ({"eta": "0.99"}, "eta"),
        ({"updates": 0}, "updates"),
        ({"updates": 2.5}, "updates"),
        ({"minimum": 0}, "minimum"),
        ({"minimum": True}, "minimum"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"Recent: {words}.*given"):
        rb.Recent(**settings)
