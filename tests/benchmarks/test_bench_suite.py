"""The suite keeps every part that is done, and the page and its figures are those of the figures that are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

import capacity
import figures
import page
import suite
from adapters.floor import FloorContender
from adapters.replaybank import Replaybank
from contender import Role
from measuring import LeftOut, Settings
from parts import PARTS
from transitions import trajectories

#: Does as `one_part.py` is told to, by the name of its part.
WORKER = """
import json, subprocess, sys, time
from pathlib import Path
_, key, how, out = sys.argv
if key == "frames":
    sys.exit(3)
if key == "memory":
    time.sleep(60)
Path(out).write_text(json.dumps({"run": how, "rows": [key]}))
"""


@pytest.fixture
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(suite, "WORKER", worker)
    monkeypatch.setattr(suite, "PATIENCE", {"quick": 1.0, "full": 20.0})


@pytest.mark.usefixtures("_stand_in")
def test_a_part_that_fails_or_takes_too_long_costs_no_other(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "results.json"
    suite.run(["calls", "frames", "memory", "threads"], "quick", out, anew=True)
    kept = json.loads(out.read_text())
    assert list(kept["parts"]) == ["calls", "threads"]
    assert kept["failed"] == {"frames": "ended with 3", "memory": "took more than 1 s"}


@pytest.mark.usefixtures("_stand_in")
def test_a_part_that_is_run_again_leaves_the_others_and_a_whole_run_does_not(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    suite.keep({"parts": {"writers": {"old": 1}, "calls": {"old": 1}}, "failed": {"threads": "died"}}, out)
    suite.run(["threads", "calls"], "full", out, anew=False)
    kept = json.loads(out.read_text())
    assert list(kept["parts"]) == ["calls", "threads", "writers"], "in the order of the page"
    assert kept["parts"]["writers"] == {"old": 1}
    assert kept["parts"]["calls"]["run"] == "full"
    assert kept["failed"] == {}
    suite.run(["threads"], "full", out, anew=True)
    assert list(json.loads(out.read_text())["parts"]) == ["threads"]


@pytest.mark.usefixtures("_stand_in")
def test_what_is_done_is_kept_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "results.json"
    part = suite.part

    def interrupted(key: str, how: str) -> dict[str, Any]:
        if key == "threads":
            raise KeyboardInterrupt
        return part(key, how)

    monkeypatch.setattr(suite, "part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        suite.run(["calls", "threads"], "full", out, anew=True)
    assert list(json.loads(out.read_text())["parts"]) == ["calls"]


def test_a_quick_run_does_not_touch_the_committed_results() -> None:
    assert suite.arguments(["--quick"]).out == suite.QUICK_RESULTS
    assert suite.arguments(["--full"]).out == suite.arguments(["--page"]).out == suite.RESULTS
    assert suite.arguments(["--full"]).parts == list(PARTS)
    assert suite.arguments(["--quick", "--only", "frames", "calls"]).parts == ["frames", "calls"]
    for wrong in ([], ["--quick", "--full"], ["--quick", "--only", "no-such-part"]):
        with pytest.raises(SystemExit):
            suite.arguments(wrong)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.written(suite.read(suite.RESULTS), page.on_a_gpu()), (
        "python -m benchmarks --page"
    )


def test_the_readme_has_the_table_of_the_committed_results() -> None:
    readme = page.README.read_text(encoding="utf-8")
    assert readme == page.with_glance(readme, suite.read(suite.RESULTS)), "python -m benchmarks --page"


def test_the_committed_figures_are_drawn_of_the_committed_results(tmp_path: Path) -> None:
    stems = re.findall(r"\(images/benchmarks/(\w+)\.png\)", page.PAGE.read_text(encoding="utf-8"))
    assert set(stems) == set(figures.FIGURES), "every figure is on the page"
    drawn_by = {re.findall(r"Matplotlib v([\w.]+)", (page.IMAGES / f"{stem}.svg").read_text())[0] for stem in stems}
    if drawn_by != {matplotlib.__version__}:
        pytest.skip(f"they were drawn by Matplotlib {drawn_by}, this is {matplotlib.__version__}")
    figures.draw(suite.read(suite.RESULTS), tmp_path)
    for stem in stems:
        assert (tmp_path / f"{stem}.svg").read_text() == (page.IMAGES / f"{stem}.svg").read_text(), stem


def test_a_run_on_a_gpu_has_its_section() -> None:
    run = {
        "date": "2026-11-22T10:00:00+00:00",
        "commit": "abc",
        "device": "Some GPU, CUDA 13.0",
        "hardware": {"processor": "P", "cores": 16},
        "python": "CPython 3.11",
        "versions": {"torch": "2.13"},
        "settings": {"transitions": 100, "batch": 256, "repeats": 3, "seconds": 0.02},
        "rows": [row("uniform-4", 50.0, None)],
        "left_out": [{"name": "cpprb", "rows": ["prioritized-4"], "reason": "is not installed"}],
    }
    text = page.written({"parts": {}, "failed": {}}, run)
    assert "Some GPU, CUDA 13.0" in text
    assert "20,000 ± 10%" in text
    assert "- cpprb (prioritized-4): is not installed" in text
    assert "## On a GPU" not in page.written({"parts": {}, "failed": {}})


def test_every_part_has_a_place_in_the_committed_results() -> None:
    assert list(suite.read(suite.RESULTS)["parts"]) == list(PARTS)


def timed(name: str, role: Role, median: float) -> dict[str, Any]:
    quartiles = {"lower_quartile": 0.9 * median, "upper_quartile": 1.1 * median}
    return {"name": name, "role": role.value, "median": median, **quartiles}


def row(key: str, ours: float, floor: float | None) -> dict[str, Any]:
    results = [timed("replaybank", Role.OURS, ours), timed("cpprb", Role.PEER, 9.0)]
    results += [timed("C floor", Role.FLOOR, floor)] if floor else []
    return {"key": key, "title": key, "unit": "microseconds", "results": results, "best_peer": "cpprb"}


def test_rows_that_are_far_from_their_floor_are_named_the_farthest_first() -> None:
    rows = [row("near", 3.0, 2.0), row("far", 4.0, 2.0), row("farther", 30.0, 2.0), row("no floor", 9.0, None)]
    results = {"parts": {"calls": {"rows": rows}}}
    assert [(entry[1]["key"], entry[2]) for entry in page.far(results)] == [("farther", 15.0), ("far", 2.0)]
    assert "2 of the 3 rows that have a floor" in page._far(results)


def test_curves_are_the_rows_of_one_work_by_size() -> None:
    rows = [row("uniform-256", 2.0, 1.0), row("uniform-32", 1.0, None), row("uniform-256-unrelated", 5.0, 1.0)]
    curves = figures.over(rows, "uniform")
    assert [(size, result["median"]) for size, result in curves["replaybank"]] == [(32, 1.0), (256, 2.0)]
    assert [size for size, _ in curves["C floor"]] == [256]


def test_no_two_libraries_look_alike() -> None:
    looks = {(style.colour, style.line, style.marker) for style in figures.STYLES.values()}
    assert len(looks) == len(figures.STYLES)
    assert figures.style_of("TorchRL, LazyMemmapStorage") is figures.STYLES["TorchRL"]
    assert figures.style_of("Flashbax, in one scan") is figures.STYLES["Flashbax, in one scan"]
    assert figures.style_of("somebody else") is figures.OTHER


# ---- capacities ------------------------------------------------------------------------------------------------------


def test_transitions_that_repeat_are_given_part_by_part() -> None:
    data = trajectories(100, np.random.default_rng(0))
    many = capacity.Repeated(data, 1_000)
    whole = many.part(0, 900)
    assert (len(many), len(whole)) == (1_000, 900)
    for start in (0, 100, 800):
        np.testing.assert_array_equal(whole.part(start, start + 100).obs, data.obs)
    np.testing.assert_array_equal(many.part(900, 1_000).part(0, 40).reward, data.reward[:40])
    assert len(whole.part(850, 2_000)) == 50


def test_a_buffer_filled_with_repeats_holds_them() -> None:
    data = trajectories(100, np.random.default_rng(0))
    (group, _) = capacity.groups(300, [Replaybank])
    held = Replaybank(group.setup)
    for part in (0, 100, 200):
        held._buffer.extend(*capacity.Repeated(data, 300).part(part, part + 100).columns().values())
    batch = held.sample(200)
    assert {row.tobytes() for row in batch.obs} <= {row.tobytes() for row in data.obs}


def test_beyond_their_most_peers_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity.machine, "available", lambda: 30e9)
    left_out = LeftOut()
    assert capacity.entrants(10**8, left_out) == (Replaybank, FloorContender)
    names = {entry["name"] for entry in left_out.as_list()}
    assert {"cpprb", "SB3", "Tianshou", "TorchRL", "Flashbax"} <= names
    monkeypatch.setattr(capacity.machine, "available", lambda: 1e9)
    assert capacity.entrants(10**8, left_out) == ()
    assert any("GiB would be needed" in entry["reason"] for entry in left_out.as_list())


def test_a_run_over_capacities_has_every_row_and_the_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "CONTENDERS", (Replaybank, FloorContender))
    found = capacity.run([100, 1_000], Settings(repeats=2, seconds=1e-4))
    keys = [f"{work}-{count}" for count in (100, 1_000) for work in ("add", "uniform", "prioritized", "update")]
    assert [entry["key"] for entry in found["rows"]] == keys
    assert found["bars"][0]["met"] is None  # neither a million nor ten
    assert "the time of 100." in capacity.section(found)
