"""What every sampler must do, whatever its distribution. A test class of a sampler derives from `SamplerContract`."""

from __future__ import annotations

import copy
import json
import math
import pickle
import tracemalloc
from collections import deque
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank.plain import described, rebuilt
from replaybank.samplers.base import Sampler

CAPACITY = 37


def step(t: int) -> tuple[Any, ...]:
    return np.float32([t]), t, 1.0, np.float32([t + 1]), False, False


def leaves(state: Any) -> list[Any]:
    """All that a state holds in the end."""
    return [value for _, value in entries(state)]


def entries(state: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every entry that is no dict, and the way to it."""
    if not isinstance(state, dict):
        return [(path, state)]
    return [one for name, value in state.items() for one in entries(value, (*path, name))]


def with_entry(state: Any, path: tuple[str, ...], value: Any) -> Any:
    """The same state with another entry there; None: with none."""
    if not path:
        return value
    changed = {name: kept for name, kept in state.items() if name != path[0]}
    inner = with_entry(state[path[0]], path[1:], value)
    return changed if inner is None else {**changed, path[0]: inner}


def wrong_ones(value: Any) -> list[Any]:
    """What cannot stand in this one's place."""
    if not isinstance(value, np.ndarray):
        return [None, -1, 2**63, 1.5, "1", [], np.zeros(1), *([1] if isinstance(value, bool) else [True])]
    first = np.arange(len(value)) == 0
    wrong = [None, 1, value.tolist(), value[1:], np.append(value, value[:1]), value[:, None], value.astype(">i2")]
    if value.dtype == np.float64:
        return wrong + [np.where(first, one, value) for one in (-1.0, np.nan, np.inf, -np.inf)]
    return wrong + [np.where(first, one, value).astype(value.dtype) for one in (value[1], CAPACITY, 2**32 - 1)]


def differs(a: Any, b: Any) -> bool:
    try:
        np.testing.assert_equal(a, b)
    except AssertionError:
        return True
    return False


def unordered(state: Any) -> Any:
    """A copy of a state, in which slots that wait, and those that were dealt, are in order: theirs says nothing."""
    if not isinstance(state, dict):
        return copy.deepcopy(state)
    state = {name: unordered(value) for name, value in state.items()}
    if "slots" in state:
        state["slots"][: state["left"]].sort()
        state["slots"][state["left"] :].sort()
    return state


def peak_of(call: Any) -> tuple[Any, int]:
    """What a call gives, and the most bytes it held at once beyond what there was."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    return call(), tracemalloc.get_traced_memory()[1] - before


class SamplerContract:
    """Derive, and say in `make` how to build the sampler."""

    def make(self) -> Sampler:
        raise NotImplementedError

    def attached(self, calls: int = 60, capacity: int = CAPACITY) -> Sampler:
        """A sampler with a life behind it: about 4 * calls ids, priorities set for many, a batch drawn in each call."""
        sampler = self.make()
        sampler.attach(capacity)
        rng = np.random.default_rng(5)
        added = 0
        for _ in range(calls):
            n = int(rng.integers(1, 8))
            sampler.added(added, n)
            added += n
            ids = rng.integers(max(0, added - 2 * capacity), added, 9)
            sampler.update(ids, sampler.priorities(rng.normal(size=9)))
            _, probabilities = sampler.draw(1, rng)
            sampler.weights(probabilities)
            sampler.check_valid()
        self.added_so_far = added
        return sampler

    # ---- draws ----

    @pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 37, 1000])
    def test_draws_only_live_ids(self, n: int) -> None:
        sampler = self.make()
        sampler.attach(CAPACITY)
        rng = np.random.default_rng(n)
        added = 0
        for batch in (1, 1, 3, 30, 2, 5, 37, 1, 90, 4):
            sampler.added(added, batch)
            added += batch
            size = min(added, CAPACITY)
            if n > size and sampler.distinct:
                with pytest.raises(ValueError, match=f"at most {size} .*asked for {n}"):
                    sampler.draw(n, rng)
                continue
            ids, probabilities = sampler.draw(n, rng)
            assert ids.dtype == np.int64
            assert probabilities.dtype == np.float64
            assert ids.shape == probabilities.shape == (n,)
            assert ids.min() >= added - size
            assert ids.max() < added
            assert (probabilities > 0).all()
            assert (probabilities <= 1).all()
            sampler.check_valid()

    def test_a_batch_holds_no_id_twice_where_the_sampler_says_so(self) -> None:
        sampler = self.attached()
        rng = np.random.default_rng(2)
        repeated = False
        for _ in range(30):
            ids, _ = sampler.draw(CAPACITY - 5, rng)
            repeated |= len(np.unique(ids)) < len(ids)
        assert repeated is not sampler.distinct

    def shares(self, sampler: Sampler, ids: np.ndarray, n: int) -> np.ndarray:
        """The probabilities that a batch of `n` should report for these ids, asked before it is drawn."""
        return sampler.probability_of(ids)

    @pytest.mark.parametrize("n", [1, 2, 9, 31])
    def test_a_draw_reports_the_probability_that_was_asked_for_before_it(self, n: int) -> None:
        sampler = self.attached()
        every = np.arange(self.added_so_far - CAPACITY, self.added_so_far)
        for seed in range(10):
            expected = self.shares(sampler, every, n)
            ids, probabilities = sampler.draw(n, np.random.default_rng(seed))
            np.testing.assert_allclose(probabilities, expected[ids - every[0]], rtol=1e-14)
            sampler.weights(probabilities)

    @pytest.mark.parametrize("calls", [1, 3, 60])
    def test_the_probabilities_of_all_live_ids_sum_to_one(self, calls: int) -> None:
        sampler = self.attached(calls)
        every = np.arange(max(0, self.added_so_far - CAPACITY), self.added_so_far)
        found = sampler.probability_of(every)
        assert found.dtype == np.float64
        assert found.shape == every.shape
        assert (found >= 0).all()
        assert abs(found.sum() - 1) < 1e-12
        assert np.array_equal(sampler.probability_of(every[::-1].copy()), found[::-1])

    def every_probability(self, sampler: Sampler, live: np.ndarray) -> np.ndarray:
        """What `effective_size` is about."""
        return sampler.probability_of(live)

    @pytest.mark.parametrize("calls", [1, 3, 60])
    def test_the_effective_size_is_kishs_formula_over_all_live_ids(self, calls: int) -> None:
        sampler = self.make()
        sampler.attach(CAPACITY)
        assert sampler.effective_size() == 0
        sampler = self.attached(calls)
        for oldest in (0, self.added_so_far - 9, self.added_so_far - 1):
            sampler.dropped(oldest)
            live = np.arange(max(0, oldest, self.added_so_far - CAPACITY), self.added_so_far)
            expected = 1 / math.fsum(p * p for p in self.every_probability(sampler, live).tolist())
            found = sampler.effective_size()
            assert type(found) is float
            assert math.isclose(found, expected, rel_tol=1e-12)
            assert 1 - 1e-12 <= found <= len(live) * (1 + 1e-12)

    def test_after_clear_only_what_came_since_is_drawn(self) -> None:
        sampler = self.attached()
        sampler.dropped(self.added_so_far)
        sampler.check_valid()
        first = self.added_so_far
        for n in (1, 2, 50):
            sampler.added(first, n)
            first += n
            low = max(self.added_so_far, first - CAPACITY)
            for seed in range(20):
                ids, _ = sampler.draw(1, np.random.default_rng(seed))
                assert low <= ids[0] < first
            sampler.check_valid()

    def test_what_is_dropped_is_gone_and_the_rest_is_as_it_was(self) -> None:
        """Drops of a few, of none, of all and of more than it was told of; a sampler made from its state agrees."""
        sampler, twin = self.make(), self.make()
        for one in (sampler, twin):
            one.attach(CAPACITY)
        rng = np.random.default_rng(6)
        live: deque[int] = deque(maxlen=CAPACITY)
        added = 0
        for turn in range(120):
            n = int(rng.integers(1, 2 * CAPACITY if turn % 10 == 0 else 9))
            sampler.added(added, n)
            live.extend(range(added, added + n))
            added += n
            sampler.update(np.array(live), sampler.priorities(rng.normal(size=len(live))))
            missed = 4 if turn % 20 == 19 else 0
            added += missed
            oldest = added if turn % 20 in (7, 19) else int(rng.integers(live[0] - 2, added - len(live) // 2))
            sampler.dropped(oldest)
            while live and live[0] < oldest:
                live.popleft()
            sampler.check_valid()
            if not live:
                continue
            every = np.array(live)
            probabilities = sampler.probability_of(every)
            assert abs(probabilities.sum() - 1) < 1e-12
            twin.restore(sampler.state())
            assert probabilities.tobytes() == twin.probability_of(every).tobytes()
            for n in (1, len(live) // 2 + 1):
                seed = int(rng.integers(2**31))
                drawn, shares = sampler.draw(n, np.random.default_rng(seed))
                assert set(drawn.tolist()) <= set(live)
                for one, other in zip((drawn, shares), twin.draw(n, np.random.default_rng(seed)), strict=True):
                    assert one.tobytes() == other.tobytes()
                sampler.weights(shares)
                twin.weights(shares)

    def test_the_same_generator_gives_the_same_draws(self) -> None:
        one, other = self.attached(), self.attached()
        rng, twin = np.random.default_rng(1), np.random.default_rng(1)
        for n in (1, 30, 7):
            for a, b in zip(one.draw(n, rng), other.draw(n, twin), strict=True):
                assert a.tobytes() == b.tobytes()

    def test_only_the_generator_it_is_handed_is_used(self) -> None:
        """The global generator of NumPy stays where it is."""
        sampler = self.attached()
        before = copy.deepcopy(np.random.get_state(legacy=False))  # noqa: NPY002
        sampler.draw(20, np.random.default_rng(0))
        np.testing.assert_equal(np.random.get_state(legacy=False), before)  # noqa: NPY002

    def test_drawing_changes_nothing_that_the_next_draw_depends_on(self) -> None:
        sampler = self.attached()
        first = sampler.draw(20, np.random.default_rng(3))
        sampler.draw(9, np.random.default_rng(4))
        again = sampler.draw(20, np.random.default_rng(3))
        assert first[0].tobytes() == again[0].tobytes()
        assert first[1].tobytes() == again[1].tobytes()

    def test_a_call_of_sample_that_failed_leaves_no_traces(self) -> None:
        sampler, rng = self.attached(), np.random.default_rng(0)
        _, probabilities = sampler.draw(6, rng)
        sampler.weights(probabilities)
        for draws in ([], [7], [3, 2, 1]):
            before = unordered(sampler.state())
            for n in draws:
                sampler.draw(n, rng)
            sampler.failed()
            np.testing.assert_equal(unordered(sampler.state()), before)
            sampler.check_valid()

    # ---- weights and priorities ----

    def test_weights_are_positive_finite_float32_one_a_draw(self) -> None:
        sampler = self.attached()
        _, probabilities = sampler.draw(30, np.random.default_rng(0))
        weights = sampler.weights(probabilities)
        assert weights.dtype == np.float32
        assert weights.shape == (30,)
        assert np.isfinite(weights).all()
        assert (weights > 0).all()

    def test_priorities_of_ids_that_have_left_are_skipped(self) -> None:
        sampler = self.attached()
        before = copy.deepcopy(sampler.state())
        gone = np.arange(self.added_so_far - CAPACITY)
        assert sampler.update(gone, np.full(len(gone), 9.0)) == 0
        np.testing.assert_equal(sampler.state(), before)
        sampler.check_valid()

    def test_the_callers_arrays_are_never_changed(self) -> None:
        sampler = self.attached()
        newest = self.added_so_far - 1
        ids, errors = np.array([newest, 3, newest, newest - 1]), np.array([-1.0, 2.0, 3.0, -4.0])
        _, probabilities = sampler.draw(4, np.random.default_rng(0))
        kept = [array.copy() for array in (ids, errors, probabilities)]
        sampler.update(ids, sampler.priorities(errors))
        sampler.weights(probabilities)
        for array, was in zip((ids, errors, probabilities), kept, strict=True):
            assert np.array_equal(array, was)

    # ---- state ----

    @pytest.mark.parametrize("used_before", [False, True])
    @pytest.mark.parametrize("calls", [0, 3, 60])
    def test_a_restored_sampler_goes_on_as_the_first_one_would(self, calls: int, used_before: bool) -> None:
        first = self.attached(calls)
        added = self.added_so_far
        state = copy.deepcopy(first.state())
        twin = self.attached(25) if used_before else self.make()
        if not used_before:
            twin.attach(CAPACITY)
        twin.restore(state)
        twin.check_valid()
        rng, twin_rng = np.random.default_rng(8), np.random.default_rng(8)
        for n in (1, 12, 50, 3):
            for sampler in (first, twin):
                sampler.added(added, n)
                ids = np.arange(added, added + n)
                sampler.update(ids, sampler.priorities(np.arange(float(n)) - 3))
            added += n
            drawn, probabilities = first.draw(1, rng)
            twin_drawn, twin_probabilities = twin.draw(1, twin_rng)
            assert drawn.tobytes() == twin_drawn.tobytes()
            assert probabilities.tobytes() == twin_probabilities.tobytes()
            assert first.weights(probabilities).tobytes() == twin.weights(twin_probabilities).tobytes()
        np.testing.assert_equal(first.state(), twin.state())

    @pytest.mark.parametrize("calls", [0, 3, 60])
    @pytest.mark.parametrize(
        "again", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy], ids=["pickle", "copy"]
    )
    def test_a_copy_goes_on_as_the_first_one_would_and_shares_nothing(self, calls: int, again: Any) -> None:
        first = self.attached(calls)
        added = self.added_so_far
        twin = again(first)
        twin.check_valid()
        before = copy.deepcopy(twin.state())
        assert first.nbytes == twin.nbytes
        drawn = []
        for sampler in (first, twin):
            np.testing.assert_equal(sampler.state(), before)
            rng, mine, end = np.random.default_rng(8), [], added
            for n in (1, 12, 50, 3):
                sampler.added(end, n)
                end += n
                sampler.update(np.arange(end - n, end), sampler.priorities(np.arange(float(n)) - 3))
                mine.append([part.tobytes() for part in sampler.draw(1, rng)])
                mine.append(sampler.weights(np.array([0.5])).tobytes())
                sampler.check_valid()
            drawn.append(mine)
        assert drawn[0] == drawn[1]

    def test_a_copy_of_one_that_has_no_buffer_yet_can_be_given_one(self) -> None:
        sampler = pickle.loads(pickle.dumps(self.make()))
        rb.ReplayBuffer(10, sampler=sampler).add(*step(0))

    def test_a_state_and_taking_it_up_need_no_memory_that_grows_with_the_buffer(
        self, request: pytest.FixtureRequest
    ) -> None:
        """Of 300,000 transitions, where an array of one number each has 2.4 MB; and nobody can write to the state."""
        size = 300_000
        tracemalloc.start()  # what the samplers hold themselves may be let go and held anew
        request.addfinalizer(tracemalloc.stop)
        sampler, twin = self.make(), self.make()
        for one in (sampler, twin):
            one.attach(size)
        sampler.added(0, size + 9)
        state, needed = peak_of(sampler.state)
        assert needed < 20_000
        assert not any(value.flags.writeable for value in leaves(state) if isinstance(value, np.ndarray))
        _, needed = peak_of(lambda: twin.restore(state))
        assert needed < 1_000_000
        twin.check_valid()

    @pytest.mark.parametrize("seed", range(6))
    def test_what_is_made_from_a_file_goes_on_bit_for_bit(self, seed: int) -> None:
        """After any life, however it ended: settings by way of JSON, and the state."""
        first, added = self.lived(np.random.default_rng(seed))
        twin = rebuilt(json.loads(json.dumps(described(first))))
        twin.attach(CAPACITY)
        twin.restore(copy.deepcopy(first.state()))
        twin.check_valid()
        np.testing.assert_equal(first.state(), twin.state())
        rngs = [np.random.default_rng(seed), np.random.default_rng(seed)]
        for call in range(120):
            n = call % 5
            ids = np.arange(max(0, added - 9), added + n)
            found = []
            for one, rng in zip((first, twin), rngs, strict=True):
                if n or not added:
                    one.added(added, max(n, 1))
                one.update(ids, one.priorities(np.sin(ids + call)))
                drawn, probabilities = one.draw(3 if len(ids) > 3 else 1, rng)
                share = one.probability_of(drawn)
                found.append([part.tobytes() for part in (drawn, probabilities, share, one.weights(probabilities))])
            assert found[0] == found[1]
            added += max(n, 1) if n or not added else 0
        np.testing.assert_equal(first.state(), twin.state())

    def lived(self, rng: np.random.Generator) -> tuple[Sampler, int]:
        """A sampler out of a buffer's life of random calls, and how many ids it was told of."""
        buffer = rb.ReplayBuffer(CAPACITY, sampler=self.make(), seed=int(rng.integers(100)))
        for _ in range(int(rng.integers(1, 120))):
            n = int(rng.integers(1, 9))
            for t in range(n):
                buffer.add(*step(t))
            if rng.random() < 0.02:
                buffer.clear()
                continue
            batch = buffer.sample(int(rng.integers(1, 1 + min(len(buffer), 8))))
            buffer.update_priorities(batch.indices, rng.normal(size=len(batch.indices)))
        if len(buffer) and rng.random() < 0.5:
            buffer.sampler.draw(1, rng)  # a call of `sample` that failed before its end
        return buffer.sampler, buffer.stats()["added"]

    def test_a_state_that_cannot_be_is_refused(self) -> None:
        """Each entry left out or made wrong in turn: a ValueError, and the sampler as it was or as new."""
        state = copy.deepcopy(self.attached().state())
        empty = self.make()
        empty.attach(CAPACITY)
        refusals = 0
        for path, value in entries(state):
            for wrong in wrong_ones(value):
                sampler = self.attached(20)
                before = copy.deepcopy(sampler.state())
                with pytest.raises(ValueError, match=f"state: .*{path[-1]}"):
                    sampler.restore(with_entry(state, path, wrong))
                sampler.check_valid()
                same = [not differs(sampler.state(), kept) for kept in (before, empty.state())]
                assert any(same), (path, wrong)
                sampler.added(200, 2)
                assert sampler.draw(1, np.random.default_rng(0))[0].size == 1
                refusals += 1
        assert refusals >= 16
        with pytest.raises(ValueError, match="state: start must be"):
            self.attached().restore({**state, "start": state["added"] + 1})
        for wrong in ({}, None, [1], "state"):
            with pytest.raises(ValueError, match="state: expected an entry"):
                self.attached().restore(wrong)
        sampler.restore(state)
        sampler.check_valid()

    def test_ids_it_was_not_told_of_come_in_with_the_next(self) -> None:
        """An interrupt between a buffer's add and its sampler's; on an empty one, a full one, across a whole lap."""
        for before, missed in ((0, 5), (3, 5), (CAPACITY + 3, 5), (9, CAPACITY + 2), (CAPACITY, CAPACITY - 1)):
            sampler, twin = self.make(), self.make()
            for one in (sampler, twin):
                one.attach(CAPACITY)
                one.added(0, before)
            sampler.added(before + missed, 2)
            twin.added(before, missed + 2)
            sampler.check_valid()
            np.testing.assert_equal(sampler.state(), twin.state())
            drawn = [one.draw(1, np.random.default_rng(3)) for one in (sampler, twin)]
            np.testing.assert_array_equal(drawn[0], drawn[1])

    def test_a_buffer_may_be_given_another_sampler(self) -> None:
        """It starts with what is in the buffer: all of it, and nothing that has left or was cleared away."""
        for before, after in ((0, 0), (0, 5), (0, 100), (30, 0), (30, 5), (100, 5), (100, 100)):
            buffer = rb.ReplayBuffer(CAPACITY, seed=0)
            for t in range(before):
                buffer.add(*step(t))
            buffer.clear()
            for t in range(before, before + after):
                buffer.add(*step(t))
            buffer.sampler = self.make()
            buffer.check_valid()
            live = range(max(before, before + after - CAPACITY), before + after)
            if after:
                assert {int(buffer.sample(1).indices[0]) for _ in range(30)} <= set(live)
                assert math.isclose(buffer.sampler.probability_of(np.array(live)).sum(), 1.0)
            for t in range(before + after, before + after + 50):
                buffer.add(*step(t))
            buffer.check_valid()

    def test_a_sampler_of_another_buffer_is_refused_and_changes_nothing(self) -> None:
        sampler = self.attached()
        buffer = rb.ReplayBuffer(10)
        kept = buffer.sampler
        with pytest.raises(ValueError, match="belongs to another buffer"):
            buffer.sampler = sampler
        assert buffer.sampler is kept

    # ---- one buffer each ----

    def test_a_second_attach_is_refused_and_changes_nothing(self) -> None:
        sampler = self.attached()
        before = copy.deepcopy(sampler.state())
        with pytest.raises(ValueError, match="belongs to another buffer"):
            sampler.attach(99)
        np.testing.assert_equal(sampler.state(), before)
        sampler.check_valid()

    def test_two_buffers_cannot_share_it(self) -> None:
        sampler = self.make()
        first = rb.ReplayBuffer(10, sampler=sampler)
        first.add(*step(0))
        with pytest.raises(ValueError, match="sampler of its own"):
            rb.ReplayBuffer(20, sampler=sampler)
        first.add(*step(1))
        assert set(first.sample(2).indices.tolist()) <= {0, 1}
        first.check_valid()

    def test_a_buffer_that_could_not_be_made_leaves_its_sampler_free(self) -> None:
        sampler = self.make()
        for wrong in ({"capacity": 0}, {"streams": 0}, {"view": rb.NStep}, {"schema": {"obs": "str"}}):
            with pytest.raises((ValueError, TypeError)):
                rb.ReplayBuffer(**({"capacity": 10, "sampler": sampler} | wrong))
        rb.ReplayBuffer(10, sampler=sampler).add(*step(0))

    def test_nbytes_is_a_number_of_bytes(self) -> None:
        assert self.make().nbytes == 0
        nbytes = self.attached().nbytes
        assert isinstance(nbytes, int)
        assert 0 <= nbytes < 10_000

    def test_it_never_holds_more_bytes_than_it_said(self) -> None:
        said = [self.make().bytes_for(capacity) for capacity in range(1, 400)]
        assert said == sorted(said)
        for capacity in (1, 2, 9, 64, 400):
            sampler = self.make()
            most = sampler.bytes_for(capacity)
            sampler.attach(capacity)
            rng = np.random.default_rng(capacity)
            for turn in range(60):
                sampler.added(turn * 7, 7)
                ids = np.arange(max(0, turn * 7 + 7 - capacity), turn * 7 + 7)
                sampler.update(ids, sampler.priorities(rng.normal(size=len(ids))))
                assert sampler.nbytes <= most == sampler.bytes_for(capacity)
