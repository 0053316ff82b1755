"""The pictures of the ideas, one function each; what they show comes from `numbers`. Nothing here computes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from replaybank.study.figures.numbers import Batches, Corrections, Floats, Stream, Walk
from replaybank.study.plots import COLOURS, INK, PALE

WIDTH = 7.0
"""Inches: at the width of a page's column no letter is below 8 points."""
SHADE = "#EFEFEF"
TITLES = {
    "online": "no memory: an update learns from the newest transition",
    "recent": "the {} newest: one stretch of the stream",
    "uniform": "replay: {} drawn from everything that has happened",
}
MARKERS = {"online": "s", "recent": "^", "uniform": "o", "prioritized": "D"}
# Of four curves the colour, line and marker, from the palette of Okabe and Ito.
STYLES = (("#000000", "-", "o"), ("#D55E00", "--", "s"), ("#0072B2", "-.", "^"), ("#009E73", ":", "D"))


def batches(found: Batches) -> Figure:
    """Which steps each update learns from: a row an update, the line is the present, shades are episodes."""
    figure = Figure(figsize=(WIDTH, 6.0), layout="constrained")
    panels = figure.subplots(len(found.learned_from), 1, sharex=True)
    for ax, (name, steps) in zip(panels, found.learned_from.items(), strict=True):
        _episodes(ax, found)
        ax.plot(found.updates, range(len(found.updates)), color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        for row, batch in enumerate(steps):
            ax.scatter(batch, [row] * len(batch), s=19, marker=MARKERS[name], color=COLOURS[name], linewidth=0)
        for row, count in enumerate(found.episodes(name)):
            ax.text(found.steps + 4, row, str(count), va="center", fontsize=8.5, color=INK)
        ax.set_title(TITLES[name].format(steps.shape[1]), loc="left")
        ax.set_yticks(range(len(steps)), [str(row + 1) for row in range(len(steps))])
        ax.set_ylim(len(steps) - 0.3, -0.7)
        ax.set_ylabel("update")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.text(found.steps + 4, -1.35, "episodes", va="center", fontsize=8.5, color=INK)
    panels[0].set_xlim(-1, found.steps + 1)
    panels[-1].set_xlabel("step at which the transition happened (CartPole; shades: episodes; dashed: the present)")
    return figure


def _episodes(ax: Axes, found: Batches) -> None:
    edges = [-0.5, *(found.ends + 0.5), found.steps - 0.5]
    for begin, end in list(pairwise(edges))[::2]:
        ax.axvspan(begin, end, color=SHADE, linewidth=0, zorder=0)


def stream(found: Stream) -> Figure:
    """A stretch of the stream with its two batches, and below how alike angles are that stand k places apart."""
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1)
    size = len(found.consecutive)
    above.plot(found.angles[: found.shown], color=INK, linewidth=0.9, zorder=1)
    for steps, name, words in (
        (found.consecutive, "online", f"{size} in a row"),
        (found.random, "uniform", f"{size} at random"),
    ):
        style = {"color": COLOURS[name], "marker": MARKERS[name], "s": 20, "linewidth": 0, "zorder": 2}
        above.scatter(steps, found.angles[steps], label=words, **style)
    above.axvspan(found.consecutive[0] - 0.5, found.consecutive[-1] + 0.5, color=SHADE, linewidth=0, zorder=0)
    above.set_xlim(-2, found.shown + 1)
    above.set_xlabel("step")
    above.set_ylabel("angle of the pole (rad)")
    above.set_title("CartPole under random actions: two batches from one stream", loc="left")
    above.legend(ncols=2, loc="lower left", frameon=False, borderaxespad=0, handletextpad=0.2)
    above.margins(y=0.22)
    lags = np.arange(len(found.in_order))
    below.axhline(0.0, color=INK, linewidth=0.8)
    below.plot(lags, found.in_order, color=COLOURS["online"], marker="s", markersize=3.5, label="as they happened")
    below.plot(lags, found.shuffled, color=COLOURS["uniform"], marker="o", markersize=3.5, label="in random order")
    below.set_xlim(-0.6, lags[-1] + 0.6)
    below.set_xlabel("places apart")
    below.set_ylabel("autocorrelation")
    worth = f"{size} in a row are worth {found.consecutive_worth:.1f} independent ones"
    below.set_title(f"The same {len(found.angles):,} angles: {worth}", loc="left")
    below.legend(frameon=False)
    for ax in (above, below):
        _plain(ax)
    return figure


def priorities(td_errors: Sequence[float], probabilities: Floats, alpha: float) -> Figure:
    """Sizes of TD errors, and beside them with which probability each transition is drawn, uniformly and by them."""
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(1, len(td_errors) + 1)
    left.bar(places, td_errors, color="#BBBBBB", edgecolor=INK, linewidth=0.6)
    left.set_title("what is known: the last TD error", loc="left")
    left.set_ylabel("size of the TD error")
    even = np.full(len(places), 1 / len(places))
    wide = 0.42
    style = {"edgecolor": INK, "linewidth": 0.6}
    right.bar(places - wide / 2, even, wide, color=COLOURS["uniform"], label="uniform", hatch="////", **style)
    right.bar(places + wide / 2, probabilities, wide, color=COLOURS["prioritized"], label="prioritized", **style)
    right.set_title(f"what follows, with alpha = {alpha:g}", loc="left")
    right.set_ylabel("probability of a draw")
    right.set_ylim(0, max(0.3, 1.05 * probabilities.max()))
    right.legend(frameon=False, loc="upper right", borderaxespad=0)
    for ax in (left, right):
        ax.set_xticks(places)
        ax.set_xlabel("transition")
        _plain(ax)
    return figure


