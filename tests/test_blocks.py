"""Memory for batches serves again, but never while somebody holds an array in it."""

import gc

import numpy as np
import pytest

import replaybank as rb
from replaybank import kernels

DTYPE = np.dtype([("frames", np.uint8, (100, 1000)), ("reward", np.float32, (100,))])


@pytest.mark.parametrize("nbytes", [1, 63, 64, 4097, 3_000_000])
def test_a_block_starts_a_cache_line(nbytes):
    block = kernels.block(np.dtype([("x", np.uint8, (nbytes,))]))
    assert block.shape == ()
    assert block["x"].ctypes.data % 64 == 0
    block["x"][:] = 7
    assert block["x"].sum() == 7 * nbytes


def test_a_block_serves_again_once_nobody_holds_it():
    address = kernels.block(DTYPE).ctypes.data
    assert kernels.block(DTYPE).ctypes.data == address


@pytest.mark.parametrize("hold", [lambda b: b["frames"], lambda b: b["frames"][3:5, ::2], lambda b: b["reward"].data])
def test_a_block_is_left_alone_while_a_part_of_it_is_held(hold):
    block = kernels.block(DTYPE)
    address = block.ctypes.data
    part = hold(block)
    del block
    gc.collect()
    others = [kernels.block(DTYPE) for _ in range(40)]
    assert address not in [other.ctypes.data for other in others]
    del part
    assert kernels.block(DTYPE).ctypes.data == address


def test_many_blocks_come_and_go():
    """More than are kept, of several sizes, in every order."""
    rng = np.random.default_rng(0)
    held = []
    for turn in range(2000):
        dtype = np.dtype([("x", np.uint8, (int(rng.choice([10, 5000, 300_000])),))])
        block = kernels.block(dtype)
        block["x"][:] = turn % 251
        held.append((turn % 251, block))
        if len(held) > 30:
            value, old = held.pop(int(rng.integers(30)))
            assert (old["x"] == value).all()


def test_batches_stay_as_they_are_whatever_is_sampled_later():
    torch = pytest.importorskip("torch")
    buffer = rb.ReplayBuffer(1000, seed=0)
    for i in range(500):
        buffer.add(np.full(50, i, np.float32), 0, float(i), np.full(50, i + 1, np.float32), False, False)
    batch = buffer.sample(64)
    obs, reward = batch.obs, batch.to_torch().reward
    ids = batch.indices
    del batch
    for _ in range(50):
        buffer.sample(64)
    np.testing.assert_array_equal(obs[:, 0], ids)
    assert torch.equal(reward, torch.from_numpy(ids).float())
