"""The agent against independent oracles: separate torch networks, hand computation, a second environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import replaybank as rb
from replaybank.study import SettingError, dqn, environments, networks
from replaybank.study.base import Stopped
from replaybank.study.dqn import DQNConfig, Learner
from replaybank.study.environments import Environment, make_env
from replaybank.study.memories import MEMORIES, BufferSettings, Memory

SIZES = (4, 16, 8, 3)


def as_modules(parameters: list[Tensor], which: int) -> nn.Sequential:
    """Network `which` of the stack as ordinary torch layers."""
    layers: list[nn.Module] = []
    for layer in range(0, len(parameters), 2):
        inputs, outputs = parameters[layer].shape[1:]
        linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            linear.weight.copy_(parameters[layer][which].T)
            linear.bias.copy_(parameters[layer + 1][which, 0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def filled_buffers(count: int, rows: int = 40) -> list[rb.ReplayBuffer]:
    buffers = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        buffer = rb.ReplayBuffer(rows, sampler=rb.Prioritized(beta=0.5), view=rb.Transition(gamma=0.9), seed=seed)
        for _ in range(rows):
            obs, next_obs = rng.normal(size=(2, 4)).astype(np.float32)
            buffer.add(obs, int(rng.integers(3)), float(rng.normal()), next_obs, bool(rng.random() < 0.2), False)
        buffer.update_priorities(buffer.sample(rows).indices, rng.normal(size=rows))
        buffers.append(buffer)
    return buffers


def test_lock_step_learns_what_separate_networks_learn() -> None:
    config = DQNConfig(batch_size=8, gamma=0.9, target_period=3, double=True)
    learner = Learner(config, networks.layers(SIZES, [1, 2]))
    modules = [as_modules(learner.online, which) for which in range(2)]
    targets = [as_modules(learner.online, which) for which in range(2)]
    adams = [torch.optim.Adam(module.parameters(), lr=0.01) for module in modules]
    buffers = filled_buffers(2)
    for update in range(1, 11):
        batches = [buffer.sample(8) for buffer in buffers]
        td_errors, _ = learner.update(batches, learning_rate=0.01)
        for which, batch in enumerate(batches):
            obs, next_obs = torch.from_numpy(batch.obs), torch.from_numpy(batch.next_obs)
            with torch.no_grad():
                best = modules[which](next_obs).argmax(1)
                value = targets[which](next_obs)[torch.arange(8), best]
                target = torch.from_numpy(batch.reward) + 0.9 * ~torch.from_numpy(batch.terminated) * value
            chosen = modules[which](obs)[torch.arange(8), torch.from_numpy(batch.action)]
            huber = nn.functional.huber_loss(chosen, target, reduction="none")
            adams[which].zero_grad()
            (torch.from_numpy(batch.weights) * huber).mean().backward()
            adams[which].step()
            np.testing.assert_allclose(td_errors[which], (target - chosen).detach().numpy(), rtol=1e-3, atol=1e-4)
            if update % 3 == 0:
                targets[which].load_state_dict(modules[which].state_dict())
    obs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([modules[which](obs[which]) for which in range(2)])
    torch.testing.assert_close(networks.mlp_values(learner.online, obs), expected, rtol=1e-3, atol=1e-4)


def linear_values(rows: list[list[float]]) -> list[Tensor]:
    """One network without hidden layers that gives `rows[k]` for the k-th one-hot observation."""
    return [torch.tensor([rows]), torch.zeros(1, 1, len(rows[0]))]


@pytest.mark.parametrize(("double", "value"), [(True, 1.0), (False, 6.0)])
def test_td_target_by_hand(double: bool, value: float) -> None:
    online = linear_values([[5.0, 2.0]])  # prefers action 0
    target = linear_values([[1.0, 6.0]])  # rates action 0 at 1, its own best at 6
    reward, discount = torch.tensor([[2.0, 2.0]]), torch.tensor([[0.5, 0.0]])
    next_obs = torch.ones(1, 2, 1)
    found = dqn.td_target(reward, discount, next_obs, online, target, double)
    torch.testing.assert_close(found, torch.tensor([[2 + 0.5 * value, 2.0]]))


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    gym.register("ShortCartPole-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=5)
    try:
        environment = Environment("ShortCartPole-v0", seed=0, steps=200)
        buffer = rb.ReplayBuffer(200, view=rb.Transition(gamma=0.9), sampler=rb.Uniform(replace=False), seed=0)
        for _ in range(100):
            environment.step(greedy_action=0, epsilon=1.0, buffer=buffer)
        for _ in range(30):  # always the same way: falls before the time is up when it already leans
            environment.env.unwrapped.state = np.array([0.0, 0.0, 0.19, 2.0])  # type: ignore[attr-defined]
            environment.step(greedy_action=0, epsilon=0.0, buffer=buffer)
    finally:
        gym.registry.pop("ShortCartPole-v0")
    batch = buffer.sample(130)
    assert (batch.truncated & ~batch.terminated).sum() >= 15
    assert batch.terminated.sum() >= 15
    np.testing.assert_array_equal(batch.discount, np.where(batch.terminated, 0, 0.9).astype(np.float32))


def test_epsilon_falls_linearly_and_stays() -> None:
    config = DQNConfig(epsilon_start=1.0, epsilon_end=0.1, exploration_fraction=0.5)
    assert [dqn.epsilon_at(step, 100, config) for step in (0, 25, 50, 99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert dqn.epsilon_at(0, 100, replace(config, exploration_fraction=0.0)) == pytest.approx(0.1)
    later = replace(config, exploration_starts=20)
    assert [dqn.epsilon_at(step, 100, later) for step in (0, 20, 45, 70)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_updates_are_counted_as_they_happen() -> None:
    config = DQNConfig(learning_starts=10, train_period=4, batch_size=2)
    assert [step for step in range(20) if config.is_update(step)] == [11, 15, 19]
    assert config.updates(20) == 3


SMALL = DQNConfig(batch_size=8, hidden=(16,), learning_starts=40, epsilon_start=0.5, capacity=300, target_period=20)


class Watched(Environment):
    """Remembers every first observation of an episode; all that were made are in `made`."""

    made: ClassVar[list[Watched]] = []

    def __init__(self, env_id: str, seed: int, steps: int) -> None:
        super().__init__(env_id, seed, steps)
        self.starts = [self.obs]
        self.made.append(self)

    def step(self, greedy_action: int, epsilon: float, buffer: rb.ReplayBuffer) -> None:
        super().step(greedy_action, epsilon, buffer)
        if self.length == 0:
            self.starts.append(self.obs)


def test_memories_with_one_seed_share_weights_environment_and_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dqn, "Environment", Watched)
    seen = {}
    for memory in MEMORIES.values():
        monkeypatch.setattr(Watched, "made", [])
        dqn.train(memory, "CartPole-v1", [3, 4], 600, SMALL)
        seen[memory.name] = Watched.made
    reference = seen["online"]
    for made in seen.values():
        for ours, theirs in zip(made, reference, strict=True):
            shared = min(len(ours.starts), len(theirs.starts))
            assert shared >= 4
            np.testing.assert_array_equal(ours.starts[:shared], theirs.starts[:shared])
            np.testing.assert_array_equal(ours.dice, theirs.dice)
            # before learning starts every one does the very same: the same weights act in the same states
            early = [sum(end <= SMALL.learning_starts for end in each.episodes["step"]) for each in (ours, theirs)]
            assert early[0] == early[1]
            for name in ours.episodes:
                assert ours.episodes[name][: early[0]] == theirs.episodes[name][: early[0]]
    assert len({tuple(environment.episodes["return"][-1] for environment in made) for made in seen.values()}) > 1


def test_the_same_seed_gives_the_same_record() -> None:
    runs = [dqn.train(MEMORIES["prioritized"], "CartPole-v1", [0, 1], 300, SMALL) for _ in range(2)]
    assert runs[0] == runs[1]


class Listener:
    """A track that keeps what it is told, and stops at a step."""

    def __init__(self, folder: Path, stop: int = 0) -> None:
        self.folder, self.stop, self.begun = folder, stop, 0
        self.heard: dict[str, list[tuple[int, float, int]]] = {}

    def begin(self, step: int) -> None:
        self.begun = step

    def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
        self.heard.setdefault(tag, []).append((seed, value, step))

    def progress(self, step: int, text: str = "") -> None:
        if step == self.stop:
            raise Stopped


def test_episodes_are_recorded_in_order_fill_the_steps_and_are_told(tmp_path: Path) -> None:
    track = Listener(tmp_path)
    record = dqn.train(MEMORIES["uniform"], "CartPole-v1", [7], 500, SMALL, track)[7]["episodes"]
    assert np.cumsum(record["length"]).tolist() == record["step"]
    assert record["return"] == record["length"]  # CartPole: 1 a step
    assert track.heard["charts/episodic_return"] == [
        (7, value, end) for end, value in zip(record["step"], record["return"], strict=True)
    ]
    assert len(track.heard["charts/episodic_length"]) == len(record["step"])
    for tag in ("losses/td_loss", "charts/SPS"):
        assert [(seed, step) for seed, _, step in track.heard[tag]] == [(7, step) for step in range(100, 501, 100)]
    assert not list(tmp_path.iterdir())  # CartPole's state cannot be told: no checkpoint


ATARI = replace(SMALL, network="conv", optimizer="rmsprop", double=False, exploration_starts=50, n_step=2)


@pytest.mark.parametrize(("env_id", "name"), [("MinAtar/Breakout-v0", "prioritized"), ("MinAtar/Asterix-v0", "online")])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    tmp_path: Path, env_id: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minatar")
    monkeypatch.setattr(dqn, "KEPT_EVERY", 70)
    settings = replace(ATARI, n_step=1) if name == "online" else ATARI
    asked = (MEMORIES[name], env_id, [5, 6], 420, settings)
    whole = dqn.train(*asked)
    with pytest.raises(Stopped):
        dqn.train(*asked, Listener(tmp_path, stop=200))
    assert [path.name for path in tmp_path.iterdir()] == ["step-200"]
    halfway = Listener(tmp_path, stop=300)
    with pytest.raises(Stopped):
        dqn.train(*asked, halfway)
    last = Listener(tmp_path)
    assert dqn.train(*asked, last) == whole
    assert (halfway.begun, last.begun) == (200, 300)
    assert all(step > 300 for told in last.heard.values() for _, _, step in told)
    assert [path.name for path in tmp_path.iterdir()] == ["step-350"]
    assert len(whole[5]["episodes"]["step"]) > 1


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    pytest.importorskip("minatar")
    asked = (MEMORIES["uniform"], "MinAtar/Breakout-v0", [5], 300)
    with pytest.raises(Stopped):
        dqn.train(*asked, ATARI, Listener(tmp_path, stop=200))
    other, track = replace(ATARI, gamma=0.5), Listener(tmp_path)
    assert dqn.train(*asked, other, track) == dqn.train(*asked, other)
    assert track.begun == 0


@pytest.mark.parametrize("broken", ["state.json", "tensors.pt", "buffer5"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, broken: str) -> None:
    pytest.importorskip("minatar")
    asked = (MEMORIES["uniform"], "MinAtar/Breakout-v0", [5], 300, ATARI)
    with pytest.raises(Stopped):
        dqn.train(*asked, Listener(tmp_path, stop=100))
    path = tmp_path / "step-100" / broken
    if path.is_dir():
        next(path.rglob("*.npz")).unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SettingError, match=r"--resume: .*step-100 is broken: .*remove it"):
        dqn.train(*asked, Listener(tmp_path))


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    settings = replace(SMALL, final_learning_rate=SMALL.learning_rate)
    long = dqn.train(MEMORIES["uniform"], "CartPole-v1", [2], 400, replace(settings, exploration_fraction=0.25))
    short = dqn.train(MEMORIES["uniform"], "CartPole-v1", [2], 200, replace(settings, exploration_fraction=0.5))
    episodes = {name: values[: len(short[2]["episodes"][name])] for name, values in long[2]["episodes"].items()}
    assert episodes == short[2]["episodes"]


def test_observations_are_remembered_as_they_come() -> None:
    pytest.importorskip("minatar")
    environment = Environment("MinAtar/Breakout-v0", seed=0, steps=10)
    buffer = rb.ReplayBuffer(10, seed=0)
    for _ in range(10):
        environment.step(greedy_action=1, epsilon=0.5, buffer=buffer)
    batch = buffer.sample(4)
    assert batch.obs.dtype == np.bool_
    assert batch.obs.shape == (4, 10, 10, 4)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=list(MEMORIES))
def test_a_memory_learns_from_what_its_definition_says(memory: Memory) -> None:
    settings = BufferSettings(capacity=100, batch_size=8, gamma=0.99, alpha=0.6, beta=0.4, updates=10)
    buffer = memory.make_buffer(settings, 0)
    for k in range(50):
        obs = np.full(4, k, np.float32)
        buffer.add(obs, 0, float(k), obs + 1, False, False)
    batches = [buffer.sample(memory.batch_size(settings)) for _ in range(30)]
    drawn = [sorted(batch.reward.tolist()) for batch in batches]
    match memory.name:
        case "online":
            assert all(rewards == [49.0] for rewards in drawn)
        case "recent":
            assert all(rewards == [float(k) for k in range(42, 50)] for rewards in drawn)
        case _:
            assert len({reward for rewards in drawn for reward in rewards}) > 45
            assert all(len(rewards) == 8 for rewards in drawn)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulum-v1", "expected an environment with Discrete actions, Pendulum-v1 has Box"),
        ("FrozenLake-v1", "expected an environment with Box observations, FrozenLake-v1 has Discrete"),
        ("NoSuchThing-v0", "cannot make 'NoSuchThing-v0'"),
    ],
)
def test_an_unfit_environment_is_named(env_id: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make_env(env_id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "--batch-size: expected at least 1, given 0"),
        ({"learning_rate": -1.0}, "--learning-rate: expected above 0, given -1.0"),
        ({"gamma": 1.5}, "--gamma: expected from 0 to 1, given 1.5"),
        ({"hidden": (8, 0)}, "--hidden: expected at least 1, given 0"),
        ({"learning_starts": 10, "batch_size": 32}, "--learning-starts: expected at least the batch size"),
        ({"capacity": 10, "batch_size": 32}, "--capacity: expected at least the batch size"),
        ({"network": "transformer"}, "--network: expected mlp or conv, given transformer"),
        ({"optimizer": "sgd"}, "--optimizer: expected adam or rmsprop, given sgd"),
        ({"n_step": 0}, "--n-step: expected at least 1, given 0"),
    ],
)
def test_a_bad_setting_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(DQNConfig(), **change).check_valid()  # type: ignore[arg-type]


def test_a_network_that_the_observations_do_not_fit_is_named() -> None:
    with pytest.raises(SettingError, match="--network: conv in CartPole-v1: expected observations of rows x columns"):
        dqn.train(MEMORIES["uniform"], "CartPole-v1", [0], 10, replace(SMALL, network="conv"))


def test_minatar_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    monkeypatch.setattr(gym, "registry", {})
    monkeypatch.setattr(gym.envs.registration, "registry", {})
    with pytest.raises(SettingError, match=r"Gymnasium cannot make 'MinAtar/Breakout-v0': .*MinAtar"):
        make_env("MinAtar/Breakout-v0")
