"""One batch from those of several shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.batch import Batch, Cut, Places
from replaybank.views.gather import Column, block_of


def assembled(parts: Sequence[Batch], where: Sequence[slice | NDArray[np.int64]]) -> Batch:
    """The batch with the items of `parts[k]` at the positions `where[k]`; what the sampler says is to be filled in.

    Of one part alone it is that part, as it lies in the object store: nothing is copied, and nothing may be written.
    Of several, each array is copied once, from the store to where it belongs.
    """
    if len(parts) == 1:
        part = parts[0]
        return Batch(part.block, part._places)
    n = sum(len(part) for part in parts)
    if all(part._places == parts[0]._places for part in parts):
        return _by_column(parts, where, n)
    return _by_field(parts, where, n)


def _by_column(parts: Sequence[Batch], where: Sequence[slice | NDArray[np.int64]], n: int) -> Batch:
    first = parts[0].block
    columns: dict[str, Column] = {}
    for name in first.dtype.names or ():
        column = first[name]
        columns[name] = column.dtype, (n, *column.shape[1:])
    block = kernels.block(block_of(columns)[0])
    for name in columns:
        target = block[name]
        for part, place in zip(parts, where, strict=True):
            target[place] = part.block[name]
    return Batch(block, parts[0]._places)


def _by_field(parts: Sequence[Batch], where: Sequence[slice | NDArray[np.int64]], n: int) -> Batch:
    """Where parts lie differently in their blocks: stacks of frames that overlap in some, and not in others."""
    columns: dict[str, Column] = {}
    found: dict[str, list[Any]] = {}

    def place_of(name: str, values: list[Any], places: Places) -> Places:
        if isinstance(places, dict):
            return {key: place_of(f"{name}.{key}", [v[key] for v in values], child) for key, child in places.items()}
        if isinstance(places, tuple):
            return tuple(place_of(f"{name}.{i}", [v[i] for v in values], child) for i, child in enumerate(places))
        assert isinstance(places, str | Cut)
        columns[name] = values[0].dtype, (n, *values[0].shape[1:])
        found[name] = values
        return name

    fields = parts[0]._places
    places = {name: place_of(name, [part[name] for part in parts], child) for name, child in fields.items()}
    block = kernels.block(block_of(columns)[0])
    for name, values in found.items():
        target = block[name]
        for value, place in zip(values, where, strict=True):
            target[place] = value
    return Batch(block, places)
