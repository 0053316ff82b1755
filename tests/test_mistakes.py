"""Mistakes that other replay buffers made, each as one short life through the public API, named for what it protects.

Each docstring names the project and, where there is one, the issue.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import replaybank as rb
from recorder_envs import Steps, three, truth_of

GAMMA = 0.5


def lived(ends: str, **parts: Any) -> rb.ReplayBuffer:
    """A life of one stream. Step t leads from obs t to t + 0.5 at an end (T, or C: cut by a time limit), else to t + 1;
    reward 2 ** t, so that a sum of rewards says which they were."""
    buffer = rb.ReplayBuffer(parts.pop("capacity", 100), seed=0, **parts)
    for t, end in enumerate(ends):
        buffer.add(np.float32([t]), t, 2.0**t, np.float32([t + (1 if end == "." else 0.5)]), end == "T", end == "C")
    return buffer


def fed(add: Callable[..., Any], n: int) -> None:
    """n steps of one episode that goes on."""
    for t in range(n):
        add(np.float32([t]), 0, 0.0, np.float32([t + 1]), False, False)


# ---- ends ----


def test_one_array_for_the_final_observation_and_the_reset_keeps_both() -> None:
    """cleanrl#460, SB3#934: where each observation is kept once, that of the reset took the final one's place.

    Here the caller's own array is one too: what it holds changes after `add`, at each step and at the reset.
    """
    buffer = rb.ReplayBuffer(10)
    array = np.float32([0.0])
    for t in range(4):
        obs = array.copy()
        array[0] += 1.0
        truncated = t == 1
        buffer.add(obs, 0, 0.0, array, False, truncated)
        if truncated:
            array[0] = 10.0  # the reset
    batch = buffer.read([0, 1, 2, 3])
    assert batch.obs[:, 0].tolist() == [0, 1, 10, 11]
    assert batch.next_obs[:, 0].tolist() == [1, 2, 11, 12]


@pytest.mark.parametrize("view", [rb.Transition(), rb.FrameStack(3, adds="frames")], ids=["plain", "stacked"])
def test_the_next_observation_of_a_truncated_step_is_neither_obs_nor_the_reset(view: Any) -> None:
    """SB3's `optimize_memory_usage` pairs it with the next episode's reset, Tianshou's `ignore_obs_next` with obs."""
    batch = lived("..C..C.", view=view).read([2, 5])
    assert batch.next_obs[..., 0].reshape(2, -1)[:, -1].tolist() == [2.5, 5.5]
    assert batch.truncated.all()
    assert not batch.terminated.any()


def test_the_terminal_transition_is_stored() -> None:
    """dopamine#228, slimDQN#106: the step that ends an episode, often the only one with a reward, is never stored."""
    with closing(gymnasium.wrappers.TimeLimit(Steps("box", 0, (3, 5, 1)), 4)) as env:
        recorder = rb.Recorder(env, rb.ReplayBuffer(100, rb.schema_of(env)))
        episodes = recorder.run(lambda obs: env.action_space.sample(), 3 + 4 + 1)
    batch = recorder.buffer.read(np.arange(8))
    assert [episode.length for episode in episodes] == [3, 4, 1]
    assert batch.terminated.tolist() == [False, False, True, False, False, False, False, True]
    assert batch.truncated.tolist() == [False, False, False, False, False, False, True, False]
    assert batch.reward.sum() == sum(episode.episodic_return for episode in episodes)
    assert (batch.discount[batch.terminated] == 0).all()


def test_final_observations_of_dict_spaces_arrive_whole() -> None:
    """cleanrl#545 and its `real_next_obs[i] = infos["final_obs"][i]`: an array is needed, a Dict space gives dicts."""
    with closing(three("sync", "dict", "SameStep")) as env:
        recorder = rb.Recorder(env, rb.ReplayBuffer(100, rb.schema_of(env), streams=3))
        recorder.reset(seed=0)
        for _ in range(12):
            recorder.step(env.action_space.sample())
        truth = [transition for transitions in truth_of(env) for transition in transitions]
    finals = [after for _, _, _, after, terminated, truncated in truth if terminated or truncated]
    buffer = recorder.buffer
    batch = buffer.read(np.arange(len(buffer)))
    ends = np.flatnonzero(batch.terminated | batch.truncated)
    ends = ends[np.argsort(batch.next_obs["where"][ends, 0], kind="stable")]  # by environment, as the truth is
    assert len(ends) == len(finals) > 10
    for i, final in zip(ends, finals, strict=True):
        assert batch.next_obs["where"][i].tolist() == final["where"].tolist()
        assert batch.next_obs["eyes"]["left"][i].tolist() == final["eyes"]["left"].tolist()
        assert batch.next_obs["step"][i] == final["step"]


