"""The comparison: its arms, its figures against hand-made runs, the learning-rate sweep, and what it must show."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from replaybank import cli
from replaybank.study import compare, stats
from replaybank.study.base import Runs
from replaybank.study.compare import ARMS, CLEANRL, PAIRS, STUDY, CompareConfig
from replaybank.study.dqn import DQNConfig
from replaybank.study.performance import difference, performances
from replaybank.study.runner import RunSettings, run_study

TINY = CompareConfig(
    steps=500,
    together=1,
    arms=("online", "uniform"),
    dqn=DQNConfig(batch_size=8, hidden=(16,), learning_starts=50, capacity=500),
)
FLAGS = ["--seeds", "2", "--steps", "500", "--workers", "2", "--batch-size", "8", "--hidden", "16"]


def run(config: CompareConfig, out: Path, **settings: Any) -> tuple[int, str]:
    screen = io.StringIO()
    settings = {"seeds": 1, "workers": 2, **settings}
    status = run_study(STUDY, config, RunSettings(out=out, **settings), Console(file=screen, width=100))
    return status, screen.getvalue()


def test_the_command_leaves_all_its_files_and_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["compare", *FLAGS, "--out", str(out), "--tensorboard"]) == 0
    screen = capfd.readouterr().out
    for definition in ARMS.values():
        assert definition[:30] in screen
    assert "no claim with only 2 seeds" in screen

    with (out / "results.csv").open() as file:
        rows = {(row["arm"], row["seed"]): float(row["final_return"]) for row in csv.DictReader(file)}
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["arms"]) == list(ARMS)
    for name, arm in summary["arms"].items():
        finals = []
        for seed in ("0", "1"):
            log = (out / "log" / name / f"seed{seed}.jsonl").read_text().splitlines()
            told = [line for line in map(json.loads, log) if line["tag"] == "charts/episodic_return"]
            episodes = json.loads((out / "runs" / name / f"seed{seed}.json").read_text())["record"]["episodes"]
            assert [(line["step"], line["value"]) for line in told] == list(
                zip(episodes["step"], episodes["return"], strict=True)
            )
            assert np.cumsum(episodes["length"]).tolist() == episodes["step"]
            late = [line["value"] for line in told if line["step"] > 400]
            finals.append(np.mean(late))
            assert arm["final_return"]["per_seed"][seed] == pytest.approx(np.mean(late), abs=1e-3)
            assert rows[name, seed] == pytest.approx(np.mean(late), abs=1e-3)
        assert arm["final_return"]["mean"]["estimate"] == pytest.approx(np.mean(finals), abs=1e-3)
    config = json.loads((out / "config.json").read_text())
    settings = config["settings"]
    assert (settings["env"], settings["steps"], settings["dqn"]["batch_size"]) == ("CartPole-v1", 500, 8)
    assert (out / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((out / "tensorboard").glob("*/seed*/events*"))) == 2 * len(ARMS)


def test_an_arm_without_a_target_network_differs_in_that_alone() -> None:
    both = {arm: compare.condition(TINY, arm, TINY.dqn.learning_rate) for arm in ("uniform", "uniform-no-target")}
    one, other = both.values()
    assert (other.dqn.target_period, other.dqn.tau) == (1, 1.0)  # copied after every update: the network itself
    assert replace(other, name=one.name, dqn=one.dqn) == one
    assert replace(other.dqn, target_period=one.dqn.target_period, tau=one.dqn.tau) == one.dqn


def test_every_pair_with_a_claim_is_of_arms_there_are() -> None:
    assert {arm for pair in PAIRS for arm in pair} <= set(ARMS)


def test_learning_rates_are_chosen_on_other_seeds_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "LEARNING_RATES", (1e-4, 1e-2))
    monkeypatch.setattr(compare, "SWEPT", 1)
    status, screen = run(replace(TINY, lr_sweep=True), tmp_path)
    assert status == 0
    assert "Each arm at its own learning rate" in screen
    summary = json.loads((tmp_path / "summary.json").read_text())
    own = summary["own_learning_rate"]
    assert set(summary["mean_final_return_by_rate"]) == set(TINY.arms)
    for arm, tried in summary["mean_final_return_by_rate"].items():
        assert [float(rate) for rate in tried] == [1e-4, 2e-3, 1e-2]
        for rate, value in tried.items():
            name = arm if float(rate) == 2e-3 else f"{arm}-lr{float(rate):g}"
            record = json.loads((tmp_path / "runs" / name / "seed1000000.json").read_text())["record"]["episodes"]
            assert stats.final_return(record["step"], record["return"], 500) == pytest.approx(value, abs=1e-3)
        best = max(tried, key=tried.__getitem__)
        assert own["arms"][arm]["learning_rate"] == float(best)
        assert list(own["arms"][arm]["final_return"]["per_seed"]) == ["0"]  # judged on its own seed, not the sweep's
        assert list(summary["arms"][arm]["final_return"]["per_seed"]) == ["0"]


def test_a_sweep_that_was_interrupted_is_judged_by_what_there_is() -> None:
    config = replace(TINY, lr_sweep=True, arms=("uniform",))
    swept = {"uniform-lr0.01": {1_000_000: fabricated(100)[0]}}
    assert STUDY.draw(config, swept) == {}
    assert [table.columns[0] for table in STUDY.judge(config, swept).tables] == ["arm", "arm"]
    both = {**swept, "uniform": {0: fabricated(50)[0]}}
    assert STUDY.judge(config, both).summary["mean_final_return_by_rate"]["uniform"] == {0.01: 100.0}
    assert list(STUDY.draw(config, both)) == ["learning_curves"]


def fabricated(offset: float, seeds: int = 6) -> dict[int, dict[str, Any]]:
    """Runs whose episodes all return `offset` plus ten times their seed."""
    steps = [100 * (k + 1) for k in range(10)]
    return {
        s: {"episodes": {"step": steps, "return": [offset + 10 * s] * 10, "length": [100] * 10}} for s in range(seeds)
    }


def test_the_report_pairs_by_seed_and_counts_honestly() -> None:
    runs = {"online": fabricated(0.0), "uniform": fabricated(450.0)}
    del runs["online"][2]  # an interrupted comparison: the pair is missing, not shifted
    found = performances(runs, 1_000, 475.0)
    pair = difference(found, "uniform", "online")
    assert pair is not None
    assert (pair.interval.low, pair.interval.estimate, pair.interval.high) == (450.0, 450.0, 450.0)
    assert pair.seeds == 5
    uniform = found["uniform"]
    assert (uniform.reached, uniform.ended) == (3, 3)  # 480, 490 and 500, not 450, 460 and 470
    assert uniform.area.estimate == pytest.approx(475.0)
    assert "uniform ends higher" in str(pair)
    assert difference(found, "uniform", "recent") is None


def outcomes(config: CompareConfig, runs: Runs) -> dict[str, str]:
    return {verdict.claim.key: verdict.outcome for verdict in STUDY.judge(config, runs).verdicts}


def test_verdicts_follow_from_the_paired_differences() -> None:
    config = replace(TINY, steps=1_000, arms=("online", "uniform", "prioritized", "uniform-no-target"))
    runs = {"online": fabricated(0), "uniform": fabricated(200), "prioritized": fabricated(100)}
    assert outcomes(config, runs) == {"replay": "reproduced", "prioritized": "not reproduced"}
    runs["uniform-no-target"] = {s: fabricated(200 + (-1) ** s * 50)[s] for s in range(6)}
    assert outcomes(config, runs)["target network"] == "undecided"
    few = {arm: fabricated(offset, seeds=4) for arm, offset in (("online", 0), ("uniform", 200))}
    assert outcomes(config, few) == {"replay": "undecided"}


@pytest.mark.parametrize(("offset", "outcome"), [(480, "reproduced"), (465, "undecided"), (380, "not reproduced")])
def test_the_published_figure_of_cleanrl_is_judged_at_its_settings_only(offset: float, outcome: str) -> None:
    runs = {
        "uniform": {s: {"episodes": {"step": [490_000], "return": [offset + 4.0 * s], "length": [1]}} for s in range(6)}
    }
    assert outcomes(CLEANRL, runs) == {"cleanrl": outcome}
    assert outcomes(replace(CLEANRL, dqn=replace(CLEANRL.dqn, gamma=0.9)), runs) == {}


@pytest.mark.slow
def test_uniform_replay_learns_cartpole_where_online_does_not(tmp_path: Path, effort: int) -> None:
    """The one outcome the experiment must show, on seeds of its own: in short form 8,000 steps, 5 seeds."""
    steps = 8_000 if effort == 1 else 20_000
    config = CompareConfig(steps=steps, arms=("online", "uniform"))
    assert run(config, tmp_path, seeds=5, first_seed=500)[0] == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    means = {arm: value["final_return"]["mean"]["estimate"] for arm, value in summary["arms"].items()}
    assert summary["paired_differences"]["uniform - online"]["low"] > 0
    assert means["uniform"] >= 3 * means["online"]
