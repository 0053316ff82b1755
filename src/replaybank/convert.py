"""From what a caller hands over to an array of a field's dtype and shape, losing nothing; or a clear error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMERIC = "biufc"


def as_numeric(name: str, value: Any) -> NDArray[Any]:
    """`value` as a NumPy array of numbers or booleans; raises TypeError or ValueError naming `name`."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors on a device or with a gradient
        why = returned_whole(value) or f": {error}"
        raise TypeError(f"{name}: expected numbers in the shape of an array, given {_kind(value)}{why}") from error
    if array.dtype.kind not in NUMERIC:
        why = returned_whole(value) or f" (dtype {array.dtype})"
        raise TypeError(f"{name}: expected numbers, given {_kind(value)}{why}")
    return array


def as_field(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], lead: int) -> NDArray[Any]:
    """`value` as a contiguous array of `dtype` and shape `(lead, *shape)`, or `shape` where lead is -1.

    Integers of another width and 0/1 for booleans are taken where the value fits; integers become floats; float64
    becomes float32. What would lose more (a float into an integer, 300 into uint8, 1e300 into float32) raises TypeError
    or ValueError.
    """
    array = as_numeric(name, value)
    expected = shape if lead < 0 else (lead, *shape)
    if array.shape != expected:
        raise ValueError(
            f"{name}: expected shape {expected}, given {array.shape}{_hint(name, array.shape, shape, lead)}"
        )
    plain = np.empty(expected, dtype)  # aligned, contiguous, of the very dtype, whatever was given
    plain[...] = array if array.dtype == dtype else _cast(name, array, dtype)
    return plain


def require_finite(name: str, array: NDArray[Any]) -> None:
    """Raises ValueError where `array` (floats) holds NaN or an infinity."""
    finite = np.isfinite(array)
    if not finite.all():
        at = np.argwhere(~finite)[0]
        place = f" at {tuple(int(i) for i in at)}" if at.size else ""
        raise ValueError(f"{name}: expected finite numbers, given {array[tuple(at)]}{place}")


def _cast(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    given = array.dtype
    if dtype.kind == "b":
        if not np.isin(array, (0, 1)).all():
            raise TypeError(f"{name}: expected bool (or 0 and 1), given {given} with other values")
        return array.astype(dtype)
    if (dtype.kind in "iu" and given.kind not in "biu") or (dtype.kind == "f" and given.kind == "c"):
        raise TypeError(f"{name}: expected {dtype}, given {given}: the conversion would lose values")
    if dtype.kind in "iu":
        cast = array.astype(dtype)
        if given.kind != "b" and not ((cast == array) & ((cast < 0) == (array < 0))).all():
            bounds = np.iinfo(dtype)
            raise ValueError(
                f"{name}: expected {dtype}, {bounds.min} to {bounds.max}, "
                f"given {given} with values from {array.min()} to {array.max()}"
            )
        return cast
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if (np.isinf(cast) & ~np.isinf(array)).any():
        raise ValueError(f"{name}: expected {dtype}, given {given} with values beyond its range")
    return cast


def returned_whole(value: Any) -> str:
    """What to say of a value that looks as Gymnasium's `reset()` or `step()` returns it; nothing of others."""
    if isinstance(value, tuple) and value and isinstance(value[-1], Mapping):
        if len(value) == 2:
            return " as env.reset() returns it, (obs, info): unpack it, obs, info = env.reset()"
        if len(value) == 5:
            return " as env.step(action) returns it, (obs, reward, terminated, truncated, info): unpack it"
    return ""


def _hint(name: str, given: tuple[int, ...], shape: tuple[int, ...], lead: int) -> str:
    if lead < 0 and given == (1, *shape):
        return f"; of one stream there is no leading axis: give {name}[0]"
    # An action or a reward is looked at when the observation was one transition's.
    if lead < 0 and given[1:] == shape and given and not name.startswith(("action", "reward")):
        return (
            f"; a leading axis of {given[0]} looks like {given[0]} streams (streams={given[0]}) "
            "or like many transitions of one stream (extend)"
        )
    if lead >= 0 and given == shape:
        return f"; the leading axis of {lead} is missing"
    if lead >= 0 and given[1:] == shape:
        return f"; the leading axis must be {lead} long"
    return ""


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def is_finite(value: Any) -> bool:
    """Whether `value` is a real number that float64 can hold."""
    try:
        return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
    except OverflowError:  # an int beyond float64
        return False
