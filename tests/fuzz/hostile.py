"""Random programs on buffers whose sampler or view is the caller's own and gives nonsense.

What such a part does to itself is its own affair, and what it raises passes through. But no memory is read or written
that is not the buffer's, the rows stay as they were, and with parts that work again all is well.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import odd

import parts
import replaybank as rb
from calls import Calls

# What somebody makes of the arrays that a part gives.
SPOILED: tuple[Callable[[Random, np.ndarray], Any], ...] = (
    lambda r, a: a[:-1],
    lambda r, a: a[:0],
    lambda r, a: np.concatenate([a, a]),
    lambda r, a: a.reshape(-1, 1),
    lambda r, a: a.reshape(1, -1),
    lambda r, a: a.astype(r.choice(("f4", "f8", "i4", "u8", ">i8", "?", "O", "D"))),
    lambda r, a: a.tolist(),
    lambda r, a: np.repeat(a, 2)[::2],
    lambda r, a: a[::-1],
    lambda r, a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1),
    lambda r, a: a.view(odd.Subclass),
    lambda r, a: a + r.choice((1, 5, 1000, 2**31, 2**62)),
    lambda r, a: a - r.choice((1, 5, 1000, 2**31, 2**62)),
    lambda r, a: a * 0 + r.choice((-1, 2**31, 2**62, 0)),
    lambda r, a: None,
    lambda r, a: odd.small(r),
    lambda r, a: odd.boom(),
)


class Spoils:
    """Stands before a part, and now and then spoils what one of its verbs gives."""

    def __init__(self, part: Any, r: Random, share: float) -> None:
        self.__dict__.update(_part=part, _r=r, _share=share)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._part, name)
        if name not in ("draw", "usable", "members", "weights", "priorities", "update", "probability_of"):
            return found
        return lambda *given: self._spoiled(found(*given))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._part, name, value)

    def _spoiled(self, found: Any) -> Any:
        r = self._r
        if r.random() >= self._share:
            return found
        if isinstance(found, tuple):
            place = r.randrange(len(found))
            return (*found[:place], self._spoil(found[place]), *found[place + 1 :])
        return self._spoil(found)

    def _spoil(self, found: Any) -> Any:
        array = found if isinstance(found, np.ndarray) and found.ndim else np.arange(3)
        return self._r.choice(SPOILED)(self._r, array)


class Program(Calls):
    """One program: `length` calls, which `step` makes."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        super().__init__(say)
        self.seed, self.length = seed, 30
        r = Random(f"{seed}/make")
        self.capacity = r.choice((1, 3, 8, 20))
        sampler, view = parts.sampler(r), parts.view(r)
        if r.random() < 0.3:  # a part within a part
            spoiled = Spoils(parts.sampler(r, 0), r, 0.4)
            sampler = r.choice((rb.Combined(spoiled, 2), rb.Mixture([(1, rb.Uniform()), (1, spoiled)])))
        else:
            sampler = Spoils(sampler, r, r.choice((0.0, 0.4)))
        self.spec = {"obs": ("f4", (3,)), "action": "i8", "state": "f4"}
        self.describe("ReplayBuffer", self.capacity, sampler._part if isinstance(sampler, Spoils) else sampler, view)
        self.buffer = rb.ReplayBuffer(self.capacity, self.spec, 1, sampler, Spoils(view, r, 0.4), seed)

    def step(self, i: int) -> None:
        """Makes call i."""
        r = Random(f"{self.seed}/{i}")
        buffer, n = self.buffer, r.choice((1, 2, 5, 30))
        self.calls += 1
        before = self.rows()
        try:
            kind = r.randrange(6)
            if kind <= 1 or not len(buffer):
                obs = np.full((n, 3), r.randrange(3), np.float32)
                ends = np.array([r.random() < 0.2 for _ in range(n)])
                buffer.extend(obs, np.arange(n), np.ones(n), obs, ends, ends & False, state=obs[:, 0])
                before = self.rows()
            elif kind <= 3:
                batch = buffer.sample(n)
                repr(batch)
                dict(batch.items())
            elif kind == 4:
                added = buffer.stats()["added"]
                ids = [r.randrange(max(0, added - self.capacity), added) for _ in range(n)]
                buffer.update_priorities(ids, np.ones(n))
            else:
                buffer.read([buffer.stats()["added"] - 1] * n)
        except Exception as error:
            if self.say is not None:
                self.say(f"    {type(error).__name__}: {error}"[:300])
        if (rows := buffer._rows) is not None:
            rows.check_valid()
        assert before == self.rows(), "rows changed in a call that only reads"
        if i == self.length - 1:
            buffer.sampler, buffer.view = rb.Prioritized(), rb.NStep(3, 0.9)
            buffer.check_valid()
            if len(buffer):
                buffer.sample(9)

    def rows(self) -> Any:
        rows = self.buffer._rows
        if rows is None:
            return None
        return rows._cursor.tobytes(), rows.data[: rows.added].tobytes(), rows.tails[: rows._cursor[2]].tobytes()
