"""Tianshou's buffers over our memory, held against Tianshou's own and trained by its algorithms."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tianshou")

import gymnasium as gym
import torch
from tianshou.algorithm import DQN, SAC
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, CachedReplayBuffer, Collector, VectorReplayBuffer
from tianshou.data.collector import EpisodeRolloutHookMCReturn, StepHookAddActionDistribution
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net, Recurrent
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step

from replaybank.adapters.tianshou import TianshouPrioritizedReplayBuffer, TianshouReplayBuffer

FIELDS = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next")


class Feed:
    """Random lives of several environments: what a collector would add. Each observation is another number."""

    def __init__(self, environments: int, seed: int = 0, terminated: float = 0.1, truncated: float = 0.1) -> None:
        self.rng = np.random.default_rng(seed)
        self.ends = terminated, truncated
        self.count = 0.0
        self.obs = self.fresh(environments)

    def fresh(self, n: int) -> np.ndarray:
        self.count += n
        return (self.count - np.arange(n, dtype=np.float32))[:, None] * np.ones(2, np.float32)

    def step(self, ids: Any = None) -> Batch:
        ids = np.arange(len(self.obs)) if ids is None else np.asarray(ids)
        n = len(ids)
        terminated, truncated = (self.rng.random(n) < chance for chance in self.ends)
        batch = Batch(
            obs=self.obs[ids].copy(),
            act=self.rng.integers(0, 4, n),
            rew=self.rng.normal(size=n),
            terminated=terminated,
            truncated=truncated & ~terminated,
            done=terminated | truncated,
            obs_next=self.fresh(n),
            info=Batch(),
            policy=Batch(),
        )
        self.obs[ids] = np.where(batch.done[:, None], self.fresh(n), batch.obs_next)
        return batch


def rows(batch: Batch) -> Counter[tuple[bytes, ...]]:
    """The transitions, whatever their order."""
    return Counter(tuple(np.asarray(batch[name][i]).tobytes() for name in FIELDS) for i in range(len(batch.rew)))


def both(total: int, environments: int, **options: Any) -> tuple[TianshouReplayBuffer, VectorReplayBuffer]:
    return TianshouReplayBuffer(total, environments, **options), VectorReplayBuffer(total, environments, **options)


def n_step(buffer: Any, n: int) -> dict[bytes, float]:
    """Tianshou's own n-step targets of all transitions, by their observation; Q is the first number of obs_next."""
    indices = buffer.sample_indices(0)
    batch = buffer[indices]
    target = Algorithm.compute_nstep_return(
        batch=batch,
        buffer=buffer,
        indices=indices,
        target_q_fn=lambda buffer, at: torch.as_tensor(buffer[at].obs_next[:, 0], dtype=torch.float64),
        gamma=0.9,
        n_step=n,
    ).returns
    return {obs.tobytes(): value.item() for obs, value in zip(batch.obs, target, strict=True)}


# ---- the same stream into both ----


@pytest.mark.parametrize("steps", [30, 400])
def test_the_same_calls_leave_the_same_transitions_and_tell_the_same_returns(steps: int) -> None:
    feed = Feed(4)
    ours, theirs = both(200, 4)
    for _ in range(steps):
        batch = feed.step()
        (slots, *one), (_, *other) = ours.add(batch), theirs.add(batch)
        np.testing.assert_allclose(one[0], other[0], atol=1e-12)
        assert one[1].tolist() == other[1].tolist()
        assert np.array_equal(ours[slots].obs, batch.obs)
    assert len(ours) == len(theirs) == min(4 * steps, 200)
    assert rows(ours[:]) == rows(theirs[:])
    assert ours[:].rew.dtype == theirs[:].rew.dtype == np.float64
    ours.bank.check_valid()


def test_environments_may_step_in_any_number_and_order() -> None:
    feed = Feed(5, seed=1)
    ours, theirs = both(5000, 5)
    for _ in range(300):
        ids = feed.rng.permutation(5)[: feed.rng.integers(1, 6)]
        batch = feed.step(ids)
        (slots, *one), (_, *other) = ours.add(batch, buffer_ids=ids), theirs.add(batch, buffer_ids=ids)
        np.testing.assert_allclose(one[0], other[0], atol=1e-12)
        assert one[1].tolist() == other[1].tolist()
        assert rows(ours[slots]) == rows(batch)
    assert rows(ours[:]) == rows(theirs[:])
    assert n_step(ours, 3) == pytest.approx(n_step(theirs, 3))
    ours.bank.check_valid()


def test_exactly_the_last_transitions_of_all_environments_stay() -> None:
    feed, ours, added = Feed(3, seed=2), TianshouReplayBuffer(50, 3), []
    for _ in range(100):
        ids = feed.rng.permutation(3)[: feed.rng.integers(1, 4)]
        batch = feed.step(ids)
        ours.add(batch, buffer_ids=ids)
        added += [batch[int(i)] for i in np.argsort(ids)]
        assert rows(ours[:]) == rows(Batch.stack(added[-50:]))
    assert len(ours) == ours.maxsize == 50


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("steps", [10, 120])  # with room left, and overwritten more than once
def test_n_step_targets_are_those_over_tianshous_own_buffer(n: int, steps: int) -> None:
    feed = Feed(4, seed=3)
    ours, theirs = both(160, 4)
    for _ in range(steps):
        batch = feed.step()
        ours.add(batch)
        theirs.add(batch)
    assert n_step(ours, n) == pytest.approx(n_step(theirs, n), rel=1e-6)


