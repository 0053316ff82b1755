"""What rows hold beside themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Held(NamedTuple):
    """By id: the next observations that no row holds (tails), and the older frames that were put aside.

    `onward`: the distance to the stream's next row, where the segment ends and the stream goes on. `older` are those
    of the observation, `next_older` of the next one: [n, frames - 1] of the records that tails are.
    """

    tail_ids: NDArray[np.int64]
    tails: NDArray[Any]
    onward: NDArray[np.uint32]
    older_ids: NDArray[np.int64]
    older: NDArray[Any]
    next_older_ids: NDArray[np.int64]
    next_older: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(array.nbytes for array in self)

    def since(self, oldest: int) -> Held:
        """What rows from `oldest` on hold."""
        arrays: tuple[NDArray[Any], ...] = self
        tail, older, following = (ids >= oldest for ids in (self.tail_ids, self.older_ids, self.next_older_ids))
        which = (tail, tail, tail, older, older, following, following)
        return Held._make(array[mask] for array, mask in zip(arrays, which, strict=True))


class Piece(NamedTuple):
    """Transitions from `first` on as a checkpoint keeps them: records [n], and what they and others hold.

    Of the records' links only `previous` and `step` mean anything.
    """

    first: int
    records: NDArray[Any]
    held: Held
