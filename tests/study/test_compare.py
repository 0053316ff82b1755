"""`replaybank compare` from end to end, in miniature: its files, its resumption, its end on Ctrl-C, its errors."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from replaybank import cli
from replaybank.study import SettingError, dqn, stats
from replaybank.study.arms import ARMS
from replaybank.study.compare import compare
from replaybank.study.dqn import DQNConfig, Episode
from replaybank.study.report import footnotes, make_report, sentences
from replaybank.study.runs import CompareConfig, Job, Results

TINY = CompareConfig(
    seeds=2,
    steps=500,
    workers=2,
    seeds_per_job=1,
    arms=("online", "uniform"),
    dqn=DQNConfig(batch_size=8, hidden=(16,), learning_starts=50, capacity=500),
)
FLAGS = ["--seeds", "2", "--steps", "500", "--workers", "2", "--batch-size", "8", "--hidden", "16"]


def run(config: CompareConfig) -> tuple[int, str]:
    screen = io.StringIO()
    return compare(config, Console(file=screen, width=100)), screen.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("results.csv", "summary.json")}


def test_the_command_leaves_all_its_files_and_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["compare", *FLAGS, "--out", str(out), "--tensorboard"]) == 0
    screen = capfd.readouterr().out
    for arm in ARMS.values():
        assert arm.definition[:30] in screen
    assert "no claim with only 2 seeds" in screen

    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["arms"]) == list(ARMS)
    for name, arm in summary["arms"].items():
        finals = []
        for seed in ("0", "1"):
            own = [row for row in rows if (row["arm"], row["seed"]) == (name, seed)]
            assert [int(row["episode"]) for row in own] == list(range(len(own)))
            assert np.cumsum([int(row["length"]) for row in own]).tolist() == [int(row["step"]) for row in own]
            late = [float(row["return"]) for row in own if int(row["step"]) > 400]
            finals.append(np.mean(late))
            assert arm["final_return"]["per_seed"][seed] == pytest.approx(np.mean(late), abs=1e-3)
        assert arm["final_return"]["mean"]["estimate"] == pytest.approx(np.mean(finals), abs=1e-3)
    config = json.loads((out / "config.json").read_text())
    assert (config["env"], config["steps"], config["dqn"]["batch_size"]) == ("CartPole-v1", 500, 8)
    assert (out / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((out / "tensorboard").glob("*/seed*/events*"))) == 8


def train_here(config: CompareConfig, jobs: Sequence[Job], results: Results, console: Console) -> bool:
    """What `train_jobs` does, without processes."""
    for job in jobs:
        if not results.has(job):
            settings = config.at(job.learning_rate)
            results.save(job, dqn.train(ARMS[job.arm], config.env, job.seeds, config.steps, settings))
    return True


def test_resumed_in_other_processes_ends_with_the_files_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr("replaybank.study.compare.train_jobs", train_here)
        assert run(replace(TINY, out=whole))[0] == 0
        assert run(replace(TINY, out=broken, arms=("uniform",), seeds=1))[0] == 0
    (part,) = (broken / "parts").iterdir()
    kept = part.stat().st_mtime_ns
    status, screen = run(replace(TINY, out=broken, resume=True))
    assert status == 0
    assert "1 finished jobs are kept" in screen
    assert part.stat().st_mtime_ns == kept
    assert files(broken) == files(whole)


def test_resume_refuses_other_settings_and_leaves_the_results(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.open(replace(TINY, out=tmp_path))
    results.save(Job("uniform", (0,), 0.1), [])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = replace(TINY, out=tmp_path, resume=True, dqn=replace(TINY.dqn, gamma=0.5))
    with pytest.raises(SettingError, match=r"made with gamma 0\.99, now asked for 0\.5"):
        results.open(other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_a_new_run_moves_earlier_results_aside_and_says_where(tmp_path: Path) -> None:
    out = tmp_path / "results"
    for _ in range(3):
        Results(out).open(replace(TINY, out=out))  # nothing has finished: nothing to move
    for number in (1, 2):
        folder = replace(TINY, out=out).folder
        (folder / "parts" / "one.json").write_text(str(number))
        results = Results(folder)
        assert results.open(replace(TINY, out=out)) == 0
        assert results.set_aside == folder.with_name(f"{folder.name}.{number}")
        assert (results.set_aside / "parts" / "one.json").read_text() == str(number)
        assert not list((folder / "parts").glob("*"))


def test_ctrl_c_leaves_what_has_finished_and_resume_goes_on(tmp_path: Path) -> None:
    # online's job ends soon; a large batch keeps uniform busy until the signal comes
    flags = ["--arms", "uniform", "online", "--seeds", "1", "--steps", "3000", "--batch-size", "400"]
    command = [
        sys.executable,
        "-m",
        "replaybank.cli",
        "compare",
        *flags,
        "--workers",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("parts/online*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    screen, _ = process.communicate(timeout=30)
    assert process.returncode == 130, screen
    assert "Traceback" not in screen
    assert "--resume goes on" in screen
    assert [path.name.split("-")[0] for path in (tmp_path / "out" / "parts").glob("*.json")] == ["online"]
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]) == ["online"]


def test_a_failing_worker_is_reported_and_finished_jobs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, out=tmp_path, seeds=1, arms=("uniform", "online"), dqn=replace(TINY.dqn, capacity=0))
    monkeypatch.setattr(CompareConfig, "check_valid", lambda self: None)
    with pytest.raises(ValueError, match="capacity"):
        run(config)
    assert {path.name.split("-")[0] for path in (tmp_path / "parts").glob("*.json")} <= {"online"}


def test_learning_rates_are_chosen_on_other_seeds_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaybank.study.runs.LEARNING_RATES", (1e-4,))
    monkeypatch.setattr("replaybank.study.compare.train_jobs", train_here)
    status, screen = run(replace(TINY, out=tmp_path, seeds=1, lr_sweep=True))
    assert status == 0
    assert "each arm at its own best learning rate" in screen
    with (tmp_path / "lr_sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    seeds = {purpose: {int(r["seed"]) for r in rows if r["purpose"] == purpose} for purpose in ("choose", "compare")}
    assert seeds == {"choose": {1_000_000}, "compare": {0}}
    own: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())["own_learning_rate"]
    for arm, tried in own["mean_final_return_by_rate"].items():
        best = max(tried, key=tried.__getitem__)
        assert own["arms"][arm]["learning_rate"] == float(best)


def fabricated(offset: float, seeds: int = 6) -> dict[int, list[Episode]]:
    """Runs whose episodes all return `offset` plus ten times their seed."""
    return {s: [Episode(s, k, 100 * (k + 1), offset + 10 * s, 100) for k in range(10)] for s in range(seeds)}


def test_the_report_pairs_by_seed_and_counts_honestly() -> None:
    runs = {"online": fabricated(0.0), "uniform": fabricated(450.0)}
    del runs["online"][2]  # an interrupted comparison: the pair is missing, not shifted
    report = make_report("CartPole-v1", 1_000, 475.0, runs)
    difference = report.differences["uniform", "online"]
    assert (difference.low, difference.estimate, difference.high) == (450.0, 450.0, 450.0)
    assert report.pairs["uniform", "online"] == 5
    uniform = report.arms["uniform"]
    assert (uniform.reached, uniform.ended) == (3, 3)  # 480, 490 and 500, not 450, 460 and 470
    assert uniform.area.estimate == pytest.approx(475.0)
    assert any("uniform ends higher" in said for said in sentences(report))
    wilson = stats.wilson_interval(3, 6)
    assert any(f"uniform {wilson.low:.0%} to {wilson.high:.0%}" in note for note in footnotes(report))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "-5"], "--steps: expected at least 1, given -5"),
        (["--steps", "100"], "--steps: expected at least 500, the longest episode of CartPole-v1"),
        (["--seeds", "0"], "--seeds: expected at least 1, given 0"),
        (["--arms", "none"], "'none' is no arm; expected some of online, recent, uniform, prioritized"),
        (["--arms", "online", "online"], "each arm at most once"),
        (["--env", "Pendulum-v1"], "expected an environment with Discrete actions"),
        (["--gamma", "2"], "--gamma: expected from 0 to 1, given 2.0"),
    ],
)
def test_a_bad_flag_is_one_clear_line_before_anything_is_written(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "--out", str(tmp_path / "out"), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_defines_the_arms_and_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for arm in ARMS.values():
        assert f"{arm.name.upper()}: {arm.definition}" in text
    for flag in ("--learning-rate", "--no-double", "--target-period", "--resume", "--lr-sweep", "--tensorboard"):
        assert flag in text


@pytest.mark.parametrize("missing", ["torch", "tyro"])
def test_a_missing_package_is_named_with_its_remedy(missing: str) -> None:
    code = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
from replaybank.cli import main
assert not {"torch", "tyro", "gymnasium", "scipy", "matplotlib", "rich"} & sys.modules.keys()  # importing it is cheap
sys.exit(main(["compare", "--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code, missing], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"replaybank: this command needs the package {missing}: pip install 'replaybank[study]'\n"


@pytest.mark.slow
def test_uniform_replay_learns_cartpole_where_online_does_not(tmp_path: Path, effort: int) -> None:
    """The one outcome the experiment must show, on seeds of its own: in short form 8,000 steps, 5 seeds."""
    steps = 8_000 if effort == 1 else 20_000
    config = CompareConfig(seeds=5, steps=steps, arms=("online", "uniform"), first_seed=500, out=tmp_path)
    assert run(config)[0] == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    means = {arm: value["final_return"]["mean"]["estimate"] for arm, value in summary["arms"].items()}
    assert summary["paired_differences"]["uniform - online"]["low"] > 0
    assert means["uniform"] >= 3 * means["online"]