def test_an_environment_may_wait_until_all_it_added_has_been_overwritten() -> None:
    feed, ours = Feed(2, seed=17, terminated=0.0, truncated=0.0), TianshouReplayBuffer(10, 2)
    ours.add(feed.step())
    for _ in range(9):
        ours.add(feed.step([1]), buffer_ids=[1])
    slots, _, _, start = ours.add(feed.step())
    assert start.tolist() == [-1, -1]
    assert ours.prev(slots).tolist() == [slots[0], (slots[1] - 2) % 10]
    assert sorted(ours.unfinished_index()) == sorted(slots)
    batch = feed.step()
    batch.terminated[:] = True
    _, _, lengths, _ = ours.add(batch)
    assert lengths.tolist() == [3, 12]


def test_next_and_prev_follow_the_episode_and_stay_at_its_ends() -> None:
    feed, ours, lives = Feed(3, seed=4), TianshouReplayBuffer(60, 3), [[], [], []]
    for _ in range(57):
        ids = feed.rng.permutation(3)[: feed.rng.integers(1, 4)]
        batch = feed.step(ids)
        slots, *_ = ours.add(batch, buffer_ids=ids)
        for slot, stream, done in zip(slots, ids, batch.done, strict=True):
            for life in lives:  # the slot's last tenant has left
                life[:] = [step for step in life if step[0] != slot]
            lives[stream].append((int(slot), bool(done)))
    follows, open_ends = {}, []
    for life in lives:
        for (slot, done), (after, _) in pairwise(life):
            follows[slot] = slot if done else after
        slot, done = life[-1]
        follows[slot] = slot
        open_ends += [] if done else [slot]
    precedes = {after: slot for slot, after in follows.items() if after != slot}
    at = np.array(sorted(follows))
    assert len(at) == 60
    assert ours.next(at).tolist() == [follows[slot] for slot in at]
    assert ours.prev(at).tolist() == [precedes.get(slot, slot) for slot in at]
    assert ours.unfinished_index().tolist() == sorted(open_ends)
    assert ours.next(int(at[5])) == follows[at[5]]
    assert ours.next(at.reshape(4, 15)).shape == (4, 15)


def test_all_transitions_come_episode_after_episode() -> None:
    # What Tianshou's returns over whole batches (GAE) count on.
    feed, ours = Feed(3, seed=5), TianshouReplayBuffer(90, 3)
    for _ in range(50):
        ours.add(feed.step())
    batch, indices = ours.sample(0)
    assert sorted(indices) == list(range(90))
    goes_on = ~batch.done & ~np.isin(indices, ours.unfinished_index())
    assert np.array_equal(batch.obs[1:][goes_on[:-1]], batch.obs_next[:-1][goes_on[:-1]])
    returns, _ = Algorithm.compute_episodic_return(batch, ours, indices, gamma=0.9, gae_lambda=1.0)
    expected, total = [], 0.0
    for reward, on in zip(batch.rew[::-1], goes_on[::-1], strict=True):
        total = reward + (0.9 * total if on else 0.0)
        expected.append(total)
    np.testing.assert_allclose(returns, expected[::-1])

    shuffled, other = ours.sample(None)
    assert other.tolist() != indices.tolist()
    assert sorted(other) == sorted(indices)
    assert rows(shuffled) == rows(batch)
    assert len(ours.sample_indices(-1)) == 0


def test_a_dict_observation_comes_back_nested() -> None:
    ours, theirs = both(20, 2)
    for i in range(15):
        obs = Batch(camera=np.full((2, 3), i, np.uint8), speed=np.array([i, -i], np.float64))
        after = Batch(camera=np.full((2, 3), i + 1, np.uint8), speed=np.array([i + 1, -i - 1], np.float64))
        flags = np.zeros(2, bool)
        batch = Batch(obs=obs, act=np.zeros((2, 1)), rew=np.ones(2), terminated=flags, truncated=flags, obs_next=after)
        ours.add(batch)
        theirs.add(batch)
    one, other = ours[:], theirs[:]
    for field in ("obs", "obs_next"):
        for name in ("camera", "speed"):
            assert Counter(map(bytes, one[field][name])) == Counter(map(bytes, other[field][name]))
            assert one[field][name].dtype == other[field][name].dtype
    assert ours.obs.camera.shape == (20, 3)
    assert not ours.hasnull()


# ---- mistakes of others ----


def test_the_observation_at_a_time_limit_is_the_final_one() -> None:
    """Tianshou's ignore_obs_next pairs the last observation of an episode with itself."""
    feed = Feed(2, seed=6, terminated=0.0, truncated=0.2)
    ours, theirs = both(400, 2, ignore_obs_next=True)
    truth = {}
    for _ in range(200):
        batch = feed.step()
        ours.add(batch)
        theirs.add(batch)
        truth |= {obs.tobytes(): after.tobytes() for obs, after in zip(batch.obs, batch.obs_next, strict=True)}
    one, other = ours[:], theirs[:]
    assert one.truncated.sum() > 50
    assert all(truth[obs.tobytes()] == after.tobytes() for obs, after in zip(one.obs, one.obs_next, strict=True))
    assert np.array_equal(other.obs[other.truncated], other.obs_next[other.truncated])


