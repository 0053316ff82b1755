"""One transition, as it was added."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.parts import shown
from replaybank.rows import Rows
from replaybank.schema import Schema
from replaybank.views.gather import Gather, Windows, gather_for


class Transition:
    """An id means the transition it was given to; `discount` is gamma, 0 after termination.

    Raises ValueError where gamma is not in [0, 1].
    """

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma
        self._gather: Gather | None = None

    @property
    def gamma(self) -> float:
        """The discount of one step."""
        return self._gamma

    @gamma.setter
    def gamma(self, gamma: float) -> None:
        self._gamma = discount_factor("Transition", gamma)
        self._factors = np.array([gamma], np.float32)

    def windows(self, rows: Rows, ids: NDArray[np.int64]) -> Windows:
        """Of each of `ids` (int64 [m]) in `rows` the one transition."""
        return Windows(ids, ids, self._factors, None)

    def read(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        gather = self._gather = gather_for(rows, self._gather)
        return gather.read(rows, self.windows(rows, ids))

    def stack(self, schema: Schema) -> None:
        return None

    def usable(self, rows: Rows, ids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        return None if rows.stack is None else rows.stacks_complete(ids, rows.stack)

    def members(self, rows: Rows, ids: NDArray[np.int64]) -> None:
        return None

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {"gamma": self._gamma}


def discount_factor(view: str, gamma: float) -> float:
    """`gamma` if it is in [0, 1], else ValueError."""
    if not (isinstance(gamma, int | float | np.integer | np.floating) and 0 <= gamma <= 1):
        raise ValueError(f"{view}: gamma must be in [0, 1], given {gamma!r}")
    return float(gamma)
