"""The buffer, after any interleaving of calls, is what a plain-Python model of it says (oracle.py)."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import replaybank as rb
from oracle import Oracle, item, leaves, same_batch, same_bytes, stacked
from scale import LONG

# Values that are equal but differ in bytes, and values that differ though their bytes are equal.
FLOATS = (0.0, -0.0, 1.0, float("nan"), float("inf"), 1e-45)
ODD_NAN = np.array(0x7FC00123, np.uint32).view(np.float32)


def _float32(values: tuple[float, ...], rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    pool = np.array([*values, ODD_NAN], np.float32)
    return pool[rng.integers(0, len(pool), shape)]


# Kinds of transitions: an explicit schema, and how to make observations, actions, rewards, extras from a generator.
# The pools of observations are so small that unlinked transitions sometimes continue one another by chance.
KINDS: dict[str, dict[str, Any]] = {
    "flat": {
        "schema": {"obs": ("float32", (2,)), "action": "int64"},
        "obs": lambda rng: _float32(FLOATS, rng, (2,)),
        "action": lambda rng: np.int64(rng.integers(-(2**60), 2**60)),
        "reward": lambda rng: np.float32(rng.integers(-8, 9) / 4),
        "extras": lambda rng: {},
    },
    "tiny": {
        "schema": {"obs": "uint8", "action": ("float32", (3,)), "reward": "float64", "note": ("int16", (1, 2))},
        "obs": lambda rng: np.uint8(rng.integers(0, 3)),
        "action": lambda rng: _float32(FLOATS, rng, (3,)),
        "reward": lambda rng: np.float64(rng.integers(-8, 9) / 4),
        "extras": lambda rng: {"note": rng.integers(-9, 9, (1, 2)).astype(np.int16)},
    },
    "nested": {
        "schema": {
            "obs": {"camera": ("uint8", (2, 2)), "pair": ["float32", {"deep": ("float64", (1,))}]},
            "action": {"move": ("float32", (2,)), "jump": "bool"},
            "reward": ("float32", (2,)),
            "log_prob": "float32",
            "memory": {"h": ("float16", (3,)), "c": ["int8", "complex64"]},
        },
        "obs": lambda rng: {
            "camera": rng.integers(0, 2, (2, 2)).astype(np.uint8),
            "pair": (_float32((0.0, -0.0), rng, ()), {"deep": np.array([rng.integers(0, 2)], np.float64)}),
        },
        "action": lambda rng: {"move": _float32(FLOATS, rng, (2,)), "jump": np.bool_(rng.integers(0, 2))},
        "reward": lambda rng: (rng.integers(-8, 9, 2) / 4).astype(np.float32),
        "extras": lambda rng: {
            "log_prob": np.float32(rng.normal()),
            "memory": {
                "h": rng.normal(size=3).astype(np.float16),
                "c": (np.int8(rng.integers(-9, 9)), np.complex64(1j)),
            },
        },
    },
    "empty": {
        "schema": {"obs": ("float32", (0,)), "action": ("uint8", (0, 4)), "note": "bool"},
        "obs": lambda rng: np.zeros(0, np.float32),
        "action": lambda rng: np.zeros((0, 4), np.uint8),
        "reward": lambda rng: np.float32(rng.integers(-8, 9) / 4),
        "extras": lambda rng: {"note": np.bool_(rng.integers(0, 2))},
    },
}


def transition(kind: str, rng: np.random.Generator, before: Mapping[str, Any] | None, end: int) -> dict[str, Any]:
    """A transition that continues `before`, or anything where that is None. end: 1 terminated, 2 truncated, 3 both."""
    make = KINDS[kind]
    return {
        "obs": make["obs"](rng) if before is None else before["next_obs"],
        "action": make["action"](rng),
        "reward": make["reward"](rng),
        "next_obs": make["obs"](rng),
        "terminated": np.bool_(end & 1),
        "truncated": np.bool_(end & 2),
        **make["extras"](rng),
    }


def handed_over(fields: dict[str, Any], form: str) -> dict[str, Any]:
    """The same values as a caller may hold them: plain arrays, strided views, or a mixture with Python scalars."""

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: changed(child) for name, child in reversed(value.items())}  # order does not matter
        if isinstance(value, tuple):
            return tuple(changed(child) for child in value)
        array = np.asarray(value)
        if form == "strided":
            return np.repeat(array[..., None], 3, axis=-1)[..., 1]
        # "scalars": a NaN's payload does not survive a Python float, so only flags and whole numbers
        return array.item() if array.ndim == 0 and array.dtype.kind in "bi" else array

    return fields if form == "plain" else {name: changed(value) for name, value in fields.items()}


def check_batch(batch: rb.Batch, oracle: Oracle, n: int, gamma: float) -> None:
    """Every sampled transition is the n-step transition computed from the list of what was added."""
    live = oracle.ids()
    for i, id_ in enumerate(batch.indices.tolist()):
        assert live[0] <= id_ <= live[-1], f"id {id_} is not in the buffer"
        expected, discount = oracle.n_step(id_, n, gamma)
        assert set(batch.keys()) == {*expected, "discount", "indices", "probabilities", "weights"}
        for name, value in expected.items():
            found = item(batch[name], i)
            if name == "reward":
                np.testing.assert_allclose(np.asarray(found, np.float64), value, rtol=1e-6, atol=1e-6)
                assert found.dtype == oracle.step(id_).fields["reward"].dtype
            else:
                assert same_bytes(found, value), f"{name} of id {id_}: {found!r}, expected {value!r}"
                assert [leaf.dtype for leaf in leaves(found)] == [leaf.dtype for leaf in leaves(value)]
        assert batch.discount[i] == np.float32(discount)


ENDS = st.sampled_from([0, 0, 0, 0, 1, 2, 3])
FORMS = st.sampled_from(["plain", "plain", "strided", "scalars"])


class BufferMachine(RuleBasedStateMachine):
    """Two buffers are fed alike: one draws without replacement, so a batch can show all it holds; one by priority."""

    @initialize(
        kind=st.sampled_from(sorted(KINDS)),
        capacity=st.integers(1, 20),
        streams=st.integers(1, 5),
        alpha=st.sampled_from([0.0, 0.6, 1.0]),
        weight_norm=st.sampled_from(["batch", "buffer", None]),
        inferred=st.booleans(),
        seed=st.integers(0, 2**16),
    )
    def start(
        self, kind: str, capacity: int, streams: int, alpha: float, weight_norm: Any, inferred: bool, seed: int
    ) -> None:
        self.kind = kind
        self.streams = streams
        self.rng = np.random.default_rng(seed)
        self.oracle = Oracle(capacity, streams, alpha)
        self.beta, self.weight_norm = 0.4, weight_norm
        # What the first transition is made of is what the schema says, but for dtypes that inference makes smaller.
        schema = None if inferred and kind in ("flat", "empty") else KINDS[kind]["schema"]
        self.n_step = rb.NStep(1, 0.5)
        self.uniform = rb.ReplayBuffer(capacity, schema, streams, rb.Uniform(replace=False), seed=seed)
        self.prioritized = rb.ReplayBuffer(
            capacity, schema, streams, rb.Prioritized(alpha, self.beta, weight_norm=weight_norm), self.n_step, seed=seed
        )
        self.prioritized_sampled = 0
        self.calls = 0

    def before(self, stream: int, linked: bool) -> Mapping[str, Any] | None:
        life = self.oracle.lives[stream]
        return life[-1].fields if linked and life else None

    @rule(
        linked=st.lists(st.booleans(), min_size=5, max_size=5), ends=st.lists(ENDS, min_size=5, max_size=5), form=FORMS
    )
    def add(self, linked: list[bool], ends: list[int], form: str) -> None:
        each = [
            transition(self.kind, self.rng, self.before(stream, linked[stream]), ends[stream])
            for stream in range(self.streams)
        ]
        wide = {name: stacked([one[name] for one in each]) for name in each[0]}
        fields = wide if self.streams > 1 else each[0]
        for buffer in (self.uniform, self.prioritized):
            assert buffer.add(**handed_over(fields, form)) == self.oracle.added
        self.oracle.add(list(enumerate(each)))

    @rule(stream=st.integers(0, 4), steps=st.lists(st.tuples(st.booleans(), ENDS), min_size=1, max_size=25), form=FORMS)
    def extend(self, stream: int, steps: list[tuple[bool, int]], form: str) -> None:
        stream %= self.streams
        run: list[dict[str, Any]] = []
        for linked, end in steps:
            before = run[-1] if run and linked else self.before(stream, linked) if not run else None
            run.append(transition(self.kind, self.rng, before, end))
        fields = {name: stacked([one[name] for one in run]) for name in run[0]}
        for buffer in (self.uniform, self.prioritized):
            assert buffer.extend(**handed_over(fields, form), stream=stream) == self.oracle.added
        self.oracle.add([(stream, one) for one in run])

    @precondition(lambda self: self.oracle.live)
    @rule(size=st.integers(1, 40), n=st.integers(1, 7), gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]))
    def sample_by_priority(self, size: int, n: int, gamma: float) -> None:
        self.n_step.n, self.n_step.gamma = n, gamma
        batch = self.prioritized.sample(size)
        self.prioritized_sampled += size
        check_batch(batch, self.oracle, n, gamma)
        probabilities = self.oracle.probabilities()
        expected = np.array([probabilities[id_] for id_ in batch.indices.tolist()])
        np.testing.assert_allclose(batch.probabilities, expected, rtol=1e-12)
        weights = (len(probabilities) * expected) ** -self.beta
        if self.weight_norm == "batch":
            weights /= weights.max()
        elif self.weight_norm == "buffer":
            weights /= (len(probabilities) * min(probabilities.values())) ** -self.beta
        np.testing.assert_allclose(batch.weights, weights, rtol=1e-5)
        raw = self.prioritized.sampler.priority_of(np.array(self.oracle.ids()))
        assert raw.tolist() == list(self.oracle.raw.values())

    @precondition(lambda self: self.oracle.added)
    @rule(data=st.data(), size=st.integers(0, 12))
    def update_priorities(self, data: st.DataObject, size: int) -> None:
        newest = self.oracle.added - 1
        recent = st.integers(max(0, newest - 30), newest)  # stale ones and duplicates among them
        ids = data.draw(st.lists(recent, min_size=size, max_size=size))
        errors = data.draw(st.lists(st.sampled_from([-2.5, -1e-3, 0.0, 0.5, 3.0, 1e4]), min_size=size, max_size=size))
        expected = self.oracle.update(ids, errors)
        assert self.prioritized.update_priorities(np.array(ids, np.int64), np.array(errors)) == expected

    @rule(alpha=st.sampled_from([0.0, 0.3, 0.6, 1.0, 2.0]))
    def change_alpha(self, alpha: float) -> None:
        self.prioritized.sampler.alpha = self.oracle.alpha = alpha

    @rule(chance=st.integers(0, 3))
    def clear(self, chance: int) -> None:
        if chance:  # rarely, or no buffer ever fills
            return
        self.uniform.clear()
        self.prioritized.clear()
        self.oracle.clear()

    @precondition(lambda self: self.oracle.live)
    @rule(stream_shift=st.integers(0, 3))
    def refuse_bad_input(self, stream_shift: int) -> None:
        one = transition(self.kind, self.rng, None, 0)
        n = self.streams + 1 + stream_shift
        wrong_lead = {name: stacked([value] * n) for name, value in one.items()}
        for buffer in (self.uniform, self.prioritized):
            with pytest.raises(ValueError, match=r"expected shape|leading axis"):
                buffer.add(**wrong_lead)
            with pytest.raises(ValueError, match="never given out"):
                buffer.update_priorities([0, self.oracle.added], [1.0, 1.0])

    @invariant()
    def everything_is_as_the_oracle_says(self) -> None:
        if not hasattr(self, "oracle"):
            return
        self.calls += 1
        live = self.oracle.ids()
        assert len(self.uniform) == len(self.prioritized) == len(live)
        if live:
            # All contents, as single steps and as n-step transitions: without replacement a full batch is everything.
            n = self.calls % 6
            self.uniform.view = rb.NStep(n, 0.9) if n else rb.Transition(0.9)
            batch = self.uniform.sample(len(live))
            assert sorted(batch.indices.tolist()) == live
            check_batch(batch, self.oracle, max(n, 1), 0.9)
            assert (batch.probabilities == 1 / len(live)).all()
            assert (batch.weights == 1).all()
            self.oracle.sampled += len(live)
        else:
            with pytest.raises(ValueError, match="empty"):
                self.uniform.sample(1)
        for buffer in (self.uniform, self.prioritized):
            buffer.check_valid()
        stats = self.uniform.stats()
        assert stats["nbytes"] == self.uniform.nbytes
        assert stats.items() >= (self.oracle.stats() | {"updated": 0, "stale": 0}).items()
        stats = self.prioritized.stats()
        assert stats["nbytes"] == self.prioritized.nbytes
        assert stats.items() >= (self.oracle.stats() | {"sampled": self.prioritized_sampled}).items()


TestBufferIsWhatTheOracleSays = BufferMachine.TestCase
TestBufferIsWhatTheOracleSays.settings = settings(max_examples=1500 if LONG else 150)


def counted(n: int, start: int = 0) -> dict[str, np.ndarray]:
    """n linked transitions whose fields count from `start`, as `extend` takes them."""
    count = np.arange(start, start + n)
    return {
        "obs": count.astype(np.float32),
        "action": count,
        "reward": count.astype(np.float32),
        "next_obs": (count + 1).astype(np.float32),
        "terminated": np.zeros(n, bool),
        "truncated": np.zeros(n, bool),
    }


def contents(buffer: rb.ReplayBuffer) -> rb.Batch:
    """Everything in the buffer. Works on the sampler's own terms: without replacement a full batch is everything."""
    assert isinstance(buffer.sampler, rb.Uniform)
    return buffer.sample(len(buffer))


