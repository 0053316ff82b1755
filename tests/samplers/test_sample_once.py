"""Epochs: each live transition once before any comes twice, while others come and go."""

from __future__ import annotations

import copy
import itertools
import time
from typing import Any

import numpy as np
import pytest
from contract import SamplerContract, step

import replaybank as rb
from distribution import P_MIN, chi_square, power, tilted
from replaybank.samplers.base import Sampler


class TestSampleOnce(SamplerContract):
    def make(self) -> Sampler:
        return rb.SampleOnce()

    def test_drawing_changes_nothing_that_the_next_draw_depends_on(self) -> None:
        """Here it does: what was drawn does not come again."""
        sampler = self.attached()
        sampler.draw(sampler.left, np.random.default_rng(0))
        first = sampler.draw(20, np.random.default_rng(3))[0]
        second = sampler.draw(CAPACITY - 20, np.random.default_rng(3))[0]
        assert not set(first.tolist()) & set(second.tolist())


CAPACITY = 37
EPOCHS = 50_000


def attached(size: int, capacity: int, start: int = 0) -> rb.SampleOnce:
    sampler = rb.SampleOnce()
    sampler.attach(capacity)
    sampler.added(0, start)
    sampler.added(start, size)
    return sampler


@pytest.mark.parametrize("capacity", [1, 2, 5, 40, 200])
def test_a_life_agrees_with_a_model_in_plain_python(capacity: int) -> None:
    """The model: a set of ids that wait. Every draw takes from it; where it is empty, all live ids wait again."""
    sampler = rb.SampleOnce()
    sampler.attach(capacity)
    rng = np.random.default_rng(capacity)
    waiting: set[int] = set()
    live: list[int] = []
    added = 0
    for turn in range(400):
        n = int(rng.choice([0, 1, 1, 2, capacity // 3, 2 * capacity + 1], p=[0.2, 0.3, 0.2, 0.2, 0.08, 0.02]))
        sampler.added(added, n)
        live = [*live, *range(added, added + n)][-capacity:]
        waiting = (waiting | set(range(added, added + n))) & set(live)
        added += n
        sampler.check_valid()
        if turn % 9 == 8:
            oldest = added if turn % 97 == 96 else int(rng.integers(max(0, added - 2 * capacity), added + 1))
            sampler.dropped(oldest)
            live = [id_ for id_ in live if id_ >= oldest]
            waiting = waiting & set(live)
            sampler.check_valid()
        if not live:
            continue
        size = int(rng.integers(1, len(live) + 1))
        ids = sampler.draw(size, rng)[0].tolist()
        assert len(set(ids)) == size
        for id_ in ids:
            if not waiting:
                waiting = set(live)
            assert id_ in waiting, "it came twice in an epoch, or is not live"
            waiting.remove(id_)
        assert sampler.left == len(waiting)
        sampler.check_valid()


def test_a_batch_at_the_end_of_an_epoch_goes_on_into_the_next_without_repeating_itself() -> None:
    """Batches of 7 from 10: 3 are left over, and the same batch's other 4 are none of these 3."""
    sampler = attached(10, 10, start=5)
    rng = np.random.default_rng(0)
    drawn: list[int] = []
    for _ in range(200):
        ids = sampler.draw(7, rng)[0].tolist()
        assert len(set(ids)) == 7
        drawn += ids
    epochs = [drawn[i : i + 10] for i in range(0, len(drawn), 10)]
    assert all(sorted(epoch) == list(range(5, 15)) for epoch in epochs)


def test_every_order_of_an_epoch_comes_equally_often() -> None:
    """All 120 orders of 5, in 50,000 epochs drawn two at a time and one at a time (250,000 draws).

    Power against half of them 8% too frequent: > 0.99 (119 degrees of freedom).
    """
    even = np.full(120, 1 / 120)
    assert power(EPOCHS, even, tilted(even, 0.08)) > 0.99
    sampler = attached(5, 5, start=7)
    rng = np.random.default_rng(4)
    orders = {order: i for i, order in enumerate(itertools.permutations(range(7, 12)))}
    counts = np.zeros(120, int)
    for _ in range(EPOCHS):
        counts[orders[tuple(np.concatenate([sampler.draw(n, rng)[0] for n in (2, 1, 2)]).tolist())]] += 1
    assert chi_square(counts, even) > P_MIN


class Leaning:
    """A generator whose uniform numbers fall below 1/2 with probability 0.53."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def random(self, n: int) -> np.ndarray:
        u = self.rng.random(n)
        return np.where(u < 0.53, u / 0.53 / 2, 0.5 + (u - 0.53) / 0.47 / 2)


def test_the_test_of_order_sees_random_numbers_that_lean() -> None:
    sampler = attached(5, 5, start=7)
    rng = Leaning(4)
    orders = {order: i for i, order in enumerate(itertools.permutations(range(7, 12)))}
    counts = np.zeros(120, int)
    for _ in range(EPOCHS):
        # Each epoch from the same deck: else the lean of one order is spread over all by the next.
        sampler.dropped(sampler.window.added)
        sampler.added(sampler.window.added, 5)
        ids = np.concatenate([sampler.draw(n, rng)[0] for n in (2, 1, 2)])
        counts[orders[tuple((ids - sampler.window.oldest + 7).tolist())]] += 1
    assert chi_square(counts, np.full(120, 1 / 120)) < P_MIN


def test_what_is_added_during_an_epoch_joins_it() -> None:
    sampler = attached(6, 10)
    rng = np.random.default_rng(0)
    first = sampler.draw(4, rng)[0].tolist()
    sampler.added(6, 3)
    assert sampler.left == 5
    second = sampler.draw(5, rng)[0].tolist()
    assert sorted(first + second) == list(range(9))


def test_what_is_overwritten_leaves_the_epoch_whether_it_was_drawn_or_not() -> None:
    sampler = attached(6, 6)
    rng = np.random.default_rng(0)
    drawn = set(sampler.draw(3, rng)[0].tolist())
    sampler.added(6, 4)  # 0 to 3 leave
    rest = set(sampler.draw(sampler.left, rng)[0].tolist())
    assert rest == {4, 5, 6, 7, 8, 9} - drawn
    assert sampler.left == 0


def test_a_small_epoch_serves_a_buffer_of_any_capacity_in_the_same_time() -> None:
    """No draw, not at the end of an epoch either, goes through all of a million: beside one of a thousand, the best of
    several crossings takes less than 20 times as long; a pass over all would take 1000 times."""
    best = {}
    for size in (1_000, 1_000_000):
        sampler = attached(size, size)
        rng = np.random.default_rng(0)
        times = []
        for _ in range(8):
            sampler.draw(sampler.left - 7 or size, rng)
            began = time.perf_counter()
            sampler.draw(32, rng)  # crosses into the next epoch
            times.append(time.perf_counter() - began)
            assert sampler.left == size - 25
        best[size] = min(times)
    assert best[1_000_000] < 20 * best[1_000]


def test_more_than_it_holds_is_refused_and_takes_nothing() -> None:
    sampler = attached(4, 10)
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"at most 4 .*asked for 5"):
        sampler.draw(5, rng)
    assert sampler.left == 4
    assert rng.random() == twin.random()


def test_an_epoch_through_a_buffer() -> None:
    buffer = rb.ReplayBuffer(100, sampler=rb.SampleOnce(), seed=0)
    for t in range(130):
        buffer.add(*step(t))
    batches = [buffer.sample(20) for _ in range(5)]
    assert sorted(np.concatenate([batch.indices for batch in batches]).tolist()) == list(range(30, 130))
    assert all(batch.weights.tolist() == [1.0] * 20 for batch in batches)
    assert all((batch.probabilities == 0.01).all() for batch in batches)
    buffer.check_valid()


def test_a_state_with_slots_that_hold_nothing_is_refused() -> None:
    sampler = rb.SampleOnce()
    buffer = rb.ReplayBuffer(8, sampler=sampler, seed=0)
    for t in range(5):
        buffer.add(*step(t))
    buffer.clear()
    for t in range(5):
        buffer.add(*step(t))
    state = copy.deepcopy(sampler.state())
    assert sorted(state["slots"].tolist()) == [0, 1, 5, 6, 7]
    for wrong in (2, 4):
        slots = np.where(state["slots"] == 6, wrong, state["slots"]).astype(np.uint32)
        with pytest.raises(ValueError, match=r"slots must be .* found one that holds nothing"):
            sampler.restore({**state, "slots": slots})
        sampler.check_valid()
        assert len(sampler.window) == 0


def test_what_a_call_that_failed_had_drawn_still_comes_in_its_epoch() -> None:
    class Refuses(rb.Transition):
        refuses = False

        def usable(self, rows: Any, ids: np.ndarray) -> np.ndarray:
            return np.full(len(ids), not self.refuses)

    view, sampler = Refuses(), rb.SampleOnce()
    buffer = rb.ReplayBuffer(100, sampler=sampler, view=view, seed=0)
    for t in range(100):
        buffer.add(*step(t))
    epoch: list[int] = []
    for _ in range(10):
        view.refuses = True
        with pytest.raises(ValueError, match="could use too few"):
            buffer.sample(7)  # redraws go round and round
        assert sampler.left == 100, "it had begun other epochs: a new one begins"
        view.refuses = False
        buffer.check_valid()
    for n in (20, 30, 50):
        epoch += buffer.sample(n).indices.tolist()
        left = sampler.left
        sampler.draw(min(left, 5), np.random.default_rng(0))
        sampler.failed()
        assert sampler.left == left
    assert sorted(epoch) == list(range(100))
