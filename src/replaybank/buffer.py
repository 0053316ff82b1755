"""The replay buffer: the only coordinator of rows, sampler and view."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank import checkpoint, kernels, restore
from replaybank.arguments import chosen, cores, ids_of, named, picked, priorities_of, readonly, run_of, whole_number
from replaybank.batch import Batch
from replaybank.budget import Budget, Costs
from replaybank.convert import as_numeric
from replaybank.files import compressor, fields_of
from replaybank.generator import generator, generator_state
from replaybank.layout import record_of
from replaybank.manifest import refusing
from replaybank.memory import machine_bytes, reserving, warn_beyond
from replaybank.parts import as_part
from replaybank.plain import SAMPLERS, VIEWS, described, kind_of
from replaybank.prefetch import Batches, mover_for
from replaybank.rows import MAX_CAPACITY, Rows
from replaybank.samplers.base import Floats, Ids, Sampler
from replaybank.samplers.state import count
from replaybank.samplers.uniform import Uniform
from replaybank.saving import Saving
from replaybank.schema import Schema
from replaybank.segments import Segment, segments_of
from replaybank.storage import Storage, require_free
from replaybank.usage import Usage
from replaybank.views.base import View
from replaybank.views.transition import Transition

if TYPE_CHECKING:
    from replaybank.inspection.page import Page

MOST_THREADS = 4  # that read a batch if nothing else is said: memory is busy then
MOST_AHEAD = 1000  # batches that `batches` may prepare
# How often a batch is drawn anew where the view cannot use some ids, before `sample` gives up.
MOST_REDRAWS = 100
# What is counted over a buffer's life.
COUNTS = ("sampled", "updated", "stale", "cleared")
ALWAYS = 2**63 - 1
# Of a `sample`: a batch is at most 2 GiB, of which each transition takes 26 bytes even where its fields are empty.
MOST_DRAWN = 2**31 // 26


class PriorityReport(NamedTuple):
    """What `update_priorities` did: how many ids were `updated`, and how many skipped as `stale`: overwritten since."""

    updated: int
    stale: int


class ReplayBuffer:
    """The last `capacity` transitions, first in first out, over all streams.

    `schema`: a `Schema` (`rb.schema_of(env)`), a mapping as in `Schema.of`, or None: inferred from the first `add`.
    `streams`: how many environment copies one `add` brings a transition of; arrays then have that leading axis.
    `max_bytes` takes the place of `capacity`: `nbytes` never exceeds it after any call, and the capacity is what fits
    where all observations are shared. Where ends of episodes, jumps or reset streams cost more, the oldest transitions
    leave early, a sixty-fourth of the capacity at a time; `stats` counts them as overwritten. Without a schema the
    capacity is 0 until the first `add`.

    `storage`: a folder in which files hold the transitions, mapped into memory: for buffers larger than it. The folder
    must be new. `save()` makes it a checkpoint, in the time it takes to write what changed; `load` opens it again, also
    after a crash: as it was at the last `save`, but for the oldest transitions if newer ones had taken their places.

    `sampler` says which transitions are drawn, `view` what a draw means. `seed`: anything that
    `numpy.random.default_rng` takes; same seed and same calls, same batches. `threads`: batches of more than 2 MiB are
    read by up to so many at a time (None: 4, or fewer where the process has fewer cores); it changes no bit of them.

    What is added is copied; what is sampled is a copy: neither is touched afterwards. One buffer may be used from
    several threads: each call is one step, and so is setting something of its sampler. Functions that it calls (a
    schedule, `reward_fn`) cannot call it in turn: that is a RuntimeError. To pickle or copy it takes as much memory
    again: all of it is held still first, at one instant.

    `notes`: a dict of the user's own (numbers, texts, lists, arrays, dicts by text), which a checkpoint keeps, too.

    Warns (RuntimeWarning, once) where it will need more memory than the machine, or its control group, has.

    Raises ValueError where capacity, max_bytes, streams or threads is out of range, not exactly one of capacity and
    max_bytes is given, or max_bytes is too little for one transition a stream (without a schema: at the first `add`);
    TypeError where a part is not what it must be; MemoryError where memory cannot be reserved.
    """

    def __init__(
        self,
        capacity: int | None = None,
        schema: Schema | Mapping[str, Any] | None = None,
        streams: int = 1,
        sampler: Sampler | None = None,
        view: View | None = None,
        seed: Any = None,
        max_bytes: int | None = None,
        storage: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if (capacity is None) == (max_bytes is None):
            raise ValueError(
                f"expected one of capacity and max_bytes, given capacity={capacity}, max_bytes={max_bytes}"
            )
        self._capacity = 0 if capacity is None else whole_number("capacity", capacity, MAX_CAPACITY)
        self._max_bytes = None if max_bytes is None else whole_number("max_bytes", max_bytes, ALWAYS)
        self._streams = whole_number("streams", streams, MAX_CAPACITY)
        self._storage = None if storage is None else Path(storage).absolute()
        if self._storage is not None:
            if max_bytes is not None:
                raise ValueError("expected one of storage and max_bytes, given both: a storage is not in memory")
            require_free(self._storage)
        self.notes: dict[str, Any] = {}
        self._lock = kernels.Lock()
        self.view = Transition() if view is None else view
        self.seed = seed
        self._threads = min(cores(), MOST_THREADS) if threads is None else whole_number("threads", threads, 64)
        self._saving = kernels.Lock()  # saves come one after another
        self._saves: dict[str, str] = {}  # by folder the last save's token
        self._lead = -1 if self._streams == 1 else self._streams
        self._rows: Rows | None = None
        self._usage: Usage  # is there as soon as the rows are
        self._budget: Budget | None = None
        self._plain = False  # whether the arguments of `add` are the leaves, as they come
        self._last_sure = ALWAYS  # an `add` after that of this id may need others to leave first
        self._sampled = self._updated = self._stale = self._cleared = 0
        self._sampler: Sampler = Uniform() if sampler is None else as_part("sampler", sampler, Sampler, "Uniform()")
        if schema is not None:
            self._allocate(schema if isinstance(schema, Schema) else Schema.of(schema))
        if capacity is not None:
            self._attach(self._sampler)

    # ---- adding ----

    def add(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any,
        *,
        mask: Any = None,
        **extras: Any,
    ) -> int:
        """Adds one transition a stream, in stream order; gives the id of the first.

        `obs`, `action`, `reward` and `extras` (further fields by name) have the shapes and dtypes of the schema, or
        those that its dtypes hold without loss; `reward` is finite, `terminated` and `truncated` are bool.
        Arrays are [streams, ...], with one stream without the leading axis (a leading axis of 1 on every field, as a
        vector environment of one copy gives, is understood). `next_obs` is what the step returned: at an end the final
        observation, not that of the reset. `terminated` stops bootstrapping; either flag ends the segment.

        `mask` (bool [streams]): only these streams add a transition; the arrays are as long as ever.

        Raises TypeError or ValueError, and changes nothing, where a field is missing or unknown, has another shape, or
        would lose values in the field's dtype, and where the reward is not finite.
        """
        with self._lock:
            if self._plain and mask is None and not extras:
                assert self._rows is not None
                first = self._rows.append((obs, action, reward, next_obs, terminated, truncated), self._lead)
                if first >= 0:
                    self._sampler.added(first, self._streams)
                    if first > self._last_sure:
                        self._plain = False
                    return first
            values = named(obs, action, reward, next_obs, terminated, truncated, extras)
            if self._streams == 1:
                self._lead = 1 if as_numeric("terminated", terminated).shape == (1,) else -1
            owners = None if mask is None else chosen(mask, self._streams)
            return self._append(values, self._lead, owners, masked=mask is not None)

    def extend(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any,
        *,
        stream: int = 0,
        **extras: Any,
    ) -> int:
        """Adds n transitions of one stream, in order: arrays [n, ...]; gives the id of the first.

        `stream`: 0 … streams - 1. All else, and what it raises, as `add` has it; ValueError for no such stream.
        """
        n = run_of(stream, self._streams, terminated)
        if n > MAX_CAPACITY:
            raise ValueError(f"extend: expected at most {MAX_CAPACITY} transitions, given {n}")
        with self._lock:
            values = named(obs, action, reward, next_obs, terminated, truncated, extras)
            return self._append(values, n, np.full(n, stream, np.int64))

    def end(self, mask: Any = None) -> None:
        """What the streams in `mask` (bool [streams]; None: all) add next begins a new segment, whatever it looks like.

        For a reset in the middle of an episode, whose observation may happen to equal the one that was to come next.
        """
        streams = chosen(mask, self._streams)
        with self._lock:
            if self._rows is not None:
                self._rows.end(streams)

    def _append(self, values: dict[str, Any], lead: int, owners: NDArray[np.int64] | None, masked: bool = False) -> int:
        """Appends what is plainly of the fields' dtypes and shapes at once, and the rest once it is converted.

        `masked`: there are values for each stream, of which only those of `owners` count; the others may be anything.
        """
        rows = self._rows
        schema = Schema.inferred(values, lead) if rows is None else rows.schema
        leaves = schema.values(values)
        n = max(lead, 1) if owners is None else len(owners)
        fits = n > 0 and (self._budget is None or self._budget.fits(n))
        first = rows.append(tuple(leaves), lead, owners, masked) if rows is not None and fits else -1
        if first < 0:
            if masked:
                leaves, lead = picked(schema, leaves, self._streams, lead, owners), n
            arrays = schema.arrays(leaves, lead)
            if n == 0:
                return 0 if rows is None else rows.added
            if rows is None:
                rows = self._allocate(schema)
            if self._budget is not None and not self._budget.fits(n):
                first = self._budget.append(arrays, lead, owners)
                self._look_ahead()
                return first
            first = rows.append(arrays, lead, owners)
            assert first >= 0, "converted arrays are what the kernel takes"
        self._sampler.added(first, n)
        if self._budget is not None:
            self._look_ahead()
        return first

    def _ingest(self, take: Callable[[Rows], object]) -> int:
        """Has `take` append to the rows, as one step; gives how many transitions came. For `replaybank.shared`."""
        with self._lock:
            rows = self._rows
            assert rows is not None, "the learner has asked for a schema"
            first = rows.added
            try:
                take(rows)
            finally:
                if rows.added > first:
                    self._sampler.added(first, rows.added - first)
            return rows.added - first

    def _allocate(self, schema: Schema) -> Rows:
        """Makes the rows. Changes nothing where that fails."""
        stack = self._view.stack(schema)
        record = record_of(schema, stack)
        costs = Costs.of(record, 1 if stack is None else stack.frames, self._streams)
        capacity = self._capacity
        if self._max_bytes is not None:
            capacity = costs.capacity(self._max_bytes, self._streams, MAX_CAPACITY, self._bytes_beside)
        needed = costs.least(capacity, self._streams) + self._bytes_beside(capacity)
        if self._storage is None:
            warn_beyond(needed, machine_bytes())
        with reserving(needed, f"a buffer of {capacity} transitions"):
            storage = None if self._storage is None else Storage(self._storage)
            rows, usage = Rows(schema, capacity, self._streams, stack, storage, self._threads), Usage(capacity)
            if self._max_bytes is not None:
                self._sampler.attach(capacity, self._lock)
        self._rows, self._usage, self._capacity = rows, usage, capacity
        self._budget = self._budget_of(rows, self._sampler)
        self._look_ahead()
        return rows

    def _budget_of(self, rows: Rows, sampler: Sampler) -> Budget | None:
        """What keeps these in `max_bytes`, where it was given. Raises ValueError where they leave no room."""
        if self._max_bytes is None:
            return None
        return Budget(self._max_bytes, rows, sampler, Usage.bytes_for(rows.capacity))

    def _bytes_beside(self, capacity: int) -> int:
        """The most bytes of what is no row, tail or frame."""
        return self._sampler.bytes_for(capacity) + Usage.bytes_for(capacity)

    def _look_ahead(self) -> None:
        """Finds out whether `add` may take the short way, and until when it need not ask whether there is room."""
        rows = self._rows
        if rows is not None:
            sure = ALWAYS if self._budget is None else self._budget.sure()
            self._last_sure = sure - 2 * self._streams
            self._plain = rows.schema.flat and not rows.schema.extras and rows.added + self._streams <= sure

    # ---- sampling ----

    def sample(self, n: int) -> Batch:
        """`n` transitions, as the sampler draws and the view reads them.

        Raises ValueError where n < 1, the buffer is empty, the sampler has fewer to give, or the batch would be larger
        than 2 GiB.
        """
        if type(n) is not int or not 0 < n <= MOST_DRAWN:
            n = whole_number("sample: n", n, MOST_DRAWN)
        with self._lock:
            return self._sample(n)

    def _sample(self, n: int) -> Batch:
        rows = self._rows
        if rows is None or rows.empty:
            raise ValueError(f"sample: asked for {n} transitions, but the buffer is empty; add some first")
        try:
            ids, probabilities = self._draw(rows, n)
            batch = self._view.read(rows, ids, self._rng)
            weights = self._sampler.weights(probabilities)
        except BaseException:
            self._sampler.failed()
            raise
        batch.draw(ids, probabilities, weights)
        self._usage.sampled(ids, rows)
        self._sampled += n
        return batch

    def batches(self, n: int, device: Any = None, prefetch: int = 2, pin: bool = True) -> Batches:
        """`sample(n)` for ever; a thread prepares the next `prefetch` batches while you work with this one.

        `device`: where tensors go (a `torch.device` or its name), in the background; to CUDA from pinned memory
        (`pin`) on a stream of their own. None: NumPy batches. `prefetch=0`: no thread, the batches of a loop of
        `sample(n)`.

        What is drawn depends on the seed and the order of calls alone, not on timing: the first `next` draws its batch
        and the `prefetch` after it, and each further one the batch that is handed out `prefetch` times later, before
        anything that is called after it. So a batch is that old when it is seen: additions and priorities of the calls
        since are not in it, and by the time it is updated some of its ids may have been overwritten (`stale`).

        What a draw or a move raises comes from the `next` that would have handed that batch out, and ends the iterator.
        Settings of the view are read when a batch is drawn: close the iterator before you change them.

        Raises TypeError or ValueError where n or prefetch is no such number, ImportError where PyTorch is missing.
        """
        n = whole_number("batches: n", n, MOST_DRAWN)
        ahead = whole_number("batches: prefetch", prefetch, MOST_AHEAD, least=0)
        return Batches(self._lock, partial(self._sample, n), mover_for(device, pin), ahead)

    def read(self, indices: ArrayLike, view: View | None = None) -> Batch:
        """What the buffer's view, or another one, makes of the transitions `indices` (ids, [n]), in this order.

        Nothing is drawn: probabilities and weights are ones. Raises ValueError where an id is not in the buffer, or
        means nothing to the view.
        """
        ids = ids_of(indices)
        view = self._view if view is None else as_part("view", view, View, "Transition()")
        with self._lock:
            rows = self._live(ids)
            usable = view.usable(rows, ids)
            if usable is not None and not usable.all():
                raise ValueError(f"indices: the view {view!r} cannot use {ids[~usable][0]}: what it needs has left")
            batch = view.read(rows, ids, self._rng)
            batch.draw(ids, np.ones(len(ids)), np.ones(len(ids), np.float32))
            return batch

    def walk(self, indices: ArrayLike, steps: int, forward: bool = True) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids `[n, steps + 1]` from each of `indices` (ids, [n]) on along its segment, itself first.

        Towards newer ones, or with `forward=False` towards older ones; at the segment's end the last is repeated.

        The second array `[n]` counts the distinct ones: 1 … steps + 1. `steps` is at most the capacity: no path is
        longer. Raises ValueError where it is more, or an id is not in the buffer.
        """
        ids = ids_of(indices)
        with self._lock:
            return self._live(ids).walk(ids, whole_number("walk: steps", steps, self._capacity), forward)

    def segments(self) -> Iterator[Segment]:
        """The segments in the buffer as it is now, in the order of their first transitions."""
        with self._lock:
            return iter(()) if self._rows is None else segments_of(self._rows)

    def field(self, name: str) -> Any:
        """A stored field by slot (id % capacity): a read-only window on the rows, [size, ...], nested as the field is.

        Not a copy: it changes as the buffer does. `next_obs` is not stored in rows. Raises ValueError for another name.
        """
        with self._lock:
            rows = self._rows
            stored = tuple(rows.schema.stored) if rows is not None else ()
            if rows is None or not isinstance(name, str) or name not in stored:
                raise ValueError(f"field: expected one of {', '.join(stored)}, given {name!r}")
            records = rows.data[: min(rows.added, rows.capacity)]
            return readonly(records[name], rows.schema.fields[name])

    def _live(self, ids: Ids) -> Rows:
        """The rows, all of which `ids` must be in."""
        rows = self._rows
        oldest, added = (rows.oldest, rows.added) if rows is not None else (0, 0)
        outside = (ids < oldest) | (ids >= added)
        if rows is None or outside.any():
            wrong = ids[outside][0] if len(ids) else "none"
            raise ValueError(f"indices: {wrong} is not in the buffer, which holds ids {oldest} to {added - 1}")
        return rows

    def _draw(self, rows: Rows, n: int) -> tuple[Ids, Floats]:
        ids, probabilities = self._sampler.draw(n, self._rng)
        usable = self._view.usable(rows, ids)
        if usable is None:
            return ids, probabilities
        for _ in range(MOST_REDRAWS):
            missing = np.flatnonzero(~usable)
            if not missing.size:
                return ids, probabilities
            drawn, shares = self._sampler.draw(missing.size, self._rng)
            found = self._view.usable(rows, drawn)
            fresh = ~np.isin(drawn, ids[usable]) if self._sampler.distinct else np.ones(missing.size, bool)
            ids[missing], probabilities[missing] = drawn, shares
            usable[missing] = fresh if found is None else fresh & found
        raise ValueError(
            f"sample: the view {self._view!r} could use too few of the transitions in {MOST_REDRAWS} draws"
        )

    def update_priorities(self, indices: ArrayLike, td_error: ArrayLike) -> PriorityReport:
        """Sets the priorities of `indices` (ids, [n]) to |td_error| ([n]) + epsilon.

        Ids that have been overwritten since are skipped and counted. Where the sampler knows no priorities, nothing is
        set. Raises ValueError or TypeError, and changes nothing, where ids were never given out, lengths differ, or a
        TD error is not finite.
        """
        ids, errors = priorities_of(indices, td_error)
        with self._lock:
            rows = self._rows
            oldest, added = (rows.oldest, rows.added) if rows is not None else (0, 0)
            live = kernels.count_live(ids, oldest, added)
            if live < 0:
                wrong = ids[-1 - live]
                raise ValueError(f"indices: {wrong} was never given out; ids so far are 0 to {added - 1}")
            if rows is None:  # so there are no ids
                return PriorityReport(0, 0)
            priorities = self._sampler.priorities(errors)
            members = self._view.members(rows, ids)
            if members is None:
                updated = self._sampler.update(ids, priorities)
            else:
                updated = min(self._sampler.update(members[0], priorities[members[1]]), live)
            stale = len(ids) - live
            self._updated += updated
            self._stale += stale
            return PriorityReport(updated, stale)

    # ---- the rest ----

    def __len__(self) -> int:
        """How many transitions it holds."""
        with self._lock:
            return len(self._rows) if self._rows is not None else 0

    @property
    def capacity(self) -> int:
        """The most transitions it holds, over all streams. With `max_bytes`, 0 as long as the schema is not known."""
        return self._capacity

    @property
    def streams(self) -> int:
        """How many transitions one `add` brings."""
        return self._streams

    @property
    def schema(self) -> Schema | None:
        """What a transition is made of; None before the first `add` where it was not given."""
        return self._rows.schema if self._rows is not None else None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that transitions, what the sampler knows of them, and `stats` take.

        What was touched and not given back to the system counts, whether it holds anything now or not; what is only
        reserved does not, but for the arrays of a sampler. What was cleared or left early was given back, up to pages.
        """
        with self._lock:
            return self._nbytes()

    def _nbytes(self) -> int:
        return (self._rows.nbytes + self._usage.nbytes if self._rows is not None else 0) + self._sampler.nbytes

    @property
    def max_bytes(self) -> int | None:
        """The most that `nbytes` ever is; None where `capacity` was given."""
        return self._max_bytes

    @property
    def sampler(self) -> Sampler:
        """What decides which transitions are drawn. Another one starts with what is here, all of it new to it.

        Raises TypeError where it is no sampler, ValueError where it belongs to a buffer already, or where `max_bytes`
        is too little for what it needs.
        """
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        as_part("sampler", sampler, Sampler, "Uniform()")
        with self._lock:
            rows = self._rows
            budget = None if rows is None else self._budget_of(rows, sampler)
            if self._capacity:
                self._attach(sampler)
            self._introduce(sampler)
            self._sampler, self._budget = sampler, budget
            if budget is not None:
                budget.make_room(0)
                self._look_ahead()

    def _attach(self, sampler: Sampler) -> None:
        with reserving(sampler.bytes_for(self._capacity), f"{sampler!r} for {self._capacity} transitions"):
            sampler.attach(self._capacity, self._lock)

    def _introduce(self, sampler: Sampler) -> None:
        """Tells a sampler of what is here, all of it new to it."""
        rows = self._rows
        if rows is not None and rows.oldest > 0:
            sampler.added(0, rows.oldest)
            sampler.dropped(rows.oldest)
        if rows is not None and not rows.empty:
            sampler.added(rows.oldest, len(rows))

    @property
    def view(self) -> View:
        """What decides what an id means. Another one reads the rows as the first one had them made.

        Raises TypeError where it is no view.
        """
        return self._view

    @view.setter
    def view(self, view: View) -> None:
        part = as_part("view", view, View, "Transition()")
        with self._lock:
            self._view: View = part

    @property
    def seed(self) -> Any:
        """What the generator was made from. Setting it starts the generator anew."""
        return self._seed

    @seed.setter
    def seed(self, seed: Any) -> None:
        # Of a matrix each item is a matrix, in which NumPy looks for numbers until the stack ends.
        rng = np.random.default_rng(np.asarray(seed) if isinstance(seed, np.ndarray) else seed)
        with self._lock:
            self._rng, self._seed = rng, seed

    def stats(self) -> dict[str, Any]:
        """Counts: size, capacity, streams; added, overwritten, sampled, updated, stale (ever); tails, nbytes (now).

        `tails` are observations that are held beside the rows: those at ends, at the newest step of each open stream,
        and of transitions that continue nothing.

        Of the oldest transition: `age_added`, how many came in after it; `age_samples`, how many calls of `sample`
        there were since (gradient steps, where each makes one: Fedus et al. 2020 call that its age); `age_seconds`, by
        the system's clock. The last two are never too small, and too large by at most a 256th of a full buffer, and
        what came before a first `sample`. `effective_size`: 1 / sum of P(i)^2, from 1 to size (Kish 1965).
        `never_sampled`: the share, from 0 to 1, of what is in the buffer that no `sample` has drawn. `calls`: of
        `sample`, ever. `effective_size` may cost a pass over the priorities; nothing else depends on the size.
        """
        with self._lock:
            rows = self._rows
            added, oldest = (rows.added, rows.oldest) if rows is not None else (0, 0)
            size, usage = added - oldest, self._usage if rows is not None else Usage(0)
            samples, seconds = usage.age(oldest) if size else (0, 0.0)
            return {
                "size": size,
                "capacity": self._capacity,
                "streams": self._streams,
                "added": added,
                "overwritten": added - size - self._cleared,
                "cleared": self._cleared,
                "sampled": self._sampled,
                "calls": usage.calls,
                "updated": self._updated,
                "stale": self._stale,
                "tails": rows.tails_in_use if rows is not None else 0,
                "nbytes": self._nbytes(),
                "age_added": max(size - 1, 0),
                "age_samples": samples,
                "age_seconds": seconds,
                "effective_size": self._sampler.effective_size() if size else 0.0,
                "never_sampled": usage.never_sampled(rows) if rows is not None else 0.0,
            }

    def plot(self, top: int = 10) -> Page:
        """What is in the buffer: a page of tables and interactive plots. A notebook shows it; `.save(path)` writes it.

        Fields, streams, episodes, ages, draws, and the `top` transitions by priority; `.inspection` has the figures.
        The buffer stands still while it is looked at: about a second for a million small transitions. Raises
        ImportError where plotly is missing.
        """
        from replaybank.inspection import inspect
        from replaybank.inspection.page import Page

        return Page(inspect(self, top))

    def clear(self) -> None:
        """Forgets all transitions and closes all streams. Ids go on, so old indices stay recognisable as stale."""
        with self._lock:
            if self._rows is not None:
                self._cleared += len(self._rows)
                self._rows.clear()
                self._sampler.dropped(self._rows.added)
                self._look_ahead()

    # ---- on disk ----

    def save(
        self, path: str | os.PathLike[str] | None = None, background: bool = False, compression: str | None = None
    ) -> Saving | None:
        """Saves everything to a folder: `load` gives a buffer that goes on as if nothing had happened.

        `path` may be left out where the buffer has a `storage`: then only what is not there already is written.

        Until all of it is on the disk (fsync), the folder holds what it held before: what breaks off midway changes
        nothing. A later save to the same path writes what was added since, and the priorities. The files are .npz and
        JSON; nothing is pickled. It takes at most 64 MiB of memory, and an observation a stream.

        Other threads may add and sample meanwhile: what is saved is the buffer at one instant, which takes as long as
        copying the sampler's state (8 bytes a transition). `background=True` returns a `Saving` at once: `.result()`
        waits, and raises what went wrong. Saves of one buffer come one after another.

        `compression`: None or "zstd" (needs the package zstandard), of the transitions.

        Raises OSError where the disk does, BlockingIOError where another buffer is being saved there, ValueError for an
        unknown compression.
        """
        if path is None and self._storage is None:
            raise TypeError("save: expected a path; only a buffer with a storage knows its own")
        folder = Path(path).absolute() if path is not None else self._storage
        assert folder is not None
        compressor(compression)

        def work() -> None:
            with self._saving:
                last = self._saves.get(str(folder))
                self._saves[str(folder)] = checkpoint.save(folder, self._lock, self._contents, last, compression)

        if background:
            return Saving(work, f"save to {folder}").start()
        work()
        return None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        sampler: Sampler | None = None,
        view: View | None = None,
        salvage: bool = False,
    ) -> Self:
        """The buffer that was saved to the folder `path`: its next batches are those of the one that never stopped.

        Sampler and view come back with their settings. What holds functions (a schedule of one's own, `Hindsight`) or
        is not of this library must be given: `sampler`, `view`. A sampler of the kind that was saved takes up its
        state; one of another kind begins with what is there, all of it new to it.

        Everything is checked: checksums, sizes before memory is taken, and that the links between transitions make
        sense. `salvage=True` takes what is whole of a damaged checkpoint, and warns of what is lost (RuntimeWarning);
        where anything is lost, sampler, streams and random numbers begin anew.

        Raises FileNotFoundError where there is no checkpoint, `CheckpointError` (a ValueError) that says what is
        damaged or not known, TypeError where a sampler or view must be given.
        """
        folder = Path(path).absolute()
        found = restore.salvage(folder) if salvage else restore.load(folder)
        values = found.values
        capacity, streams, max_bytes = restore.sizes(values)
        sampler = restore.part("sampler", values, SAMPLERS) if sampler is None else sampler
        view = restore.part("view", values, VIEWS) if view is None else view
        buffer = cls(capacity, None, streams, sampler, view, max_bytes=None if capacity else max_bytes)
        buffer._max_bytes = max_bytes
        with refusing():
            buffer._resume(found)
        if found.token is not None:
            buffer._saves[str(folder)] = found.token
        if found.damage:
            told = f"salvaged {len(buffer)} transitions from {folder}, lost {found.lost}: {'; '.join(found.damage)}"
            warnings.warn(told, RuntimeWarning, stacklevel=2)
        return buffer

    def _resume(self, found: checkpoint.Contents) -> None:
        """Goes on where a checkpoint was made. Raises ValueError where that is not possible."""
        values, rows = found.values, found.rows
        lead, counts, self._seed = fields_of(values, "values", lead=int, counts=dict, seed=(int, NoneType))
        if lead != self._streams and (lead, self._streams) != (-1, 1):
            raise ValueError(f"lead: expected {self._streams}, found {lead}")
        self._lead = lead
        for name in COUNTS:
            setattr(self, f"_{name}", count(counts, name))
        (self.notes,) = fields_of({"notes": {}, **values}, "values", notes=dict)  # 0.1's first checkpoints had none
        if rows is not None:
            self._rows, self._usage = rows, Usage(rows.capacity)
            self._storage = None if rows.storage is None else rows.storage.folder
            rows.threads = self._threads
            if self._max_bytes is not None:
                fits = rows.costs.capacity(self._max_bytes, rows.streams, rows.capacity, self._bytes_beside)
                if fits < rows.capacity:
                    raise ValueError(f"max_bytes: {self._max_bytes} are for {fits} transitions, found {rows.capacity}")
            self._budget = self._budget_of(rows, self._sampler)
            self._look_ahead()
        if found.damage:
            self.seed = self._seed
            self._introduce(self._sampler)
            return
        self._rng = generator(values["generator"])
        if rows is not None:
            self._usage.restore(values["usage"], rows.oldest, rows.added)
        if kind_of(described(self._sampler)) == kind_of(values["sampler"]):
            restore.require_agreement(values["sampler_state"], rows.added if rows is not None else 0, found.start)
            self._sampler.restore(values["sampler_state"])
            if rows is not None and rows.start > found.start:  # they have left a storage since
                self._sampler.dropped(rows.start)
        else:
            self._introduce(self._sampler)
            return  # another sampler may take more
        if self._max_bytes is not None and self.nbytes > self._max_bytes:
            raise ValueError(f"max_bytes: {self._max_bytes} are too little for {self.nbytes}")

    def _contents(self) -> checkpoint.Contents:
        """What a checkpoint keeps. Under the lock."""
        if self._rows is not None:
            self._sampler.added(self._rows.added, 0)  # an interrupt may have kept it from it
        values = {
            "capacity": self._capacity,
            "max_bytes": self._max_bytes,
            "streams": self._streams,
            "lead": self._lead,
            "counts": {name: getattr(self, f"_{name}") for name in COUNTS},
            "seed": self._seed if type(self._seed) in (int, NoneType) else None,
            "notes": self.notes,
            "generator": generator_state(self._rng),
            "sampler": described(self._sampler),
            "sampler_state": self._sampler.state(),
            "view": described(self._view),
            "usage": self._usage.state() if self._rows is not None else None,
        }
        return checkpoint.Contents(self._rows, values)

    def __copy__(self) -> Self:
        """A buffer of its own, as `copy.deepcopy` gives: a sampler belongs to one buffer."""
        return deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """All of one instant. But the sampler stays the one that others may hold; `_instant` tells it what it was."""
        with self._lock:
            # A copy is in memory, and no folder is its own.
            state = {**self.__dict__, "_budget": None, "_storage": None, "_saves": {}}
            for name in ("_rows", "_view", "_usage"):
                if name in state:
                    state[name] = deepcopy(state[name])
            state["_instant"] = deepcopy((self._sampler.state() if self._capacity else None, self._rng))
            return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        sampler, self._rng = state.pop("_instant")
        self.__dict__.update({name: value for name, value in state.items() if name != "_rng"})
        if sampler is not None:
            self._sampler.restore(sampler)
        if self._rows is not None:
            self._budget = self._budget_of(self._rows, self._sampler)

    def check_valid(self) -> None:
        """Raises AssertionError where a part contradicts itself or another. For tests: looks at everything."""
        with self._lock:
            if self._capacity:
                self._sampler.check_valid()
            if self._rows is not None:
                self._rows.check_valid()
                self._usage.check_valid()
            assert self._max_bytes is None or self._nbytes() <= self._max_bytes, "it holds more than it may"

    def __repr__(self) -> str:
        streams = f"{self._streams} stream{'s' * (self._streams > 1)}"
        parts = f"{self._sampler!r}, {self._view!r}"
        return f"ReplayBuffer({len(self)} of {self._capacity} transitions, {streams}, {parts})"
