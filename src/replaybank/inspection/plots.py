"""The plots of a page, as Plotly takes them: plain data and layouts. Nothing is computed here but places of bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from replaybank.inspection.report import Histogram, Inspection, Priorities, Use
from replaybank.inspection.tables import distributions, label, number

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito; dashes and hatches tell them apart, too
MOST_FIELDS = 60  # histograms of fields on a page
APART = 12  # so few bars stand apart


@dataclass(frozen=True)
class Plot:
    """`data` and `layout` as `Plotly.newPlot` takes them."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class _Axes:
    x: str
    y: str
    more: dict[str, Any] = field(default_factory=dict)

    def layout(self) -> dict[str, Any]:
        return {"xaxis": {"title": {"text": self.x}}, "yaxis": {"title": {"text": self.y}}, **self.more}


def plots_of(found: Inspection) -> list[Plot]:
    """All plots, of what there is."""
    plots = [
        Plot(f"{name.capitalize()} of whole episodes", [_bars(one.histogram)], _Axes(name, "episodes").layout())
        for name, one in distributions(found)
        if one.histogram is not None
    ]
    ranked = found.priorities or ()
    of = [f" of {one.sampler}" if len(ranked) > 1 else "" for one in ranked]
    for one, whose in zip(ranked, of, strict=True):
        if one.histogram is not None:
            plots.append(_priorities(one, one.histogram, f"Priorities{whose}"))
    if found.use is not None:
        plots.append(_never_sampled(found.use))
        for one, whose in zip(ranked, of, strict=True):
            plots.append(_by_age(one, found.use, f"Priorities{whose} by age"))
    if found.streams.count > 1 and found.streams.transitions:
        plots.append(_streams(found.streams.transitions))
    return plots + _fields(found)


def _bars(histogram: Histogram) -> dict[str, Any]:
    edges = histogram.edges
    ranges = [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]
    return {
        "type": "bar",
        "x": [low / 2 + high / 2 for low, high in pairwise(edges)],
        "width": [(high - low) * (0.9 if len(edges) <= APART else 1) for low, high in pairwise(edges)],
        "y": list(histogram.counts),
        "text": ranges,
        "textposition": "none",
        "hovertemplate": "%{text}: %{y}<extra></extra>",
        "marker": {"color": BLUE, "line": {"color": "white", "width": 0.5}},
    }


def _steps(edges: Sequence[float], values: Sequence[float], name: str, color: str, dash: str) -> dict[str, Any]:
    """A line that goes from edge to edge: it has the right widths on a logarithmic axis, too."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(edges),
        "y": [*values, values[-1]],
        "name": name,
        "line": {"shape": "hv", "color": color, "dash": dash, "width": 2},
        "hovertemplate": "%{y:.3p} from %{x:.4g} on<extra>" + name + "</extra>",
    }


def _priorities(one: Priorities, histogram: Histogram, title: str) -> Plot:
    size = sum(histogram.counts) + one.zeros
    shares = [count / size for count in histogram.counts]
    data = [
        _steps(histogram.edges, shares, "of transitions", BLUE, "solid"),
        _steps(histogram.edges, one.draws, "of draws", ORANGE, "dash"),
    ]
    more = {"legend": {"orientation": "h", "y": 1, "yanchor": "bottom"}, "margin": {"l": 60, "r": 15, "t": 60, "b": 50}}
    layout = _Axes("priority", "share", more).layout()
    layout["xaxis"] |= {"type": "log", "exponentformat": "power"}
    layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return Plot(title, data, layout, "Where draws lie above transitions, these are drawn more often.")


def _never_sampled(use: Use) -> Plot:
    edges = [*use.slices, use.newest.id + 1]
    data = [_steps(edges, use.never_sampled_by_slice, "never sampled", BLUE, "solid")]
    layout = _Axes("transition (id, oldest first)", "never sampled", {"showlegend": False}).layout()
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1.02]}
    return Plot("Never sampled", data, layout)


def _by_age(one: Priorities, use: Use, title: str) -> Plot:
    data = [_steps([*use.slices, use.newest.id + 1], one.mean_by_slice, "mean priority", BLUE, "solid")]
    data[0]["hovertemplate"] = "%{y:.4g} from %{x} on<extra></extra>"
    layout = _Axes("transition (id, oldest first)", "mean priority", {"showlegend": False}).layout()
    layout["yaxis"] |= {"rangemode": "tozero"}
    return Plot(title, data, layout)


def _streams(transitions: Sequence[int]) -> Plot:
    bars: dict[str, Any] = {
        "type": "bar",
        "x": list(range(len(transitions))),
        "y": list(transitions),
        "marker": {"color": BLUE},
    }
    bars["width"] = 0.9
    bars["hovertemplate"] = "stream %{x}: %{y}<extra></extra>"
    return Plot("Streams", [bars], _Axes("stream", "transitions").layout())


def _fields(found: Inspection) -> list[Plot]:
    plots = []
    for of in found.fields:
        for at, histogram in enumerate(of.histograms):
            if histogram is not None:
                name = label(of) + (f" [{at}]" if of.components > 1 else "")
                layout = _Axes(name, "transitions").layout()
                if of.dtype == "bool":
                    layout["xaxis"] |= {"tickvals": [0, 1], "ticktext": ["False", "True"]}
                plots.append(Plot(name, [_bars(histogram)], layout))
    return plots[:MOST_FIELDS]