def test_a_time_limit_bootstraps_and_a_termination_does_not() -> None:
    ours = TianshouReplayBuffer(8, 2)
    for t in range(3):
        end = np.array([t == 2, False]), np.array([False, t == 2])
        ours.add(Batch(obs=np.full((2, 1), t, np.float32), act=np.zeros(2, int), rew=np.ones(2), terminated=end[0],
                       truncated=end[1], obs_next=np.full((2, 1), t + 1, np.float32)))  # fmt: skip
    batch = ours[:]
    assert batch.terminated.tolist() == [False, False, True, False, False, False]
    assert batch.truncated.tolist() == [False, False, False, False, False, True]
    assert batch.done.tolist() == [False, False, True, False, False, True]
    indices = ours.sample_indices(0)
    targets = Algorithm.compute_nstep_return(
        batch, ours, indices, lambda _, at: torch.full((len(at),), 100.0), gamma=0.5, n_step=2
    ).returns.flatten()
    assert targets.tolist() == [26.5, 1.5, 1.0, 26.5, 26.5, 51.0]


def test_n_step_does_not_run_on_from_an_episode_that_was_cut_off_by_a_reset() -> None:
    """A collector may reset its environments and keep the buffer. Tianshou adds the rewards of both episodes."""
    ours, theirs = both(30, 1)
    flags = np.zeros(1, bool)
    results = []
    for start in (0.0, 100.0):
        for t in range(3):
            done = np.array([start > 0 and t == 2])
            obs = np.array([[start + t]], np.float32)
            batch = Batch(obs=obs, act=np.zeros(1), rew=np.array([10 ** float(t)]), terminated=done, truncated=flags,
                          obs_next=obs + 1)  # fmt: skip
            results.append(ours.add(batch))
            theirs.add(batch)
    assert ours.unfinished_index().tolist() == [2]
    assert ours.next(np.arange(6)).tolist() == [1, 2, 2, 4, 5, 5]
    targets = n_step(ours, 3)
    assert targets[np.float32([1.0]).tobytes()] == pytest.approx(10 + 0.9 * 100 + 0.9**2 * 3)
    assert n_step(theirs, 3)[np.float32([1.0]).tobytes()] == pytest.approx(10 + 0.9 * 100 + 0.9**2 * 1 + 0.9**3 * 101)
    _, episode_return, length, start = results[-1]
    assert (episode_return[0], length[0], start[0]) == (111.0, 3, 3)
    assert ours.get_buffer_indices(3, 6).tolist() == [3, 4, 5]


def test_a_reset_of_the_buffer_keeps_running_returns_only_where_asked() -> None:
    feed = Feed(2, seed=7, terminated=0.05, truncated=0.0)
    ours, theirs = both(40, 2)
    for t in range(200):
        if t % 17 == 16:
            ours.reset(keep_statistics=t % 2 == 0)
            theirs.reset(keep_statistics=t % 2 == 0)
            assert len(ours) == 0
            assert len(ours.unfinished_index()) == 0
        batch = feed.step()
        (at, *one, start), (_, *other, _) = ours.add(batch), theirs.add(batch)
        np.testing.assert_allclose(one[0], other[0], atol=1e-12)
        assert one[1].tolist() == other[1].tolist()
        for stream in np.flatnonzero(batch.done):  # the episode, or what of it came after the reset
            episode = ours[ours.get_buffer_indices(start[stream], at[stream] + 1)]
            assert np.array_equal(episode.obs[1:], episode.obs_next[:-1])
            assert episode.obs_next[-1].tobytes() == batch.obs_next[stream].tobytes()
    assert rows(ours[:]) == rows(theirs[:])


# ---- indices ----


def test_an_index_is_a_number_a_list_a_mask_or_a_slice() -> None:
    feed, ours = Feed(2, seed=8), TianshouReplayBuffer(10, 2)
    for _ in range(8):
        ours.add(feed.step())
    everything, order = ours[:], ours.sample_indices(0)
    assert np.array_equal(ours[3].obs, ours[[3]].obs[0])
    assert ours[3].rew.shape == ()
    assert np.array_equal(ours[-1].obs, ours[9].obs)
    assert np.array_equal(ours[np.arange(10) < 4].obs, ours[[0, 1, 2, 3]].obs)
    assert np.array_equal(ours[2:5].obs, everything.obs[2:5])
    assert np.array_equal(ours.rew[order], everything.rew)
    assert np.array_equal(ours.done[order], everything.done)
    assert np.array_equal(ours.get([1, 2], "act"), ours[[1, 2]].act)
    assert ours.get([1], "unknown", 7) == 7
    with pytest.raises(ValueError, match="read-only"):
        ours.rew[0] = 1.0
    with pytest.raises(AssertionError):
        ours.rew = np.zeros(10)


