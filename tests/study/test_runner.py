"""The runner of studies, with a study of nothing: files, resumption, tracking, Ctrl-C, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import toy
from rich.console import Console
from toy import STUDY, ToyConfig

from replaybank.study import SettingError, catalog, folder, runner
from replaybank.study.base import Job
from replaybank.study.folder import Folder, write_json
from replaybank.study.runner import RunSettings, plot_study, run_study

TYPED = (
    '{"study": "toy", "seeds": [7], "settings": {"conditions": %s, "factor": %s, "steps": 1, "follow": false, '
    '"slow": "", "fail": ""}}'
)


def go(out: Path, config: ToyConfig | None = None, seeds: int = 5, **settings: Any) -> tuple[int, str]:
    screen = io.StringIO()
    settings = {"workers": 2, **settings}
    status = run_study(
        STUDY, config or ToyConfig(), RunSettings(seeds, out=out, **settings), Console(file=screen, width=100)
    )
    return status, screen.getvalue()


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process: quick, and what they do can be watched."""

    def work(study: Any, jobs: Any, place: Folder, settings: RunSettings, console: Console) -> bool:
        for job in place.missing(jobs):
            track = (study.run, study.name, job, place.path, settings.tensorboard, settings.wandb)
            place.save(job, runner.run_job(*track))
        return True

    monkeypatch.setattr(runner, "_work", work)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "study", lambda name: STUDY)


def test_a_study_leaves_a_file_a_run_its_tables_and_a_verdict_per_claim(tmp_path: Path) -> None:
    status, screen = go(tmp_path, ToyConfig(follow=True))
    assert status == 0
    runs = {path.relative_to(tmp_path / "runs") for path in (tmp_path / "runs").rglob("*.json")}
    assert runs == {Path(name) / f"seed{seed}.json" for name in ("plain", "double", "later") for seed in range(5)}
    with (tmp_path / "results.csv").open() as file:
        rows = {(row["condition"], int(row["seed"])): float(row["value"]) for row in csv.DictReader(file)}
    assert rows == {(n, s): f * (s + 1.0) for n, f in (("plain", 1), ("double", 2), ("later", 1)) for s in range(5)}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["means"] == {"plain": 3.0, "double": 6.0, "later": 3.0}
    assert [verdict["outcome"] for verdict in summary["verdicts"]] == ["reproduced"] * 3
    assert screen.count("reproduced: the values are above 0 (nobody)") == 3
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "toy.svg").read_bytes()
    assert not (tmp_path / "unfinished" / "plain-seeds0-1").exists()


def test_every_run_is_tracked_in_json_lines_and_on_request_in_tensorboard(tmp_path: Path) -> None:
    assert go(tmp_path, seeds=2, tensorboard=True)[0] == 0
    for seed in (0, 1):
        lines = [json.loads(line) for line in (tmp_path / f"log/plain/seed{seed}.jsonl").read_text().splitlines()]
        assert lines == [{"step": k + 1, "tag": "charts/episodic_return", "value": seed + k} for k in range(4)]
    assert len(list((tmp_path / "tensorboard").glob("*/seed*/events*"))) == 4


def test_weights_and_biases_is_told_only_on_request(
    tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Run:
        def log(self, values: dict[str, float]) -> None:
            told.append(values)

        def finish(self) -> None:
            told.append("finished")

    class Wandb:
        @staticmethod
        def init(**settings: Any) -> Run:
            told.append(settings)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    go(tmp_path / "without", ToyConfig(conditions=("plain",), steps=1), seeds=1)
    assert told == []
    go(tmp_path / "with", ToyConfig(conditions=("plain",), steps=1), seeds=1, wandb=True)
    begin, value, end = told
    assert (begin["project"], begin["group"], begin["name"]) == ("replaybank-toy", "plain", "plain-seed0")
    assert begin["config"]["factor"] == 1.0
    assert value == {"charts/episodic_return": 0, "global_step": 1}
    assert end == "finished"


def test_resumed_ends_with_the_files_of_an_uninterrupted_study(tmp_path: Path, here: None) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    go(whole)
    go(broken, seeds=3)
    kept = (broken / "runs/plain/seed1.json").stat().st_mtime_ns
    assert go(broken, resume=True)[0] == 0
    assert (broken / "runs/plain/seed1.json").stat().st_mtime_ns == kept
    assert contents(broken) == contents(whole)


def test_a_job_that_goes_on_drops_what_it_had_told_of_later_steps(tmp_path: Path, here: None) -> None:
    log, unfinished = tmp_path / "log/plain/seed0.jsonl", tmp_path / "unfinished/plain-seeds0-0"
    log.parent.mkdir(parents=True)
    unfinished.mkdir(parents=True)
    told = [{"step": k + 1, "tag": "charts/episodic_return", "value": 10 * k} for k in range(3)]
    log.write_text("".join(json.dumps(line) + "\n" for line in told) + '{"step": 4, "ta')  # killed while it wrote
    (unfinished / "kept.json").write_text("2")
    assert go(tmp_path, ToyConfig(conditions=("plain",)), seeds=1, resume=True)[0] == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["step"], line["value"]) for line in lines] == [(1, 0), (2, 10), (3, 2), (4, 3)]
    assert not unfinished.exists()


