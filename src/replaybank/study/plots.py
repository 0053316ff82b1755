"""Pictures of a comparison. Every function draws into the `ax` it is given and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from replaybank.study.stats import Interval

Array = npt.NDArray[np.float64]

# Okabe and Ito's palette, told apart with any common colour blindness; line styles tell the arms apart in print.
COLOURS = {
    "online": "#D55E00",
    "recent": "#E69F00",
    "uniform": "#0072B2",
    "replay": "#0072B2",
    "prioritized": "#009E73",
    "single": "#CC79A7",
    "rank": "#CC79A7",
    "lap": "#56B4E9",
    "combined": "#222222",
    "n = 1": "#0072B2",
    "n = 3": "#D55E00",
}
LINES: dict[str, Literal["-"] | tuple[float, tuple[float, ...]]] = {
    "online": "-",
    "recent": (0, (5, 1.5)),
    "uniform": "-",
    "replay": "-",
    "prioritized": (0, (1, 1)),
    "single": (0, (3, 1, 1, 1)),
    "rank": (0, (5, 1.5)),
    "lap": (0, (7, 1.5, 1, 1.5)),
    "combined": (0, (3, 1, 1, 1, 1, 1)),
    "n = 3": (0, (5, 1.5)),
}
MARKERS = {"combined": "s", "n = 3": "s"}
INK, PALE = "#222222", "#DDDDDD"


@dataclass(frozen=True)
class Curve:
    """An arm's learning curve: steps [points], and mean, lower and upper bound of the return [points]."""

    steps: Array
    mean: Array
    low: Array
    high: Array


def learning_curves(ax: Axes, curves: Mapping[str, Curve], threshold: float | None = None) -> None:
    """Mean return against environment steps, one line per arm with its band of confidence."""
    for name, curve in curves.items():
        colour = COLOURS.get(name, INK)
        ax.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
        ax.plot(curve.steps, curve.mean, color=colour, linestyle=LINES.get(name, "-"), linewidth=2, label=name)
    if threshold is not None:
        ax.axhline(threshold, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        ax.annotate(
            f"solved: {threshold:g}",
            (0.01, threshold),
            xycoords=("axes fraction", "data"),
            va="bottom",
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )
    ax.set_xlabel("environment steps per seed")
    ax.set_ylabel("return of the training episodes")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_xlim(0, max(curve.steps[-1] for curve in curves.values()))
    _plain(ax)


def final_returns(
    ax: Axes, returns: Mapping[str, Sequence[float]], intervals: Mapping[str, Interval], threshold: float | None = None
) -> None:
    """Final return of every seed (dots) with the arm's mean and confidence interval (diamond with bar)."""
    for place, (name, values) in enumerate(returns.items()):
        colour = COLOURS.get(name, INK)
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(place + spread - 0.08, values, s=22, color=colour, alpha=0.55, linewidth=0, zorder=2)
        interval = intervals[name]
        ax.vlines(place + 0.26, interval.low, interval.high, color=colour, linewidth=2.5, zorder=3)
        ax.scatter([place + 0.26], [interval.estimate], s=48, marker="D", color=colour, edgecolor="white", zorder=4)
    if threshold is not None:
        ax.axhline(threshold, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    ax.set_xticks(range(len(returns)), list(returns))
    ax.set_xlim(-0.5, len(returns) - 0.5)
    ax.set_ylabel("final return (last 20% of steps)")
    _plain(ax)


def over_capacity(
    ax: Axes,
    returns: Mapping[str, Mapping[int, Sequence[float]]],
    intervals: Mapping[str, Mapping[int, Interval]],
    ylabel: str,
) -> None:
    """Each line's values over the buffer's capacity: one dot a seed, the mean and its confidence interval beside it."""
    capacities = sorted({capacity for by_capacity in returns.values() for capacity in by_capacity})
    place = {capacity: k for k, capacity in enumerate(capacities)}
    for number, (name, by_capacity) in enumerate(returns.items()):
        colour, aside = COLOURS.get(name, INK), 0.3 * (number - (len(returns) - 1) / 2)
        for capacity, values in by_capacity.items():
            spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(1)
            ax.scatter(place[capacity] + aside + spread, values, s=14, color=colour, alpha=0.4, linewidth=0, zorder=2)
        at = [place[capacity] + aside for capacity in by_capacity]
        shown = [intervals[name][capacity] for capacity in by_capacity]
        ax.vlines(at, [i.low for i in shown], [i.high for i in shown], color=colour, linewidth=2.5, zorder=3)
        ax.plot(
            at,
            [i.estimate for i in shown],
            color=colour,
            linestyle=LINES.get(name, "-"),
            marker=MARKERS.get(name, "D"),
            markeredgecolor="white",
            markersize=8,
            linewidth=1.5,
            label=name,
            zorder=4,
        )
    ax.set_xticks(range(len(capacities)), [f"{capacity:,}" for capacity in capacities])
    ax.set_xlabel("capacity of the buffer (transitions)")
    ax.set_ylabel(ylabel)
    _plain(ax)


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Title and subtitle in the figure's upper left corner, at the same distance from it in any size."""
    height = float(figure.get_figheight())
    figure.text(0.01, 1 - 0.09 / height, title, fontsize=14, fontweight="bold", va="top", color=INK)
    figure.text(0.01, 1 - 0.4 / height, subtitle, fontsize=10, va="top", color=INK)


def caption(figure: Figure, title: str, subtitle: str, definitions: Mapping[str, str]) -> None:
    """Title above, and below a legend that says what each arm is."""
    figure.text(0.012, 0.985, title, fontsize=15, fontweight="bold", va="top", color=INK)
    figure.text(0.012, 0.925, subtitle, fontsize=10.5, va="top", color=INK)
    for place, (name, definition) in enumerate(definitions.items()):
        y = 0.125 - 0.032 * place
        colour = COLOURS.get(name, INK)
        line = Line2D([0.014, 0.05], [y, y], color=colour, linestyle=LINES.get(name, "-"), linewidth=2)
        figure.add_artist(line)
        figure.text(0.058, y, name, fontsize=10, fontweight="bold", va="center", color=INK)
        figure.text(0.145, y, definition, fontsize=10, va="center", color=INK)
    figure.subplots_adjust(left=0.062, right=0.988, top=0.86, bottom=0.245, wspace=0.17)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)


def save(figure: Figure, folder: Path, stem: str) -> None:
    """`stem`.png and `stem`.svg, the same bytes for the same figure."""
    with matplotlib.rc_context({"svg.hashsalt": "replaybank"}):
        figure.savefig(folder / f"{stem}.png", dpi=150)
        figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})