def test_an_index_where_nothing_is_raises() -> None:
    feed, ours = Feed(2, seed=9), TianshouReplayBuffer(10, 2)
    with pytest.raises(IndexError, match="nothing is there"):
        ours[0]
    with pytest.raises(ValueError, match="empty"):
        ours.sample(4)
    ours.add(feed.step())
    assert len(ours[[0, 1]]) == 2
    for wrong in (2, 9, 10, -11, [0, 2]):
        for use in (ours.__getitem__, ours.next, ours.prev):
            with pytest.raises(IndexError, match="nothing is there"):
                use(wrong)
    with pytest.raises(IndexError, match="integers"):
        ours[[0.5]]
    ours.reset()
    with pytest.raises(IndexError, match="nothing is there"):
        ours[0]


def test_an_episode_is_found_wherever_its_transitions_lie() -> None:
    feed, ours, starts = Feed(3, seed=10), TianshouReplayBuffer(100, 3), Counter()
    episodes = {stream: [] for stream in range(3)}
    for _ in range(120):
        batch = feed.step()
        slots, _, lengths, begins = ours.add(batch)
        for stream in range(3):
            episodes[stream].append(batch.obs[stream])
            if batch.done[stream]:
                found = ours[ours.get_buffer_indices(int(begins[stream]), int(slots[stream]) + 1)]
                assert np.array_equal(found.obs, episodes[stream])
                assert lengths[stream] == len(found)
                later = ours.next(int(begins[stream]))
                assert len(ours.get_buffer_indices(int(later), int(slots[stream]) + 1)) == max(len(found) - 1, 1)
                episodes[stream] = []
                starts[int(begins[stream])] += 1
    assert len(starts) > 30
    with pytest.raises(ValueError, match="not, in this order, in one episode"):
        ours.get_buffer_indices(int(slots[0]), int(slots[1]) + 1)
    with pytest.raises(ValueError, match="not, in this order, in one episode"):
        ours.get_buffer_indices(int(slots[1]), int(slots[0]) + 1)
    assert ours.subbuffer_edges.tolist() == [0, 100]


def test_an_episode_longer_than_the_memory_is_warned_of() -> None:
    ours = TianshouReplayBuffer(5, 1)
    for t in range(8):
        obs, flag = np.array([[t]], np.float32), np.array([t == 7])
        slots, episode_return, length, start = ours.add(
            Batch(obs=obs, act=np.zeros(1), rew=np.ones(1), terminated=flag, truncated=flag & False, obs_next=obs + 1)
        )
        assert start == [0 if t < 5 else -1]
    assert (episode_return[0], length[0]) == (8.0, 8)
    with pytest.warns(UserWarning, match="knows only the rest"):
        indices = ours.get_buffer_indices(int(start[0]), int(slots[0]) + 1)
    assert ours[indices].obs[:, 0].tolist() == [3, 4, 5, 6, 7]


def test_no_index_is_an_empty_batch() -> None:
    feed, ours = Feed(2), TianshouReplayBuffer(10, 2)
    ours.add(feed.step())
    batch = ours[np.empty(0, int)]
    assert batch.obs.shape == (0, 2)
    assert len(ours.next([])) == len(ours.sample(-1)[1]) == 0


# ---- what is not a transition ----


def test_info_and_policy_are_kept_where_named_and_counted_where_not() -> None:
    ours = TianshouReplayBuffer(
        10, 2, info={"lives": "int64"}, policy={"hidden_state": {"hidden": ("float32", (2,))}}
    )  # fmt: skip
    feed = Feed(2, seed=11, terminated=0.0, truncated=0.0)
    for t in range(4):
        batch = feed.step()
        if t != 1:
            batch.info = Batch(lives=np.array([t, t + 1]), env_id=np.arange(2))
            batch.policy = Batch(hidden_state=Batch(hidden=torch.full((2, 2), float(t))), extra=np.zeros(2))
        batch.advantage = np.zeros(2)
        ours.add(batch)
    kept = ours[np.arange(0, 8, 2)]
    assert kept.info.lives.tolist() == [0, 0, 2, 3]
    assert kept.policy.hidden_state.hidden.tolist() == [[0, 0], [0, 0], [2, 2], [3, 3]]
    assert ours.left_out == {"info.env_id": 6, "policy.extra": 6, "advantage": 8}
    assert ours.info.lives[:2].tolist() == [0, 1]
    plain = TianshouReplayBuffer(10, 2)
    plain.add(batch)
    assert list(plain[:].info.get_keys()) == list(plain[:].policy.get_keys()) == []
    assert plain.left_out == {
        "info.lives": 2, "info.env_id": 2, "policy.hidden_state": 2, "policy.extra": 2, "advantage": 2
    }  # fmt: skip


def test_fields_that_hooks_add_belong_to_the_transitions_they_were_given_for() -> None:
    feed, ours = Feed(2, seed=12, terminated=0.2), TianshouReplayBuffer(20, 2)
    for t in range(40):
        slots, *_ = ours.add(feed.step())
        if t != 35:
            ours.set_array_at_key(np.array([t, t + 0.5]), "mark", index=slots)
    marks = ours[ours.sample_indices(0)].mark
    assert sorted(marks[~np.isnan(marks)]) == [t + half for t in range(30, 40) if t != 35 for half in (0, 0.5)]
    assert np.isnan(marks).sum() == 2
    assert ours.hasnull()
    ours.set_array_at_key(np.arange(20), "rank", default_value=-1)
    slots, *_ = ours.add(feed.step())
    assert ours[slots].rank.tolist() == [-1, -1]
    with pytest.raises(ValueError, match="'rew' is stored when it is added"):
        ours.set_array_at_key(np.zeros(2), "rew", index=slots)
    with pytest.raises(TypeError, match="has no NaN"):
        ours.set_array_at_key(np.zeros(2, int), "new", index=slots)
    with pytest.raises(ValueError, match="expected 2 values, given 1"):
        ours.set_array_at_key(np.zeros(1), "mark", index=slots)


