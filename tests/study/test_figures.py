"""The pictures of the ideas: their numbers against closed forms and plain models, and the files of the command."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import replaybank as rb
from replaybank.samplers.sum_tree import Tree
from replaybank.study import SettingError
from replaybank.study.figures import figures, numbers

DRAWN = ("batches", "stream", "priorities", "weights", "tree")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures") / "made" / "for it"
    assert figures(out) == 0
    return out


def test_every_picture_is_written_small_enough_and_the_same_each_time(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")]
    assert sorted(path.name for path in written.iterdir()) == sorted(names)
    figures(tmp_path)
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    for name in names:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
        assert (tmp_path / name).stat().st_size < 150_000


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "inside"):
        with pytest.raises(SettingError, match=r"^--out: expected a folder to write to, given .*taken") as error:
            figures(out)
        assert "\n" not in str(error.value)
    assert (tmp_path / "taken").read_text() == "mine"


def test_batches_are_what_each_memory_still_has() -> None:
    found = numbers.batches()
    for row, step in enumerate(found.updates):
        assert found.learned_from["online"][row].tolist() == [step]
        assert sorted(found.learned_from["recent"][row]) == list(range(step - 7, step + 1))
        assert ((found.learned_from["uniform"][row] >= 0) & (found.learned_from["uniform"][row] <= step)).all()
    # an episode's number is how many ended before the step
    for name, steps in found.learned_from.items():
        plain = [len({sum(int(end) < step for end in found.ends) for step in batch}) for batch in steps]
        assert found.episodes(name).tolist() == plain


def test_the_stream_is_cartpoles_and_its_batches_are_a_row_and_a_random_draw() -> None:
    found = numbers.stream(steps=2_000)
    assert found.consecutive.tolist() == list(range(found.consecutive[0], found.consecutive[0] + 32))
    assert found.random.size == np.unique(found.random).size == 32
    assert max(found.consecutive[-1], found.random[-1]) < found.shown
    # the pole moves by its velocity times 0.02 s, and falls at 0.209 rad; an episode begins within 0.05
    jumps = np.abs(np.diff(found.angles))
    assert np.abs(found.angles).max() < 0.27
    assert (np.abs(found.angles[1:][jumps > 0.08]) <= 0.05).all()
    assert np.abs(found.shuffled[1:]).max() < 0.12 < found.in_order[5]


def test_what_a_consecutive_batch_is_worth_is_the_ratio_of_variances_of_means() -> None:
    found = numbers.stream()
    means = np.convolve(found.angles, np.full(32, 1 / 32), mode="valid")
    assert found.consecutive_worth == pytest.approx(found.angles.var() / means.var(), rel=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
def test_probabilities_are_powers_over_their_sum(alpha: float) -> None:
    powers = (np.array(numbers.TD_ERRORS) + 1e-6) ** alpha
    np.testing.assert_allclose(numbers.probabilities(numbers.TD_ERRORS, alpha), powers / powers.sum(), rtol=1e-12)


def test_weights_are_the_papers_equation_over_their_maximum() -> None:
    found = numbers.corrections()
    priorities = found.td_errors + 1e-6
    for alpha, beta, weights in [
        *((alpha, 1.0, weights) for alpha, weights in found.by_alpha.items()),
        *((found.alpha, beta, weights) for beta, weights in found.by_beta.items()),
    ]:
        shares = priorities**alpha / (priorities**alpha).sum()
        expected = (len(priorities) * shares) ** -beta
        np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-6)


@pytest.mark.parametrize("draw", [0.0, 0.12, 0.125, 0.5, 0.61, 0.75, 0.999])
def test_the_walk_ends_where_the_librarys_own_tree_does(draw: float) -> None:
    found = numbers.walk(draw=draw)
    tree = Tree(8)
    tree.update(np.arange(8), np.array(numbers.LEAVES), 0, 8)
    ids, shares = tree.find(np.array([draw]), 0, 8)
    assert found.path[-1] == ids[0]
    assert found.shares[ids[0]] == shares[0]
    np.testing.assert_allclose(found.shares, np.array(numbers.LEAVES) / 32)
    for upper, lower in itertools.pairwise(found.path):
        assert lower // 2 == upper
    for level in found.levels:
        assert level.sum() == found.levels[0][0] == 32
    assert 0 <= found.left[-1] < numbers.LEAVES[found.path[-1]]


def test_a_drawn_leafs_share_is_how_often_the_buffer_draws_it() -> None:
    buffer = numbers.prioritized(numbers.LEAVES, alpha=1.0, epsilon=0.0)
    assert isinstance(buffer.sampler, rb.Prioritized)
    counts = np.bincount(buffer.sample(32_000).indices, minlength=8)
    # draws are stratified: each leaf is drawn its share of times, give or take the two ends of its range
    np.testing.assert_allclose(counts, 1_000 * np.array(numbers.LEAVES), atol=2)
