"""Transitions on their way from a writer to a shard: one block of bytes, checked where it arrives."""

from __future__ import annotations

import hashlib
import json
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.convert import require_finite
from replaybank.schema import Leaf, Schema
from replaybank.views.gather import Column, block_of

# No field has such a name.
KEPT, OWNER, ERROR, SCHEMA = "link_kept", "link_owner", "link_td_error", "link_schema"
MOST_TRANSITIONS = 2**20  # of a message

Arrays = tuple[NDArray[np.generic], ...]


class Transitions(NamedTuple):
    """n transitions of a writer in the order they happened.

    `arrays`: [n, ...] in the order of `Schema.leaves`. `owners`: which of the writer's streams each is of, int64 [n].
    `td_error`: float64 [n], NaN where none was given.
    """

    arrays: Arrays
    owners: NDArray[np.int64]
    td_error: NDArray[np.float64]


class Packet(NamedTuple):
    """Transitions as they travel: numbers and bytes. `tails`: how many next observations go along."""

    n: int
    tails: int
    raw: NDArray[np.uint8]


class Wire:
    """Packs transitions of a schema and unpacks them.

    An observation travels once: a next observation only where it is not, byte for byte, the next one of its stream in
    the packet. That halves what images cost.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._steps = [leaf for leaf in schema.leaves if leaf.path[0] != "next_obs"]
        self._obs = [leaf for leaf in schema.leaves if leaf.path[0] == "obs"]
        self._next = [leaf for leaf in schema.leaves if leaf.path[0] == "next_obs"]
        self._place = {leaf: i for i, leaf in enumerate(schema.leaves)}
        # Packets of two schemas may be of one size.
        told = json.dumps(schema.plain()).encode()
        self._mark = int.from_bytes(hashlib.sha256(told).digest()[:8], "little")
        self._known: dict[tuple[int, int], np.dtype[np.void]] = {}

    @property
    def step_nbytes(self) -> int:
        """Bytes of a transition whose next observation travels as the next one's observation."""
        return sum(leaf.nbytes for leaf in self._steps) + 1 + 4 + 8

    def pack(self, transitions: Transitions) -> Packet:
        """The packet of some transitions (one at least, MOST_TRANSITIONS at most)."""
        arrays, owners, td_error = transitions
        n = len(owners)
        following = _following(owners)
        kept = following < 0
        before, after = np.flatnonzero(~kept), following[~kept]
        differs = np.zeros(len(before), bool)
        for obs, next_obs in zip(self._obs, self._next, strict=True):
            differs |= _differ(self._of(arrays, next_obs)[before], self._of(arrays, obs)[after])
        kept[before[differs]] = True
        tails = int(kept.sum())
        block = np.zeros((), self._dtype(n, tails))
        for leaf in self._steps:
            block[leaf.name] = self._of(arrays, leaf)
        for leaf in self._next:
            block[leaf.name] = self._of(arrays, leaf)[kept]
        block[KEPT], block[OWNER], block[ERROR], block[SCHEMA] = kept, owners, td_error, self._mark
        return Packet(n, tails, block.reshape(1).view(np.uint8))

    def unpack(self, packet: Packet, streams: int) -> Transitions:
        """The transitions of a packet from a writer with so many streams.

        Raises TypeError or ValueError where the packet is not what `pack` makes of transitions of this schema.
        """
        n, tails, raw = packet
        if type(n) is not int or type(tails) is not int or not 1 <= n <= MOST_TRANSITIONS or not 1 <= tails <= n:
            raise ValueError(f"packet: expected 1 to {MOST_TRANSITIONS} transitions, given n={n!r}, tails={tails!r}")
        if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8 or raw.ndim != 1:
            raise TypeError(f"packet: expected bytes, uint8 [n], given {type(raw).__name__}")
        dtype = self._dtype(n, tails)
        if len(raw) != dtype.itemsize:
            raise ValueError(
                f"packet: expected {dtype.itemsize} bytes for {n} transitions of {self.schema!r}, {tails} of them with "
                f"their next observation, given {len(raw)}"
            )
        block = raw.view(dtype)[0]
        if block[SCHEMA] != self._mark:
            raise ValueError(f"packet: expected transitions of {self.schema!r}, given those of another schema")
        for leaf in (*self._steps, *self._next):
            if leaf.dtype == bool and (block[leaf.name].view(np.uint8) > 1).any():
                raise ValueError(f"packet: {leaf.name}: expected bool, given other bytes")
        kept = block[KEPT].view(np.uint8) == 1
        owners = block[OWNER].astype(np.int64)
        if kept.sum() != tails or (block[KEPT].view(np.uint8) > 1).any() or owners.max() >= streams:
            raise ValueError(f"packet: contradicts itself, or has a stream beyond {streams - 1}")
        following = _following(owners)
        if not kept[following < 0].all():
            raise ValueError("packet: the next observation of a stream's last transition is missing")
        require_finite("reward", block["reward"])
        found: list[NDArray[np.generic]] = []
        source = np.where(kept, 0, following)
        for leaf in self.schema.leaves:
            if leaf.path[0] == "next_obs":
                whole = block[Leaf(("obs", *leaf.path[1:]), leaf.dtype, leaf.shape).name][source]
                whole[kept] = block[leaf.name]
                found.append(whole)
            else:
                found.append(block[leaf.name])
        return Transitions(tuple(found), owners, block[ERROR])

    def _of(self, arrays: Arrays, leaf: Leaf) -> NDArray[np.generic]:
        return arrays[self._place[leaf]]

    def _dtype(self, n: int, tails: int) -> np.dtype[np.void]:
        known = self._known.get((n, tails))
        if known is None:
            columns: dict[str, Column] = {leaf.name: (leaf.dtype, (n, *leaf.shape)) for leaf in self._steps}
            columns |= {leaf.name: (leaf.dtype, (tails, *leaf.shape)) for leaf in self._next}
            columns |= {KEPT: (np.dtype(bool), (n,)), OWNER: (np.dtype(np.uint32), (n,))}
            columns |= {ERROR: (np.dtype(np.float64), (n,)), SCHEMA: (np.dtype(np.uint64), ())}
            if len(self._known) >= 256:
                self._known.clear()
            known = self._known[n, tails] = block_of(columns)[0]
        return known


def _following(owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each transition where the next one of its stream is, -1 for a stream's last ([n])."""
    order = np.argsort(owners, kind="stable")
    following = np.full(len(owners), -1)
    same = owners[order[1:]] == owners[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


def _differ(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which items ([m, ...]) are not the same bytes."""
    width = math.prod(a.shape[1:]) * a.itemsize
    if not width:
        return np.zeros(len(a), bool)
    one, other = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(-1, width) for x in (a, b))
    found: NDArray[np.bool_] = (one != other).any(axis=1)
    return found
