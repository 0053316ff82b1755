"""The figure of docs/scale.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaybank.study.plots import INK, TEXT, save

COLOURS = {"frames": "#0072B2", "cartpole": "#D55E00"}
LINES = {"frames": "-", "cartpole": (0, (6, 1.5))}
MARKERS = {"frames": "o", "cartpole": "^"}
TITLES = {"actors": "64 shards", "shards": "1,000 actors"}


def draw(found: dict[str, Any], folder: Path) -> None:
    """Writes scale.png and scale.svg."""
    figure = Figure(figsize=(8, 8.6), layout="constrained")
    axes = figure.subplots(3, 2, sharex="col", sharey="row")
    for column, name in enumerate(("actors", "shards")):
        top, middle, bottom = (axes[row][column] for row in range(3))
        for size in COLOURS:
            points = found["sweeps"][f"{size} by {name}"]
            x = [point["scenario"][name] for point in points]
            per_second = [point["scenario"]["actors"] * point["scenario"]["rate"] for point in points]
            _line(top, size, x, [point["simulated"]["transitions"] for point in points], points)
            top.plot(x, per_second, color=COLOURS[size], linestyle=(0, (1, 2)), linewidth=1.2)
            _line(middle, size, x, [point["simulated"]["batches"] for point in points], points)
            _line(bottom, size, x, _p99(points, "sample_ms"), points)
            _line(bottom, f"{size}, flush", x, _p99(points, "flush_ms"), points, pale=True)
        middle.axhline(1 / points[0]["scenario"]["step"], color=INK, linestyle=(0, (1, 2)), linewidth=1.2)
        top.set_title(TITLES[name], fontsize=TEXT + 1)
        top.set_yscale("log")
        bottom.set_yscale("log")
        bottom.set_xscale("log", base=2)
        bottom.set_xticks(x, [f"{n:,}" for n in x])
        bottom.set_xlabel(name, fontsize=TEXT)
    for row, label in zip(axes, ("transitions a second", "batches a second", "99 % take at most, ms"), strict=True):
        row[0].set_ylabel(label, fontsize=TEXT)
        for ax in row:
            ax.tick_params(labelsize=TEXT)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color="#DDDDDD", linewidth=0.6)
            ax.set_axisbelow(True)
    axes[1][0].set_ylim(bottom=0)
    axes[0][0].legend(fontsize=TEXT, frameon=False, loc="upper left")
    axes[2][0].legend(fontsize=TEXT, frameon=False, loc="upper left", ncols=1)
    figure.suptitle(
        "Simulated: large red-edged points are where a resource is full.\nDotted: what actors and the learner ask for.",
        fontsize=TEXT + 1,
        x=0.01,
        ha="left",
    )
    save(figure, folder, "scale")


def full(point: dict[str, Any]) -> str | None:
    """The resource that is full in a simulated point: the busiest, if it is never idle."""
    busy = {name: part for name, part in point["simulated"]["utilisation"].items() if name != "accelerator"}
    name = max(busy, key=lambda name: busy[name])
    return name if busy[name] > 0.97 else None


def _p99(points: list[dict[str, Any]], call: str) -> list[float]:
    return [point["simulated"][call]["p99"] if point["simulated"][call] else float("nan") for point in points]


def _line(ax: Axes, name: str, x: list[int], y: list[float], points: list[dict[str, Any]], pale: bool = False) -> None:
    size = name.split(",")[0]
    colour = COLOURS[size]
    label = name if pale or ax.get_yscale() != "log" else f"{size}, sample"
    ax.plot(
        x,
        y,
        color=colour,
        linestyle=LINES[size],
        linewidth=1.2 if pale else 2.0,
        marker=MARKERS[size],
        markersize=4,
        markerfacecolor="white" if pale else colour,
        label=label,
    )
    told = None
    for one, value, point in zip(x, y, points, strict=True):
        resource = full(point)
        if resource is None or pale:
            told = None
            continue
        ax.plot(
            one,
            value,
            marker=MARKERS[size],
            markersize=9,
            markerfacecolor=colour,
            markeredgecolor="#CC0000",
            markeredgewidth=1.6,
            linestyle="none",
        )
        if resource != told:
            ax.annotate(
                resource, (one, value), textcoords="offset points", xytext=(4, 9), fontsize=TEXT, color="#CC0000"
            )
        told = resource
