"""Tables in Markdown, and figures as they stand in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ABSENT = "–"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it stands: the first column to the left, the others to the right."""
    rows = [tuple(header), *(tuple(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    dashes = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in (rows[0], tuple(dashes), *rows[1:]))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |"


def rounded(value: float) -> str:
    """Three significant digits of any size, thousands separated; above 999 no digit is dropped."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def factor(ratio: float | None) -> str:
    if ratio is None:
        return ABSENT
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def spread_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Microseconds a call: a line a row, a column a contender; median ± half the interquartile range, best peer bold.

    Contenders that are details of a row have no column.
    """
    names = list(dict.fromkeys(r["name"] for row in rows for r in row["results"] if r["role"] != "detail"))
    lines = []
    for row in rows:
        cells = {result["name"]: spread(result) for result in row["results"]}
        if row["best_peer"]:
            cells[row["best_peer"]] = f"**{cells[row['best_peer']]}**"
        lines.append((row["title"], *(cells.get(name, ABSENT) for name in names)))
    return table(("", *names), lines)


def within(result: Mapping[str, Any]) -> str:
    """Half the interquartile range, in percent of the median: of a time and of the rate that it gives."""
    half = (result["upper_quartile"] - result["lower_quartile"]) / 2
    return f"± {100 * half / result['median']:.0f}%"


def spread(result: Mapping[str, Any]) -> str:
    """The median with half the distance between the quartiles, in the digits of the median."""
    half = (result["upper_quartile"] - result["lower_quartile"]) / 2
    median = result["median"]
    digits = max(0, 2 - math.floor(math.log10(median)))
    return f"{rounded(median)} ± {half:,.{digits}f}"
