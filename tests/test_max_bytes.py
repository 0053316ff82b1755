"""A buffer bounded in bytes: never above them, never far below, and nothing but the oldest leaves."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from test_memory import growth, on_linux

SAMPLERS = {
    "uniform": rb.Uniform,
    "prioritized": rb.Prioritized,
    "buffer norm": lambda: rb.Prioritized(weight_norm="buffer"),
    "rank": rb.RankPrioritized,
    "recent": lambda: rb.Recent(minimum=10),
    "once": rb.SampleOnce,
    "combined": lambda: rb.Combined(rb.Prioritized()),
    "mixture": lambda: rb.Mixture([(0.5, rb.Uniform()), (0.5, rb.RankPrioritized())]),
}
PAGES = 3 * 4096
WIDTH = 300


class Walk:
    """Transitions that count up; `shared`: how likely each goes on from the one before."""

    def __init__(self, shared: float, streams: int, seed: int, frames: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shared, self.streams = shared, streams
        self.shape = (frames, 40) if frames else (WIDTH,)
        self.here = np.zeros((streams, *self.shape), np.uint8)
        self.count = 0

    def observation(self, i: int, after: bool) -> None:
        fresh = self.rng.integers(0, 255, self.shape, np.uint8)
        if after and len(self.shape) > 1 and self.rng.random() < self.shared:
            fresh[:-1] = self.here[i, 1:]
        self.here[i] = fresh

    def step(self) -> dict[str, Any]:
        """One transition a stream; `action` counts them all."""
        for i in range(self.streams):
            if self.rng.random() >= self.shared:
                self.observation(i, False)
        obs = self.here.copy()
        for i in range(self.streams):
            self.observation(i, True)
        action = np.arange(self.count, self.count + self.streams)
        self.count += self.streams
        off = np.zeros(self.streams, bool)
        fields = {"obs": obs, "action": action, "reward": action.astype(np.float32), "next_obs": self.here.copy()}
        fields |= {"terminated": off, "truncated": self.rng.random(self.streams) < 0.02}
        return {name: value[0] for name, value in fields.items()} if self.streams == 1 else fields


def add(buffer: rb.ReplayBuffer, step: dict[str, Any], book: list[dict[str, Any]]) -> None:
    """Adds it, and checks what may have left: the oldest, and no more than there was need for."""
    first = buffer.add(**step)
    assert first == len(book)
    many = buffer.streams > 1
    book.extend({name: value[i] if many else value for name, value in step.items()} for i in range(buffer.streams))
    assert buffer.nbytes <= buffer.max_bytes


def check(buffer: rb.ReplayBuffer, book: list[dict[str, Any]]) -> None:
    """The buffer holds the newest of the book, exactly, and its sampler knows them."""
    buffer.check_valid()
    stats = buffer.stats()
    assert stats["added"] == len(book)
    assert stats["overwritten"] == len(book) - len(buffer) - stats["cleared"]
    live = np.arange(len(book) - len(buffer), len(book))
    usable = buffer.view.usable(buffer._rows, live)
    ids = live if usable is None else live[usable]
    batch = buffer.read(ids)
    for name in ("obs", "action", "next_obs", "truncated"):
        expected = np.array([book[id_][name] for id_ in ids.tolist()])
        assert np.array_equal(np.asarray(batch[name]).reshape(expected.shape), expected), name
    assert abs(buffer.sampler.probability_of(live).sum() - 1) < 1e-9
    drawn = buffer.sample(max(1, min(8, len(buffer) // 2))).indices
    assert drawn.min() >= live[0]
    buffer.update_priorities(drawn, np.linspace(-1, 2, len(drawn)))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shared", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("streams", [1, 3])
def test_it_holds_what_fits_and_never_more(sampler: str, shared: float, streams: int) -> None:
    walk = Walk(shared, streams, seed=streams)
    schema = {"obs": ("uint8", (WIDTH,)), "action": "int64"}
    buffer = rb.ReplayBuffer(schema=schema, streams=streams, sampler=SAMPLERS[sampler](), seed=0, max_bytes=250_000)
    book: list[dict[str, Any]] = []
    fullest = 0
    while len(book) < 4 * buffer.capacity:
        add(buffer, walk.step(), book)
        if len(book) % 97 < streams:
            check(buffer, book)
        if len(book) > 2 * buffer.capacity:
            fullest = max(fullest, buffer.nbytes)
            row, tail = 336, WIDTH + 8
            least = buffer.capacity * row + buffer.sampler.bytes_for(buffer.capacity) + buffer.stats()["tails"] * tail
            if shared < 1:
                held = len(buffer) * row + buffer.stats()["tails"] * tail
                room = buffer.max_bytes - buffer.sampler.bytes_for(buffer.capacity)
                assert held > room * 0.95 - PAGES - 3 * (row + tail) - 24 * 600
            assert least > 0
    if shared == 1:  # ends only: they cost a tail each
        assert len(buffer) > 0.9 * buffer.capacity


@pytest.mark.parametrize("shared", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("streams", [1, 2])
def test_stacks_of_frames_and_those_put_aside_count(shared: float, streams: int) -> None:
    walk = Walk(shared, streams, seed=5, frames=4)
    buffer = rb.ReplayBuffer(
        schema={"obs": ("uint8", (4, 40)), "action": "int64"},
        streams=streams,
        view=rb.FrameStack(4),
        max_bytes=150_000,
        seed=0,
    )
    book: list[dict[str, Any]] = []
    for turn in range(3000):
        add(buffer, walk.step(), book)
        if turn % 211 == 210:
            check(buffer, book)
    assert buffer.nbytes > 0.85 * buffer.max_bytes


@pytest.mark.parametrize("n", [1, 7, 50, 5000])
def test_many_at_once_and_masked_ones_leave_what_fits(n: int) -> None:
    """Also more in one call than ever fit: then the newest of them stay."""
    walk = Walk(0.7, 1, seed=n)
    buffer = rb.ReplayBuffer(max_bytes=200_000, sampler=rb.Prioritized(), seed=0)
    assert buffer.capacity == 0
    assert buffer.max_bytes == 200_000
    book: list[dict[str, Any]] = []
    for turn in range(-(-3000 // n) + 2):
        steps = [walk.step() for _ in range(n)]
        fields = {name: np.array([step[name] for step in steps]) for name in steps[0]}
        assert buffer.extend(**fields) == len(book)
        book += steps
        assert buffer.nbytes <= buffer.max_bytes
        if turn % max(1, 500 // n) == 0:
            check(buffer, book)
    assert 0 < len(buffer) <= buffer.capacity
    wide = rb.ReplayBuffer(max_bytes=250_000, streams=4, sampler=rb.RankPrioritized(), seed=0)
    many, book, rng = Walk(0.5, 4, seed=n), [], np.random.default_rng(n)
    for turn in range(400):
        step, mask = many.step(), rng.random(4) < 0.5
        wide.add(**step, mask=mask)
        book += [{name: value[i] for name, value in step.items()} for i in np.flatnonzero(mask)]
        assert wide.nbytes <= wide.max_bytes
        if turn % 50 == 49:
            check(wide, book)


def test_nested_fields_and_extras_are_bounded_too() -> None:
    buffer = rb.ReplayBuffer(max_bytes=60_000, seed=0)
    rng = np.random.default_rng(0)
    for t in range(1500):
        obs = {"a": rng.random(20), "b": (rng.integers(0, 9, 5), rng.random(3))}
        buffer.add(obs, t, 1.0, obs, False, t % 7 == 0, note=np.float32(t))
        assert buffer.nbytes <= 60_000
    newest = np.arange(1500 - len(buffer), 1500)
    assert np.array_equal(buffer.read(newest).note, newest)
    assert buffer.stats()["overwritten"] == 1500 - len(buffer)
    buffer.check_valid()


def test_what_shares_everything_fills_the_ring_and_loses_nothing_early() -> None:
    """An endless stream: exactly `capacity` transitions, as a ring of that capacity would hold."""
    buffer = rb.ReplayBuffer(schema={"obs": ("uint8", (100,)), "action": "int64"}, max_bytes=300_000)
    obs = np.zeros((100,), np.uint8)
    for t in range(3 * buffer.capacity):
        after = obs.copy()
        after[:8] = np.array([t + 1]).view(np.uint8)
        buffer.add(obs, t, 1.0, after, False, False)
        obs = after
        assert len(buffer) == min(t + 1, buffer.capacity)
    assert buffer.nbytes > 0.95 * buffer.max_bytes


def test_after_a_time_of_jumps_a_shared_stream_gets_more_room_again() -> None:
    buffer = rb.ReplayBuffer(schema={"obs": ("uint8", (WIDTH,)), "action": "int64"}, max_bytes=200_000)
    sizes = []
    for shared in (0.0, 1.0, 0.0, 1.0):
        walk = Walk(shared, 1, seed=3)
        for _ in range(1500):
            buffer.add(**walk.step())
            assert buffer.nbytes <= buffer.max_bytes
        sizes.append(len(buffer))
        buffer.check_valid()
    assert sizes[1] > 1.5 * sizes[0]
    assert sizes[3] > 1.5 * sizes[2]
    buffer.clear()
    assert buffer.nbytes < PAGES
    buffer.add(**walk.step())
    buffer.check_valid()


def test_exactly_one_of_capacity_and_max_bytes_is_asked_for() -> None:
    for given in ({}, {"capacity": 9, "max_bytes": 10**6}):
        with pytest.raises(ValueError, match="expected one of capacity and max_bytes, given capacity="):
            rb.ReplayBuffer(**given)
    for wrong, error in ((0, ValueError), (-5, ValueError), (1.5, TypeError), ("1GB", TypeError)):
        with pytest.raises(error, match="max_bytes"):
            rb.ReplayBuffer(max_bytes=wrong)
    assert rb.ReplayBuffer(10).max_bytes is None


def test_too_little_for_one_transition_a_stream_is_refused_when_it_is_known() -> None:
    schema = {"obs": ("uint8", (WIDTH,)), "action": "int64"}
    for streams in (1, 5):
        sampler = rb.Prioritized()
        with pytest.raises(ValueError, match=r"max_bytes: expected at least \d+") as caught:
            rb.ReplayBuffer(schema=schema, streams=streams, sampler=sampler, max_bytes=100)
        least = int(str(caught.value).split("at least ")[1].split(",")[0])
        with pytest.raises(ValueError, match="max_bytes: expected at least"):
            rb.ReplayBuffer(schema=schema, streams=streams, sampler=sampler, max_bytes=least - 1)
        buffer = rb.ReplayBuffer(schema=schema, streams=streams, sampler=sampler, max_bytes=least)
        assert buffer.capacity >= streams
        walk, book = Walk(0.3, streams, seed=0), []
        for _ in range(200):
            add(buffer, walk.step(), book)
            assert len(buffer) >= streams, "what this call brought is there"
        buffer.check_valid()
    late = rb.ReplayBuffer(max_bytes=100, sampler=rb.Prioritized())
    for _ in range(2):
        with pytest.raises(ValueError, match="max_bytes: expected at least"):
            late.add(**Walk(1.0, 1, seed=0).step())
        assert len(late) == late.capacity == 0
        assert late.schema is None
    late.check_valid()
    assert late.update_priorities([], []) == (0, 0)


def test_a_bad_add_into_a_full_one_changes_nothing() -> None:
    """Nothing leaves for what does not come in."""
    walk = Walk(0.0, 1, seed=0)
    buffer = rb.ReplayBuffer(max_bytes=60_000, sampler=rb.Prioritized())
    for _ in range(500):
        buffer.add(**walk.step())
        stats = buffer.stats()
        for wrong in ({"obs": np.zeros(3)}, {"reward": np.nan}, {"action": "left"}):
            with pytest.raises((ValueError, TypeError)):
                buffer.add(**{**walk.step(), **wrong})
        assert {**buffer.stats(), "age_seconds": 0} == {**stats, "age_seconds": 0}
    buffer.check_valid()


def test_another_sampler_must_fit_and_takes_its_room_from_the_oldest() -> None:
    walk = Walk(0.0, 1, seed=0)
    buffer = rb.ReplayBuffer(schema={"obs": ("uint8", (10,)), "action": "int64"}, max_bytes=100_000)
    plain = Walk(0.0, 1, seed=0)
    plain.shape, plain.here = (10,), np.zeros((1, 10), np.uint8)
    book: list[dict[str, Any]] = []
    for _ in range(4000):
        add(buffer, plain.step(), book)
    before = len(buffer)
    buffer.sampler = rb.Prioritized()
    check(buffer, book)
    assert 0 < len(buffer) < before
    for _ in range(1000):
        add(buffer, plain.step(), book)
    check(buffer, book)
    kept = buffer.sampler
    large = rb.Mixture([(1, rb.RankPrioritized()) for _ in range(6)])
    with pytest.raises(ValueError, match="100000 leave no room for transitions"):
        buffer.sampler = large
    assert buffer.sampler is kept
    check(buffer, book)
    rb.ReplayBuffer(5, sampler=large)
    late = rb.ReplayBuffer(max_bytes=100_000)
    late.sampler = rb.SampleOnce()
    late.add(**walk.step())
    late.check_valid()


def test_a_copy_is_bounded_as_the_first_one_is() -> None:
    walk = Walk(0.5, 1, seed=0)
    buffer = rb.ReplayBuffer(max_bytes=250_000, sampler=rb.RankPrioritized(), seed=4)
    book: list[dict[str, Any]] = []
    for turn in range(900):
        add(buffer, walk.step(), book)
        if turn % 100 == 57:
            twin = pickle.loads(pickle.dumps(buffer))
            assert twin.nbytes <= 250_000
            copied = list(book)
            for _ in range(30):
                add(twin, walk.step(), copied)
            check(twin, copied)


@on_linux
@pytest.mark.parametrize("shared", [True, False])
def test_the_process_grows_by_no_more_than_max_bytes(shared: bool) -> None:
    """100 MB, through three laps: what leaves early is the system's again."""
    grown, nbytes = growth(
        "buffer = rb.ReplayBuffer(schema={'obs': ('uint8', (4000,)), 'action': 'int64'}, max_bytes=100_000_000,\n"
        "                         sampler=rb.Prioritized())\n"
        "one = np.zeros((2, 4000), np.uint8)\n"
        "buffer.add(one[0], 0, 1.0, one[0], False, False); buffer.sample(1)",
        "for t in range(60_000):\n"
        "    obs, after = one[t % 2], one[1 - t % 2]\n"
        "    obs[:8] = np.array([t]).view(np.uint8)\n"
        f"    after[:8] = np.array([t + {1 if shared else 7}]).view(np.uint8)\n"
        "    buffer.add(obs, 0, 1.0, after, False, False)\n"
        "assert len(buffer) > (24_000 if shared else 11_500), len(buffer)\n".replace("shared", str(shared)),
        "buffer.nbytes",
    )
    assert 95_000_000 < nbytes <= 100_000_000
    assert grown < 110_000_000
