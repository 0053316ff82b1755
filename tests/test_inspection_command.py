"""`replaybank inspect`: what it prints and writes, and that whatever goes wrong is one line and changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import SAMPLERS, VIEWS, Life, digest
from replaybank.study import SettingError

pytest.importorskip("rich")
pytest.importorskip("plotly")

from replaybank.cli import main
from replaybank.inspection import inspect
from replaybank.inspection.command import inspect_command, load_and_inspect
from replaybank.inspection.page import Page
from replaybank.inspection.plots import plots_of
from replaybank.inspection.tables import number, share, size_of, span, tables_of


def filled(n: int = 300, **parts: Any) -> rb.ReplayBuffer:
    """Episodes of 20 steps, of which the buffer keeps 200 transitions; drawn from and updated."""
    buffer = rb.ReplayBuffer(200, {"obs": ("float32", (3,)), "action": "int64"}, seed=0, **parts)
    for step in range(n):
        obs = np.full(3, step % 20, np.float32)
        buffer.add(obs, step % 2, step / 10, obs + 1, step % 20 == 19, False)
    for _ in range(5):
        batch = buffer.sample(16)
        buffer.update_priorities(batch.indices, batch.reward)
    return buffer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    filled(sampler=rb.Prioritized()).save(tmp_path / "replay")
    return tmp_path / "replay"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_tables_are_printed(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_command(saved) == 0
    out = printed(capsys)
    for text in ("200 of 200", "Prioritized(alpha=0.6", "Whole episodes", "The top 10 transitions by priority", "100"):
        assert text in out


def test_json_is_what_the_tables_tell(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_command(saved, json=True, top=4) == 0
    told = json.loads(printed(capsys))
    found = load_and_inspect(saved, 4)
    expected = json.loads(json.dumps(found.plain(), allow_nan=False))
    for one in (told, expected):  # the only figures that depend on when it was looked at
        for age in ("oldest", "middle", "newest"):
            one["use"][age].pop("seconds")
        for of in one["priorities"][0]["top"]:
            of["age"].pop("seconds")
    assert told == expected
    tables = {table.title: table for table in tables_of(found)}
    fields = {field["name"]: field for field in told["fields"] if field["items"]}
    for name, *cells in tables["Fields: what they hold"].rows:
        figures = [fields[name][key] for key in ("low", "mean", "high", "nan", "infinite")]
        assert cells[:5] == ["none" if value is None else number(value) for value in figures]
    kinds = [told["episodes"][name] for name in ("whole", "beginning_left", "open", "broken_off")]
    rows = [(number(kind["runs"]), number(kind["transitions"])) for kind in kinds]
    assert [row[1:] for row in tables["Episodes"].rows] == rows
    for row, name in zip(tables["Whole episodes"].rows, ("lengths", "returns"), strict=True):
        figures = told["episodes"][name] if name == "lengths" else told["episodes"][name][0]
        assert row[1:] == tuple(number(figures[key]) for key in ("low", "mean", "median", "high"))
    draws = dict(tables["Draws"].rows)
    assert draws["never sampled"] == share(told["use"]["never_sampled"])
    assert draws["effective sample size"].startswith(number(told["effective_size"]))
    for row, of in zip(tables["The top 4 transitions by priority"].rows, told["priorities"][0]["top"], strict=True):
        assert row[:2] == (str(of["id"]), number(of["priority"]))
    sizes = {row[0]: row[1:] for row in tables["Memory"].rows}
    assert sizes["all"] == (size_of(told["memory"]["total"]), number(told["memory"]["total"]))


def test_uniform_draws_have_no_priorities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled().save(tmp_path / "replay")
    inspect_command(tmp_path / "replay")
    out = printed(capsys)
    assert "effective sample size  200 (100%)" in out
    assert "Priorit" not in out
    assert "priority" not in out
    assert json.loads(json.dumps(load_and_inspect(tmp_path / "replay").plain()))["priorities"] == []


@pytest.mark.parametrize("schema", [None, {"obs": ("float32", (3,)), "action": "int64"}])
def test_an_empty_buffer_is_told_of(schema: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rb.ReplayBuffer(9, schema, sampler=rb.Prioritized()).save(tmp_path / "replay")
    assert inspect_command(tmp_path / "replay", html=tmp_path / "page.html") == 0
    assert "the buffer holds nothing" in printed(capsys)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_output_without_unicode_is_plain(saved: Path) -> None:
    code = (
        f"from pathlib import Path; from replaybank.inspection.command import *; inspect_command(Path({str(saved)!r}))"
    )
    plain = {**os.environ, "PYTHONIOENCODING": "ascii:backslashreplace", "NO_COLOR": "1", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "|@" in done.stdout or "@|" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys, replaybank; from pathlib import Path\n"
        "heavy = {'plotly', 'rich', 'matplotlib', 'torch', 'replaybank.inspection'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "from replaybank.inspection.command import inspect_command\n"
        "assert not (heavy - {'replaybank.inspection'}) & sys.modules.keys()\n"
        "buffer = replaybank.ReplayBuffer(3)\n"
        "buffer.add(0, 0, 0, 0, False, False)\n"
        "buffer.save('x')\n"
        "inspect_command(Path('x'), html=Path('x.html'))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- what cannot be made again ----


def test_a_view_that_holds_a_function_is_told_of(tmp_path: Path) -> None:
    view = rb.Hindsight(lambda achieved, desired, _: np.zeros(len(achieved)))
    goal = {"observation": "float32", "achieved_goal": ("float32", (1,)), "desired_goal": ("float32", (1,))}
    buffer = rb.ReplayBuffer(9, {"obs": goal, "action": "int64"}, view=view)
    obs = {"observation": 0.0, "achieved_goal": [1.0], "desired_goal": [2.0]}
    buffer.add(obs, 0, 1.0, obs, False, False)
    buffer.save(tmp_path / "replay")
    found = load_and_inspect(tmp_path / "replay")
    assert found.view.startswith("Hindsight(reward_fn=")
    assert found.size == 1
    assert found.priorities == ()


def test_priorities_are_known_though_a_schedule_is_not(tmp_path: Path) -> None:
    sampler = rb.Mixture([(1, rb.Prioritized(beta=lambda calls: 0.5)), (1, rb.Uniform())])
    buffer = filled(sampler=sampler)
    buffer.save(tmp_path / "replay")
    found, expected = load_and_inspect(tmp_path / "replay"), inspect(buffer)
    assert found.priorities is not None
    assert expected.priorities is not None
    (one,), (other,) = found.priorities, expected.priorities
    assert (one.high, one.mean, one.effective_size) == (other.high, other.mean, other.effective_size)
    assert [of.id for of in one.top] == [of.id for of in other.top]
    assert found.effective_size == expected.effective_size
    assert "<lambda>" in found.sampler


class Own(rb.Uniform):
    """A sampler that is not the library's."""


