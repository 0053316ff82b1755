"""JAX: batches in jitted functions, and batches of JAX arrays.

Importing this module makes `Batch` a pytree, so that a jitted function takes a sampled batch as it is:

    import replaybank.jax

    state, td_error = train_step(state, batch := buffer.sample(256))  # train_step: jitted
    buffer.update_priorities(batch.indices, td_error)

On the CPU this copies nothing that was read from the rows, and it is the quickest way: JAX takes NumPy arrays at
64-byte boundaries, where the columns of a batch lie, as they are, and keeps them alive for as long as it needs them.
`to_jax` is for what is not one call of a jitted function, and for moving a batch ahead of its use.

Without `jax_enable_x64` JAX has 32-bit numbers only. Jitted functions make them of 64-bit fields without a look at
whether they fit (`to_jax` looks). `indices` are therefore no part of the pytree and stay NumPy: ids go on beyond 32
bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.convert import as_field
from replaybank.extras import of_extra

with of_extra("jax"):
    import jax

_NO_BLOCK = np.empty(0, np.uint8)  # arrays that are not NumPy's own lie in no block


def to_jax(batch: Batch, device: jax.Device | jax.sharding.Sharding | None = None) -> Batch:
    """The same batch with JAX arrays on `device` (None: JAX's default device); `indices` stay NumPy, int64.

    On the CPU the arrays share this batch's memory where they lie contiguously at 64-byte boundaries, as all columns
    read from the rows do but the overlapping windows of a view; do not write to it afterwards. What is shared stays as
    it is for as long as the JAX arrays live, whatever the buffer samples next.

    Without `jax_enable_x64` 64-bit fields become 32-bit ones; ValueError where a value is beyond their range.
    TypeError where the batch holds other arrays than NumPy's.
    """
    if not isinstance(batch.discount, np.ndarray):
        raise TypeError(f"to_jax: expected a batch of NumPy arrays, given one of {type(batch.discount).__name__}")
    names = list(batch.keys())
    fields = {name: jax.tree.map(partial(_narrowed, name), batch[name]) for name in names if name != "indices"}
    arrays = jax.device_put(fields, device)
    return _batch_of({name: batch.indices if name == "indices" else arrays[name] for name in names})


def _narrowed(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """`array` in the dtype that JAX will give it; raises ValueError where that loses more than precision."""
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))
    if dtype == array.dtype:
        return array
    try:
        return as_field(name, array, dtype, array.shape, -1)
    except ValueError as error:
        error.add_note("JAX has 32-bit numbers only, unless jax_enable_x64 is set")
        raise


def _batch_of(fields: dict[str, Any]) -> Batch:
    return Batch(_NO_BLOCK, {name: name for name in fields}, fields)


def _flatten(batch: Batch) -> tuple[list[Any], tuple[str, ...]]:
    names = tuple(name for name in batch.keys() if name != "indices")  # noqa: SIM118 - a batch iterates over values
    return [getattr(batch, name) for name in names], names


def _flatten_with_keys(batch: Batch) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    fields, names = _flatten(batch)
    return [(jax.tree_util.GetAttrKey(name), field) for name, field in zip(names, fields, strict=True)], names


def _unflatten(names: tuple[str, ...], fields: Iterable[Any]) -> Batch:
    return _batch_of(dict(zip(names, fields, strict=True)))


jax.tree_util.register_pytree_with_keys(Batch, _flatten_with_keys, _unflatten, _flatten)
