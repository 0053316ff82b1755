"""Same seed and same calls, same batches: in any process, whatever else lives there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import replaybank as rb

PARTS = {
    "uniform": (lambda: rb.Uniform(), lambda: rb.Transition(0.9)),
    "without replacement": (lambda: rb.Uniform(replace=False), lambda: rb.NStep(3, 0.9)),
    "prioritized": (lambda: rb.Prioritized(), lambda: rb.NStep(4, 0.99)),
    "annealed": (lambda: rb.Prioritized(1.0, rb.linear(0.4, 1.0, 9), weight_norm="buffer"), lambda: rb.Transition()),
    "by rank": (lambda: rb.RankPrioritized(), lambda: rb.FrameStack(3, adds="frames")),
    "recent": (lambda: rb.Recent(0.9, 5, 4), lambda: rb.Sequence(4, stride=2)),
    "combined": (lambda: rb.Combined(rb.Prioritized()), lambda: rb.Sequence(5, burn_in=2)),
    "mixed": (lambda: rb.Mixture([(0.5, rb.Uniform()), (0.5, rb.RankPrioritized())]), lambda: rb.NStep(2, 0.9)),
    "epochs": (lambda: rb.SampleOnce(), lambda: rb.FrameStack(2, adds="frames", view=rb.NStep(2, 0.9))),
}


def life(buffer: rb.ReplayBuffer, steps: int = 60) -> list[bytes]:
    """What a life of adds, samples, updates, clear and change of alpha shows: all fields of all batches, as bytes."""
    shown: list[bytes] = []
    world = np.random.default_rng(99)
    obs = {name: world.normal(size=(3, 2)).astype(np.float32) for name in ("left", "right", "above", "below")}
    for t in range(steps):
        after = {name: value + np.float32(t) for name, value in obs.items()}
        ended = world.random(3) < 0.1
        cut = ~ended & (world.random(3) < 0.1)
        buffer.add(obs, world.integers(0, 4, 3), world.normal(size=3), after, ended, cut, note=ended)
        obs = after
        if t == 40:
            buffer.clear()
            continue
        batch = buffer.sample(2)
        for name, value in batch.items():
            parts = value.values() if isinstance(value, dict) else [value]
            shown.append(name.encode())
            shown.extend(part.tobytes() for part in parts)
        buffer.update_priorities(batch.indices, world.normal(size=2))
        if t == 20 and hasattr(buffer.sampler, "alpha"):
            buffer.sampler.alpha = 0.9
    return shown


def made(parts: str, seed: object = 7) -> rb.ReplayBuffer:
    sampler, view = PARTS[parts]
    return rb.ReplayBuffer(50, streams=3, sampler=sampler(), view=view(), seed=seed)


def elsewhere(hash_seed: str, crowd: int) -> list[str]:
    """The digests of all lives, from a process of its own in which `crowd` other buffers sampled before."""
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_determinism as t\n"
        "for i in range(int(sys.argv[2])): t.life(t.made('prioritized', i))\n"
        "for parts in t.PARTS: print(hashlib.sha256(b'|'.join(t.life(t.made(parts)))).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(crowd)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split()


def test_other_processes_and_hash_seeds_give_the_same_batches() -> None:
    first = elsewhere("0", 0)
    assert len(set(first)) == len(PARTS)
    assert elsewhere("1", 3) == first
    assert elsewhere("random", 1) == first


@pytest.mark.parametrize("parts", PARTS)
def test_the_same_seed_gives_the_same_batches(parts: str) -> None:
    assert life(made(parts)) == life(made(parts))


@pytest.mark.parametrize("parts", PARTS)
def test_another_seed_gives_other_batches(parts: str) -> None:
    assert life(made(parts, 7)) != life(made(parts, 8))


@pytest.mark.parametrize("parts", PARTS)
def test_the_global_generator_plays_no_part(parts: str) -> None:
    np.random.seed(1)  # noqa: NPY002
    first = life(made(parts))
    np.random.seed(2)  # noqa: NPY002
    assert life(made(parts)) == first


@pytest.mark.parametrize("parts", PARTS)
def test_a_buffer_beside_it_does_not_change_the_batches(parts: str) -> None:
    other = made("prioritized", 1)
    alone = life(made(parts))
    buffer = made(parts)
    life(other)
    assert life(buffer) == alone


def test_setting_the_seed_starts_the_generator_anew() -> None:
    buffer = made("uniform", 3)
    life(buffer)
    assert buffer.seed == 3
    buffer.seed = 5
    first = buffer.sample(20).indices.tolist()
    assert buffer.sample(20).indices.tolist() != first
    buffer.seed = 5
    assert buffer.sample(20).indices.tolist() == first


def test_a_seed_is_whatever_numpy_takes() -> None:
    """A SeedSequence, a sequence of numbers; None draws one from the system."""
    for seed in (np.random.SeedSequence(4), [1, 2, 3], np.int64(4)):
        assert life(made("prioritized", seed)) == life(made("prioritized", seed))
    assert life(made("uniform", None)) != life(made("uniform", None))
    with pytest.raises((ValueError, TypeError)):
        made("uniform", -1)
    with pytest.raises((ValueError, TypeError)):
        made("uniform", "seven")
