"""The report says what was measured: the best peer, every bar with its verdict, and who was left out and why."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

import calls
import page
import report
from bars import Bar, best_peer, judge
from contender import Contender, LeftOutError, NoSuchWorkError, Role, Setup
from measuring import Settings, floor_of, times_floor
from timing import FEW, Trial, interleave, microseconds
from transitions import Transitions, trajectories
from work import Row, sample


def result(name: str, median: float, role: Role = Role.PEER) -> dict[str, Any]:
    return {
        "name": name,
        "role": role.value,
        "median": median,
        "lower_quartile": median * 0.9,
        "upper_quartile": median * 1.1,
        "repeats": 5,
        "calls": 10,
    }


RESULTS = [
    result("replaybank", 10.0, Role.OURS),
    result("slow", 90.0),
    result("quick", 60.0),
    result("compiled", 15.0, Role.COMPILED),
    result("C floor", 5.0, Role.FLOOR),
    result("naive", 1.0, Role.REFERENCE),
]


def test_the_best_peer_is_called_call_by_call_and_is_no_reference() -> None:
    best = best_peer(RESULTS)
    assert best is not None
    assert best["name"] == "quick"


@pytest.mark.parametrize(
    ("bar", "measured", "met"),
    [
        (Bar("row", 5), 6.0, True),
        (Bar("row", 6.1), 6.0, False),
        (Bar("row", 2, "compiled"), 1.5, False),
        (Bar("row", 3, "C floor", at_most=True), 2.0, True),
        (Bar("row", 1.7, "C floor", at_most=True), 2.0, False),
    ],
)
def test_a_bar_is_a_ratio_of_medians(bar: Bar, measured: float, met: bool) -> None:
    verdict = judge(bar, RESULTS)
    assert verdict["measured"] == pytest.approx(measured)
    assert verdict["met"] is met


@pytest.mark.parametrize("results", [RESULTS[1:], RESULTS[:1], []], ids=["no us", "no peers", "nobody"])
def test_a_bar_without_both_sides_is_not_measured(results: list[dict[str, Any]]) -> None:
    verdict = judge(Bar("row", 5), results)
    assert verdict["measured"] is None
    assert verdict["met"] is None


def test_every_bar_is_about_a_row_that_a_quick_run_has() -> None:
    rows = {row.key for group in calls.groups(quick=True) for row in group.rows}
    assert {bar.row for bar in calls.BARS} <= rows


@pytest.mark.parametrize("quick", [True, False])
def test_row_keys_are_unique(quick: bool) -> None:
    keys = [row.key for group in calls.groups(quick) for row in group.rows]
    assert len(keys) == len(set(keys))


def test_what_is_over_its_floor_is_over_the_quickest_floor() -> None:
    row = {"results": [*RESULTS, result("another floor", 4.0, Role.FLOOR)]}
    found = floor_of(row)
    assert found is not None
    assert found["name"] == "another floor"
    assert times_floor(row) == pytest.approx(2.5)
    assert times_floor({"results": RESULTS[:3]}) is None
    assert times_floor({"results": RESULTS[1:]}) is None


class Counting(Contender):
    """Adds and samples nothing, quickly."""

    name = "replaybank"
    role = Role.OURS

    def build(self) -> None:
        self.add = lambda *step: None
        self.sample = lambda size: size
        self.unpack = lambda batch: ()

    def fill(self, data: Transitions) -> None:
        assert len(data) == self.setup.capacity


class Peer(Counting):
    name = "a peer"
    role = Role.PEER


class Missing(Counting):
    name = "missing"

    def build(self) -> None:
        import no_such_library  # noqa: F401


class Failing(Counting):
    name = "failing"

    def sampling(self, size: int) -> Trial:
        def fail(size: int) -> None:
            raise RuntimeError("cannot load /somewhere/deep/in/a/tree.so")

        return Trial(lambda calls: [(size,)] * calls, fail)


class Declining(Counting):
    name = "declining"

    @classmethod
    def check(cls, setup: Setup) -> None:
        raise LeftOutError("has no such buffer")


class Silent(Counting):
    name = "silent"

    @classmethod
    def check(cls, setup: Setup) -> None:
        raise NoSuchWorkError


@pytest.fixture
def finished() -> dict[str, Any]:
    """A whole run over a small group of contenders that do nothing, or fail."""
    row = Row("uniform-256", "uniform sample, 256", sample(256))
    kinds = (Counting, Peer, Missing, Failing, Declining, Silent)
    group = calls.Group(Setup(100), (row,), trajectories, kinds)
    return calls.run([group], Settings(repeats=3, seconds=1e-4))


class Slow(Peer):
    name = "slow to fill"
    most = 50


def test_who_is_slow_to_fill_holds_less_and_is_named_so() -> None:
    group = calls.Group(Setup(100), (Row("uniform-256", "", sample(256)),), trajectories, (Counting, Slow))
    (row,) = calls.run([group], Settings(repeats=3, seconds=1e-4))["rows"]
    assert [entry["name"] for entry in row["results"]] == ["replaybank", "slow to fill, 50"]


def page_of(run: dict[str, Any]) -> str:
    about = {"run": "quick", "seconds": 1.0, "load": {"before": [0.1, 0.1, 0.1], "after": None}}
    return page.written({"parts": {"calls": about | run}, "failed": {}})


def test_a_run_names_who_was_left_out_and_why(finished: dict[str, Any]) -> None:
    reasons = {entry["name"]: entry["reason"] for entry in finished["left_out"]}
    assert reasons == {
        "missing": "not installed (no module named no_such_library)",
        "failing": "RuntimeError: cannot load tree.so",
        "declining": "has no such buffer",
    }
    text = page_of(finished)
    for name, reason in reasons.items():
        assert f"- {name} (`calls`: uniform): {reason}" in text


def test_a_run_can_be_kept_and_reported_again(finished: dict[str, Any]) -> None:
    assert page_of(json.loads(json.dumps(finished))) == page_of(finished)


def test_a_run_keeps_medians_quartiles_and_ratios(finished: dict[str, Any]) -> None:
    (row,) = finished["rows"]
    assert [entry["name"] for entry in row["results"]] == ["replaybank", "a peer"]
    assert row["best_peer"] == "a peer"
    ours, theirs = row["results"]
    assert row["times_ours"]["a peer"] == pytest.approx(theirs["median"] / ours["median"])
    assert ours["lower_quartile"] <= ours["median"] <= ours["upper_quartile"]
    assert {"date", "commit", "python", "hardware", "versions", "settings", "bars"} <= set(finished)


def test_the_page_says_which_bars_were_not_met(finished: dict[str, Any]) -> None:
    bars = [judge(Bar("uniform-256", limit), RESULTS) for limit in (5, 7)]
    text = page_of({**finished, "bars": bars})
    lines = [line for line in text.splitlines() if "faster than the best peer" in line]
    assert [line.split("|")[-2].strip() for line in lines] == ["met", "NOT met"]


def test_tables_are_aligned() -> None:
    text = report.table(("", "one", "two"), [("a long name", "1", "2"), ("b", "1,000", "–")])
    assert len({len(line) for line in text.splitlines()}) == 1
    assert text.splitlines()[0].startswith("|  ")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001234, "0.00123"), (0.1234, "0.123"), (3.256, "3.26"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_figures_have_three_digits_or_more(value: float, text: str) -> None:
    assert report.rounded(value) == text


@pytest.mark.parametrize(("half", "text"), [(0.21, "3.26 ± 0.21"), (0.001, "3.26 ± 0.00"), (7.0, "3.26 ± 7.00")])
def test_a_spread_is_half_the_interquartile_range_in_the_digits_of_the_median(half: float, text: str) -> None:
    result = {"median": 3.256, "lower_quartile": 3.0, "upper_quartile": 3.0 + 2 * half}
    assert report.spread(result) == text


def test_what_gets_quicker_gets_more_calls() -> None:
    """As a buffer does whose pages are cold at first: few calls a repeat would time it cold for ever."""
    done = 0

    def work() -> None:
        nonlocal done
        done += 1
        time.sleep(0.02 if done < 4 else 0.001)

    trial = Trial(lambda calls: [()] * calls, work)
    (timing,) = interleave({"": trial}, 4, 0.02, failed=lambda name, error: pytest.fail(str(error))).values()
    assert timing.calls > 3


def test_the_very_slow_have_few_repeats() -> None:
    trials = {
        "slow": Trial(lambda calls: [(0.004,)] * calls, time.sleep),
        "quick": Trial(lambda calls: [()] * calls, int),
    }
    timings = interleave(trials, repeats=6, seconds=1e-4, failed=lambda name, error: pytest.fail(str(error)))
    assert (timings["slow"].repeats, timings["quick"].repeats) == (FEW, 6)


def test_repeats_go_round_the_contenders() -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        time.sleep(0.002)

    trials = {name: Trial(lambda calls, name=name: [(name,)] * calls, work, per_call=2) for name in "abc"}
    timings = interleave(trials, repeats=4, seconds=1e-3, failed=lambda name, error: pytest.fail(str(error)))
    assert order[-12:] == list("abc") * 4
    assert all(timing.repeats == 4 and timing.calls == 1 for timing in timings.values())


def test_a_call_that_does_many_pieces_of_work_is_divided_among_them() -> None:
    def nap(pieces: int) -> float:
        return microseconds(Trial(lambda calls: [(0.002,)] * calls, time.sleep, per_call=pieces), calls=5)

    assert nap(1) >= 2_000
    assert 20 <= nap(100) < 2_000


def test_linked_steps_share_the_object_as_a_loop_does() -> None:
    data = trajectories(500, np.random.default_rng(0), lengths=(5, 20))
    steps = data.steps()
    ends = data.terminated | data.truncated
    assert ends.sum() > 20
    for index in range(1, 500):
        assert (steps[index][0] is steps[index - 1][3]) == (not ends[index - 1])


def test_vector_steps_follow_each_stream() -> None:
    data = trajectories(400, np.random.default_rng(0))
    steps = data.vector_steps(4)
    assert len(steps) == 100
    for stream in range(4):
        np.testing.assert_array_equal(np.stack([step[0][stream] for step in steps]), data.obs[stream * 100 :][:100])