def test_a_final_observation_is_kept_where_the_next_episode_starts_elsewhere() -> None:
    """cleanrl#460, SB3#934: one array of observations gives the reset observation as next_obs of a truncated step."""
    buffer = rb.ReplayBuffer(10, sampler=rb.Uniform(replace=False))
    buffer.add(np.float32([1]), 0, 0.0, np.float32([2]), False, True)
    buffer.add(np.float32([7]), 0, 0.0, np.float32([8]), False, False)
    batch = contents(buffer)
    assert dict(zip(batch.obs[:, 0], batch.next_obs[:, 0], strict=True)) == {1.0: 2.0, 7.0: 8.0}


def test_the_terminal_transition_is_stored_and_stops_bootstrapping() -> None:
    """dopamine#228: the last transition of an episode was never stored."""
    buffer = rb.ReplayBuffer(10, view=rb.Transition(gamma=0.9), sampler=rb.Uniform(replace=False))
    fields = counted(3)
    fields["terminated"][2] = True
    buffer.extend(**fields)
    batch = contents(buffer)
    assert sorted(zip(batch.action.tolist(), batch.discount.tolist(), strict=True)) == [
        (0, np.float32(0.9)),
        (1, np.float32(0.9)),
        (2, 0.0),
    ]


def test_an_episode_that_starts_where_the_last_one_ended_is_not_joined_to_it() -> None:
    """Equal bytes across an end must not link: the window would run into the next episode."""
    buffer = rb.ReplayBuffer(10, view=rb.NStep(5, 1.0), sampler=rb.Uniform(replace=False))
    for end in ((True, False), (False, True), (False, False)):
        buffer.add(np.float32([1]), 0, 1.0, np.float32([1]), *end)
    assert contents(buffer).reward.tolist() == [1.0, 1.0, 1.0]


