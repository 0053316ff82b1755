"""The command line: what it refuses in one line, what its help says, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replaybank import cli
from replaybank.study import catalog
from replaybank.study.compare import ARMS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "-5"], "--steps: expected at least 1, given -5"),
        (["--steps", "100"], "--steps: expected at least 500, the longest episode of CartPole-v1"),
        (["--seeds", "0"], "--seeds: expected at least 1, given 0"),
        (["--together", "0"], "--together: expected at least 1, given 0"),
        (["--arms", "none"], "'none' is unknown; expected some of online, recent, uniform, prioritized"),
        (["--arms", "online", "online"], "expected each at most once"),
        (["--env", "Pendulum-v1"], "expected an environment with Discrete actions"),
        (["--env", "Nowhere-v1"], "Gymnasium cannot make 'Nowhere-v1'"),
        (["--gamma", "2"], "--gamma: expected from 0 to 1, given 2.0"),
        (["--preset", "fast"], "--preset: expected one of cleanrl, given fast"),
        (["--preset"], "--preset: expected one of cleanrl, given nothing"),
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


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["study", "run", "nope"], 1, "study: 'nope' is none; expected one of compare"),
        (["study", "plot", "nowhere"], 1, "nowhere is no folder of a study"),
        (["compute"], 2, "'compute' is no command; expected one of compare, study list"),
        (["study", "walk"], 2, "'study walk' is no command"),
    ],
)
def test_an_unknown_command_study_or_folder_is_one_clear_line(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def text_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        cli.main(words)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_defines_the_arms_and_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(["compare", "--help"], capsys)
    for name, definition in ARMS.items():
        assert f"{name.upper()}: {definition}" in text
    for flag in (
        "--learning-rate",
        "--no-double",
        "--target-period",
        "--resume",
        "--lr-sweep",
        "--tensorboard",
        "--wandb",
    ):
        assert flag in text


def test_a_preset_changes_the_defaults_that_other_flags_change_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(default: 500000)" in text_of(["compare", "--preset", "cleanrl", "--help"], capsys)
    assert "(default: 500000)" in text_of(["study", "run", "compare", "--preset=cleanrl", "--help"], capsys)


@pytest.mark.parametrize("name", catalog.NAMES)
def test_every_study_of_the_list_can_be_asked_for_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert catalog.study(name).name == name
    text = text_of(["study", "run", name, "--help"], capsys)
    assert catalog.study(name).question[:40] in text
    assert "--seeds" in text


def test_the_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(catalog.NAMES)


@pytest.mark.parametrize(
    ("missing", "remedy"), [("torch", "'replaybank[study]'"), ("tyro", "'replaybank[study]'"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named_with_its_remedy(missing: str, remedy: str, tmp_path: Path) -> None:
    code = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
from replaybank.cli import main
assert not {"torch", "tyro", "gymnasium", "scipy", "matplotlib", "rich"} & sys.modules.keys()  # importing it is cheap
if __name__ == "__main__":
    sys.exit(main(["compare", "--wandb", "--seeds", "1", "--steps", "500", "--workers", "1", "--out", "out"]))
"""
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, "main.py", missing]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"replaybank: this command needs the package {missing}: pip install {remedy}\n"
