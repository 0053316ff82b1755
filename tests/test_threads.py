"""One buffer in many threads: nothing is torn, nothing is lost, and the counts add up."""

from __future__ import annotations

import pickle
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from scale import LONG

SECONDS = 60.0 if LONG else 2.5
CAPACITY = 500
WIDE = 5000  # float32: so many bytes that the kernels let go of the interpreter
JUMP = 1_000_003  # between the numbers of two threads


def observation(number: int) -> np.ndarray:
    return np.arange(number % 1000, number % 1000 + WIDE, dtype=np.float32)


def checksum(number: int) -> int:
    parts = observation(number).tobytes(), np.int64(number).tobytes(), observation(number + 1).tobytes()
    return zlib.crc32(b"".join(parts))


def intact(batch: Any) -> bool:
    """Whether each transition is one that was added, whole."""
    for obs, action, next_obs, check in zip(batch.obs, batch.action, batch.next_obs, batch.check, strict=True):
        if zlib.crc32(obs.tobytes() + action.tobytes() + next_obs.tobytes()) != check:
            return False
    return bool((batch.reward == batch.action).all())


@contextmanager
def quick_switches() -> Iterator[None]:
    """The interpreter changes threads 50 times as often as it does by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Crowd:
    """Threads that do their work over and over until time is up or one of them fails."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.failures: list[BaseException] = []
        self.rounds: dict[str, int] = {}

    def repeat(self, name: str, work: Callable[[], None]) -> None:
        count = 0
        try:
            while time.monotonic() < self.end and not self.failures:
                work()
                count += 1
        except BaseException as error:
            self.failures.append(error)
        self.rounds[name] = count

    def run(self, **jobs: Callable[[], None]) -> None:
        threads = [threading.Thread(target=self.repeat, args=job) for job in jobs.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in self.failures:
            raise error


class Adder:
    """Adds transitions with numbers of its own, and knows which id each got."""

    def __init__(self, buffer: rb.ReplayBuffer, start: int) -> None:
        self.buffer, self.number = buffer, start
        self.given: list[tuple[int, int]] = []

    def __call__(self) -> None:
        number = self.number
        ended = number % 7 == 0
        obs, after = observation(number), observation(number + 1)
        first = self.buffer.add(obs, number, number, after, ended, False, check=checksum(number))
        self.given.append((first, number))
        self.number += 1
        if self.number % 50 == 0:
            time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [rb.Prioritized, rb.RankPrioritized, rb.SampleOnce])
def test_eight_threads_on_one_buffer(sampler: Callable[[], Any]) -> None:
    """Adds, samples, updates, settings, counts, reads and pickles at once. Saving belongs here, too."""
    spec = {"obs": ("float32", (WIDE,)), "action": "int64", "reward": "float64", "check": "uint32"}
    buffer = rb.ReplayBuffer(CAPACITY, spec, sampler=sampler(), seed=0)
    adders = [Adder(buffer, JUMP * i) for i in range(3)]
    for _ in range(40):
        adders[0]()
    asked = {"sampled": 0, "updated": 0}
    dice = np.random.default_rng(0)

    def sample() -> None:
        batch = buffer.sample(32)
        asked["sampled"] += 32
        assert intact(batch)

    def learn() -> None:
        batch = buffer.sample(16)
        asked["updated"] += 16
        buffer.update_priorities(batch.indices, dice.normal(size=16))

    def look() -> None:
        stats, size = buffer.stats(), len(buffer)
        assert stats["size"] == min(stats["added"], CAPACITY)
        assert stats["overwritten"] == stats["added"] - stats["size"]
        assert stats["size"] <= size <= CAPACITY
        assert buffer.nbytes > 0
        assert sum(len(segment.ids) for segment in buffer.segments()) >= stats["size"]
        first, number = adders[1].given[-1] if adders[1].given else adders[0].given[-1]
        try:
            batch = buffer.read([first])
        except ValueError:
            assert first < buffer.stats()["added"] - len(buffer)
        else:
            assert batch.action.tolist() == [number]
            assert intact(batch)

    def settings() -> None:
        if hasattr(buffer.sampler, "alpha"):
            buffer.sampler.alpha = float(dice_of_settings.uniform(0.1, 1.0))
        time.sleep(0.002)

    dice_of_settings = np.random.default_rng(1)

    def copied() -> None:
        copy = pickle.loads(pickle.dumps(buffer))
        copy.check_valid()
        assert intact(copy.read(np.arange(copy.stats()["added"] - len(copy), copy.stats()["added"])))

    with quick_switches():
        crowd = Crowd(SECONDS)
        jobs: dict[str, Any] = {f"add {i}": adder for i, adder in enumerate(adders)}
        crowd.run(**jobs, sample=sample, learn=learn, look=look, settings=settings, copied=copied)
    assert all(crowd.rounds.values()), f"not everybody got a turn: {crowd.rounds}"
    given = dict(pair for adder in adders for pair in adder.given)
    added = sum(len(adder.given) for adder in adders)
    assert sorted(given) == list(range(added)), "an id was given twice, or never"
    stats = buffer.stats()
    assert stats["added"] == added
    assert stats["sampled"] == asked["sampled"] + asked["updated"]
    knows = hasattr(buffer.sampler, "alpha")
    assert stats["updated"] + stats["stale"] == asked["updated"] if knows else stats["updated"] == 0
    live = np.arange(added - len(buffer), added)
    found = buffer.read(live)
    assert found.action.tolist() == [given[i] for i in live.tolist()]
    assert intact(found)
    buffer.check_valid()


def test_ids_and_contents_of_four_adders_belong_together() -> None:
    """The same in short, with rows so small that everything happens under the interpreter's lock."""
    buffer = rb.ReplayBuffer(1000, streams=2, sampler=rb.Prioritized(), view=rb.NStep(3, 1.0), seed=0)
    given: list[tuple[int, int]] = []

    def adder(start: int) -> Callable[[], None]:
        numbers = iter(range(start, start + JUMP))

        def add() -> None:
            number = next(numbers)
            pair = np.array([number, -number])
            first = buffer.add(pair[:, None] * [1.0, 2.0], pair, pair, pair[:, None] * [3.0, 4.0], pair == 0, pair == 0)
            given.append((first, number))

        return add

    def learn() -> None:
        batch = buffer.sample(64)
        assert (batch.obs[:, 1] == 2 * batch.action).all()
        buffer.update_priorities(batch.indices, batch.reward)

    with quick_switches():
        adder(0)()
        given.clear()
        Crowd(1.0).run(a=adder(0), b=adder(JUMP), c=adder(2 * JUMP), d=adder(3 * JUMP), learn=learn)
    assert sorted(first for first, _ in given) == list(range(2, 2 * len(given) + 2, 2))  # the very first add had id 0
    numbers = dict(given)
    live = np.arange(buffer.stats()["added"] - len(buffer), buffer.stats()["added"])
    expected = [numbers.get(i - i % 2, 0) * (1 - 2 * (i % 2)) for i in live.tolist()]
    assert buffer.read(live, rb.Transition()).action.tolist() == expected
    buffer.check_valid()
