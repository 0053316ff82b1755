"""Random programs over the public API of `replaybank.ReplayBuffer`, and what must hold after each of their calls.

A program is its seed: call i is drawn from (seed, i) and from what the buffer holds by then, so that a program with
some calls left out is a program, too. What is held after every call:

- only TypeError, ValueError and what the caller's own objects raise came out (others where `call` is told so);
- after an exception contents, links, counts, sampler and settings are as before; the generator too, but for `sample`;
- `check_valid()` holds, and a plain model (model.py) agrees on contents, links, counts and priorities.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import odd
from model import Model, plain

import parts
import replaybank as rb
from calls import FAILED, Calls, frozen
from transitions import Transitions, by_path, leaf_of

NAMES = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


class Program(Calls):
    """One program: `length` calls, which `step` makes."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        super().__init__(say)
        self.seed = seed
        r = Random(f"{seed}/make")
        self.length = r.choice((5, 20, 40, 60))
        self.capacity = r.choice((1, 2, 3, 5, 8, 13, 20, 33))
        self.streams = r.choice((1, 1, 1, 2, 3, 5))
        view, spec, self.stacked = parts.view(r), parts.spec(r), 0
        if r.random() < 0.2:
            k, axis = r.randint(1, 4), r.choice((0, -1))
            inner = r.choice((None, rb.NStep(2, 0.5)))
            view, spec = rb.FrameStack(k, axis, r.choice(("reset", "zero")), view=inner), parts.stacked_spec(r, k, axis)
            self.stacked = k
        schema = r.choice((spec, spec, rb.Schema.of(spec), None))
        sampler = parts.sampler(r)
        self.spec = rb.Schema.of(spec)
        self.describe("ReplayBuffer", self.capacity, schema, self.streams, sampler, view)
        self.buffer = rb.ReplayBuffer(self.capacity, schema, self.streams, sampler, view, seed)
        self.model = Model(self.capacity, self.streams)
        self.transitions = Transitions(self.streams, self.stacked)
        self.batch: Any = None
        self.raw_known = True

    def step(self, i: int) -> None:
        """Makes call i."""
        r = Random(f"{self.seed}/{i}")
        r.choices(CALLS, WEIGHTS)[0](self, r)
        self.check()

    def digest(self) -> dict[str, Any]:
        buffer, rows = self.buffer, self.buffer._rows
        held: Any = None
        if rows is not None:
            added, _, tails, free, older, free_older = rows._cursor.tolist()
            held = (
                rows._cursor.tobytes(), rows._newest.tobytes(), rows.data[: min(added, rows.capacity)].tobytes(),
                rows.tails[:tails].tobytes(), rows._free[:free].tobytes(), rows._onward[:tails].tobytes(),
                rows.older[:older].tobytes(), rows._free_older[:free_older].tobytes(),
            )  # fmt: skip
        sampler = frozen(buffer.sampler.state())
        settings = [repr(getattr(buffer.sampler, name, None)) for name in parts.SAMPLER_SETTINGS]
        settings += [repr(getattr(buffer.view, name, None)) for name in parts.VIEW_SETTINGS]
        counts = (buffer._sampled, buffer._updated, buffer._stale, buffer._cleared, id(buffer.sampler), id(buffer.view))
        generator = str(buffer._rng.bit_generator.state)
        return {
            "rows": held, "sampler": sampler, "settings": settings, "counts": counts, "generator": generator,
            "seed": id(buffer.seed),
        }  # fmt: skip

    # ---- adding ----

    def good(self, r: Random, lead: int, stream: int = 0) -> dict[str, Any]:
        return self.transitions.good(r, self.buffer.schema or self.spec, lead, stream)

    def add(self, r: Random) -> None:
        lead = -1 if self.streams == 1 and r.random() < 0.9 else self.streams
        given, honest = self.transitions.disturb(r, self.good(r, lead))
        mask = None
        if r.random() < 0.25:
            mask = np.array([r.random() < 0.7 for _ in range(self.streams)])
            if r.random() < 0.3:
                mask = odd.value(r)
        named = {} if mask is None else {"mask": mask}
        first = self.call(self.buffer.add, **given, **named, or_=self.memory(given))
        if first is FAILED:
            return
        chosen = range(self.streams) if mask is None else np.flatnonzero(np.asarray(mask)).tolist()
        self.took(first, given, honest, lead, [(stream, stream) for stream in chosen])

    def extend(self, r: Random) -> None:
        stream, n = r.randrange(self.streams), r.choice((0, 1, 2, 3, 5, self.capacity, 2 * self.capacity + 1))
        given, honest = self.transitions.disturb(r, self.good(r, n, stream))
        which: Any = r.choice((stream, np.int64(stream))) if r.random() < 0.95 else odd.value(r)
        first = self.call(self.buffer.extend, **{**given, "stream": which}, or_=self.memory(given))
        if first is not FAILED:
            n = len(np.asarray(given["terminated"])) if honest else self.buffer.stats()["added"] - first
            self.took(first, given, honest, n, [(int(which), i) for i in range(n)])

    def memory(self, given: dict[str, Any]) -> tuple[type[Exception], ...]:
        """The first transition decides on the size of a row, and rows that no machine holds are its own doing."""
        if self.buffer.schema is not None:
            return ()
        leaves = [leaf_of(value) for value in given.values()]
        sizes = [leaf.nbytes for leaf in leaves if isinstance(leaf, np.ndarray)]
        return (MemoryError,) if max(sizes, default=0) * self.capacity > 2**29 else ()

    def took(self, first: int, given: dict[str, Any], honest: bool, lead: int, owners: list[tuple[int, int]]) -> None:
        """Tells the model of what was added."""
        model, schema = self.model, self.buffer.schema
        if not owners and schema is None:
            return
        assert schema is not None
        assert first == model.counts["added"], f"the first id is {first}, not {model.counts['added']}"
        if not owners:
            return
        if honest:
            if self.streams == 1 and lead == -1 and np.ndim(given["terminated"]) == 1:
                lead = 1
            arrays = model.arrays(schema, given, lead)
        else:  # nobody knows what such objects hold: what was taken is asked for
            if self.stacked or len(owners) > self.capacity:
                self.forget(first + len(owners))
                return
            batch = self.buffer.read(np.arange(first, first + len(owners)), PLAIN)
            arrays = {leaf.name: by_path(batch, leaf.path) for leaf in schema.leaves}
            owners = [(stream, place) for place, (stream, _) in enumerate(owners)]
        model.add(arrays, owners)
        for stream, i in owners:
            self.transitions.last[stream] = {
                name[5:]: a[i] for name, a in arrays.items() if name.startswith("next_obs")
            }

    def forget(self, added: int) -> None:
        """Begins anew, where the model cannot follow."""
        self.buffer.clear()
        self.model.clear()
        self.model.counts.update(added=added, cleared=self.buffer.stats()["cleared"])

    def end(self, r: Random) -> None:
        mask = [r.random() < 0.5 for _ in range(self.streams)]
        given = r.choice((None, np.array(mask), mask)) if r.random() < 0.8 else odd.value(r)
        if self.call(self.buffer.end, given) is not FAILED:
            for stream in range(self.streams) if given is None else np.flatnonzero(np.asarray(given)):
                self.model.closed[stream] = self.buffer.schema is not None

    def clear(self, r: Random) -> None:
        self.call(self.buffer.clear)
        self.model.clear()

    # ---- drawing and reading ----

    def sample(self, r: Random) -> None:
        n = r.choice((1, 2, 5, 7, 32, len(self.model.live) or 1))
        if r.random() < 0.12:
            n = r.choice((odd.value(r), r.choice(odd.NUMBERS)(), 0, -1, 2**31 - 1, 10**8, True, np.int64(3)))
        huge = isinstance(n, int) and n > 2**24  # no machine of this test has room for that
        batch = self.call(self.buffer.sample, n, draws=True, or_=(MemoryError,) if huge else ())
        if batch is FAILED:
            return
        n = len(batch)
        self.model.counts["sampled"] += n
        self.batch = batch
        low, high = self.model.live[0].id, self.model.live[-1].id
        assert ((batch.indices >= low) & (batch.indices <= high)).all(), f"drew {batch.indices} of {low} to {high}"
        assert batch.indices.shape == batch.probabilities.shape == batch.weights.shape == (n,)
        assert ((batch.probabilities > 0) & (batch.probabilities <= 1 + 1e-9)).all(), batch.probabilities
        assert (batch.weights >= 0).all(), f"weights {batch.weights}"
        if self.buffer.sampler.distinct:
            assert len(np.unique(batch.indices)) == n, "drawn twice"
        self.check_windows(batch)

    def check_windows(self, batch: Any) -> None:
        """Holds a batch of transitions, or of n steps, against the model."""
        view = self.buffer.view
        n = {rb.Transition: 1, rb.NStep: getattr(view, "n", 0)}.get(type(view), 0)
        if not n or self.stacked or self.inexact():
            return
        windows = [self.model.window(id_, n) for id_ in batch.indices.tolist()]
        lasts, firsts = [window[-1] for window in windows], [window[0] for window in windows]
        for leaf in self.buffer.schema.leaves:
            name = leaf.name
            if name == "reward" and n > 1:
                continue
            steps = lasts if leaf.path[0] in ("next_obs", "terminated", "truncated") else firsts
            assert plain(by_path(batch, leaf.path)) == self.model.column(name, steps), f"{name} is another"
        off = [last.values["terminated"] == b"\x01" for last in lasts]
        factors = [0.0 if o else float(view.gamma) ** len(w) for o, w in zip(off, windows, strict=True)]
        np.testing.assert_allclose(batch.discount, factors, rtol=1e-6)

    def ids(self, r: Random) -> Any:
        """Ids, most of them live."""
        live, n = self.model.live, r.choice((0, 1, 2, 5, 40))
        if r.random() < 0.15 or not live:
            return odd.value(r)
        ids: Any = np.array([r.choice(live).id for _ in range(n)], np.int64)
        kind = r.random()
        if n and kind < 0.2:
            ids[r.randrange(n)] = r.choice((0, -1, live[0].id - 1, live[-1].id + 1, 2**63 - 1, -(2**63), 2**32))
        elif kind < 0.5:
            ids = r.choice((*odd.FORMS, lambda a: a.astype("u8"), lambda a: a.astype("i4")))(ids)
        return ids

    def read(self, r: Random) -> None:
        view = r.choice((None, parts.view(r), self.buffer.view)) if r.random() < 0.9 else odd.value(r)
        batch = self.call(self.buffer.read, self.ids(r), view, draws=True)
        if batch is not FAILED:
            self.batch = batch

    def walk(self, r: Random) -> None:
        ids, steps = self.ids(r), r.choice((1, 2, 5, 1000)) if r.random() < 0.9 else odd.value(r)
        forward = r.random() < 0.5
        huge = isinstance(steps, int) and steps > 2**24  # so large an array was asked for
        found = self.call(self.buffer.walk, ids, steps, forward, or_=(MemoryError,) if huge else ())
        if found is FAILED or self.inexact():
            return
        for id_, path, length in zip(np.asarray(ids).tolist(), *found, strict=True):
            if forward:
                assert path[:length].tolist() == [step.id for step in self.model.window(id_, path.size)]
            assert (path[length:] == path[length - 1]).all()

    def segments(self, r: Random) -> None:
        found = self.call(lambda: list(self.buffer.segments()))
        if not self.inexact():
            assert [segment.ids.tolist() for segment in found] == self.model.segments()
            for segment in found:
                first, last = self.model.step(int(segment.ids[0])), self.model.step(int(segment.ids[-1]))
                assert (segment.whole, segment.ended) == (first.first, last.ended)

    def field(self, r: Random) -> None:
        name = r.choice(("obs", "action", "reward", "extra", "terminated", "next_obs", "link_next", odd.value(r)))
        found = self.call(self.buffer.field, name)
        if found is not FAILED:
            window = leaf_of(found)
            assert not window.flags.writeable
            assert len(window) == min(self.capacity, self.model.counts["added"])

    def update(self, r: Random) -> None:
        batch, ids = self.batch, self.ids(r)
        if batch is not None and r.random() < 0.6:
            ids = batch.indices
        try:
            n = min(len(ids), 100)
        except Exception:
            n = 1
        errors: Any = np.array([r.choice((0.0, 0.5, -2.0, 1e-9, 3, 1e6)) for _ in range(n)], np.float64)
        kind = r.random()
        if kind < 0.3:
            errors = r.choice((*odd.FORMS, lambda a: a.astype("f4"), lambda a: np.clip(a, -9, 9).astype("f2")))(errors)
        elif kind < 0.4:
            errors = odd.value(r)
        elif kind < 0.5 and n:
            errors[r.randrange(n)] = r.choice((np.nan, np.inf, -np.inf, 1e308, -1.7e308, 5e-324))
        report = self.call(self.buffer.update_priorities, ids, errors)
        if report is FAILED:
            return
        assert report.updated + report.stale <= len(np.asarray(ids)) or type(self.buffer.view) is rb.Sequence
        self.model.counts["updated"] += report.updated
        self.model.counts["stale"] += report.stale
        liar = isinstance(errors, odd.Arrays) or isinstance(ids, odd.Arrays)
        self.raw_known &= type(self.buffer.view) is not rb.Sequence and not (liar and report.updated)
        sampler = self.buffer.sampler
        if not self.raw_known or type(sampler) is not rb.Prioritized:
            return
        for id_, error in zip(np.asarray(ids).tolist(), np.asarray(errors).tolist(), strict=True):
            if id_ in self.model.raw:
                self.model.raw[id_] = max(abs(error) + sampler.epsilon, sampler.min_priority)

    # ---- settings, copies, the rest ----

    def set_part(self, r: Random) -> None:
        kind = r.random()
        if kind < 0.35:
            sampler = parts.sampler(r) if r.random() < 0.8 else r.choice((self.buffer.sampler, odd.value(r)))
            if self.call(setattr, self.buffer, "sampler", sampler) is not FAILED:
                self.model.raw = {step.id: 1.0 for step in self.model.live}
                self.raw_known = True
        elif kind < 0.8:
            view = parts.view(r) if r.random() < 0.9 else odd.value(r)
            self.call(setattr, self.buffer, "view", view)
        else:
            seed = r.choice((0, 5, None, [1, 2], np.random.SeedSequence(3))) if r.random() < 0.6 else odd.small(r)
            self.call(setattr, self.buffer, "seed", seed)

    def set_setting(self, r: Random) -> None:
        name = r.choice((*parts.SAMPLER_SETTINGS, *parts.VIEW_SETTINGS))
        part = self.buffer.view if name in parts.VIEW_SETTINGS else self.buffer.sampler
        if not hasattr(type(part), name):
            return
        good: Any = r.choice((0.5, 1.0, 0, 1, 0.9, parts.schedule(r, 0.1, 1.0)))
        self.call(setattr, part, name, good if r.random() < 0.7 else odd.value(r), or_=(AttributeError,))

    def duplicate(self, r: Random) -> None:
        before = self.digest()
        how = r.choice((copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))))
        try:
            twin = how(self.buffer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # a function of the caller's own
            if "pickle" not in str(error) and "Can't get" not in str(error):
                raise
            return
        self.describe(f"the buffer is now {getattr(how, '__name__', 'pickled')} of itself")
        self.calls += 1
        twin.check_valid()
        self.buffer = twin
        after = self.digest()
        assert before["rows"] is None or before["rows"][:2] == after["rows"][:2], "a copy holds something else"
        assert before["sampler"] == after["sampler"], "the sampler of a copy is in another state"
        assert before["counts"][:4] == after["counts"][:4], "a copy has counted something else"
        assert before["generator"] == after["generator"], "the generator of a copy is in another state"

    def construct(self, r: Random) -> None:
        """Makes things that have no part in the rest."""
        a, b = odd.value(r), odd.value(r)
        spec = r.choice(odd.SPECS)()
        names: Any = {"obs": r.choice((spec, "f4")), "action": r.choice((spec, "i8")), r.choice(NAMES): spec}
        make = r.choice(
            (
                lambda: rb.ReplayBuffer(a),
                lambda: rb.ReplayBuffer(5, a),
                lambda: rb.ReplayBuffer(5, None, a),
                lambda: rb.ReplayBuffer(5, names, 2, a, b),
                lambda: rb.ReplayBuffer(5, seed=odd.small(r)),
                lambda: rb.ReplayBuffer(3, names),
                lambda: rb.Schema.of(a),
                lambda: rb.Schema.of(names),
                lambda: rb.Schema.of({**names, "extra": spec, r.choice(("x", "mask", "", 5)): "f4"}),
                lambda: rb.Schema.of({"obs": "f4", "action": "f4"}).with_fields(**{str(b): a}),
                lambda: rb.Schema.inferred({"obs": a, "action": b, "reward": 0.0}, r.choice((-1, 0, 3))),
                lambda: rb.schema_of(a),
                lambda: rb.schema_of((a, b)),
                lambda: parts.odd_sampler(r),
                lambda: parts.odd_view(r),
                lambda: rb.ReplayBuffer(4, names, view=parts.odd_view(r)),
                lambda: rb.ReplayBuffer(4, names, sampler=parts.odd_sampler(r)),
                lambda: rb.ReplayBuffer(4, names, view=parts.view(r), sampler=parts.sampler(r)),
            )
        )
        self.describe("construct with", a, b, names)
        # A capacity that no machine holds is the caller's to know.
        huge = (isinstance(spec, tuple) and spec == ("u1", (2**30,))) or (isinstance(a, int | np.integer) and a > 2**20)
        self.call(make, or_=(MemoryError,) if huge else ())

    def use_batch(self, r: Random) -> None:
        batch = self.batch
        if batch is None:
            return
        name = r.choice((*NAMES, "done", "nothing", "block", "indices", "__len__", odd.value(r)))
        self.call(lambda: batch[name], or_=(KeyError,))
        if isinstance(name, str):
            self.call(lambda: getattr(batch, name), or_=(AttributeError,))
        self.call(
            lambda: (repr(batch), len(batch), list(batch.keys()), dict(batch.items()), list(batch), name in batch)
        )
        twin = self.call(lambda: pickle.loads(pickle.dumps(batch)))
        assert all(np.array_equal(twin[key], batch[key], equal_nan=True) for key in DRAWN)
        if odd.torch is not None:
            dtype = r.choice((None, odd.torch.float64, odd.torch.float16)) if r.random() < 0.9 else odd.value(r)
            device = r.choice((None, "cpu")) if r.random() < 0.9 else odd.value(r)
            tensors = self.call(batch.to_torch, device, dtype, or_=(RuntimeError,))
            if tensors is not FAILED and str(device) != "meta":
                assert np.array_equal(tensors.indices.cpu().numpy(), batch.indices)

    def look(self, r: Random) -> None:
        self.call(lambda: (repr(self.buffer), repr(self.buffer.schema), hash(self.buffer.schema), self.buffer.nbytes))
        self.call(
            lambda: (self.buffer.sampler.nbytes, self.buffer.capacity, self.buffer.streams, repr(self.buffer.view))
        )

    # ---- what must be so ----

    def inexact(self) -> bool:
        """Whether links cannot be foretold: the bytes beside a long double's value, frames that have left."""
        schema = self.buffer.schema
        return schema is None or bool(self.stacked) or any(leaf.dtype.char in "gG" for leaf in schema.leaves)

    def check(self) -> None:
        buffer, model = self.buffer, self.model
        buffer.check_valid()
        stats = self.call(buffer.stats)
        if stats is FAILED:  # a schedule of the caller's own, which says how many transitions are drawn from
            return
        for name, count in model.stats().items():
            assert stats[name] == count, f"{name}: {stats[name]}, not {count}"
        assert len(buffer) == len(model.live)
        if not model.live:
            return
        if not self.inexact():
            assert stats["tails"] == model.tails(), f"tails: {stats['tails']}, not {model.tails()}"
        live = np.arange(model.live[0].id, model.live[-1].id + 1)
        usable = PLAIN.usable(buffer._rows, live)  # not those whose frames have left
        assert usable is None or usable.all() or model.counts["added"] > self.capacity, (
            "frames are missing, and none has left"
        )
        ids = live if usable is None else live[usable]
        batch, steps = buffer.read(ids, PLAIN), [model.step(id_) for id_ in ids.tolist()]
        for leaf in buffer.schema.leaves:
            held, told = plain(by_path(batch, leaf.path)), model.column(leaf.name, steps)
            assert held == told, f"{leaf.name} is not what was added"
        if self.raw_known and type(buffer.sampler) is rb.Prioritized:
            raw = buffer.sampler.priority_of(live)
            np.testing.assert_allclose(raw, [model.raw[id_] for id_ in live.tolist()], rtol=1e-6, err_msg="priorities")


DRAWN = ("indices", "probabilities", "weights", "discount")
PLAIN = rb.Transition()
WEIGHED: dict[Callable[[Program, Random], None], int] = {
    Program.add: 30,
    Program.extend: 12,
    Program.sample: 16,
    Program.update: 10,
    Program.read: 7,
    Program.construct: 8,
    Program.set_part: 5,
    Program.set_setting: 5,
    Program.walk: 3,
    Program.use_batch: 4,
    Program.end: 3,
    Program.segments: 2,
    Program.duplicate: 2,
    Program.field: 2,
    Program.look: 1,
    Program.clear: 1,
}
CALLS, WEIGHTS = list(WEIGHED), list(WEIGHED.values())