def test_a_nan_is_found_as_long_as_it_is_in_the_buffer() -> None:
    feed, ours = Feed(1, seed=13), TianshouReplayBuffer(500, 1)
    assert not ours.hasnull()
    for t in range(1500):
        batch = feed.step()
        if t == 700:
            batch.obs_next[0, 1] = np.nan
        ours.add(batch)
        assert ours.hasnull() == (700 <= t < 1200)
        if t == 900:
            assert ours.isnull().obs_next.sum() == 1
            fresh = copy.deepcopy(ours)
            fresh.reset()
            assert not fresh.hasnull()


# ---- stacks of frames ----


class Frames(Feed):
    """Observations that are frames, and what stacks of the last `k` of them an environment would show."""

    def __init__(self, environments: int, k: int, **options: Any) -> None:
        super().__init__(environments, **options)
        self.stacks = np.repeat(self.obs[:, None], k, 1)

    def step(self, ids: Any = None) -> tuple[Batch, Batch]:  # type: ignore[override]
        frames = super().step(ids)
        before = self.stacks
        after = np.concatenate([before[:, 1:], frames.obs_next[:, None]], 1)
        self.stacks = np.where(frames.done[:, None, None], self.obs[:, None], after)
        stacks = Batch(frames, copy=True)
        stacks.obs, stacks.obs_next = before, after
        return frames, stacks


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_stacks_come_back_as_the_environment_showed_them(stacked: bool, kind: str) -> None:
    options = {"stack_num": 4, "ignore_obs_next": True, "save_only_last_obs": stacked}
    feed = Frames(3, 4, seed=16)
    ours = TianshouReplayBuffer(90, 3, **options) if kind == "uniform" else prioritized(90, 3, **options)
    theirs, truth = VectorReplayBuffer(3000, 3, **options), {}
    for t in range(100):
        frames, stacks = feed.step()
        ours.add(stacks if stacked else frames)
        theirs.add(stacks if stacked else frames)
        truth |= {bytes(obs): bytes(after) for obs, after in zip(stacks.obs, stacks.obs_next, strict=True)}
        if t % 10 == 9:
            for batch in (ours.sample(64)[0], ours.sample(0)[0], ours[:]):
                assert batch.obs.shape == batch.obs_next.shape == (len(batch.rew), 4, 2)
                assert all(
                    truth[bytes(obs)] == bytes(after) for obs, after in zip(batch.obs, batch.obs_next, strict=True)
                )
    complete = ours.sample(0)[0]
    assert {bytes(obs) for obs in complete.obs} <= {bytes(obs) for obs in theirs[:].obs}
    indices = ours.sample_indices(0)
    cut = np.setdiff1d(np.arange(90), indices)  # how an episode went on whose beginning has been overwritten
    assert 0 < len(cut) <= 3 * 3
    for slot in cut:
        with pytest.raises(ValueError, match="has left"):
            ours[slot]
    assert ours.obs.shape[0] == 90
    assert np.array_equal(ours.get([7], "obs", stack_num=4), ours[[7]].obs)
    ours[ours.next(ours.next(indices))]  # where n-step targets look: complete, as what it follows is


def test_what_is_left_of_a_long_episode_has_whole_stacks() -> None:
    feed = Frames(1, 4, seed=18, terminated=0.0, truncated=0.0)
    ours = TianshouReplayBuffer(12, 1, stack_num=4)
    for _ in range(20):
        frames, stacks = feed.step()
        slots, _, _, start = ours.add(frames)
    with pytest.warns(UserWarning, match="knows only the rest"):
        indices = ours.get_buffer_indices(int(start[0]), int(slots[0]) + 1)
    assert len(ours[indices]) == 12 - 3
    assert np.array_equal(ours[indices].obs[-1], stacks.obs[0])


def test_what_cannot_be_stacked_raises() -> None:
    with pytest.raises(NotImplementedError, match="sample_avail"):
        TianshouReplayBuffer(10, 2, stack_num=4, sample_avail=True)
    with pytest.raises(ValueError, match="expected stack_num"):
        TianshouReplayBuffer(10, 2, save_only_last_obs=True)
    with pytest.raises(ValueError, match="k must be"):
        TianshouReplayBuffer(10, 2, stack_num=0)
    with pytest.raises(ValueError, match=r"obs: expected stacks of stack_num 4, given shape \(3, 2\)"):
        TianshouReplayBuffer(10, 2, stack_num=4, save_only_last_obs=True).add(Frames(2, 3).step()[1])


# ---- errors ----