def test_what_an_unknown_sampler_knew_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(sampler=Own()).save(tmp_path / "replay")
    found = load_and_inspect(tmp_path / "replay")
    assert (found.priorities, found.effective_size) == (None, None)
    assert found.sampler.endswith("Own")
    assert found.use is not None
    assert found.use.calls == 5
    inspect_command(tmp_path / "replay")
    assert "effective sample size  unknown" in printed(capsys)


def test_a_schedule_of_eta_leaves_draws_unknown(tmp_path: Path) -> None:
    filled(sampler=rb.Recent(eta=lambda calls: 0.99)).save(tmp_path / "replay")
    assert load_and_inspect(tmp_path / "replay").effective_size is None


def test_a_storage_is_as_it_was(tmp_path: Path) -> None:
    buffer = filled(sampler=rb.Prioritized(), storage=tmp_path / "disk")
    buffer.save()
    with pytest.raises(SettingError, match="another buffer has its storage there"):
        load_and_inspect(tmp_path / "disk")
    expected = inspect(buffer)
    del buffer
    before = digest(rb.ReplayBuffer.load(tmp_path / "disk"))
    found = load_and_inspect(tmp_path / "disk")
    assert found.storage == str(tmp_path / "disk")
    assert (found.fields, found.episodes) == (expected.fields, expected.episodes)
    assert digest(rb.ReplayBuffer.load(tmp_path / "disk")) == before


# ---- what goes wrong ----


def damaged(folder: Path, which: str) -> str:
    """Turns a byte in the middle of a file; gives its name."""
    (file,) = folder.glob(which)
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 0xFF
    file.write_bytes(contents)
    return file.name


