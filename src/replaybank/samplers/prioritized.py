"""Proportional prioritized draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.kernels import Lock
from replaybank.parts import shown
from replaybank.samplers.base import Floats, Ids, Window, attached, attached_once, kish, magnitudes, not_negative
from replaybank.samplers.importance import WeightNorm, beta_at, checked_beta, checked_norm, importance_weights
from replaybank.samplers.schedule import Schedule
from replaybank.samplers.share import Share
from replaybank.samplers.state import count, priorities, window_on
from replaybank.samplers.sum_tree import Tree

EPSILON = 1e-6
# Where priority ** alpha is above this (its logarithm), the sum over a buffer could overflow.
LARGEST_LOG_MASS = math.log(1e290)


class Prioritized:
    """Proportional prioritization (Schaul et al. 2016, eq. 1): P(i) = p_i^alpha / sum_k p_k^alpha.

    The priority p is |TD error| + epsilon, with epsilon 1e-6. With `min_priority` it is max(|TD error| + epsilon,
    min_priority), and epsilon is 0 if it is not given. Loss-adjusted prioritization (LAP: Fujimoto et al. 2020) is
    min_priority=1 with alpha=0.4, beta=0 (no importance weights: they are 1) and a Huber loss that is quadratic up to
    min_priority: errors below it are drawn uniformly, and those above have gradients of one size.

    Draws are stratified: a batch of n takes one transition from each of n equal ranges of the total. New transitions
    get the largest priority now in the buffer (1.0 where it holds none above 0), so each is likely to be seen soon; not
    the largest ever, which one outlier would fix for good. The raw priority is kept and alpha applied on top, so
    `alpha` may be set at any time, exactly. With alpha 0 draws are uniform; with alpha > 0 a priority of 0 is never
    drawn.

    Importance weights (eq. 2): w = (N * P)^-beta. `weight_norm="batch"` divides by the largest weight in the batch,
    "buffer" by the largest that any transition in the buffer would have, None leaves them. `beta` is a number or a
    schedule over calls of `sample`, such as `linear(0.4, 1.0, steps)`.

    Raises ValueError where alpha, beta, epsilon or min_priority is negative or not finite, or weight_norm is none of
    the three.
    """

    def __init__(
        self,
        alpha: float = 0.6,
        beta: float | Schedule = 0.4,
        epsilon: float | None = None,
        weight_norm: WeightNorm = "batch",
        min_priority: float | None = None,
    ) -> None:
        self._lock = Lock()
        self._alpha = not_negative("Prioritized", "alpha", alpha)
        self.beta = beta
        if epsilon is None:
            epsilon = EPSILON if min_priority is None else 0.0
        self.epsilon = epsilon
        self.min_priority = 0.0 if min_priority is None else min_priority
        self._weight_norm = checked_norm("Prioritized", weight_norm)
        self._window: Window | None = None
        self._samples = 0
        self._newcomer = (0.0, 0.0)  # a priority, and its mass: what the last newcomers got

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        window = attached_once(self._window, capacity)
        self._lock = self._lock if lock is None else lock
        self._plant(capacity)
        self._window = window

    def _plant(self, capacity: int) -> None:
        """Empty trees; those that were there go first."""
        for name in ("_raw", "_masses", "_smallest"):
            self.__dict__.pop(name, None)
        self._raw = Tree(capacity, kernels.MAX)  # priorities
        self._masses = Tree(capacity, kernels.SUM)  # priority ** alpha
        self._smallest = Tree(capacity, kernels.MIN_POSITIVE) if self._weight_norm == "buffer" else None

    @property
    def window(self) -> Window:
        """The ids that may be drawn."""
        return attached(self._window)

    @property
    def alpha(self) -> float:
        """How much priorities count: 0 not at all, 1 in proportion. Setting it costs one pass over the buffer."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        alpha = not_negative("Prioritized", "alpha", alpha)
        with self._lock:
            if self._window is not None:
                _require_summable("alpha", self._raw.root, alpha)
            self._alpha = alpha
            self._newcomer = (0.0, 0.0)
            if self._window is not None:
                self._weigh(self._window.used)

    @property
    def beta(self) -> float | Schedule:
        """How far importance weights correct for the priorities: 0 not at all, 1 fully."""
        return self._beta

    @beta.setter
    def beta(self, beta: float | Schedule) -> None:
        beta = checked_beta("Prioritized", beta)
        with self._lock:
            self._beta = beta

    @property
    def epsilon(self) -> float:
        """What is added to the size of a TD error."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, epsilon: float) -> None:
        epsilon = not_negative("Prioritized", "epsilon", epsilon)
        with self._lock:
            self._epsilon = epsilon

    @property
    def min_priority(self) -> float:
        """The smallest priority that a TD error can stand for."""
        return self._min_priority

    @min_priority.setter
    def min_priority(self, min_priority: float) -> None:
        min_priority = not_negative("Prioritized", "min_priority", min_priority)
        with self._lock:
            self._min_priority = min_priority

    @property
    def weight_norm(self) -> WeightNorm:
        """What the importance weights are divided by."""
        return self._weight_norm

    def added(self, first_id: int, n: int) -> None:
        window = self.window
        priority = self._raw.root or 1.0
        if priority != self._newcomer[0]:
            self._newcomer = (priority, float(_power(np.array([priority]), self._alpha)[0]))
        end = first_id + n
        n = min(end - window.added, window.capacity)  # with those that it was not told of
        window.extend_to(end)
        self._raw.fill(end - n, n, priority)
        self._masses.fill(end - n, n, self._newcomer[1])
        if self._smallest is not None:
            self._smallest.fill(end - n, n, self._newcomer[1])

    def dropped(self, oldest: int) -> None:
        window = self.window
        first, n = window.oldest, min(max(oldest - window.oldest, 0), len(window))
        window.drop(oldest)
        for tree in self._trees():
            tree.fill(first, n, 0.0)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        if not self._masses.root > 0.0:
            raise ValueError("sample: every priority in the buffer is 0; update_priorities, or use epsilon > 0")
        window = self.window
        return self._masses.find(rng.random(n), window.oldest, window.added)

    def probability_of(self, ids: Ids) -> Floats:
        masses, root = self._masses.leaves[ids % self.window.capacity], self._masses.root
        return masses / root if root > 0.0 else masses

    def effective_size(self) -> float:
        return kish(self.probability_of, self.window.oldest, self.window.added)

    @property
    def distinct(self) -> bool:
        return False

    def failed(self) -> None:
        pass  # a draw leaves no traces

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        window, smallest = self.window, math.nan
        if self._smallest is not None:
            smallest = _least(self._smallest.root, self._masses.root)
        weights = self._weights(probabilities, window.added - window.oldest, smallest, self._samples)
        self._samples += 1
        return weights

    def weigh(self, probabilities: Floats, whole: Share, calls: int) -> NDArray[np.float32]:
        return self._weights(probabilities, whole.size, _least(whole.smallest, whole.mass), calls)

    def _weights(self, probabilities: Floats, size: int, smallest: float, calls: int) -> NDArray[np.float32]:
        beta = beta_at("Prioritized", self._beta, calls)
        return importance_weights(probabilities, beta, self._weight_norm, size, smallest)

    def share(self) -> Share:
        smallest = math.nan if self._smallest is None else self._smallest.root
        return Share(len(self.window), self._masses.root, smallest)

    @property
    def stratified(self) -> bool:
        return True

    def priorities(self, td_error: Floats) -> Floats:
        priorities, largest = magnitudes(td_error, self._epsilon)
        _require_summable("td_error", max(largest, self._min_priority), self._alpha)
        return np.maximum(priorities, self._min_priority, out=priorities) if self._min_priority else priorities

    def update(self, ids: Ids, priorities: Floats) -> int:
        """Sets raw `priorities` (float64 [n], finite, >= 0) of `ids` (int64 [n]).

        Of an id that comes twice the last one stays.

        Raises ValueError where the sum over a buffer of such priorities ** alpha could overflow.
        """
        if len(priorities):
            _require_summable("td_error", priorities.item(priorities.argmax()), self._alpha)
        masses = _power(priorities, self._alpha)
        window = self.window
        oldest, added = window.oldest, window.added
        if self._smallest is not None:
            self._smallest.update(ids, masses, oldest, added)
        self._raw.update(ids, priorities, oldest, added)
        return self._masses.update(ids, masses, oldest, added)

    def priority_of(self, ids: Ids) -> Floats:
        """The raw priorities (float64 [n]) of live ids."""
        return self._raw.leaves[ids % self.window.capacity]

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {
            "alpha": self._alpha,
            "beta": self._beta,
            "epsilon": self._epsilon,
            "weight_norm": self._weight_norm,
            "min_priority": self._min_priority,
        }

    def state(self) -> dict[str, Any]:
        window = self.window
        held = window_on(self._raw.leaves[: window.used])
        return {**window.state(), "samples": self._samples, "priorities": held}

    def restore(self, state: dict[str, Any]) -> None:
        window, samples = self.window.restored(state), count(state, "samples")
        held = priorities(state, window.used)
        _require_summable("state", held.max(initial=0.0), self._alpha)
        if any(held[run].any() for run in window.gaps()):
            raise ValueError("state: priorities must be 0 in slots that hold nothing")
        self._plant(window.capacity)  # a copy that was made while others went on may hold anything
        self._window, self._samples, self._newcomer = window, samples, (0.0, 0.0)
        self._raw.leaves[: window.used] = held
        self._raw.build()
        self._weigh(window.used)

    @property
    def nbytes(self) -> int:
        return sum(tree.nbytes for tree in self._trees()) if self._window is not None else 0

    def bytes_for(self, capacity: int) -> int:
        return Tree.bytes_for(capacity) * (3 if self._weight_norm == "buffer" else 2)

    def check_valid(self) -> None:
        window = self.window
        for tree in self._trees():
            tree.check_valid()
        live = window.ids() % window.capacity
        empty = np.ones(window.capacity, bool)
        empty[live] = False
        assert (self._raw.leaves[empty] == 0).all(), "a slot that holds nothing has a priority"
        assert (self._masses.leaves[empty] == 0).all(), "a slot that holds nothing can be drawn"
        assert np.array_equal(self._masses.leaves[live], _power(self._raw.leaves[live], self._alpha))

    def _weigh(self, end: int) -> None:
        """Gives the first `end` slots, those that hold something, the masses of their priorities."""
        masses = self._masses.leaves
        masses[:end] = 0.0
        for run in self.window.slots():
            _power(self._raw.leaves[run], self._alpha, masses[run])
        self._masses.build()
        if self._smallest is not None:
            self._smallest.leaves[:end] = masses[:end]
            self._smallest.build()

    def _trees(self) -> tuple[Tree, ...]:
        trees = (self._raw, self._masses)
        return trees if self._smallest is None else (*trees, self._smallest)


def _power(values: NDArray[np.float64], exponent: float, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Elementwise values ** exponent (into `out`); the common exponents without a call to pow."""
    if exponent == 1.0:
        return np.positive(values, out=out)
    if exponent == 0.0:
        out = np.empty_like(values) if out is None else out
        out.fill(1.0)
        return out
    return np.power(values, exponent, out=out)


def _require_summable(name: str, largest: float, alpha: float) -> None:
    if largest > 0 and alpha * math.log(largest) > LARGEST_LOG_MASS:
        raise ValueError(f"{name}: a priority of {largest:g} to the power of alpha {alpha:g} is too large to sum")


def _least(smallest: float, mass: float) -> float:
    """The smallest probability; NaN (the batch's own) where none is needed, or all masses are 0: only Combined drew."""
    return smallest / mass if mass else math.nan