def test_what_does_not_fit_raises_and_changes_nothing() -> None:
    feed = Feed(3, seed=14)
    ours = TianshouReplayBuffer(30, 3)
    good = feed.step()

    def changed(**fields: Any) -> Batch:
        return Batch({name: fields.get(name, good[name]) for name in good.get_keys()})

    missing = Batch({name: good[name] for name in good.get_keys() if name != "obs_next"})
    cases = [
        (missing, None, "missing 'obs_next'"),
        (changed(rew=np.array([1.0, np.nan, 1.0])), None, "reward"),
        (changed(rew=np.ones((3, 2))), None, "several agents"),
        (changed(rew=np.ones(2)), None, r"expected shape \(3,\)"),
        (changed(obs_next=np.ones((3, 5), np.float32)), None, "next_obs"),
        (good, [0, 1], r"rew: expected shape \(2,\)"),
        (changed(rew=np.ones(2), terminated=np.zeros(2, bool)), [0, 1], "leading axis .* 2"),
        (good, [0, 1, 1], "different ones"),
        (good, [0, 1, 3], "different ones"),
        (good, [[0], [1], [2]], "different ones"),
    ]
    for filled in (False, True):
        if filled:
            ours.add(good)
        before = pickle.dumps(ours)
        for batch, ids, message in cases:
            with pytest.raises((TypeError, ValueError), match=message):
                ours.add(batch, buffer_ids=ids)
        assert pickle.dumps(ours) == before


def test_sizes_out_of_range_raise() -> None:
    with pytest.raises(ValueError, match="at least buffer_num"):
        TianshouReplayBuffer(3, 4)
    with pytest.raises(ValueError, match="capacity"):
        TianshouReplayBuffer(0, 0)
    with pytest.raises(TypeError, match="streams"):
        TianshouReplayBuffer(10, 1.5)


def test_what_writes_into_tianshous_arrays_is_refused_in_words() -> None:
    feed, ours = Feed(2, seed=15), TianshouReplayBuffer(10, 2)
    ours.add(feed.step())
    for name in ("_meta", "buffers", "obs_next", "weight", "last_index"):
        with pytest.raises(AttributeError, match=f"TianshouReplayBuffer has no '{name}'"):
            getattr(ours, name)
    with pytest.raises(AttributeError, match="has no"):
        CachedReplayBuffer(ours, 2, 10)
    with pytest.raises(NotImplementedError, match="cannot take over"):
        ours.update(VectorReplayBuffer(10, 2))
    with pytest.raises(NotImplementedError, match="memory of its own"):
        ours.set_batch(Batch())
    with pytest.raises(NotImplementedError, match="cannot be taken out"):
        ours.dropnull()
    with pytest.raises(NotImplementedError, match="make a buffer"):
        TianshouReplayBuffer.from_data()
    with pytest.raises(NotImplementedError, match="stack_num is 1, as the buffer was made, given 4"):
        ours.get([0], "obs", stack_num=4)


# ---- prioritized ----


def prioritized(total: int = 64, environments: int = 2, seed: int = 42, **options: Any) -> Any:
    settings = {"alpha": 0.7, "beta": 0.5, **options}
    return TianshouPrioritizedReplayBuffer(total, environments, **settings, random_seed=seed)


def filled(buffer: Any, steps: int, seed: int = 20) -> Feed:
    feed = Feed(2, seed=seed)
    for _ in range(steps):
        buffer.add(feed.step())
    return feed


def test_weights_are_those_of_the_paper_divided_by_the_largest_in_the_batch() -> None:
    for weight_norm in (True, False):
        ours = prioritized(weight_norm=weight_norm)
        filled(ours, 40)
        errors = np.random.default_rng(1).normal(size=64)
        report = ours.update_weight(np.arange(64), torch.as_tensor(errors))
        assert (report.updated, report.stale) == (64, 0)
        masses = (np.abs(errors) + np.finfo(np.float32).eps) ** 0.7
        batch, indices = ours.sample(32)
        for found, at in ((batch.weight, indices), (ours[indices].weight, indices), (ours[:5].weight, None)):
            at = ours.sample_indices(0)[:5] if at is None else at
            weights = masses[at] ** -0.5
            weights /= weights.max() if weight_norm else masses.min() ** -0.5
            np.testing.assert_allclose(found, weights, rtol=1e-5)
        np.testing.assert_allclose(ours.get_weight(indices), batch.weight, rtol=1e-6)
        ours.set_beta(1.0)
        weights = 1 / masses[indices]
        np.testing.assert_allclose(
            ours[indices].weight, weights / (weights.max() if weight_norm else 1 / masses.min()), rtol=1e-5
        )


def test_draws_follow_the_priorities() -> None:
    ours = prioritized()
    filled(ours, 40)
    errors = np.linspace(0.1, 3.0, 64)
    ours.update_weight(np.arange(64), errors)
    counts = np.bincount(np.concatenate([ours.sample(64)[1] for _ in range(500)]), minlength=64)
    expected = 32_000 * errors**0.7 / (errors**0.7).sum()
    # Stratified draws spread less than independent ones; 5 sigma of those, over 64 counts, fails once in 27,000 seeds.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_new_transitions_get_the_largest_priority_in_the_buffer() -> None:
    ours = prioritized()
    feed = filled(ours, 10)
    ours.update_weight(np.arange(20), np.full(20, 0.01))
    ours.update_weight(np.array([3]), np.array([-5.0]))
    slots, *_ = ours.add(feed.step())
    found = ours.get_weight(np.array([0, 3, *slots]))
    assert found[1] == found[2] == found[3] < found[0]


