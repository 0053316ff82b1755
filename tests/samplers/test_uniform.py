"""Uniform draws: every live id equally often, each batch independent, or without repetition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from contract import SamplerContract, step

import replaybank as rb
from distribution import P_MIN, chi_square, power, tilted
from replaybank import kernels
from replaybank.samplers.base import Sampler

DRAWS = 2**20
SIZE = 64
EVEN = np.full(SIZE, 1 / SIZE)


class TestUniform(SamplerContract):
    def make(self) -> Sampler:
        return rb.Uniform()


class TestUniformWithoutReplacement(SamplerContract):
    replace = False

    def make(self) -> Sampler:
        return rb.Uniform(replace=False)


class Leaning:
    """A generator whose uniform numbers fall into the first half of [0, 1) with probability (1 + by) / 2."""

    def __init__(self, seed: int, by: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.half = (1 + by) / 2

    def random(self, n: int) -> np.ndarray:
        u = self.rng.random(n)
        return np.where(u < self.half, u / self.half / 2, 0.5 + (u - self.half) / (1 - self.half) / 2)


def attached(size: int, capacity: int, start: int = 0, replace: bool = True) -> rb.Uniform:
    sampler = rb.Uniform(replace)
    sampler.attach(capacity)
    sampler.added(0, start)
    sampler.added(start, size)
    return sampler


def p_value(rng: Any, batch: int) -> float:
    sampler = attached(SIZE, SIZE, start=SIZE * 3 + 5)
    first = SIZE * 3 + 5
    ids = np.concatenate([sampler.draw(batch, rng)[0] for _ in range(DRAWS // batch)])
    return chi_square(np.bincount(ids - first, minlength=SIZE), EVEN)


@pytest.mark.parametrize("batch", [1, 16, 1024])
def test_every_live_id_is_drawn_equally_often(batch: int) -> None:
    """2^20 draws over 64 ids of a wrapped buffer; draws are independent, so counts are multinomial for any batch size.

    Power against 32 ids drawn 2% too often and 32 2% too rarely: > 0.999999 (noncentrality 419, 63 degrees of freedom).
    """
    assert power(DRAWS, EVEN, tilted(EVEN)) > 0.999999
    assert p_value(np.random.default_rng(20 + batch), batch) > P_MIN


@pytest.mark.parametrize("batch", [16, 1024])
def test_the_test_of_equal_frequency_sees_a_bias_of_two_percent(batch: int) -> None:
    assert p_value(Leaning(20 + batch, 0.02), batch) < P_MIN
    assert p_value(Leaning(20 + batch, 0.0), batch) > P_MIN


def test_a_batch_without_replacement_is_every_ordered_choice_equally_often() -> None:
    """All 5 * 4 * 3 = 60 ordered batches of three out of five, in 350,000 batches (1,050,000 draws).

    Power against half of them 2% too frequent: > 0.96 (noncentrality 140, 59 degrees of freedom).
    """
    batches = 350_000
    even = np.full(60, 1 / 60)
    assert power(batches, even, tilted(even)) > 0.96
    sampler = attached(5, 5, start=7, replace=False)
    rng = np.random.default_rng(1)
    drawn = np.array([sampler.draw(3, rng)[0] for _ in range(batches)]) - 7
    _, observed = np.unique(drawn @ np.array([25, 5, 1]), return_counts=True)
    assert len(observed) == 60
    assert chi_square(observed, even) > P_MIN


@pytest.mark.parametrize("size", [1, 2, 9, 100])
def test_without_replacement_no_id_comes_twice_and_all_can_be_had(size: int) -> None:
    sampler = attached(size, size, start=13, replace=False)
    for n in {1, size // 2 or 1, size}:
        ids, probabilities = sampler.draw(n, np.random.default_rng(size))
        assert len(np.unique(ids)) == n
        assert (probabilities == 1 / size).all()
    assert sorted(sampler.draw(size, np.random.default_rng(0))[0]) == list(range(13, 13 + size))


def test_more_than_it_holds_is_refused_without_replacement_and_takes_no_random_number() -> None:
    buffer = rb.ReplayBuffer(10, sampler=rb.Uniform(replace=False), seed=0)
    twin = rb.ReplayBuffer(10, sampler=rb.Uniform(replace=False), seed=0)
    for t in range(4):
        buffer.add(*step(t))
        twin.add(*step(t))
    with pytest.raises(ValueError, match=r"at most 4 .*asked for 5"):
        buffer.sample(5)
    assert buffer.sample(4).indices.tolist() == twin.sample(4).indices.tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 2**24 + 1, 2**30 - 1, 2**30 + 1, 2**31 - 1])
def test_the_largest_uniform_number_leads_to_the_newest_id(size: int) -> None:
    """Rounding must not lead one past the end: floor(u * size) in exact arithmetic, or one less."""
    uniforms = np.array([0.0, 0.5, 1 / 3, np.nextafter(1.0, 0.0)])
    ids = np.empty(4, np.int64)
    kernels.spread(uniforms.copy(), 10**12, size, ids)
    assert ids[0] == 10**12
    assert ids[-1] == 10**12 + size - 1
    for u, id_ in zip(uniforms.tolist(), ids.tolist(), strict=True):
        assert abs(id_ - 10**12 - math.floor(u * size)) <= 1


def test_weights_are_ones_and_probabilities_one_over_the_size() -> None:
    buffer = rb.ReplayBuffer(10)
    for t in range(25):
        buffer.add(*step(t))
        batch = buffer.sample(6)
        assert (batch.probabilities == 1 / min(t + 1, 10)).all()
        assert batch.weights.tolist() == [1.0] * 6
