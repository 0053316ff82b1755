"""What a shard hands over to another one when it leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.buffer import ReplayBuffer
from replaybank.ray.wire import Packet, Transitions, Wire
from replaybank.views.transition import Transition

MOVED_AT_ONCE = 2**23  # bytes of transitions that leave a shard in one message

# Transitions on their way to another shard: packets, whose td_error are priorities, and of each whether it goes on with
# the stream of the one before.
Load = list[tuple[bool, Packet]]


class Unloaded(NamedTuple):
    """How far a shard has come that hands over what it holds.

    `last`: the first id of the last segment that was begun, and how many of its transitions were handed over. `moved`:
    how many this time. `more`: whether there are further ones.
    """

    last: tuple[int, int]
    moved: int
    more: bool


def unloaded(buffer: ReplayBuffer, wire: Wire, after: tuple[int, int], most: int) -> tuple[Load, Unloaded, int]:
    """Some of a buffer's transitions, segment by segment, from where `Unloaded.last` was on, and how many cannot go.

    At most `most`, and MOVED_AT_ONCE bytes. Those that cannot go are stacks of frames whose older frames have left.
    Nobody adds to the buffer meanwhile.
    """
    view = Transition()
    packets: Load = []
    most = min(most, max(1, MOVED_AT_ONCE // wire.step_nbytes))
    moved, unmovable, last = 0, 0, after
    for segment in buffer.segments():
        begin = int(segment.ids[0])
        if begin < after[0]:
            continue
        done = after[1] if begin == after[0] else 0
        movable = _movable(buffer, view, segment.ids)
        if done == 0:
            unmovable += len(segment.ids) - len(movable)
        while done < len(movable):
            if moved >= most:
                return packets, Unloaded(last, moved, True), unmovable
            part = movable[done : done + most - moved]
            packets.append((done > 0, _packed(buffer, wire, part, view)))
            moved, done = moved + len(part), done + len(part)
            last = begin, done
        last = begin, max(done, 1)
    return packets, Unloaded(last, moved, False), unmovable


def _movable(buffer: ReplayBuffer, view: Transition, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    with buffer._lock:
        assert buffer._rows is not None
        usable = view.usable(buffer._rows, ids)
    return ids if usable is None else ids[usable]


def _packed(buffer: ReplayBuffer, wire: Wire, part: NDArray[np.int64], view: Transition) -> Packet:
    schema, sampler = wire.schema, buffer.sampler
    batch = buffer.read(part, view)
    arrays = schema.arrays(schema.values({name: batch[name] for name in schema.fields}), len(part))
    with buffer._lock:
        priorities = sampler.priority_of(part) if hasattr(sampler, "priority_of") else np.full(len(part), np.nan)
    return wire.pack(Transitions(arrays, np.zeros(len(part), np.int64), priorities))
