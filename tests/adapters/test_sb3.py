"""SB3's own buffers are the oracle: the same calls of `add`, the same transitions, whatever the spaces."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import replaybank as rb
from replaybank.adapters.sb3 import PrioritizedDQN, PrioritizedSAC, SB3ReplayBuffer

torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other

EVERYTHING = rb.Uniform(replace=False)
BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)
SPACES = {
    "box": (BOX, spaces.Discrete(4)),
    "box64": (spaces.Box(-1, 1, (2, 2), np.float64), spaces.Box(-1, 1, (2, 3), np.float64)),
    "image": (IMAGE, spaces.Discrete(4)),
    "discrete from 3": (spaces.Discrete(5, start=3), spaces.Discrete(3, start=3)),
    "multidiscrete": (spaces.MultiDiscrete([3, 4, 5]), spaces.MultiDiscrete([2, 7])),
    "multibinary": (spaces.MultiBinary(4), spaces.MultiBinary(3)),
    "dict": (spaces.Dict({"camera": IMAGE, "room": spaces.Discrete(5), "arm": BOX}), BOX),
}


def stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: np.stack([value[name] for value in values]) for name in values[0]}
    return np.stack(values)


def calls_of_add(space: Any, action: Any, n: int, n_envs: int, seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """A stream of steps in these spaces; a quarter of them end an episode, half of these by time limit."""
    rng = np.random.default_rng(seed)
    space, action = copy.deepcopy(space), copy.deepcopy(action)
    space.seed(seed)
    action.seed(seed)
    here = [space.sample() for _ in range(n_envs)]
    for _ in range(n):
        there = [space.sample() for _ in range(n_envs)]
        done = rng.random(n_envs) < 0.25
        infos = [{"TimeLimit.truncated": bool(over and rng.random() < 0.5)} for over in done]
        actions = np.stack([action.sample() for _ in range(n_envs)])
        yield stacked(here), stacked(there), actions, rng.normal(size=n_envs), done, infos
        here = [space.sample() if over else place for over, place in zip(done, there, strict=True)]


def rows_of(samples: Any) -> Counter[tuple[bytes, ...]]:
    """How often each transition is in the batch, byte for byte."""
    columns = []
    for name in ReplayBufferSamples._fields:
        field = getattr(samples, name)
        parts = field.values() if isinstance(field, dict) else [] if field is None else [field]
        columns += [[row.tobytes() for row in part.numpy()] for part in parts]
    return Counter(zip(*columns, strict=True))


def all_of(theirs: ReplayBuffer, env: VecNormalize | None = None) -> Any:
    """SB3's samples of everything in its buffer: it draws an environment for each place, here each is asked for."""
    n_envs, held = theirs.n_envs, theirs.size()
    with patch.object(np.random, "randint", lambda *args, size, high=0: np.tile(np.arange(n_envs), held)):
        return theirs._get_samples(np.repeat(np.arange(held), n_envs), env)


