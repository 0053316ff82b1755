"""examples/recurrent.py: the maze is what it says, and only the network with a memory finds its way."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb

torch = pytest.importorskip("torch")
pytest.importorskip("tyro")

EXAMPLE = Path(__file__).parent.parent / "examples" / "recurrent.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_only_the_network_with_a_memory_finds_its_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shorter maze. Without a memory the mean return over 200 episodes is 0 at best, with a deviation of 0.07."""
    flags = {"seeds": 1, "corridor": 3, "length": 6, "burn-in": 1, "total-steps": 4000, "capacity": 2000}
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *(f"--{name}={value}" for name, value in flags.items())])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    returns = {line.split()[0]: float(line.split()[1]) for line in lines[-2:]}
    assert returns["recurrent"] > 0.9
    assert returns["feed-forward"] < 0.25


def test_the_sign_decides_and_is_seen_once(example: dict[str, Any]) -> None:
    maze = example["TMaze"](corridor=2)
    sides = []
    for seed in range(20):
        (sign, junction), _ = maze.reset(seed=seed)
        assert (abs(sign), junction) == (1, 0)
        obs, reward, terminated, _, _ = maze.step(1)  # turning in the corridor
        assert obs.tolist() == [0, 0]
        assert (reward, terminated) == (-0.3, False)
        assert maze.step(0)[0].tolist() == [0, 0]
        assert maze.step(0)[0].tolist() == [0, 1]
        assert maze.step(0)[1:3] == (-0.3, False)  # walking on at the junction
        _, reward, terminated, _, _ = maze.step(2)
        assert terminated
        assert reward == sign
        sides.append(sign)
    assert 4 < sides.count(1) < 16


def test_each_step_is_stored_with_the_state_before_it(example: dict[str, Any]) -> None:
    """Against the network, which does not learn here, stepped through each episode from zeros."""
    args = example["Args"](total_steps=800, corridor=3, length=6, hidden=8, learning_rate=0.0)
    torch.manual_seed(0)
    network = example["Recurrent"](8)
    buffer = example["train"](network, args, seed=0)
    whole = [segment for segment in buffer.segments() if segment.whole]
    assert len(whole) > 50
    for segment in whole:
        batch = buffer.read(segment.ids, view=rb.Transition())
        state = torch.zeros(1, 8)
        for obs, stored in zip(batch.obs, batch.state, strict=True):
            np.testing.assert_allclose(stored, state[0], atol=1e-6)
            _, state = example["act"](network, obs[None], state)
    assert np.abs(batch.state[1:]).max() > 0.01


def batch_of(example: dict[str, Any]) -> rb.Batch:
    """Sequences of episodes of four steps: of ids 0 and 2 they are cut short by an end, of id 8 by what is not yet."""
    view = rb.Sequence(4, burn_in=2, gamma=0.9, at_start=("state",))
    buffer = rb.ReplayBuffer(100, view=view)
    rng = np.random.default_rng(0)
    for t in range(10):
        at = np.float32([t, t % 4])
        state = rng.normal(size=8).astype(np.float32)
        buffer.add(at, t % 3, t / 10, at + 1, t % 8 == 3, t % 8 == 7, state=state)
    return buffer.read([0, 1, 2, 5, 8])


def test_padding_and_burn_in_teach_nothing(example: dict[str, Any]) -> None:
    def learnt_from(batch: rb.Batch) -> tuple[Any, Any, list[Any]]:
        torch.manual_seed(0)
        network, target = example["Recurrent"](8), example["Recurrent"](8)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        errors, learnt = example["update"](network, target, optimizer, batch.to_torch())
        return errors, learnt, [parameter.detach().clone() for parameter in network.parameters()]

    batch = batch_of(example)
    errors, learnt, after = learnt_from(batch)
    assert learnt.tolist() == [
        [True] * 4,  # begins with its episode: no burn-in, its state is the true one
        [False, False, True, False],
        [False] * 4,
        [False, False, True, False],
        [True, True, False, False],
    ]
    other = batch_of(example)
    other.reward[~learnt] = 1e6
    other.action[~learnt] = 0
    other.discount[~learnt] = 50.0
    others = learnt_from(other)
    assert (others[0][learnt] == errors[learnt]).all()
    assert all(torch.equal(one, two) for one, two in zip(after, others[2], strict=True))


def test_targets_follow_the_sequence_step_by_step(example: dict[str, Any]) -> None:
    """Against the network stepped through what it saw, from the stored state, or zeros where an episode begins."""
    batch = batch_of(example)
    torch.manual_seed(0)
    network, target = example["Recurrent"](8), example["Recurrent"](8)
    expected = np.full(batch.reward.shape, np.nan)
    for i in range(len(batch)):
        begins = bool(batch.is_first[i, 0])
        start = torch.zeros(1, 8) if begins else torch.from_numpy(batch.state[i : i + 1])
        for t in np.flatnonzero(batch.valid[i]):
            seen = torch.from_numpy(np.concatenate([batch.obs[i, : t + 1], batch.next_obs[i, t : t + 1]]))[None]
            with torch.no_grad():
                values, wanted = network(seen, start)[0][0], target(seen, start)[0][0]
            following = wanted[t + 1, values[t + 1].argmax()]
            gamma = 0.0 if batch.terminated[i, t] else 0.9
            expected[i, t] = values[t, batch.action[i, t]] - (batch.reward[i, t] + gamma * following)
    errors, learnt = example["update"](network, target, torch.optim.SGD(network.parameters(), lr=0.1), batch.to_torch())
    np.testing.assert_allclose(errors[batch.valid], expected[batch.valid], atol=1e-5)
    assert learnt.sum() == 8


@pytest.mark.parametrize("kind", ["Recurrent", "FeedForward"])
def test_the_state_is_what_a_network_remembers(example: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    network = example[kind](16)
    obs = torch.randn(3, 5, 2)
    whole, last = network(obs, torch.zeros(3, 16))
    state = torch.zeros(3, 16)
    for t in range(5):
        values, state = network(obs[:, t : t + 1], state)
        torch.testing.assert_close(values[:, 0], whole[:, t])
    torch.testing.assert_close(state, last)
    remembers = not torch.equal(network(obs[:, 4:], state)[0], network(obs[:, 4:], torch.zeros(3, 16))[0])
    assert remembers == (kind == "Recurrent")
