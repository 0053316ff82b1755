"""Bad input is refused with an error that names the field, what was given and what was expected, and changes nothing.

"Nothing" is checked against a twin that never saw the bad call: contents, counts, the next batches, and what linked
adds do afterwards are the same, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from oracle import leaves, same_batch

CAPACITY = 12
NAN, INF = float("nan"), float("inf")

FLAT = {"obs": ("float32", (3,)), "action": "int64", "reward": "float32"}
NESTED = {
    "obs": {"camera": ("uint8", (2, 2)), "pair": ["float32", ("int16", (2,))]},
    "action": ("float32", (2,)),
    "log_prob": "float32",
}


def good(kind: str, t: int) -> dict[str, Any]:
    """The t-th transition of a linked life."""
    if kind == "nested":

        def look(t: int) -> dict[str, Any]:
            return {"camera": np.full((2, 2), t, np.uint8), "pair": (np.float32(t), np.full(2, t, np.int16))}

        fields = {"obs": look(t), "next_obs": look(t + 1), "action": np.full(2, t, np.float32), "log_prob": -1.0}
        return {**fields, "reward": float(t), "terminated": t % 5 == 4, "truncated": False}
    lead = (3,) if kind == "wide" else ()
    return {
        "obs": np.full((*lead, 3), t, np.float32),
        "action": np.full(lead, t),
        "reward": np.full(lead, t, np.float32),
        "next_obs": np.full((*lead, 3), t + 1, np.float32),
        "terminated": np.full(lead, t % 5 == 4),
        "truncated": np.full(lead, False),
    }


SCHEMAS = {"flat": FLAT, "nested": NESTED, "wide": FLAT}
SAMPLERS: dict[str, Callable[[], Any]] = {
    "uniform": rb.Uniform,
    "without": lambda: rb.Uniform(replace=False),
    "prioritized": lambda: rb.Prioritized(alpha=0.7, weight_norm="buffer"),
}


def filled(kind: str, sampler: str, steps: int = 9) -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(
        CAPACITY, SCHEMAS[kind], 3 if kind == "wide" else 1, SAMPLERS[sampler](), rb.NStep(2, 0.9), seed=3
    )
    for t in range(steps):
        buffer.add(**good(kind, t))
    if steps:
        newest = buffer.stats()["added"] - 1
        buffer.update_priorities([newest, newest - 1], [0.3, 4.0])
    return buffer


def counts(buffer: rb.ReplayBuffer) -> dict[str, Any]:
    return {name: count for name, count in buffer.stats().items() if name != "age_seconds"}


def assert_twins(buffer: rb.ReplayBuffer, twin: rb.ReplayBuffer, kind: str, t: int) -> None:
    """Both hold the same and go on alike, from the linked transition t on."""
    buffer.check_valid()
    for turn in range(4):
        assert counts(buffer) == counts(twin)
        np.testing.assert_equal(buffer.sampler.state(), twin.sampler.state())
        if len(twin):
            n = min(len(twin), 7)
            assert same_batch(buffer.sample(n), twin.sample(n))
            ids = np.arange(buffer.stats()["added"] - len(twin), buffer.stats()["added"])
            for whole in (rb.Transition(), rb.NStep(4, 0.5)):
                # Everything it holds: what no sampler can show at once. The one look past the public names.
                one, other = (whole.read(b._rows, ids, b._rng) for b in (buffer, twin))
                names = [name for name, _ in one.items() if name not in ("indices", "probabilities", "weights")]
                for name in names:
                    assert [x.tobytes() for x in leaves(one[name])] == [x.tobytes() for x in leaves(other[name])]
        assert buffer.add(**good(kind, t + turn)) == twin.add(**good(kind, t + turn))
    buffer.check_valid()


def refused(call: Callable[[], Any], words: list[str]) -> None:
    """It raises ValueError or TypeError, and the text has all the words (regular expressions)."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def torch_with_gradient(*shape: int) -> Any:
    torch = pytest.importorskip("torch")
    return torch.zeros(shape, requires_grad=True)


class NotAnArray:
    """Says nothing NumPy understands."""


