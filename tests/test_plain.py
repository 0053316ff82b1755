"""Parts written down as plain values are made again as they were, and nothing else is ever made from them."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank.plain import KINDS, SAMPLERS, SETTINGS, VIEWS, described, lost, rebuilt
from replaybank.samplers.base import Sampler
from replaybank.views.base import View

ODD = float(np.nextafter(0.1, 1))  # a float that a few digits do not give


def nested() -> rb.Mixture:
    inner = rb.Mixture(
        [(ODD, rb.SampleOnce()), (1 / 3, rb.RankPrioritized(ODD, rb.linear(ODD, 1, 7), None))], 0.5, None
    )
    return rb.Mixture(
        [(0.1, rb.Combined(rb.Prioritized(1e-300, min_priority=ODD), 3)), (0.2, rb.Uniform(False)), (3, inner)]
    )


PARTS: dict[str, Callable[[], Any]] = {
    "uniform": lambda: rb.Uniform(replace=False),
    "prioritized": lambda: rb.Prioritized(0.7, rb.linear(0.4, 1.0, 9), 1e-5, "buffer", 0.25),
    "lap": lambda: rb.Prioritized(np.float32(0.4), 0.0, weight_norm=None, min_priority=1),
    "rank": lambda: rb.RankPrioritized(0.3, 1, "buffer"),
    "recent": lambda: rb.Recent(rb.linear(0.99, 1.0, 5.5), np.int64(7), 12),
    "combined": lambda: rb.Combined(newest=4),
    "nested": nested,
    "once": rb.SampleOnce,
    "transition": lambda: rb.Transition(ODD),
    "steps": lambda: rb.NStep(np.int64(3), np.float32(0.99)),
    "stacks": lambda: rb.FrameStack(3, -1, "zero", "frames", rb.NStep(2, 0.9)),
    "frames": lambda: rb.FrameStack(4),
    "sequence": lambda: rb.Sequence(np.int64(9), 2, 3, False, np.float64(0.9), 1, True, ["state", "carry"]),
    "linear": lambda: rb.linear(np.float32(0.1), 1, np.int64(50)),
}


def by_json(part: Any) -> Any:
    return json.loads(json.dumps(described(part), allow_nan=False))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_made_again_has_the_same_settings(name: str) -> None:
    part = PARTS[name]()
    again = rebuilt(by_json(part))
    assert type(again) is type(part)
    assert described(again) == described(part)
    assert lost(described(part)) == []
    assert repr(plain_settings(again)) == repr(plain_settings(part))


def plain_settings(part: Any) -> Any:
    """Settings all the way down, by Python's own types: 1 and 1.0 and True differ."""
    if isinstance(part, list | tuple):
        return [plain_settings(one) for one in part]
    if hasattr(part, "settings"):
        return type(part), {name: plain_settings(value) for name, value in part.settings().items()}
    return part


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_settings_are_the_arguments_of_the_constructor(kind: type) -> None:
    wanted = [name for name in inspect.signature(kind).parameters if not name.startswith("_")]
    part = (
        rb.Hindsight(max)
        if kind is rb.Hindsight
        else next(part for part in (make() for make in PARTS.values()) if type(part) is kind)
    )
    assert list(part.settings()) == list(SETTINGS[kind]) == wanted


def test_every_sampler_and_view_of_the_library_is_known() -> None:
    public = [getattr(rb, name) for name in rb.__all__]
    for protocol, known in ((Sampler, SAMPLERS), (View, VIEWS)):
        verbs = [verb for verb in vars(protocol) if not verb.startswith("_")]
        assert {one for one in public if all(hasattr(one, verb) for verb in verbs)} == set(known)


def test_weights_stay_as_they_were_given() -> None:
    """Shares of shares need not be the same floats."""
    for weights in np.random.default_rng(0).random((50, 3)).tolist():
        first = rb.Mixture([(weight, rb.Uniform()) for weight in weights])
        again = rebuilt(by_json(first))
        assert [weight for weight, _ in again.settings()["parts"]] == weights
        assert [share for share, _ in again.parts] == [share for share, _ in first.parts]


