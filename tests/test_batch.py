"""A batch: fields by attribute and by key, in the order loops unpack them, and its own memory."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import replaybank as rb
from oracle import same_batch


@pytest.fixture
def batch() -> rb.Batch:
    buffer = rb.ReplayBuffer(8, seed=0)
    for t in range(5):
        obs = {"camera": np.full((2, 2), t, np.uint8), "pair": (np.float32([t]), np.float32([t, t]))}
        after = {"camera": np.full((2, 2), t + 1, np.uint8), "pair": (np.float32([t + 1]), np.float32([t + 1, t + 1]))}
        buffer.add(obs, t, float(t), after, t == 2, t == 3, log_prob=-float(t))
    return buffer.sample(16)


def test_fields_come_by_attribute_and_by_key_under_their_names(batch: rb.Batch) -> None:
    names = ["obs", "action", "reward", "next_obs", "terminated", "truncated", "log_prob"]
    assert list(batch.keys()) == [*names, "discount", "indices", "probabilities", "weights"]
    for name, value in batch.items():
        if isinstance(value, np.ndarray):
            assert np.shares_memory(getattr(batch, name), batch[name])
            assert len(value) == len(batch) == 16
        assert name in batch
    assert np.array_equal(batch.action, batch.indices)
    assert np.array_equal(batch.log_prob, -batch.reward)


def test_nested_observations_come_back_nested(batch: rb.Batch) -> None:
    assert (batch.obs["camera"][:, 0, 0] == batch.action).all()
    first, second = batch.obs["pair"]
    assert (first[:, 0] == batch.action).all()
    assert (second[:, 1] == batch.action).all()
    assert (batch.next_obs["camera"] == batch.obs["camera"] + 1).all()


def test_iterating_gives_obs_action_reward_next_obs_done(batch: rb.Batch) -> None:
    obs, action, reward, next_obs, done = batch
    assert obs.keys() == next_obs.keys()
    assert np.array_equal(action, batch.action)
    assert np.array_equal(reward, batch.reward)
    assert np.array_equal(done, batch.terminated)


def test_done_is_terminated_and_not_truncated(batch: rb.Batch) -> None:
    assert np.array_equal(batch.done, batch.action == 2)
    assert np.array_equal(batch["done"], batch.terminated)
    assert np.array_equal(batch.truncated, batch.action == 3)
    assert "done" in batch


def test_an_unknown_field_is_an_error_that_names_the_fields(batch: rb.Batch) -> None:
    with pytest.raises(AttributeError, match=r"state.*obs, action"):
        batch.state  # noqa: B018
    with pytest.raises(KeyError, match=r"state.*obs, action"):
        batch["state"]


def test_dtypes_and_shapes_are_those_that_the_docstring_gives(batch: rb.Batch) -> None:
    expected = {"discount": np.float32, "indices": np.int64, "probabilities": np.float64, "weights": np.float32}
    for name, dtype in expected.items():
        assert (batch[name].dtype, batch[name].shape) == (dtype, (16,))


def test_what_was_read_lies_in_one_block(batch: rb.Batch) -> None:
    assert batch.block.flags.c_contiguous
    assert all(np.shares_memory(batch.block, batch[name]) for name in ("action", "reward", "discount"))


def test_a_batch_can_be_pickled_and_copied(batch: rb.Batch) -> None:
    """Batches travel between processes."""
    for twin in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), copy.copy(batch)):
        assert same_batch(batch, twin)


@pytest.mark.parametrize("name", ["block", "indices", "weights", "done", "keys", "_places"])
def test_a_field_cannot_take_a_name_that_the_batch_uses_itself(name: str) -> None:
    buffer = rb.ReplayBuffer(8)
    with pytest.raises(ValueError, match=name):
        buffer.add(np.zeros(2, np.float32), 0, 1.0, np.zeros(2, np.float32), False, False, **{name: 3.0})
    assert buffer.schema is None
