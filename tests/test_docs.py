"""Every Python block of the README and of the pages under docs/ runs as it stands, as a program of its own.

A block that begins with an import begins a program; any other goes on where the one before it stopped.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from replaybank import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md")])
FENCE = re.compile(r"^ *(?P<fence>```+|~~~+)(?P<language>[^\n]*)\n(?P<text>.*?)^ *(?P=fence) *$", re.M | re.S)
LANGUAGES = {"", "python", "bash", "text", "json", "yaml", "promql", "cpp", "c", "toml"}  # no other name for Python
# What a program that says so needs beside replaybank.
NEEDS = {
    r"\btorch\b|to_torch|adapters\.cleanrl": ("torch",),
    r"\bgymnasium\b": ("gymnasium",),
    r"\bjax\b": ("jax",),
    r"\bstable_baselines3\b|adapters\.sb3": ("stable_baselines3",),
    r"\btianshou\b": ("tianshou",),
    r"\bray\b": ("ray",),
    r"\brllib\b": ("ray", "tree", "pyarrow"),
    r"\bminari\b": ("minari", "h5py", "PIL"),
    r"\bshared\b": ("fcntl",),
    r"\.plot\(": ("plotly",),
}
# Warnings are errors, but for what a dataset should tell (Minari), and in Ray, whose processes warn of each other.
UNTOLD = ("code_permalink", "algorithm_name", "description", "eval_env")
WARNINGS = ("-W", "error", *(word for name in UNTOLD for word in ("-W", f"ignore:`{name}` is set to None")))


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield fence["language"].split(" ")[0].strip("{}. "), textwrap.dedent(fence["text"])


def programs(page: Path) -> list[str]:
    found: list[str] = []
    for language, text in fences(page):
        if language == "python" and (not found or re.match(r"import |from ", text)):
            found.append(text)
        elif language == "python":
            found[-1] += text
    return found


def every_program() -> Iterator[Any]:
    for page in PAGES:
        for number, program in enumerate(programs(page), 1):
            marks = [pytest.mark.slow] if "rllib" in program else []  # half a minute
            yield pytest.param(program, id=f"{page.relative_to(ROOT).as_posix()}-{number}", marks=marks)


@pytest.mark.parametrize("program", list(every_program()))
def test_program_runs(program: str, tmp_path: Path) -> None:
    for words, libraries in NEEDS.items():
        for library in libraries:
            if re.search(words, program) and find_spec(library) is None:
                pytest.skip(f"needs {library}")
    with_ray = re.search(r"\bray\b", program) is not None
    settings = "num_cpus=2, object_store_memory=100_000_000, include_dashboard=False"
    script = tmp_path / "program.py"
    script.write_text(program.replace("ray.init()", f"ray.init({settings})"), encoding="utf-8")
    environment = os.environ | {"HOME": str(tmp_path), "MINARI_DATASETS_PATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(() if with_ray else WARNINGS), script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert with_ray or "Warning" not in done.stderr


def test_no_block_is_left_out() -> None:
    assert {language for page in PAGES for language, _ in fences(page)} <= LANGUAGES
    for page in PAGES:  # what the pattern above finds is all there is
        lines = re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.M)
        assert len(lines) == 2 * len(list(fences(page))), page
    assert {"README.md", "docs/index.md", "docs/libraries.md", "docs/running.md", "docs/ray.md"} <= {
        page.relative_to(ROOT).as_posix() for page in PAGES if programs(page)
    }


# ---- commands ----


def commands(page: Path) -> Iterator[list[str]]:
    """What shell blocks and code in the text call, as words, without what is after a pipe."""
    text = page.read_text(encoding="utf-8")
    lines = [line for language, block in fences(page) if language == "bash" for line in joined(block)]
    lines += re.findall(r"(?<!`)`((?:replaybank|python) [^`]+)`(?!`)", FENCE.sub("", text))
    for line in lines:
        for part in re.split(r"&&|\||;", line):
            words = shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield words


def joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


def flags_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def test_commands_are_found() -> None:
    assert {words[0] for _, words in COMMANDS} >= {"replaybank", "python", "pip", "pytest"}


def test_commands_of_replaybank_are_there() -> None:
    from replaybank.study.catalog import NAMES

    for page, words in COMMANDS:
        if words[0] == "replaybank":
            command = next((known for known in cli._COMMANDS if tuple(words[1 : 1 + len(known)]) == known), None)
            assert command or words[1:2] == ["--help"], (page, words)
            if command == ("study", "run"):
                assert words[3] in (*NAMES, "NAME"), (page, words)


def test_flags_of_replaybank_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tyro")
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    told: dict[tuple[str, ...], str] = {}
    for page, words in COMMANDS:
        known = [known for known in cli._COMMANDS if tuple(words[1 : 1 + len(known)]) == known]
        if words[0] != "replaybank" or not known or not (flags := flags_of(words)):
            continue
        command = (*known[0], words[3]) if known[0] == ("study", "run") else known[0]
        if command not in told:
            with suppress(SystemExit):
                cli.main([*command, "--help"])
            told[command] = capsys.readouterr().out
        for flag in flags:
            assert flag == "--help" or re.search(rf"{flag}\b", told[command]), (page, words, flag)
    assert told


def test_scripts_that_are_named_are_there() -> None:
    for page, words in COMMANDS:
        if words[0] == "python" and words[1].endswith(".py"):
            script = next((one for one in ROOT.glob(f"**/{words[1]}") if "site-packages" not in one.parts), None)
            assert script, (page, words)
        if words[0] == "python" and words[1:2] == ["-m"]:
            module = words[2].replace(".", "/")
            assert (ROOT / module).exists() or find_spec(words[2]) is not None, (page, words)


def test_extras_that_are_named_are_there() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"(?:replaybank|\.)\[([a-z0-9, ]+)\]", page.read_text(encoding="utf-8")):
            assert set(re.split(r", *", named)) <= set(known), (page, named)