def test_one_stream_is_understood_with_and_without_a_leading_axis() -> None:
    plain = rb.ReplayBuffer(10, sampler=rb.Uniform(replace=False), seed=1)
    vector = rb.ReplayBuffer(10, sampler=rb.Uniform(replace=False), seed=1)
    fields = counted(6)
    for i in range(6):
        plain.add(**{name: value[i] for name, value in fields.items()})
        vector.add(**{name: value[i : i + 1] for name, value in fields.items()})
    assert same_batch(contents(plain), contents(vector))
    assert {**plain.stats(), "age_seconds": 0} == {**vector.stats(), "age_seconds": 0}


def test_ids_go_on_after_clear_and_old_ones_are_stale() -> None:
    buffer = rb.ReplayBuffer(4, sampler=rb.Prioritized())
    buffer.extend(**counted(6))
    buffer.clear()
    assert len(buffer) == 0
    assert buffer.extend(**counted(2)) == 6
    assert buffer.update_priorities([5, 6, 0, 7], [1.0, 2.0, 3.0, 4.0]) == rb.PriorityReport(updated=2, stale=2)
    assert set(buffer.sample(50).indices.tolist()) == {6, 7}
    buffer.check_valid()


def test_newcomers_get_the_largest_priority_now_in_the_buffer_not_the_largest_ever() -> None:
    buffer = rb.ReplayBuffer(3, sampler=rb.Prioritized(alpha=1.0, epsilon=0.0))
    buffer.extend(**counted(3))
    buffer.update_priorities([0, 1, 2], [50.0, 2.0, 3.0])
    buffer.extend(**counted(1))  # takes the place of id 0: its 50 is the largest when the call arrives
    buffer.update_priorities([3], [1.0])
    buffer.extend(**counted(1))
    assert buffer.sampler.priority_of(np.array([2, 3, 4])).tolist() == [3.0, 1.0, 3.0]


