"""docs/architecture.md has a place for every file, and names none that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FILES = [*(ROOT / "src" / "replaybank").rglob("*.py"), *(ROOT / "native").rglob("*.hpp")]
ONE_A_LIBRARY = ("adapters",)  # the page names the folder


def words(name: str) -> re.Pattern[str]:
    """A file's name, or the class it holds: sum_tree, SumTree."""
    return re.compile(rf"(?<!\w){name}(?!\w)|\b{name.replace('_', '')}\b", re.I)


def test_every_file_has_its_place():
    missing = [
        file.relative_to(ROOT).as_posix()
        for file in FILES
        if not file.stem.startswith("__")
        and file.parent.name not in ONE_A_LIBRARY
        and not words(file.stem).search(PAGE)
    ]
    assert not missing, "name them in docs/architecture.md, where what they do is said"


def test_no_file_is_named_that_is_not_there():
    there = (
        {file.name for file in FILES}
        | {file.name for file in (ROOT / "benchmarks").glob("*.py")}
        | {file.name for file in (ROOT / "tests").rglob("*.py")}
    )
    named = set(re.findall(r"\b([a-z_]+\.(?:py|hpp))\b", PAGE))
    assert len(named) > 30
    assert not named - there
