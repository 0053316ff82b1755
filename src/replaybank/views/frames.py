"""Stacks of frames."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.rows import MAX_CAPACITY, Rows
from replaybank.schema import Schema
from replaybank.stacking import Axis, Stacking
from replaybank.views.gather import Gather, gather_for
from replaybank.views.nstep import NStep
from replaybank.views.transition import Transition


class FrameStack:
    """An id means the transition, or what `view` makes of it, whose observations are stacks of the last k frames.

    Rows keep one frame a transition (Mnih et al. 2015 stack 4); stacks are rebuilt by walking back in the segment, so
    they never mix episodes. Frames before a segment's first are that frame again (`padding="reset"`) or zeros
    (`"zero"`), as in Gymnasium's FrameStackObservation. All arrays of a nested observation are stacked.

    `adds="stacks"`: the environment stacks. obs and next_obs are added and sampled as stacks, oldest frame first, along
    `axis` 0 (Gymnasium, [4, 84, 84]; or 4 frames of 3 channels, [12, 84, 84]) or -1 (Stable-Baselines3's VecFrameStack,
    [84, 84, 4]). Whatever is added comes back bit by bit: frames that neither the rows before nor padding give are put
    aside. `adds="frames"`: obs and next_obs are added as single frames, [84, 84], and sampled with a new axis of k.

    A stack whose older frames have been overwritten cannot be rebuilt: the buffer draws others for the last k - 1
    transitions before that point of each stream. In a batch of single steps obs and next_obs are windows of one block
    of k + 1 frames, where each next_obs begins with what its obs ends with: writing to one may change the other.

    Takes effect when the buffer is made: how rows are kept does not change afterwards. Raises ValueError where k < 1,
    axis or padding is none of these, or an observation does not hold k frames along the axis; TypeError for a `view`
    other than Transition or NStep.
    """

    def __init__(
        self,
        k: int,
        axis: Axis = 0,
        padding: Literal["reset", "zero"] = "reset",
        adds: Literal["stacks", "frames"] = "stacks",
        view: Transition | NStep | None = None,
    ) -> None:
        if not (isinstance(k, int | np.integer) and 1 <= k <= MAX_CAPACITY):
            raise ValueError(f"FrameStack: k must be an integer of at least 1 (at most {MAX_CAPACITY}), given {k!r}")
        if not (isinstance(axis, int | np.integer) and axis in (0, -1)):
            raise ValueError(f"FrameStack: axis must be 0 (first) or -1 (last), given {axis!r}")
        if not (isinstance(padding, str) and padding in ("reset", "zero")):
            raise ValueError(f'FrameStack: padding must be "reset" or "zero", given {padding!r}')
        if not (isinstance(adds, str) and adds in ("stacks", "frames")):
            raise ValueError(f'FrameStack: adds must be "stacks" or "frames", given {adds!r}')
        self.view: Transition | NStep = Transition() if view is None else view
        if not hasattr(self.view, "windows"):
            raise TypeError(f"FrameStack: view must be Transition or NStep, given {view!r}")
        self._stacking = Stacking(int(k), axis, padding == "zero", adds == "frames")
        self._gather: Gather | None = None

    def stack(self, schema: Schema) -> Stacking | None:
        whole = self._stacking.new_axis or self._stacking.frames == 1
        return None if whole else self._stacking

    def read(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        gather = self._gather = gather_for(rows, self._gather, self._reads(rows))
        return gather.read(rows, self.view.windows(rows, ids))

    def usable(self, rows: Rows, ids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        stacking = self._reads(rows)
        return None if stacking is None else rows.stacks_complete(ids, stacking)

    def members(self, rows: Rows, ids: NDArray[np.int64]) -> None:
        return None

    def settings(self) -> dict[str, Any]:
        s = self._stacking
        return {
            "k": s.frames,
            "axis": int(s.axis),
            "padding": "zero" if s.zero else "reset",
            "adds": "frames" if s.new_axis else "stacks",
            "view": self.view,
        }

    def _reads(self, rows: Rows) -> Stacking | None:
        """How these rows are read: by single frames, or as they keep stacks (not at all, where they were made so)."""
        if not self._stacking.new_axis:
            return rows.stack
        if rows.stack is not None:
            raise ValueError(f'{self!r}: adds="frames", but this buffer keeps stacks of {rows.stack.frames} frames')
        return self._stacking

    def __repr__(self) -> str:
        s = self._stacking
        return f"FrameStack({s.frames}, axis={s.axis}, view={self.view!r})"
