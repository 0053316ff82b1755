"""docs/why-fast.md shows the committed profile, and each file that it names is there."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "why-fast.md").read_text()
RESULT = json.loads((ROOT / "benchmarks" / "profile.json").read_text())


def rows() -> dict[str, tuple[float, ...]]:
    """The table below the mark, by the name of the part."""
    _, _, rest = PAGE.partition("<!-- python benchmarks/profile_parts.py --write -->")
    found = re.findall(r"^\| (?:– of that: )?(.+?) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", rest, re.M)
    return {name: tuple(map(float, values)) for name, *values in found}


def test_the_table_is_the_committed_profile():
    told = {
        row["part"].strip(): tuple(round(row[key], 2) for key in ("median", "lower_quartile", "upper_quartile"))
        for row in RESULT["rows"]
    }
    assert rows() == told
    assert len(told) > 10


def test_the_profile_says_what_it_was_made_with():
    assert {"date", "commit", "python", "hardware", "versions", "settings"} <= set(RESULT)
    assert f"{RESULT['hardware']['processor']}, {RESULT['python']}, NumPy {RESULT['versions']['numpy']}" in PAGE


def test_pictures_need_nothing_from_elsewhere():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGE)
    assert len(pictures) == 2
    for picture in pictures:
        text = (ROOT / "docs" / picture).read_text()
        assert "<title>" in text
        assert not re.search(r"(href|src)=|<script|@import|url\((?!#)", text)


def test_kernels_that_are_named_exist():
    kernels = (ROOT / "src" / "replaybank" / "kernels.py").read_text()
    for name in ("append", "read", "spread", "count_live", "magnitudes", "importance_weights", "returns"):
        assert f"`{name}`" in PAGE
        assert f'"{name}"' in kernels
