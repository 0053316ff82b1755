"""Prioritized draws by rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import Lock
from replaybank.samplers.base import Floats, Ids, Window, attached, attached_once, magnitudes, not_negative
from replaybank.samplers.importance import WeightNorm, checked_beta, checked_norm, importance_weights
from replaybank.samplers.order import Order
from replaybank.samplers.schedule import Schedule, value_at
from replaybank.samplers.sum_tree import Tree

# With a larger one rank ** -alpha leaves float64 in the largest buffer; from 10 on hardly anything but rank 1 is drawn.
LARGEST_ALPHA = 30.0


class RankPrioritized:
    """Rank-based prioritization (Schaul et al. 2016, sec. 3.3): P(i) = rank(i)^-alpha / sum_k k^-alpha.

    rank(i) is 1 for the largest |TD error|, 2 for the next, and so on: how much larger does not matter, so neither do
    outliers, nor the scale of rewards. Of equal ones the newer transition ranks higher. Ranks are exact at all times
    (see `Order`), where the paper sorts every 10^6 steps.

    Draws are stratified: a batch of n takes one transition from each of n equal ranges of the total. New transitions
    get the largest priority now in the buffer, and so the first ranks. `alpha` may be set at any time.

    Importance weights (eq. 2): w = (N * P)^-beta. `weight_norm="batch"` divides by the largest weight in the batch,
    "buffer" by the largest that any transition in the buffer would have, None leaves them. `beta` is a number or a
    schedule over calls of `sample`; the paper goes from 0.5 to 1.

    Raises ValueError where alpha or beta is negative or not finite, alpha is above 30, or weight_norm is none of the
    three.
    """

    def __init__(self, alpha: float = 0.7, beta: float | Schedule = 0.5, weight_norm: WeightNorm = "batch") -> None:
        self._lock = Lock()
        self._alpha = _checked_alpha(alpha)
        self.beta = beta
        self._weight_norm = checked_norm("RankPrioritized", weight_norm)
        self._window: Window | None = None
        self._samples = 0

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        self._window = attached_once(self._window, capacity)
        self._lock = self._lock if lock is None else lock
        self._order = Order(capacity)
        self._masses = Tree(capacity)  # of rank r, from 0 on: (r + 1) ** -alpha

    @property
    def window(self) -> Window:
        """The ids that may be drawn."""
        return attached(self._window)

    @property
    def alpha(self) -> float:
        """How much ranks count: 0 not at all, 1 in proportion. Setting it costs one pass over the buffer."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        alpha = _checked_alpha(alpha)
        with self._lock:
            self._rank_by(alpha)

    @property
    def beta(self) -> float | Schedule:
        """How far importance weights correct for the priorities: 0 not at all, 1 fully."""
        return self._beta

    @beta.setter
    def beta(self, beta: float | Schedule) -> None:
        beta = checked_beta("RankPrioritized", beta)
        with self._lock:
            self._beta = beta

    @property
    def weight_norm(self) -> WeightNorm:
        """What the importance weights are divided by."""
        return self._weight_norm

    def added(self, first_id: int, n: int) -> None:
        window = self.window
        size, end = len(window), first_id + n
        n = end - window.added  # with those that it was not told of
        priority = self._order.largest(window.oldest, window.added) or 1.0
        if n > window.capacity:  # all leave, and some never come in
            self._order.clear()
            window.extend_to(end - window.capacity)
            window.clear()
        priorities = np.full(end - window.added, priority)
        self._order.add(window.oldest, window.added, priorities)
        window.extend_to(end)
        if len(window) > size:
            self._weigh(size, len(window))

    def cleared(self) -> None:
        self.window.clear()
        self._order.clear()
        self._masses.nodes[:] = 0.0

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        window = self.window
        ranks, probabilities = self._masses.find(rng.random(n), 0, len(window))
        return self._order.find(ranks, window.oldest, window.added), probabilities

    def probability_of(self, ids: Ids) -> Floats:
        ranks = self._order.ranks(ids, self.window.oldest, self.window.added)
        return self._masses.leaves[ranks] / self._masses.root

    @property
    def distinct(self) -> bool:
        return False

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        beta = value_at(self._beta, self._samples)
        self._samples += 1
        size = len(self.window)
        smallest = self._masses.leaves[size - 1] / self._masses.root
        return importance_weights(probabilities, beta, self._weight_norm, size, smallest)

    def priorities(self, td_error: Floats) -> Floats:
        return magnitudes(td_error)[0]

    def update(self, ids: Ids, priorities: Floats) -> int:
        """Sets raw priorities (float64 [n], finite). Of an id that comes twice the last one stays."""
        return self._order.update(ids, priorities, self.window.oldest, self.window.added)

    def priority_of(self, ids: Ids) -> Floats:
        """The raw priorities (float64 [n]) of live ids."""
        return self._order.by_slot[ids % self.window.capacity]

    def state(self) -> dict[str, Any]:
        priorities = self.priority_of(self.window.ids())
        return {**self.window.state(), "samples": self._samples, "alpha": self._alpha, "priorities": priorities}

    def restore(self, state: dict[str, Any]) -> None:
        self.cleared()
        self.window.restore(state)
        self._samples = int(state["samples"])
        self._order.add(self.window.oldest, self.window.oldest, np.asarray(state["priorities"], np.float64))
        self._rank_by(float(state["alpha"]))

    @property
    def nbytes(self) -> int:
        return self._order.nbytes + self._masses.nbytes if self._window is not None else 0

    def check_valid(self) -> None:
        size = len(self.window)
        self._order.check_valid()
        self._masses.check_valid()
        assert len(self._order) == size
        every = self._order.find(np.arange(size), self.window.oldest, self.window.added)
        assert np.array_equal(np.sort(every), self.window.ids()), "not every live id has a rank"
        assert np.array_equal(self._masses.leaves[:size], np.arange(1.0, size + 1) ** -self._alpha)
        assert (self._masses.leaves[size:] == 0).all(), "a rank that nobody has can be drawn"

    def _rank_by(self, alpha: float) -> None:
        self._alpha = alpha
        if self._window is not None:
            self._weigh(0, len(self.window))

    def _weigh(self, first: int, end: int) -> None:
        """Gives the ranks from `first` to `end` their masses."""
        ranks = np.arange(first, end)
        self._masses.update(ranks, np.power(ranks + 1.0, -self._alpha, dtype=np.float64), 0, end)


def _checked_alpha(alpha: Any) -> float:
    checked = not_negative("RankPrioritized", "alpha", alpha)
    if checked > LARGEST_ALPHA:
        raise ValueError(f"RankPrioritized: alpha must be at most {LARGEST_ALPHA:g}, given {alpha!r}")
    return checked
