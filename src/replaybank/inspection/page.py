"""An inspection as one HTML page: tables, and plots that one can zoom into. It needs no network.

Plotly's script is inside, once: most of the page's 5 MB. The page forbids itself to load anything else.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from replaybank.extras import of_extra
from replaybank.inspection.plots import plots_of
from replaybank.inspection.report import Inspection
from replaybank.inspection.tables import Table, tables_of

with of_extra("inspect"):
    from plotly.offline import get_plotlyjs

HEIGHT = 900  # pixels, in a notebook
TEMPLATE = Path(__file__).with_name("page.html")


class Page:
    """What was found (`inspection`), as a page: a notebook shows it, `save` writes it, `html` is its text."""

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection

    @cached_property
    def html(self) -> str:
        """The page, whole."""
        found = self.inspection
        plots = plots_of(found)
        cards = [
            f'<figure><figcaption><b>{escape(plot.title)}</b> {escape(plot.note)}</figcaption><div class="plot" '
            f'id="plot{at}" role="img" aria-label="{escape(plot.title)}"></div></figure>'
            for at, plot in enumerate(plots)
        ]
        notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes) or "<li>nothing</li>"
        return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=escape(found.source or "A buffer in memory"),
            notes=notes,
            tables="".join(map(_table, tables_of(found))),
            plots="".join(cards),
            data=_script_safe([{"data": plot.data, "layout": plot.layout} for plot in plots]),
            plotly=get_plotlyjs(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page; a file that is there is replaced, once the new one is whole. Raises OSError."""
        target = Path(path).resolve()
        new = target.with_name(f".{target.name}.{os.getpid()}.new")
        try:
            with new.open("x", encoding="utf-8") as file:
                file.write(self.html)
            new.replace(target)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _repr_html_(self) -> str:
        """For notebooks: in a frame of its own, so that neither touches the other."""
        frame = f'style="width:100%;height:{HEIGHT}px;border:1px solid #ccc" sandbox="allow-scripts allow-downloads"'
        return f'<iframe title="What is in the buffer" {frame} srcdoc="{escape(self.html)}"></iframe>'

    def __repr__(self) -> str:
        return f"Page({self.inspection.size} transitions; a notebook shows it, .save(path) writes it)"


def _table(table: Table) -> str:
    text = len(table.columns) - table.numeric
    kinds = ["" if at < text else ' class="number"' for at in range(len(table.columns))]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, table.columns, strict=True))
    rows = (
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(table.columns) else ""
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    body = f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
    return f'<section><h2>{escape(table.title)}</h2><div class="wide" tabindex="0">{body}</div>{note}</section>'


def _script_safe(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
