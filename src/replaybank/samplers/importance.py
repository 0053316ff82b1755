"""Importance weights: how much a draw counts, so that what is drawn often does not count too much."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.samplers.base import Floats, not_negative
from replaybank.samplers.schedule import Schedule

WeightNorm = Literal["batch", "buffer"] | None


def importance_weights(
    probabilities: Floats, beta: float, norm: WeightNorm, size: int, smallest: float = 0.0
) -> NDArray[np.float32]:
    """Weights (size * P)^-beta (float32 [n]) of draws with probabilities P ([n], > 0): Schaul et al. 2016, eq. 2.

    `norm` "batch" divides by the largest of these weights, "buffer" by that of the probability `smallest`, None by 1.
    """
    scale = math.nan if norm == "batch" else smallest if norm == "buffer" else 1.0 / size
    weights = np.empty(len(probabilities), np.float32)
    kernels.importance_weights(probabilities, scale, beta, weights)
    return weights


def checked_norm(owner: str, norm: Any, known: tuple[WeightNorm, ...] = ("batch", "buffer", None)) -> WeightNorm:
    """`norm` if it is one of those that are known, else ValueError."""
    if not any(norm is one or (isinstance(norm, str) and norm == one) for one in known):
        names = [f'"{one}"' if one else "None" for one in known]
        raise ValueError(f"{owner}: weight_norm must be {', '.join(names[:-1])} or {names[-1]}, given {norm!r}")
    return next(one for one in known if one == norm)


def checked_beta(owner: str, beta: Any) -> float | Schedule:
    """`beta` if it is a schedule or a finite number >= 0, else ValueError."""
    return beta if callable(beta) else not_negative(owner, "beta", beta)


def beta_at(owner: str, beta: float | Schedule, position: int) -> float:
    """The beta of one call of `sample`; raises ValueError where a schedule gives no finite number >= 0."""
    return not_negative(owner, "beta", beta(position)) if callable(beta) else beta