def test_other_settings_are_refused_and_nothing_changes(tmp_path: Path, here: None) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"config\.json was made with factor 1\.0, now asked for 2\.0"):
        go(tmp_path, ToyConfig(factor=2.0), resume=True)
    assert contents(tmp_path) == before


def test_a_run_of_other_settings_is_refused_and_nothing_changes(tmp_path: Path, here: None) -> None:
    go(tmp_path)
    run = tmp_path / "runs/plain/seed2.json"
    run.write_text(run.read_text().replace('"factor": 1.0', '"factor": 3.0'))
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"seed2\.json was made with factor 3\.0, now asked for 1\.0"):
        go(tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_seeds_may_be_added_and_not_left_out(tmp_path: Path, here: None) -> None:
    go(tmp_path, seeds=3)
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"has seeds \[2\], too"):
        go(tmp_path, seeds=2, resume=True)
    assert contents(tmp_path) == before
    assert go(tmp_path, seeds=4, resume=True)[0] == 0


def test_a_broken_run_of_the_second_stage_is_refused_before_it_is_trained(tmp_path: Path, here: None) -> None:
    go(tmp_path, ToyConfig(follow=True), seeds=3)
    (tmp_path / "runs/later/seed0.json").write_text("{")
    (tmp_path / "runs/later/seed1.json").unlink()
    with pytest.raises(SettingError, match=r"later/seed0\.json is a broken result"):
        go(tmp_path, ToyConfig(follow=True), seeds=3, resume=True)
    assert not (tmp_path / "runs/later/seed1.json").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_somebody_elses_config_is_left_alone(resume: bool, tmp_path: Path, here: None) -> None:
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(SettingError, match=r"config\.json is no study's"):
        go(tmp_path, resume=resume)
    assert contents(tmp_path) == {"config.json": b'{"mine": 1}'}


def test_unfinished_work_is_not_taken_up_without_resume(tmp_path: Path, here: None) -> None:
    out = tmp_path / "toy"
    go(out, ToyConfig(conditions=("plain",)), seeds=1)
    (out / "runs/plain/seed0.json").unlink()
    (out / "unfinished/plain-seeds0-0").mkdir(parents=True)
    (out / "unfinished/plain-seeds0-0/kept.json").write_text("3")
    go(out, ToyConfig(conditions=("plain",)), seeds=1)
    assert len((out / "log/plain/seed0.jsonl").read_text().splitlines()) == 4  # all of its steps
    assert (tmp_path / "toy.1/unfinished/plain-seeds0-0/kept.json").read_text() == "3"


def test_another_study_is_refused_and_nothing_changes(tmp_path: Path, here: None) -> None:
    go(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**written, "study": "walk"})
    before = contents(tmp_path)
    with pytest.raises(SettingError, match="holds the study 'walk', asked for 'toy'"):
        go(tmp_path, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", "\x00", '{"record": 1}', '{"settings": {"factor": 1.0}, "record": {}}'),
        '{"settings": {"factor": 1.0, "slow": false, "fail": false}, "record": {"other": 1}}',
    ],
)
@pytest.mark.parametrize("again", ["resume", "plot"])
def test_a_broken_result_is_named_and_nothing_changes(
    text: str, again: str, tmp_path: Path, here: None, known: None
) -> None:
    go(tmp_path)
    (tmp_path / "runs/plain/seed1.json").write_text(text)
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"seed1\.json is a broken result"):
        go(tmp_path, resume=True) if again == "resume" else plot_study(tmp_path, Console(file=io.StringIO()))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no folder of a study"),
        ("{", "config.json is broken"),
        ("{}", "expected a study, its settings and its seeds"),
        ('{"study": "toy", "seeds": [0], "settings": {"speed": 1}}', "made by another version"),
        ('{"study": "toy", "seeds": [7], "settings": null}', "expected a study"),
        (TYPED % ('"a"', "1.0"), "expected a list, given 'a'"),
        (TYPED % ('["a"]', '"fast"'), "expected a number, given 'fast'"),
        (TYPED % ('["a"]', "-1.0"), "--factor: expected above 0"),
    ],
)
def test_plot_says_in_a_line_what_a_folder_lacks(text: str | None, message: str, tmp_path: Path, known: None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingError, match=message):
        plot_study(tmp_path, Console(file=io.StringIO()))


