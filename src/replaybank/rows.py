"""Rows, tails, links and streams: where transitions live."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaybank import kernels
from replaybank.budget import Costs
from replaybank.layout import LINKS, STACK_LINKS, append_plan, offset_in, record_of
from replaybank.pool import Pool, give_back
from replaybank.schema import Leaf, Schema
from replaybank.stacking import Stacking
from replaybank.storage import InMemory, Memory, Storage

if TYPE_CHECKING:
    from replaybank.held import Held

# Links are 32-bit distances in ids.
MAX_CAPACITY = 2**31 - 1
NONE = 2**32 - 1  # no tail, no frames put aside
LAST_STEP = 2**32 - 1  # after so many steps a new segment begins
# Where a copy of `read` comes from (native/rows.hpp, Source).
FIRST, LAST, NEXT_OBS, DISCOUNT = 0, 1, 2, 3
# Where a copy of `read_stacks` comes from (native/stacks.hpp, Stack).
STACK, NEXT_STACK, BOTH_STACKS = 0, 1, 2
# What a column of `sequences` holds (native/sequences.hpp, Part).
STEPS, CHAIN, AHEAD, START, VALID, IS_FIRST, MASK, DISCOUNTS = range(8)
# Where another process leaves transitions: its file, where in it the messages begin, and what this side remembers.
Channel = tuple[NDArray[np.uint8], int, NDArray[np.int64]]


class Rows:
    """Every observation once: a ring of records, and a pool of the observations that no record holds.

    Why this layout: a random transition is one or two cache misses, not one per field; and sharing the observation
    between neighbours is what the records *are*, not a cache beside them that could be wrong (docs/architecture.md).

    `data` holds `capacity` records: the schema's fields and four links, each a 32-bit distance in ids or an index:
    to the next row of the stream (0: none), to the previous one (0: none, and none either where that row has left),
    to the tail (NONE: none), and how many steps the segment took before (up to LAST_STEP). A live row has either a next
    row or a tail: that is its next observation.

    `stack`: observations are stacks of frames, of which rows and tails hold the newest. The older frames are those of
    the rows before; where they are not (and no padding either), `older` holds them, for the row's observation or its
    next one.

    `threads`: large batches are read by up to so many at a time.

    Where a segment ended and its stream went on, the tail of its last row knows the distance to the stream's next row.
    """

    def __init__(
        self,
        schema: Schema,
        capacity: int,
        streams: int,
        stack: Stacking | None = None,
        storage: Storage | None = None,
        threads: int = 1,
    ) -> None:
        self.schema = schema
        self.capacity = capacity
        self.streams = streams
        self.stack = stack
        self.dtype = record_of(schema, stack)
        self.storage = storage
        self.threads = threads
        self._memory: Memory = InMemory() if storage is None else storage
        array = self._memory.array
        self.data: NDArray[Any] = array("rows", capacity, self.dtype, capacity)
        # By tail: the distance to the stream's next row, 0 for none.
        self._onward: NDArray[np.uint32] = array("onward", capacity, np.dtype(np.uint32), 0)
        self._newest = np.full(streams, -1, np.int64)  # -1: none; -2 - id: that one, and then a segment begins
        self._cursor = np.zeros(6, np.int64)  # added, start, tails used and free, older used and free
        self._plan = append_plan(schema, self.dtype, stack)
        offsets = [offset_in(self.dtype, (name,)) for name in (*LINKS, "terminated", "truncated")]
        frames, zero, older = 1, False, [-1, -1]
        if stack is not None:
            frames, zero, older = stack.frames, stack.zero, [offset_in(self.dtype, (name,)) for name in STACK_LINKS]
        sizes = [self.dtype["obs"].itemsize, frames, zero, *older]
        self._geometry = np.array([capacity, self.dtype.itemsize, *offsets, *sizes], np.int64)
        self.costs = Costs.of(self.dtype, frames, streams)
        frame = self.dtype["obs"]
        self._tails = Pool("tails", self._memory, frame, (), self._cursor[2:4])
        self._tails.reserve(capacity, 0)
        self._aside = Pool("older", self._memory, frame, (frames - 1,), self._cursor[4:6])
        # Each is told, before rows leave, below which id they do: a checkpoint that is being written keeps them first.
        self.guards: tuple[Callable[[int], None], ...] = ()
        if storage is not None:
            self.guards = (storage.guard(self._cursor, capacity),)
        self._given_back = 0  # the memory of rows with smaller ids is the system's again
        self._gather_store()

    def _gather_store(self) -> None:
        """What the kernels work on (native/bindings/store.hpp, as_store)."""
        self.tails, self._free = self._tails.records, self._tails.free
        self.older, self._free_older = self._aside.records, self._aside.free
        pools = (self.data, self.tails, self.older, self._free, self._free_older, self._onward)
        self._store = (*pools, self._newest, self._cursor, self._geometry)

    def _make_room(self, n: int) -> None:
        """Room for the older frames of `n` more stacks. It grows: few ever need any, and it is more than the tails."""
        used, free = self._aside.counts.tolist()
        most = 2 * self.capacity  # two stacks a row
        if min(used - free + n, most) > len(self.older):
            self._keep_aside(min(2 * used + n, most))

    def _keep_aside(self, most: int) -> None:
        """Room for the older frames of `most` stacks."""
        self._aside.reserve(most, most)
        self._gather_store()

    @property
    def added(self) -> int:
        """Transitions ever added: the id the next one gets."""
        return self._cursor.item(0)

    @property
    def start(self) -> int:
        """Transitions with smaller ids were dropped: cleared, or to keep to a budget."""
        return self._cursor.item(1)

    @property
    def newest(self) -> NDArray[np.int64]:
        """By stream the id of its newest transition; -2 - id where a segment begins next, -1 where there is none."""
        return self._newest

    @property
    def onward(self) -> NDArray[np.uint32]:
        """By tail the distance from the row that holds it, at a segment's end, to the stream's next one; 0 for none."""
        return self._onward

    @property
    def oldest(self) -> int:
        """The id of the oldest live transition; equal to `added` where there is none."""
        start, within = self._cursor.item(1), self._cursor.item(0) - self.capacity
        return start if start > within else within

    @property
    def empty(self) -> bool:
        """Whether there is no live transition."""
        return self._cursor.item(0) == self._cursor.item(1)

    def __len__(self) -> int:
        added, start, *_ = self._cursor.tolist()
        return min(added - start, self.capacity)

    @property
    def used(self) -> list[int]:
        """Places of the pools that were ever used: of tails, and of frames put aside."""
        return [self._tails.used, self._aside.used]

    @property
    def plan(self) -> NDArray[np.int64]:
        """What the kernels need to know of each leaf that is added."""
        return self._plan

    @property
    def tails_in_use(self) -> int:
        """Observations that are held beside the rows."""
        return self._tails.taken

    @property
    def nbytes(self) -> int:
        """Bytes held: rows and tails that were ever used and not given back, and the links' bookkeeping."""
        return self.nbytes_after(0)

    def nbytes_after(self, n: int) -> int:
        """The most bytes it can hold once `n` more transitions are added: where they share nothing."""
        added, _, tails, free_tails, older, free_older = self._cursor.tolist()
        rows: int = min(added + n - self._given_back, self.capacity)
        tails += max(n - free_tails, 0) * (n > 0)
        older += max(2 * n - free_older, 0) * (n > 0)
        costs = self.costs
        return rows * costs.row + tails * costs.tail + older * costs.aside + costs.streams

    @property
    def nbytes_aside(self) -> int:
        """Bytes of the frames of stacks that no rows hold."""
        return int(self._cursor[4] - self._cursor[5]) * self.costs.aside

    @property
    def next_costs(self) -> int:
        """The most bytes that one more transition costs: no row once all are in use."""
        return self.costs.beside + (self.costs.row if self.added - self._given_back < self.capacity else 0)

    def mark_drawn(self, bits: NDArray[np.uint8], seen: NDArray[np.int64], ids: NDArray[np.int64]) -> int:
        """Sets the bits of live ids by slot, once those of what has left are cleared; gives `added`.

        `seen` (int64 [2]): the oldest id when this was last called, and how many bits are set.
        """
        return kernels.mark_drawn(self._cursor, self.capacity, bits, seen, ids)

    def append(
        self,
        values: tuple[Any, ...],
        lead: int,
        owners: NDArray[np.int64] | None = None,
        item_a_stream: bool = False,
    ) -> int:
        """Appends one transition a stream, or one for each of `owners` (streams); gives the first one's id.

        `item_a_stream`: the values have an item for each stream, of which those of `owners` are taken.

        `values` are in the order of `schema.leaves`, with a leading axis of `lead` (-1: none, one transition). Gives
        -1, and changes nothing, where a value is not plainly of its leaf's dtype and shape; `Schema.arrays` mends it.
        """
        if self.guards:
            self._warn(self.added + (max(lead, 1) if owners is None else len(owners)) - self.capacity)
        if self.stack is not None:
            self._make_room(2 * max(lead, 1))
            split = self.stack.split_values(self.schema, values, lead)
            if split is None:
                return -1
            values = split
        return kernels.append(self._store, self._plan, values, lead, owners, item_a_stream)

    def drain(self, channel: Channel, streams: NDArray[np.int64], most: int, largest: int) -> int:
        """Appends whole messages that wait in a channel (shared/ring.py), up to `most` transitions but one message.

        `streams` ([k]): what the writer's streams 0 … k - 1 are called here. `largest`: transitions that a message can
        hold. Gives how many transitions there were, -1 where the channel is damaged.
        """
        self._warn(self.added + max(most, largest) - self.capacity)
        if self.stack is not None:
            self._make_room(2 * max(most, largest))
        return kernels.channel_drain(self._store, self._plan, channel, streams, most)

    def read(
        self,
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        plan: NDArray[np.int64],
        factors: NDArray[np.float32],
        out: NDArray[Any],
    ) -> None:
        """Copies fields of the windows from `first` to `last` (ids [n]) into `out`, as `plan` says.

        A plan has a row for each copy: source (FIRST, LAST, NEXT_OBS or DISCOUNT), offset in it, bytes of one item,
        offset in out. DISCOUNT writes the window's factor (`factors`: [n], or [1] for all), 0 where `last` terminated.
        """
        kernels.read(self._store, first, last, plan, factors, out, self.threads)

    def read_stacks(
        self,
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        stack: Stacking,
        plan: NDArray[np.int64],
        out: NDArray[Any],
    ) -> bool:
        """Copies the stacks of the windows from `first` to `last` (ids [n]) into `out`, as `plan` says.

        A plan has a row for each copy: source (STACK: obs, NEXT_STACK: next_obs, BOTH_STACKS: one more frame than obs,
        where each window is one step), offset in a frame's record, bytes of a frame, offset in out. Gives False, with
        nothing of use written, where BOTH_STACKS is asked for and some next_obs does not begin with the end of its obs.
        """
        return kernels.read_stacks(self._store, first, last, stack.frames, stack.zero, plan, out, self.threads)

    def stacks_complete(self, ids: NDArray[np.int64], stack: Stacking) -> NDArray[np.bool_] | None:
        """Which ids (live, [n]) have all frames of their stacks here: bool [n]; None where all do."""
        if self.oldest == 0:
            return None  # nothing has ever left
        complete = np.empty(len(ids), bool)
        kernels.stacks_complete(self._store, ids, stack.frames, complete)
        return complete

    def walk(
        self, ids: NDArray[np.int64], steps: int, forward: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids `[n, steps + 1]` along the stream of each id, itself first; at a segment's end the last is repeated.

        The second array `[n]` counts the distinct ones: 1 … steps + 1.
        """
        path = np.empty((len(ids), steps + 1), np.int64)
        lengths = np.empty(len(ids), np.int64)
        kernels.walk(self._store, ids, steps, forward, path, lengths)
        return path, lengths

    def steps_before(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many steps the segment of each live id ([n]) took before it, whether those are still here or not."""
        return self.data["link_step"][ids % self.capacity].astype(np.int64)

    def follow(
        self, ids: NDArray[np.int64], steps: NDArray[np.int64], forward: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The id up to `steps` ([n]) on along the segment of each id ([n]), and how many steps that took."""
        to, taken = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
        kernels.follow(self._store, ids, steps, forward, to, taken)
        return to, taken

    def sequences(
        self,
        starts: NDArray[np.int64],
        length: int,
        burn_in: int,
        across: bool,
        gamma: float,
        plan: NDArray[np.int64],
        out: NDArray[Any],
    ) -> None:
        """Copies the `length` steps from each of `starts` (ids [n]) on into `out`, as `plan` says; zeros where is none.

        A plan has a row for each column: part, offset in the record, bytes of one step, offset in out. Parts: STEPS (a
        stored field), CHAIN (observations and the one after the last step, length + 1), AHEAD (next observations),
        START (of the first step only), VALID, IS_FIRST (of a segment), MASK (valid, from step `burn_in` on), DISCOUNTS
        (gamma, 0 after termination). `across`: where a segment ends, the stream's next one follows.
        """
        kernels.sequences(self._store, starts, length, burn_in, across, gamma, plan, out, self.threads)

    def returns(
        self, leaf: Leaf, path: NDArray[np.int64], lengths: NDArray[np.int64], gamma: float
    ) -> NDArray[np.float64]:
        """Sums of gamma**k * x_k of a leaf of floats over the first `lengths` ids of each path: [n, *leaf.shape]."""
        totals = np.empty((len(lengths), *leaf.shape))
        kernels.returns(self._store, path, lengths, gamma, self.offset_of(leaf), leaf.dtype.num, totals)
        return totals

    def end(self, streams: NDArray[np.int64]) -> None:
        """What these streams add next begins a new segment."""
        newest = self._newest[streams]
        self._newest[streams] = np.where(newest < 0, newest, -2 - newest)

    def drop(self, oldest: int) -> None:
        """The rows before `oldest` (0 … added) leave, as if newer ones had taken their places; ids go on.

        Whole pages of memory that held them go back to the system. Those of tails do once all rows have left: until
        then newer rows use them.
        """
        self._warn(oldest)
        kernels.drop(self._store, oldest)
        self._give_back_rows()
        if self.empty:
            give_back(self._onward, 0, self._tails.used)
            self._tails.clear()
            self._aside.clear()

    @property
    def idle_bytes(self) -> int:
        """Bytes of places in the pools that hold nothing now."""
        return int(self._cursor[3]) * self.costs.tail + int(self._cursor[5]) * self.costs.aside

    def compact(self) -> None:
        """Moves what is in the pools together, and gives the memory behind it back. Costs a pass over the rows."""
        tails, older = self.used
        kernels.compact(self._store)
        give_back(self.tails, self._tails.used, tails)
        give_back(self._onward, self._tails.used, tails)
        give_back(self.older, self._aside.used, older)

    def _give_back_rows(self) -> None:
        """Gives the memory of the rows that have left back, up to a page."""
        size, oldest = self.dtype.itemsize, self.oldest
        first = max(self._given_back, self.added - self.capacity)
        while first < oldest:
            slot = first % self.capacity
            end = min(slot + oldest - first, self.capacity)
            given = give_back(self.data, slot, end) // size - slot
            self._given_back = first + (end - slot if given and end == self.capacity else max(given, 0))
            first += end - slot

    def clear(self) -> None:
        """Forgets all transitions and closes all streams; ids go on."""
        self.drop(self.added)
        self._newest[:] = -1

    def _warn(self, leaving: int) -> None:
        """Rows with ids below `leaving` are about to leave."""
        for guard in self.guards:
            guard(leaving)

    def open_ids(self) -> NDArray[np.int64]:
        """The live rows that are the newest of their streams, in order: what they hold may still move on."""
        latest = np.where(self._newest < -1, -2 - self._newest, self._newest)
        return np.sort(latest[latest >= self.oldest])

    def hold(self, held: Held) -> None:
        """Takes up what live rows hold beside themselves; `settle` does the rest. Raises ValueError if it cannot."""
        for ids in (held.tail_ids, held.older_ids, held.next_older_ids):
            if len(ids) and not (self.oldest <= ids.min() and ids.max() < self.added):
                raise ValueError("something is held by a transition that is not there")
        places = self._tails.take(len(held.tail_ids))
        if self.storage is not None:
            self._warn(self.added - self.capacity)  # so that there is space on the disk
        self.tails[places] = held.tails
        self._onward[places] = held.onward
        self.data["link_tail"][held.tail_ids % self.capacity] = places
        for link, ids, older in zip(STACK_LINKS, held[3::2], held[4::2], strict=True):
            if len(ids):
                self._make_room(len(ids))
                places = self._aside.take(len(ids))
                self.older[places] = older
                self.data[link][ids % self.capacity] = places

    def begin(self, added: int, start: int) -> None:
        """For rows that nobody has added to: ids go on from `added`, live ones from `start`.

        Records come by `data`, what they hold beside by `hold`; `settle` makes the rest.
        """
        self._cursor[:2] = (added, start)
        self._given_back = self.oldest

    def reopen(self, used: int, used_older: int, still_open: NDArray[np.int64]) -> None:
        """For rows in a storage, after `begin`: so many places of the pools were in use when what is live was saved.

        What rows that were `still_open` (ids) held may have moved on since: that is to come by `hold`. Raises
        ValueError where the places contradict each other.
        """
        slots = np.arange(self.oldest, self.added) % self.capacity
        opened = still_open[still_open >= self.oldest] % self.capacity
        pools = [(self._tails, used, ["link_tail"], ["link_tail"])]
        if self.stack is not None:
            if used_older > 0:
                self._keep_aside(min(used_older, 2 * self.capacity))
            pools.append((self._aside, used_older, list(STACK_LINKS), [STACK_LINKS[1]]))
        for pool, end, links, moving in pools:
            for link in moving:
                self.data[link][opened] = NONE
            places = np.concatenate([self.data[link][slots] for link in links])
            pool.reopen(end, places[places != NONE])

    def settle(self, newest: NDArray[np.int64]) -> None:
        """Links the records that were put into `data`, and opens the streams whose newest rows ([streams]) are given.

        Raises ValueError where something contradicts: the rows are then of no use.
        """
        self._newest[:] = newest
        if (wrong := kernels.relink(self._store)) >= 0:
            raise ValueError(f"transition {wrong} contradicts the others")

    def offset_of(self, leaf: Leaf) -> int:
        """Where a stored leaf lies in a row; a leaf of `next_obs` lies where that of `obs` does."""
        return offset_in(self.dtype, ("obs", *leaf.path[1:]) if leaf.path[0] == "next_obs" else leaf.path)

    def __getstate__(self) -> dict[str, Any]:
        begin, end = self.oldest % self.capacity, self.oldest % self.capacity + len(self)
        if end > self.capacity:  # live rows wrap around
            begin, end = 0, self.capacity
        return {
            "parts": (self.schema, self.capacity, self.streams, self.stack, None, self.threads),
            "begin": begin,
            "data": self.data[begin:end],
            "tails": self.tails[: self._cursor[2]],
            "free": self._free[: self._cursor[3]],
            "onward": self._onward[: self._cursor[2]],
            "older": self.older[: self._cursor[4]],
            "free_older": self._free_older[: self._cursor[5]],
            "newest": self._newest,
            "cursor": self._cursor,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["parts"])  # type: ignore[misc]
        if self.stack is not None:
            self._keep_aside(len(state["older"]))
        targets = {"data": self.data[state["begin"] :], "tails": self.tails, "free": self._free}
        targets |= {"onward": self._onward, "older": self.older, "free_older": self._free_older}
        for name, target in targets.items():
            target[: len(state[name])] = state[name]
        self._newest[:] = state["newest"]
        self._cursor[:] = state["cursor"]
        self._given_back = self.added - max(len(self), len(state["data"]))
        self._give_back_rows()

    def check_valid(self) -> None:
        """Raises AssertionError where links, tails and streams do not fit together. For tests: looks at every row."""
        added, oldest = self.added, self.oldest
        ids = np.arange(oldest, added)
        rows = self.data[ids % self.capacity]
        following, previous, tail, step = (rows[link].astype(np.int64) for link in LINKS)
        has_tail = tail != NONE
        assert (has_tail == (following == 0)).all(), "a row has a next row or a tail, never both, never none"
        assert (ids + following < added).all(), "a link leads beyond the newest row"
        ended = rows["terminated"] | rows["truncated"]
        assert (following[ended] == 0).all(), "a segment goes on after its end"
        linked = np.flatnonzero(following)
        assert (previous[linked + following[linked]] == following[linked]).all(), "links do not lead back"
        back = previous[ids - previous >= oldest]
        assert (following[(ids - previous)[ids - previous >= oldest] - oldest][back > 0] == back[back > 0]).all()
        assert (step[linked + following[linked]] == step[linked] + 1).all(), "a step is not counted"
        assert ((step == 0) == (previous == 0)).all(), "a segment starts with a step before it"
        self._tails.check_valid(tail[has_tail])
        onward = np.where(has_tail, self._onward[np.where(has_tail, tail, 0)], 0)
        reached = (ids + onward)[onward > 0]
        assert (reached < added).all(), "a stream goes on beyond the newest row"
        assert (step[reached - oldest] == 0).all(), "a stream goes on in the middle of a segment"
        assert len(np.unique(reached)) == len(reached), "two segments go on in the same one"
        if self.stack is not None:
            aside = np.concatenate([rows[link] for link in STACK_LINKS]).astype(np.int64)
            assert (rows["link_next_older"][following > 0] == NONE).all(), "the next row's frames are kept twice"
            self._aside.check_valid(aside[aside != NONE])
        assert (self._newest < added).all()
        for newest in self.open_ids():
            assert following[newest - oldest] == onward[newest - oldest] == 0, (
                "the newest row of a stream has a next one"
            )
