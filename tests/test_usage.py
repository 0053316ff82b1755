"""How old transitions are, and which were never drawn, against plain-Python books."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import replaybank as rb
from replaybank import kernels, reference, usage
from replaybank.usage import MARKS, Usage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(usage, "time", clock)
    return clock


@pytest.mark.parametrize("capacity", [1, 7, 8, 9, 100])
def test_the_kernel_marks_what_its_twin_marks(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    bits, seen, cursor = np.zeros((capacity + 7) // 8, np.uint8), np.zeros(2, np.int64), np.zeros(6, np.int64)
    twin, twin_seen = bits.copy(), seen.copy()
    oldest = added = 0
    for _ in range(300):
        added += int(rng.choice([0, 1, 3, capacity, 3 * capacity]))
        oldest = max(oldest, added - capacity)
        oldest = int(rng.integers(oldest, added + 1)) if rng.random() < 0.2 else oldest
        cursor[:2] = added, oldest if rng.random() < 0.5 else max(oldest, 0)
        ids = rng.integers(oldest, added, 5) if added > oldest else np.empty(0, np.int64)
        assert kernels.mark_drawn(cursor, capacity, bits, seen, ids) == added
        assert reference.mark_drawn(cursor, capacity, twin, twin_seen, ids) == added
        assert bits.tobytes() == twin.tobytes()
        assert seen.tolist() == twin_seen.tolist()
    none = np.empty(0, np.int64)
    with pytest.raises(IndexError, match="not in the buffer"):
        kernels.mark_drawn(cursor, capacity, bits, seen, np.array([added]))
    for wrong in ((cursor, 0, bits, seen), (cursor, capacity + 8, bits, seen), (cursor[:1], capacity, bits, seen)):
        with pytest.raises(ValueError, match="a bit a slot"):
            kernels.mark_drawn(*wrong, none)
    with pytest.raises(ValueError, match="does not come back"):
        kernels.mark_drawn(cursor, capacity, bits, np.array([added + 1, 0]), none)


def lived(buffer: rb.ReplayBuffer, clock: Clock, turns: int, seed: int = 0):
    """A life of adds, samples, clears. After each turn: when each live id came (calls, seconds), those drawn, calls."""
    rng = np.random.default_rng(seed)
    came: dict[int, tuple[int, float]] = {}
    drawn: set[int] = set()
    calls = 0
    for turn in range(turns):
        n = int(rng.choice([1, 1, 1, 2, 30]))
        clock.now += float(rng.random())
        zeros = np.zeros(n)
        first = buffer.extend(rng.random(n), zeros, zeros, rng.random(n), zeros > 0, zeros > 0)
        came |= dict.fromkeys(range(first, first + n), (calls, clock.now))
        if turn % 50 == 49:
            buffer.clear()
        oldest = buffer.stats()["added"] - len(buffer)
        came = {id_: when for id_, when in came.items() if id_ >= oldest}
        if len(buffer) and rng.random() < 0.7:
            clock.now += float(rng.random())
            drawn |= set(buffer.sample(int(rng.integers(1, 9))).indices.tolist())
            calls += 1
        drawn &= set(came)
        yield came, drawn, calls


@pytest.mark.parametrize("capacity", [1, 5, 64, 700])
def test_shares_and_ages_are_what_the_books_say(capacity: int, clock: Clock) -> None:
    buffer = rb.ReplayBuffer(capacity, seed=1, sampler=rb.Prioritized())
    assert buffer.stats()["never_sampled"] == buffer.stats()["age_samples"] == buffer.stats()["effective_size"] == 0
    step = max(1, capacity // MARKS)
    for came, drawn, calls in lived(buffer, clock, 600):
        stats = buffer.stats()
        buffer.check_valid()
        assert stats["calls"] == calls
        if not came:
            assert stats["never_sampled"] == stats["age_samples"] == stats["age_added"] == stats["age_seconds"] == 0
            continue
        assert math.isclose(stats["never_sampled"], 1 - len(drawn) / len(came), abs_tol=1e-12)
        oldest = min(came)
        assert stats["age_added"] == stats["added"] - 1 - oldest
        # Exact but for what passed from the last mark before it: the last `sample` that took one.
        assert stats["age_samples"] >= calls - came[oldest][0]
        assert stats["age_seconds"] >= clock.now - came[oldest][1] - 1e-9
        if step == 1 and calls > came[oldest][0]:
            assert stats["age_samples"] - (calls - came[oldest][0]) <= 1
    assert len(buffer._usage._marks) <= 2 * MARKS + 2


def test_ages_in_a_full_buffer_are_known_to_a_256th_of_it(clock: Clock) -> None:
    """One sample and one second each add: the age of the oldest is the capacity, in all three."""
    capacity = 256 * 20
    buffer = rb.ReplayBuffer(capacity, {"obs": "float32", "action": "int64"}, seed=0)
    for t in range(3 * capacity):
        buffer.add(np.float32(t), 0, 1.0, np.float32(t + 1), False, False)
        clock.now += 1
        buffer.sample(1)
    stats = buffer.stats()
    assert stats["age_added"] == capacity - 1
    assert capacity <= stats["age_samples"] <= capacity + capacity // MARKS + 1
    assert capacity <= stats["age_seconds"] <= capacity + capacity // MARKS + 1
    assert len(buffer._usage._marks) <= MARKS + 2
    assert buffer._usage.nbytes <= Usage.bytes_for(capacity)


@pytest.mark.parametrize("again", ["state", "pickle", "copy"])
def test_a_restored_one_goes_on_as_the_first_would(again: str, clock: Clock) -> None:
    buffer = rb.ReplayBuffer(50, seed=1)
    for _ in lived(buffer, clock, 70):
        pass
    first = buffer._usage
    if again == "state":
        state = copy.deepcopy(first.state())
        twin = Usage(50)
        twin.restore(state)
    else:
        twin = pickle.loads(pickle.dumps(first)) if again == "pickle" else copy.deepcopy(first)
    rows = buffer._rows
    oldest = rows.oldest
    for one in (first, twin):
        one.sampled(np.arange(oldest, rows.added)[:3], rows)
        one.check_valid()
    assert first.never_sampled(rows) == twin.never_sampled(rows)
    assert first.age(oldest) == pytest.approx(twin.age(oldest))
    assert first.calls == twin.calls
    assert len(first._marks) == len(twin._marks)


def test_what_is_read_without_being_drawn_is_not_sampled() -> None:
    buffer = rb.ReplayBuffer(10, seed=0)
    for t in range(10):
        buffer.add(np.float32(t), 0, 1.0, np.float32(t + 1), False, False)
    buffer.read(np.arange(10))
    assert buffer.stats()["never_sampled"] == 1.0
    with pytest.raises(ValueError, match="expected 1 to"):
        buffer.sample(0)
    assert buffer.stats()["calls"] == 0
    buffer.sample(1)
    assert buffer.stats()["never_sampled"] == 0.9


@pytest.mark.parametrize("steps", [11, 10**9])
def test_a_walk_longer_than_the_buffer_is_refused(steps: int) -> None:
    """A billion steps would ask for the memory of a billion."""
    buffer = rb.ReplayBuffer(10)
    for t in range(10):
        buffer.add(np.float32(t), 0, 1.0, np.float32(t + 1), False, False)
    with pytest.raises(ValueError, match="walk: steps: expected 1 to 10, given"):
        buffer.walk([3], steps)
    path, lengths = buffer.walk([3], 10)
    assert path[0].tolist() == [3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9]
    assert lengths.tolist() == [7]
