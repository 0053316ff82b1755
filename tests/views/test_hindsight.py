"""Goals in hindsight: which are chosen, what is recomputed; the answers come from the plain list of what was added."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.stats
from lives import Lived, live

import replaybank as rb
from oracle import item, same_batch, same_bytes

OBS = {"achieved_goal": ("float32", (2,)), "desired_goal": ("float32", (2,)), "observation": "float32"}
SIZES = [(1000, 1), (1000, 3), (60, 1), (60, 4), (3, 5), (1, 1)]
STRATEGIES = ["future", "final", "episode"]


def goals(stream: int, time: int) -> dict[str, Any]:
    """Every step achieves another goal, so a goal tells which step it is of."""
    return {
        "achieved_goal": np.float32([stream, time]),
        "desired_goal": np.float32([-1, -1]),
        "observation": np.float32(time),
    }


def distance(achieved: Any, desired: Any, info: dict[str, Any]) -> Any:
    """A reward that gives away all it was computed from."""
    assert achieved.shape == desired.shape == (len(info["note"]), 2)
    return info["note"] * 1000.0 + info["state"]["c"] + (achieved - desired)[:, 1]


def candidates(told: list[Lived], capacity: int, id_: int, strategy: str) -> list[Lived]:
    """The steps whose goals an id may get."""
    mine = told[id_]
    run = [row for row in told if (row.stream, row.segment) == (mine.stream, mine.segment)]
    run = [row for row in run if row.id >= len(told) - capacity]
    return {"future": [row for row in run if row.id >= id_], "final": run[-1:], "episode": run}[strategy]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("capacity", "streams"), SIZES)
def test_a_goal_is_one_that_its_own_episode_achieved(strategy: Any, capacity: int, streams: int) -> None:
    """With masks, ends, resets in the middle, running episodes, and on a buffer that has wrapped many times."""
    view = rb.Hindsight(distance, strategy, gamma=0.9)
    buffer, told = live(capacity, streams, 150, seed=capacity + streams, make=goals, obs=OBS, view=view)
    ids = np.repeat(np.arange(max(0, len(told) - capacity), len(told)), 3)
    batch = buffer.read(ids)
    for i, id_ in enumerate(ids.tolist()):
        fields = told[id_].fields
        expected = {**fields, "reward": fields["reward"]}
        if batch.relabeled[i]:
            goal = batch.next_obs["desired_goal"][i]
            assert goal.tolist() in [
                row.fields["next_obs"]["achieved_goal"].tolist() for row in candidates(told, capacity, id_, strategy)
            ]
            for name in ("obs", "next_obs"):
                expected[name] = fields[name] | {"desired_goal": goal}
            info = {"note": fields["note"][None], "state": {"c": fields["state"]["c"][None]}}
            reward = distance(fields["next_obs"]["achieved_goal"][None], goal[None], info)
            expected["reward"] = np.float32(reward[0])
        for name, value in expected.items():
            assert same_bytes(item(batch[name], i), value), name
        assert batch.discount[i] == np.float32(0.0 if fields["terminated"] else 0.9)
    assert not len(ids) > 50 or 0 < batch.relabeled.mean() < 1


def test_the_share_of_relabeled_ones_is_k_of_k_plus_one() -> None:
    """Binomial, 50,000 draws: a share that is off by 0.01 lies at least 4.4 standard deviations out."""
    buffer, _ = live(60, 2, 60, seed=1, make=goals, obs=OBS)
    ids = np.resize(np.arange(buffer.stats()["added"] - 60, buffer.stats()["added"]), 50_000)
    for k in (1, 4, 0.5):
        relabeled = buffer.read(ids, rb.Hindsight(distance, k=k)).relabeled.sum()
        assert scipy.stats.binomtest(int(relabeled), len(ids), k / (k + 1)).pvalue > 1e-4
    assert not buffer.read(ids, rb.Hindsight(distance, k=0)).relabeled.any()


@pytest.mark.parametrize("strategy", ["future", "episode"])
def test_goals_are_drawn_uniformly(strategy: Any) -> None:
    """Chi-square, 40,000 draws over at most 14 steps: one that comes 6% too often shifts it by 10 and more."""
    buffer, told = live(60, 3, 80, seed=3, end=0.03, make=goals, obs=OBS)
    id_ = next(row.id for row in told[-60:] if len(candidates(told, 60, row.id, "future")) == 6)
    assert len(candidates(told, 60, id_, "episode")) in range(7, 15)
    batch = buffer.read(np.full(50_000, id_), rb.Hindsight(distance, strategy))
    found = batch.obs["desired_goal"][batch.relabeled][:, 1]
    times = [row.fields["next_obs"]["achieved_goal"][1] for row in candidates(told, 60, id_, strategy)]
    counts = [(found == time).sum() for time in times]
    assert sum(counts) == batch.relabeled.sum()
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_a_running_episode_is_relabeled_with_what_it_achieved_so_far() -> None:
    """SB3 zoo#433: no hindsight before the first episode ended."""
    buffer = rb.ReplayBuffer(50, SCHEMA, streams=2, view=rb.Hindsight(reached, k=1000), seed=0)
    off = np.zeros(2, bool)
    for t in range(4):
        buffer.add(pair(t), np.zeros(2, int), np.ones(2), pair(t + 1), off, off)
    batch = buffer.sample(300)
    assert batch.relabeled.mean() > 0.9
    stream, time = batch.obs["desired_goal"][batch.relabeled].T
    assert (stream == batch.obs["achieved_goal"][batch.relabeled, 0]).all()  # each stream has its own future
    assert (time > batch.obs["achieved_goal"][batch.relabeled, 1]).all()
    assert set(time.tolist()) == {1, 2, 3, 4}


