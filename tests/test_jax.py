"""JAX: batches as arguments of jitted functions and as JAX arrays, in the memory they were read into."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from oracle import leaves, same_bytes

jax = pytest.importorskip("jax")
jnp = jax.numpy

from replaybank.jax import to_jax  # noqa: E402

CPU = jax.devices("cpu")[0]
SCHEMA = {
    "obs": {"camera": ("uint8", (5, 7)), "pair": [("float32", (3,)), "float16"]},
    "action": "int64",
    "reward": "float64",
    "flag": "bool",
    "state": ("complex64", (2,)),
}
DRAWN = ("probabilities", "weights")  # the sampler's own arrays, not columns of the block


@pytest.fixture(autouse=True)
def on_the_cpu() -> Any:
    with jax.default_device(CPU):
        yield


def filled(size: int = 300, **settings: Any) -> rb.ReplayBuffer:
    """A buffer in which every value of transition i is i."""
    buffer = rb.ReplayBuffer(size, SCHEMA, seed=0, **settings)

    def observations(i: np.ndarray) -> dict[str, Any]:
        camera = np.broadcast_to(i[:, None, None], (len(i), 5, 7)).astype(np.uint8)
        return {"camera": camera, "pair": (np.repeat(i[:, None], 3, 1).astype(np.float32), i.astype(np.float16))}

    i = np.arange(size)
    buffer.extend(
        observations(i),
        i,
        i.astype(float),
        observations(i + 1),
        i % 10 == 9,
        i % 10 == 4,
        flag=i % 2 == 0,
        state=np.repeat(i[:, None], 2, 1).astype(np.complex64),
    )
    return buffer


def shares(array: Any, numpy: np.ndarray) -> bool:
    return bool(array.unsafe_buffer_pointer() == numpy.ctypes.data)


def test_every_field_holds_the_same_values_under_its_name_nested_as_it_was() -> None:
    batch = filled().sample(64)
    arrays = to_jax(batch)
    assert list(arrays.keys()) == list(batch.keys())
    assert len(arrays) == 64
    assert isinstance(arrays.obs["pair"], tuple)
    narrow = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
    for name in batch.keys():  # noqa: SIM118
        for one, other in zip(leaves(arrays[name]), leaves(batch[name]), strict=True):
            kept = name == "indices"
            assert same_bytes(one, other if kept else other.astype(narrow.get(other.dtype, other.dtype))), name
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arrays))
    obs, action, reward, next_obs, done = arrays
    assert done is arrays.terminated


def test_columns_of_the_block_are_shared_and_not_copied() -> None:
    for n in (1, 7, 64):
        batch = filled().sample(n)
        arrays = to_jax(batch)
        for name in batch.keys():  # noqa: SIM118
            if name in ("indices", *DRAWN, "action", "reward"):  # the last two are 64-bit numbers
                continue
            fields = zip(jax.tree.leaves(arrays[name]), jax.tree.leaves(batch[name]), strict=True)
            assert all(shares(one, other) for one, other in fields), (name, n)


def test_64_bit_fields_are_shared_too_where_jax_has_64_bits() -> None:
    batch = filled().sample(64)
    with jax.enable_x64(True):
        arrays = to_jax(batch)
        assert (arrays.action.dtype, arrays.reward.dtype) == (np.int64, np.float64)
        assert shares(arrays.action, batch.action)
        assert shares(arrays.reward, batch.reward)


def test_arrays_stay_as_they_are_when_the_batch_is_gone_and_the_buffer_samples_on() -> None:
    """Blocks that nobody holds serve again; those that only JAX holds must not."""
    buffer = filled()
    kept = []
    for i in range(40):
        batch = buffer.sample(64)
        kept.append((jax.tree.map(np.copy, dict(batch.items())), to_jax(batch)))
        del batch
        for _ in range(5):
            buffer.sample(64)
        if i % 10 == 0:
            gc.collect()
    for expected, arrays in kept:
        expected.pop("indices")
        for name, field in expected.items():
            for one, other in zip(jax.tree.leaves(arrays[name]), jax.tree.leaves(field), strict=True):
                assert np.array_equal(one, other.astype(one.dtype)), name


def test_donated_arrays_are_not_written_into_the_batch() -> None:
    """The block may be someone's; XLA must not reuse it for a result."""
    batch = filled().sample(64)
    before = batch.next_obs["pair"][0].copy()
    donating = jax.jit(lambda x: x + 1, donate_argnums=0)
    after = donating(to_jax(batch).next_obs["pair"][0])
    assert np.array_equal(after, before + 1)
    assert np.array_equal(batch.next_obs["pair"][0], before)