def test_what_was_overwritten_since_it_was_drawn_keeps_its_new_priority() -> None:
    ours = prioritized()
    feed = filled(ours, 32)
    _, indices = ours.sample(64)
    for _ in range(16):
        ours.add(feed.step())  # slots 0 to 31 hold other transitions now
    report = ours.update_weight(indices, np.full(64, 100.0))
    stale = int((indices < 32).sum())
    assert (report.updated, report.stale) == (64 - stale, stale)
    weights = ours.get_weight(np.arange(64))
    assert (weights[:32] == 1.0).all()
    drawn = np.unique(indices[indices >= 32])
    assert np.allclose(weights[drawn], 100.0 ** (-0.7 * 0.5))
    # Other indices, and the same in another order, mean what is there now.
    _, indices = ours.sample(64)
    indices[:] = indices[::-1].copy()
    errors = np.zeros(64)
    errors[indices] = 1.0 + indices
    ours.update_weight(indices, errors[indices])
    found = ours.bank.sampler.priority_of(ours._ids(indices))
    np.testing.assert_allclose(found, errors[indices], rtol=1e-6)
    assert ours.update_weight(np.arange(32), np.full(32, 100.0)).updated == 32


def test_a_td_error_that_is_not_finite_raises_and_changes_nothing() -> None:
    ours = prioritized()
    filled(ours, 32)
    batch, indices = ours.sample(16)
    with pytest.raises(ValueError, match="finite"):
        ours.update_weight(indices, np.full(16, np.nan))
    assert np.array_equal(ours[indices].weight, batch.weight)


# ---- copies ----


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "hdf5"])
@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_a_copy_goes_on_as_the_original(way: str, kind: str, tmp_path: Any) -> None:
    ours = TianshouReplayBuffer(50, 2) if kind == "uniform" else prioritized(50)
    filled(ours, 40)
    if kind == "prioritized":
        ours.update_weight(ours.sample(32)[1], np.linspace(-1, 1, 32))
    ours.left_out["x"] = 1
    if way == "hdf5":
        ours.save_hdf5(str(tmp_path / "buffer.hdf5"), compression="gzip")
        twin = type(ours).load_hdf5(str(tmp_path / "buffer.hdf5"))
    else:
        twin = copy.deepcopy(ours) if way == "deepcopy" else pickle.loads(pickle.dumps(ours))
    assert type(twin) is type(ours)
    assert twin.left_out == {"x": 1}
    if kind == "prioritized":
        for buffer in (ours, twin):
            buffer.set_beta(0.9)
    feeds = Feed(2, seed=21), Feed(2, seed=21)
    for _ in range(20):
        answers = [buffer.add(feed.step()) for buffer, feed in zip((ours, twin), feeds, strict=True)]
        assert all(np.array_equal(one, other) for one, other in zip(*answers, strict=True))
        (one, at), (other, there) = ours.sample(16), twin.sample(16)
        assert at.tolist() == there.tolist()
        assert rows(one) == rows(other)
        assert np.array_equal(one.get("weight", 0), other.get("weight", 0))
        if kind == "prioritized":
            ours.update_weight(at, one.rew)
            twin.update_weight(at, one.rew)
    assert n_step(ours, 3) == n_step(twin, 3)
    twin.bank.check_valid()


def test_the_seed_decides_the_draws() -> None:
    for make in (lambda seed: TianshouReplayBuffer(64, 2, random_seed=seed), lambda seed: prioritized(seed=seed)):
        drawn = []
        for seed in (1, 1, 2):
            buffer = make(seed)
            filled(buffer, 40)
            drawn.append(buffer.sample(64)[1].tolist() + buffer.sample_indices(None).tolist())
        assert drawn[0] == drawn[1] != drawn[2]


# ---- the real library ----


def cart_poles(n: int) -> DummyVectorEnv:
    envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(n)])
    envs.seed(0)
    return envs


def seeded() -> None:
    np.random.seed(0)  # noqa: NPY002, what Tianshou's policies draw from
    torch.manual_seed(0)
    torch.set_num_threads(1)


def dqn(net: Any = None, horizon: int = 3) -> DQN:
    net = Net(state_shape=(4,), action_shape=2, hidden_sizes=[64, 64]) if net is None else net
    policy = DiscreteQLearningPolicy(model=net, action_space=gym.spaces.Discrete(2), eps_training=0.1)
    return DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.99,
        n_step_return_horizon=horizon,
        target_update_freq=100,
    )


def trained(algorithm: Any, buffer: Any, envs: DummyVectorEnv, steps: int) -> None:
    collector = Collector(algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=40 * len(envs), random=True)
    params = OffPolicyTrainerParams(
        training_collector=collector,
        max_epochs=1,
        epoch_num_steps=steps,
        collection_step_num_env_steps=2 * len(envs),
        update_step_num_gradient_steps_per_sample=0.25,
        batch_size=64,
        verbose=False,
        show_progress=False,
    )
    algorithm.run_training(params)


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
@pytest.mark.filterwarnings("ignore:an episode's first transitions have been overwritten")  # it may learn that well
def test_dqn_learns_cart_pole(kind: str) -> None:
    seeded()
    buffer = TianshouReplayBuffer(2400, 8) if kind == "uniform" else prioritized(2400, 8)
    algorithm = dqn()
    trained(algorithm, buffer, cart_poles(8), 4000)
    assert len(buffer) == 2400
    assert buffer.bank.stats()["added"] == buffer.left_out["info.env_id"] == 4000 + 320
    test = Collector(algorithm, cart_poles(8))
    test.reset()
    assert test.collect(n_episode=16).returns.mean() > 66  # three times what a policy at random reaches
    buffer.bank.check_valid()


