"""Verdicts against every way an interval can lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from replaybank.study import SettingError
from replaybank.study.claims import decide, decide_within
from replaybank.study.configs import check_at_least_one, check_names, rebuilt
from replaybank.study.stats import Interval

NOTHING = Interval(3.0, math.nan, math.nan)


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (1, 2, "reproduced", "not reproduced"),
        (-2, -1, "not reproduced", "reproduced"),
        (-1, 1, "undecided", "undecided"),
        (0, 1, "undecided", "undecided"),  # the bound itself is on neither side
        (-1, 0, "undecided", "undecided"),
    ],
)
def test_a_side_is_decided_by_the_whole_interval(low: float, high: float, above: str, below: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert decide(interval, "above", seeds=5) == above
    assert decide(interval, "below", seeds=5) == below
    moved = Interval(interval.estimate + 7, low + 7, high + 7)
    assert decide(moved, "above", bound=7, seeds=5) == above
    assert decide(interval, "above", seeds=4) == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.9, 1.1, "reproduced"),
        (0.8, 1.2, "reproduced"),
        (0.7, 1.1, "undecided"),
        (1.1, 1.3, "undecided"),
        (1.3, 1.4, "not reproduced"),
        (0.1, 0.2, "not reproduced"),
        (0.1, 5.0, "undecided"),
    ],
)
def test_a_range_is_decided_by_the_whole_interval(low: float, high: float, outcome: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert decide_within(interval, 0.8, 1.2, seeds=5) == outcome
    assert decide_within(interval, 0.8, 1.2, seeds=4) == "undecided"


def test_no_interval_decides_nothing() -> None:
    assert decide(NOTHING, "above", seeds=30) == "undecided"
    assert decide_within(NOTHING, 0, 10, seeds=30) == "undecided"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    names: tuple[str, ...] = ("a",)
    inner: Inner = Inner()


def test_a_configuration_is_made_again_from_plain_values() -> None:
    assert rebuilt(Outer, {"names": ["b", "c"], "inner": {"rate": 1.0}}) == Outer(("b", "c"), Inner(1.0))
    with pytest.raises(ValueError, match="expected settings"):
        rebuilt(Outer, {"names": []})
    with pytest.raises(ValueError, match="expected settings"):
        rebuilt(Outer, {"names": [], "inner": {"speed": 1}})


def test_checks_name_the_flag_what_was_given_and_what_is_expected() -> None:
    check_at_least_one(seeds=1, seeds_per_job=3)
    with pytest.raises(SettingError, match="--seeds-per-job: expected at least 1, given 0"):
        check_at_least_one(seeds=1, seeds_per_job=0)
    check_names("arms", ["a", "b"], ["a", "b", "c"])
    with pytest.raises(SettingError, match="--arms: 'd' is unknown; expected some of a, b"):
        check_names("arms", ["a", "d"], ["a", "b"])
    for wrong in ([], ["a", "a"]):
        with pytest.raises(SettingError, match="--arms: expected each at most once and at least one"):
            check_names("arms", wrong, ["a", "b"])