def test_discrete_spaces_that_do_not_start_at_zero_keep_their_values() -> None:
    """SB3#913: Discrete(n, start=3) is taken for 0 … n - 1, or refused."""
    space = spaces.Discrete(4, start=3)
    with closing(SyncVectorEnv([lambda: Steps("box", 0, (3,)), lambda: Steps("box", 1, (2,))])) as env:
        assert env.single_action_space == space
        recorder = rb.Recorder(env, rb.ReplayBuffer(100, rb.schema_of(env), streams=2))
        recorder.reset(seed=0)
        for action in (3, 4, 6):
            recorder.step(np.full(2, action))
    batch = recorder.buffer.read([0, 2, 4])
    assert batch.action.tolist() == [3, 4, 6]
    assert all(space.contains(action) for action in batch.action)


# ---- windows ----


def test_every_step_of_an_episode_starts_a_window() -> None:
    """CleanRL's Rainbow drops the last n - 1 starts of an episode, and with them most of what leads to its end."""
    buffer = lived("....T", view=rb.NStep(3, GAMMA), sampler=rb.Uniform(replace=False))
    batch = buffer.sample(5)
    order = np.argsort(batch.indices)
    assert batch.indices[order].tolist() == [0, 1, 2, 3, 4]
    assert batch.reward[order].tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4 + 4, 8 + 8, 16]
    assert batch.discount[order].tolist() == [0.125, 0.125, 0, 0, 0]


def test_no_window_crosses_a_truncated_end() -> None:
    """CleanRL's Rainbow cuts windows where an episode terminates, and adds up rewards across its time limit."""
    batch = lived("..C...", view=rb.NStep(4, GAMMA)).read([0, 1, 2])
    assert batch.reward.tolist() == [1 + 1 + 1, 2 + 2, 4]


def test_a_window_that_a_time_limit_cut_bootstraps_from_the_final_observation() -> None:
    """cpprb: n-step windows at a truncation bootstrap from a value that some memory was filled with."""
    batch = lived("..C...", view=rb.NStep(4, GAMMA)).read([0, 1, 2])
    assert batch.next_obs[:, 0].tolist() == [2.5, 2.5, 2.5]
    assert batch.discount.tolist() == [0.125, 0.25, 0.5]
    assert not batch.done.any()


@pytest.mark.parametrize("end", ["T", "C"])
def test_one_environments_end_leaves_the_windows_of_the_others_alone(end: str) -> None:
    """AgileRL: a window stopped for all environments where the episode of one of them ended."""
    buffer = rb.ReplayBuffer(100, streams=2, view=rb.NStep(3, 1.0))
    for t in range(3):
        ended = np.array([t == 0, False])
        flags = (ended, ~ended & False) if end == "T" else (~ended & False, ended)
        obs = np.float32([t, t])
        buffer.add(obs, np.zeros(2, int), np.full(2, 2.0**t), obs + 1, *flags)
    batch = buffer.read([0, 1])  # the first step of both
    assert batch.reward.tolist() == [1, 1 + 2 + 4]
    assert batch.next_obs.tolist() == [1, 3]


def test_nothing_of_an_episode_leaks_into_the_next() -> None:
    """AgileRL: windows of a new episode begin with steps of the one that has terminated."""
    buffer = lived(".T....", view=rb.NStep(3, GAMMA))
    assert buffer.read([2, 3]).reward.tolist() == [4 + 4 + 4, 8 + 8 + 8]
    assert [segment.ids.tolist() for segment in buffer.segments()] == [[0, 1], [2, 3, 4, 5]]
    assert lived(".T....", view=rb.Sequence(4)).read([2]).reward.tolist() == [[4, 8, 16, 32]]


