"""The study of prioritized replay: what it runs, how it decides, and what it refuses."""

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
from replaybank.study.per import ARMS, QUARTER, PerConfig, both_rates, conditions, draw, findings_of, jobs, judge, tasks

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


def test_a_gain_in_every_environment_is_a_consistent_one() -> None:
    key = "no consistent gain"
    assert outcomes(everywhere("prioritized", 60.0))[key] == "not reproduced"
    assert outcomes({})[key] == "reproduced"  # shown to be less than what is worth speaking of
    assert outcomes(everywhere("prioritized", 60.0) | {"acrobot-prioritized": -60.0})[key] == "reproduced"
    level = everywhere("prioritized", 60.0) | {"acrobot-prioritized": 20.0, "acrobot-prioritized-quarter": 20.0}
    assert outcomes(level)[key] == "not reproduced"


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


def test_the_command_leaves_its_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--tasks",
        "cartpole",
        "--cartpole.steps",
        "500",
        "--cartpole.dqn.hidden",
        "8",
        "--arms",
        "uniform",
        "rank",
    ]
    more = ["--cartpole.dqn.capacity", "300", "--cartpole.dqn.learning-starts", "64", "--seeds", "2", "--workers", "1"]
    assert cli.main(["study", "run", "per", *flags, *more, "--out", str(tmp_path / "out")]) == 0
    assert "CartPole-v1, 500 steps, learning rate 0.0005" in capfd.readouterr().out
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["memory"], row["learning_rate"]) for row in rows[::2]] == [
        ("uniform", "0.002"),
        ("rank", "0.002"),
        ("uniform", "0.0005"),
        ("rank", "0.0005"),
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["tasks"]["cartpole"]["conditions"]) == ["uniform", "rank", "uniform-quarter", "rank-quarter"]
    assert (tmp_path / "out" / "per.png").read_bytes().startswith(b"\x89PNG")
