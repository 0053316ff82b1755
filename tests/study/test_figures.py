"""The pictures of the ideas: what they show against hand computation and the library, and their files."""

from __future__ import annotations

import itertools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import replaybank as rb
from replaybank import cli
from replaybank.study.figures import numbers, pictures

NAMES = ("batches", "stream", "priorities", "weights", "tree")


def test_the_command_writes_every_picture_twice_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        assert cli.main(["figures", "--out", str(tmp_path / folder)]) == 0
    assert len(capsys.readouterr().out.split()) == 20
    for name, kind in itertools.product(NAMES, ("png", "svg")):
        one, two = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two
        assert one.startswith(b"\x89PNG") if kind == "png" else b"<svg" in one


def test_an_output_that_is_a_file_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["figures", "--out", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert "--out: expected a folder to write to" in error
    assert error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_batches_hold_what_their_memories_remember() -> None:
    found = numbers.batches(steps=60, period=20, batch_size=4)
    assert found.updates.tolist() == [19, 39, 59]
    for row, now in enumerate(found.updates):
        assert found.learned_from["online"][row].tolist() == [now]
        assert sorted(found.learned_from["recent"][row]) == list(range(now - 3, now + 1))
        drawn = found.learned_from["uniform"][row]
        assert 0 <= drawn.min() <= drawn.max() <= now
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    ends = []
    for step, action in enumerate(np.random.default_rng(0).integers(2, size=60)):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            ends.append(step)
            env.reset()
    assert found.ends.tolist() == ends
    for name, batches in found.learned_from.items():
        by_hand = [len({sum(end < step for end in ends) for step in batch}) for batch in batches]
        assert found.episodes(name).tolist() == by_hand


def test_the_stream_is_in_order_and_its_batches_lie_within_what_is_shown() -> None:
    found = numbers.stream(steps=400, shown=100, batch_size=16, lags=20)
    assert np.diff(found.consecutive).tolist() == [1] * 15
    assert len(set(found.random.tolist())) == 16
    assert max(*found.consecutive, *found.random) < 100
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=1)
    for step, action in enumerate(np.random.default_rng(1).integers(2, size=400)):
        assert found.angles[step] == obs[2]
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()


def test_what_a_consecutive_batch_is_worth_is_the_ratio_of_variances_of_means() -> None:
    found = numbers.stream()
    means = np.convolve(found.angles, np.full(32, 1 / 32), mode="valid")
    assert found.consecutive_worth == pytest.approx(found.angles.var() / means.var(), rel=0.02)
    assert np.abs(found.shuffled[1:]).max() < 0.05 < 0.4 < found.in_order[5]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0, 2.0])
def test_probabilities_and_weights_are_the_formulas(alpha: float) -> None:
    errors = np.array(numbers.TD_ERRORS)
    powers = (errors + 1e-6) ** alpha
    shares = powers / powers.sum()
    assert numbers.probabilities(numbers.TD_ERRORS, alpha) == pytest.approx(shares)
    for beta in (0.0, 0.4, 1.0):
        raw = (len(errors) * shares) ** -beta
        assert numbers.weights(numbers.TD_ERRORS, alpha, beta) == pytest.approx(raw / raw.max(), rel=1e-6)


@pytest.mark.parametrize("draw", [0.0, 0.124, 0.126, 0.5, 0.61, 0.999])
def test_the_walk_ends_where_the_draw_falls_on_the_line_and_where_the_library_goes(draw: float) -> None:
    found = numbers.walk(draw=draw)
    ends = np.cumsum(numbers.LEAVES)
    leaf = int(np.searchsorted(ends, draw * 32, side="right"))
    assert found.path[-1] == leaf
    assert found.left[-1] == pytest.approx(draw * 32 - (ends[leaf] - numbers.LEAVES[leaf]))
    assert found.shares == pytest.approx(np.array(numbers.LEAVES) / 32)
    for level, below in itertools.pairwise(found.levels):
        assert level.tolist() == below.reshape(-1, 2).sum(axis=1).tolist()

    class Fixed(np.random.Generator):
        """Gives `draw` for every uniform number."""

        def random(self, *args: object, **kwargs: object) -> np.ndarray:  # type: ignore[override]
            return np.full(1, draw)

    buffer: rb.ReplayBuffer = numbers.prioritized(numbers.LEAVES, alpha=1.0, epsilon=0.0)
    ids, _ = buffer.sampler.draw(1, Fixed(np.random.PCG64(0)))
    assert ids.tolist() == [leaf]


def test_a_picture_of_priorities_is_drawn_for_any_alpha() -> None:
    for alpha in (0.0, 1.0, 5.0):
        shares = numbers.probabilities(numbers.TD_ERRORS, alpha)
        figure = pictures.priorities(numbers.TD_ERRORS, shares, alpha)
        bars = figure.axes[1].containers[1]
        assert [bar.get_height() for bar in bars] == pytest.approx(shares.tolist())
        assert figure.axes[1].get_ylim()[1] > shares.max()
