"""The figure of docs/scale.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaybank.study.plots import INK, PALE, TEXT, save

COLOURS = {"frames": "#0072B2", "cartpole": "#D55E00"}
LINES = {"frames": "-", "cartpole": (0, (6, 1.5))}
MARKERS = {"frames": "o", "cartpole": "^"}
RED = "#CC0000"
ASKED = (0, (1, 2))
TITLES = {"actors": "64 shards", "shards": "1,000 actors"}


def draw(found: dict[str, Any], folder: Path) -> None:
    """Writes scale.png and scale.svg."""
    figure = Figure(figsize=(8, 8.6), layout="constrained")
    axes = figure.subplots(3, 2, sharex="col", sharey="row")
    for column, name in enumerate(TITLES):
        top, middle, bottom = (axes[row][column] for row in range(3))
        for size in COLOURS:
            points = found["sweeps"][f"{size} by {name}"]
            x = [point["scenario"][name] for point in points]
            asked = [point["scenario"]["actors"] * point["scenario"]["rate"] for point in points]
            top.plot(x, asked, color=INK, linestyle=ASKED, linewidth=1.2)
            _line(top, size, size, x, [point["simulated"]["transitions"] for point in points])
            _mark(top, x, [point["simulated"]["transitions"] for point in points], points, size, ("learner",))
            _line(middle, size, size, x, [point["simulated"]["batches"] for point in points])
            _mark(middle, x, [point["simulated"]["batches"] for point in points], points, size)
            _line(bottom, size, f"{size}, sample", x, _p99(points, "sample_ms"))
            _mark(bottom, x, _p99(points, "sample_ms"), points, size)
            _line(bottom, size, f"{size}, flush", x, _p99(points, "flush_ms"), pale=True)
        middle.axhline(1 / points[0]["scenario"]["step"], color=INK, linestyle=ASKED, linewidth=1.2)
        top.set_title(TITLES[name], fontsize=TEXT + 1)
        bottom.set_xscale("log", base=2)
        bottom.set_xticks(x, [f"{n:,}" for n in x])
        bottom.set_xlabel(name, fontsize=TEXT)
    axes[0][0].set_yscale("log")
    axes[2][0].set_yscale("log")
    axes[1][0].set_ylim(bottom=0)
    for row, label in zip(axes, ("transitions a second", "batches a second", "99 % take at most, ms"), strict=True):
        row[0].set_ylabel(label, fontsize=TEXT)
        for ax in row:
            ax.tick_params(labelsize=TEXT)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color=PALE, linewidth=0.6)
            ax.set_axisbelow(True)
            ax.margins(x=0.08)
    axes[0][0].legend(fontsize=TEXT, frameon=False, loc="upper left")
    axes[2][0].legend(fontsize=TEXT, frameon=False, loc="upper left")
    figure.suptitle(
        "Simulated. Dotted: what actors and the learner ask for. Large, with a red edge:\n"
        "what is named there is full, and holds this up.",
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


def _line(ax: Axes, size: str, label: str, x: list[int], y: list[float], pale: bool = False) -> None:
    colour = COLOURS[size]
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


def _mark(
    ax: Axes, x: list[int], y: list[float], points: list[dict[str, Any]], size: str, elsewhere: tuple[str, ...] = ()
) -> None:
    """Marks where a resource is full, but for those that matter elsewhere; a run of points has one name."""
    told = None
    for place, (one, value) in enumerate(zip(x, y, strict=True)):
        resource = full(points[place])
        if resource is not None and resource not in elsewhere:
            ax.plot(one, value, MARKERS[size], ms=9, mfc=COLOURS[size], mec=RED, mew=1.6)
            if resource != told:
                last = place == len(x) - 1
                ax.annotate(
                    resource,
                    (one, value),
                    textcoords="offset points",
                    xytext=(-6 if last else 6, 9 if size == "cartpole" else -16),
                    ha="right" if last else "left",
                    fontsize=TEXT,
                    color=RED,
                )
        told = resource
