"""Arguments of a buffer's methods, checked: what was given as what it must be, or an error that names it."""

from __future__ import annotations

import operator
import os
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank import kernels
from replaybank.convert import as_numeric
from replaybank.schema import Leaf, Node, Schema, children_of

Number = TypeVar("Number", np.int64, np.float64)


def named(
    obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any, truncated: Any, extras: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of `add` by field."""
    return {
        "obs": obs,
        "action": action,
        "reward": reward,
        "next_obs": next_obs,
        "terminated": terminated,
        "truncated": truncated,
        **extras,
    }


def picked(
    schema: Schema, leaves: list[Any], streams: int, lead: int, owners: NDArray[np.int64] | None
) -> list[NDArray[Any]]:
    """Of leaf values with an item for each stream those of `owners`."""
    found = []
    for leaf, value in zip(schema.leaves, leaves, strict=True):
        array = as_numeric(leaf.name, value)
        array = array[np.newaxis] if lead < 0 else array
        if array.shape != (streams, *leaf.shape):
            raise ValueError(f"{leaf.name}: expected shape {(streams, *leaf.shape)}, given {array.shape}")
        found.append(array[owners])
    return found


def chosen(mask: Any, streams: int) -> NDArray[np.int64]:
    """The streams (int64) that a mask (bool [streams]) names; None: all."""
    if mask is None:
        return np.arange(streams)
    flags = as_numeric("mask", mask)
    if flags.dtype != bool or flags.shape != (streams,):
        given = f"{flags.dtype} of shape {flags.shape}"
        raise ValueError(f"mask: expected bool of shape ({streams},), one a stream, given {given}")
    return np.flatnonzero(flags)


def run_of(stream: Any, streams: int, terminated: Any) -> int:
    """How many transitions of one stream `extend` is given; raises ValueError where there is no such stream or run."""
    if not (isinstance(stream, int | np.integer) and 0 <= stream < streams):
        raise ValueError(f"stream: expected 0 to {streams - 1}, given {stream!r}")
    shape = as_numeric("terminated", terminated).shape
    if len(shape) != 1:
        raise ValueError(f"terminated: expected shape (n,), given {shape}; `add` takes single transitions")
    n: int = shape[0]
    return n


def require_timeout(timeout: float | None) -> None:
    """Raises ValueError where `timeout` is neither None nor a number of seconds."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout: expected seconds >= 0, or None, given {timeout!r}")


def whole_number(name: str, value: Any, most: int, least: int = 1) -> int:
    """`value` if it is an integer from `least` to `most`, else TypeError or ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, given {value!r}") from None
    if not least <= number <= most:
        raise ValueError(f"{name}: expected {least} to {most}, given {number}")
    return number


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readonly(records: NDArray[Any], node: Node) -> Any:
    """Windows on records that cannot be written to, nested as the field is."""
    if isinstance(node, Leaf):
        window = records.view()
        window.flags.writeable = False
        return window
    children = {name: readonly(records[name], child) for name, child in children_of(node).items()}
    return children if isinstance(node, dict) else tuple(children.values())


def ids_of(indices: ArrayLike) -> NDArray[np.int64]:
    """Ids [n] as int64; raises where they are no such numbers."""
    ids = as_numeric("indices", indices)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
        raise TypeError(f"indices: expected integers of shape (n,), given {ids.dtype} of shape {ids.shape}")
    if ids.dtype == np.uint64 and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"indices: {ids.max()} was never given out")
    return for_kernel(ids, np.int64)


def errors_of(td_error: ArrayLike, ids: NDArray[np.int64]) -> NDArray[Any]:
    """TD errors, real numbers [n], one for each of the ids; raises where they are not."""
    errors = as_numeric("td_error", td_error)
    if errors.dtype.kind == "c":
        raise TypeError(f"td_error: expected real numbers, given {errors.dtype}")
    if errors.shape != ids.shape:
        steps = errors.ndim == 2 and len(errors) == len(ids) and errors.shape[1] > 1
        hint = "; of a sequence's steps view.priority(td_error, batch.mask) makes one" if steps else ""
        raise ValueError(f"td_error: expected one an index, shape {ids.shape}, given {errors.shape}{hint}")
    return errors


def priorities_of(indices: Any, td_error: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids [n] and a TD error for each [n] as the kernels take them; raises where they are no such numbers."""
    if kernels.paired(indices, td_error):
        return indices, td_error
    ids = ids_of(indices)
    return ids, for_kernel(errors_of(td_error, ids), np.float64)


def for_kernel(array: NDArray[Any], dtype: type[Number]) -> NDArray[Number]:
    """`array` ([n]) as the kernels take it: of this dtype, contiguous and aligned."""
    found = np.ascontiguousarray(array, dtype)
    return found if found.flags.aligned else found.copy()