def test_the_first_transition_has_priority_one() -> None:
    buffer = rb.ReplayBuffer(3, sampler=rb.Prioritized(epsilon=0.0))
    buffer.extend(**counted(2))
    assert buffer.sampler.priority_of(np.array([0, 1])).tolist() == [1.0, 1.0]
    buffer.update_priorities([0, 1], [0.0, 0.0])
    buffer.extend(**counted(1))
    assert buffer.sampler.priority_of(np.array([0, 1, 2])).tolist() == [0.0, 0.0, 1.0]


def test_of_an_id_that_comes_twice_in_an_update_the_last_priority_stays() -> None:
    buffer = rb.ReplayBuffer(3, sampler=rb.Prioritized(epsilon=0.0))
    buffer.extend(**counted(3))
    buffer.update_priorities([1, 1, 2, 1], [5.0, 6.0, 7.0, 0.5])
    assert buffer.sampler.priority_of(np.array([0, 1, 2])).tolist() == [1.0, 0.5, 7.0]


def test_a_uniform_buffer_takes_priorities_and_ignores_them() -> None:
    buffer = rb.ReplayBuffer(3)
    buffer.extend(**counted(5))
    assert buffer.update_priorities([0, 3, 4], [1.0, 2.0, 3.0]) == rb.PriorityReport(updated=0, stale=1)


