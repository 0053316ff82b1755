"""The command line: what it refuses in one line, what its help says, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import replaybank
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
        (["xyz"], 2, "'xyz' is no command; expected one of compare, study list"),
        (["study", "walk"], 2, "'study walk' is no command"),
        (["insepct", "run/replay"], 2, "'insepct' is no command (did you mean inspect?); expected"),
        (["study", "run", "clifwalk"], 1, "'clifwalk' is none (did you mean cliffwalk?); expected"),
    ],
)
def test_an_unknown_command_study_or_folder_is_one_clear_line(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_study_alone_tells_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study"]) == 2
    text = capsys.readouterr().out
    assert cli.main(["study", "--help"]) == 0
    assert capsys.readouterr().out == text
    assert [line.split()[:2] for line in text.splitlines()[2:]] == [["study", c] for c in ("list", "run", "plot")]


def test_it_says_its_version_and_runs_as_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"replaybank {replaybank.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "replaybank", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"replaybank {replaybank.__version__}\n"


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
    table, how = capsys.readouterr().out.split("\n\n")
    lines = table.splitlines()
    assert how == "Run one: replaybank study run NAME (--help: its flags)\n"
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(catalog.NAMES)


COMPARE = ["compare", "--wandb", "--seeds", "1", "--steps", "500", "--workers", "1", "--out", "out"]


@pytest.mark.parametrize(
    ("words", "missing", "remedy"),
    [
        (COMPARE, "torch", "'replaybank[study]'"),
        (COMPARE, "tyro", "'replaybank[study]'"),
        (COMPARE, "wandb", "wandb"),
        (["inspect", "out"], "tyro", "'replaybank[inspect]'"),  # no PyTorch to look inside a buffer
        (["top"], "tyro", "'replaybank[ray]'"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(
    words: list[str], missing: str, remedy: str, tmp_path: Path
) -> None:
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
    sys.exit(main(sys.argv[2:]))
"""
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, "main.py", missing, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"replaybank: this command needs the package {missing}: pip install {remedy}\n"
