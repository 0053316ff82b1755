"""Draws that lean towards what came last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import Lock
from replaybank.parts import shown
from replaybank.samplers.base import (
    Floats,
    Ids,
    Window,
    attached,
    attached_once,
    magnitudes,
    not_negative,
    ones,
    spread,
    whole_number,
)
from replaybank.samplers.schedule import Schedule, value_at
from replaybank.samplers.state import count


class Recent:
    """Emphasizing recent experience (ERE: Wang & Ross 2019): from update to update, draws are from fewer, newer ones.

    Update k = 1 … K of a round draws uniformly, with replacement, from the newest

        c_k = max(N * eta^(k * 1000 / K), c_min)

    transitions, or from all where the buffer holds fewer. N is the buffer's capacity, K is `updates` and c_min is
    `minimum`. In the paper a round is the K updates after an episode of K steps, eta is 0.996 or so, c_min 5000; with
    eta = 1 all draws are uniform.

    A call of `sample` is an update, k counts them, and after K of them the next round begins. Where episodes differ in
    length, set `updates` before each one's updates: that begins a round, too. `eta` may be a schedule over all calls of
    `sample`: the paper anneals it to 1. Nothing corrects for the emphasis: weights are 1. Priorities are ignored.

    Raises ValueError where eta is not in (0, 1], or updates or minimum is not an integer of at least 1.
    """

    def __init__(self, eta: float | Schedule = 0.996, updates: int = 1000, minimum: int = 5000) -> None:
        self._lock = Lock()
        self._samples = 0
        self.eta = eta
        self.updates = updates
        self._minimum = whole_number("Recent", "minimum", minimum)
        self._window: Window | None = None

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        self._window = attached_once(self._window, capacity)
        self._lock = self._lock if lock is None else lock

    @property
    def window(self) -> Window:
        """The ids that are in the buffer."""
        return attached(self._window)

    @property
    def eta(self) -> float | Schedule:
        """How fast the range shrinks in a round: not at all with 1."""
        return self._eta

    @eta.setter
    def eta(self, eta: float | Schedule) -> None:
        eta = eta if callable(eta) else _checked_eta(eta)
        with self._lock:
            self._eta = eta

    @property
    def updates(self) -> int:
        """Calls of `sample` in a round. Setting it begins one."""
        return self._updates

    @updates.setter
    def updates(self, updates: int) -> None:
        updates = whole_number("Recent", "updates", updates)
        with self._lock:
            self._updates = updates
            self._round_start = self._samples

    @property
    def minimum(self) -> int:
        """The fewest transitions to draw from."""
        return self._minimum

    @property
    def reach(self) -> int:
        """How many of the newest transitions the next draw is from."""
        k = (self._samples - self._round_start) % self._updates + 1
        eta = _checked_eta(value_at(self._eta, self._samples))
        wanted = int(self.window.capacity * eta ** (k * 1000 / self._updates))
        return min(max(wanted, self._minimum), len(self.window))

    def added(self, first_id: int, n: int) -> None:
        self.window.extend_to(first_id + n)

    def dropped(self, oldest: int) -> None:
        self.window.drop(oldest)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        reach = self.reach
        return spread(n, rng, self.window.added - reach, reach)

    def probability_of(self, ids: Ids) -> Floats:
        reach = self.reach
        return np.where(ids >= self.window.added - reach, 1.0 / reach, 0.0)

    def effective_size(self) -> float:
        return float(self.reach)

    @property
    def distinct(self) -> bool:
        return False

    def failed(self) -> None:
        pass  # a draw leaves no traces

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        self._samples += 1
        return ones(len(probabilities))

    def priorities(self, td_error: Floats) -> Floats:
        return magnitudes(td_error)[0]

    def update(self, ids: Ids, priorities: Floats) -> int:
        return 0

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {"eta": self._eta, "updates": self._updates, "minimum": self._minimum}

    def state(self) -> dict[str, Any]:
        return {**self.window.state(), "samples": self._samples, "round_start": self._round_start}

    def restore(self, state: dict[str, Any]) -> None:
        window, samples = self.window.restored(state), count(state, "samples")
        self._round_start = count(state, "round_start", 0, samples)
        self._window, self._samples = window, samples

    @property
    def nbytes(self) -> int:
        return 0

    def bytes_for(self, capacity: int) -> int:
        return 0

    def check_valid(self) -> None:
        assert 0 <= self.window.oldest <= self.window.added
        assert 0 <= self._round_start <= self._samples


def _checked_eta(eta: Any) -> float:
    if not 0.0 < not_negative("Recent", "eta", eta) <= 1.0:
        raise ValueError(f"Recent: eta must be above 0 and at most 1, given {eta!r}")
    return float(eta)
