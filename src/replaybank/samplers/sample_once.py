"""Epochs: draws without replacement, over many batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.kernels import Lock
from replaybank.parts import shown
from replaybank.samplers.base import Floats, Ids, Window, attached, attached_once, magnitudes, ones
from replaybank.samplers.state import column, count, window_on

WAITING, SIZE = range(2)
BLOCK = 1 << 14  # slots that are looked at at once


class SampleOnce:
    """Epochs: every live transition comes once, in random order, before any comes twice.

    What is added during an epoch joins it; what is overwritten leaves it. A batch at the end of an epoch goes on into
    the next one, and still holds no transition twice: those it has from the old epoch come later in the new one. More
    than the buffer holds is refused (ValueError). What the view refuses counts as drawn. What a `sample` drew that
    then failed does not; where it had begun another epoch, that one begins anew.

    Weights are 1. `probabilities` are 1 / len(buffer): over all shuffles each draw of an epoch is each transition
    equally often (exactly so where nothing is added meanwhile). Priorities are ignored.

    The order is made as it is drawn (Fisher & Yates), so no draw costs a pass over the buffer; 8 bytes a transition.
    """

    def __init__(self) -> None:
        self._window: Window | None = None
        self._before: int | None = None  # how many to wait again if this call of `sample` fails; None: it drew nothing

    def attach(self, capacity: int, lock: Lock | None = None) -> None:
        window = attached_once(self._window, capacity)
        self._counts = np.zeros(2, np.int64)  # slots that still wait in this epoch, slots in all
        # The slots, those that wait first; and where each lies. Touched only as they are used.
        self._deck = (np.zeros(capacity, np.uint32), np.zeros(capacity, np.uint32), self._counts)
        self._window = window

    @property
    def window(self) -> Window:
        """The ids that may be drawn."""
        return attached(self._window)

    @property
    def left(self) -> int:
        """How many transitions this epoch still has; with 0 the next draw begins another one."""
        return self._counts.item(WAITING)

    def added(self, first_id: int, n: int) -> None:
        window = self.window
        end = first_id + n
        n = end - window.added  # with those that it was not told of
        if n > window.capacity:  # all leave, and some never come in
            self._counts[:] = 0
            n = window.capacity
        window.extend_to(end)
        kernels.deck_add(self._deck, end - n, n)

    def dropped(self, oldest: int) -> None:
        window = self.window
        kernels.deck_drop(self._deck, window.oldest, min(max(oldest - window.oldest, 0), len(window)))
        window.drop(oldest)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Ids, Floats]:
        window = self.window
        size = len(window)
        if n > size:
            raise ValueError(f"sample: expected at most {size} transitions without replacement, asked for {n}")
        uniforms, slots = rng.random(n), np.empty(n, np.int64)
        old = min(n, self.left)
        if self._before is None:
            self._before = self.left
        kernels.deck_deal(self._deck, 0, uniforms[:old], slots[:old])
        if old < n:
            self._before = self._counts[WAITING] = (
                size  # a new epoch; the `old` ones, which lie in front now, wait for later batches
            )
            kernels.deck_deal(self._deck, old, uniforms[old:], slots[old:])
        return window.oldest + (slots - window.oldest) % window.capacity, self.probability_of(slots)

    def probability_of(self, ids: Ids) -> Floats:
        return np.full(len(ids), 1.0 / len(self.window))

    def effective_size(self) -> float:
        return float(len(self.window))

    @property
    def distinct(self) -> bool:
        return True

    def weights(self, probabilities: Floats) -> NDArray[np.float32]:
        self._before = None
        return ones(len(probabilities))

    def failed(self) -> None:
        if self._before is not None:  # those that were dealt lie right behind those that wait
            self._counts[WAITING] = min(self._before, len(self.window))
            self._before = None

    def priorities(self, td_error: Floats) -> Floats:
        return magnitudes(td_error)[0]

    def update(self, ids: Ids, priorities: Floats) -> int:
        return 0

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {**self.window.state(), "left": self.left, "slots": window_on(self._deck[0][: len(self.window)])}

    def restore(self, state: dict[str, Any]) -> None:
        window = self.window.restored(state)
        size = len(window)
        left = count(state, "left", 0, size)
        cards, places, counts = self._deck
        cards[:size] = column(state, "slots", np.uint32, size)
        self._window = Window(window.capacity)
        counts[:] = 0
        for begin in range(0, size, BLOCK):
            slots = cards[begin : min(begin + BLOCK, size)].astype(np.int64)
            if slots.max() >= window.capacity or ((slots - window.oldest) % window.capacity >= size).any():
                raise ValueError("state: slots must be those of all live transitions, found one that holds nothing")
            places[slots] = np.arange(begin, begin + len(slots))
        for begin in range(0, size, BLOCK):  # of a slot that comes twice only the last place is there
            found = places[cards[begin : min(begin + BLOCK, size)]]
            if not np.array_equal(found, np.arange(begin, begin + len(found))):
                raise ValueError("state: slots must be those of all live transitions, found one twice")
        self._window = window
        counts[:] = left, size

    def __getstate__(self) -> dict[str, Any]:
        return {} if self._window is None else {"capacity": self._window.capacity, **self.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        SampleOnce.__init__(self)
        if state:
            self.attach(state["capacity"])
            self.restore(state)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._deck) if self._window is not None else 0

    def bytes_for(self, capacity: int) -> int:
        return 8 * capacity + 16

    def check_valid(self) -> None:
        window = self.window
        cards, places, counts = self._deck
        left, size = counts.tolist()
        assert 0 <= left <= size == len(window)
        assert np.array_equal(np.sort(cards[:size]), np.sort(window.ids() % window.capacity)), "not the live slots"
        assert np.array_equal(places[cards[:size]], np.arange(size)), "a slot is not where it should be"