SCHEMA = {"obs": OBS, "action": "int64"}


def pair(time: int) -> dict[str, Any]:
    return {
        "achieved_goal": np.float32([[0, time], [1, time]]),
        "desired_goal": np.full((2, 2), -1, np.float32),
        "observation": np.float32([time, time]),
    }


def reached(achieved: Any, desired: Any, info: dict[str, Any]) -> Any:
    return (achieved == desired).all(axis=-1)


def test_terminated_stays_unless_a_function_gives_it() -> None:
    buffer, told = live(200, 2, 100, seed=5, make=goals, obs=OBS)
    ids = np.arange(len(told) - 100, len(told))
    recorded = buffer.read(ids, rb.Transition(0.9))
    plain = buffer.read(ids, rb.Hindsight(distance, gamma=0.9))
    assert np.array_equal(plain.terminated, recorded.terminated)
    assert np.array_equal(plain.discount, recorded.discount)
    told_so = buffer.read(ids, rb.Hindsight(distance, "future", gamma=0.9, terminated_fn=reached))
    achieved = reached(told_so.next_obs["achieved_goal"], told_so.next_obs["desired_goal"], {})
    assert np.array_equal(told_so.terminated, np.where(told_so.relabeled, achieved, recorded.terminated))
    assert (told_so.terminated != recorded.terminated).any()
    assert np.array_equal(told_so.discount, np.where(told_so.terminated, 0, np.float32(0.9)))
    assert np.array_equal(told_so.truncated, recorded.truncated)


def test_the_buffer_keeps_what_was_added() -> None:
    buffer, told = live(200, 2, 60, seed=6, make=goals, obs=OBS)
    ids = np.arange(len(told) - 100, len(told)) if len(told) > 100 else np.arange(len(told))
    before = buffer.read(ids, rb.Transition())
    assert buffer.read(ids, rb.Hindsight(distance)).relabeled.any()
    assert same_batch(before, buffer.read(ids, rb.Transition()))
    buffer.check_valid()


@pytest.mark.parametrize("sampler", [rb.Uniform, lambda: rb.Uniform(replace=False), rb.Prioritized])
def test_every_sampler_and_the_same_seed_the_same_batch(sampler: Any) -> None:
    batches = []
    for _ in range(2):
        buffer, _ = live(200, 2, 60, seed=7, make=goals, obs=OBS, sampler=sampler(), view=rb.Hindsight(distance))
        batches.append(buffer.sample(32))
        assert len(batches[-1]) == 32
        assert buffer.update_priorities(batches[-1].indices, batches[-1].reward).stale == 0
    assert same_batch(*batches)
    assert batches[0].relabeled.any()


def test_a_batch_in_hindsight_travels() -> None:
    torch = pytest.importorskip("torch")
    buffer, _ = live(200, 2, 60, seed=7, make=goals, obs=OBS, view=rb.Hindsight(distance))
    batch = buffer.sample(32)
    assert same_batch(batch, pickle.loads(pickle.dumps(batch)))
    assert {"relabeled", "discount", "note"} <= set(batch.keys())
    tensors = batch.to_torch()
    assert torch.equal(tensors.relabeled, torch.from_numpy(batch.relabeled))
    assert torch.equal(tensors.obs["desired_goal"], torch.from_numpy(batch.obs["desired_goal"]))


