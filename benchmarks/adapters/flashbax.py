"""Flashbax: pure functions on JAX arrays, timed call by call and inside one compiled scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, Contender, NoSuchWorkError, Role, Setup
from timing import Inputs, Trial
from transitions import FIELDS, OBS_SIZE, Step, Transitions, in_turn, priorities_like_td_errors

SAMPLED = (*FIELDS, "weights")


class Flashbax(Contender):
    """Item buffers, jitted, with a donated state; every call waits for its result.

    Batches stay JAX arrays. Its `sample` gives probabilities; the weights are computed from them inside the same
    compiled call. JAX's settings are those that suit it best: dispatch in the calling thread, and the `unsafe_rbg`
    generator, which is quicker than the default. Integers are 32 bits, JAX's default.
    """

    name = "Flashbax"
    distribution = "flashbax"
    backend = "cpu"
    #: Shape and dtype of every field of an item.
    fields: ClassVar[Mapping[str, tuple[tuple[int, ...], Any]]] = {
        "obs": ((OBS_SIZE,), np.float32),
        "action": ((), np.int32),
        "reward": ((), np.float32),
        "next_obs": ((OBS_SIZE,), np.float32),
        "terminated": ((), np.bool_),
        "truncated": ((), np.bool_),
    }

    def build(self) -> None:
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self._jax = jax
        self._key = jax.random.key(self.setup.seed, impl="unsafe_rbg")
        item = {name: jax.numpy.zeros(shape, dtype) for name, (shape, dtype) in self.fields.items()}
        functions = self._functions(1)
        self._state = jax.jit(functions.init)(item)
        self._add = jax.jit(functions.add, donate_argnums=0)
        self._samples: dict[int, Any] = {}
        self.add = self._add_one
        self.sample = self._sample
        if self.setup.prioritized:
            self._set_priorities = jax.jit(functions.set_priorities, donate_argnums=0)
            self.update = self._update

    def _functions(self, size: int, **how: bool) -> Any:
        """Flashbax's functions for batches of `size`; the state is the same for all of them."""
        import flashbax

        how = {"add_batches": self.setup.streams > 1, **how}
        if self.setup.prioritized:
            return flashbax.make_prioritised_item_buffer(
                self.setup.capacity, 1, size, priority_exponent=ALPHA, device=self.backend, **how
            )
        return flashbax.make_item_buffer(self.setup.capacity, 1, size, **how)

    def fill(self, data: Transitions) -> None:
        add = self._jax.jit(self._functions(1, add_sequences=True, add_batches=False).add, donate_argnums=0)
        for start in range(0, len(data), 1_000_000):
            columns = data.part(start, start + 1_000_000).columns()
            self._state = add(self._state, {**columns, "action": columns["action"].astype(np.int32)})

    def add_form(self, step: Step) -> tuple[dict[str, Any]]:
        kinds = self.fields.items()
        return ({name: np.asarray(value, dtype) for (name, (_, dtype)), value in zip(kinds, step, strict=True)},)

    def _add_one(self, item: dict[str, Any]) -> None:
        self._state = self._jax.block_until_ready(self._add(self._state, item))

    def draw(self, size: int) -> Any:
        """A pure function from state and key to (columns, indices)."""
        sample = self._functions(size).sample
        if not self.setup.prioritized:
            return lambda state, key: (sample(state, key).experience, None)

        def drawn(state: Any, key: Any) -> tuple[dict[str, Any], Any]:
            batch = sample(state, key)
            weights = (self.setup.capacity * batch.probabilities) ** -BETA
            return {**batch.experience, "weights": weights / weights.max()}, batch.indices

        return drawn

    def _sample(self, size: int) -> Any:
        return self._jax.block_until_ready(self._dispatch(size))

    def _dispatch(self, size: int) -> Any:
        if size not in self._samples:
            draw = self.draw(size)

            def split_and_draw(state: Any, key: Any) -> tuple[Any, Any]:
                key, now = self._jax.random.split(key)
                return draw(state, now), key

            self._samples[size] = self._jax.jit(split_and_draw)
        batch, self._key = self._samples[size](self._state, self._key)
        return batch

    def _update(self, indices: Any, priorities: Any) -> None:
        self._state = self._jax.block_until_ready(self._set_priorities(self._state, indices, priorities))

    def indices(self, batch: Any) -> Any:
        return batch[1]

    def indices_of(self, places: NDArray[np.int64]) -> Any:
        return self._jax.numpy.asarray(places, np.int32)

    def priority_form(self, priorities: NDArray[np.float32]) -> Any:
        return self._jax.numpy.asarray(priorities)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        data = batch[0]
        fields = data["obs"], data["action"], data["reward"], data["next_obs"], data["terminated"]
        return (*fields, data["weights"]) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {name: np.asarray(values) for name, values in batch[0].items()}