# (kind of buffer, changed fields, words of the message)
BAD_FIELDS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "obs too long": ("flat", {"obs": np.zeros(4, np.float32)}, ["obs", r"expected shape \(3,\)", r"given \(4,\)"]),
    "obs a scalar": ("flat", {"obs": 1.0}, ["obs", r"expected shape \(3,\)", r"given \(\)"]),
    "obs with an axis too many": ("flat", {"obs": np.zeros((3, 1), np.float32)}, ["obs", r"\(3,\)", r"\(3, 1\)"]),
    "next_obs of another shape": ("flat", {"next_obs": np.zeros(2, np.float32)}, ["next_obs", r"\(3,\)", r"\(2,\)"]),
    "reward an array": ("flat", {"reward": np.zeros(2, np.float32)}, ["reward", r"expected shape \(\)", r"\(2,\)"]),
    "terminated an array": ("flat", {"terminated": np.zeros(2, bool)}, ["terminated|obs", "expected", "given"]),
    "truncated an array": ("flat", {"truncated": np.zeros(2, bool)}, ["truncated", r"expected shape \(\)", r"\(2,\)"]),
    "a vector environment in a buffer of one stream": (
        "flat",
        good("wide", 9),
        ["obs", r"expected shape \(3,\)", r"given \(3, 3\)", "streams"],
    ),
    "one transition in a buffer of three streams": (
        "wide",
        good("flat", 9),
        ["obs", r"expected shape \(3, 3\)", r"given \(3,\)", "leading axis"],
    ),
    "two of three streams": (
        "wide",
        {name: value[:2] for name, value in good("wide", 9).items()},
        ["obs", r"expected shape \(3, 3\)", r"given \(2, 3\)", "leading axis"],
    ),
    "one field for two streams": ("wide", {"reward": np.zeros(2, np.float32)}, ["reward", r"\(3,\)", r"\(2,\)"]),
    "NaN reward": ("flat", {"reward": NAN}, ["reward", "finite", "given nan"]),
    "NaN reward, float32": ("flat", {"reward": np.float32(NAN)}, ["reward", "finite", "given nan"]),
    "NaN reward, 0-d": ("flat", {"reward": np.array(NAN)}, ["reward", "finite", "given nan"]),
    "infinite reward": ("flat", {"reward": -INF}, ["reward", "finite", "given -inf"]),
    "NaN reward of one stream": ("wide", {"reward": np.float32([1, NAN, 2])}, ["reward", "finite", "nan", r"\(1,\)"]),
    "NaN reward, float64, of one stream": ("wide", {"reward": np.array([1, 2, NAN])}, ["reward", "finite", "nan"]),
    "NaN reward in a nested buffer": ("nested", {"reward": NAN}, ["reward", "finite", "nan"]),
    "NaN reward in float16": ("flat", {"reward": np.float16(NAN)}, ["reward", "finite", "nan"]),
    "NaN reward in long double": ("flat", {"reward": np.longdouble(NAN)}, ["reward", "finite", "nan"]),
    "float action": ("flat", {"action": 1.5}, ["action", "expected int64", "float64"]),
    "whole float action": ("flat", {"action": np.float32(1)}, ["action", "expected int64", "float32"]),
    "complex obs": ("flat", {"obs": np.zeros(3, complex)}, ["obs", "expected float32", "complex128"]),
    "complex reward": ("flat", {"reward": 1j}, ["reward", "expected float32", "complex128"]),
    "300 in uint8": (
        "nested",
        {"obs": {**good("nested", 9)["obs"], "camera": np.full((2, 2), 300)}},
        [r'obs\["camera"\]', "uint8", "300"],
    ),
    "-1 in uint8": (
        "nested",
        {"obs": {**good("nested", 9)["obs"], "camera": np.full((2, 2), -1)}},
        [r'obs\["camera"\]', "uint8", "-1"],
    ),
    "uint64 beyond int64": ("flat", {"action": np.uint64(2**63)}, ["action", "int64", str(2**63)]),
    "huge int action": ("flat", {"action": 2**70}, ["action", "expected", "given"]),
    "huge int reward": ("flat", {"reward": 10**400}, ["reward", "expected", "given"]),
    "1e300 reward": ("flat", {"reward": 1e300}, ["reward", "float32", "float64"]),
    "1e300 in obs": ("flat", {"obs": np.array([0, 1e300, 0])}, ["obs", "float32", "float64"]),
    "1e300 in a list": ("flat", {"obs": [0.0, 1e300, 0.0]}, ["obs", "float32", "float64"]),
    "two for a flag": ("flat", {"terminated": 2}, ["terminated", "bool", "int64"]),
    "half for a flag": ("flat", {"truncated": 0.5}, ["truncated", "bool", "float64"]),
    "None for a flag": ("flat", {"truncated": None}, ["truncated", "expected", "None"]),
    "None for obs": ("flat", {"obs": None}, ["obs", "expected", "None"]),
    "string reward": ("flat", {"reward": "1.0"}, ["reward", "expected numbers", "str"]),
    "string action": ("flat", {"action": np.str_("1")}, ["action", "expected numbers", "str"]),
    "bytes obs": ("flat", {"obs": b"abc"}, ["obs", "expected numbers", "bytes"]),
    "date reward": ("flat", {"reward": np.datetime64("2020-01-01")}, ["reward", "expected numbers", "datetime64"]),
    "ragged obs": ("flat", {"obs": [[1.0], [1.0, 2.0]]}, ["obs", "expected", "list"]),
    "ragged terminated": ("flat", {"terminated": [[True], [True, False]]}, ["terminated", "expected", "list"]),
    "ragged truncated": ("flat", {"truncated": [[True], [True, False]]}, ["truncated", "expected", "list"]),
    "an object": ("flat", {"obs": NotAnArray()}, ["obs", "expected", "NotAnArray"]),
    "an array of objects": ("flat", {"obs": np.array([1, None, 2])}, ["obs", "expected", "object"]),
    "a structured array": ("flat", {"obs": np.zeros(3, [("x", "f4")])}, ["obs", "expected numbers", "x"]),
    "a mapping for an array": ("flat", {"obs": {"x": np.zeros(3)}}, ["obs", "expected", "dict"]),
    "an array for a mapping": ("nested", {"obs": np.zeros(3)}, ["obs", "expected a mapping", "camera", "ndarray"]),
    "a nested field missing": (
        "nested",
        {"obs": without(good("nested", 9)["obs"], "pair")},
        ["obs", "missing 'pair'", "camera, pair"],
    ),
    "a nested field unknown": (
        "nested",
        {"next_obs": {**good("nested", 9)["next_obs"], "sound": 1.0}},
        ["next_obs", "unknown 'sound'", "camera, pair"],
    ),
    "a tuple too short": (
        "nested",
        {"obs": {**good("nested", 9)["obs"], "pair": (1.0,)}},
        [r'obs\["pair"\]', "tuple of 2", "given 1"],
    ),
    "a number for a tuple": (
        "nested",
        {"obs": {**good("nested", 9)["obs"], "pair": 1.0}},
        [r'obs\["pair"\]', "tuple of 2", "float"],
    ),
    "a wrong shape deep inside": (
        "nested",
        {"next_obs": {**good("nested", 9)["next_obs"], "pair": (1.0, np.zeros(3, np.int16))}},
        [r'next_obs\["pair"\]\["1"\]', r"expected shape \(2,\)", r"given \(3,\)"],
    ),
    "an unknown extra": ("flat", {"log_prob": 1.0}, ["unknown field 'log_prob'", "obs, action"]),
    "an unknown extra beside a known one": ("nested", {"value": 1.0}, ["unknown field 'value'", "log_prob"]),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_bad_add_names_the_field_and_changes_nothing(case: str, sampler: str) -> None:
    kind, changed, words = BAD_FIELDS[case]
    buffer, twin = filled(kind, sampler), filled(kind, sampler)
    refused(lambda: buffer.add(**{**good(kind, 9), **changed}), words)
    assert_twins(buffer, twin, kind, 9)


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_bad_first_add_leaves_the_buffer_empty(case: str) -> None:
    """Also where the schema is known but nothing was added yet."""
    kind, changed, words = BAD_FIELDS[case]
    buffer, twin = filled(kind, "prioritized", steps=0), filled(kind, "prioritized", steps=0)
    refused(lambda: buffer.add(**{**good(kind, 0), **changed}), words)
    assert len(buffer) == 0
    assert_twins(buffer, twin, kind, 0)


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs", "terminated", "truncated"])
@pytest.mark.parametrize("verb", ["add", "extend"])
def test_a_missing_argument_is_named(verb: str, name: str) -> None:
    buffer, twin = filled("flat", "uniform"), filled("flat", "uniform")
    refused(lambda: getattr(buffer, verb)(**without(good("flat", 9), name)), ["missing", name])
    assert_twins(buffer, twin, "flat", 9)


