"""SB3's `NStepReplayBuffer` as a second opinion on n-step windows: the same stream into both, all windows compared."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer

import replaybank as rb
from replaybank.adapters.sb3 import SB3ReplayBuffer

OBS = spaces.Box(-np.inf, np.inf, (1,), np.float32)
ACTION = spaces.Discrete(100)
# gamma 0.5 and rewards of whole numbers: sums are exact in float32, so that windows can be compared for equality.
GAMMA = 0.5

Window = tuple[float, float, float, float, int]


def steps(n: int, n_envs: int, seed: int, ends: float = 0.2) -> list[tuple[Any, ...]]:
    """n calls of `add`: each observation occurs once; episodes end by termination and by time limit, in both the same
    share; the reset observation differs from the final one."""
    rng = np.random.default_rng(seed)
    names = iter(range(10**6))
    here = np.float32([[next(names)] for _ in range(n_envs)])
    calls = []
    for _ in range(n):
        there = np.float32([[next(names)] for _ in range(n_envs)])
        done = rng.random(n_envs) < ends
        timeout = done & (rng.random(n_envs) < 0.5)
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in timeout]
        calls.append((here, there, rng.integers(100, size=n_envs), rng.integers(9, size=n_envs) * 1.0, done, infos))
        here = np.float32([[next(names)] if over else place for over, place in zip(done, there, strict=True)])
    return calls


def windows_of(samples: Any) -> dict[float, Window]:
    """By the observation it starts from: reward, next_obs, discount, done, action."""
    fields = (samples.rewards, samples.next_observations, samples.discounts, samples.dones, samples.actions)
    assert all(field.shape == (len(samples.rewards), 1) for field in fields)
    columns = [field[:, 0].tolist() for field in fields]
    found = dict(zip(samples.observations[:, 0].tolist(), zip(*columns, strict=True), strict=True))
    assert len(found) == len(samples.rewards)
    return found


def both(
    calls: list[tuple[Any, ...]], size: int, n_envs: int, n: int, gamma: float = GAMMA, timeouts: bool = True
) -> tuple[dict[float, Window], dict[float, Window]]:
    """All windows of our buffer and of SB3's, of `size` steps, after the same calls."""
    arguments = (size * n_envs, OBS, ACTION, "cpu", n_envs, False, timeouts)
    theirs = NStepReplayBuffer(*arguments, n_steps=n, gamma=gamma)
    ours = SB3ReplayBuffer(*arguments, n_steps=n, gamma=gamma, sampler=rb.Uniform(replace=False), seed=0)
    for call in calls:
        theirs.add(*call)
        ours.add(*call)
    assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
    held = theirs.size()
    # SB3 draws an environment for each place; here each place is asked for in each environment.
    with patch.object(np.random, "randint", lambda *args, size: np.tile(np.arange(n_envs), held)):
        expected = theirs._get_samples(np.repeat(np.arange(held), n_envs))
    return windows_of(ours.sample(held * n_envs)), windows_of(expected)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize(
    ("length", "size"),
    [(20, 50), (50, 50), (51, 50), (137, 50), (149, 50), (150, 50), (3, 50), (1, 50)],
    ids=["part", "just full", "wrapped by one", "wrapped", "before the seam", "on the seam", "short", "one"],
)
def test_every_window_is_what_sb3_says(length: int, size: int, n: int, n_envs: int) -> None:
    """Ends of both kinds, wrap-around, and the newest incomplete windows, which SB3 cuts at the newest step as we do:
    its discount is then gamma to the steps there are."""
    ours, theirs = both(steps(length, n_envs, seed=length), size, n_envs, n)
    assert ours == theirs


def test_discounts_are_gamma_to_the_length_of_the_window_also_at_terminations() -> None:
    ours, _ = both(steps(300, 2, seed=1), 300, 2, n=3)
    assert {window[2] for window in ours.values()} == {0.5, 0.25, 0.125}
    assert {window[2] for window in ours.values() if window[3]} == {0.5, 0.25, 0.125}


def test_without_timeout_handling_every_end_is_a_termination() -> None:
    ours, theirs = both(steps(200, 3, seed=2), 100, 3, n=3, timeouts=False)
    assert ours == theirs
    assert sum(window[3] for window in ours.values()) > 100


def test_any_gamma_agrees_up_to_single_precision() -> None:
    ours, theirs = both(steps(200, 3, seed=3, ends=0.05), 100, 3, n=10, gamma=0.97)
    assert ours.keys() == theirs.keys()
    keys = list(ours)
    np.testing.assert_allclose([ours[key] for key in keys], [theirs[key] for key in keys], rtol=1e-5)


def test_a_reset_without_an_end_cuts_our_windows_but_not_those_of_sb3() -> None:
    """The one difference. `learn()` called again resets the environments, without an end in the buffer: SB3's windows
    run from the broken-off episode into the new one (its rewards, its observations). Ours stop where next_obs is not
    the observation that follows, and bootstrap there with the discount of the steps they have."""
    before, after = steps(5, 1, seed=4, ends=0.0), steps(5, 1, seed=5, ends=0.0)
    moved = [(obs + 1000, next_obs + 1000, *rest) for obs, next_obs, *rest in after]
    ours, theirs = both([*before, *moved], 50, 1, n=3)
    crossing = {before[3][0].item(), before[4][0].item()}
    assert {key for key in ours if ours[key] != theirs[key]} == crossing
    final = before[4][1].item()
    rewards = [call[3].item() for call in before]
    assert ours[before[3][0].item()][:3] == (rewards[3] + GAMMA * rewards[4], final, GAMMA**2)
    assert ours[before[4][0].item()][:3] == (rewards[4], final, GAMMA)
    assert all(theirs[key][1] >= 1000 for key in crossing)