def test_a_damaged_part_is_named_and_salvage_offered(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = damaged(saved, "state-*.npz")
    with pytest.raises(SettingError) as refused:
        inspect_command(saved)
    assert name in str(refused.value)
    assert "--salvage" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert inspect_command(saved, salvage=True) == 0
    out = printed(capsys)
    assert "never sampled          unknown" in out
    assert "effective sample size  unknown" in out
    assert "salvaged " in out
    found = load_and_inspect(saved, salvage=True)
    assert (found.use, found.priorities, found.effective_size) == (None, None, None)
    assert found.size >= 199


def test_salvage_of_what_is_whole_knows_everything(saved: Path) -> None:
    found, whole = load_and_inspect(saved, salvage=True), load_and_inspect(saved)
    assert found.priorities is not None
    assert found.notes == whole.notes
    assert found.use is not None


def test_a_salvaged_buffer_does_not_claim_that_nothing_was_drawn(saved: Path) -> None:
    damaged(saved, "state-*.npz")
    with pytest.warns(RuntimeWarning, match="salvaged"):
        buffer = rb.ReplayBuffer.load(saved, salvage=True)
    assert inspect(buffer).use is None


def test_salvage_goes_on_from_the_backup(saved: Path) -> None:
    expected = load_and_inspect(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(SettingError, match=r"manifest\.json is missing"):
        load_and_inspect(saved)
    found = load_and_inspect(saved, salvage=True)
    assert found.episodes == expected.episodes


def _nothing(folder: Path) -> Path:
    return folder / "nothing"


def _file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def _other(folder: Path) -> Path:
    (folder / "other").mkdir()
    return folder / "other"


def _forged(folder: Path) -> Path:
    (folder / "forged").mkdir()
    (folder / "forged" / "manifest.json").write_text('{"a": 1}')
    return folder / "forged"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_nothing, "found nothing there"),
        (_file, "found a file"),
        (_other, "no checkpoint is there"),
        (_forged, "manifest.json"),
    ],
)
@pytest.mark.parametrize("salvage", [False, True])
def test_what_is_no_checkpoint_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], words: str, salvage: bool
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    path = make(tmp_path)
    with pytest.raises(SettingError) as refused:
        inspect_command(path, html=page, salvage=salvage)
    assert str(path) in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert page.read_text() == "mine"


def test_a_page_that_cannot_be_written_is_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for wrong in (tmp_path, tmp_path / "none" / "page.html", tmp_path / "file" / "page.html"):
        with pytest.raises(SettingError, match="--html: expected a file in a folder that is there"):
            inspect_command(saved, html=wrong)


