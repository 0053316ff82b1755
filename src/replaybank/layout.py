"""The layout of rows: what a record is made of, and where each value that is added goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.schema import Schema, dtype_of
from replaybank.stacking import Stacking

LINKS = ("link_next", "link_previous", "link_tail", "link_step")
STACK_LINKS = ("link_older", "link_next_older")
# Where a leaf of `append` goes (native/append.hpp, Place).
PLACE_ROW, PLACE_NEXT_OBS = 0, 1


def record_of(schema: Schema, stack: Stacking | None) -> np.dtype[Any]:
    """What a row is: the stored fields, observations as single frames where they are stacks, and the links."""
    stored = schema.stored
    if stack is not None:
        stack.require(schema)
        stored["obs"] = stack.frames_of(stored["obs"])
    fields: list[Any] = [(name, dtype_of(node)) for name, node in stored.items()]
    links = LINKS if stack is None else LINKS + STACK_LINKS
    return np.dtype([*fields, *((link, np.uint32) for link in links)], align=True)


def offset_in(dtype: np.dtype[Any], path: tuple[str, ...]) -> int:
    """Where in a record the field of this path lies."""
    at = 0
    for part in path:
        assert dtype.fields is not None
        dtype, offset = dtype.fields[part][:2]
        at += offset
    return at


def append_plan(schema: Schema, dtype: np.dtype[Any], stack: Stacking | None) -> NDArray[np.int64]:
    """What the kernels need to know of each leaf that is added (native/bindings/given.hpp, Leaf).

    A row a leaf: place, offset, bytes, NumPy type number, finite or not, frames, obs or not, dimensions, shape.
    """
    rows: list[list[int]] = []
    for leaf in schema.leaves:
        name, is_obs = leaf.path[0], leaf.path[0] in ("obs", "next_obs")
        place = PLACE_NEXT_OBS if name == "next_obs" else PLACE_ROW
        offset = offset_in(dtype, ("obs", *leaf.path[1:]) if is_obs else leaf.path)
        frames, shape = (stack.frames, stack.stored_shape(leaf)) if stack and is_obs else (1, leaf.shape)
        head = [place, offset, leaf.nbytes, leaf.dtype.num, name == "reward", frames, is_obs, len(shape)]
        rows.append([*head, *shape])
    plan = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for at, row in enumerate(rows):
        plan[at, : len(row)] = row
    return plan
