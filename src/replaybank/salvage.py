"""What is whole of transitions of which some are missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaybank.held import Held
from replaybank.rows import NONE, Rows

BLOCK = 1 << 14  # records that move at a time
HELD_LINKS = ("link_tail", "link_next_older")  # of rows that have no next one


def keep_whole(rows: Rows, here: NDArray[np.bool_]) -> None:
    """Of rows that were read (`here`, bool [live]), keeps the transitions whose next observations are there, too.

    They move together and keep their order; the newest gets the id that the newest had. All streams are closed. Where
    the transition before one is gone, it still counts the steps before it, as where that one was overwritten.
    """
    oldest, added, capacity = rows.oldest, rows.added, rows.capacity
    ids = np.arange(oldest, added)
    links = {name: rows.data[name][ids % capacity] for name in (rows.dtype.names or ()) if name.startswith("link_")}
    before = np.where(here, ids - links["link_previous"].astype(np.int64), -1) - oldest
    before[(before < 0) | (links["link_previous"] == 0)] = -1
    before[before >= 0] = np.where(here[before[before >= 0]], before[before >= 0], -1)
    after = np.full(len(ids), -1)
    after[before[before >= 0]] = np.flatnonzero(before >= 0)
    holds = here & (links["link_tail"] != NONE)
    whole = here & (holds | (after >= 0))

    # Where the one after is here but cannot stay, what it observed becomes a tail.
    for at in np.flatnonzero(whole & ~holds & ~whole[after]):
        _inherit(rows, int(ids[at]), int(ids[after[at]]))

    kept = np.flatnonzero(whole)
    begin = added - len(kept)
    new = np.full(len(ids), -1)
    new[kept] = np.arange(begin, added)
    follows = (before[kept] >= 0) & whole[before[kept]]
    continued = kept[np.isin(kept, before[kept][follows])]
    distance = new[kept] - np.where(follows, new[before[kept]], begin - 1)
    onward = _onward(rows, ids, kept, new)

    for end in range(len(kept), 0, -BLOCK):  # the newest first: places that are taken have been left
        which = kept[max(end - BLOCK, 0) : end]
        rows.data[new[which] % capacity] = rows.data[ids[which] % capacity]
    rows.begin(added, begin)
    rows.data["link_previous"][new[kept] % capacity] = np.where(links["link_previous"][kept] > 0, distance, 0)
    for name in HELD_LINKS:
        if name in links:
            rows.data[name][new[continued] % capacity] = NONE
    tails = rows.data["link_tail"][new[kept] % capacity]
    rows.onward[tails[tails != NONE]] = onward[tails != NONE]
    rows.settle(np.full(rows.streams, -1))


def _inherit(rows: Rows, id_: int, after: int) -> None:
    """Gives a row as its next observation what the row after it observed; that one goes."""
    ids, slot = np.array([id_]), after % rows.capacity
    aside = rows.data["link_older"][slot] if rows.stack is not None else NONE
    older = ids[: int(aside != NONE)]
    tail = rows.tails[:1].copy()
    tail[0] = rows.data["obs"][slot]
    nothing = np.empty(0, np.int64)
    frames = rows.older[[aside]] if len(older) else rows.older[:0]
    rows.hold(Held(ids, tail, np.zeros(1, np.uint32), nothing, rows.older[:0], older, frames))


def _onward(rows: Rows, ids: NDArray[np.int64], kept: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.uint32]:
    """How far on, in new ids, the streams of the kept rows go on after a segment's end; 0 where they do not."""
    tails = rows.data["link_tail"][ids[kept] % rows.capacity]
    far = np.where(tails != NONE, rows.onward[np.where(tails != NONE, tails, 0)], 0).astype(np.int64)
    target = np.where(far > 0, kept + far, 0)
    there = (far > 0) & (target < len(new)) & (new[np.minimum(target, len(new) - 1)] >= 0)
    return np.where(there, new[np.where(there, target, 0)] - new[kept], 0).astype(np.uint32)
