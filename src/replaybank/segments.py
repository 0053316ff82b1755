"""Segments: runs of transitions of one stream that follow each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.rows import Rows


class Segment(NamedTuple):
    """A run of transitions of one stream in which each `next_obs` is the following `obs`: their ids (int64 [T]).

    `whole`: its first step is still in the buffer. `ended`: its last one is terminated or truncated.
    """

    ids: NDArray[np.int64]
    whole: bool
    ended: bool


def segments_of(rows: Rows) -> Iterator[Segment]:
    """The segments in rows as they are now, in the order of their first transitions."""
    runs = _runs(rows)
    heads = [ids[0] % rows.capacity for ids in runs]
    lasts = [ids[-1] % rows.capacity for ids in runs]
    whole = (rows.data["link_step"][heads] == 0).tolist()
    ended = (rows.data["terminated"][lasts] | rows.data["truncated"][lasts]).tolist()
    return map(Segment, runs, whole, ended)


def _runs(rows: Rows) -> list[NDArray[np.int64]]:
    """The live ids of each segment, in the order of their first ones."""
    oldest = rows.oldest
    ids = np.arange(oldest, rows.added)
    before = ids - rows.data["link_previous"][ids % rows.capacity] - oldest
    root = np.where(before < 0, ids - oldest, before)  # no link leads to itself; one that leads out, too, ends here
    while (further := root[root]).tobytes() != root.tobytes():  # twice as far each time
        root = further
    order = np.argsort(root, kind="stable")
    starts = np.flatnonzero(np.diff(root[order])) + 1
    return [part for part in np.split(ids[order], starts) if len(part)]
