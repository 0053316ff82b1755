"""The figures of docs/benchmarks.md: logarithmic axes, one colour, line and marker for each library in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from bars import OURS
from contender import Role
from replaybank.study.plots import INK, PALE, TEXT, Style, save

Results = Mapping[str, Any]

SOLID, DASHED, DOTTED = "-", (0.0, (4.0, 1.5)), (0.0, (1.0, 1.5))
# Okabe and Ito's palette; lines and markers tell apart what greys do not.
STYLES = {
    OURS: Style("#0072B2", SOLID, "o", 2.6),
    "cpprb": Style("#D55E00", SOLID, "s", 1.4),
    "SB3": Style("#E69F00", SOLID, "^", 1.4),
    "Tianshou": Style("#009E73", SOLID, "D", 1.4),
    "TorchRL": Style("#CC79A7", SOLID, "v", 1.4),
    "Flashbax": Style("#56B4E9", SOLID, "P", 1.4),
    "Flashbax, in one scan": Style("#56B4E9", DASHED, "P", 1.4, filled=False),
    "RLlib": Style("#8C510A", SOLID, "X", 1.4),
    "Reverb": Style("#762A83", SOLID, "<", 1.4),
    "Dopamine": Style("#4D4D00", SOLID, ">", 1.4),
    "d3rlpy": Style("#B2182B", SOLID, "h", 1.4),
    "textbook deque": Style("#999999", DASHED, "x", 1.2),
    "NumPy": Style("#777777", DOTTED, "d", 1.2, filled=False),
    "C floor": Style("#000000", DOTTED, "_", 1.6),
}
OTHER = Style("#AAAAAA", DOTTED, ".", 1.2)
PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")

#: Rows of the figure and the table at the top: part and row, and what they are called.
GLANCE = {
    ("calls", "add"): "add one",
    ("calls", "add-64"): "add 64 from 64 streams",
    ("calls", "uniform-256"): "uniform batch of 256",
    ("calls", "prioritized-256"): "prioritized batch of 256",
    ("calls", "update-256"): "update 256 priorities",
    ("calls", "step"): "4 adds, batch, update",
    ("frames", "uniform-32"): "32 stacks of frames",
    ("frames", "prioritized-256"): "256 stacks, prioritized",
    ("sequences", "sequences"): "16 sequences of 80",
    ("checkpoints", "transitions-save"): "save transitions",
    ("checkpoints", "transitions-load"): "load transitions",
    ("checkpoints", "frames-save"): "save frames",
    ("checkpoints", "frames-load"): "load frames",
}
SHOWN = (Role.OURS.value, Role.PEER.value, Role.FLOOR.value)


def style_of(name: str) -> Style:
    """By the whole name, or by how it begins."""
    known = [key for key in STYLES if name == key] or [key for key in STYLES if name.startswith(key)]
    return STYLES[known[0]] if known else OTHER


def over(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """For each name the results of the rows `key`-1, `key`-2, … with their numbers, ascending; no details."""
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for row in rows:
        begin, _, number = row["key"].rpartition("-")
        if begin == key and number.isdigit():
            for result in row["results"]:
                if result["role"] != Role.DETAIL.value:
                    found.setdefault(result["name"], []).append((int(number), result))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}


def draw_lines(ax: Axes, curves: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]]) -> None:
    """Medians over sizes, with the quartiles as bars; ours and the floor have their names beside them."""
    for name, points in curves.items():
        style = style_of(name)
        x = [number for number, _ in points]
        y = [result["median"] for _, result in points]
        below = [result["median"] - result["lower_quartile"] for _, result in points]
        above = [result["upper_quartile"] - result["median"] for _, result in points]
        ax.errorbar(
            x,
            y,
            yerr=(below, above),
            color=style.colour,
            linestyle=style.line,
            linewidth=style.width,
            elinewidth=1.0,
            marker=style.marker,
            markersize=5,
            markerfacecolor=style.colour if style.filled else "white",
            zorder=5 if name == OURS else 3,
        )
        if name in (OURS, "C floor"):
            ax.margins(y=0.12)
            ax.annotate(
                name,
                (x[0], y[0]),
                xytext=(2, -5),
                textcoords="offset points",
                ha="left",
                va="top",
                color=style.colour,
                fontsize=TEXT,
                fontweight="bold" if name == OURS else "normal",
                path_effects=[withStroke(linewidth=3, foreground="white")],
                zorder=6,
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(PLAIN)


def draw_glance(ax: Axes, lines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """One line a row; a mark for everybody at how many times our time they take."""
    for place, (_, results) in enumerate(lines):
        floors = [result["median"] for result in results if result["role"] == Role.FLOOR.value]
        ours = next(result["median"] for result in results if result["name"] == OURS)
        ax.axhline(place, color=PALE, linewidth=0.8, zorder=0)
        for result in results:
            if result["role"] not in SHOWN:
                continue
            floor = result["role"] == Role.FLOOR.value
            if floor and result["median"] > min(floors):
                continue
            style = STYLES["C floor"] if floor else style_of(result["name"])
            ax.plot(
                result["median"] / ours,
                place,
                marker="|" if floor else style.marker,
                markersize=14 if floor else 9 if result["name"] == OURS else 7,
                markeredgewidth=2 if floor else 0.0 if style.marker == "P" else 0.8,
                markeredgecolor=style.colour if floor or style.marker == "x" else "white",
                markerfacecolor=style.colour,
                linestyle="none",
                zorder=5 if result["name"] == OURS else 3,
            )
    ax.axvline(1, color=STYLES[OURS].colour, linewidth=1.2, zorder=1)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}×"))
    ax.set_ylim(-0.6, len(lines) - 0.4)
    ax.set_yticks(range(len(lines)), [title for title, _ in lines])
    ax.invert_yaxis()
    ax.set_xlabel("times replaybank's time (to the right: slower)", fontsize=TEXT)


def draw_rates(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Transitions in and batches out, a second, at once: up and to the right is better."""
    for name, (transitions, batches) in points.items():
        style = style_of(name)
        near = [y for other, (x, y) in points.items() if other != name and 1 / 3 < x / transitions < 3]
        above = any(1 / 3 < y / batches <= 1 for y in near)
        below = any(1 < y / batches < 3 for y in near)
        ax.plot(transitions, batches, style.marker, color=style.colour, markersize=11 if name == OURS else 8)
        left = transitions > 0.5 * max(one for one, _ in points.values())
        ax.annotate(
            name.replace(", ", "\n").replace(" with ", "\nwith "),
            (transitions, batches),
            xytext=(-9 if left else 9, 5 if above else -5 if below else 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="bottom" if above else "top" if below else "center",
            color=INK,
            fontsize=TEXT,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(0.3, 0.3)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("transitions in, a second", fontsize=TEXT)


def _plain(axes: Iterable[Axes]) -> None:
    for ax in axes:
        ax.tick_params(labelsize=TEXT)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=PALE, linewidth=0.6)
        ax.set_axisbelow(True)


def _legend(figure: Figure, names: Iterable[str], columns: int = 4) -> None:
    there = list(dict.fromkeys(names))
    handles = [
        Line2D(
            [],
            [],
            color=style.colour,
            linestyle=style.line,
            linewidth=style.width,
            marker=style.marker,
            markerfacecolor=style.colour if style.filled else "white",
        )
        for style in map(style_of, there)
    ]
    figure.legend(handles, there, loc="outside lower center", ncols=columns, fontsize=TEXT, frameon=False)


def batches(results: Results) -> Figure:
    rows = results["parts"]["calls"]["rows"]
    panels = {"uniform": "uniform batch", "prioritized": "prioritized batch", "update": "update of priorities"}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    names: list[str] = []
    for ax, (key, title) in zip(axes, panels.items(), strict=True):
        curves = over(rows, key)
        names += curves
        draw_lines(ax, curves)
        ax.set_title(title, fontsize=TEXT + 1)
        ticks = [32, 256, 2048]
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("transitions", fontsize=TEXT)
    axes[0].set_ylabel("µs a call", fontsize=TEXT)
    _plain(axes)
    _legend(figure, names)
    return figure


def growth(results: Results) -> Figure:
    rows = results["parts"]["capacity"]["rows"]
    panels = {
        "add": "add one",
        "uniform": "uniform batch of 256",
        "prioritized": "prioritized batch of 256",
        "update": "update of 256 priorities",
    }
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    names: list[str] = []
    for ax, (key, title) in zip(axes.flat, panels.items(), strict=True):
        curves = over(rows, key)
        names += curves
        draw_lines(ax, curves)
        ax.set_title(title, fontsize=TEXT + 1)
        ax.xaxis.set_minor_locator(NullLocator())
    for ax in axes[1]:
        ax.set_xlabel("transitions in the buffer", fontsize=TEXT)
    for ax in axes[:, 0]:
        ax.set_ylabel("µs a call", fontsize=TEXT)
    _plain(axes.flat)
    _legend(figure, names)
    return figure


def glance(results: Results) -> Figure:
    lines = []
    for (part, key), title in GLANCE.items():
        found = [row for row in results["parts"].get(part, {}).get("rows", ()) if row["key"] == key]
        if found and any(result["name"] == OURS for result in found[0]["results"]):
            lines.append((title, found[0]["results"]))
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(lines)), layout="constrained")
    ax = figure.subplots()
    draw_glance(ax, lines)
    _plain([ax])
    ax.grid(axis="y", visible=False)
    shown = {result["name"] for _, results in lines for result in results if result["role"] in SHOWN[:2]}
    handles = {name: style_of(name) for name in STYLES if any(style_of(one) is STYLES[name] for one in shown)}
    marks = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle="none", markersize=8 if name == OURS else 7)
        for name, style in handles.items()
    ]
    marks.append(Line2D([], [], color="#000000", marker="|", linestyle="none", markersize=13, markeredgewidth=2))
    figure.legend(marks, [*handles, "floor in C"], loc="outside lower center", ncols=5, fontsize=TEXT, frameon=False)
    return figure


