"""The study of n-step returns and capacity: what it runs, how it decides, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replaybank.study import SettingError
from replaybank.study.agents import run_agents
from replaybank.study.base import Record
from replaybank.study.dqn import DQNConfig, begin
from replaybank.study.memories import MEMORIES
from replaybank.study.nstep import NStepConfig, conditions, contrasts, draw, jobs, judge
from replaybank.study.performance import performances

CONFIG = NStepConfig()
SEEDS = range(8)
FLAT = dict.fromkeys(conditions(CONFIG), 0.0)


def runs_with(means: Mapping[str, float]) -> dict[str, dict[int, Record]]:
    """Runs whose episodes all have those means, with a noise of up to 8 that is each run's own."""
    rng = np.random.default_rng(2)
    ends = list(range(1000, CONFIG.steps + 1, 1000))
    return {
        name: {
            seed: {"episodes": {"step": ends, "return": [mean + rng.uniform(-8, 8)] * len(ends), "length": ends}}
            for seed in SEEDS
        }
        for name, mean in means.items()
    }


def test_the_interaction_is_the_difference_of_the_slopes() -> None:
    means = FLAT | {"n1-10k": 10.0, "n1-100k": -20.0, "n3-1k": -60.0, "n3-10k": 35.0, "n3-100k": 90.0}
    runs = runs_with(means)
    taken = contrasts(CONFIG, performances(runs, CONFIG.steps, None))
    x = np.log10(CONFIG.capacities)
    slopes = {}
    for n in (1, 3):
        returns = [[runs[f"n{n}-{c}"][s]["episodes"]["return"][0] for c in ("1k", "10k", "100k")] for s in SEEDS]
        slopes[n] = np.mean([np.polyfit(x, by_capacity, 1)[0] for by_capacity in returns])
    assert taken["short"].interval.estimate == pytest.approx(slopes[1])
    assert taken["long"].interval.estimate == pytest.approx(slopes[3])
    assert taken["interaction"].interval.estimate == pytest.approx(slopes[3] - slopes[1])
    assert taken["interaction"].seeds == len(SEEDS)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ("undecided", "undecided", "reproduced")),
        ({"n3-10k": 40, "n3-100k": 80}, ("reproduced", "reproduced", "reproduced")),
        ({"n3-10k": 40, "n3-100k": 80, "n1-10k": 40, "n1-100k": 80}, ("undecided", "reproduced", "not reproduced")),
        ({"n1-10k": 40, "n1-100k": 80}, ("not reproduced", "undecided", "not reproduced")),
    ],
)
def test_planted_effects_are_found(changed: dict[str, float], expected: tuple[str, ...]) -> None:
    assert tuple(verdict.outcome for verdict in judge(CONFIG, runs_with(FLAT | changed)).verdicts) == expected


def test_an_interrupted_study_is_judged_on_what_there_is() -> None:
    some = runs_with({name: value for name, value in FLAT.items() if name != "n3-1k"})
    assert [verdict.claim.key for verdict in judge(CONFIG, some).verdicts] == ["no gain without"]
    assert list(draw(CONFIG, some)) == ["nstep"]


def test_every_n_meets_every_capacity_and_all_else_is_the_same() -> None:
    made = jobs(CONFIG, range(10))
    grid = {(job.settings["dqn"].pop("n_step"), job.settings["dqn"].pop("capacity")) for job in made}
    assert grid == {(n, capacity) for n in (1, 3) for capacity in (1_000, 10_000, 100_000)}
    assert len({json.dumps(job.settings) for job in made}) == 1


def test_the_agents_batches_hold_returns_of_that_many_steps() -> None:
    config = DQNConfig(hidden=(8,), batch_size=32, capacity=200, gamma=0.9, n_step=3)
    training = begin(MEMORIES["uniform"], "CartPole-v1", [0], 600, config)
    for _ in range(50):
        training.environments[0].step(0, 1.0, training.buffers[0])
    batch = training.buffers[0].sample(32)
    running = batch.discount > 0
    steps = np.log(batch.discount[running]) / np.log(0.9)
    assert steps.max() == pytest.approx(3)
    assert np.median(steps) == pytest.approx(3)  # a window that reaches the newest transition is shorter
    assert np.allclose(batch.reward[running], (1 - 0.9**steps) / (1 - 0.9))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"long": 1}, r"--long: expected more than --n-step \(1\), given 1"),
        ({"capacities": (10_000,)}, r"--capacities: expected at least two, given \[10000\]"),
        ({"capacities": (1_000, 100_000)}, "--capacity: expected the reference"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(CONFIG, **changed).check_valid()


class Silent:
    """A job's track that nobody hears."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, step: int) -> None:
        """Nothing was kept."""

    def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
        """Not kept."""

    def progress(self, step: int, text: str = "") -> None:
        """Go on."""


def test_a_small_study_goes_from_jobs_to_findings(tmp_path: Path) -> None:
    small = DQNConfig(hidden=(8,), learning_starts=100, capacity=64)
    config = NStepConfig(env="CartPole-v1", steps=500, capacities=(64, 1_000), dqn=small)
    runs = {job.condition: run_agents(job, Silent(tmp_path)) for job in jobs(config, range(2))}
    found = judge(config, runs)
    assert [row["n_step"] for row in found.rows] == [1, 1, 1, 1, 3, 3, 3, 3]
    assert list(found.summary["conditions"]) == ["n1-64", "n1-1k", "n3-64", "n3-1k"]
    assert list(found.summary["change_per_tenfold_capacity"]) == ["n = 1", "n = 3", "n = 3 minus n = 1"]