class FlashbaxCompiled(Flashbax):
    """Its best case: `length` pieces of work in one `lax.scan`, with nothing of the training loop in between.

    Every batch is written out, so that the compiler cannot leave work away. In the whole step, the update of the
    batch before comes first: the other way round XLA copies the tree twice a step, which costs ten times as much.
    """

    name = "Flashbax, in one scan"
    role = Role.COMPILED
    length = 50

    @classmethod
    def check(cls, setup: Setup) -> None:
        super().check(setup)
        if setup.streams > 1:
            raise NoSuchWorkError

    def adding(self, steps: Sequence[Step]) -> Trial:
        add = self._functions(1).add
        forms = [self.add_form(step)[0] for step in steps]

        def body(carry: Any, item: Any) -> tuple[Any, None]:
            return (add(carry[0], item), None), None

        return self._trial(body, lambda rng: self._stack(in_turn(forms, int(rng.integers(len(forms))), self.length)))

    def sampling(self, size: int) -> Trial:
        draw, split = self.draw(size), self._jax.random.split

        def run(state: Any, key: Any) -> tuple[Any, Any]:
            key, now = split(key)
            keys = split(now, self.length)
            return self._jax.lax.scan(lambda nothing, key: (nothing, draw(state, key)), None, keys), key

        compiled = self._jax.jit(run)

        def call() -> None:
            _, self._key = self._jax.block_until_ready(compiled(self._state, self._key))

        return Trial(lambda calls: [()] * calls, call, per_call=self.length)

    def updating(self, size: int) -> Trial:
        update = self._functions(1).set_priorities

        def body(carry: Any, given: Any) -> tuple[Any, None]:
            return (update(carry[0], *given), None), None

        def given(rng: np.random.Generator) -> Any:
            places = rng.integers(0, self.setup.capacity, size=(self.length, size))
            return self.indices_of(places), self.priority_form(priorities_like_td_errors(places.shape, rng))

        return self._trial(body, given)

    def stepping(self, size: int, steps: Sequence[Step]) -> Trial:
        functions, draw = self._functions(size), self.draw(size)
        forms = [self.add_form(step)[0] for step in steps]

        def body(carry: Any, given: Any) -> tuple[Any, Any]:
            state, indices = carry
            items, priorities, key = given
            state = functions.set_priorities(state, indices, priorities)
            for place in range(4):
                state = functions.add(state, {name: values[place] for name, values in items.items()})
            columns, indices = draw(state, key)
            return (state, indices), columns

        def given(rng: np.random.Generator) -> Any:
            adds = in_turn(forms, int(rng.integers(len(forms))), 4 * self.length)
            stacked = self._stack(adds)
            items = {name: values.reshape(self.length, 4, *values.shape[1:]) for name, values in stacked.items()}
            self._key, now = self._jax.random.split(self._key)
            keys = self._jax.random.split(now, self.length)
            return items, self.priority_form(priorities_like_td_errors((self.length, size), rng)), keys

        return self._trial(body, given, self.indices_of(np.zeros(size, np.int64)))

    def _stack(self, forms: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {name: self._jax.numpy.asarray(np.stack([form[name] for form in forms])) for name in FIELDS}

    def _trial(self, body: Any, given: Any, indices: Any = None) -> Trial:
        """Time `body((state, indices), one of given) -> ((state, indices), out)` in a scan over what is given."""
        rng = np.random.default_rng(self.setup.seed)
        compiled = self._jax.jit(lambda carry, given: self._jax.lax.scan(body, carry, given), donate_argnums=0)

        def prepare(calls: int) -> Inputs:
            return [(given(rng),) for _ in range(calls)]

        def call(given: Any) -> None:
            nonlocal indices
            (self._state, indices), _ = self._jax.block_until_ready(compiled((self._state, indices), given))

        return Trial(prepare, call, per_call=self.length)
