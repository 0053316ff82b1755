"""The textbook interface does what the textbook's own buffers do; tensors share one block."""

import random
from collections import Counter, deque

import numpy as np
import pytest
import scipy.stats
import torch

import replaybank as rb
from replaybank.torch import PrioritizedReplayBuffer, ReplayBuffer

CARTPOLE = np.random.default_rng(0).normal(size=(500, 4))


class DequeBuffer:
    """What textbooks print: the oracle."""

    def __init__(self, capacity):
        self.buffer = deque(maxlen=capacity)

    def push(self, state, action, reward, next_state, done):
        self.buffer.append((state, action, reward, next_state, done))

    def sample(self, batch_size):
        states, actions, rewards, next_states, dones = zip(*random.sample(self.buffer, batch_size), strict=True)
        return (
            torch.as_tensor(np.array(states), dtype=torch.float32),
            torch.as_tensor(np.array(actions), dtype=torch.int64),
            torch.as_tensor(np.array(rewards), dtype=torch.float32),
            torch.as_tensor(np.array(next_states), dtype=torch.float32),
            torch.as_tensor(np.array(dones), dtype=torch.float32),
        )

    def __len__(self):
        return len(self.buffer)


def rows_of(tensors):
    """Transitions as a multiset that does not depend on the order of draws."""
    columns = [tensor.numpy().reshape(len(tensor), -1) for tensor in tensors]
    return Counter(tuple(float(x) for column in columns for x in column[i]) for i in range(len(columns[0])))


@pytest.mark.parametrize(
    "state", [lambda x: x, lambda x: x.astype(np.float32), list, torch.tensor], ids=["f64", "f32", "list", "tensor"]
)
@pytest.mark.parametrize("capacity", [1, 7, 100])
def test_same_answers_as_a_deque(capacity, state):
    ours, textbook = ReplayBuffer(capacity=capacity, seed=0), DequeBuffer(capacity)
    rng = np.random.default_rng(1)
    for t in range(150):
        transition = (
            state(CARTPOLE[t]),
            int(rng.integers(2)),
            float(rng.normal()),
            state(CARTPOLE[t + 1]),
            bool(rng.random() < 0.1),
        )
        ours.push(*transition)
        textbook.push(*transition)
        assert len(ours) == len(textbook)
        if t % 10 == 0:
            found, expected = ours.sample(len(ours)), textbook.sample(len(textbook))
            assert [x.dtype for x in found] == [x.dtype for x in expected]
            assert [x.shape for x in found] == [x.shape for x in expected]
            assert rows_of(found) == rows_of(expected)
    assert ours.capacity == capacity


def test_sample_draws_without_repetition_and_refuses_more_than_it_holds():
    buffer = ReplayBuffer(capacity=1000, seed=0)
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1)
    for i in range(10):
        buffer.push([i], 0, 0.0, [i + 1], False)
    for _ in range(50):
        assert len(set(buffer.sample(10)[0].ravel().tolist())) == 10
    with pytest.raises(ValueError, match=r"at most 10 .* asked for 11"):
        buffer.sample(11)


@pytest.mark.parametrize("reward", [1, 0.5, np.float32(2), np.float64(3), torch.tensor(0.25), True])
@pytest.mark.parametrize("action", [1, np.int32(1), np.int64(1), torch.tensor(1), np.array(1)], ids=repr)
@pytest.mark.parametrize("done", [True, 0.0, 1, np.False_, np.float32(1)], ids=repr)
def test_push_takes_what_loops_hand_over(reward, action, done):
    buffer = ReplayBuffer(capacity=3)
    buffer.push(3, action, reward, 4, done)
    states, actions, rewards, next_states, dones = buffer.sample(1)
    assert (states.item(), actions.item(), rewards.item(), next_states.item(), dones.item()) == (
        3.0,
        1,
        float(reward),
        4.0,
        float(done),
    )
    assert [x.dtype for x in (states, actions, rewards, next_states, dones)] == [
        torch.float32,
        torch.int64,
        torch.float32,
        torch.float32,
        torch.float32,
    ]


