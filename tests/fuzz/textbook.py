"""Random programs over the two textbook buffers of `replaybank.torch`, held against plain lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import odd
import torch

from calls import FAILED, Calls, frozen
from replaybank.torch import PrioritizedReplayBuffer, ReplayBuffer

STATES: tuple[Callable[[np.ndarray], Any], ...] = (*odd.FORMS, lambda a: a, lambda a: a.astype("f8"))
INDICES: tuple[Callable[[Random, int], Any], ...] = (
    lambda r, n: r.randrange(n) if n else 0,
    lambda r, n: -1,
    lambda r, n: n,
    lambda r, n: slice(r.randint(-3, 3), r.randint(-3, 9), r.choice((1, 2, -1, None))),
    lambda r, n: Ellipsis,
    lambda r, n: np.arange(n),
    lambda r, n: np.arange(n) % 2 == 0,
    lambda r, n: [r.randint(-n, n) for _ in range(3)],
    lambda r, n: torch.arange(n),
    lambda r, n: odd.small(r),
)


class Program(Calls):
    """One program: `length` calls, which `step` makes."""

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        super().__init__(say)
        self.seed = seed
        r = Random(f"{seed}/make")
        self.length = r.choice((5, 20, 40))
        self.capacity = r.choice((1, 2, 5, 9))
        self.shape = r.choice(((3,), (), (2, 2)))
        self.prioritized = r.random() < 0.7
        make: Any = PrioritizedReplayBuffer if self.prioritized else ReplayBuffer
        self.describe(make.__name__, self.capacity)
        self.buffer: Any = make(self.capacity, seed=seed)
        self.held: deque[list[bytes]] = deque(maxlen=self.capacity)
        self.pushed = 0

    def digest(self) -> dict[str, Any]:
        inner = self.buffer._buffer
        rows = inner._rows
        return {
            "rows": None if rows is None else (rows._cursor.tobytes(), rows.data[: rows.added].tobytes()),
            "sampler": frozen(inner.sampler.state()),
            "settings": (getattr(self.buffer, "alpha", None), getattr(self.buffer, "epsilon", None)),
            "generator": str(inner._rng.bit_generator.state),
        }

    def step(self, i: int) -> None:
        """Makes call i."""
        r = Random(f"{self.seed}/{i}")
        known = [self.push, self.push, self.push, self.sample, self.sample, self.construct]
        if self.prioritized:
            known += [self.update, self.update, self.get, self.set, self.set_alpha]
        r.choice(known)(r)
        self.buffer._buffer.check_valid()
        assert len(self.buffer) == len(self.held)
        if self.held:
            inner = self.buffer._buffer
            added = inner.stats()["added"]
            batch = inner.read(np.arange(added - len(self.held), added))
            for name, column in zip(("obs", "action", "reward", "next_obs"), zip(*self.held, strict=True), strict=True):
                assert batch[name].astype(np.float64).tobytes() == b"".join(column), f"{name} is not what was pushed"

    def push(self, r: Random) -> None:
        rng = np.random.default_rng(r.getrandbits(32))
        state, after = rng.integers(0, 3, (2, *self.shape)).astype(np.float32)
        state, after = np.asarray(state), np.asarray(after)
        given: list[Any] = [state, r.randrange(4), r.choice((0.0, 1.5)), after, r.random() < 0.2]
        plain = [np.asarray(value, np.float64).tobytes() for value in given[:4]]
        kind = r.random()
        if kind < 0.5:
            given[0], given[3] = (r.choice(STATES)(value) for value in (state, after))
        elif kind < 0.8:
            place = r.randrange(5)
            given[place] = odd.value(r)
            huge = isinstance(given[place], np.ndarray) and given[place].size > 10_000
            if huge:  # float32 is made of any state, before its shape is known to be wrong
                given[place] = None
            taken = self.call(self.buffer.push, *given)
            if taken is not FAILED:
                newest = self.buffer._buffer.stats()["added"] - 1
                assert self.call(self.buffer.sample, 1) is not FAILED, "what was taken cannot be sampled"
                batch = self.buffer._buffer.read([newest])
                self.shape = batch.obs.shape[1:]
                names = ("obs", "action", "reward", "next_obs")
                self.held.append([batch[name].astype(np.float64).tobytes() for name in names])
            return
        if self.call(self.buffer.push, *given) is not FAILED:
            self.held.append(plain)

    def sample(self, r: Random) -> None:
        n = r.choice((1, 2, 5, len(self.held) or 1)) if r.random() < 0.8 else odd.value(r)
        huge = isinstance(n, int) and n > 2**24
        found = self.call(self.buffer.sample, n, draws=True, or_=(MemoryError,) if huge else ())
        if found is not FAILED:
            assert len(found) == 5 + 2 * self.prioritized
            assert all(len(tensor) == len(found[0]) for tensor in found)
            assert {tensor.dtype for tensor in found} <= {torch.float32, torch.int64}
            if self.prioritized:
                assert ((found[5] >= 0) & (found[5] < len(self.held))).all()

    def update(self, r: Random) -> None:
        n = r.randrange(4)
        indices: Any = np.array([r.randrange(-1, len(self.held) + 1) for _ in range(n)], np.int64)
        errors: Any = np.array([r.choice((0.0, -2.0, 1e6, float("nan"), 1e308)) for _ in range(n)])
        if r.random() < 0.3:
            indices = odd.small(r)
        if r.random() < 0.3:
            errors = r.choice((odd.small(r), *(form(errors) for form in odd.FORMS)))
        self.call(self.buffer.update_priorities, indices, errors)

    def get(self, r: Random) -> None:
        index = r.choice(INDICES)(r, len(self.held))
        self.call(lambda: self.buffer.priorities[index], or_=(IndexError,))
        priorities = self.call(lambda: (repr(self.buffer.priorities), list(self.buffer.priorities))[1])
        assert len(priorities) == len(self.held)

    def set(self, r: Random) -> None:
        index = r.choice(INDICES)(r, len(self.held))
        value = r.choice((0.5, 2, 0.0, -1.0, float("inf"), 1e308, np.ones(2), odd.small(r)))
        self.call(self.buffer.priorities.__setitem__, index, value, or_=(IndexError,))

    def set_alpha(self, r: Random) -> None:
        self.call(setattr, self.buffer, "alpha", r.choice((0.0, 0.6, 1.0, odd.value(r))))

    def construct(self, r: Random) -> None:
        a, b = odd.value(r), odd.value(r)
        huge = isinstance(a, int | np.integer) and a > 2**20
        make = r.choice((lambda: ReplayBuffer(a), lambda: PrioritizedReplayBuffer(a, b)))
        self.call(make, or_=(MemoryError,) if huge else ())
        self.call(lambda: PrioritizedReplayBuffer(3, 0.5, a))
        self.call(lambda: ReplayBuffer(3, odd.small(r)))
