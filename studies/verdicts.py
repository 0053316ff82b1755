"""Writes docs/verdicts.md from the committed results: `python studies/verdicts.py`.

Every figure on that page comes from a summary.json under studies/.
"""

from __future__ import annotations

import json
from pathlib import Path

from replaybank.study import catalog

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "verdicts.md"
HEAD = """# Verdicts

What the literature says of replay, and what our runs say of it. This page is made from the results under
[studies](../studies/README.md) by `python studies/verdicts.py`; [studies.md](studies.md) tells how verdicts come about.
In brackets: 95% intervals, where a study does not say otherwise.
"""


def page() -> str:
    """The page: a section for each study, a table for each of its results."""
    parts = [HEAD]
    for name in catalog.NAMES:
        for path in sorted((HERE / name).glob("**/summary.json")):
            found = json.loads(path.read_text())
            if found.get("verdicts"):
                parts.append(section(name, path, found))
    return "\n".join(parts)


def section(name: str, path: Path, found: dict) -> str:
    """One result: the question, the settings in a line, and a row for each claim."""
    config = json.loads((path.parent / "config.json").read_text())
    folder = path.parent.relative_to(HERE).as_posix()
    title = name if folder == name else f"{name}: {path.parent.name}"
    seeds = config["seeds"]
    lines = [
        f"## {title}\n",
        f"*{found['question']}* Seeds {seeds[0]} to {seeds[-1]}: [studies/{folder}](../studies/{name}/README.md).\n",
        "| claim | source | verdict | found |",
        "| --- | --- | --- | --- |",
    ]
    for verdict in found["verdicts"]:
        cells = (verdict["text"], verdict["source"], f"**{verdict['outcome']}**", verdict["evidence"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
