"""What a sampler's state holds, checked: a checkpoint may be damaged, or made up by anybody."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The largest count that any run reaches; sums of a few of them stay in int64.
MOST = 2**60


def entry(state: Any, name: str) -> Any:
    """The entry `name`, or ValueError where there is none."""
    if not isinstance(state, dict) or name not in state:
        found = ", ".join(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"state: expected an entry {name!r}, found {found[:200] or 'none'}")
    return state[name]


def count(state: Any, name: str, least: int = 0, most: int = MOST) -> int:
    """An integer from `least` to `most`, else ValueError."""
    value = entry(state, name)
    if not (isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= value <= most):
        raise ValueError(f"state: {name} must be an integer from {least} to {most}, found {repr(value)[:200]}")
    return int(value)


def flag(state: Any, name: str) -> bool:
    """True or False, else ValueError."""
    value = entry(state, name)
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"state: {name} must be True or False, found {repr(value)[:200]}")
    return bool(value)


def column(state: Any, name: str, dtype: Any, n: int) -> NDArray[Any]:
    """An array [n] of this dtype, not copied, else ValueError."""
    value = entry(state, name)
    if not (isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == (n,)):
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"state: {name} must be {np.dtype(dtype)} ({n},), found {found}")
    return value


def priorities(state: Any, n: int) -> NDArray[np.float64]:
    """The entry `priorities`: float64 [n], finite and >= 0, not copied; else ValueError."""
    values = column(state, "priorities", np.float64, n)
    if n and not (values.min() >= 0.0 and values.max() < np.inf):  # neither makes an array
        wrong = values.min() if not values.min() >= 0.0 else values.max()
        raise ValueError(f"state: priorities must be finite and >= 0, found {wrong}")
    return values


def window_on(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not to be written to."""
    view = array.view()
    view.flags.writeable = False
    return view
