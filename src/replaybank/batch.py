"""What `sample` gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# Where a field's arrays are in the block: a name of the block's dtype, or nested as the field is.
Places: TypeAlias = "str | dict[str, Places] | tuple[Places, ...]"

TUPLE_ORDER = ("obs", "action", "reward", "next_obs", "done")


def pick(places: Places, get: Callable[[str], Any]) -> Any:
    """The nested field whose arrays `get` looks up by name."""
    if isinstance(places, str):
        return get(places)
    if isinstance(places, dict):
        return {name: pick(child, get) for name, child in places.items()}
    return tuple(pick(child, get) for child in places)


class Batch:
    """n sampled transitions: arrays [n, ...] by attribute (`batch.obs`) and by key (`batch["obs"]`).

    The fields are those that were added, under their names, nested as they were (`batch.obs["camera"]`), and

    - `discount` float32 [n]: gamma ** k, 0 after termination; target = reward + discount * V(next_obs), for every view;
    - `indices` int64 [n]: the transitions' ids, for `update_priorities`;
    - `probabilities` float64 [n]: with which each was drawn;
    - `weights` float32 [n]: importance weights, ones where the sampler draws uniformly;
    - `done`: another name for `terminated`: whether bootstrapping stops. A time limit (`truncated`) does not stop it.

    Iterating gives obs, action, reward, next_obs, done, as loops unpack them. All arrays lie in one contiguous block of
    their own: they stay as they are whatever happens to the buffer, and move to a device in one transfer.
    """

    __slots__ = ("_block", "_fields", "_places")

    _block: NDArray[Any]
    _places: dict[str, Places]
    _fields: dict[str, Any]

    def __init__(self, block: NDArray[Any], places: dict[str, Places], flat: bool) -> None:
        self._block = block
        self._places = places
        if flat:
            self._fields = {name: block[name] for name in places}
        else:
            self._fields = {name: pick(place, block.__getitem__) for name, place in places.items()}

    def __getattr__(self, name: str) -> Any:
        if name == "done":
            name = "terminated"
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(f"no field {name!r} in this batch: it has {', '.join(self._fields)}") from None

    def __getitem__(self, name: str) -> Any:
        try:
            return self._fields["terminated" if name == "done" else name]
        except KeyError:
            raise KeyError(f"no field {name!r} in this batch: it has {', '.join(self._fields)}") from None

    def __iter__(self) -> Iterator[Any]:
        return iter([self[name] for name in TUPLE_ORDER])

    def __len__(self) -> int:
        """How many transitions."""
        return len(self._fields["indices"])

    def __contains__(self, name: object) -> bool:
        return name in self._fields or name == "done"

    def keys(self) -> Iterator[str]:
        """The names of the fields; with this, `dict(batch)` works."""
        return iter(self._fields)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and fields."""
        return iter(self._fields.items())

    def to_torch(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch with PyTorch tensors, moved to `device` in one transfer (CUDA: pinned and non-blocking).

        On the CPU the tensors share this batch's memory. `dtype` converts the floating-point fields, and only those.
        Raises ImportError where PyTorch is missing.
        """
        from replaybank.torch import tensors_of

        moved = object.__new__(Batch)
        moved._block, moved._places = self._block, self._places
        tensors = tensors_of(self._block, device, dtype)
        moved._fields = {name: pick(place, tensors.__getitem__) for name, place in self._places.items()}
        return moved

    def __repr__(self) -> str:
        return f"Batch({len(self)} transitions: {', '.join(self._fields)})"


def nest(names: Mapping[str, Any]) -> dict[str, Places]:
    """The identity for flat fields: each name is its own place."""
    return {name: name for name in names}
