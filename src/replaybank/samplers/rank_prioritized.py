"""Prioritized draws by rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import Lock
from replaybank.parts import shown
from replaybank.samplers.base import Floats, Ids, Window, attached, attached_once, kish, magnitudes, not_negative
from replaybank.samplers.importance import WeightNorm, beta_at, checked_beta, checked_norm, importance_weights
from replaybank.samplers.order import Order
from replaybank.samplers.schedule import Schedule
from replaybank.samplers.state import count, priorities, window_on
from replaybank.samplers.sum_tree import Tree

# With a larger one rank ** -alpha leaves float64 in the largest buffer; from 10 on hardly anything but rank 1 is drawn.
LARGEST_ALPHA = 30.0
BLOCK = 1 << 14  # ids that are given ranks at once


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
        window = attached_once(self._window, capacity)
        self._lock = self._lock if lock is None else lock
        self._plant(capacity)
        self._window = window

    def _plant(self, capacity: int) -> None:
        """An empty order; the one that was there goes first."""
        for name in ("_order", "_masses"):
            self.__dict__.pop(name, None)
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
            self._alpha = alpha
            if self._window is not None:
                self._weigh(0, len(self.window))

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
        end = first_id + n  # with those that it was not told of
        priority = self._order.largest(window.oldest, window.added) or 1.0
        if end - window.added > window.capacity:  # all leave, and some never come in
            self.dropped(end - window.capacity)
        size, priorities = len(window), np.full(end - window.added, priority)
        self._order.add(window.oldest, window.added, priorities)
        window.extend_to(end)
        if len(window) > size:
            self._weigh(size, len(window))

    def dropped(self, oldest: int) -> None:
        window = self.window
        n = min(max(oldest - window.oldest, 0), len(window))
        self._order.drop(window.oldest, window.added, n)
        self._masses.fill(len(window) - n, n, 0.0)
        window.drop(oldest)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        window = self.window
        ranks, probabilities = self._masses.find(rng.random(n), 0, len(window))
        return self._order.find(ranks, window.oldest, window.added), probabilities

    def probability_of(self, ids: Ids) -> Floats:
        ranks = self._order.ranks(ids, self.window.oldest, self.window.added)
        return self._masses.leaves[ranks] / self._masses.root

    def effective_size(self) -> float:
        masses, root = self._masses.leaves, self._masses.root
        return kish(lambda ranks: masses[ranks] / root, 0, len(self.window))

    @property
    def distinct(self) -> bool:
        return False

    def failed(self) -> None:
        pass  # a draw leaves no traces

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        beta = beta_at("RankPrioritized", self._beta, self._samples)
        size = len(self.window)
        smallest = self._masses.leaves[size - 1] / self._masses.root
        weights = importance_weights(probabilities, beta, self._weight_norm, size, smallest)
        self._samples += 1
        return weights

    def priorities(self, td_error: Floats) -> Floats:
        return magnitudes(td_error)[0]

    def update(self, ids: Ids, priorities: Floats) -> int:
        """Sets raw `priorities` (float64 [n], finite) of `ids` (int64 [n]).

        Of an id that comes twice the last one stays.
        """
        return self._order.update(ids, priorities, self.window.oldest, self.window.added)

    def priority_of(self, ids: Ids) -> Floats:
        """The raw priorities (float64 [n]) of live ids."""
        return self._order.by_slot[ids % self.window.capacity]

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {"alpha": self._alpha, "beta": self._beta, "weight_norm": self._weight_norm}

    def state(self) -> dict[str, Any]:
        window = self.window
        held = window_on(self._order.by_slot[: window.used])  # those of slots that hold nothing are what they were last
        return {**window.state(), "samples": self._samples, "priorities": held}

    def restore(self, state: dict[str, Any]) -> None:
        window, samples = self.window.restored(state), count(state, "samples")
        held = priorities(state, window.used)
        self._plant(window.capacity)  # a copy that was made while others went on may hold anything
        self._window, self._samples = window, samples
        by_slot = self._order.by_slot
        by_slot[: window.used] = held
        first = window.oldest
        for run in window.slots():
            for begin in range(run.start, run.stop, BLOCK):
                block = by_slot[begin : min(begin + BLOCK, run.stop)]
                self._order.add(window.oldest, first, block)
                first += len(block)
        self._weigh(0, len(window))

    @property
    def nbytes(self) -> int:
        return self._order.nbytes + self._masses.nbytes if self._window is not None else 0

    def bytes_for(self, capacity: int) -> int:
        return Order.bytes_for(capacity) + Tree.bytes_for(capacity)

    def check_valid(self) -> None:
        size = len(self.window)
        self._order.check_valid()
        self._masses.check_valid()
        assert len(self._order) == size
        every = self._order.find(np.arange(size), self.window.oldest, self.window.added)
        assert np.array_equal(np.sort(every), self.window.ids()), "not every live id has a rank"
        masses = np.power(np.arange(1.0, size + 1), -self._alpha)  # ** is another function for some exponents
        assert np.array_equal(self._masses.leaves[:size], masses)
        assert (self._masses.leaves[size:] == 0).all(), "a rank that nobody has can be drawn"

    def _weigh(self, first: int, end: int) -> None:
        """Gives the ranks from `first` to `end` their masses."""
        for begin in range(first, end, BLOCK):
            ranks = np.arange(begin, min(begin + BLOCK, end))
            self._masses.update(ranks, np.power(ranks + 1.0, -self._alpha, dtype=np.float64), 0, end)


def _checked_alpha(alpha: Any) -> float:
    checked = not_negative("RankPrioritized", "alpha", alpha)
    if checked > LARGEST_ALPHA:
        raise ValueError(f"RankPrioritized: alpha must be at most {LARGEST_ALPHA:g}, given {alpha!r}")
    return checked