def test_a_sequence_stops_at_a_truncated_end_and_says_so() -> None:
    """Flashbax: the sequences of its trajectory buffers run on into the next episode."""
    batch = lived("..C...", view=rb.Sequence(4)).read([1, 3])
    assert batch.valid.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert batch.reward[batch.valid].tolist() == [2, 4, 8, 16, 32]
    assert batch.is_first.tolist() == [[False] * 4, [True, False, False, False]]
    assert batch.next_obs[0, 1, 0] == 2.5


@pytest.mark.parametrize("capacity", [100, 17])
def test_no_stack_mixes_episodes(capacity: int) -> None:
    """dopamine#213: after a time limit the first stacks of an episode hold the last frames of the one before."""
    env = gymnasium.wrappers.TimeLimit(Steps("box", 0, (3, 6, 1, 4)), 5)
    with closing(gymnasium.wrappers.FrameStackObservation(env, 4)) as stacked:
        recorder = rb.Recorder(stacked, rb.ReplayBuffer(capacity, view=rb.FrameStack(4), seed=0))
        recorder.run(lambda obs: stacked.action_space.sample(), 60)
    batch = recorder.buffer.sample(200)
    episodes = np.concatenate([batch.obs, batch.next_obs], axis=1)[:, :, 1]
    assert (episodes == episodes[:, :1]).all()
    steps = batch.obs[:, :, 2]
    assert (np.diff(steps, axis=1) == (steps[:, 1:] > 0)).all()  # in order; the first frame again where there is none
    assert (batch.next_obs[:, -1, 2] == steps[:, -1] + 1).all()


def test_goals_are_relabeled_before_the_first_episode_has_ended() -> None:
    """rl-baselines3-zoo#433: "Unable to sample before the end of the first episode": long ones fail at the start."""

    def reached(achieved: Any, desired: Any, info: dict[str, Any]) -> Any:
        return (achieved == desired).all(axis=1).astype(np.float32)

    def obs(t: int) -> dict[str, Any]:
        return {"achieved_goal": np.float32([t]), "desired_goal": np.float32([99])}

    buffer = rb.ReplayBuffer(100, view=rb.Hindsight(reached), seed=0)
    for t in range(3):
        buffer.add(obs(t), 0, 0.0, obs(t + 1), False, False)
    batch = buffer.sample(200)
    achieved, goals = batch.next_obs["achieved_goal"][:, 0], batch.next_obs["desired_goal"][:, 0]
    assert (goals[~batch.relabeled] == 99).all()
    assert set(zip(achieved[batch.relabeled].tolist(), goals[batch.relabeled].tolist(), strict=True)) == {
        (t, later) for t in (1, 2, 3) for later in (1, 2, 3) if later >= t
    }
    assert (batch.reward == (achieved == goals)).all()


# ---- priorities ----


def prioritized(n: int = 8, **settings: Any) -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(n, sampler=rb.Prioritized(**settings), seed=0)
    fed(buffer.add, n)
    return buffer


@pytest.mark.parametrize("error", [np.nan, np.inf, -np.inf])
def test_a_priority_that_is_no_number_is_refused(error: float) -> None:
    """cpprb: after one NaN every index it draws is 0."""
    buffer = prioritized()
    before = copy.deepcopy(buffer)
    with pytest.raises(ValueError, match="td_error"):
        buffer.update_priorities([0, 1], [5.0, error])
    assert buffer.sample(64).indices.tolist() == before.sample(64).indices.tolist()
    assert len(set(buffer.sample(64).indices.tolist())) == 8


def test_a_negative_td_error_counts_by_its_size() -> None:
    """cpprb: after one priority of -1 every index it draws is 0."""
    buffer = prioritized(alpha=1.0, epsilon=0.0)
    buffer.update_priorities(range(8), [-1.0, 1.0, -3.0, 3.0, 1.0, -1.0, 1.0, 1.0])
    batch = buffer.sample(240)
    assert np.bincount(batch.indices, minlength=8).tolist() == [20, 20, 60, 60, 20, 20, 20, 20]


def test_an_id_that_was_never_given_out_is_an_error_and_not_a_crash() -> None:
    """cpprb: `update_priorities([10**9])` ends the process."""
    buffer = prioritized()
    for wrong in (10**9, 8, -1, 2**63 - 1):
        with pytest.raises(ValueError, match=f"{wrong} was never given out"):
            buffer.update_priorities([0, wrong], [1.0, 1.0])
        with pytest.raises(ValueError, match=f"{wrong} is not in the buffer"):
            buffer.read([wrong])
    assert buffer.stats()["updated"] == 0


