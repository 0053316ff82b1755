"""The newest transition is in every batch (Zhang & Sutton 2017), and the numbers say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contract import CAPACITY, SamplerContract, step

import replaybank as rb
from distribution import P_MIN, chi_square, power, tilted
from replaybank.samplers.base import Sampler


class CombinedContract(SamplerContract):
    newest = 1

    def shares(self, sampler: Sampler, ids: np.ndarray, n: int) -> np.ndarray:
        m = min(self.newest, n)
        sure = np.isin(ids, np.arange(self.added_so_far - m, self.added_so_far))
        return (sure + (n - m) * sampler.sampler.probability_of(ids)) / n

    def attached(self, calls: int = 60, capacity: int = CAPACITY) -> Sampler:
        sampler = super().attached(calls, capacity)
        if calls:
            sampler.weights(np.ones(1))
        return sampler

    def test_drawing_changes_nothing_that_the_next_draw_depends_on(self) -> None:
        """But for this: within one call of `sample`, the newest come in the first draw only."""
        sampler = self.attached()
        first = sampler.draw(20, np.random.default_rng(3))
        sampler.draw(9, np.random.default_rng(4))
        sampler.weights(np.ones(1))
        again = sampler.draw(20, np.random.default_rng(3))
        assert first[0].tobytes() == again[0].tobytes()
        assert first[1].tobytes() == again[1].tobytes()


class TestCombined(CombinedContract):
    def make(self) -> Sampler:
        return rb.Combined()


class TestCombinedWithPrioritized(CombinedContract):
    newest = 4

    def make(self) -> Sampler:
        return rb.Combined(rb.Prioritized(), newest=4)


def filled(sampler: rb.Combined, size: int = 64, view: rb.Transition | None = None) -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(size, sampler=sampler, view=view, seed=0)
    for t in range(size + 21):
        buffer.add(*step(t))
    return buffer


def test_the_newest_is_in_every_batch() -> None:
    buffer = filled(rb.Combined())
    for t in range(50):
        newest = buffer.add(*step(t))
        for n in (1, 2, 32):
            assert buffer.sample(n).indices[0] == newest


def test_of_several_streams_each_ones_last_step_is_in() -> None:
    buffer = rb.ReplayBuffer(100, streams=4, sampler=rb.Combined(newest=4), seed=0)
    for t in range(40):
        obs = np.arange(4.0) * 100 + t
        first = buffer.add(obs, np.zeros(4, int), obs, obs + 1, np.zeros(4, bool), np.zeros(4, bool))
        assert buffer.sample(10).indices[:4].tolist() == [first + 3, first + 2, first + 1, first]
        assert buffer.sample(3).indices.tolist() == [first + 3, first + 2, first + 1]


def test_the_rest_is_drawn_as_the_sampler_draws() -> None:
    """2^17 batches of 9: 2^20 draws of Uniform beside the newest. Power against a 2% lean: > 0.999999."""
    even = np.full(64, 1 / 64)
    assert power(2**20, even, tilted(even)) > 0.999999
    sampler = rb.Combined()
    sampler.attach(64)
    sampler.added(0, 200)
    rng = np.random.default_rng(0)
    counts = np.zeros(64, int)
    first = 0
    for _ in range(2**10):
        ids = []
        for _ in range(2**7):
            ids.append(sampler.draw(9, rng)[0])
            sampler.weights(np.ones(1))
        batches = np.array(ids)
        first += int((batches[:, 0] == 199).sum())
        counts += np.bincount(batches[:, 1:].ravel() - 136, minlength=64)
    assert first == 2**17
    assert chi_square(counts, even) > P_MIN
    counts[-1] += 2**17 // 64  # if the newest came a little more often in the rest, the test would see it
    assert chi_square(counts, even) < P_MIN


def test_probabilities_are_expected_shares_of_the_batch() -> None:
    """Counted: 100,000 batches of 4 with the 2 newest of 5; how often each id comes, over all places. 3.5 sigma."""
    inner = rb.Prioritized(alpha=1.0, epsilon=0.0)
    sampler = rb.Combined(inner, newest=2)
    sampler.attach(5)
    sampler.added(0, 5)
    sampler.update(np.arange(5), np.array([1.0, 2.0, 3.0, 4.0, 0.0]))
    rng = np.random.default_rng(0)
    counts, shares = np.zeros(5), np.zeros(5)
    for _ in range(100_000):
        ids, probabilities = sampler.draw(4, rng)
        sampler.weights(probabilities)
        counts += np.bincount(ids, minlength=5)
        shares[ids] = probabilities
    by_hand = np.array([2 * 0.1, 2 * 0.2, 2 * 0.3, 1 + 2 * 0.4, 1 + 2 * 0.0]) / 4
    np.testing.assert_allclose(shares, by_hand, rtol=1e-14)
    np.testing.assert_allclose(counts / 400_000, by_hand, atol=3.5 * 0.5 / np.sqrt(400_000))


@pytest.mark.parametrize("newest", [1, 3])
def test_weighted_means_are_unbiased_with_beta_one(newest: int) -> None:
    """30,000 batches; values of up to 40 that grow with age. Within 4 standard errors, and the plain mean is not."""
    sampler = rb.Combined(rb.Prioritized(alpha=0.8, beta=1.0, weight_norm=None), newest=newest)
    sampler.attach(40)
    sampler.added(0, 40)
    rng = np.random.default_rng(1)
    sampler.update(np.arange(40), rng.random(40) + 0.1)
    values = np.arange(40.0)[::-1]
    weighted, plain = np.empty(30_000), np.empty(30_000)
    for i in range(30_000):
        ids, probabilities = sampler.draw(8, rng)
        weighted[i] = (sampler.weights(probabilities) * values[ids]).mean()
        plain[i] = values[ids].mean()
    error = 4 * weighted.std() / np.sqrt(30_000)
    assert error < 0.4
    assert abs(weighted.mean() - values.mean()) < error
    assert abs(plain.mean() - values.mean()) > 5 * error


def test_with_uniform_all_weights_are_one() -> None:
    assert filled(rb.Combined()).sample(20).weights.tolist() == [1.0] * 20


def test_what_is_drawn_again_within_a_sample_does_not_bring_the_newest_again() -> None:
    sampler = rb.Combined()
    sampler.attach(10_000)
    sampler.added(0, 10_000)
    rng = np.random.default_rng(0)
    for n in (1, 5):
        assert sampler.draw(n, rng)[0][0] == 9_999
        assert 9_999 not in sampler.draw(5, rng)[0]
        assert (sampler.probability_of(np.array([9_999])) == 1e-4).all()
        sampler.weights(np.ones(1))


def test_a_newest_one_that_the_view_refuses_is_replaced() -> None:
    class NotTheNewest(rb.Transition):
        def usable(self, rows: Any, ids: np.ndarray) -> Any:
            return ids < rows.added - 1

    buffer = filled(rb.Combined(), view=NotTheNewest())
    for n in (1, 5):
        assert buffer.sample(n).indices.max() < 84


def test_priorities_pass_through() -> None:
    inner = rb.Prioritized(epsilon=0.0)
    buffer = filled(rb.Combined(inner))
    assert buffer.update_priorities([80, 81, 3], [5.0, -6.0, 1.0]) == (2, 1)
    assert inner.priority_of(np.array([80, 81])).tolist() == [5.0, 6.0]


def test_a_buffer_smaller_than_newest_gives_all_it_has_first() -> None:
    buffer = rb.ReplayBuffer(10, sampler=rb.Combined(newest=5), seed=0)
    buffer.add(*step(0))
    buffer.add(*step(1))
    batch = buffer.sample(6)
    assert batch.indices[:2].tolist() == [1, 0]
    np.testing.assert_allclose(batch.probabilities, 0.5)


@pytest.mark.parametrize("newest", [0, -1, 1.5, "2", True])
def test_a_bad_number_is_refused(newest: Any) -> None:
    with pytest.raises(ValueError, match=r"Combined: newest.*given"):
        rb.Combined(newest=newest)


@pytest.mark.parametrize("sampler", [rb.Uniform, "uniform", 3])
def test_what_is_no_sampler_is_refused(sampler: Any) -> None:
    with pytest.raises(TypeError, match=r"Combined: expected a sampler"):
        rb.Combined(sampler)


def test_the_newest_come_with_weights_where_every_priority_is_zero() -> None:
    """A batch that needs no draw of the sampler has no largest weight of the buffer to go by."""
    sampler = rb.Combined(rb.Prioritized(epsilon=0.0, weight_norm="buffer"), newest=2)
    buffer = rb.ReplayBuffer(10, sampler=sampler, seed=0)
    for i in range(5):
        buffer.add(float(i), 0, 0.0, i + 1.0, False, False)
    buffer.update_priorities(np.arange(5), np.zeros(5))
    batch = buffer.sample(2)
    assert batch.indices.tolist() == [4, 3]
    assert batch.weights.tolist() == [1, 1]


@pytest.mark.parametrize(("n", "newest"), [(1, 1), (32, 1), (32, 4), (3, 4), (100, 90)])
@pytest.mark.parametrize("make", [rb.Uniform, rb.Prioritized], ids=["uniform", "prioritized"])
def test_the_effective_size_is_that_of_a_batch_as_the_last_one(make: Any, n: int, newest: int) -> None:
    buffer = filled(rb.Combined(make(), newest=newest))
    live = np.arange(21, 85)
    buffer.update_priorities(live, np.random.default_rng(0).normal(size=64) ** 3)
    assert buffer.sampler.effective_size() == 1, "before there was a batch"
    buffer.sample(n)
    m = min(newest, n, 64)
    sure = live >= 85 - m
    shares = (sure + (n - m) * buffer.sampler.sampler.probability_of(live)) / n
    assert abs(shares.sum() - 1) < 1e-12
    np.testing.assert_allclose(buffer.sampler.effective_size(), 1 / (shares**2).sum(), rtol=1e-12)
    other = rb.Combined(make(), newest=newest)
    other.attach(64)
    other.restore(buffer.sampler.state())
    assert other.effective_size() == buffer.sampler.effective_size()


def test_the_newest_is_in_the_batch_after_one_that_failed() -> None:
    class Fails(rb.Transition):
        fails = False

        def read(self, *given: Any) -> rb.Batch:
            if self.fails:
                raise RuntimeError("the user's own")
            return super().read(*given)

    view = Fails()
    buffer = filled(rb.Combined(newest=2), view=view)
    for _ in range(20):
        view.fails = True
        with pytest.raises(RuntimeError, match="the user's own"):
            buffer.sample(4)
        view.fails = False
        assert buffer.sample(4).indices[:2].tolist() == [84, 83]


def test_the_newest_is_in_the_batch_after_weights_that_failed() -> None:
    beta = [0.5]
    buffer = filled(rb.Combined(rb.Prioritized(beta=lambda _: beta[0])))
    buffer.sample(4)
    size = buffer.sampler.effective_size()
    beta[0] = np.nan
    with pytest.raises(ValueError, match="beta"):
        buffer.sample(9)
    assert buffer.sampler.effective_size() == size
    beta[0] = 0.5
    assert buffer.sample(4).indices[0] == 84
