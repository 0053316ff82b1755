"""What `frames.py`, `sequences.py` and `memory.py` share: a run as a document, and its tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from bars import Bar, judge
from contender import Contender
from report import ABSENT, factor, table

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


def timed_arguments(
    title: str, results: Path, quick: int, whole: int, given: Sequence[str] | None
) -> argparse.Namespace:
    """What a run that takes times is told; `quick` and `whole`: transitions in every buffer. Whole runs are kept."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help=f"{quick:,} transitions, few and short repeats")
    parser.add_argument("--transitions", type=int, help=f"in every buffer ({whole:,})")
    parser.add_argument("--repeats", type=int, help="repeats a row (15, quick: 3)")
    parser.add_argument("--out", type=Path, help=f"default: {results.name} beside this file, for whole runs alone")
    options = parser.parse_args(given)
    options.seconds = 0.02 if options.quick else 0.1
    options.repeats = options.repeats or (3 if options.quick else 15)
    if options.out is None and not (options.quick or options.transitions):
        options.out = results
    options.transitions = options.transitions or (quick if options.quick else whole)
    return options


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
    """Batches a second: a line a contender, a column a row; `more` columns by title, then by contender."""
    names = list(dict.fromkeys(result["name"] for row in rows for result in row["results"]))
    medians = [{result["name"]: result["median"] for result in row["results"]} for row in rows]
    best = [row["best_peer"] for row in rows]
    lines = [
        (
            name,
            *(_rate(row.get(name), name == peer) for row, peer in zip(medians, best, strict=True)),
            *(column.get(name, ABSENT) for column in more.values()),
        )
        for name in names
    ]
    return table(("batches a second", *(row["title"] for row in rows), *more), lines)


def _rate(microseconds: float | None, best: bool) -> str:
    if microseconds is None:
        return ABSENT
    rate = 1e6 / microseconds
    text = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"**{text}**" if best else text


def verdicts(bars: Sequence[Mapping[str, Any]]) -> str:
    words = {True: "met", False: "NOT met", None: "not measured"}
    lines = [(bar["row"], bar["text"], bar["against"], factor(bar["measured"]), words[bar["met"]]) for bar in bars]
    return "## Bars\n\n" + table(("row", "bar", "against", "measured", ""), lines)


def absent(left_out: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"- {entry['name']} ({', '.join(entry['rows'])}): {entry['reason']}" for entry in left_out]
    return "## Left out\n\n" + ("\n".join(lines) or "Nobody.")