def test_goals_may_have_other_names_and_shapes() -> None:
    spec = {"obs": {"now": ("int8", (2, 3)), "want": ("int8", (2, 3))}, "action": "int64", "reward": ("float64", (2,))}
    view = rb.Hindsight(lambda a, d, info: (a == d).sum(axis=2), "final", 1e6, achieved="now", desired="want")
    buffer = rb.ReplayBuffer(10, spec, view=view, seed=0)
    for t in range(4):
        obs, after = ({"now": np.full((2, 3), x, np.int8), "want": np.full((2, 3), -1, np.int8)} for x in (t, t + 1))
        buffer.add(obs, 0, np.zeros(2), after, False, t == 3)
    batch = buffer.read([0, 3])
    assert (batch.obs["want"] == 4).all()
    assert batch.reward.tolist() == [[0, 0], [3, 3]]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"strategy": "past"}, ValueError, "strategy must be one of future, final, episode, given 'past'"),
        ({"k": -1}, ValueError, "k must be a finite number >= 0"),
        ({"k": float("inf")}, ValueError, "k must be a finite number >= 0"),
        ({"k": "4"}, ValueError, "k must be a finite number >= 0"),
        ({"gamma": 2}, ValueError, r"gamma must be in \[0, 1\]"),
        ({"reward_fn": None}, TypeError, "reward_fn must be a function"),
        ({"terminated_fn": 3}, TypeError, "terminated_fn must be a function"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        rb.Hindsight(**{"reward_fn": distance, **settings})
    with pytest.raises(dataclasses.FrozenInstanceError):
        rb.Hindsight(distance).k = 3


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (("float32", (2,)), "expected a mapping with arrays achieved_goal and desired_goal, given no mapping"),
        ({"achieved_goal": "float32", "x": "int8"}, "expected a mapping with arrays .*, given achieved_goal, x"),
        ({"achieved_goal": ["float32"], "desired_goal": "float32"}, "expected a mapping with arrays"),
        ({"achieved_goal": ("float32", (2,)), "desired_goal": ("float32", (3,))}, r"one dtype and shape.*\(2,\) and"),
        ({"achieved_goal": "float64", "desired_goal": "float32"}, "one dtype and shape.*float64.*float32"),
    ],
)
def test_observations_without_such_goals_are_refused(obs: Any, message: str) -> None:
    buffer = rb.ReplayBuffer(10, {"obs": obs, "action": "int64"}, view=rb.Hindsight(distance))
    zeros = zero(buffer.schema.fields["obs"])
    buffer.add(zeros, 0, 0.0, zeros, False, False)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            buffer.sample(1)


def zero(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: zero(child) for name, child in node.items()}
    return tuple(zero(child) for child in node) if isinstance(node, tuple) else np.zeros(node.shape, node.dtype)


@pytest.mark.parametrize(
    ("reward_fn", "message"),
    [
        (lambda a, d, info: 1.0, r"reward_fn: expected shape \(8,\), given \(\)"),
        (lambda a, d, info: a, r"reward_fn: expected shape \(8,\), given \(8, 2\)"),
        (lambda a, d, info: np.full(len(a), np.nan), "reward_fn: expected finite numbers, given nan"),
        (lambda a, d, info: np.full(len(a), 1e300), "reward_fn: expected float32"),
        (lambda a, d, info: np.full(len(a), 1j), "reward_fn: expected float32, given complex128"),
        (lambda a, d, info: None, "reward_fn: expected numbers"),
    ],
)
def test_a_reward_function_that_gives_anything_else_is_named(reward_fn: Any, message: str) -> None:
    buffer, _ = live(200, 2, 60, seed=7, make=goals, obs=OBS, view=rb.Hindsight(reward_fn, k=1e9))
    with pytest.raises((ValueError, TypeError), match=message):
        buffer.sample(8)
    for wrong in (lambda a, d, info: np.zeros(3, bool), lambda a, d, info: a[:, 0] * 0.5 + 7):
        buffer.view = rb.Hindsight(distance, k=1e9, terminated_fn=wrong)
        with pytest.raises((ValueError, TypeError), match="terminated_fn: expected"):
            buffer.sample(8)


def test_stacks_of_frames_are_no_goals() -> None:
    spec = {"obs": {"achieved_goal": ("float32", (2,)), "desired_goal": ("float32", (2,))}, "action": "int64"}
    buffer = rb.ReplayBuffer(10, spec, view=rb.FrameStack(2))
    zeros = zero(buffer.schema.fields["obs"])
    buffer.add(zeros, 0, 0.0, zeros, False, False)
    for view in (rb.Hindsight(distance), rb.Sequence(3)):
        with pytest.raises(ValueError, match="keeps stacks of frames"):
            buffer.read([0], view)


def test_a_buffer_of_stacks_is_refused_and_leaves_the_view_as_it_was() -> None:
    """Both buffers have one schema, and rows of different layouts."""
    schema = rb.Schema.of(
        {"obs": dict.fromkeys(("achieved_goal", "desired_goal"), ("float32", (2,))), "action": "int64"}
    )
    stacks, plain = rb.ReplayBuffer(9, schema, view=rb.FrameStack(2)), rb.ReplayBuffer(9, schema)
    view = rb.Hindsight(lambda achieved, desired, info: np.zeros(len(achieved)), k=0)
    obs, after = ({name: np.float32([t, t + 1]) for name in schema.fields["obs"]} for t in (0, 1))  # type: ignore[union-attr]
    for buffer in (stacks, plain):
        buffer.add(obs, 7, 2.0, after, False, False)
    with pytest.raises(ValueError, match="keeps stacks of frames"):
        stacks.read([0], view)
    batch = plain.read([0], view)
    assert same_bytes(batch.obs["desired_goal"][0], obs["desired_goal"])
    assert (batch.action.item(), batch.reward.item()) == (7, 2.0)