def test_a_jitted_function_takes_the_batch_as_it_is_and_is_traced_once() -> None:
    traces = []

    @jax.jit
    def target(batch: rb.Batch) -> Any:
        traces.append(len(batch))
        obs, action, reward, next_obs, done = batch
        return batch.reward + batch.discount * next_obs["pair"][0].sum(1), batch.done | done

    buffer = filled(view=rb.NStep(3, gamma=0.5))
    for _ in range(3):
        batch = buffer.sample(64)
        value, done = target(batch)
        assert np.allclose(value, batch.reward + batch.discount * batch.next_obs["pair"][0].sum(1))
        assert np.array_equal(done, batch.terminated)
        assert np.array_equal(target(to_jax(batch))[0], value)
    assert set(traces) == {64}
    assert len(traces) <= 2  # NumPy's and JAX's arrays


def test_a_running_computation_keeps_the_memory_of_a_batch_that_is_gone() -> None:
    """Jitted functions return before they have run; blocks must not serve again before that."""

    @jax.jit
    def slow(batch: rb.Batch) -> Any:
        x = jnp.ones((200, 200)) / 200
        for _ in range(4):
            x = x @ x / 200
        late = (x.sum() * 0).astype(jnp.int32)
        return batch.obs["pair"][0][:, 0] + late, batch.obs["camera"][:, 0, 0] + late.astype(jnp.uint8)

    buffer = filled()
    running = []
    for _ in range(60):
        batch = buffer.sample(128)
        running.append((batch.indices.copy(), slow(batch)))
        del batch
        buffer.sample(128)
    for ids, (first, camera) in running:
        assert np.array_equal(first, ids)
        assert np.array_equal(camera, ids.astype(np.uint8))


def test_a_prioritized_loop_closes() -> None:
    buffer = filled(sampler=rb.Prioritized(alpha=1.0, epsilon=0.0))
    td_error = jax.jit(lambda batch: batch.weights * 0 + batch.action)
    for _ in range(40):
        batch = buffer.sample(256)
        report = buffer.update_priorities(batch.indices, td_error(batch))
        assert report.stale == 0
    assert buffer.sample(4096).indices.mean() > 175  # 2/3 of 300 where priorities are ids; 150 +- 1.4 if uniform


def test_indices_stay_numpy_whatever_jax_would_make_of_them() -> None:
    """Ids count on for ever; 32 bits would give those of other transitions."""
    batch = filled().sample(8)
    far = batch.indices + 2**40
    batch.indices = far.copy()
    arrays = to_jax(batch)
    assert isinstance(arrays.indices, np.ndarray)
    assert np.array_equal(arrays.indices, far)
    with pytest.raises(AttributeError, match="indices"):
        jax.jit(lambda batch: batch.indices)(batch)


def test_numbers_that_do_not_fit_into_32_bits_are_refused_by_name() -> None:
    for name, value, dtype in (("action", 2**31, "int32"), ("reward", 1e300, "float32")):
        buffer = rb.ReplayBuffer(4, {"obs": "float32", "action": "int64", "reward": "float64"})
        buffer.add(0.0, **{"action": 0, "reward": 0.0, name: value}, next_obs=0.0, terminated=False, truncated=False)
        batch = buffer.sample(2)
        with pytest.raises(ValueError, match=f"{name}: expected {dtype}") as caught:
            to_jax(batch)
        assert "jax_enable_x64" in caught.value.__notes__[0]
        with jax.enable_x64(True):
            assert to_jax(batch)[name].tolist() == [value] * 2


def test_a_batch_that_is_not_numpys_is_refused() -> None:
    batch = filled().sample(8)
    with pytest.raises(TypeError, match="expected a batch of NumPy arrays, given one of Array"):
        to_jax(to_jax(batch))
    pytest.importorskip("torch")
    with pytest.raises(TypeError, match="given one of Tensor"):
        to_jax(batch.to_torch())
    with pytest.raises(TypeError, match="to_torch"):
        to_jax(batch).to_torch()


def test_batches_are_pytrees_whose_leaves_go_by_name() -> None:
    buffer = filled()
    batches = [buffer.sample(8) for _ in range(3)]
    stacked = jax.tree.map(lambda *fields: np.stack(fields), *batches)
    assert stacked.obs["camera"].shape == (3, 8, 5, 7)

    def step(total: Any, batch: rb.Batch) -> Any:
        return total + batch.reward.sum(), None

    total, _ = jax.lax.scan(step, jnp.float32(0), stacked)
    assert total == sum(batch.reward.sum() for batch in batches)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(batches[0])]
    assert names[:4] == [".obs['camera']", ".obs['pair'][0]", ".obs['pair'][1]", ".action"]


def test_a_batch_of_jax_arrays_can_be_pickled_and_copied() -> None:
    arrays = to_jax(filled().sample(8))
    for twin in (pickle.loads(pickle.dumps(arrays)), copy.deepcopy(arrays), copy.copy(arrays)):
        assert jax.tree.structure(twin) == jax.tree.structure(arrays)
        same = jax.tree.map(lambda one, other: bool((one == other).all()), twin, arrays)
        assert all(jax.tree.leaves(same))
        assert np.array_equal(twin.indices, arrays.indices)
