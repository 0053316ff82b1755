"""The newest transition in every batch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import Lock
from replaybank.parts import as_part, shown
from replaybank.samplers.base import Floats, Ids, Sampler, Window, attached, attached_once, whole_number
from replaybank.samplers.state import count, entry, flag
from replaybank.samplers.uniform import Uniform

# Entries of a state: so many of the newest, of so many in all, in the last draw and in the last batch.
SHARES = ("sure", "of", "last_sure", "last_of")
NONE_DRAWN = np.empty(0, np.int64), np.empty(0)


class Combined:
    """Combined experience replay (CER: Zhang & Sutton 2017): the newest transition is in every batch.

    The rest of the batch comes from `sampler` (Uniform by default), which may draw the newest, too. `newest` is how
    many of the newest transitions are in every batch: with several streams, give their number, and each stream's last
    step is in. They come first, the newest at the very front; a batch smaller than `newest` holds only the newest
    ones. One that the view refuses is replaced by a draw of the sampler.

    `probabilities` are expected shares of a batch of n: P(i) = ([i is one of the m newest] + (n - m) P_s(i)) / n, where
    P_s is the sampler's; what replaces a refused one has P_s itself. `weights` are what the sampler makes of these P:
    with Uniform 1, as in the paper; with Prioritized(beta=1, weight_norm=None) 1 / (N P), so that the weighted mean
    over a batch is an unbiased estimate of the mean over the buffer. Priorities are the sampler's.

    Raises ValueError where newest is not an integer of at least 1, TypeError where the sampler is none.
    """

    def __init__(self, sampler: Sampler | None = None, newest: int = 1) -> None:
        self._sampler: Sampler = Uniform() if sampler is None else as_part("Combined", sampler, Sampler, "Uniform()")
        self._newest = whole_number("Combined", "newest", newest)
        self._window: Window | None = None
        self._due = True  # whether this call of `sample` has not had its newest ones yet
        self._shares = (1, 1)  # what the last draw was made of: so many of the newest, of so many in all
        self._shape = (1, 1)  # the same of the last batch, before anything was drawn in another's place
        self._before = self._shares, self._shape  # what they were before this call of `sample`

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        window = attached_once(self._window, capacity)
        self._sampler.attach(capacity, lock)
        self._window = window
        self._empty = deepcopy(self.state())  # to go back to; a window would hold all that it is one on

    @property
    def window(self) -> Window:
        """The ids that may be drawn."""
        return attached(self._window)

    @property
    def sampler(self) -> Sampler:
        """Where the rest of a batch comes from."""
        return self._sampler

    @property
    def newest(self) -> int:
        """How many of the newest transitions are in every batch."""
        return self._newest

    def added(self, first_id: int, n: int) -> None:
        self.window.extend_to(first_id + n)
        self._sampler.added(first_id, n)
        self._due = True

    def dropped(self, oldest: int) -> None:
        self.window.drop(oldest)
        self._sampler.dropped(oldest)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        sure = self._sure(n)
        ids, probabilities = self._sampler.draw(n - sure, rng) if sure < n else NONE_DRAWN
        if self._due:
            self._before, self._shape = (self._shares, self._shape), (sure, n)
        self._due, self._shares = False, (sure, n)
        if not sure:
            return ids, probabilities
        newest = self.window.added - 1 - np.arange(sure)
        ids = np.concatenate([newest, ids])
        return ids, self._mixed(ids, np.concatenate([self._sampler.probability_of(newest), probabilities]))

    def probability_of(self, ids: Ids) -> Floats:
        """As in the draw that this call of `sample` has had; before it, of a draw of one: that is the newest."""
        return self._mixed(ids, self._sampler.probability_of(ids))

    def _mixed(self, ids: Ids, rest: Floats) -> Floats:
        """Expected shares of a batch, where those of the sampler's part of it are `rest`."""
        sure, n = (1, 1) if self._due else self._shares
        return ((ids >= self.window.added - sure) + (n - sure) * rest) / n

    def effective_size(self) -> float:
        """Of a batch as the last `sample` drew it; before there was one, of the newest alone."""
        sure, n = min(self._shape[0], len(self.window)), self._shape[1]
        if not len(self.window):
            return 0.0
        newest = self.window.added - 1 - np.arange(sure)
        among = float(self._sampler.probability_of(newest).sum()) if sure < n else 0.0
        rest = self._sampler.effective_size()
        squares = sure + 2 * (n - sure) * among + ((n - sure) ** 2 / rest if rest else 0.0)
        return n * n / squares

    @property
    def distinct(self) -> bool:
        return False

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        weights = self._sampler.weights(probabilities)
        self._due = True
        return weights

    def failed(self) -> None:
        if not self._due:
            self._shares, self._shape = self._before
            self._due = True
        self._sampler.failed()

    def priorities(self, td_error: Floats) -> Floats:
        return self._sampler.priorities(td_error)

    def update(self, ids: Ids, priorities: Floats) -> int:
        return self._sampler.update(ids, priorities)

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {"sampler": self._sampler, "newest": self._newest}

    def state(self) -> dict[str, Any]:
        told = {"due": self._due, **dict(zip(SHARES, (*self._shares, *self._shape), strict=True))}
        return {**self.window.state(), **told, "sampler": self._sampler.state()}

    def restore(self, state: dict[str, Any]) -> None:
        window, due = self.window.restored(state), flag(state, "due")
        sure, n, last_sure, last_n = (count(state, name, name in SHARES[1::2]) for name in SHARES)
        for name, part, whole in ((SHARES[0], sure, n), (SHARES[2], last_sure, last_n)):
            if part > min(whole, self._newest):
                raise ValueError(f"state: {name} must be at most {min(whole, self._newest)}, found {part}")
        try:
            self._sampler.restore(entry(state, "sampler"))
        except ValueError:
            if state is not self._empty:
                self.restore(self._empty)
            raise
        self._window, self._due, self._shares, self._shape = window, due, (sure, n), (last_sure, last_n)

    @property
    def nbytes(self) -> int:
        return self._sampler.nbytes

    def bytes_for(self, capacity: int) -> int:
        return self._sampler.bytes_for(capacity)

    def check_valid(self) -> None:
        assert 0 <= self.window.oldest <= self.window.added
        self._sampler.check_valid()

    def _sure(self, n: int) -> int:
        """How many of a batch of n are the newest."""
        return min(self._newest, n, len(self.window)) if self._due else 0