def together(results: Results) -> Figure:
    panels: dict[str, dict[str, tuple[float, float]]] = {}
    for row in results["parts"]["threads"]["rows"][:1]:
        panels["a thread adds, a thread samples"] = {
            one["name"]: (one["adds"]["median"], one["batches"]["median"]) for one in row["results"]
        }
    rows = {row["key"]: row for row in results["parts"]["writers"]["rows"]}
    for kind in ("uniform", "prioritized"):
        taken, out = rows[f"in-{kind}-2"]["results"], rows[f"out-{kind}-2"]["results"]
        batches = {one["name"]: one["a_second"] for one in out}
        panels[f"two processes write, {kind}"] = {one["name"]: (one["a_second"], batches[one["name"]]) for one in taken}
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for ax, (title, points) in zip(axes, panels.items(), strict=True):
        draw_rates(ax, points)
        ax.set_title(title, fontsize=TEXT)
    axes[0].set_ylabel("batches of 256 out, a second", fontsize=TEXT)
    _plain(axes)
    return figure


@dataclass(frozen=True)
class Picture:
    """A figure, the section where it stands, and the parts that it needs."""

    draw: Callable[[Results], Figure]
    section: str
    parts: frozenset[str]
    alt: str


FIGURES = {
    "glance": Picture(
        glance, "glance", frozenset({"calls"}), "Times of every library and of the floor, over replaybank's"
    ),
    "batches": Picture(
        batches, "calls", frozenset({"calls"}), "Microseconds of a batch and of an update over their size"
    ),
    "capacity": Picture(
        growth, "capacity", frozenset({"capacity"}), "Microseconds of a call over the transitions in the buffer"
    ),
    "together": Picture(
        together, "writers", frozenset({"threads", "writers"}), "Transitions in and batches out at the same time"
    ),
}


def draw(results: Results, folder: Path) -> None:
    """Write those figures whose parts are there, as .png and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, picture in FIGURES.items():
        if picture.parts <= set(results["parts"]):
            save(picture.draw(results), folder, stem)