def test_collected_episodes_are_those_tianshou_would_have_collected() -> None:
    answers = []
    for buffer in both(20_000, 5):
        seeded()
        collector = Collector(dqn(), cart_poles(5), buffer, on_episode_done_hook=EpisodeRolloutHookMCReturn(0.9))
        collector.set_on_step_hook(StepHookAddActionDistribution())
        collector.reset()
        stats = [collector.collect(n_episode=7, random=True) for _ in range(3)]
        batch = buffer[:]
        order = np.lexsort(batch.obs.T)
        returns = batch.mc_return_to_go[order], batch.full_episode_mc_return[order]
        answers.append(([s.returns.tolist() for s in stats], [s.lens.tolist() for s in stats], rows(batch), *returns))
        assert not buffer.hasnull()
    for one, other in zip(*answers, strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    assert len(answers[0][1][0]) == 7


def test_the_loss_is_weighted_and_td_errors_become_priorities() -> None:
    seeded()
    buffer, algorithm = prioritized(2000, 4), dqn()
    collector = Collector(algorithm, cart_poles(4), buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=400, random=True)
    buffer.update_weight(np.arange(400), np.linspace(0.1, 2.0, 400))
    seen, update_weight = [], buffer.update_weight
    learn = algorithm._update_with_batch

    def spied_learn(batch: Batch) -> Any:
        weights = batch.weight.clone()
        with torch.no_grad():
            q = algorithm.policy(batch).logits[np.arange(32), batch.act]
        errors = batch.returns.flatten() - q
        seen.append((weights, errors))
        stats = learn(batch)
        assert stats.loss == pytest.approx((errors**2 * weights).mean().item(), rel=1e-4)
        return stats

    def spied_update(index: Any, new_weight: Any) -> Any:
        seen[-1] = (*seen[-1], index, new_weight)
        return update_weight(index, new_weight)

    algorithm._update_with_batch = spied_learn
    object.__setattr__(buffer, "update_weight", spied_update)
    with policy_within_training_step(algorithm.policy):
        for _ in range(3):
            algorithm.update(sample_size=32, buffer=buffer)
            weights, errors, index, new = seen[-1]
            assert weights.min() < weights.max() == 1.0
            np.testing.assert_allclose(new.detach().numpy(), errors.numpy(), rtol=1e-3, atol=1e-5)
            found = buffer.bank.sampler.priority_of(buffer._ids(index))
            last = {slot: abs(error) for slot, error in zip(index.tolist(), new.tolist(), strict=True)}
            np.testing.assert_allclose(found, [last[slot] for slot in index.tolist()], rtol=1e-5, atol=1e-6)
    assert buffer.bank.stats()["updated"] == 400 + 3 * 32


def test_a_recurrent_policy_collects_and_its_state_is_kept_where_named() -> None:
    seeded()
    net = Recurrent(layer_num=1, state_shape=(4,), action_shape=2, hidden_layer_size=8)
    state = {"hidden": ("float32", (1, 8)), "cell": ("float32", (1, 8))}
    buffer = TianshouReplayBuffer(500, 3, policy={"hidden_state": state})
    collector = Collector(dqn(net), cart_poles(3), buffer)
    collector.reset()
    collector.collect(n_step=60)
    hidden = buffer[:].policy.hidden_state.hidden
    assert hidden.shape == (60, 1, 8)
    assert len(np.unique(hidden[:, 0, 0])) > 50


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_sac_trains_on_pendulum(kind: str) -> None:
    seeded()
    envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(2)])
    envs.seed(0)
    space = gym.spaces.Box(-2.0, 2.0, (1,))
    body = Net(state_shape=(3,), hidden_sizes=[32])
    actor = ContinuousActorProbabilistic(preprocess_net=body, action_shape=(1,), unbounded=True, conditioned_sigma=True)
    critic = ContinuousCritic(preprocess_net=Net(state_shape=(3,), action_shape=(1,), hidden_sizes=[32], concat=True))
    algorithm = SAC(
        policy=SACPolicy(actor=actor, action_space=space),
        policy_optim=AdamOptimizerFactory(lr=1e-3),
        critic=critic,
        critic_optim=AdamOptimizerFactory(lr=1e-3),
        n_step_return_horizon=3,
    )
    before = copy.deepcopy(critic.state_dict())
    buffer = TianshouReplayBuffer(1000, 2) if kind == "uniform" else prioritized(1000, 2)
    trained(algorithm, buffer, envs, 600)
    batch = buffer[:]
    assert batch.truncated.sum() == 2  # time limits of 200 steps
    assert not batch.terminated.any()
    assert not np.array_equal(batch.obs[batch.truncated], batch.obs_next[batch.truncated])
    assert all(torch.isfinite(value).all() for value in critic.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in critic.state_dict().items())
    if kind == "prioritized":
        assert buffer.bank.stats()["updated"] > 0
        assert len(np.unique(buffer.get_weight(np.arange(len(batch.rew))))) > 100