def test_settings_are_those_of_now() -> None:
    sampler, view = rb.Prioritized(), rb.NStep(3, 0.9)
    buffer = rb.ReplayBuffer(20, sampler=sampler, view=view, seed=0)
    for t in range(30):
        buffer.add(float(t), t, 1.0, t + 1.0, False, False)
    buffer.update_priorities(np.arange(15, 25), np.linspace(0, 3, 10))
    sampler.alpha, sampler.beta, sampler.epsilon, sampler.min_priority = ODD, rb.linear(0, 1, 3), 0.5, 0.25
    view.n, view.gamma = 2, ODD
    twin = rebuilt(by_json(sampler))
    assert (
        twin.settings()
        == sampler.settings()
        == {"alpha": ODD, "beta": rb.linear(0, 1, 3), "epsilon": 0.5, "weight_norm": "batch", "min_priority": 0.25}
    )
    assert rebuilt(by_json(view)).settings() == {"n": 2, "gamma": ODD}
    twin.attach(20)
    twin.restore(sampler.state())
    for one in (sampler, twin):
        one.added(30, 3)
    drawn = [one.draw(9, np.random.default_rng(1)) for one in (sampler, twin)]
    assert [part.tobytes() for part in drawn[0]] == [part.tobytes() for part in drawn[1]]


def test_an_annealed_exponent_goes_on_where_it_was() -> None:
    first = rb.Mixture([(1, rb.Prioritized(beta=rb.linear(0, 1, 9))), (2, rb.Uniform())], rb.linear(0.1, 0.9, 7))
    first.attach(9)
    first.added(0, 9)
    for _ in range(4):
        first.weights(np.ones(1))
    twin = rebuilt(by_json(first))
    twin.attach(9)
    twin.restore(first.state())
    for _ in range(9):
        shares = np.array([0.1, 0.3, 0.05])
        assert first.weights(shares).tobytes() == twin.weights(shares).tobytes()
        one, other = first.parts[0][1], twin.parts[0][1]
        assert one.weights(shares).tobytes() == other.weights(shares).tobytes()


# ---- what no file can hold -------------------------------------------------------------------------------------------


class Mine(rb.Uniform):
    """A user's own."""


def test_what_cannot_be_described_is_named_and_never_made() -> None:
    def anneal(position: int) -> float:
        return 0.5

    own = f"{__name__}.Mine"
    cases = [
        (Mine(), own),
        (rb.Combined(Mine()), own),
        (rb.Mixture([(1, rb.Uniform()), (1, Mine())]), own),
        (rb.Prioritized(beta=anneal), "anneal"),
        (rb.RankPrioritized(beta=lambda position: 1.0), "<lambda>"),
        (rb.Hindsight(anneal), "anneal"),
        (rb.Prioritized, "Prioritized"),
        (object(), "builtins.object"),
    ]
    for part, name in cases:
        description = by_json(part)
        (what,) = lost(description)
        assert name in what
        with pytest.raises(ValueError, match=f"{name}.*give it again"):
            rebuilt(description)


def test_parts_nested_without_end_are_refused() -> None:
    sampler: Any = rb.Uniform()
    description = described(sampler)
    for _ in range(100):
        sampler = rb.Combined(sampler)
    assert lost(described(sampler)) == ["replaybank.samplers.combined.Combined"]
    for _ in range(50_000):
        description = {"kind": "Combined", "settings": {"sampler": description, "newest": 1}}
    with pytest.raises(ValueError, match="in one another"):
        rebuilt(description)
    numbers: Any = []
    for _ in range(50_000):
        numbers = [numbers]
    with pytest.raises(ValueError, match="in one another"):
        rebuilt(altered("nested", "parts", numbers))


