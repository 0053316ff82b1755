"""Memory: every observation once, what is reserved costs nothing until it is used, and `nbytes` tells the truth."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import replaybank as rb


def flags(n: int) -> np.ndarray:
    return np.zeros(n, bool)


def test_a_linked_stream_keeps_one_observation_a_transition() -> None:
    """A million steps of one open stream need one tail: the newest step's."""
    n = 1_000_000
    buffer = rb.ReplayBuffer(n, {"obs": "float32", "action": "uint8"})
    count = np.arange(n, dtype=np.float32)
    for begin in range(0, n, 100_000):
        part = count[begin : begin + 100_000]
        off = flags(len(part))
        buffer.extend(part, off.view(np.uint8), part, part + 1, off, off)
    assert buffer.stats()["tails"] == 1
    assert len(buffer) == n
    # obs 4, action 1 and 3 of padding, reward 4, flags 2 and 2 of padding, links 16
    assert 32 * n <= buffer.nbytes < 32 * n + 100


def test_streams_and_ends_need_one_tail_each() -> None:
    streams, length = 6, 50
    buffer = rb.ReplayBuffer(10_000, streams=streams)
    for t in range(2 * length):
        obs = np.arange(streams) * 1000.0 + t
        ended = np.full(streams, t == length - 1)
        buffer.add(obs, np.zeros(streams, int), obs, obs + 1, ended, flags(streams))
    assert buffer.stats()["tails"] == 2 * streams


@pytest.mark.parametrize("capacity", [1, 2, 100, 1003])
def test_capacity_is_exact_when_nothing_is_shared(capacity: int) -> None:
    """Random states: every transition needs its own next observation, and the buffer still holds `capacity` of them."""
    buffer = rb.ReplayBuffer(capacity, sampler=rb.Uniform(replace=False))
    rng = np.random.default_rng(0)
    for _ in range(3):
        obs = rng.random((capacity, 5), np.float32)
        after = rng.random((capacity, 5), np.float32)
        buffer.extend(obs, np.arange(capacity), obs[:, 0], after, flags(capacity), flags(capacity))
        assert len(buffer) == buffer.stats()["tails"] == capacity
        batch = buffer.sample(capacity)
        order = batch.action
        assert np.array_equal(batch.obs, obs[order])
        assert np.array_equal(batch.next_obs, after[order])
        buffer.check_valid()


def test_tails_that_leave_are_used_again() -> None:
    """A stream that links most of the time stays small for ever: the pool grows to what was needed at once."""
    buffer = rb.ReplayBuffer(1000)
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(30):
        obs = np.cumsum(np.where(rng.random(1001) < 0.1, 1000.0, 1.0))  # a tenth of the steps continues nothing
        after = obs[:-1] + 1
        buffer.extend(obs[:-1], flags(1000), after, after, flags(1000), flags(1000))
        sizes.append(buffer.nbytes)
        assert 50 < buffer.stats()["tails"] < 150
    assert max(sizes) < sizes[0] * 1.1


def test_clear_gives_all_tails_back() -> None:
    buffer = rb.ReplayBuffer(100)
    for _ in range(5):
        obs = np.random.default_rng(0).random(100)
        buffer.extend(obs, flags(100), obs, obs + 1, flags(100), flags(100))
        assert buffer.stats()["tails"] == 100
        buffer.clear()
        assert buffer.stats()["tails"] == 0
        buffer.check_valid()


def test_stats_say_the_same_as_the_properties() -> None:
    buffer = rb.ReplayBuffer(100, streams=3, sampler=rb.Prioritized())
    assert buffer.stats()["nbytes"] == buffer.nbytes
    for t in range(50):
        obs = np.full((3, 2), t)
        buffer.add(obs, flags(3), flags(3), obs + 1, flags(3), flags(3))
    stats = buffer.stats()
    assert (stats["size"], stats["capacity"], stats["streams"]) == (len(buffer), buffer.capacity, buffer.streams)
    assert stats["nbytes"] == buffer.nbytes
    assert (stats["added"], stats["overwritten"]) == (150, 50)


MEASURE = """
import sys
import numpy as np
import replaybank as rb

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

{setup}
before = resident()
{work}
print(resident() - before, {result})
"""


def growth(setup: str, work: str, result: str) -> tuple[int, int]:
    """By how many bytes a fresh process grows through `work`, and what `result` is then."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(setup=setup, work=work, result=result)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    grown, value = done.stdout.split()
    return int(grown), int(value)


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")


@on_linux
@pytest.mark.parametrize(
    "sampler", ["Uniform()", "Prioritized()", "Prioritized(weight_norm='buffer')", "RankPrioritized()", "SampleOnce()"]
)
def test_ten_million_transitions_are_reserved_without_touching_memory(sampler: str) -> None:
    grown, nbytes = growth(
        "schema = {'obs': ('float32', (100,)), 'action': 'int64'}",
        f"buffer = rb.ReplayBuffer(10_000_000, schema, sampler=rb.{sampler})\n"
        "obs = np.zeros(100, np.float32)\n"
        "for t in range(100): buffer.add(obs, 0, 1.0, obs, False, False)\n"
        "buffer.sample(32)",
        "len(buffer)",
    )
    assert nbytes == 100
    assert grown < 30 * 2**20  # huge pages may make each of a dozen touched places 2 MiB


@on_linux
@pytest.mark.parametrize("shared", [True, False])
def test_nbytes_is_what_the_process_grows_by(shared: bool) -> None:
    """80 MB of observations (160 MB where nothing is shared), within 10%."""
    grown, nbytes = growth(
        "n = 20_000\n"
        "buffer = rb.ReplayBuffer(n, {'obs': ('uint8', (4000,)), 'action': 'int64'}, sampler=rb.Prioritized())\n"
        "one = np.zeros((2, 4000), np.uint8)\n"
        "buffer.add(one[0], 0, 1.0, one[0], False, False); buffer.sample(1)",
        "for t in range(n):\n"
        "    obs, after = one[t % 2], one[1 - t % 2]\n"
        "    obs[:8] = np.array([t]).view(np.uint8)\n"
        f"    after[:8] = np.array([t + {1 if shared else 7}]).view(np.uint8)\n"
        "    buffer.add(obs, 0, 1.0, after, False, False)",
        "buffer.nbytes",
    )
    assert (nbytes > 150e6) != shared
    assert abs(grown / nbytes - 1) < 0.1
