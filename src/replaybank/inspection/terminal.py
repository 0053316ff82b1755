"""An inspection in a terminal, with or without colours."""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from replaybank.inspection.report import Inspection
from replaybank.inspection.tables import Table, distributions, number, tables_of

BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*#@"
WHOLE_COLUMNS, NAME = 2, 54  # the first columns are not broken, where they are no longer


def show(found: Inspection, console: Console) -> None:
    """Prints tables, histograms as lines of bars, and notes."""
    for table in tables_of(found):
        _print(table, console)
    _print_histograms(found, console)
    if found.notes:
        console.print(Text("Worth a look", style="bold"))
        for note in found.notes:
            console.print(Text(f"- {note}"))
        console.print()


def _print(table: Table, console: Console) -> None:
    shown = RichTable(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_header=any(table.columns)
    )
    for at, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "right" if at >= len(table.columns) - table.numeric else "left"
        whole = at < WHOLE_COLUMNS and max(len(row[at]) for row in table.rows) <= NAME
        shown.add_column(Text(column), justify=justify, overflow="fold", no_wrap=whole)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(Text(table.title, style="bold"))
    console.print(shown)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()


def _print_histograms(found: Inspection, console: Console) -> None:
    told = [(name, one.histogram) for name, one in distributions(found)]
    told += [("priority", one.histogram) for one in found.priorities or ()]
    bars = BARS if console.encoding.startswith("utf") else PLAIN_BARS
    rows = []
    for name, histogram in told:
        if histogram is not None:
            most = max(histogram.counts)
            line = "".join(bars[-(-count * (len(bars) - 1) // most)] for count in histogram.counts)
            low, high = (number(edge, 3) for edge in (histogram.edges[0], histogram.edges[-1]))
            rows.append((name, f"|{line}|", f"{low} to {high}"))
    if rows:
        note = "The page that --html writes has the numbers."
        if found.priorities:
            note += " Priorities are in bins of equal ratios."
        _print(Table("Histograms", ("", "from low to high", "range"), tuple(rows), 0, note), console)
