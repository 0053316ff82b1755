"""Pictures of studies. Every function draws into the `ax` it is given and computes nothing.

Figures are 7 to 8 inches wide and are shown at about 6.5: no text is below 10 points, so that 8 are left. A memory or
sampler has one colour, line and marker in all figures (`styles`), so that a figure can be read in greyscale, too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from replaybank.study.stats import Interval

Array = npt.NDArray[np.float64]
Dashes = Literal["-"] | tuple[float, tuple[float, ...]]

INK, PALE = "#222222", "#DDDDDD"
TEXT = 10.0
"""Points of all text but titles."""


@dataclass(frozen=True)
class Style:
    """How one name is drawn. `filled`: whether its markers are."""

    colour: str
    line: Dashes
    marker: str
    width: float = 2.0
    filled: bool = True


# Okabe and Ito's palette, told apart with any common colour blindness, but for their yellow, which is lost on white.
STYLES = {
    "uniform": Style("#0072B2", "-", "o"),
    "online": Style("#D55E00", (0, (7, 1.5, 1, 1.5)), "X"),
    "recent": Style("#E69F00", (0, (5, 1.5)), "s"),
    "prioritized": Style("#009E73", (0, (1, 1)), "^"),
    "rank": Style("#CC79A7", (0, (3, 1, 1, 1, 1, 1)), "v"),
    "lap": Style("#56B4E9", (0, (2.5, 1)), "D"),
    "combined": Style("#777777", (0, (9, 2)), "P"),
    "greedy": Style("#D55E00", (0, (4, 1, 1, 1)), "<"),
    "oracle": Style("#000000", (0, (1, 2.5)), "*"),
}
STYLES |= {
    "proportional": STYLES["prioritized"],
    "replay": STYLES["uniform"],
    "single": Style("#CC79A7", (0, (3, 1, 1, 1)), ">"),
    "one-buffer": STYLES["uniform"],
    "shards-1": STYLES["online"],
    "shards-2": STYLES["recent"],
    "shards-4": STYLES["prioritized"],
}
COLOURS = {name: style.colour for name, style in STYLES.items()}
LINES = {name: style.line for name, style in STYLES.items()}
VARIANTS: tuple[Dashes | None, ...] = (None, (0, (6, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
"""Lines of the first, second, ... variant of one memory in a figure; None: the line of the memory itself."""


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The style of each name in a figure: its own, or that of its first word, as in `STYLES`.

    What follows the first word ("uniform, no target") makes a variant: of the same colour, but lighter, thinner and
    with hollow markers; further variants of the same word have other lines. Names of which nothing is known take in
    turn the styles that no other name has.
    """
    words = {name: [name] if name in STYLES else re.split(r"[^a-z]", name.lower(), maxsplit=1) for name in names}
    taken = {STYLES[first] for first, *_ in words.values() if first in STYLES}
    free = cycle([style for style in dict.fromkeys(STYLES.values()) if style not in taken] or [Style(INK, "-", "o")])
    variants = {first: count() for first in STYLES}
    found: dict[str, Style] = {}
    for name, (first, *rest) in words.items():
        if first not in STYLES:
            found[name] = next(free)
        else:
            found[name] = _variant(STYLES[first], next(variants[first])) if rest else STYLES[first]
    return found


def _variant(style: Style, number: int) -> Style:
    red, green, blue = (1 - 0.68 * (1 - part) for part in to_rgb(style.colour))
    line = VARIANTS[number % len(VARIANTS)]
    return replace(
        style, colour=to_hex((red, green, blue)), line=style.line if line is None else line, width=1.4, filled=False
    )


@dataclass(frozen=True)
class Curve:
    """An arm's learning curve: steps [points], and mean, lower and upper bound of the return [points]."""

    steps: Array
    mean: Array
    low: Array
    high: Array


# ---- panels --------------------------------------------------------------------------


def learning_curves(ax: Axes, curves: Mapping[str, Curve], threshold: float | None = None) -> None:
    """Mean return against environment steps, one line per arm with its band of confidence."""
    for name, style in styles(curves).items():
        curve = curves[name]
        ax.fill_between(curve.steps, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0)
        ax.plot(curve.steps, curve.mean, color=style.colour, linestyle=style.line, linewidth=style.width, label=name)
    if threshold is not None:
        _threshold(ax, threshold)
        ax.annotate(
            f"solved: {threshold:g}",
            (0.01, threshold),
            xycoords=("axes fraction", "data"),
            va="bottom",
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=TEXT,
            color=INK,
        )
    ax.set_xlabel("environment steps per seed")
    ax.set_ylabel("return of the training episodes")
    ax.xaxis.set_major_formatter(FuncFormatter(_count))
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlim(0, max(curve.steps[-1] for curve in curves.values()))
    _plain(ax)