def test_plot_makes_the_same_files_again_from_the_runs(tmp_path: Path, here: None, known: None) -> None:
    go(tmp_path, ToyConfig(follow=True))
    before = contents(tmp_path)
    for name in ("summary.json", "results.csv", "toy.png", "toy.svg"):
        (tmp_path / name).unlink()
    assert plot_study(tmp_path, Console(file=io.StringIO())) == 0
    assert contents(tmp_path) == before


def test_a_new_study_moves_earlier_runs_aside_and_says_where(tmp_path: Path, here: None) -> None:
    out = tmp_path / "toy"
    go(out)
    first = contents(out)
    for number in (1, 2):
        _, screen = go(out)
        assert f"toy.{number}" in screen
        assert contents(tmp_path / f"toy.{number}") == first
    assert contents(out) == first


def test_a_folder_that_holds_no_runs_stays_where_it_is(tmp_path: Path, here: None) -> None:
    (tmp_path / "note.txt").write_text("mine")
    go(tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, here: None) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingError, match="--out"):
            go(out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failing_job_ends_the_study_with_its_error_and_finished_runs_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this one fails"):
        go(tmp_path, ToyConfig(conditions=("plain", "bad"), fail="bad"), seeds=1, workers=1)
    assert [path.parent.name for path in (tmp_path / "runs").rglob("*.json")] == ["plain"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_what_has_finished_and_resume_goes_on(tmp_path: Path, here: None) -> None:
    code = (
        "import signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit deafness to it\n"
        "from pathlib import Path\n"
        "from toy import STUDY, ToyConfig\n"
        "from replaybank.study.runner import RunSettings, run_study\n"
        "if __name__ == '__main__':\n"
        "    config = ToyConfig(conditions=('slow', 'plain'), slow='slow', steps=4000)\n"
        "    sys.exit(run_study(STUDY, config, RunSettings(1, out=Path(sys.argv[2]), workers=2)))\n"
    )
    (tmp_path / "main.py").write_text(code)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "main.py"), str(Path(toy.__file__).parent), str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/plain/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    screen, _ = process.communicate(timeout=30)
    assert process.returncode == 130, screen
    assert "Traceback" not in screen
    assert "--resume goes on" in screen
    assert [path.parent.name for path in (out / "runs").rglob("*.json")] == ["plain"]
    assert json.loads((out / "summary.json").read_text())["means"] == {"plain": 1.0}
    kept = json.loads((out / "unfinished/slow-seeds0-0/kept.json").read_text())
    assert 0 < kept < 4000
    config = ToyConfig(conditions=("slow", "plain"), slow="slow", steps=kept + 1)
    job = toy.job(config, "slow", [0])
    told: list[int] = []

    class Listening(runner.JobTrack):
        def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
            told.append(step)

    track = Listening("toy", job, Folder(out), False, False)
    toy.run(job, track)
    track.close()
    assert told == [kept + 1]  # it went on; it did not begin again


def test_the_parent_ends_a_job_at_its_next_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(runner, "_stop", stop)
    track = runner.JobTrack("toy", Job("plain", (0,), 4, {}), Folder(tmp_path), False, False)
    track.progress(1)
    stop.set()
    with pytest.raises(runner.Stopped):
        track.progress(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "--seeds: expected at least 1, given 0"),
        ({"workers": -1}, "--workers: expected at least 1, given -1"),
        ({"first_seed": -1}, "--first-seed: expected from 0 to 999995, given -1"),
        ({"first_seed": 999_996}, "--first-seed: expected from 0 to 999995, given 999996"),
        ({"config": ToyConfig(factor=0)}, "--factor: expected above 0, given 0"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_written(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        go(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"value": float("nan"), "list": [1.0, float("inf")]})
    assert json.loads(path.read_text()) == {"value": None, "list": [1.0, None]}
    before = path.read_text()

    def broken(text: str) -> int:
        raise OSError("no space")

    monkeypatch.setattr(folder.Path, "write_text", lambda self, text: broken(text))
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"value": 2})
    assert path.read_text() == before
