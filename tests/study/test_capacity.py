"""The study of capacities: what it runs, how it decides, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replaybank import cli
from replaybank.study import SettingError
from replaybank.study.base import Record
from replaybank.study.capacity import CapacityConfig, conditions, contrasts, draw, jobs, judge
from replaybank.study.performance import contrast, joint, performances, slope_weights, table

CONFIG = CapacityConfig()
SEEDS = range(8)


def run_with(value: float) -> Record:
    """A run of which every episode has that return."""
    ends = list(range(1000, CONFIG.steps + 1, 1000))
    return {"episodes": {"step": ends, "return": [value] * len(ends), "length": [1000] * len(ends)}}


def runs_with(means: Mapping[str, float], noise: float = 10.0) -> dict[str, dict[int, Record]]:
    """Runs with those means, a noise that a seed shares in all conditions, and one of up to `noise` of its own."""
    rng = np.random.default_rng(0)
    shared = rng.uniform(-50, 50, len(SEEDS))
    own = {name: rng.uniform(-noise, noise, len(SEEDS)) for name in means}
    return {name: {k: run_with(mean + shared[k] + own[name][k]) for k in SEEDS} for name, mean in means.items()}


FLAT = dict.fromkeys(conditions(CONFIG), 400.0)


def outcomes(means: Mapping[str, float]) -> dict[str, str]:
    return {verdict.claim.key: verdict.outcome for verdict in judge(CONFIG, runs_with(means)).verdicts}


def test_slope_weights_are_those_of_a_least_squares_line_over_the_logarithm() -> None:
    capacities = {"a": 128, "b": 1_000, "c": 10_000, "d": 100_000}
    returns = np.array([3.0, 50.0, 20.0, 31.0])
    slope = sum(weight * value for weight, value in zip(slope_weights(capacities).values(), returns, strict=True))
    expected = np.polyfit(np.log10(list(capacities.values())), returns, 1)[0]
    assert slope == pytest.approx(expected)


def test_a_contrast_is_taken_seed_by_seed_over_the_seeds_that_all_have() -> None:
    rng = np.random.default_rng(1)
    values = {name: dict(enumerate(rng.uniform(0, 500, 9))) for name in "abcd"}
    del values["c"][4]
    runs = {name: {seed: run_with(value) for seed, value in by_seed.items()} for name, by_seed in values.items()}
    found = performances(runs, CONFIG.steps, None)
    taken = contrast(found, {"a": 1, "b": -1, "c": -1, "d": 1})
    assert taken is not None
    seeds = [seed for seed in range(9) if seed != 4]
    by_hand = np.array([values["a"][s] - values["b"][s] - values["c"][s] + values["d"][s] for s in seeds])
    assert taken.seeds == 8
    assert taken.interval.estimate == pytest.approx(by_hand.mean())
    half = 2.365 * by_hand.std(ddof=1) / np.sqrt(8)  # Student's interval, 7 degrees of freedom
    assert taken.interval.low == pytest.approx(by_hand.mean() - half, abs=0.25 * half)
    assert taken.interval.high == pytest.approx(by_hand.mean() + half, abs=0.25 * half)
    assert contrast(found, {"a": 1, "none": -1}) is None


def test_equal_returns_have_a_slope_of_exactly_nothing() -> None:
    taken = contrasts(CONFIG, performances(runs_with(FLAT, noise=0), CONFIG.steps, None))
    interval = taken["per tenfold from the reference"].interval
    assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_joint_levels_leave_five_percent_to_all_comparisons_together() -> None:
    assert 4 * (1 - joint(4)) == pytest.approx(0.05)
    found = performances(runs_with(FLAT), CONFIG.steps, 475)
    shown = table("", found, 475, "uniform-10k", ("final_returns", "areas"), joint(4))
    assert all(len(row) == len(shown.columns) for row in shown.rows)
    assert [row[-2] for row in shown.rows if row[0] == "uniform-10k"] == [""]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {"too small": "undecided", "too large": "undecided", "no gain": "reproduced"}),
        ({}, {"combined mends it": "undecided", "combined does not mind": "reproduced"}),
        ({"uniform-128": 300.0}, {"too small": "reproduced", "too large": "undecided"}),
        ({"uniform-128": 480.0}, {"too small": "not reproduced"}),
        ({"uniform-30k": 375.0, "uniform-100k": 300.0}, {"too large": "reproduced", "combined mends it": "reproduced"}),
        ({"uniform-30k": 430.0, "uniform-100k": 470.0}, {"too large": "not reproduced", "no gain": "not reproduced"}),
        ({"combined-100k": 300.0}, {"combined does not mind": "not reproduced", "combined mends it": "not reproduced"}),
    ],
)
def test_planted_effects_are_found(changed: dict[str, float], expected: dict[str, str]) -> None:
    found = outcomes(FLAT | changed)
    assert {key: found[key] for key in expected} == expected


def test_an_interrupted_study_is_judged_on_what_there_is() -> None:
    some = {name: value for name, value in FLAT.items() if name in ("uniform-128", "uniform-10k")}
    assert list(outcomes(some)) == ["too small"]
    few = {name: dict(list(by_seed.items())[:1]) for name, by_seed in runs_with(some).items()}
    (verdict,) = judge(CONFIG, few).verdicts
    assert verdict.outcome == "undecided"
    assert "no interval" in verdict.evidence
    assert list(draw(CONFIG, few)) == ["capacity"]


def test_each_capacity_reaches_its_buffer_and_all_else_is_the_same() -> None:
    made = jobs(CONFIG, range(20))
    assert {job.seeds for job in made} == {tuple(range(10)), tuple(range(10, 20))}
    capacities = {(job.settings["memory"], job.settings["dqn"].pop("capacity")) for job in made}
    assert capacities == {("uniform", c) for c in CONFIG.capacities} | {("combined", 10_000), ("combined", 100_000)}
    assert len({json.dumps(job.settings["dqn"]) for job in made}) == 1


@pytest.mark.parametrize(
    ("capacities", "message"),
    [
        ((128, 1_000), r"--capacity: expected the reference, one of \[128, 1000\], given 10000"),
        ((128, 10_000), "--capacities: expected some above the reference 10000"),
        ((10_000, 50_000, 100_000), r"at most one of --steps \(50000\) or more"),
        ((1_000, 128, 10_000), "each larger than the one before"),
        ((32, 10_000, 30_000), "--capacity: expected at least the batch size"),
    ],
)
def test_capacities_that_cannot_be_compared_are_refused(capacities: tuple[int, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(CONFIG, capacities=capacities).check_valid()


def test_the_command_leaves_its_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--steps", "500", "--capacities", "64", "100", "1000", "--capacity", "100", "--learning-starts", "100"]
    given = [*flags, "--hidden", "8", "--seeds", "2", "--workers", "1", "--out", str(tmp_path / "out")]
    assert cli.main(["study", "run", "capacity", *given]) == 0
    assert "undecided: too small a buffer hurts" in capfd.readouterr().out
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["memory"], row["capacity"]) for row in rows[::2]] == [
        *(("uniform", capacity) for capacity in ("64", "100", "1000")),
        *(("combined", capacity) for capacity in ("100", "1000")),
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["contrasts"]) == 4
    assert (tmp_path / "out" / "capacity.png").read_bytes().startswith(b"\x89PNG")
