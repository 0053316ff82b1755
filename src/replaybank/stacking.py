"""Observations that are stacks of frames, kept frame by frame."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaybank.schema import Leaf, Node, Schema, mapped

Axis = Literal[0, -1]
MOST_CHANNELS = 4  # of an image's frame; where there would be more, the axis is more likely rows of pixels


@dataclass(frozen=True)
class Stacking:
    """Stacks of `frames` frames along the first axis (0) or the last (-1), oldest first.

    `zero`: frames before a segment's first are zeros; else they are that first frame again. `new_axis`: the frames lie
    along an axis of their own, where the observation of the schema is one frame; else the schema's observation is the
    stack, whose axis holds the frames' own ones one after another (4 frames of 3 channels: 12).
    """

    frames: int
    axis: Axis
    zero: bool
    new_axis: bool

    def plain(self) -> dict[str, Any]:
        """The fields by name, which `of_plain` takes."""
        return dict(vars(self))

    @classmethod
    def of_plain(cls, plain: Any) -> Stacking:
        """One from what `plain` gave; raises ValueError for anything else."""
        names = {"frames": int, "axis": int, "zero": bool, "new_axis": bool}
        if not isinstance(plain, dict) or {name: type(value) for name, value in plain.items()} != names:
            raise ValueError(f"stack: expected {', '.join(names)}, found {plain!r:.99}")
        if plain["frames"] < 2 or plain["axis"] not in (0, -1) or plain["new_axis"]:
            raise ValueError(f"stack: rows cannot keep {plain}")
        return cls(**plain)

    def frame(self, leaf: Leaf) -> Leaf:
        """One frame of a leaf of the observation."""
        if self.new_axis:
            return leaf
        shape = list(leaf.shape)
        shape[self.axis] //= self.frames
        return Leaf(leaf.path, leaf.dtype, tuple(shape))

    def frames_of(self, node: Node) -> Node:
        """The observation's node with one frame in place of each stack."""
        return mapped(node, self.frame)

    def require(self, schema: Schema) -> None:
        """Raises ValueError where an observation of this schema cannot be such a stack."""
        for leaf in schema.leaves:
            if leaf.path[0] == "obs" and (not leaf.shape or leaf.shape[self.axis] % self.frames):
                raise ValueError(
                    f"{leaf.name}: expected a stack of {self.frames} frames along axis {self.axis}, given shape "
                    f'{leaf.shape}; FrameStack(adds="frames") takes single frames'
                )
            if leaf.path[0] == "obs" and len(leaf.shape) == 3 and leaf.shape[self.axis] // self.frames > MOST_CHANNELS:
                warnings.warn(
                    f"{leaf.name}: shape {leaf.shape} is taken for {self.frames} frames of "
                    f"{list(self.frame(leaf).shape)} along axis {self.axis}. Stacks along the "
                    f"{'first axis need axis=0' if self.axis else 'last axis need axis=-1'}, single frames "
                    'adds="frames"',
                    UserWarning,
                    stacklevel=2,
                )

    def stored_shape(self, leaf: Leaf) -> tuple[int, ...]:
        """The shape in which `split` gives a stack: the bytes of one frame after those of another."""
        return leaf.shape if self.axis == 0 else (self.frames, *self.frame(leaf).shape)

    def split(self, leaf: Leaf, value: NDArray[Any]) -> NDArray[Any]:
        """Stacks `[..., *leaf.shape]`, in the shape that `append` takes them in."""
        if self.axis == 0:
            return value
        frame = self.frame(leaf).shape
        lead = value.shape[: value.ndim - len(leaf.shape)]
        apart = value.reshape(*lead, *frame[:-1], self.frames, frame[-1])
        return np.ascontiguousarray(np.moveaxis(apart, -2, len(lead)))

    def split_values(self, schema: Schema, values: tuple[Any, ...], lead: int) -> tuple[Any, ...] | None:
        """The values of the schema's leaves with stacks as `split` gives them.

        None where a stack is no array of its shape, with a leading axis of `lead` (-1: none).
        """
        if self.axis == 0:
            return values
        given = dict(zip(schema.leaves, values, strict=True))
        for leaf, value in given.items():
            if leaf.path[0] in ("obs", "next_obs"):
                shape = leaf.shape if lead < 0 else (lead, *leaf.shape)
                if not isinstance(value, np.ndarray) or value.shape != shape:
                    return None
                given[leaf] = self.split(leaf, value)
        return tuple(given.values())

    def window(self, leaf: Leaf) -> tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...] | None]:
        """The shape of a frame in a column `[n, frames, *frame]`, and how that becomes what the caller knows.

        That is an order of axes, then a shape of an item; None where nothing changes.
        """
        frame = self.frame(leaf).shape
        if self.new_axis:
            return frame, (0, *range(2, 2 + len(frame)), 1) if self.axis else None, None
        width = frame[self.axis]  # of a frame, along the axis of the stack
        rest = frame[1:] if self.axis == 0 else frame[:-1]
        if self.axis == 0:
            return (rest, None, None) if width == 1 else (frame, None, leaf.shape)
        order = (0, *range(2, 2 + len(rest)), 1)
        return (rest, order, None) if width == 1 else (frame, (*order, 2 + len(rest)), leaf.shape)
