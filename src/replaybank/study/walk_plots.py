"""Pictures of the Blind Cliffwalk. Every function draws into the `ax` it is given and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaybank.study.plots import INK, PALE
from replaybank.study.stats import Interval

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How one way to choose looks: a colour of Okabe and Ito's palette, a line and a marker that tell it in grey."""

    colour: str
    line: str
    marker: str


STYLES = {
    "uniform": Style("#000000", "-", "o"),
    "oracle": Style("#56B4E9", "-", "D"),
    "greedy": Style("#CC79A7", "--", "s"),
    "proportional": Style("#0072B2", "-", "^"),
    "rank": Style("#D55E00", "--", "v"),
    "beta 0": Style("#009E73", "-", "^"),
    "beta 0.4, batch": Style("#56B4E9", "--", "s"),
    "beta 0.4, buffer": Style("#0072B2", "-", "v"),
    "beta 1, batch": Style("#E69F00", "--", "P"),
    "beta 1, buffer": Style("#D55E00", "-", "D"),
}
_OTHER = Style(INK, ":", "x")


@dataclass(frozen=True)
class Curve:
    """Of each size of memory the middle of the runs and their range; [sizes] each. NaN: nothing to show."""

    transitions: Array
    middle: Array
    low: Array
    high: Array


def scaling(ax: Axes, curves: Mapping[str, Curve], title: str, ylabel: str) -> None:
    """A line a name against the number of transitions, both axes logarithmic, over the faint range of its runs."""
    ax.set_xscale("log")  # before anything is drawn: a band of nothing leaves no scale to change
    ax.set_yscale("log")
    for name, curve in curves.items():
        style = STYLES.get(name, _OTHER)
        ax.fill_between(curve.transitions, curve.low, curve.high, color=style.colour, alpha=0.15, linewidth=0)
        ax.plot(
            curve.transitions,
            curve.middle,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=4,
            linewidth=1.6,
            label=name,
        )
    ax.set_title(title, fontsize=11, color=INK)
    ax.set_xlabel("transitions in the memory, 2^(n+1) - 2", fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    plain(ax)


def level(ax: Axes, height: float, text: str, side: float = 0.99) -> None:
    """A thin line across, with what it is at `side` (0: left, 1: right)."""
    ax.axhline(height, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    ax.annotate(
        text,
        (side, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right" if side > 0.5 else "left",
        fontsize=9,
        color=INK,
    )


def diagonal(ax: Axes, transitions: Sequence[float]) -> None:
    """Where there is one update for each transition."""
    ax.plot(transitions, transitions, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), label="one a transition")


def limits(ax: Axes, betas: Array, exact: Mapping[str, Array], measured: Mapping[str, tuple[float, Interval]]) -> None:
    """Lines: the limit of the value by beta, for each alpha. Points with bars: what was measured, at its beta."""
    for (name, values), line in zip(exact.items(), ("-", "--", ":"), strict=False):
        ax.plot(betas, values, color=INK, linestyle=line, linewidth=1.4, label=name)
    for place, (name, (beta, interval)) in enumerate(measured.items()):
        colour, marker = ("#0072B2", "#009E73", "#D55E00", "#E69F00", "#CC79A7")[place % 5], "ovDsP"[place % 5]
        bar = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
        ax.errorbar(
            [beta], [interval.estimate], yerr=bar, color=colour, marker=marker, markersize=6, capsize=3, label=name
        )
    ax.set_xlabel("beta of the importance weights", fontsize=10)
    ax.set_ylabel("value that is learnt (true: 1)", fontsize=10)
    plain(ax)


def legend(ax: Axes, place: Literal["upper left", "lower left"]) -> None:
    """What each line is, within the axes."""
    ax.legend(fontsize=9, frameon=False, handlelength=2.6, loc=place)


def legend_below(figure: Figure, ax: Axes, columns: int) -> None:
    """What each line of `ax` is, below all axes of a figure with a constrained layout."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=9, frameon=False, handlelength=2.6, loc="outside lower center", ncols=columns
    )


def plain(ax: Axes) -> None:
    """Few lines, none of them loud."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9)
