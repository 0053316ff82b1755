"""Several samplers in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import Lock
from replaybank.parts import as_part, shown
from replaybank.samplers.base import Floats, Ids, Sampler, Window, attached, attached_once, kish, not_negative
from replaybank.samplers.importance import WeightNorm, beta_at, checked_beta, checked_norm, importance_weights
from replaybank.samplers.schedule import Schedule
from replaybank.samplers.state import count, entry


class Mixture:
    """Each batch from several samplers: `parts` are pairs (weight, sampler), such as (0.75, Prioritized()).

    Weights are relative. A batch of n holds n * weight / (sum of weights) draws of each part, rounded up or down at
    random so that this is the expectation. `probabilities` are those of the mixture, P(i) = sum_s weight_s P_s(i),
    whichever part a draw came from. Each part sees everything that is added, and every TD error (which it makes its own
    priorities of).

    Importance weights: w = (N * P)^-beta from the mixture's probabilities and its own `beta`; those that the parts
    would give do not count. With beta=0, the default, all are 1. With beta=1 and weight_norm=None the weighted mean
    over a batch is an unbiased estimate of the mean over the buffer, if each transition can be drawn by some part (one
    that is Uniform, say). `weight_norm="batch"` divides by the largest weight in the batch.

    Raises ValueError where there is no part, a weight is not above 0, one sampler is there twice, or beta or
    weight_norm is not what it must be; TypeError where a part is not such a pair.
    """

    def __init__(
        self,
        parts: Sequence[tuple[float, Sampler]],
        beta: float | Schedule = 0.0,
        weight_norm: WeightNorm = "batch",
    ) -> None:
        self._samplers, self._weights = _parts(parts)
        self._shares = np.array(self._weights) / sum(self._weights)
        self._ends = np.cumsum(self._shares)
        self._ends[-1] = 1.0
        self._lock = Lock()
        self.beta = beta
        self._weight_norm = checked_norm("Mixture", weight_norm, ("batch", None))
        self._window: Window | None = None
        self._samples = 0

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        window = attached_once(self._window, capacity)
        for sampler in self._samplers:
            sampler.attach(capacity, lock)
        self._window = window
        self._empty = deepcopy(self.state())  # to go back to; a window would hold all that it is one on
        self._lock = self._lock if lock is None else lock

    @property
    def window(self) -> Window:
        """The ids that may be drawn."""
        return attached(self._window)

    @property
    def parts(self) -> list[tuple[float, Sampler]]:
        """The samplers and their shares, which sum to 1."""
        return list(zip(self._shares.tolist(), self._samplers, strict=True))

    @property
    def beta(self) -> float | Schedule:
        """How far importance weights correct for the probabilities: 0 not at all, 1 fully."""
        return self._beta

    @beta.setter
    def beta(self, beta: float | Schedule) -> None:
        beta = checked_beta("Mixture", beta)
        with self._lock:
            self._beta = beta

    def added(self, first_id: int, n: int) -> None:
        self.window.extend_to(first_id + n)
        for sampler in self._samplers:
            sampler.added(first_id, n)

    def dropped(self, oldest: int) -> None:
        self.window.drop(oldest)
        for sampler in self._samplers:
            sampler.dropped(oldest)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        counts = np.diff(np.floor(self._ends * n + rng.random()).astype(np.int64), prepend=0)
        batches, own = [], []
        for sampler, wanted in zip(self._samplers, counts.tolist(), strict=True):
            ids, probabilities = sampler.draw(wanted, rng) if wanted else (np.empty(0, np.int64), np.empty(0))
            batches.append(ids)
            own.append(probabilities)
        ids = np.concatenate(batches)
        probabilities = np.zeros(n)
        ends = np.cumsum(counts)
        for share, sampler, mine, end in zip(self._shares.tolist(), self._samplers, own, ends.tolist(), strict=True):
            of = sampler.probability_of(ids)
            of[end - len(mine) : end] = mine
            probabilities += share * of
        return ids, probabilities

    def probability_of(self, ids: Ids) -> Floats:
        probabilities = np.zeros(len(ids))
        for share, sampler in self.parts:
            probabilities += share * sampler.probability_of(ids)
        return probabilities

    def effective_size(self) -> float:
        return kish(self.probability_of, self.window.oldest, self.window.added)

    @property
    def distinct(self) -> bool:
        return len(self._samplers) == 1 and self._samplers[0].distinct

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        beta = beta_at("Mixture", self._beta, self._samples)
        weights = importance_weights(probabilities, beta, self._weight_norm, len(self.window))
        for sampler in self._samplers:
            sampler.weights(probabilities)  # so that each knows that a call of `sample` has ended
        self._samples += 1
        return weights

    def failed(self) -> None:
        for sampler in self._samplers:
            sampler.failed()

    def priorities(self, td_error: Floats) -> Floats:
        """The TD errors themselves, once every part can make priorities of them: `update` lets each make its own."""
        for sampler in self._samplers:
            sampler.priorities(td_error)
        return td_error

    def update(self, ids: Ids, priorities: Floats) -> int:
        """Hands TD errors on to every part; gives how many the one that set most of them did set."""
        found = [sampler.priorities(priorities) for sampler in self._samplers]
        return max(sampler.update(ids, own) for sampler, own in zip(self._samplers, found, strict=True))

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        parts = list(zip(self._weights, self._samplers, strict=True))
        return {"parts": parts, "beta": self._beta, "weight_norm": self._weight_norm}

    def state(self) -> dict[str, Any]:
        parts = {str(i): sampler.state() for i, sampler in enumerate(self._samplers)}
        return {**self.window.state(), "samples": self._samples, "parts": parts}

    def restore(self, state: dict[str, Any]) -> None:
        window, samples, parts = self.window.restored(state), count(state, "samples"), entry(state, "parts")
        try:
            for i, sampler in enumerate(self._samplers):
                sampler.restore(entry(parts, str(i)))
        except ValueError:
            if state is not self._empty:
                self.restore(self._empty)
            raise
        self._window, self._samples = window, samples

    @property
    def nbytes(self) -> int:
        return sum(sampler.nbytes for sampler in self._samplers)

    def bytes_for(self, capacity: int) -> int:
        return sum(sampler.bytes_for(capacity) for sampler in self._samplers)

    def check_valid(self) -> None:
        assert 0 <= self.window.oldest <= self.window.added
        for sampler in self._samplers:
            sampler.check_valid()


def _parts(parts: Any) -> tuple[list[Sampler], list[float]]:
    """Samplers and weights, checked."""
    samplers: list[Sampler] = []
    weights: list[float] = []
    for part in parts:
        if not (isinstance(part, tuple | list) and len(part) == 2):
            raise TypeError(f"Mixture: expected pairs (weight, sampler), given {part!r}")
        weight, sampler = part
        if not not_negative("Mixture", "weight", weight) > 0:
            raise ValueError(f"Mixture: weight must be above 0, given {weight!r}")
        samplers.append(as_part("Mixture", sampler, Sampler, "Uniform()"))
        weights.append(float(weight))
    if not samplers:
        raise ValueError(f"Mixture: expected at least one pair (weight, sampler), given {parts!r}")
    if len({id(sampler) for sampler in samplers}) < len(samplers):
        raise ValueError(f"Mixture: expected a sampler of its own for each part, given {parts!r}")
    return samplers, weights
