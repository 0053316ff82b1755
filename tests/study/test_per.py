"""The study of prioritized replay: what it runs, how it decides, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from replaybank.study import SettingError
from replaybank.study.base import Record
from replaybank.study.per import (
    ARMS,
    QUARTER,
    PerConfig,
    both_rates,
    conditions,
    draw,
    findings_of,
    inconsistent,
    jobs,
    judge,
    tasks,
)
from replaybank.study.performance import Contrast
from replaybank.study.stats import Interval

CONFIG = PerConfig()
SEEDS = range(8)


def runs_with(effects: Mapping[str, float], early: Mapping[str, float] | None = None) -> dict[str, dict[int, Record]]:
    """Runs of everything: return 0 and a noise of up to 8, and the effect of `task-arm` or `task-arm-quarter`.

    An `early` effect is on the first half of the steps alone.
    """
    rng = np.random.default_rng(3)
    runs: dict[str, dict[int, Record]] = {}
    for name, task in tasks(CONFIG).items():
        ends = np.arange(500, task.steps + 1, 500)
        for condition in conditions(CONFIG, name).values():
            key = condition.name
            level = effects.get(key, 0.0) + np.where(ends <= task.steps / 2, (early or {}).get(key, 0.0), 0.0)
            for seed in SEEDS:
                returns = (level + rng.uniform(-8, 8)).tolist()
                episodes = {"step": ends.tolist(), "return": returns, "length": [500] * len(ends)}
                runs.setdefault(key, {})[seed] = {"episodes": episodes}
    return runs


def outcomes(effects: Mapping[str, float], early: Mapping[str, float] | None = None) -> dict[str, str]:
    return {verdict.claim.key: verdict.outcome for verdict in judge(CONFIG, runs_with(effects, early)).verdicts}


def everywhere(arm: str, effect: float) -> dict[str, float]:
    return {f"{task}-{arm}{rate}": effect for task in CONFIG.tasks for rate in ("", QUARTER)}


def test_every_memory_has_its_papers_exponents_and_both_learning_rates() -> None:
    made = {job.condition: job.settings for job in jobs(CONFIG, range(10))}
    assert len(made) == 3 * 2 * 5
    exponents = {"prioritized": (0.6, 0.4), "rank": (0.7, 0.5), "lap": (0.4, 0.0)}
    for name, settings in made.items():
        task, arm, *quarter = name.split("-")
        preset = tasks(CONFIG)[task].dqn
        dqn = settings["dqn"]
        assert settings["memory"] == arm
        assert dqn["learning_rate"] == pytest.approx(preset.learning_rate / (4 if quarter else 1))
        if arm in exponents:
            assert (dqn["alpha"], dqn["beta"]) == exponents[arm]
        same = {key: value for key, value in dqn.items() if key not in ("alpha", "beta", "learning_rate")}
        assert same == {key: value for key, value in made[f"{task}-uniform"]["dqn"].items() if key in same}


def test_a_seeds_two_learning_rates_are_averaged_before_memories_are_compared() -> None:
    effects = everywhere("lap", 30.0) | {"acrobot-lap-quarter": -50.0}
    found = {"acrobot": findings_of(CONFIG, "acrobot", runs := runs_with(effects))}
    gain = both_rates(found, "lap", "rank")["acrobot"]
    value = {name: [run["episodes"]["return"][0] for run in by_seed.values()] for name, by_seed in runs.items()}
    lap = np.add(value["acrobot-lap"], value["acrobot-lap-quarter"]) / 2
    rank = np.add(value["acrobot-rank"], value["acrobot-rank-quarter"]) / 2
    assert gain.interval.estimate == pytest.approx(np.mean(lap - rank))
    assert gain.interval.estimate == pytest.approx(-10, abs=8)


def test_schauls_claims_compare_a_quarter_of_the_learning_rate_with_the_whole() -> None:
    found = outcomes({"cartpole-prioritized-quarter": 40, "acrobot-prioritized": 40, "lunarlander-uniform": 40})
    for claim in ("faster", "higher"):
        assert found[f"{claim}, CartPole-v1"] == "reproduced"
        assert found[f"{claim}, Acrobot-v1"] == "undecided"
        assert found[f"{claim}, LunarLander-v3"] == "not reproduced"


def test_learning_earlier_is_not_ending_higher() -> None:
    found = outcomes({}, early={"cartpole-prioritized-quarter": 100, **everywhere("combined", 100)})
    assert (found["faster, CartPole-v1"], found["higher, CartPole-v1"]) == ("reproduced", "undecided")
    assert found["combined, Acrobot-v1"] == "reproduced"


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ([(50, 70), (10, 30), (1, 90)], "not reproduced"),  # above 0 in all
        ([(50, 70), (10, 30), (-1, 90)], "undecided"),
        ([(50, 70), (-9, 19), (1, 90)], "reproduced"),  # less than 20 in one
        ([(50, 70), (1, 19), (1, 90)], "not reproduced"),  # little, but in all
    ],
)
def test_a_gain_in_every_environment_is_a_consistent_one(gains: list[tuple[float, float]], outcome: str) -> None:
    contrasts = {str(k): Contrast(Interval((low + high) / 2, low, high), 10) for k, (low, high) in enumerate(gains)}
    assert inconsistent(contrasts, dict.fromkeys(contrasts, 20.0)) == outcome


def test_nothing_is_said_of_all_environments_while_one_is_missing() -> None:
    runs = {name: by_seed for name, by_seed in runs_with({}).items() if not name.startswith("lunarlander")}
    verdicts = {verdict.claim.key: verdict for verdict in judge(CONFIG, runs).verdicts}
    assert verdicts["no consistent gain"].outcome == "undecided"
    assert "higher, Acrobot-v1" in verdicts
    assert not any("LunarLander" in key for key in verdicts)
    assert list(draw(CONFIG, runs)) == ["per"]


def test_a_table_compares_each_memory_with_uniform_at_the_same_rate() -> None:
    shown = judge(CONFIG, runs_with({"acrobot-uniform-quarter": 100.0})).tables
    assert len(shown) == 6
    whole, quarter = (table for table in shown if table.title.startswith("Acrobot"))
    assert [row[0] for row in whole.rows] == list(ARMS)
    differences = {table.title: [float(row[-2].split("\n")[0]) for row in table.rows[1:]] for table in (whole, quarter)}
    assert np.allclose(differences[whole.title], 0, atol=10)
    assert np.allclose(differences[quarter.title], -100, atol=10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ("pong",)}, "--tasks: 'pong' is unknown; expected some of cartpole, acrobot, lunarlander"),
        ({"arms": ()}, "--arms: expected each at most once and at least one"),
        ({"acrobot": replace(CONFIG.acrobot, steps=400)}, "--steps: expected at least 500"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(CONFIG, **changed).check_valid()