def test_images_are_stored_as_bytes_and_continuous_actions_stay_floats():
    buffer = ReplayBuffer(capacity=100)
    image = np.full((8, 8), 200, np.uint8)
    for _ in range(100):
        buffer.push(image, [0.5, -0.5], 0.0, image, False)
    states, actions, *_ = buffer.sample(5)
    assert (states == 200).all()
    assert states.dtype == torch.float32
    assert actions.tolist() == [[0.5, -0.5]] * 5
    assert buffer._buffer.nbytes < 100 * 150


def test_prioritized_gives_seven_and_the_probabilities_of_the_formula():
    buffer = PrioritizedReplayBuffer(capacity=4, alpha=0.5, epsilon=0.0, seed=0)
    for i in range(4):
        buffer.push([i], i, float(i), [i + 1], False)
    buffer.update_priorities(torch.arange(4), torch.tensor([1.0, -4.0, 9.0, 0.0]))
    states, actions, rewards, next_states, dones, indices, probabilities = buffer.sample(1000)
    expected = torch.tensor([1.0, 2.0, 3.0, 0.0]) / 6
    assert indices.dtype == torch.int64
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, expected[indices])
    assert (states.ravel() == indices).all()
    assert (actions == indices).all()
    assert (next_states.ravel() == indices + 1).all()
    counts = torch.bincount(indices, minlength=4)
    # Strata of 1/1000 each: a place with probability p is drawn 1000 p times, give or take the two strata at its edges.
    assert (counts - 1000 * expected).abs().max() <= 2
    assert counts[3] == 0


def test_prioritized_places_are_those_of_a_list_overwritten_in_a_circle():
    capacity = 5
    buffer = PrioritizedReplayBuffer(capacity=capacity, alpha=1.0, epsilon=0.25, seed=0)
    places, priorities = [None] * capacity, np.zeros(capacity)
    rng = np.random.default_rng(0)
    for t in range(23):
        priorities[t % capacity] = priorities.max() or 1.0
        places[t % capacity] = float(t)
        buffer.push([t], 0, 0.0, [t + 1], False)
        np.testing.assert_array_equal(np.asarray(buffer.priorities), priorities[: len(buffer)])
        states, *_, indices, probabilities = buffer.sample(8)
        assert [places[i] for i in indices] == states.ravel().tolist()
        np.testing.assert_allclose(probabilities, priorities[indices] / priorities.sum(), rtol=1e-6)
        errors = rng.normal(size=8)
        buffer.update_priorities(indices, errors)
        for i, error in zip(indices.tolist(), errors, strict=True):
            priorities[i] = abs(error) + 0.25
        i = int(rng.integers(len(buffer)))
        buffer.priorities[i] = 5.0
        priorities[i] = 5.0
        assert buffer.priorities[i] == 5.0
        assert len(buffer.priorities) == len(buffer)


def test_prioritized_draws_in_proportion():
    """10^6 draws in batches of one; chi-square with 9 degrees of freedom; a 2% bias of one place would fail it.

    With p = 0.1 a place is expected 10^5 times; 2% of that is 2000, 6.7 standard deviations: power > 0.99 at 1e-4.
    """
    buffer = PrioritizedReplayBuffer(capacity=10, alpha=0.6, seed=3)
    for i in range(10):
        buffer.push([i], 0, 0.0, [i], False)
    buffer.priorities[:] = np.arange(1, 11)
    mass = np.arange(1, 11) ** 0.6
    uniforms = np.random.default_rng(3).random(10**6)
    # One draw a batch is one stratum, the whole range: the tree is asked for each uniform number by itself.
    tree = buffer._sampler._masses
    ids = np.concatenate([tree.find(uniforms[i : i + 1], 0, 10)[0] for i in range(0, 10**6, 5)])
    counts = np.bincount(ids, minlength=10)
    assert scipy.stats.chisquare(counts, mass / mass.sum() * len(ids)).pvalue > 1e-4


