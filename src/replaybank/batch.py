"""What `sample` gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Cut:
    """Items `begin` to `end` along the second axis of a column: windows that share memory.

    `order`: then the axes in this order; `shape`: then each item in this shape.
    """

    name: str
    begin: int
    end: int
    order: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    def of(self, columns: Any) -> Any:
        """The windows, as NumPy arrays, or tensors where `columns` holds such."""
        found = columns[self.name][:, self.begin : self.end]
        if self.order is not None:
            found = found.permute(self.order) if hasattr(found, "permute") else found.transpose(self.order)
        return found if self.shape is None else found.reshape(len(found), *self.shape)


# Where a field's arrays are in the block: a name of the block's dtype, a part of such a column, or nested as the field
# is.
Places: TypeAlias = "str | Cut | dict[str, Places] | tuple[Places, ...]"

# What the sampler says of each transition.
DRAWN = ("indices", "probabilities", "weights")
TUPLE_ORDER = ("obs", "action", "reward", "next_obs", "done")


def pick(places: Places, columns: Any) -> Any:
    """The nested field whose arrays are `columns[name]`."""
    if isinstance(places, str):
        return columns[places]
    if isinstance(places, Cut):
        return places.of(columns)
    if isinstance(places, dict):
        return {name: pick(child, columns) for name, child in places.items()}
    return tuple(pick(child, columns) for child in places)


class Batch:
    """n sampled transitions: arrays [n, ...] by attribute (`batch.obs`) and by key (`batch["obs"]`).

    The fields are those that were added, under their names, nested as they were (`batch.obs["camera"]`), and

    - `discount` float32 [n]: gamma ** k, 0 after termination; target = reward + discount * V(next_obs), for every view;
    - `indices` int64 [n]: the transitions' ids, for `update_priorities`;
    - `probabilities` float64 [n]: with which each was drawn;
    - `weights` float32 [n]: importance weights, ones where the sampler draws uniformly;
    - `done`: another name for `terminated`: whether bootstrapping stops. A time limit (`truncated`) does not stop it.

    Iterating gives obs, action, reward, next_obs, done, as loops unpack them. The arrays are copies: they stay as they
    are whatever happens to the buffer. They lie in one contiguous `block`, which moves to a device in one transfer;
    the sampler's three join it just before (copying them on every `sample` took a tenth of its time).
    """

    def __init__(self, block: NDArray[Any], places: dict[str, Places], columns: Any = None) -> None:
        """`block`: all columns, a structured array of shape (); `places`: where in it each field is.

        `columns`: what to take instead of the block (tensors by name).
        """
        # The fields are plain attributes: a loop reads each of them once or twice a batch.
        fields = kernels.columns(block, places) if columns is None else {}
        columns = block if columns is None else columns
        if len(fields) < len(places):
            fields |= {name: pick(place, columns) for name, place in places.items() if name not in fields}
        self.__dict__ = fields
        self.block = block
        self._places = places
        self._columns = columns

    def draw(
        self, indices: NDArray[np.int64], probabilities: NDArray[np.float64], weights: NDArray[np.float32]
    ) -> None:
        """Takes what the sampler says: `indices` int64 [n], `probabilities` float64 [n], `weights` float32 [n]."""
        self.indices = indices
        self.probabilities = probabilities
        self.weights = weights

    def packed(self) -> tuple[NDArray[Any], dict[str, Places]]:
        """The block with all columns in it, and where each field is."""
        if not self.block.flags.writeable:  # one that lies in an object store
            self.block = self.block.copy()
        for name in DRAWN:
            self.block[name] = self[name]
        return self.block, {**self._places, **{name: name for name in DRAWN}}

    def __reduce__(self) -> tuple[Any, ...]:
        if self._columns is self.block:
            return Batch, self.packed()
        return Batch, (self.block, self._places, self._columns)

    @property
    def done(self) -> Any:
        """Whether bootstrapping stops: `terminated`."""
        return self.terminated

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no field {name!r} in this batch: it has {', '.join(self.keys())}")

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(f"no field {name!r} in this batch: it has {', '.join(self.keys())}")
        return getattr(self, name)

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, name) for name in TUPLE_ORDER])

    def __len__(self) -> int:
        """How many transitions."""
        return len(self["discount"])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in tuple(self.keys()) or name == "done")

    def keys(self) -> Iterator[str]:
        """The names of the fields; with this, `dict(batch)` works."""
        drawn = (name for name in DRAWN if name in self.__dict__ and name not in self._places)
        return iter((*self._places, *drawn))

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and fields."""
        return ((name, self[name]) for name in self.keys())

    def to_torch(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch with PyTorch tensors, moved to `device` in one transfer (CUDA: pinned and non-blocking).

        On the CPU the tensors share this batch's memory. `dtype` converts the floating-point fields, and only those.
        Raises ImportError where PyTorch is missing.
        """
        from replaybank.tensors import tensors_of

        if self._columns is not self.block:
            raise TypeError("to_torch: expected a batch of NumPy arrays, as sampled; this one was converted already")
        block, places = self.packed()
        return Batch(block, places, tensors_of(block, device, dtype))

    def __repr__(self) -> str:
        return f"Batch({len(self)} transitions: {', '.join(self.keys())})"
