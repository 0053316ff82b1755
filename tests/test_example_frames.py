"""examples/atari_frames.py runs, and prints what is so."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tyro")
pytest.importorskip("ale_py")

EXAMPLE = Path(__file__).parent.parent / "examples" / "atari_frames.py"
FLAGS = {"total-steps": 400, "capacity": 240, "num-envs": 3, "learning-starts": 200, "batch-size": 8}
FRAME = 84 * 84


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_plays_learns_and_says_what_the_frames_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *(f"--{name}={value}" for name, value in FLAGS.items())])
    example = runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert example["STACK"] == 4
    assert "frames stored: 402, of which 240 are still there" in printed
    found = re.search(r"bytes a transition: ([\d,]+); with obs and next_obs kept as full stacks: ([\d,]+)", printed)
    assert found is not None
    kept, full = (int(number.replace(",", "")) for number in found.groups())
    assert full == 2 * 4 * FRAME + 8 + 4 + 1 + 1 + 2  # action, reward, flags; the record is aligned
    # A frame, the numbers and links, and what is held beside the rows: the final observation of each stream.
    assert FRAME + 14 < kept < FRAME + 14 + 60 + (3 * FRAME + 4096) / 240
    updates = len([step for step in range(0, 400, 3) if step >= 200 and step % 4 < 3])
    assert f"sampled: {8 * updates} transitions" in printed
    assert re.search(r"step +\d+  episodes +\d+  mean return .*  loss 0\.\d+", printed)


def test_it_learns_from_what_the_game_showed() -> None:
    """Stacks from the buffer are those that the environment gave; losses are finite; the networks change."""
    example = runpy.run_path(str(EXAMPLE))
    args = example["Args"](total_steps=120, capacity=200, num_envs=2, learning_starts=40, batch_size=4)
    torch.manual_seed(args.seed)
    fresh = example["q_network"](4)
    learner = example["train"](args)
    assert len(learner.losses) > 10
    assert np.isfinite(learner.losses).all()
    assert not torch.equal(fresh[1].weight, learner.network[1].weight)
    env = example["AtariVectorEnv"]("breakout", 2, stack_num=4, num_threads=1, autoreset_mode="SameStep")
    obs, _ = env.reset(seed=args.seed)
    told = [obs.copy()]
    told += [env.step(action)[0].copy() for action in learner.buffer.field("action").reshape(-1, 2)]
    env.close()
    ids = np.arange(len(learner.buffer))
    batch = learner.buffer.read(ids)
    assert (batch.obs == np.concatenate(told[:-1])).all()