@pytest.mark.parametrize("wrong", [-1, 3, [0, 7]])
def test_prioritized_refuses_places_that_do_not_exist(wrong):
    buffer = PrioritizedReplayBuffer(capacity=5)
    for i in range(3):
        buffer.push([i], 0, 0.0, [i], False)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        buffer.update_priorities(np.atleast_1d(wrong), np.ones(np.size(wrong)))
    with pytest.raises(ValueError, match="priority: expected finite numbers >= 0"):
        buffer.priorities[0] = -1.0
    with pytest.raises(IndexError):
        buffer.priorities[3] = 1.0
    np.testing.assert_array_equal(np.asarray(buffer.priorities), [1, 1, 1])


def test_priorities_are_indexed_as_an_array_is():
    buffer = PrioritizedReplayBuffer(capacity=6)
    for i in range(8):
        buffer.push([i], 0, 0.0, [i], False)
    array = np.ones(6)
    for index, value in [
        (2, 5.0),
        (-1, 4.0),
        (np.int64(0), 3.0),
        (torch.tensor(1), 2.5),
        ([3, 4], [7.0, 8.0]),
        (slice(0, 2), 0.5),
        (array > 6, 9.0),
        (torch.tensor([5, 5]), torch.tensor([1.0, 6.0])),
        (np.array([[0, 1], [2, 3]]), 1.25),
    ]:
        buffer.priorities[index] = value
        array[index] = value
        np.testing.assert_array_equal(buffer.priorities[index], array[index])
        np.testing.assert_array_equal(np.asarray(buffer.priorities), array)
        assert list(buffer.priorities) == array.tolist()
    for wrong in (6, -7, [0, 6]):
        with pytest.raises(IndexError):
            buffer.priorities[wrong]
        with pytest.raises(IndexError):
            buffer.priorities[wrong] = 1.0


def test_alpha_and_epsilon_of_the_textbook():
    buffer = PrioritizedReplayBuffer(capacity=3, alpha=0.6, epsilon=1e-6)
    assert (buffer.alpha, buffer.epsilon, buffer.capacity, len(buffer)) == (0.6, 1e-6, 3, 0)
    buffer.push([0], 0, 0.0, [0], False)
    buffer.update_priorities([0], [0.0])
    assert buffer.priorities[0] == 1e-6


def test_to_torch_shares_one_block_and_keeps_nesting_and_dtypes():
    buffer = rb.ReplayBuffer(
        8, schema={"obs": {"camera": ("uint8", (2, 3)), "pair": ["float64", "int16"]}, "action": "int32"}
    )
    for i in range(8):
        obs = {"camera": np.full((2, 3), i, np.uint8), "pair": (i / 2, i)}
        buffer.add(obs, i, i / 4, obs, i == 3, False)
    batch = buffer.sample(5)
    tensors = batch.to_torch()
    for name, field in batch.items():
        for ours, theirs in zip(_leaves(field), _leaves(tensors[name]), strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())
            assert torch.from_numpy(ours.copy()).dtype == theirs.dtype
    assert tensors.obs["camera"].untyped_storage().data_ptr() == tensors.weights.untyped_storage().data_ptr()
    assert batch.reward.ctypes.data == tensors.reward.data_ptr()
    half = batch.to_torch(dtype=torch.float16)
    assert half.obs["pair"][0].dtype == half.reward.dtype == torch.float16
    assert half.obs["camera"].dtype == torch.uint8
    obs, action, reward, next_obs, done = tensors
    assert done.dtype == torch.bool
    assert len(tensors) == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_to_torch_moves_to_cuda():
    buffer = rb.ReplayBuffer(8, seed=0)
    for i in range(8):
        buffer.add([float(i)], i, 0.0, [i + 1.0], False, False)
    batch = buffer.sample(5)
    moved = batch.to_torch("cuda")
    torch.cuda.synchronize()
    assert moved.obs.device.type == "cuda"
    assert moved.obs.untyped_storage().data_ptr() == moved.weights.untyped_storage().data_ptr()
    np.testing.assert_array_equal(moved.obs.cpu().numpy(), batch.obs)


def _leaves(field):
    if isinstance(field, dict):
        return [leaf for child in field.values() for leaf in _leaves(child)]
    if isinstance(field, tuple):
        return [leaf for child in field for leaf in _leaves(child)]
    return [field]