def final_returns(
    ax: Axes, returns: Mapping[str, Sequence[float]], intervals: Mapping[str, Interval], threshold: float | None = None
) -> None:
    """Final return of every seed (dots) with the arm's mean and confidence interval (marker with bar)."""
    for place, (name, style) in enumerate(styles(returns).items()):
        values = returns[name]
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(place + spread - 0.08, values, s=16, color=style.colour, alpha=0.55, linewidth=0, zorder=2)
        interval = intervals[name]
        ax.vlines(place + 0.26, interval.low, interval.high, color=style.colour, linewidth=2.5, zorder=3)
        ax.add_line(_marks([place + 0.26], [interval.estimate], style, size=7.5))
    if threshold is not None:
        _threshold(ax, threshold)
    ax.set_xticks(range(len(returns)), list(returns))
    if len(returns) > 2:
        ax.tick_params(axis="x", labelrotation=35)
        for label in ax.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
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
    for number, (name, style) in enumerate(styles(returns).items()):
        by_capacity, aside = returns[name], 0.3 * (number - (len(returns) - 1) / 2)
        for capacity, values in by_capacity.items():
            spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(1)
            at = place[capacity] + aside + spread
            ax.scatter(at, values, s=14, color=style.colour, alpha=0.4, linewidth=0, zorder=2)
        at = np.array([place[capacity] + aside for capacity in by_capacity])
        shown = [intervals[name][capacity] for capacity in by_capacity]
        ax.vlines(at, [i.low for i in shown], [i.high for i in shown], color=style.colour, linewidth=2.5, zorder=3)
        line = _marks(at, [i.estimate for i in shown], style, size=8)
        line.set(linestyle=style.line, color=style.colour, linewidth=1.5, label=name)
        ax.add_line(line)
    ax.set_xticks(range(len(capacities)), [f"{capacity:,}" for capacity in capacities])
    ax.set_xlabel("capacity of the buffer (transitions)")
    ax.set_ylabel(ylabel)
    _plain(ax)


