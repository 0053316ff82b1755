"""What one buffer contributes to draws over many."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from replaybank.samplers.base import Floats, Sampler


class Share(NamedTuple):
    """A buffer as part of a whole.

    `size`: its live transitions; `mass`: the sum of their unnormalised probabilities.
    `smallest`: the smallest of these that is above 0 (0: there is none), NaN where the sampler's weights need none.
    """

    size: int
    mass: float
    smallest: float


@runtime_checkable
class Divisible(Sampler, Protocol):
    """A sampler whose probabilities are shares of a sum, so that sums of several buffers add up to that of one."""

    def share(self) -> Share:
        """What its buffer contributes now."""
        ...

    def weigh(self, probabilities: Floats, whole: Share, calls: int) -> NDArray[np.float32]:
        """Importance weights (float32 [n]) that one buffer with all that `whole` sums up would give.

        `probabilities` (float64 [n]) are those of the whole; `calls`: of `sample`, before this one. It changes nothing
        and needs no buffer.
        """
        ...

    @property
    def stratified(self) -> bool:
        """Whether draw j of n falls into the j-th of n equal ranges of the sum; else draws tell nothing of another."""
        ...
