"""examples/apex_dqn.py: its epsilons and TD errors are the paper's, and it plays, learns and counts, whoever dies."""

from __future__ import annotations

import os
import re
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb

gym = pytest.importorskip("gymnasium")
torch = pytest.importorskip("torch")
pytest.importorskip("tyro")

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "apex_dqn.py"
SHORT = {
    "total_steps": 1_200,
    "num_envs": 4,
    "shards": 2,
    "capacity": 2_000,
    "batch_size": 16,
    "samples_per_insert": 4.0,
    "learning_starts": 400,
    "publish_frequency": 5,
    "fetch_frequency": 10,
    "evaluation_episodes": 3,
}


@pytest.fixture
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- the pure parts ----


def test_epsilons_are_those_of_the_paper(example: dict[str, Any]) -> None:
    """Horgan et al. 2018, section 4.1: epsilon_i = epsilon ** (1 + i / (N - 1) * alpha), epsilon 0.4, alpha 7."""
    for n in (2, 5, 16, 360):
        expected = [0.4 ** (1 + i / (n - 1) * 7) for i in range(n)]
        np.testing.assert_allclose(example["epsilons"](n), expected, rtol=1e-12)
    assert example["epsilons"](2).tolist() == pytest.approx([0.4, 0.00065536])
    assert example["epsilons"](1).tolist() == [0.4]


def plain_td_error(
    values: list[float], next_values: list[float], reward: list[float], ends: list[tuple[bool, bool]], n: int
) -> float:
    """Of the window that begins with the first step of these lists, as one would say it; gamma is 0.9."""
    total, last = 0.0, 0
    for t in range(n):
        total += 0.9**t * reward[t]
        last = t
        if any(ends[t]):
            break
    terminated, _ = ends[last]
    return total + (0.0 if terminated else 0.9 ** (last + 1) * next_values[last]) - values[0]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_td_errors_are_those_of_a_plain_loop(example: dict[str, Any], n: int) -> None:
    """Ends of both kinds, and both at once, are in every place of a window."""
    rng = np.random.default_rng(n)
    length, streams = 60, 4
    values, next_values, reward = rng.normal(size=(3, length, streams)).round(3)
    terminated, truncated = rng.random((2, length, streams)) < 0.2
    assert (terminated & truncated).any()
    found = example["n_step_td_errors"](values, next_values, reward, terminated, truncated, n, 0.9)
    assert found.shape == (length - n + 1, streams)
    ends = np.stack([terminated, truncated], axis=-1)
    for start, stream in np.ndindex(found.shape):
        window = [field[start:, stream].tolist() for field in (values, next_values, reward, ends)]
        assert found[start, stream] == pytest.approx(plain_td_error(*window, n))


@pytest.mark.parametrize("env", ["CartPole-v1", "MinAtar/Breakout-v1"])
def test_advantages_tell_actions_apart_and_nothing_else(example: dict[str, Any], env: str) -> None:
    if env.startswith("MinAtar"):
        pytest.importorskip("minatar")
    envs = example["make_envs"](env, 5)
    network = example["DuelingNetwork"](envs)
    obs = torch.from_numpy(envs.reset(seed=0)[0])
    values = network(obs)
    assert values.shape == (5, envs.single_action_space.n)
    with torch.no_grad():
        network.advantage[-1].bias += 7.0  # to all actions alike
    torch.testing.assert_close(network(obs), values)


# ---- an actor's steps ----


class Notes:
    """In the place of a writer: what it is given."""

    def __init__(self) -> None:
        self.added: list[tuple[tuple[np.ndarray, ...], np.ndarray]] = []

    def add(self, *step: np.ndarray, td_error: np.ndarray) -> None:
        self.added.append((step, td_error))


def test_an_actor_adds_each_step_once_with_the_error_that_the_learner_will_see(example: dict[str, Any]) -> None:
    """Against the view: the buffer's own 3-step transitions, rated by the same network."""
    args = example["Args"](num_envs=3)
    envs = example["make_envs"]("CartPole-v1", 3)
    torch.manual_seed(0)
    network = example["DuelingNetwork"](envs)
    notes = Notes()
    recorder = rb.Recorder(envs, example["Prioritizing"](notes, network, args))
    recorder.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        recorder.step(rng.integers(0, 2, 3))
    envs.close()
    assert len(notes.added) == 16 * ((100 - 2) // 16)  # the last two of what is rated together are held back each time

    buffer = rb.ReplayBuffer(1000, rb.schema_of(envs), streams=3, view=rb.NStep(3, args.gamma))
    for step, _ in notes.added:
        buffer.add(*step)
    errors = np.concatenate([td_error for _, td_error in notes.added])
    assert buffer.field("terminated").sum() > 5
    known = np.arange(len(errors) - 2 * 3)  # of the last ones the buffer does not have the whole window
    batch = buffer.read(known).to_torch()
    with torch.no_grad():
        wanted = batch.reward + batch.discount * network(batch.next_obs).max(dim=1).values
        values = network(batch.obs).gather(1, batch.action[:, None]).squeeze(1)
    np.testing.assert_allclose(errors[known], (wanted - values).numpy(), atol=1e-5)


# ---- all of it ----


@pytest.mark.parametrize("env", ["CartPole-v1", "MinAtar/Breakout-v1"])
@pytest.mark.usefixtures("ray_session")
def test_it_plays_learns_and_counts(example: dict[str, Any], env: str, capsys: pytest.CaptureFixture[str]) -> None:
    if env.startswith("MinAtar"):
        pytest.importorskip("minatar")
    args = example["Args"](env=env, **SHORT)
    result = example["train"](args)
    assert result["updates"] == (1_200 - 400) * 4 // 16
    assert min(result["greedy"], result["random"]) >= 0
    stats = result["stats"]
    assert stats["inserted"] % 4 == 0
    assert stats["lost"] == 0
    assert (stats["rate_limit"]["samples_per_insert"], stats["rate_limit"]["min_size"]) == (4.0, 400)
    assert abs(stats["rate_limit"]["ahead"]) <= stats["rate_limit"]["tolerance"]
    printed = capsys.readouterr().out
    assert f"update {result['updates']:6d}" in printed
    loss = re.search(r"loss (\S+)", printed.splitlines()[-2])
    assert loss is not None
    assert np.isfinite(float(loss[1]))
    assert "mean return of 3 episodes: " in printed


def test_too_few_steps_are_refused(example: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"total_steps: expected 404 or more, .* given 400"):
        example["train"](example["Args"](**SHORT | {"total_steps": 400}))


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_is_killed_comes_back_and_the_run_goes_on(example: dict[str, Any], tmp_path: Path) -> None:
    """The only actor kills its process; without its restart the learner would wait until its time-out."""
    died = tmp_path / "died"
    names = example["train"].__globals__
    make_envs, pid = names["make_envs"], os.getpid()

    def make_mortal_envs(env_id: str, num_envs: int) -> Any:
        class Mortal(gym.vector.VectorWrapper):
            steps = 0

            def step(self, actions: np.ndarray) -> Any:
                self.steps += 1
                if self.steps == 40 and os.getpid() != pid and not died.exists():
                    died.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().step(actions)

        return Mortal(make_envs(env_id, num_envs))

    names["make_envs"] = make_mortal_envs
    result = names["train"](example["Args"](**SHORT | {"actors": 1}))
    assert died.exists()
    assert result["updates"] == (1_200 - 400) * 4 // 16
    assert result["stats"]["inserted"] > 40 * 4