@pytest.mark.parametrize("steps", [0, 9])
def test_a_missing_extra_is_named(steps: int) -> None:
    buffer, twin = filled("nested", "uniform", steps), filled("nested", "uniform", steps)
    refused(lambda: buffer.add(**without(good("nested", 9), "log_prob")), ["missing field 'log_prob'", "obs, action"])
    assert_twins(buffer, twin, "nested", steps)


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs", "terminated", "truncated"])
def test_a_tensor_that_needs_a_gradient_is_refused_by_name(name: str) -> None:
    buffer, twin = filled("flat", "uniform"), filled("flat", "uniform")
    shape = (3,) if "obs" in name else ()
    refused(lambda: buffer.add(**{**good("flat", 9), name: torch_with_gradient(*shape)}), [name, "grad"])
    assert_twins(buffer, twin, "flat", 9)


BAD_EXTENDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a field shorter than the others": ({"reward": np.zeros(4, np.float32)}, ["reward", r"\(5,\)", r"\(4,\)"]),
    "flags of another length": ({"truncated": np.zeros(6, bool)}, ["truncated", r"\(5,\)", r"\(6,\)"]),
    "terminated shorter": ({"terminated": np.zeros(4, bool)}, ["expected", r"\(4", r"\(5"]),
    "a single flag": ({"terminated": False}, ["terminated", r"\(n,\)", r"given \(\)", "add"]),
    "ragged flags": ({"terminated": [[True], [True, False]]}, ["terminated", "expected", "list"]),
    "a NaN in the middle": ({"reward": np.float32([1, 2, NAN, 4, 5])}, ["reward", "finite", "nan", r"\(2,\)"]),
    "one value too large": ({"obs": np.full((5, 3), 1e39)}, ["obs", "float32", "float64"]),
    "a float action": ({"action": np.zeros(5)}, ["action", "int64", "float64"]),
    "a stream that is not there": ({"stream": 3}, ["stream", "0 to 2", "given 3"]),
    "a negative stream": ({"stream": -1}, ["stream", "0 to 2", "given -1"]),
    "a stream that is no number": ({"stream": "left"}, ["stream", "0 to 2", "left"]),
    "half a stream": ({"stream": 0.5}, ["stream", "0 to 2", "0.5"]),
    "an unknown extra": ({"log_prob": np.zeros(5)}, ["unknown field 'log_prob'"]),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("case", BAD_EXTENDS)
