"""What every view is."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.rows import Rows
from replaybank.schema import Schema
from replaybank.stacking import Stacking


class View(Protocol):
    """Decides what an id means: a transition, an n-step transition, a stack of frames, a sequence.

    Views hold no data and may be shared by buffers. What they set is read at each call: a view may let its settings
    change (`NStep`) or not (`Sequence`); a buffer may be given another view. Only what `stack` says is fixed for good,
    when the rows are made.
    """

    def read(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The batch that `ids` (live, int64 [n]) mean in `rows`, with its `discount`; the rest is the sampler's.

        `rng`: the buffer's generator, for views that draw something of their own.
        """
        ...

    def stack(self, schema: Schema) -> Stacking | None:
        """How a new buffer keeps observations of this schema: None as they come, else frame by frame."""
        ...

    def usable(self, rows: Rows, ids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which of `ids` mean something in `rows` now (bool [n]); None where all do.

        The buffer draws others for the rest.
        """
        ...

    def members(self, rows: Rows, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """All live ids in `rows` that mean what some of `ids` (given out once, int64 [n]) do: they share priorities.

        Gives them (int64 [m]) and for each the place in `ids` ([m], rising) of the one it shares with; None where each
        id stands for itself. What has left has no members.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make such a view again, as they are now.

        Numbers, strings, None, lists of them, other views, and functions that it was given.
        """
        ...
