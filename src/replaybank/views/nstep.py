"""n steps at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.parts import shown
from replaybank.rows import Rows
from replaybank.schema import Leaf, Schema
from replaybank.views.gather import Gather, Windows, gather_for
from replaybank.views.transition import discount_factor


class NStep:
    """An id means the n-step transition that starts there (Sutton 1988; Hessel et al. 2018, sec. 2 "multi-step").

    `reward` is the sum of gamma**i * r_i over a window of k <= n steps of the stream, that stops at an end (terminated
    or truncated) or at the newest transition of a stream that is still open. `next_obs`, `terminated` and `truncated`
    are those of the window's last step; obs, action and extras those of its first. `discount` is gamma**k, or 0 after
    termination, so that target = reward + discount * V(next_obs) holds for every window, cut short or not.

    Computed when sampling: rows hold single steps, `n` and `gamma` may change at any time, on a full buffer too.
    Raises ValueError where n < 1 or gamma is not in [0, 1].
    """

    def __init__(self, n: int, gamma: float) -> None:
        self.n = n
        self.gamma = gamma
        self._gather: Gather | None = None

    @property
    def n(self) -> int:
        """The most steps of a window."""
        return self._n

    @n.setter
    def n(self, n: int) -> None:
        if not (isinstance(n, int | np.integer) and n >= 1):
            raise ValueError(f"NStep: n must be an integer of at least 1, given {n!r}")
        self._n = int(n)

    @property
    def gamma(self) -> float:
        """The discount of one step."""
        return self._gamma

    @gamma.setter
    def gamma(self, gamma: float) -> None:
        self._gamma = discount_factor("NStep", gamma)

    def windows(self, rows: Rows, ids: NDArray[np.int64]) -> Windows:
        """From each of `ids` (int64 [m]) to the last of its n steps in `rows`."""
        path, lengths = rows.walk(ids, min(self._n, len(rows)) - 1)
        factors = np.power(self.gamma, lengths, dtype=np.float64).astype(np.float32)
        reward = rows.schema.fields["reward"]
        assert isinstance(reward, Leaf)
        returns = rows.returns(reward, path, lengths, self.gamma)
        return Windows(ids, np.ascontiguousarray(path[:, -1]), factors, returns)

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
        return {"n": self._n, "gamma": self._gamma}
