"""The report of a run as Markdown: a table for each row, one table of all, the bars, and who was left out.

`python benchmarks/report.py [results.json]` prints the report of a run that was kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
ABSENT = "–"

Run = Mapping[str, Any]


def markdown(run: Run) -> str:
    parts = [_heading(run), *(_row(row) for row in run["rows"]), _overview(run["rows"]), _bars(run["bars"])]
    return "\n\n".join([*parts, _left_out(run["left_out"]), _notes(run)]) + "\n"


def overview(run: Run) -> str:
    """The table of all rows and the bars, as a README wants them."""
    return "\n\n".join([_overview(run["rows"]), _bars(run["bars"])]) + "\n"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it stands: the first column to the left, the others to the right."""
    rows = [tuple(header), *(tuple(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    dashes = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in (rows[0], tuple(dashes), *rows[1:]))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |"


def duration(microseconds: float) -> str:
    """Three significant digits, thousands separated."""
    if microseconds >= 100:
        return f"{microseconds:,.0f}"
    return f"{microseconds:.1f}" if microseconds >= 10 else f"{microseconds:.2f}"


def factor(ratio: float | None) -> str:
    if ratio is None:
        return ABSENT
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def _heading(run: Run) -> str:
    hardware = run["hardware"]
    return (
        f"# replaybank and its peers, {run['date'][:10]}\n\n"
        f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {hardware['system']}; "
        f"{run['python']}; commit {run['commit'] or 'unknown'}.\n"
        + ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        + "."
    )


def _row(row: Mapping[str, Any]) -> str:
    lines = []
    for result in sorted(row["results"], key=lambda result: result["median"]):
        name = result["name"] + (" (best peer)" if result["name"] == row["best_peer"] else "")
        spread = f"{duration(result['lower_quartile'])} … {duration(result['upper_quartile'])}"
        ratio = factor(row["times_ours"].get(result["name"]))
        lines.append((name, duration(result["median"]), spread, ratio))
    return f"## {row['title']} (`{row['key']}`)\n\n" + table(("", "µs, median", "quartiles", "times replaybank"), lines)


def _overview(rows: Sequence[Mapping[str, Any]]) -> str:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(result["name"] for result in row["results"] if result["role"] != "detail"))
    lines = []
    for row in rows:
        medians = {result["name"]: duration(result["median"]) for result in row["results"]}
        if row["best_peer"]:
            medians[row["best_peer"]] = f"**{medians[row['best_peer']]}**"
        lines.append((row["title"], *(medians.get(name, ABSENT) for name in names)))
    return "## All rows\n\nµs a call, medians; the best peer in bold.\n\n" + table(("", *names), lines)


def _bars(bars: Sequence[Mapping[str, Any]]) -> str:
    verdicts = {True: "met", False: "NOT met", None: "not measured"}
    lines = [(bar["row"], bar["text"], bar["against"], factor(bar["measured"]), verdicts[bar["met"]]) for bar in bars]
    return "## Bars\n\n" + table(("row", "bar", "against", "measured", ""), lines)


def _left_out(left_out: Sequence[Mapping[str, Any]]) -> str:
    if not left_out:
        return "## Left out\n\nNobody."
    lines = [f"- {entry['name']} ({', '.join(entry['rows'])}): {entry['reason']}" for entry in left_out]
    return "## Left out\n\n" + "\n".join(lines)


def _notes(run: Run) -> str:
    settings = run["settings"]
    return f"""## How

Transitions of CartPole's size: 4 float32, an int64 action, a float32 reward, 4 float32, two booleans. A million of them
in every buffer, which has wrapped around; priorities are half-normal.

Median and quartiles of {settings["repeats"]} repeats of about {settings["seconds"] * 1e3:g} ms, the libraries in turn
within each repeat; one thread each, no garbage collection while the clock runs. Every call gets fresh priorities and
fresh indices. What a library wants to be handed (a Batch, a TensorDict, an array with a leading axis) is made
beforehand. A sample counts until the arrays that a loss takes are in hand: obs, action, reward, next_obs, terminated,
and the weights.

SB3 and TorchRL give torch tensors, Flashbax JAX arrays, the others NumPy. Flashbax waits for every result; in one scan,
nothing of a training loop lies between its calls. The textbook deque's `add` keeps references, all others copy. The C
floor has no checks, no random numbers and no weights: uniform, it reads one record a row; prioritized, it walks the
tree first."""


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    print(markdown(json.loads(path.read_text(encoding="utf-8"))), end="")


if __name__ == "__main__":
    main()
