"""What programs of random calls (tests/fuzz) found: it led out of memory, hung, or was taken in silence."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank import kernels

FLAT = {"obs": ("float32", (3,)), "action": "int64"}
ZEROS = np.zeros(3, np.float32)
HUGE = np.broadcast_to(np.float32(1), (2**33,))  # 32 GiB, without taking any
NAN = float("nan")


def filled(sampler: Any = None, view: Any = None, streams: int = 1) -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(8, FLAT, streams, sampler, view, seed=0)
    for t in range(5):
        for stream in range(streams):
            buffer.extend([ZEROS + t], [t], [0.0], [ZEROS + t + 1], [False], [False], stream=stream)
    return buffer


def frugal(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    """It raises, and takes no more than 1 GiB for it."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as held:
        most = int(held.read().split()[0]) * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        with pytest.raises(error, match=words):
            call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("fields", [2, 4, 5, 8])
def test_a_transition_larger_than_a_dtype_can_be_is_refused(fields: int) -> None:
    """NumPy let offsets wrap around: four fields of 1 GiB made rows of 24 bytes, and `add` wrote far beyond them."""
    spec = dict.fromkeys(("obs", "action", "a", "b", "c", "d", "e", "f")[:fields], ("uint8", (2**30,)))
    with pytest.raises(ValueError, match=rf"schema: a transition of {fields}\.0 GiB; the most is 1 GiB"):
        rb.ReplayBuffer(2, spec)
    with pytest.raises(ValueError, match="schema: a transition of"):
        rb.Schema.of({"obs": [("uint8", (2**30,))] * fields, "action": "?"})


def test_the_largest_transition_is_as_large_as_the_error_says() -> None:
    around = 2**30 - 7  # beside an action of a byte, a reward of four and two flags
    assert rb.Schema.of({"obs": ("uint8", (around,)), "action": "?"}).fields["obs"].nbytes == around
    with pytest.raises(ValueError, match=r"schema: a transition of 1\.0 GiB; the most is 1 GiB"):
        rb.Schema.of({"obs": ("uint8", (around + 1,)), "action": "?"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bounds memory as Linux does")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda b: b.add(HUGE, 1, 1.0, ZEROS, False, False, mask=[True]),
            r"obs: expected shape \(1, 3\), given \(1, 8",
        ),
        (lambda b: b.extend(HUGE, HUGE, HUGE, HUGE, HUGE, HUGE), "extend: expected at most"),
        (lambda b: b.update_priorities([0], HUGE), r"td_error: expected one an index, shape \(1,\)"),
        (lambda b: b.sample(2**31 - 1), "sample: n: expected 1 to"),
        (lambda b: b.field(HUGE), "field: expected one of obs, action"),
        (lambda b: rb.FrameStack(2, HUGE, adds="frames"), r"axis must be 0 \(first\) or -1"),
        (lambda b: rb.FrameStack(2, padding=HUGE), "padding must be"),
        (lambda b: rb.FrameStack(2, adds=HUGE), "adds must be"),
        (lambda b: rb.Hindsight(len, HUGE), "strategy must be one of"),
    ],
)
def test_what_is_absurdly_large_is_refused_before_memory_is_taken_for_it(call: Any, words: str) -> None:
    buffer = filled()
    frugal(lambda: call(buffer), ValueError, words)
    assert len(buffer) == 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bounds memory as Linux does")
def test_a_batch_knows_no_field_that_is_an_array() -> None:
    batch = filled().sample(3)
    assert HUGE not in batch
    assert ZEROS not in batch
    frugal(lambda: batch[HUGE], KeyError, "no field")


@pytest.mark.parametrize("beta", [NAN, -1.0, "x", None, 1j, float("inf"), 10**400, np.ones(2)])
@pytest.mark.parametrize(
    "sampler",
    [
        lambda beta: rb.Prioritized(beta=beta),
        lambda beta: rb.RankPrioritized(beta=beta),
        lambda beta: rb.Mixture([(1, rb.Prioritized())], beta=beta),
    ],
)
def test_a_schedule_that_gives_nonsense_is_named_and_the_call_does_not_count(sampler: Any, beta: Any) -> None:
    """It was NaN in the weights, and nobody was told."""
    given = [beta]
    buffer = filled(sampler(lambda position: given[0]))
    before = buffer.sampler.state()
    with pytest.raises(ValueError, match=r": beta must be a finite number >= 0, given "):
        buffer.sample(4)
    np.testing.assert_equal(buffer.sampler.state(), before)
    given[0] = 0.5
    assert np.isfinite(buffer.sample(4).weights).all()


def test_a_schedule_that_raises_counts_no_call() -> None:
    def schedule(position: int) -> float:
        raise RuntimeError("the user's own")

    for sampler in (
        rb.Prioritized(beta=schedule),
        rb.RankPrioritized(beta=schedule),
        rb.Mixture([(1, rb.Prioritized())], beta=schedule),
    ):
        buffer = filled(sampler)
        before = sampler.state()
        with pytest.raises(RuntimeError, match="the user's own"):
            buffer.sample(4)
        np.testing.assert_equal(sampler.state(), before)


