"""docs/reference/command.md has every flag of every command, with the words of the real help."""

import re
from pathlib import Path

import pytest

from replaybank import cli

PAGE = (Path(__file__).parent.parent / "docs" / "reference" / "command.md").read_text()
STUDIES = ("compare", "cliffwalk", "is-trap", "capacity", "correlation", "minatar", "per", "nstep", "shards")
AGENTS = ("compare", "capacity", "correlation", "nstep", "shards")
OWN_WORDS = {"figures": {"--out"}, "compare": {"--preset", "--no-double"}, "minatar": {"--preset"}}

Row = tuple[str, str, str]


def rows(title: str) -> list[Row]:
    """The table below a title: flag, default, meaning."""
    _, _, rest = PAGE.partition(f"# {title}\n")
    section = re.split(r"^#", rest, maxsplit=1, flags=re.M)[0]
    return re.findall(r"^\| `(--[\w-]+)` \| (?:`(.*?)`)? ?\| (.*) \|$", section, re.M)


def real_help(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "100")  # boxes one below the other
    monkeypatch.setattr("sys.argv", ["replaybank"])
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    return re.sub(r"\s+", " ", re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out))


def hold(shown: list[Row], real: str, own_words: set[str]) -> None:
    flags = set(re.findall(r"(?<![\w`-])--[a-z][\w-]*(?![\w.-])", real.partition("[-h]")[2]))
    assert {flag for flag, _, _ in shown} == {flag for flag in flags if f" {flag} " in real} - {"--help"}
    for flag, default, meaning in shown:
        if flag not in own_words:
            assert meaning.replace("\\|", "|") in real
            assert not default or re.search(rf"\(default: {re.escape(default)}\)", real)


@pytest.mark.parametrize("command", ["figures", "inspect", "top"])
def test_every_flag_of_a_command_is_told(command, monkeypatch, capsys):
    pytest.importorskip("tyro")
    if command == "top":
        pytest.importorskip("ray", exc_type=ImportError)
    title = {"inspect": "replaybank inspect PATH"}.get(command, f"replaybank {command}")
    hold(rows(title), real_help([command], monkeypatch, capsys), OWN_WORDS.get(command, set()))


@pytest.mark.parametrize("study", STUDIES)
def test_every_flag_of_a_study_is_told(study, monkeypatch, capsys):
    for package in ("tyro", "torch", "gymnasium", "scipy", "matplotlib"):
        pytest.importorskip(package)
    own = rows(study)
    shared = rows("How a study is run")
    if study in AGENTS:  # whose defaults are those of `compare`
        known = {flag for flag, _, _ in own}
        shared += [
            row if study == "compare" else (row[0], "", row[2]) for row in rows("The agent") if row[0] not in known
        ]
    words = OWN_WORDS.get(study, set()) | {"--no-double"}
    hold(own + shared, real_help(["study", "run", study], monkeypatch, capsys), words)


def test_every_command_is_told():
    for words in cli._COMMANDS:
        assert f"\n## replaybank {' '.join(words)}" in PAGE