def test_more_than_the_buffer_holds_can_be_drawn_with_replacement() -> None:
    for sampler in (rb.Uniform(), rb.Prioritized()):
        buffer = rb.ReplayBuffer(5, sampler=sampler)
        buffer.extend(**counted(2))
        assert set(buffer.sample(200).indices.tolist()) == {0, 1}


def test_an_extend_longer_than_the_capacity_leaves_its_last_transitions() -> None:
    buffer = rb.ReplayBuffer(7, sampler=rb.Uniform(replace=False))
    assert buffer.extend(**counted(1000)) == 0
    assert sorted(contents(buffer).action.tolist()) == list(range(993, 1000))
    buffer.check_valid()


def test_extending_by_nothing_changes_nothing() -> None:
    buffer = rb.ReplayBuffer(7)
    assert buffer.extend(**counted(0)) == 0
    buffer.extend(**counted(3))
    assert buffer.extend(**counted(0)) == 3
    assert len(buffer) == 3


def test_with_more_streams_than_capacity_the_last_streams_stay() -> None:
    buffer = rb.ReplayBuffer(2, streams=5, sampler=rb.Uniform(replace=False))
    for start in (0, 10):
        buffer.add(**counted(5, start))
        assert sorted(contents(buffer).action.tolist()) == [start + 3, start + 4]
        buffer.check_valid()


def test_several_threads_may_use_one_buffer() -> None:
    """Each call is one step: whatever the interleaving, batches are whole and the parts fit together afterwards."""
    # Rows so large that a kernel, which lets go of the interpreter, takes a while; so few that all leave soon.
    buffer = rb.ReplayBuffer(16, streams=4, sampler=rb.Prioritized(), view=rb.NStep(3, 1.0), seed=0)
    wide = np.ones((4, 20_000), np.float32)
    off = np.zeros(4, bool)
    failures: list[BaseException] = []

    def add(rounds: int, value: float) -> None:
        for i in range(rounds):
            obs = wide * np.float32(value + i)
            buffer.add(obs, obs[:, 0], obs[:, 0], obs + 1, off, off)

    def learn(rounds: int) -> None:
        for _ in range(rounds):
            batch = buffer.sample(16)
            assert (batch.obs == batch.obs[:, :1]).all()  # no row is half written
            assert (batch.obs[:, 0] == batch.action).all()
            buffer.update_priorities(batch.indices, batch.reward)

    def guarded(work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)

    add(1, 0.0)
    jobs = [(add, 150, 0.0), (add, 150, 1e4), (learn, 60), (learn, 60)]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert buffer.stats()["added"] == 4 * 301
    assert buffer.stats()["sampled"] == 120 * 16
    buffer.check_valid()


def test_a_shallow_copy_shares_nothing_either() -> None:
    buffer = rb.ReplayBuffer(8, sampler=rb.SampleOnce(), seed=0)
    for t in range(5):
        buffer.add(np.float32([t]), t, 1.0, np.float32([t + 1]), False, False)
    twin = copy.copy(buffer)
    assert twin.sampler is not buffer.sampler
    expected = copy.deepcopy(buffer).sample(5).indices.tolist()
    buffer.clear()
    assert len(twin) == 5
    twin.check_valid()
    assert twin.sample(5).indices.tolist() == expected