def test_prioritized_draws_follow_the_seed() -> None:
    """cpprb, Tianshou and Reverb: prioritized draws come from a generator that no seed reaches."""

    def draws(seed: int) -> list[int]:
        buffer = rb.ReplayBuffer(100, sampler=rb.Prioritized(), seed=seed)
        fed(buffer.add, 100)
        buffer.update_priorities(range(100), np.linspace(0, 1, 100))
        return [index for _ in range(3) for index in buffer.sample(32).indices.tolist()]

    first = draws(1)
    np.random.seed(5)  # noqa: NPY002, this is what must not matter
    np.random.random(7)  # noqa: NPY002
    assert draws(1) == first
    assert draws(2) != first


def test_one_priority_near_zero_does_not_scale_all_weights_away() -> None:
    """TorchRL (says its docstring), RLlib, AgileRL: divided by the buffer's largest, a batch's weights are 1e-11."""
    buffer = prioritized(alpha=1.0, beta=1.0, epsilon=0.0)
    buffer.update_priorities(range(8), [1e-11, *[1.0] * 7])
    batch = buffer.sample(7)
    assert 0 not in batch.indices
    assert batch.weights.tolist() == [1.0] * 7


def test_alpha_is_applied_to_new_transitions_once() -> None:
    """TorchRL PR#3925: the priority of a newcomer was raised to alpha twice: seldom drawn where it should be first."""
    buffer = rb.ReplayBuffer(8, sampler=rb.Prioritized(alpha=0.5, epsilon=0.0), seed=0)
    fed(buffer.add, 4)
    buffer.update_priorities(range(4), [16.0, 1.0, 1.0, 1.0])
    fed(buffer.add, 1)  # as large as the largest: 16, whose root is 4
    batch = buffer.sample(11)
    assert np.bincount(batch.indices).tolist() == [4, 1, 1, 1, 4]


# ---- saved and moved ----


def test_after_wrap_around_a_saved_buffer_keeps_its_order_and_its_priorities() -> None:
    """cpprb: after saving a full buffer and loading it the ring begins elsewhere, and all priorities are equal."""
    buffer = lived("..C" * 7, capacity=8, sampler=rb.Prioritized(alpha=1.0, epsilon=0.0), view=rb.NStep(2, GAMMA))
    buffer.update_priorities(range(13, 21), [0.0] * 7 + [1.0])
    loaded = pickle.loads(pickle.dumps(buffer))
    ids = np.arange(13, 21)
    assert loaded.read(ids).obs[:, 0].tolist() == list(range(13, 21))
    for name, value in buffer.read(ids).items():
        np.testing.assert_array_equal(loaded.read(ids)[name], value)
    assert set(loaded.sample(50).indices.tolist()) == {20}
    for one in (buffer, loaded):  # both go on alike: the oldest leaves, a newcomer is worth the largest priority
        assert one.add(np.float32([21]), 0, 0.0, np.float32([22]), False, False) == 21
        with pytest.raises(ValueError, match="13 is not in the buffer"):
            one.read([13])
    assert loaded.sample(50).indices.tolist() == buffer.sample(50).indices.tolist()


def test_a_saved_buffer_of_frames_is_no_larger_than_the_buffer() -> None:
    """tianshou#260, dreamerv3#103: 2.5 GB of frames take 17 GB to save, and twice their size once loaded."""
    buffer = rb.ReplayBuffer(200, view=rb.FrameStack(4))
    frames = np.random.default_rng(0).integers(0, 255, (304, 20, 20)).astype(np.uint8)
    frames[:3] = frames[3]
    for t in range(300):
        buffer.add(frames[t : t + 4], 0, 0.0, frames[t + 1 : t + 5], False, False)
    saved = pickle.dumps(buffer)
    assert len(saved) < 1.02 * buffer.nbytes + 4096
    loaded = pickle.loads(saved)
    assert loaded.nbytes == buffer.nbytes
    assert (loaded.read([299]).next_obs[0] == frames[300:304]).all()