def test_a_bad_extend_adds_none_of_its_transitions(case: str, sampler: str) -> None:
    changed, words = BAD_EXTENDS[case]
    run = {
        "obs": np.full((5, 3), 9, np.float32),
        "action": np.arange(5),
        "reward": np.arange(5, dtype=np.float32),
        "next_obs": np.full((5, 3), 10, np.float32),
        "terminated": np.zeros(5, bool),
        "truncated": np.zeros(5, bool),
    }
    buffer, twin = filled("wide", sampler), filled("wide", sampler)
    refused(lambda: buffer.extend(**{**run, **changed}), words)
    assert_twins(buffer, twin, "wide", 9)


def test_extending_by_nothing_still_checks_the_names() -> None:
    buffer, twin = filled("flat", "uniform"), filled("flat", "uniform")
    nothing = {name: np.asarray(value)[None][:0] for name, value in good("flat", 9).items()}
    refused(lambda: buffer.extend(**nothing, log_prob=np.zeros(0)), ["unknown field 'log_prob'"])
    assert_twins(buffer, twin, "flat", 9)


@pytest.mark.parametrize(
    "changed",
    [{"reward": NAN}, {"obs": "x"}, {"reward": 1j}, {"obs": [[1], [1, 2]]}, {"next_obs": np.zeros(2)}, {"done": 1}],
)
def test_a_bad_first_add_settles_no_schema(changed: dict[str, Any]) -> None:
    """Where the schema is inferred, what failed must not be what it is inferred from."""
    buffer, twin = rb.ReplayBuffer(CAPACITY, seed=1), rb.ReplayBuffer(CAPACITY, seed=1)
    refused(lambda: buffer.add(**{**good("flat", 0), **changed}), list(changed))
    assert buffer.schema is None
    assert counts(buffer) == counts(twin)
    assert_twins(buffer, twin, "nested", 0)


# ---- priorities ------------------------------------------------------------------------------------------------------