def intervals(ax: Axes, found: Mapping[str, Interval], reference: float | None = 0.0) -> None:
    """An estimate with its interval per label, from top to bottom, and a line at `reference` (no difference: 0).

    "a - b" is drawn as a is.
    """
    if reference is not None:
        ax.axvline(reference, color=INK, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    shown = styles(name.split(" - ")[0] for name in found)
    for place, (name, interval) in enumerate(found.items()):
        style = shown[name.split(" - ")[0]]
        ax.hlines(place, interval.low, interval.high, color=style.colour, linewidth=2.5, zorder=2)
        ax.add_line(_marks([interval.estimate], [place], style, size=7.5))
    ax.set_yticks(range(len(found)), [textwrap.fill(name, 20, break_on_hyphens=False) for name in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    _plain(ax, axis="x")


def profile(ax: Axes, thresholds: Array, profiles: Mapping[str, tuple[Array, Array, Array]]) -> None:
    """Performance profiles: share of runs above each threshold [points] with its bounds, one step line per name."""
    for name, style in styles(profiles).items():
        share, low, high = profiles[name]
        ax.fill_between(thresholds, low, high, color=style.colour, alpha=0.16, linewidth=0, step="post")
        ax.step(
            thresholds,
            share,
            where="post",
            color=style.colour,
            linestyle=style.line,
            linewidth=style.width,
            label=name,
        )
    ax.set_xlim(thresholds[0], thresholds[-1])
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("threshold")
    ax.set_ylabel("share of runs above the threshold")
    _plain(ax)


def grid(ax: Axes, cells: Mapping[tuple[str, str], Interval], digits: int = 1) -> None:
    """A table of estimates with their intervals, keyed (row, column), darker where higher; missing cells stay empty."""
    rows, columns = (list(dict.fromkeys(key[k] for key in cells)) for k in (0, 1))
    values = [[cells[row, c].estimate if (row, c) in cells else np.nan for c in columns] for row in rows]
    shades = ax.imshow(np.array(values), cmap="Blues", aspect="auto")
    low, high = shades.get_clim()
    shades.set_clim(low, high + 1.5 * (high - low or 1))  # only the light half: ink stays readable on it
    for (row, column), interval in cells.items():
        at = (columns.index(column), rows.index(row))
        text = f"{interval.estimate:.{digits}f}"
        ax.annotate(text, at, (0, 3), textcoords="offset points", ha="center", fontsize=14, weight="bold", color=INK)
        if not np.isnan(interval.low):
            text = f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
            ax.annotate(text, at, (0, -13), textcoords="offset points", ha="center", fontsize=TEXT, color=INK)
    ax.set_xticks(range(len(columns)), [textwrap.fill(name, 18) for name in columns])
    ax.set_yticks(range(len(rows)), [textwrap.fill(name, 14) for name in rows])
    ax.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    ax.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    ax.grid(which="minor", color="white", linewidth=3)
    ax.tick_params(which="both", length=0, labelsize=TEXT)
    ax.spines[:].set_visible(False)


# ---- around the panels ---------------------------------------------------------------


def caption(figure: Figure, title: str, subtitle: str, definitions: Mapping[str, str]) -> None:
    """Title and subtitle above the panels, and below them a legend that says what each name is.

    To be called once, after the panels were drawn: the figure grows by the height of the text, and the panels keep the
    height they were given. Texts are wrapped at the figure's width. No definitions, no legend.
    """
    width, height = figure.get_size_inches()
    letter, line = TEXT / 72 * 0.55, TEXT / 72 * 1.45  # inches a letter and a line take
    head = [*textwrap.wrap(subtitle, int((width - 0.3) / letter))]
    above = 0.42 + line * len(head)
    indent = 0.8 + 1.2 * letter * max(map(len, definitions), default=0)
    texts = {name: textwrap.wrap(text, int((width - 0.15 - indent) / letter)) for name, text in definitions.items()}
    lines = sum(len(text) or 1 for text in texts.values())
    below = 0.08 + line * lines + (0.14 if texts else 0)
    total = height + above + below
    figure.set_size_inches(width, total)
    figure.set_layout_engine("constrained", rect=(0.01, below / total, 0.98, height / total))
    figure.text(0.15 / width, 1 - 0.1 / total, title, fontsize=13, fontweight="bold", va="top", color=INK)
    figure.text(0.15 / width, 1 - 0.36 / total, "\n".join(head), fontsize=TEXT, va="top", linespacing=1.3, color=INK)
    y = (0.08 + line * (lines - 0.5)) / total
    for name, style in styles(definitions).items():
        ends = [0.15 / width, 0.65 / width]
        dash = Line2D(ends, [y, y], color=style.colour, linestyle=style.line, linewidth=style.width)
        mark = _marks([sum(ends) / 2], [y], style, size=6)
        for artist in (dash, mark):
            figure.add_artist(artist)
        figure.text(0.75 / width, y, name, fontsize=TEXT, fontweight="bold", va="center", color=INK)
        for text in texts[name] or [""]:
            figure.text(indent / width, y, text, fontsize=TEXT, va="center", color=INK)
            y -= line / total


def save(figure: Figure, folder: Path, stem: str) -> None:
    """Write `stem`.png (150 dots per inch) and `stem`.svg into `folder`; the same figure gives the same bytes."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:  # two layouts of one figure differ in the last bits, and so would the names of its clips
        ax.set_position(tuple(round(part, 6) for part in ax.get_position().bounds))
    with matplotlib.rc_context({"svg.hashsalt": "replaybank"}):
        figure.savefig(folder / f"{stem}.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})


def _marks(x: Sequence[float] | Array, y: Sequence[float] | Array, style: Style, size: float) -> Line2D:
    return Line2D(
        x,
        y,
        linestyle="none",
        marker=style.marker,
        markersize=size * (1.5 if style.marker == "*" else 1),
        markerfacecolor=style.colour if style.filled else "white",
        markeredgecolor="white" if style.filled else style.colour,
        markeredgewidth=0.6 if style.filled else 1.4,
        zorder=4,
    )


def _threshold(ax: Axes, threshold: float) -> None:
    ax.axhline(threshold, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))


def _count(value: float, _: object) -> str:
    """A number of steps, short enough for a narrow axis: 500, 20k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _plain(ax: Axes, axis: Literal["x", "y", "both"] = "y") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=axis, color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=TEXT)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize(TEXT)
