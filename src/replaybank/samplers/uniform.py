"""Uniform draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import Lock
from replaybank.parts import shown
from replaybank.samplers.base import Floats, Ids, Window, attached, attached_once, magnitudes, ones, spread
from replaybank.samplers.share import Share


class Uniform:
    """Every transition with the same probability, 1 / len(buffer) (Lin 1992; Mnih et al. 2015).

    With replacement by default, as i.i.d. draws of the theory; `replace=False` draws n different transitions and
    refuses (ValueError) more than the buffer holds. Priorities are ignored: a loop may update them all the same.
    """

    def __init__(self, replace: bool = True) -> None:
        self.replace = replace
        self._window: Window | None = None

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        self._window = attached_once(self._window, capacity)

    @property
    def window(self) -> Window:
        """The ids that may be drawn."""
        return attached(self._window)

    def added(self, first_id: int, n: int) -> None:
        self.window.extend_to(first_id + n)

    def dropped(self, oldest: int) -> None:
        self.window.drop(oldest)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        window = self.window
        size = window.added - window.oldest
        if self.replace:
            return spread(n, rng, window.oldest, size)
        if n > size:
            raise ValueError(f"sample: expected at most {size} transitions without replacement, asked for {n}")
        return rng.choice(size, n, replace=False) + window.oldest, np.full(n, 1.0 / size)

    def probability_of(self, ids: Ids) -> Floats:
        return np.full(len(ids), 1.0 / len(self.window))

    def effective_size(self) -> float:
        return float(len(self.window))

    @property
    def distinct(self) -> bool:
        return not self.replace

    def failed(self) -> None:
        pass  # a draw leaves no traces

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        return ones(len(probabilities))

    def weigh(self, probabilities: Floats, whole: Share, calls: int) -> NDArray[np.float32]:
        return ones(len(probabilities))

    def share(self) -> Share:
        size = len(self.window)
        return Share(size, float(size), math.nan)

    @property
    def stratified(self) -> bool:
        return False

    def priorities(self, td_error: Floats) -> Floats:
        return magnitudes(td_error)[0]

    def update(self, ids: Ids, priorities: Floats) -> int:
        return 0

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {"replace": bool(self.replace)}

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._window = self.window.restored(state)

    @property
    def nbytes(self) -> int:
        return 0

    def bytes_for(self, capacity: int) -> int:
        return 0

    def check_valid(self) -> None:
        assert 0 <= self.window.oldest <= self.window.added