OLD, NEW = 15, 26  # ids of a "wide" buffer of 12 after 9 adds: 15 … 26
BAD_PRIORITIES: dict[str, tuple[Any, Any, list[str]]] = {
    "NaN": ([OLD, NEW], [1.0, NAN], ["td_error", "finite", "nan", "position 1"]),
    "infinite": ([OLD, NEW], [-INF, 1.0], ["td_error", "finite", "-inf", "position 0"]),
    "NaN for an id that has left": ([0, NEW], [NAN, 1.0], ["td_error", "finite", "nan"]),
    "too few": ([OLD, NEW], [1.0], ["td_error", r"\(2,\)", r"\(1,\)"]),
    "too many": ([OLD], [1.0, 2.0], ["td_error", r"\(1,\)", r"\(2,\)"]),
    "one for two": ([OLD, NEW], 1.0, ["td_error", r"\(2,\)"]),
    "a column": ([OLD, NEW], [[1.0], [2.0]], ["td_error", r"\(2,\)", r"\(2, 1\)"]),
    "strings": ([OLD], ["big"], ["td_error", "expected numbers", "list"]),
    "ragged": ([OLD, NEW], [[1.0], [1.0, 2.0]], ["td_error", "expected", "list"]),
    "None": ([OLD], None, ["td_error", "expected numbers", "None"]),
    "complex": ([OLD], [1 + 2j], ["td_error", "expected", "complex"]),
    "never given out": ([OLD, 27], [1.0, 2.0], ["indices", "27", "never given out", "0 to 26"]),
    "far beyond": ([10**9], [1.0], ["indices", str(10**9), "never given out"]),
    "negative": ([-1], [1.0], ["indices", "-1", "never given out"]),
    "beyond int64": (np.array([2**63 + 5], np.uint64), [1.0], ["indices", str(2**63 + 5), "never given out"]),
    "huge": ([2**70], [1.0], ["indices", "expected", "given"]),
    "float ids": ([15.0, 26.0], [1.0, 2.0], ["indices", "expected integers", "float64"]),
    "bool ids": ([True], [1.0], ["indices", "expected integers", "bool"]),
    "ids in two axes": ([[OLD], [NEW]], [[1.0], [2.0]], ["indices", r"\(n,\)", r"\(2, 1\)"]),
    "one id": (OLD, 1.0, ["indices", r"\(n,\)", r"\(\)"]),
    "ids as strings": (["15"], [1.0], ["indices", "expected numbers", "list"]),
}


@pytest.mark.parametrize("case", BAD_PRIORITIES)
def test_bad_priorities_are_named_and_none_is_set(case: str) -> None:
    ids, errors, words = BAD_PRIORITIES[case]
    buffer, twin = filled("wide", "prioritized"), filled("wide", "prioritized")
    refused(lambda: buffer.update_priorities(ids, errors), words)
    assert_twins(buffer, twin, "wide", 9)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_a_td_error_too_large_to_sum_is_named_and_none_is_set(alpha: float) -> None:
    buffer, twin = filled("wide", "prioritized"), filled("wide", "prioritized")
    for one in (buffer, twin):
        one.sampler.alpha = alpha
    refused(lambda: buffer.update_priorities([NEW, OLD], [1.0, 1.7e308]), ["td_error", r"1.7e\+308", "alpha"])
    assert_twins(buffer, twin, "wide", 9)


def test_a_tensor_of_td_errors_that_needs_a_gradient_is_named() -> None:
    buffer, twin = filled("wide", "prioritized"), filled("wide", "prioritized")
    refused(lambda: buffer.update_priorities([OLD], torch_with_gradient(1)), ["td_error", "grad"])
    assert_twins(buffer, twin, "wide", 9)


def test_priorities_before_the_first_add_are_refused() -> None:
    for buffer in (rb.ReplayBuffer(5, sampler=rb.Prioritized()), rb.ReplayBuffer(5)):
        refused(lambda buffer=buffer: buffer.update_priorities([0], [1.0]), ["indices", "0", "never given out"])
        assert buffer.update_priorities([], []) == rb.PriorityReport(0, 0)


@pytest.mark.parametrize("ids", [[0, 14, OLD, NEW], [0, 0, 1], list(range(27))])
def test_overwritten_ids_are_skipped_and_counted(ids: list[int]) -> None:
    buffer, twin = filled("wide", "prioritized"), filled("wide", "prioritized")
    stale_before = buffer.stats()["stale"]
    errors = np.linspace(-3, 3, len(ids))
    live = [(id_, error) for id_, error in zip(ids, errors, strict=True) if id_ >= OLD]
    assert buffer.update_priorities(ids, errors) == rb.PriorityReport(len(live), len(ids) - len(live))
    assert buffer.stats()["stale"] == stale_before + len(ids) - len(live)
    twin.update_priorities([id_ for id_, _ in live], [error for _, error in live])
    twin._stale = buffer._stale  # the only thing in which they may differ
    assert_twins(buffer, twin, "wide", 9)


