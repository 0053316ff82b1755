"""n-step windows, by hand: the numbers here were worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

import replaybank as rb


def run(rewards: list[float], ends: dict[int, str], view: rb.NStep, streams: int = 1) -> rb.ReplayBuffer:
    """One life of stream 0 with these rewards: step t leads from t to t + 1; an end is followed by a reset to 100 t."""
    buffer = rb.ReplayBuffer(50, streams=streams, view=view, sampler=rb.Uniform(replace=False))
    here = 0.0
    for t, reward in enumerate(rewards):
        end = ends.get(t)
        shape = (1,) if streams == 1 else (streams, 1)
        obs = np.full(shape, here, np.float32)
        flags = np.zeros(streams, bool)
        flags[0] = True
        terminated, truncated = flags & (end == "terminated"), flags & (end == "truncated")
        if streams == 1:
            buffer.add(obs, t, reward, obs + 1, bool(terminated[0]), bool(truncated[0]))
        else:
            buffer.add(obs, np.full(streams, t), np.full(streams, reward), obs + 1, terminated, truncated)
        here = 100.0 * t if end else here + 1
    return buffer


def by_id(buffer: rb.ReplayBuffer) -> list[tuple[float, float, float, bool, bool]]:
    """(reward, discount, next_obs, terminated, truncated) of everything, in the order in which it was added."""
    batch = buffer.sample(len(buffer))
    order = np.argsort(batch.indices)
    columns = (batch.reward, batch.discount, batch.next_obs[:, 0], batch.terminated, batch.truncated)
    return list(zip(*(column[order].tolist() for column in columns), strict=True))


def test_a_termination_cuts_the_window_and_stops_bootstrapping() -> None:
    buffer = run([1, 2, 4, 8], {2: "terminated"}, rb.NStep(3, 0.5))
    assert by_id(buffer) == [
        (1 + 1 + 1, 0.0, 3.0, True, False),
        (2 + 2, 0.0, 3.0, True, False),
        (4, 0.0, 3.0, True, False),
        (8, 0.5, 201.0, False, False),
    ]


def test_a_truncation_cuts_the_window_and_bootstraps_from_the_final_observation() -> None:
    """CleanRL's Rainbow runs across truncated ends; cpprb bootstraps there from a fill value."""
    buffer = run([1, 2, 4, 8], {2: "truncated"}, rb.NStep(3, 0.5))
    assert by_id(buffer) == [
        (3, 0.125, 3.0, False, True),
        (4, 0.25, 3.0, False, True),
        (4, 0.5, 3.0, False, True),
        (8, 0.5, 201.0, False, False),
    ]


def test_the_window_stops_at_the_newest_transition_of_an_open_stream() -> None:
    """Its discount says how many steps it took, so the target is right although the window is short."""
    assert by_id(run([1, 1], {}, rb.NStep(5, 0.5))) == [(1.5, 0.25, 2.0, False, False), (1, 0.5, 2.0, False, False)]


def test_an_end_cuts_the_windows_of_its_own_stream_only() -> None:
    """AgileRL: one environment's end cut every environment's window."""
    rows = by_id(run([1, 1, 1], {1: "terminated"}, rb.NStep(3, 1.0), streams=2))
    assert [row[0] for row in rows[0::2]] == [2, 1, 1]
    assert [row[0] for row in rows[1::2]] == [2, 1, 1]  # stream 1 was moved too, so its window ends there, unterminated
    assert [row[3] for row in rows[0::2]] == [True, True, False]
    assert [row[3] for row in rows[1::2]] == [False, False, False]
    assert [row[1] for row in rows[1::2]] == [1, 1, 1]


def test_another_streams_end_does_not_shorten_a_window() -> None:
    buffer = rb.ReplayBuffer(50, streams=2, view=rb.NStep(3, 1.0), sampler=rb.Uniform(replace=False))
    for t in range(3):
        obs = np.float32([t, t])
        buffer.add(obs, np.zeros(2, int), np.ones(2), obs + 1, np.array([t == 0, False]), np.zeros(2, bool))
    assert [row[0] for row in by_id_flat(buffer)] == [1, 3, 2, 2, 1, 1]


def by_id_flat(buffer: rb.ReplayBuffer) -> list[tuple[float, float]]:
    batch = buffer.sample(len(buffer))
    order = np.argsort(batch.indices)
    return list(zip(batch.reward[order].tolist(), batch.discount[order].tolist(), strict=True))


def test_one_step_is_the_transition_itself() -> None:
    one, plain = (run([1, 2, 3, 4, 5], {2: "truncated", 4: "terminated"}, rb.NStep(1, 0.9)) for _ in range(2))
    plain.view = rb.Transition(0.9)
    assert by_id(one) == by_id(plain)


def test_a_full_and_wrapped_buffer_can_change_n() -> None:
    view = rb.NStep(1, 1.0)
    buffer = rb.ReplayBuffer(6, view=view, sampler=rb.Uniform(replace=False))
    for t in range(20):
        buffer.add(np.float32([t]), 0, 1.0, np.float32([t + 1]), False, False)
    for n in (1, 3, 100, 2):
        view.n = n
        assert [row[0] for row in by_id(buffer)] == [min(n, 6 - i) for i in range(6)]


def test_with_gamma_zero_only_the_first_reward_counts() -> None:
    assert by_id(run([1, 2, 4], {}, rb.NStep(3, 0.0)))[0] == (1, 0.0, 3.0, False, False)


def test_long_windows_add_up_in_float64() -> None:
    """1000 rewards of 0.1 in float32 steps drift by 1e-3; the sum is exact to float32."""
    buffer = rb.ReplayBuffer(1000, view=rb.NStep(1000, 1.0), sampler=rb.Uniform(replace=False))
    obs = np.arange(1001, dtype=np.float32)
    off = np.zeros(1000, bool)
    buffer.extend(obs[:-1], np.zeros(1000, int), np.full(1000, 0.1), obs[1:], off, off)
    batch = buffer.sample(1000)
    assert batch.reward[np.argmin(batch.indices)] == np.float32(1000 * float(np.float32(0.1)))


@pytest.mark.parametrize("n", [0, -1, 1.5, "3", None])
def test_n_must_be_a_positive_integer(n: object) -> None:
    with pytest.raises((ValueError, TypeError), match="n must be an integer of at least 1"):
        rb.NStep(n, 0.9)
    view = rb.NStep(3, 0.9)
    with pytest.raises((ValueError, TypeError), match="n must be an integer of at least 1"):
        view.n = n
    assert view.n == 3


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan"), "0.9", None])
def test_gamma_must_be_a_discount(gamma: object) -> None:
    for view in (lambda: rb.NStep(3, gamma), lambda: rb.Transition(gamma)):
        with pytest.raises((ValueError, TypeError), match="gamma"):
            view()


def test_n_beyond_the_buffer_is_the_sum_to_the_end_and_costs_no_more() -> None:
    """Monte Carlo returns: what is asked for is never longer than what there is, nor is the memory for it."""
    rows = by_id(run([1, 2, 4], {2: "terminated"}, rb.NStep(10**12, 0.5)))
    assert [row[:2] for row in rows] == [(3.0, 0.0), (4.0, 0.0), (4.0, 0.0)]
