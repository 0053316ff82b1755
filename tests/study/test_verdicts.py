"""The page of verdicts says what the committed results say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_committed_results() -> None:
    made = runpy.run_path(str(ROOT / "studies" / "verdicts.py"))["page"]()
    assert (ROOT / "docs" / "verdicts.md").read_text() == made
    assert "**not reproduced**" in made  # it does not only tell what went well
