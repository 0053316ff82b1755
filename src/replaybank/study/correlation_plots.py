"""Pictures of a stream and of what learners make of it. Every function draws into its `ax` and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replaybank.study.plots import COLOURS, INK, LINES, PALE, Curve
from replaybank.study.stats import Interval

Corner = Literal["upper right", "lower left", "lower center"]
Style = tuple[str, Literal["-"] | tuple[float, tuple[float, ...]]]
SERIES_STYLES: dict[str, Style] = {
    "position": ("#56B4E9", "-"),
    "velocity": ("#CC79A7", (0, (5, 1.5))),
    "angle": ("#009E73", (0, (3, 1, 1, 1))),
    "angular velocity": ("#999999", (0, (1, 1))),
    "TD error": (INK, "-"),
    "drawn": (COLOURS["uniform"], (0, (2, 2))),
}


def autocorrelations(ax: Axes, curves: Mapping[str, Curve], batch: int) -> None:
    """Autocorrelation against lag, a line a series with its band."""
    names = {"drawn": "TD error, shuffled"}
    for name, curve in curves.items():
        colour, line = SERIES_STYLES[name]
        _band(ax, curve, colour, line, names.get(name, name))
    ax.axhline(0, color=INK, linewidth=0.6)
    _powers(ax, (1, 4, 16, 64, 256, 1000))
    ax.vlines(batch, -0.25, 1, color=INK, linewidth=0.7, linestyle=(0, (2, 3)))
    ax.set_ylim(-0.25, 1.85)
    ax.set_yticks([0, 0.5, 1])
    _finish(ax, "lag, steps", "autocorrelation", "upper right")


def worth(ax: Axes, consecutive: Mapping[str, Interval], random: Mapping[str, Interval], batch: int) -> None:
    """The effective sample size of a batch for each quantity, of consecutive transitions and of random ones."""
    drawn = (("recent", "o", consecutive, "consecutive"), ("uniform", "D", random, "at random"))
    for name, marker, found, words in drawn:
        places, estimates = range(len(found)), [interval.estimate for interval in found.values()]
        low, high = [interval.low for interval in found.values()], [interval.high for interval in found.values()]
        ax.hlines(places, low, high, color=COLOURS[name], linewidth=2.5)
        ax.plot(estimates, places, marker, markersize=5, color=COLOURS[name], label=f"{batch} {words}")
    ax.set_yticks(range(len(random)), list(random))
    ax.set_ylim(len(random) + 1.1, -0.6)  # room for the legend below
    _powers(ax, (1, 2, 4, 8, 16, 32, 64))
    ax.set_xlim(0.9, 110)
    _finish(ax, "independent transitions they are worth", "", "lower center")
    ax.grid(axis="x", color=PALE, linewidth=0.6)
    ax.grid(visible=False, axis="y")


def directions(ax: Axes, curves: Mapping[str, Curve], levels: Mapping[str, Interval]) -> None:
    """Cosine between two batches' gradients against the updates between them; `levels` are the same at any distance."""
    for name, interval in levels.items():
        ax.axhspan(interval.low, interval.high, color=COLOURS[name], alpha=0.16, linewidth=0)
        ax.axhline(interval.estimate, color=COLOURS[name], linestyle=LINES[name], linewidth=1.6, label=name)
    for name, curve in curves.items():
        _band(ax, curve, COLOURS[name], LINES[name], name, marker="o" if name == "recent" else "s")
    ax.set_ylim(-0.05, 1.45)
    ax.set_yticks([0, 0.5, 1])
    _powers(ax, (1, 4, 16, 64, 256))
    _finish(ax, "updates between the two batches", "cosine between their gradients", "upper right")


def knowledge(ax: Axes, curves: Mapping[str, Curve]) -> None:
    """Ranking accuracy of early falls against environment steps, a line a learner with its band."""
    for name, curve in curves.items():
        _band(ax, curve, COLOURS[name], LINES[name], name)
    ax.axhline(0.5, color=INK, linewidth=0.7, linestyle=(0, (2, 3)))
    ax.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=8)
    ax.set_xlim(left=0)
    ax.set_ylim(0.1, 1.02)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _finish(ax, "environment steps", "early falls ranked below\nother early transitions", "lower left")


def titled(figure: Figure, axes: Sequence[Axes], titles: Sequence[str]) -> None:
    """A letter and a title above each part."""
    for ax, letter, title in zip(axes, "abcd", titles, strict=True):
        ax.set_title(f"({letter}) {title}", fontsize=9, loc="left", color=INK)
    figure.subplots_adjust(left=0.135, right=0.97, top=0.955, bottom=0.075, wspace=0.42, hspace=0.36)


def _band(
    ax: Axes,
    curve: Curve,
    colour: str,
    line: Literal["-"] | tuple[float, tuple[float, ...]],
    label: str,
    marker: str = "",
) -> None:
    ax.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
    ax.plot(
        curve.steps, curve.mean, color=colour, linestyle=line, linewidth=1.6, label=label, marker=marker, markersize=3
    )


def _powers(ax: Axes, ticks: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])


def _finish(ax: Axes, xlabel: str, ylabel: str, legend: Corner) -> None:
    ax.set_xlabel(xlabel, fontsize=8.5)
    ax.set_ylabel(ylabel, fontsize=8.5)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(loc=legend, fontsize=8, frameon=False, handlelength=2.6, borderaxespad=0.2, labelspacing=0.25)