# ---- hostile files ---------------------------------------------------------------------------------------------------


def altered(name: str, setting: str, value: Any) -> Any:
    description = by_json(PARTS[name]())
    description["settings"][setting] = value
    return description


UNIFORM = described(rb.Uniform())
WRONG = [
    *[("prioritized", "alpha", value) for value in (-1.0, float("nan"), float("inf"), "0.6", None, True, [], 10**400)],
    *[("prioritized", "beta", value) for value in (-1, "linear", UNIFORM, {"kind": "max", "settings": {}}, [0.4])],
    *[("prioritized", "weight_norm", value) for value in ("Batch", 1, ["batch"])],
    *[("recent", "updates", value) for value in (0, 1.0, True, 2**63)],
    *[("linear", "steps", value) for value in (0, "9", float("inf"), None)],
    *[("linear", "start", value) for value in ("0.4", float("nan"), True)],
    *[("combined", "sampler", value) for value in (None, 1, described(rb.Transition()), described(rb.linear(0, 1, 2)))],
    *[("nested", "parts", value) for value in ([], [1], [[1]], [[1, 2]], [[0, UNIFORM]], {"kind": "list"}, "ab")],
    *[("nested", "parts", [[weight, UNIFORM]]) for weight in ("1", None, float("nan"), -1)],
    ("nested", "parts", [[1, described(rb.NStep(1, 1.0))]]),
    *[("uniform", "replace", value) for value in (0, "no", None, [])],
    *[("stacks", "k", value) for value in (0, True, 2.0, 2**62)],
    *[("stacks", "axis", value) for value in (1, 0.0, False)],
    *[("stacks", "view", value) for value in (None, UNIFORM, described(rb.FrameStack(2)))],
    *[("sequence", "at_start", value) for value in ("state", [1], [["state"]], None, [{"kind": None}])],
    *[("sequence", "length", value) for value in (0, 2, 9.0, "9", -1)],
    *[("steps", "n", value) for value in (0, 1.5, "3", 10**30)],
    *[("transition", "gamma", value) for value in (1.5, -0.1, float("nan"), "1")],
]


@pytest.mark.parametrize(("name", "setting", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_a_setting_that_cannot_be_is_refused(name: str, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|must be|cannot be"):
        rebuilt(altered(name, setting, value))


@pytest.mark.parametrize("name", PARTS)
def test_settings_must_be_all_there_and_no_others(name: str) -> None:
    whole = by_json(PARTS[name]())
    for setting in whole["settings"]:
        missing = copy.deepcopy(whole)
        del missing["settings"][setting]
        with pytest.raises(ValueError, match="expected the settings"):
            rebuilt(missing)
    with pytest.raises(ValueError, match="expected the settings"):
        rebuilt(altered(name, "more", 1))
    with pytest.raises(ValueError, match="expected the settings"):
        rebuilt({**whole, "more": 1})
    for wrong in (None, [], "settings", 3):
        with pytest.raises(ValueError, match="expected the settings"):
            rebuilt({"kind": whole["kind"], "settings": wrong})


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "os.system",
        "uniform",
        "Schema",
        "ReplayBuffer",
        "__class__",
        "Mine",
        1,
        True,
        [],
        {},
        ["Uniform"],
        "x" * 10**6,
    ],
)
def test_a_kind_that_is_none_of_the_librarys_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"expected one of .*found") as refused:
        rebuilt({"kind": kind, "settings": {}})
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("wrong", [None, 1, "Uniform", [], [UNIFORM], {}, {"settings": {}}])
def test_what_is_no_description_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected a description"):
        rebuilt(wrong)


def test_a_kind_of_another_place_is_refused() -> None:
    assert isinstance(rebuilt(UNIFORM, SAMPLERS), rb.Uniform)
    with pytest.raises(ValueError, match=r"expected one of FrameStack.*found 'Uniform'"):
        rebuilt(UNIFORM, VIEWS)
