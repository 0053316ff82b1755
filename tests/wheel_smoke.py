"""What an installed wheel must do, with nothing but NumPy beside it: `python tests/wheel_smoke.py`."""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

import replaybank as rb

STEPS, CAPACITY, STREAMS = 500, 300, 2


def filled(sampler: rb.Uniform | rb.Prioritized) -> rb.ReplayBuffer:
    """The last `CAPACITY` of `STEPS` steps of `STREAMS` streams; obs and reward tell which transition it is."""
    buffer = rb.ReplayBuffer(CAPACITY, streams=STREAMS, sampler=sampler, view=rb.Transition(gamma=0.99), seed=0)
    streams = np.arange(STREAMS, dtype=np.float64)
    for t in range(STEPS):
        obs = np.stack([np.full(STREAMS, float(t)), streams], axis=1)
        after = obs + np.array([1.0, 0.0])
        done = np.full(STREAMS, t % 50 == 49)
        buffer.add(obs, np.full(STREAMS, t % 3), t + streams / 10, after, done, np.zeros(STREAMS, bool))
    return buffer


def check(batch: rb.Batch) -> None:
    """Every transition is one that was added, and none that has left."""
    step = batch.obs[:, 0]
    assert step.min() >= STEPS - CAPACITY // STREAMS
    np.testing.assert_array_equal(batch.next_obs[:, 0], step + 1)
    np.testing.assert_array_equal(batch.next_obs[:, 1], batch.obs[:, 1])
    np.testing.assert_allclose(batch.reward, step + batch.obs[:, 1] / 10)
    np.testing.assert_array_equal(batch.action, step % 3)
    np.testing.assert_array_equal(batch.terminated, step % 50 == 49)
    np.testing.assert_allclose(batch.discount, np.where(batch.terminated, 0.0, 0.99))


def main() -> None:
    assert "site-packages" in str(Path(rb.__file__)), f"this is not the installed package: {rb.__file__}"
    assert rb.__version__ == version("replaybank")

    check(filled(rb.Uniform()).sample(1000))

    buffer = filled(rb.Prioritized(alpha=1.0, beta=1.0))
    live = np.sort(buffer.sample(1000).indices)
    chosen = int(live[0])
    buffer.update_priorities(np.arange(live[-1] - CAPACITY + 1, live[-1] + 1), np.full(CAPACITY, 1.0))
    buffer.update_priorities([chosen], [100.0 * CAPACITY])
    batch = buffer.sample(1000)
    check(batch)
    assert 970 <= (batch.indices == chosen).sum() < 1000, "a priority is the probability of being drawn"

    with tempfile.TemporaryDirectory() as folder:
        buffer.save(f"{folder}/replay")
        twin = rb.ReplayBuffer.load(f"{folder}/replay")
        ours, theirs = buffer.sample(256), twin.sample(256)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_array_equal(ours.obs, theirs.obs)
        np.testing.assert_array_equal(ours.weights, theirs.weights)

    foreign = {"torch", "gymnasium", "jax", "ray"} & {name.partition(".")[0] for name in sys.modules}
    assert not foreign, f"NumPy is the only dependency, but {foreign} is loaded"
    print(f"replaybank {rb.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}: whole")


if __name__ == "__main__":
    main()
