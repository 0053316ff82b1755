"""A run as a document, and its tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from bars import Bar, judge
from contender import Contender
from report import ABSENT, table, within

PACKAGES = ("numpy", "torch", "jax", "numba", "tensordict", "gymnasium", "ale-py", "opencv-python-headless")
Document = Mapping[str, Any]


def document(kinds: Iterable[type[Contender]], settings: Mapping[str, Any], **measured: Any) -> dict[str, Any]:
    """When, where and with what versions a run was made, how, and what it measured."""
    distributions = [kind.distribution for kind in kinds if kind.distribution]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "python": machine.python(),
        "hardware": machine.hardware(),
        "versions": machine.versions([*distributions, *PACKAGES]),
        "settings": dict(settings),
        **measured,
    }


def judged(bars: Sequence[Bar], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bars of the rows that were measured."""
    results = {row["key"]: row["results"] for row in rows}
    return [judge(bar, results[bar.row]) for bar in bars if bar.row in results]


def finish(run: Document, text: str, out: Path | None) -> None:
    """Keep the run as JSON, and print it."""
    if out:
        out.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        machine.say(f"written: {out}")
    print(text)


def heading(title: str, run: Document) -> str:
    hardware = run["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"# {title}, {run['date'][:10]}\n\n{hardware['processor']}, {hardware['cores']} cores, "
        f"{hardware['memory_gib']} GiB, {hardware['system']}; {run['python']}; commit {run['commit'] or 'unknown'}.\n"
        f"{versions}."
    )


def rates(rows: Sequence[Mapping[str, Any]], more: Mapping[str, Mapping[str, str]]) -> str:
    """Batches a second, ± half the interquartile range: a line a contender, a column a row.

    `more` columns by title, then by contender.
    """
    names = list(dict.fromkeys(result["name"] for row in rows for result in row["results"]))
    found = [{result["name"]: result for result in row["results"]} for row in rows]
    best = [row["best_peer"] for row in rows]
    lines = [
        (
            name,
            *(_rate(row.get(name), name == peer) for row, peer in zip(found, best, strict=True)),
            *(column.get(name, ABSENT) for column in more.values()),
        )
        for name in names
    ]
    return table(("batches a second", *(row["title"] for row in rows), *more), lines)


def _rate(result: Document | None, best: bool) -> str:
    if result is None:
        return ABSENT
    rate = 1e6 / result["median"]
    text = f"{rate:,.0f} {within(result)}" if rate >= 10 else f"{rate:.2g} {within(result)}"
    return f"**{text}**" if best else text


def absent(left_out: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"- {entry['name']} ({', '.join(entry['rows'])}): {entry['reason']}" for entry in left_out]
    return "## Left out\n\n" + ("\n".join(lines) or "Nobody.")