def same_form(ours: Any, theirs: Any) -> None:
    """Same type, fields, dtypes and shapes."""
    assert type(ours) is type(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        pairs = [(mine[key], other[key]) for key in other] if isinstance(other, dict) else [(mine, other)]
        for one, two in pairs:
            assert (one is None) == (two is None)
            assert one is None or (one.dtype, one.shape, one.device) == (two.dtype, two.shape, two.device)


# ---- what is stored ----


@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("length", [40, 130], ids=["part", "wrapped"])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("name", SPACES)
def test_it_holds_what_sb3s_own_buffer_holds(name: str, n_envs: int, length: int, timeouts: bool) -> None:
    arguments = (50 * n_envs, *SPACES[name], "cpu", n_envs, False, timeouts)
    theirs = (DictReplayBuffer if name == "dict" else ReplayBuffer)(*arguments)
    ours = SB3ReplayBuffer(*arguments, sampler=EVERYTHING, seed=0)
    for call in calls_of_add(*SPACES[name], length, n_envs):
        theirs.add(*copy.deepcopy(call))
        ours.add(*call)
    assert (ours.pos, ours.full, ours.size(), ours.buffer_size) == (
        theirs.pos,
        theirs.full,
        theirs.size(),
        theirs.buffer_size,
    )
    everything, expected = ours.sample(ours.size() * n_envs), all_of(theirs)
    same_form(everything, expected)
    assert rows_of(everything) == rows_of(expected)
    assert sum(everything.dones) > 0
    assert ours.obs_shape == theirs.obs_shape
    assert ours.action_dim == theirs.action_dim


def test_a_training_run_stores_what_sb3s_own_buffer_stores() -> None:
    """DQN on three CartPoles: every call of `add` goes to both."""
    kept: list[ReplayBuffer] = []

    class Both(SB3ReplayBuffer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, sampler=EVERYTHING, **kwargs)
            kept.append(ReplayBuffer(*args, **kwargs))

        def add(self, *args: Any) -> None:
            super().add(*args)
            kept[0].add(*args)

    env = make_vec_env("CartPole-v1", 3, seed=0, env_kwargs={"max_episode_steps": 12})
    model = DQN("MlpPolicy", env, replay_buffer_class=Both, buffer_size=600, seed=0, learning_starts=50, batch_size=8)
    model.learn(900)
    ours = model.replay_buffer
    assert ours is not None
    assert ours.full
    assert rows_of(ours.sample(600)) == rows_of(all_of(kept[0]))
    assert 0 < kept[0].timeouts.sum() < kept[0].dones.sum()


def test_one_array_of_observations_across_truncations_sb3_issue_934() -> None:
    """The next observation of a truncated step is the final one, not the reset one; with `optimize_memory_usage` too,
    which SB3 cannot combine with time limits: it keeps one array for obs and next_obs."""
    for frugal in (False, True):
        model = DQN(
            "MlpPolicy",
            DummyVecEnv([Counting]),
            replay_buffer_class=SB3ReplayBuffer,
            replay_buffer_kwargs={"sampler": EVERYTHING},
            optimize_memory_usage=frugal,
            learning_starts=1000,
            buffer_size=70,
        )
        model.learn(104)
        batch = model.replay_buffer.sample(70)
        assert torch.equal(batch.next_observations, batch.observations + 1)
        assert not batch.dones.any()
        assert (batch.observations % 100 == 4).sum() == 14


def test_optimize_memory_usage_never_pairs_an_observation_with_a_wrong_next_one() -> None:
    """SB3's option does, at every truncation: it keeps one array of observations. Here it changes nothing."""
    arguments = (64, spaces.Box(0, 1e6, (1,), np.float32), spaces.Discrete(2), "cpu", 1, True)
    theirs = ReplayBuffer(*arguments, handle_timeout_termination=False)
    ours = SB3ReplayBuffer(*arguments, sampler=EVERYTHING, seed=0)
    env = Counting()
    obs, _ = env.reset()
    for _ in range(50):
        after, _, _, truncated, _ = env.step(0)
        call = (obs[None], after[None], np.zeros(1, int), np.ones(1), np.array([truncated]), [{}])
        theirs.add(*call)
        ours.add(*call)
        obs = env.reset()[0] if truncated else after
    wrong = all_of(theirs).next_observations != all_of(theirs).observations + 1
    assert wrong.sum() >= 9
    batch = ours.sample(50)
    assert torch.equal(batch.next_observations, batch.observations + 1)


class Counting(gym.Env[Any, Any]):
    """Counts up from a multiple of 100, and is cut off after 5 steps."""

    observation_space = spaces.Box(0, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.obs = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.obs = self.obs // 100 * 100 + 100
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.obs = self.obs + 1
        return self.obs, 1.0, False, bool(self.obs[0] % 100 == 5), {}


def test_learning_again_with_optimize_memory_usage_begins_a_new_segment() -> None:
    """SB3 writes `dones[pos] = True` to keep the broken-off episode apart from the next; what comes next looks here
    like what was to come."""

    class Still(Counting):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.obs, 1.0, False, False, {}

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return self.obs, {}

    model = DQN("MlpPolicy", DummyVecEnv([Still]), replay_buffer_class=SB3ReplayBuffer, optimize_memory_usage=True)
    model.learn(8)
    with pytest.warns(UserWarning, match="last trajectory"):
        model.learn(4)
    assert [len(segment.ids) for segment in model.replay_buffer.bank.segments()] == [8, 4]


def test_observations_are_stored_once_whatever_optimize_memory_usage_says() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = SB3ReplayBuffer(1000, space, spaces.Discrete(2), "cpu")
    frames = np.random.default_rng(0).integers(0, 255, (101, 1, *space.shape), np.uint8)
    for t in range(100):
        buffer.add(frames[t], frames[t + 1], np.zeros(1, int), np.ones(1), np.zeros(1, bool), [{}])
    assert buffer.bank.nbytes < 102 * frames[0].nbytes


@pytest.mark.parametrize("windows", [{}, {"n_steps": 3, "gamma": 0.5}])
def test_stacked_frames_come_back_as_they_were_at_a_quarter_of_the_memory(windows: dict[str, Any]) -> None:
    """Two environments behind VecFrameStack, as SB3 trains on them: channels first, episodes padded with zeros."""
    env = VecFrameStack(DummyVecEnv([Camera, Camera]), 4)
    env.seed(0)
    model = DQN(
        "CnnPolicy",
        env,
        buffer_size=200,
        learning_starts=1000,
        device="cpu",
        replay_buffer_class=SB3ReplayBuffer,
        replay_buffer_kwargs={"frame_stack": 4, "sampler": EVERYTHING, **windows},
    )
    ours = model.replay_buffer
    kind = NStepReplayBuffer if windows else ReplayBuffer
    theirs = kind(200, model.observation_space, model.action_space, "cpu", 2, **windows)
    with patch.object(model, "replay_buffer", Tee([ours, theirs])):
        model.learn(160)
    assert ours.observation_space.shape == (12, 36, 36)
    everything = ours.sample(160)
    same_form(everything, all_of(theirs))
    assert rows_of(everything) == rows_of(all_of(theirs))
    assert everything.dones.any()
    assert ours.bank.nbytes < (theirs.observations[:80].nbytes + theirs.next_observations[:80].nbytes) / 5


class Tee:
    """What is added to it goes to several buffers."""

    def __init__(self, buffers: list[Any]) -> None:
        self.buffers = buffers

    def add(self, *args: Any) -> None:
        for buffer in self.buffers:
            buffer.add(*copy.deepcopy(args))


def test_single_environments_may_leave_out_the_leading_axis() -> None:
    """As NumPy's broadcasting lets SB3's own buffer."""
    theirs, ours = (kind(10, BOX, spaces.Discrete(4), "cpu") for kind in (ReplayBuffer, SB3ReplayBuffer))
    for buffer in (theirs, ours):
        buffer.add(np.float32([1, 2, 3]), np.float32([2, 3, 4]), np.array(3), 0.5, True, [{}])
    assert rows_of(ours.sample(1)) == rows_of(theirs.sample(1))


def test_channels_in_another_order_are_refused_and_nothing_changes() -> None:
    buffer = SB3ReplayBuffer(10, IMAGE, spaces.Discrete(4), "cpu")
    wrong, right = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 3, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"obs: expected shape \(1, 3, 8, 8\), given \(1, 8, 8, 3\)"):
        buffer.add(wrong, right, np.zeros(1, int), np.ones(1), np.zeros(1, bool), [{}])
    with pytest.raises(ValueError, match="reward: expected finite"):
        buffer.add(right, right, np.zeros(1, int), np.array([np.nan]), np.zeros(1, bool), [{}])
    assert (buffer.pos, buffer.size(), len(buffer.bank)) == (0, 0, 0)


def test_reset_forgets_and_extend_adds_step_by_step() -> None:
    calls = list(calls_of_add(BOX, spaces.Discrete(4), 7, 2))
    theirs, ours = (kind(10, BOX, spaces.Discrete(4), "cpu", 2) for kind in (ReplayBuffer, SB3ReplayBuffer))
    for n, state in ((3, (3, 3, False)), (7, (5, 2, True)), (2, (2, 2, False))):
        for buffer in (theirs, ours):
            buffer.reset()
            assert (buffer.size(), buffer.pos, buffer.full) == (0, 0, False)
            buffer.extend(*zip(*calls[:n], strict=True))
        assert (ours.size(), ours.pos, ours.full) == (theirs.size(), theirs.pos, theirs.full) == state
        ours.bank.check_valid()
        assert rows_of(ours.sample(500)).keys() == rows_of(all_of(theirs)).keys()


# ---- VecNormalize ----


@pytest.mark.parametrize(
    ("kind", "windows"),
    [(ReplayBuffer, {}), (DictReplayBuffer, {}), (NStepReplayBuffer, {"n_steps": 3, "gamma": 0.9})],
)
def test_vec_normalize_gives_what_sb3_gives(kind: Any, windows: dict[str, Any]) -> None:
    """A clip so narrow that normalising the sum of a window would differ from summing normalised rewards."""
    env_id = Nested if kind is DictReplayBuffer else "Pendulum-v1"
    env = VecNormalize(make_vec_env(env_id, 2, seed=0), clip_reward=0.2)
    arguments = (120, env.observation_space, env.action_space, "cpu", 2)
    theirs = kind(*arguments, **windows)
    ours = SB3ReplayBuffer(*arguments, **windows, sampler=EVERYTHING, seed=0)
    env.reset()
    obs = env.get_original_obs()
    for t in range(80):
        action = np.stack([env.action_space.sample() for _ in range(2)])
        _, _, done, infos = env.step(action)
        after = env.get_original_obs()
        ends = np.array([t % 7 == 0, t % 5 == 0])
        for buffer in (theirs, ours):
            buffer.add(copy.deepcopy(obs), copy.deepcopy(after), action, env.get_original_reward(), ends, infos)
        obs = after
    everything, expected = ours.sample(120, env), all_of(theirs, env)
    same_form(everything, expected)
    if not windows:
        assert rows_of(everything) == rows_of(expected)
    else:
        order = [np.lexsort(batch.observations.numpy().T) for batch in (everything, expected)]
        for mine, other in zip(everything, expected, strict=True):
            np.testing.assert_allclose(mine[order[0]], other[order[1]], rtol=1e-6, atol=1e-7)
    assert (everything.rewards.abs() >= 0.2).any()  # clipped


class Nested(gym.Env[Any, Any]):
    """A random walk that is seen twice."""

    observation_space = spaces.Dict({"place": BOX, "frame": spaces.Box(-9, 9, (2,), np.float64)})
    action_space = BOX

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._look(), float(self.np_random.normal()), False, False, {}

    def _look(self) -> dict[str, Any]:
        place = self.np_random.normal(size=5)
        return {"place": place[:3].astype(np.float32), "frame": place[3:]}


# ---- training, saving, loading ----


@pytest.mark.parametrize("kind", [DQN, PrioritizedDQN, SAC, PrioritizedSAC])
def test_it_trains_saves_loads_and_goes_on(kind: Any, tmp_path: Path) -> None:
    env_id, n = ("CartPole-v1", 600) if issubclass(kind, DQN) else ("Pendulum-v1", 150)
    chosen = {} if kind in (PrioritizedDQN, PrioritizedSAC) else {"replay_buffer_class": SB3ReplayBuffer}
    settings = {"seed": 0, "learning_starts": 100, "batch_size": 32, "device": "cpu", "buffer_size": 400}
    model = kind("MlpPolicy", env_id, **settings, **chosen, replay_buffer_kwargs={"n_steps": 3, "gamma": 0.99})
    model.learn(n)
    assert model.replay_buffer.bank.stats()["added"] == n
    assert model._n_updates > 0
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")

    again = kind.load(tmp_path / "model", env=model.get_env())
    assert type(again.replay_buffer) is type(model.replay_buffer)
    assert again.replay_buffer.size() == 0
    again.load_replay_buffer(tmp_path / "buffer")
    again.replay_buffer.bank.check_valid()
    mine, kept = model.replay_buffer.sample(64), again.replay_buffer.sample(64)
    assert rows_of(mine) == rows_of(kept)
    updates = again._n_updates
    again.learn(100, reset_num_timesteps=False)
    assert again._n_updates > updates
    assert again.replay_buffer.bank.stats()["added"] == n + 100


@pytest.mark.parametrize("kind", [DQN, PrioritizedDQN])
def test_the_seed_of_the_model_seeds_the_draws(kind: Any) -> None:
    def trained(seed: int) -> torch.Tensor:
        chosen = {"replay_buffer_class": SB3ReplayBuffer} if kind is DQN else {}
        model = kind("MlpPolicy", "CartPole-v1", seed=seed, learning_starts=50, device="cpu", **chosen)
        model.learn(200)
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    assert torch.equal(trained(3), trained(3))
    assert not torch.equal(trained(3), trained(4))


def test_images_go_through_the_usual_wrappers() -> None:
    """uint8, channels last: SB3 wraps the environment in VecTransposeImage, and the buffer sees channels first."""
    settings = {"buffer_size": 100, "learning_starts": 20, "batch_size": 4, "device": "cpu", "seed": 0}
    model = PrioritizedDQN("CnnPolicy", DummyVecEnv([Camera]), **settings)
    model.learn(30)
    batch = model.replay_buffer.sample(8)
    assert batch.observations.dtype == torch.uint8
    assert batch.observations.shape == (8, 3, 36, 36)
    assert model._n_updates > 0


class Camera(gym.Env[Any, Any]):
    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._look(), 1.0, bool(self.np_random.random() < 0.2), False, {}

    def _look(self) -> Any:
        return self.np_random.integers(0, 255, self.observation_space.shape, np.uint8)


def test_dict_observations_train_with_n_step_returns() -> None:
    """SB3's own buffers have no n-step for them."""
    model = PrioritizedSAC(
        "MultiInputPolicy", DummyVecEnv([Nested]), n_steps=3, learning_starts=20, batch_size=8, device="cpu", seed=0
    )
    model.learn(40)
    assert set(model.replay_buffer.sample(4).observations) == {"place", "frame"}
    plain = SB3ReplayBuffer(10, Nested.observation_space, Nested.action_space)
    plain.add(*next(iter(calls_of_add(Nested.observation_space, Nested.action_space, 1, 1))))
    assert type(plain.sample(1)) is DictReplayBufferSamples


def test_callbacks_see_the_position_that_sb3_would_have() -> None:
    class Watch(BaseCallback):
        places: list[tuple[int, bool]] = []  # noqa: RUF012

        def _on_step(self) -> bool:
            self.places.append((self.model.replay_buffer.pos, self.model.replay_buffer.full))
            return True

    DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=SB3ReplayBuffer, buffer_size=5).learn(8, callback=Watch())
    assert Watch.places == [*((pos, False) for pos in range(5)), *((pos, True) for pos in range(3))]