def test_negative_td_errors_count_by_their_size() -> None:
    buffer, twin = filled("wide", "prioritized"), filled("wide", "prioritized")
    buffer.update_priorities([OLD, NEW], [-2.0, -0.0])
    twin.update_priorities([OLD, NEW], [2.0, 0.0])
    assert_twins(buffer, twin, "wide", 9)


# ---- sampling and making ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 2.0, 2.5, "3", None, [1], NAN, 2**70])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_bad_batch_size_is_named(sampler: str, n: Any) -> None:
    buffer, twin = filled("flat", sampler), filled("flat", sampler)
    refused(lambda: buffer.sample(n), ["sample", "n: expected", "given"])
    assert_twins(buffer, twin, "flat", 9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_empty_buffer_gives_nothing(sampler: str) -> None:
    buffer, twin = filled("flat", sampler, steps=0), filled("flat", sampler, steps=0)
    refused(lambda: buffer.sample(4), ["asked for 4", "empty", "add"])
    assert_twins(buffer, twin, "flat", 0)
    refused(lambda: rb.ReplayBuffer(5, sampler=SAMPLERS[sampler]()).sample(1), ["asked for 1", "empty"])
    buffer.clear()
    refused(lambda: buffer.sample(4), ["asked for 4", "empty"])


def test_more_than_it_holds_is_refused_without_replacement() -> None:
    buffer, twin = filled("flat", "without"), filled("flat", "without")
    refused(lambda: buffer.sample(10), ["at most 9", "without replacement", "10"])
    assert_twins(buffer, twin, "flat", 9)


@pytest.mark.parametrize("name", ["capacity", "streams"])
@pytest.mark.parametrize("value", [0, -5, 2**31, 2**70, 1.5, 8.0, "8", None, [8], NAN])
def test_capacity_and_streams_must_be_positive_whole_numbers(name: str, value: Any) -> None:
    refused(lambda: rb.ReplayBuffer(**({"capacity": 8} | {name: value})), [name, "expected", "given"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sampler", rb.Uniform),
        ("sampler", rb.Prioritized),
        ("sampler", "uniform"),
        ("sampler", rb.NStep(1, 0.9)),
        ("view", rb.NStep),
        ("view", rb.Transition),
        ("view", "nstep"),
        ("view", rb.Uniform()),
        ("view", 3),
    ],
)
def test_a_part_must_be_an_instance_of_what_it_should_be(name: str, value: Any) -> None:
    refused(lambda: rb.ReplayBuffer(8, **{name: value}), [f"{name}: expected", "given"])


@pytest.mark.parametrize(
    "schema", ["float32", 5, {"obs": "float32"}, {"obs": "str", "action": "int64"}, {"obs": object}]
)
def test_a_bad_schema_is_refused_where_the_buffer_is_made(schema: Any) -> None:
    refused(lambda: rb.ReplayBuffer(8, schema), ["schema"])


@pytest.mark.parametrize("dtype", ["float16", "longdouble", "int64", "complex64", "bool"])
def test_a_reward_whose_nan_the_kernel_could_not_see_is_no_schema(dtype: str) -> None:
    name = np.dtype(dtype).name  # long double is float128 or float96
    refused(lambda: rb.ReplayBuffer(8, {**FLAT, "reward": dtype}), ["reward", "float32 or float64", name])


@pytest.mark.parametrize("code", "?bBhHiIlLqQefdg")
def test_a_first_reward_of_any_real_dtype_is_kept_as_float32_and_nan_is_refused_ever_after(code: str) -> None:
    buffer = rb.ReplayBuffer(8)
    fields = {**good("flat", 0), "reward": np.ones((), code)[()]}
    buffer.add(**fields)
    buffer.add(**fields)
    assert buffer.sample(3).reward.dtype == np.float32
    for kind in "efdg":
        for nan in (np.array(NAN, kind), np.array(NAN, kind)[()]):
            refused(lambda nan=nan: buffer.add(**{**fields, "reward": nan}), ["reward", "finite", "nan"])
    assert len(buffer) == 2


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_values_are_copied_on_add() -> None:
    """Gymnasium #1132: environments reuse their observation arrays."""
    for kind in ("flat", "nested", "wide"):
        buffer, twin = filled(kind, "uniform"), filled(kind, "uniform")
        fields = good(kind, 9)
        buffer.add(**fields)
        twin.add(**good(kind, 9))
        for value in fields.values():
            for leaf in leaves(value):
                if leaf.flags.writeable:
                    leaf[...] = 77
        assert_twins(buffer, twin, kind, 10)


def test_values_are_copied_on_extend_and_where_they_need_converting() -> None:
    for dtype in (np.float32, np.float64, np.int32):
        buffers = [rb.ReplayBuffer(20, FLAT, seed=1) for _ in range(2)]
        obs = np.arange(33, dtype=dtype).reshape(11, 3)
        for buffer, array in zip(buffers, (obs, obs.copy()), strict=True):
            off = np.zeros(10, bool)
            buffer.extend(array[:-1], np.arange(10), np.ones(10), array[1:], off, off)
        obs[:] = 77
        assert_twins(*buffers, "flat", 10)


@pytest.mark.parametrize("kind", ["flat", "nested", "wide"])
def test_the_callers_arrays_are_never_changed(kind: str) -> None:
    buffer = filled(kind, "prioritized")
    fields = good(kind, 9)
    for value in fields.values():
        for leaf in leaves(value):
            leaf.setflags(write=False)
    buffer.add(**fields)  # a write to a read-only array would raise in Python; the kernel's would show below
    for name, value in good(kind, 9).items():
        assert [leaf.tobytes() for leaf in leaves(fields[name])] == [leaf.tobytes() for leaf in leaves(value)]
    newest = buffer.stats()["added"] - 1
    ids, errors = np.array([newest, newest, 0]), np.array([-1.0, 2.0, 3.0])
    kept = ids.copy(), errors.copy()
    buffer.update_priorities(ids, errors)
    assert np.array_equal(ids, kept[0])
    assert np.array_equal(errors, kept[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampled_batch_stays_as_it_is(sampler: str) -> None:
    buffer = filled("flat", sampler)
    batch = buffer.sample(9)
    kept = {name: value.copy() for name, value in batch.items()}
    for t in range(9, 60):
        buffer.add(**good("flat", t))
    buffer.update_priorities([59], [5.0])
    buffer.sample(9)
    buffer.clear()
    for name, value in batch.items():
        assert value.tobytes() == kept[name].tobytes()


def test_writing_into_a_batch_changes_neither_the_buffer_nor_another_batch() -> None:
    buffer, twin = filled("flat", "prioritized"), filled("flat", "prioritized")
    first = buffer.sample(5)
    twin.sample(5)
    for name in list(first.keys()):
        first[name][...] = 0
    assert_twins(buffer, twin, "flat", 9)


# ---- odd but good ----------------------------------------------------------------------------------------------------

ODD_BUT_GOOD: dict[str, dict[str, Any]] = {
    "lists": {"obs": [9.0, 9.0, 9.0], "next_obs": [10, 10, 10]},
    "float64": {"obs": np.full(3, 9.0), "reward": np.float64(9)},
    "integers for floats": {"obs": np.full(3, 9), "reward": 9},
    "other integers": {"action": np.int8(9)},
    "unsigned": {"action": np.uint64(9)},
    "long long": {"action": np.longlong(9)},
    "long long array": {"action": np.array(9, np.longlong)},
    "flags as 0 and 1": {"terminated": 1, "truncated": np.float32(0)},
    "big endian": {"obs": np.full(3, 9, ">f4"), "action": np.array(9, ">i8")},
    "strided": {"obs": np.full(6, 9, np.float32)[::2]},
    "backwards": {"obs": np.full(3, 9, np.float32)[::-1]},
    "read-only": {"obs": np.frombuffer(np.full(3, 9, np.float32).tobytes(), np.float32)},
    "unaligned": {"obs": np.frombuffer(b"x" + np.full(3, 9, np.float32).tobytes(), np.float32, offset=1)},
    "unaligned scalar": {"reward": np.frombuffer(b"x" + np.float32(9).tobytes(), np.float32, offset=1).reshape(())},
    "broadcast": {"obs": np.broadcast_to(np.float32(9), 3)},
    "a subclass": {"obs": np.ma.array([9.0, 9.0, 9.0], dtype=np.float32), "reward": np.ma.array(9.0)},
    "a record's field": {"obs": np.full(3, 9, [("pad", "u1"), ("x", "f4")])["x"] * 0 + np.float32(9)},
    "packed field": {"reward": np.array((1, 9), [("pad", "u1"), ("x", "f4")])["x"]},
    "bool action": {"action": np.bool_(True)},
}


@pytest.mark.parametrize("case", ODD_BUT_GOOD)
@pytest.mark.parametrize("steps", [0, 9])
def test_what_fits_is_taken_whatever_its_form(case: str, steps: int) -> None:
    """The same values in another form make the same buffer, also as the first transition of a known schema."""
    buffer, twin = filled("flat", "uniform", steps), filled("flat", "uniform", steps)
    plain = good("flat", 9) | ({"action": 1} if case == "bool action" else {})
    plain |= {"terminated": True}
    changed = {**plain, **ODD_BUT_GOOD[case]}
    assert buffer.add(**changed) == twin.add(**plain)
    assert_twins(buffer, twin, "flat", 10)


def test_a_schema_may_name_any_numeric_dtype() -> None:
    """Every dtype of NumPy's numbers, the platform's aliases among them, takes its own arrays and scalars and int 1."""
    for code in "?bBhHiIlLqQefdgFDG":
        buffer = rb.ReplayBuffer(4, {"obs": (code, (2,)), "action": code})
        one = np.ones(2, code)
        buffer.add(one, one[0], 1.0, one, False, False)
        buffer.add(one, 1, 1.0, one, False, False)
        assert buffer.sample(3).obs.tolist() == [[1, 1]] * 3


def test_tensors_without_gradient_are_taken() -> None:
    torch = pytest.importorskip("torch")
    buffer, twin = filled("flat", "uniform"), filled("flat", "uniform")
    fields = {name: torch.as_tensor(value) for name, value in good("flat", 9).items()}
    buffer.add(**fields)
    twin.add(**good("flat", 9))
    assert_twins(buffer, twin, "flat", 10)


VERBS = {
    "sampler": "attach added dropped draw probability_of effective_size distinct weights failed priorities update "
    "settings state restore nbytes bytes_for check_valid",
    "view": "read stack usable members settings",
}
PARTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "sampler": ("sampler", lambda part: rb.ReplayBuffer(9, sampler=part)),
    "view": ("view", lambda part: rb.ReplayBuffer(9, view=part)),
    "another sampler": ("sampler", lambda part: setattr(rb.ReplayBuffer(9), "sampler", part)),
    "another view": ("view", lambda part: setattr(rb.ReplayBuffer(9), "view", part)),
    "read": ("view", lambda part: rb.ReplayBuffer(9).read([], view=part)),
    "combined": ("sampler", lambda part: rb.Combined(part)),
    "mixture": ("sampler", lambda part: rb.Mixture([(1.0, part)])),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_ones_own_that_lacks_a_verb_is_refused_where_it_is_given(case: str) -> None:
    kind, give = PARTS[case]
    verbs = VERBS[kind].split()
    for verb in verbs:
        part = type("Mine", (), {name: lambda self, *arguments: None for name in verbs if name != verb})()
        with pytest.raises(TypeError, match=rf"Mine object .* cannot {verb}; .*{kind.title()} says what it must do"):
            give(part)
    with pytest.raises(TypeError, match=f"expected a {kind} such as"):
        give(object())


def test_a_sampler_that_fails_leaves_a_buffer_that_goes_on() -> None:
    """Rows hold what was added by then; whoever was not told of it hears of it with the next."""

    class Fails(rb.Uniform):
        broken = False

        def added(self, first_id: int, n: int) -> None:
            if self.broken:
                raise RuntimeError("the user's own")
            super().added(first_id, n)

    fails, told = Fails(), rb.Prioritized()
    buffer = rb.ReplayBuffer(CAPACITY, FLAT, sampler=rb.Mixture([(1, fails), (1, told)]), seed=0)
    for t in range(2 * CAPACITY):
        fails.broken = t % 3 == 1
        if fails.broken:
            with pytest.raises(RuntimeError, match="the user's own"):
                buffer.add(**good("flat", t))
        else:
            buffer.add(**good("flat", t))
            buffer.check_valid()
            assert len(told.window) == len(fails.window) == len(buffer)
    ids = buffer.read(np.arange(CAPACITY, 2 * CAPACITY)).obs[:, 0].tolist()
    assert ids == list(range(CAPACITY, 2 * CAPACITY))
    assert buffer.sample(200).indices.min() >= CAPACITY