def corrections(found: Corrections) -> Figure:
    """Importance weights against the size of the TD error, for several alphas and for several betas."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    titles = ("what is drawn more often counts less", "… and beta says how fully")
    settings = (("alpha", "beta = 1", found.by_alpha), ("beta", f"alpha = {found.alpha:g}", found.by_beta))
    for ax, title, (name, fixed, curves) in zip((left, right), titles, settings, strict=True):
        for (value, weight), (colour, line, marker) in zip(curves.items(), STYLES, strict=True):
            label = f"{name} = {value:g}"
            ax.plot(
                found.td_errors,
                weight,
                color=colour,
                linestyle=line,
                marker=marker,
                markevery=8,
                markersize=4.5,
                label=label,
            )
        ax.set_xscale("log")
        ax.set_xlabel("size of the TD error")
        ax.set_title(f"{title}\n({fixed})", loc="left")
        ax.set_ylim(0, 1.06)
        ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.02, 0.93), borderaxespad=0)
        _plain(ax)
    left.set_ylabel("weight in the loss")
    return figure


def tree(found: Walk) -> Figure:
    """The sums with the path of one draw, and below the same draw as a place on the line of all priorities."""
    figure = Figure(figsize=(WIDTH, 4.5))
    ax = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    leaves = len(found.shares)
    centres = [(np.arange(len(level)) + 0.5) * leaves / len(level) for level in found.levels]
    heights = 3.0 + 1.2 * np.arange(len(found.levels))[::-1]
    path = COLOURS["prioritized"]
    for depth, (level, places) in enumerate(zip(found.levels, centres, strict=True)):
        for node, (value, x) in enumerate(zip(level, places, strict=True)):
            visited = node == found.path[depth]
            if depth:
                style: dict[str, Any] = (
                    {"color": path, "linewidth": 3} if visited else {"color": "#888888", "linewidth": 0.9}
                )
                up = centres[depth - 1][node // 2]
                ax.plot([up, x], [heights[depth - 1] - 0.3, heights[depth] + 0.3], zorder=1, **style)
            if depth and visited:
                _number(ax, depth, (up + x) / 2, (heights[depth - 1] + heights[depth]) / 2)
            edge: dict[str, Any] = (
                {"edgecolor": path, "linewidth": 3} if visited else {"edgecolor": INK, "linewidth": 0.9}
            )
            ax.add_patch(Rectangle((x - 0.3, heights[depth] - 0.3), 0.6, 0.6, facecolor="white", **edge))
            weight = "bold" if visited else "normal"
            ax.text(x, heights[depth], f"{value:g}", ha="center", va="center", fontsize=10.5, weight=weight)
    ax.text(0.05, heights[0] + 0.55, "\n".join(_steps(found)), va="top", linespacing=1.45)
    ax.text(
        leaves - 0.05,
        heights[0] + 0.55,
        "a textbook's binary tree:\na node is the sum of its two",
        va="top",
        ha="right",
    )
    for x, share in zip(centres[-1], found.shares, strict=True):
        ax.text(x, heights[-1] - 0.55, f"{share:.1%}", ha="center", va="center", fontsize=8.5)
    _line(ax, found)
    ax.set_xlim(-0.1, leaves + 0.1)
    ax.set_ylim(-0.1, heights[0] + 0.7)
    ax.axis("off")
    return figure


def _number(ax: Axes, number: int, x: float, y: float) -> None:
    ring = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": COLOURS["prioritized"]}
    ax.text(x, y, str(number), ha="center", va="center", fontsize=8.5, weight="bold", bbox=ring, zorder=3)


def _steps(found: Walk) -> list[str]:
    """The walk in words, a line a step."""
    lines = [f"draw: {found.target:.2f} of {found.levels[0][0]:g}"]
    for depth, node in enumerate(found.path[1:], start=1):
        asked, first, left = found.left[depth - 1], found.levels[depth][node - node % 2], found.left[depth]
        went = f"≥ {first:g}: right, with {left:.2f}" if node % 2 else f"< {first:g}: left"
        lines.append(f"{depth}  {asked:.2f} {went}")
    return lines


def _line(ax: Axes, found: Walk) -> None:
    """All leaves end to end, each as long as its priority, and where the draw falls."""
    total, leaves = found.levels[0][0], len(found.shares)
    ends = np.cumsum(found.levels[-1]) * leaves / total
    begins = np.concatenate([[0.0], ends[:-1]])
    for leaf, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        here = leaf == found.path[-1]
        face = COLOURS["prioritized"] if here else (SHADE, "white")[leaf % 2]
        ax.add_patch(Rectangle((begin, 0.95), end - begin, 0.45, facecolor=face, edgecolor=INK, linewidth=0.9))
        ax.text(
            (begin + end) / 2,
            1.175,
            f"{found.levels[-1][leaf]:g}",
            ha="center",
            va="center",
            color="white" if here else INK,
        )
    at = found.target * leaves / total
    ax.scatter([at], [1.52], marker="v", s=60, color=INK, zorder=3)
    ax.text(at, 1.66, f"{found.target:.2f}", ha="center", va="bottom")
    words = (
        "The leaves end to end: a draw falls on each as often as it is long.\n"
        "replaybank has eight children a node, one cache line: to it these eight leaves are one node,\n"
        "scanned like this line, and a walk among a million takes 7 steps instead of 20."
    )
    ax.text(0.0, 0.72, words, va="top", linespacing=1.35)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)