@pytest.mark.parametrize("number", [10**400, 1j, np.complex64(1), "1", None, NAN, np.ones(2), [1]])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: rb.Prioritized(x),
        lambda x: rb.Prioritized(epsilon=x) if x is not None else rb.Prioritized("x"),
        lambda x: rb.RankPrioritized(x),
        lambda x: rb.Recent(x),
        lambda x: rb.Mixture([(x, rb.Uniform())]),
        lambda x: rb.Transition(x),
        lambda x: rb.NStep(1, x),
        lambda x: rb.Sequence(3, eta=x),
        lambda x: rb.Hindsight(len, k=x),
        lambda x: rb.linear(x, 1.0, 5),
        lambda x: rb.linear(0.0, x, 5),
        lambda x: rb.linear(0.0, 1.0, x),
    ],
)
def test_a_setting_that_is_no_real_number_is_a_value_error(make: Any, number: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|in \["):
        make(number)


@pytest.mark.parametrize(
    "spec", [{"": "f4"}, {"x": {"": "f4"}}, {"": {"x": "f4"}, "f0": "f4"}, [{"": ("f4", (2,)), "x": "i4"}]]
)
def test_a_field_without_a_name_is_refused(spec: Any) -> None:
    """NumPy calls it f0."""
    with pytest.raises(ValueError, match="schema: a field name is empty"):
        rb.ReplayBuffer(3, {"obs": spec, "action": "i4"})
    with pytest.raises(ValueError, match="schema: a field name is empty"):
        rb.ReplayBuffer(3).add({"": 1.0}, 1, 1.0, {"": 1.0}, False, False)


IN_A_PROCESS = """
import warnings
import numpy as np, torch, replaybank as rb
class Liar(list):
    def __len__(self):
        return super().__len__() + 1
buffer = rb.ReplayBuffer(3, {"obs": "f4", "action": "i4"})
buffer.add(1.0, 1, 1.0, 1.0, False, False)
for device in (Liar([1.0]), Liar(), ("cpu",), 1.5, np.zeros(2)):
    for arguments in ({"device": device}, {"dtype": device}):
        try:
            buffer.sample(1).to_torch(**arguments)
        except TypeError as error:
            assert str(error).startswith("to_torch: "), error
        else:
            raise AssertionError(arguments)
buffer.seed = np.array([[1, 2]]).view(np.matrix)
buffer.sample(1)
print("alive")
"""


def test_a_device_that_lies_and_a_seed_that_is_a_matrix_do_not_end_the_process() -> None:
    """Both do where they reach PyTorch and NumPy."""
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS], capture_output=True, text=True, timeout=120)
    assert done.stdout == "alive\n", done.stderr[-2000:]


def test_textbook_buffers_name_what_they_cannot_hold() -> None:
    torch = pytest.importorskip("torch")
    from replaybank.torch import PrioritizedReplayBuffer, ReplayBuffer

    state = torch.zeros(3)
    for given, words in (
        ((torch.zeros(3, device="meta"), 1, 1.0, state, False), "expected a tensor of numbers"),
        ((np.zeros(3) * 1j, 1, 1.0, state, False), "state: expected real numbers, given complex128"),
        ((state, 1, 1.0, np.zeros(3) * 1j, False), "next_state: expected real numbers, given complex128"),
        ((state, 1j, 1.0, state, False), "action: expected real numbers, given complex128"),
        ((state, {"x": 1}, 1.0, state, False), "action: expected numbers"),
    ):
        buffer = ReplayBuffer(3)
        with pytest.raises(TypeError, match=words):
            buffer.push(*given)
        assert len(buffer) == 0
    buffer.push(state, (state, state), 1.0, state, False)
    assert buffer.sample(1)[1].shape == (1, 2, 3)
    prioritized = PrioritizedReplayBuffer(3)
    prioritized.push(state, 1, 1.0, state, False)
    with pytest.raises(TypeError, match="priority: expected real numbers, given complex128"):
        prioritized.priorities[0] = 1j
    assert prioritized.priorities[0] == 1.0


def test_ids_and_td_errors_that_are_not_aligned_are_taken() -> None:
    """The kernels read them as they lay: undefined behaviour."""
    buffer, twin = filled(rb.Prioritized()), filled(rb.Prioritized())
    ids, errors = np.array([1, 3, 4]), np.array([0.5, 2.0, 7.0])
    apart = [np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1) for array in (ids, errors)]
    assert not any(array.flags.aligned for array in apart)
    assert buffer.update_priorities(*apart) == twin.update_priorities(ids, errors)
    np.testing.assert_equal(buffer.sampler.state(), twin.sampler.state())
    assert buffer.read(apart[0]).obs.tobytes() == twin.read(ids).obs.tobytes()
    with pytest.raises(TypeError, match="aligned"):  # where somebody hands one to a kernel all the same
        kernels.magnitudes(apart[1], 0.0, np.empty(3))