def test_a_page_is_replaced_whole_or_not_at_all(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(SettingError, match="No space left on device"):
            inspect_command(saved, html=page)
    assert page.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page.html", "replay"]
    inspect_command(saved, html=page)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert str(page) in printed(capsys).replace("\n", "")


@pytest.mark.parametrize("flags", [[], ["--json"], ["--top", "2", "--html", "page.html"]])
def test_the_command_line_takes_its_flags(
    saved: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(saved.parent)
    assert main(["inspect", "replay", *flags]) == 0
    assert printed(capsys)
    assert ("--html" in flags) == Path("page.html").exists()


def test_the_command_line_refuses_in_one_line(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = damaged(saved, "state-*.npz")
    for path, words in ((tmp_path / "nothing", "found nothing there"), (saved, name)):
        assert main(["inspect", str(path)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert words in err


@pytest.mark.parametrize("top", [-1, 100_000])
def test_a_top_out_of_range_is_one_line(saved: Path, top: int) -> None:
    with pytest.raises(SettingError, match=f"--top: expected 0 to 10000, given {top}"):
        inspect_command(saved, top=top)


def test_a_checkpoint_is_only_read(saved: Path) -> None:
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in saved.iterdir()}
    load_and_inspect(saved)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in saved.iterdir()} == before


def test_the_example_in_the_docs_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "guides" / "look-inside.md").read_text(encoding="utf-8")
    block, excerpt = (re.findall(rf"^```{kind}\n(.*?)^```", page, re.M | re.S)[0] for kind in ("python", "text"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    exec(block, {})
    assert inspect_command(Path("run/seen"), top=3) == 0
    out = "\n".join(line.rstrip() for line in printed(capsys).splitlines())
    for part in excerpt.split("\n\n"):
        assert part.strip("\n") in out


# ---- in a notebook ----


def test_plot_is_a_page_that_notebooks_show(tmp_path: Path) -> None:
    buffer = filled()
    page = buffer.plot(top=3)
    assert isinstance(page, Page)
    assert page.inspection.size == 200
    assert page._repr_html_().startswith("<iframe")
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page.html


def test_names_cannot_end_a_script_or_a_tag() -> None:
    name = "</script><b>x"
    buffer = rb.ReplayBuffer(9, {"obs": {name: "float32"}, "action": "int64"})
    buffer.add({name: 0.0}, 0, 0.0, {name: 1.0}, False, False)
    buffer.add({name: 1.0}, 0, 0.0, {name: 2.0}, False, False)
    assert name not in buffer.plot().html


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0%"), (1.0, "100%"), (1e-9, "1e-07%"), (1 - 1e-9, "> 99.9%"), (0.5, "50%"), (0.123456, "12.3%")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(value: float, told: str) -> None:
    assert share(value) == told


def test_numbers_are_told_at_a_length_that_can_be_read() -> None:
    values = (1234567, 0.123456789, 1e20, 3.0, None, True, -0.0)
    assert [number(value) for value in values] == ["1,234,567", "0.1235", "1e+20", "3", "unknown", "True", "-0"]
    assert [span(seconds) for seconds in (0.5, 90.0, 7200.0, 86400.0)] == ["0.5 s", "1.5 min", "2 h", "1 d"]
    assert [size_of(nbytes) for nbytes in (0, 1023, 1024, 3 << 30)] == ["0 B", "1023 B", "1 KiB", "3 GiB"]


# ---- every kind of buffer ----


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("streams", "capacity"), [(1, 40), (3, 400)])
def test_any_view_can_be_looked_through(view: str, streams: int, capacity: int) -> None:
    buffer = rb.ReplayBuffer(capacity, streams=streams, sampler=rb.Prioritized(), view=VIEWS[view](), seed=1)
    agrees_with_the_buffer(buffer)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_sampler_can_be_looked_at(sampler: str, tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(60, streams=2, sampler=SAMPLERS[sampler](), seed=1)
    agrees_with_the_buffer(buffer)
    buffer.save(tmp_path / "replay")
    loaded, here = load_and_inspect(tmp_path / "replay"), inspect(buffer)
    assert (loaded.fields, loaded.episodes, loaded.streams) == (here.fields, here.episodes, here.streams)
    assert loaded.effective_size == pytest.approx(here.effective_size)
    assert [of.id for one in loaded.priorities or () for of in one.top] == [
        of.id for one in here.priorities or () for of in one.top
    ]


def agrees_with_the_buffer(buffer: rb.ReplayBuffer) -> None:
    """What is told of a life of odd habits is what the buffer's own methods give."""
    life = Life(buffer, 3)
    for step in range(150):
        life.step(step)
        if step % 3 == 2:
            life.learn()
    found = inspect(buffer)
    segments = list(buffer.segments())
    whole = sorted(len(of.ids) for of in segments if of.whole and of.ended)
    episodes, stats = found.episodes, buffer.stats()
    kinds = (episodes.whole, episodes.beginning_left, episodes.open, episodes.broken_off)
    assert episodes.whole.runs == len(whole)
    assert episodes.whole.transitions == sum(whole)
    assert sum(kind.runs for kind in kinds) == len(segments)
    assert sum(kind.transitions for kind in kinds) == found.size == len(buffer)
    assert sum(found.streams.transitions or ()) == len(buffer)
    assert found.memory.total == stats["nbytes"]
    assert found.effective_size == pytest.approx(stats["effective_size"])
    assert found.use is not None
    assert (found.use.calls, found.use.sampled) == (stats["calls"], stats["sampled"])
    assert found.use.never_sampled == pytest.approx(stats["never_sampled"])
    assert (found.use.oldest.added, found.use.oldest.samples) == (stats["age_added"], stats["age_samples"])
    told = {field.name: field for field in found.fields if field.kind == "transition"}
    oldest = stats["added"] - len(buffer)
    slots = np.arange(oldest, stats["added"]) % buffer.capacity
    for name, window in (("reward", buffer.field("reward")), ('obs["b"]["1"]', buffer.field("obs")["b"][1])):
        assert (told[name].low, told[name].high) == (window[slots].min(), window[slots].max())
        assert told[name].mean == pytest.approx(window[slots].mean(dtype=float))
    json.dumps(found.plain(), allow_nan=False)
    assert tables_of(found)
    assert len(plots_of(found)) > 5
