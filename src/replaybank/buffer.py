"""The replay buffer: the only coordinator of rows, sampler and view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank import kernels
from replaybank.arguments import cores, ids_of, named, picked, readonly, whole_number
from replaybank.batch import Batch
from replaybank.convert import as_numeric
from replaybank.parts import as_part
from replaybank.prefetch import Batches, mover_for
from replaybank.rows import MAX_CAPACITY, Rows
from replaybank.samplers.base import Floats, Ids, Sampler
from replaybank.samplers.uniform import Uniform
from replaybank.schema import Schema
from replaybank.views.base import View
from replaybank.views.transition import Transition

MOST_THREADS = 4  # that read a batch if nothing else is said: memory is busy then
MOST_AHEAD = 1000  # batches that `batches` may prepare
# How often a batch is drawn anew where the view cannot use some ids, before `sample` gives up.
MOST_REDRAWS = 100


class PriorityReport(NamedTuple):
    """What `update_priorities` did: how many were set, and how many were skipped since they had been overwritten."""

    updated: int
    stale: int


class Segment(NamedTuple):
    """A run of transitions of one stream in which each `next_obs` is the following `obs`: their ids (int64 [T]).

    `whole`: its first step is still in the buffer. `ended`: its last one is terminated or truncated.
    """

    ids: NDArray[np.int64]
    whole: bool
    ended: bool


class ReplayBuffer:
    """The last `capacity` transitions, first in first out, over all streams.

    `schema`: a `Schema` (`rb.schema_of(env)`), a mapping as in `Schema.of`, or None: inferred from the first `add`.
    `streams`: how many environment copies one `add` brings a transition of; arrays then have that leading axis.
    `sampler` says which transitions are drawn, `view` what a draw means. `seed`: anything that
    `numpy.random.default_rng` takes; same seed and same calls, same batches. `threads`: batches of more than 2 MiB are
    read by up to so many at a time (None: 4, or fewer where the process has fewer cores); it changes no bit of them.

    What is added is copied; what is sampled is a copy: neither is touched afterwards. One buffer may be used from
    several threads: each call is one step, and so is setting something of its sampler. To pickle or copy it takes as
    much memory again: all of it is held still first, at one instant.

    Raises ValueError where capacity, streams or threads is out of range, TypeError where a part is not what it must be.
    """

    def __init__(
        self,
        capacity: int,
        schema: Schema | Mapping[str, Any] | None = None,
        streams: int = 1,
        sampler: Sampler | None = None,
        view: View | None = None,
        seed: Any = None,
        threads: int | None = None,
    ) -> None:
        self._capacity = whole_number("capacity", capacity, MAX_CAPACITY)
        self._streams = whole_number("streams", streams, MAX_CAPACITY)
        self._lock = kernels.Lock()
        self.view = Transition() if view is None else view
        self.seed = seed
        self._threads = min(cores(), MOST_THREADS) if threads is None else whole_number("threads", threads, 64)
        self._lead = -1 if self._streams == 1 else self._streams
        self._rows: Rows | None = None
        self._plain = False  # whether the arguments of `add` are the leaves, as they come
        self._sampled = self._updated = self._stale = self._cleared = 0
        if schema is not None:
            self._allocate(schema if isinstance(schema, Schema) else Schema.of(schema))
        self.sampler = Uniform() if sampler is None else sampler

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
                    return first
            values = named(obs, action, reward, next_obs, terminated, truncated, extras)
            if self._streams == 1:
                self._lead = 1 if as_numeric("terminated", terminated).shape == (1,) else -1
            owners = None if mask is None else np.flatnonzero(self._streams_in(mask))
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

        Raises as `add` does.
        """
        if not (isinstance(stream, int | np.integer) and 0 <= stream < self._streams):
            raise ValueError(f"stream: expected 0 to {self._streams - 1}, given {stream!r}")
        shape = as_numeric("terminated", terminated).shape
        if len(shape) != 1:
            raise ValueError(f"terminated: expected shape (n,), given {shape}; `add` takes single transitions")
        with self._lock:
            values = named(obs, action, reward, next_obs, terminated, truncated, extras)
            return self._append(values, shape[0], np.full(shape, stream, np.int64))

    def end(self, mask: Any = None) -> None:
        """What these streams (bool [streams]; None: all) add next begins a new segment, whatever it looks like.

        For a reset in the middle of an episode, whose observation may happen to equal the one that was to come next.
        """
        streams = np.arange(self._streams) if mask is None else np.flatnonzero(self._streams_in(mask))
        with self._lock:
            if self._rows is not None:
                self._rows.end(streams)

    def _streams_in(self, mask: Any) -> NDArray[np.bool_]:
        chosen = as_numeric("mask", mask)
        if chosen.dtype != bool or chosen.shape != (self._streams,):
            given = f"{chosen.dtype} of shape {chosen.shape}"
            raise ValueError(f"mask: expected bool of shape ({self._streams},), one a stream, given {given}")
        return chosen

    def _append(self, values: dict[str, Any], lead: int, owners: NDArray[np.int64] | None, masked: bool = False) -> int:
        """Appends what is plainly of the fields' dtypes and shapes at once, and the rest once it is converted.

        `masked`: there are values for each stream, of which only those of `owners` count; the others may be anything.
        """
        rows = self._rows
        schema = Schema.inferred(values, lead) if rows is None else rows.schema
        leaves = schema.values(values)
        n = max(lead, 1) if owners is None else len(owners)
        first = -1 if rows is None or n == 0 else rows.append(tuple(leaves), lead, owners, masked)
        if first < 0:
            if masked:
                leaves, lead = picked(schema, leaves, self._streams, lead, owners), n
            arrays = schema.arrays(leaves, lead)
            if n == 0:
                return 0 if rows is None else rows.added
            if rows is None:
                rows = self._allocate(schema)
            first = rows.append(arrays, lead, owners)
            assert first >= 0, "converted arrays are what the kernel takes"
        self._sampler.added(first, n)
        return first

    def _allocate(self, schema: Schema) -> Rows:
        self._rows = Rows(schema, self._capacity, self._streams, self._view.stack(schema), self._threads)
        self._plain = schema.flat and not schema.extras
        return self._rows

    # ---- sampling ----

    def sample(self, n: int) -> Batch:
        """`n` transitions, as the sampler draws and the view reads them.

        Raises ValueError where n < 1, the buffer is empty, or the sampler has fewer to give.
        """
        if type(n) is not int or not 0 < n <= MAX_CAPACITY:
            n = whole_number("sample: n", n, MAX_CAPACITY)
        with self._lock:
            return self._sample(n)

    def _sample(self, n: int) -> Batch:
        rows = self._rows
        if rows is None or rows.empty:
            raise ValueError(f"sample: asked for {n} transitions, but the buffer is empty; add some first")
        ids, probabilities = self._draw(rows, n)
        batch = self._view.read(rows, ids, self._rng)
        batch.draw(ids, probabilities, self._sampler.weights(probabilities))
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
        n = whole_number("batches: n", n, MAX_CAPACITY)
        ahead = whole_number("batches: prefetch", prefetch, MOST_AHEAD, least=0)
        return Batches(self._lock, partial(self._sample, n), mover_for(device, pin), ahead)

    def read(self, indices: ArrayLike, view: View | None = None) -> Batch:
        """What the buffer's view, or another one, makes of these transitions (ids, [n]), in this order.

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
        """The ids `[n, steps + 1]` along the segment of each id ([n]), itself first; at its end the last is repeated.

        The second array `[n]` counts the distinct ones: 1 … steps + 1. Raises ValueError where an id is not in the
        buffer.
        """
        ids = ids_of(indices)
        with self._lock:
            return self._live(ids).walk(ids, whole_number("walk: steps", steps, MAX_CAPACITY), forward)

    def segments(self) -> Iterator[Segment]:
        """The segments in the buffer as it is now, in the order of their first transitions."""
        with self._lock:
            rows = self._rows
            if rows is None:
                return iter(())
            runs = rows.segments()
            heads = [ids[0] % self._capacity for ids in runs]
            lasts = [ids[-1] % self._capacity for ids in runs]
            whole = (rows.data["link_step"][heads] == 0).tolist()
            ended = (rows.data["terminated"][lasts] | rows.data["truncated"][lasts]).tolist()
        return map(Segment, runs, whole, ended)

    def field(self, name: str) -> Any:
        """A stored field by slot (id % capacity): a read-only window on the rows, [size, ...], nested as the field is.

        Not a copy: it changes as the buffer does. `next_obs` is not stored in rows. Raises ValueError for another name.
        """
        with self._lock:
            rows = self._rows
            stored = tuple(rows.schema.stored) if rows is not None else ()
            if rows is None or name not in stored:
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
        ids = ids_of(indices)
        errors = as_numeric("td_error", td_error)
        if errors.dtype.kind == "c":
            raise TypeError(f"td_error: expected real numbers, given {errors.dtype}")
        errors = np.asarray(errors, np.float64, order="C")
        if errors.shape != ids.shape:
            raise ValueError(f"td_error: expected one an index, shape {ids.shape}, given {errors.shape}")
        with self._lock:
            rows = self._rows
            oldest, added = (rows.oldest, rows.added) if rows is not None else (0, 0)
            live = kernels.count_live(ids, oldest, added)
            if live < 0:
                wrong = ids[-1 - live]
                raise ValueError(f"indices: {wrong} was never given out; ids so far are 0 to {added - 1}")
            priorities = self._sampler.priorities(errors)
            members = self._view.members(rows, ids) if rows is not None else None
            if members is None:
                updated = self._sampler.update(ids, priorities)
            else:
                updated = min(self._sampler.update(members[0], priorities[members[1]]), live)
            report = PriorityReport(updated, len(ids) - live)
            self._updated += report.updated
            self._stale += report.stale
            return report

    # ---- the rest ----

    def __len__(self) -> int:
        """How many transitions it holds."""
        with self._lock:
            return len(self._rows) if self._rows is not None else 0

    @property
    def capacity(self) -> int:
        """The most transitions it holds, over all streams."""
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
        """Bytes of memory that hold transitions and what the sampler knows of them."""
        with self._lock:
            return self._nbytes()

    def _nbytes(self) -> int:
        return (self._rows.nbytes if self._rows is not None else 0) + self._sampler.nbytes

    @property
    def sampler(self) -> Sampler:
        """What decides which transitions are drawn. Another one starts with what is here, all of it new to it.

        Raises TypeError where it is no sampler, ValueError where it belongs to a buffer already.
        """
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        as_part("sampler", sampler, Sampler, "Uniform()")
        with self._lock:
            sampler.attach(self._capacity, self._lock)
            rows = self._rows
            if rows is not None and rows.oldest > 0:
                sampler.added(0, rows.oldest)
                sampler.cleared()
            if rows is not None and not rows.empty:
                sampler.added(rows.oldest, len(rows))
            self._sampler = sampler

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
        rng = np.random.default_rng(seed)
        with self._lock:
            self._rng, self._seed = rng, seed

    def stats(self) -> dict[str, int]:
        """Counts: size, capacity, streams; added, overwritten, sampled, updated, stale (ever); tails, nbytes (now).

        `tails` are observations that are held beside the rows: those at ends, at the newest step of each open stream,
        and of transitions that continue nothing.
        """
        with self._lock:
            rows = self._rows
            added, size = (rows.added, len(rows)) if rows is not None else (0, 0)
            return {
                "size": size,
                "capacity": self._capacity,
                "streams": self._streams,
                "added": added,
                "overwritten": added - size - self._cleared,
                "cleared": self._cleared,
                "sampled": self._sampled,
                "updated": self._updated,
                "stale": self._stale,
                "tails": rows.tails_in_use if rows is not None else 0,
                "nbytes": self._nbytes(),
            }

    def clear(self) -> None:
        """Forgets all transitions and closes all streams. Ids go on, so old indices stay recognisable as stale."""
        with self._lock:
            if self._rows is not None:
                self._cleared += len(self._rows)
                self._rows.clear()
                self._sampler.cleared()

    def __getstate__(self) -> dict[str, Any]:
        """All of one instant. But the sampler stays the one that others may hold; `_instant` tells it what it was."""
        with self._lock:
            rows, view = deepcopy((self._rows, self._view))
            instant = deepcopy((self._sampler.state(), self._rng.bit_generator.state))
            return {**self.__dict__, "_rows": rows, "_view": view, "_instant": instant}

    def __setstate__(self, state: dict[str, Any]) -> None:
        sampler, generator = state.pop("_instant")
        self.__dict__.update(state)
        self._sampler.restore(sampler)
        self._rng.bit_generator.state = generator

    def check_valid(self) -> None:
        """Raises AssertionError where a part contradicts itself or another. For tests: looks at everything."""
        with self._lock:
            self._sampler.check_valid()
            if self._rows is not None:
                self._rows.check_valid()

    def __repr__(self) -> str:
        parts = f"{type(self._sampler).__name__}, {type(self._view).__name__}"
        return f"ReplayBuffer({len(self)} of {self._capacity} transitions, {self._streams} streams, {parts})"
