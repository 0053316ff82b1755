"""Pictures of studies: what is drawn is what was given, can be told apart, and is read at the width of a page."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from replaybank.study import plots
from replaybank.study.plots import STYLES, Curve
from replaybank.study.stats import Interval

STEPS = np.linspace(500, 20_000, 40)
NAMES = ("online", "recent", "uniform", "prioritized", "uniform-no-target", "online, no target", "rank", "lap")
LONG = "a batch drawn by TD error; its weights are divided by the largest of the batch, and beta rises from 0.4 to 1"


def curve(height: float) -> Curve:
    return Curve(STEPS, np.full(40, height), np.full(40, height - 10), np.full(40, height + 10))


def picture(names: tuple[str, ...] = NAMES) -> Figure:
    figure = Figure(figsize=(8, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    plots.learning_curves(left, {name: curve(50.0 * k) for k, name in enumerate(names)}, 475.0)
    finals = {name: [40.0 * k, 50.0 * k, 60.0 * k] for k, name in enumerate(names)}
    plots.final_returns(right, finals, {name: Interval(50.0 * k, 40.0, 60.0) for k, name in enumerate(names)}, 475.0)
    plots.caption(figure, "DQN on CartPole-v1", "mean over 3 seeds; " * 8, dict.fromkeys(names, LONG))
    return figure


def boxes(figure: Figure) -> tuple[list[Bbox], list[Bbox]]:
    """Where the text around the panels is, and where the panels are with all that belongs to them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    return texts, [box for ax in figure.axes if (box := ax.get_tightbbox(renderer))]


# ---- styles --------------------------------------------------------------------------


def test_memories_are_told_apart_without_their_colours() -> None:
    drawn = set(STYLES.values())
    assert len({style.line for style in drawn}) == len(drawn)
    assert len({style.marker for style in drawn}) == len(drawn)


def test_a_variant_keeps_the_colour_but_lighter_and_hollow() -> None:
    found = plots.styles(["uniform", "uniform, no target", "uniform-quarter"])
    plain, variant, other = found.values()
    assert plain == STYLES["uniform"]
    assert not variant.filled
    assert variant.width < plain.width
    assert variant.marker == plain.marker
    # the same way from white, and 68% of it
    assert [1 - part for part in to_rgb(variant.colour)] == pytest.approx(
        [0.68 * (1 - part) for part in to_rgb(plain.colour)], abs=1 / 255
    )
    assert variant.line == plain.line != other.line


def test_unknown_names_take_styles_that_no_other_name_has() -> None:
    found = plots.styles(["n = 1", "uniform", "n = 3", "proportional"])
    assert found["uniform"] == STYLES["uniform"]
    assert len({style.colour for style in found.values()}) == 4
    assert len(plots.styles([*STYLES, "another"])) == len(STYLES) + 1


# ---- panels --------------------------------------------------------------------------


def test_learning_curves_are_drawn_as_given_up_to_the_last_step() -> None:
    ax = Figure().subplots()
    plots.learning_curves(ax, {"uniform": curve(100.0), "recent": curve(20.0)})
    for line, height in zip(ax.lines, (100.0, 20.0), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([STEPS, np.full(40, height)], axis=1))
    assert [line.get_label() for line in ax.lines] == ["uniform", "recent"]
    assert ax.get_xlim() == (0, 20_000)
    assert [ax.xaxis.get_major_formatter()(value, None) for value in (0, 500, 20_000, 1_500_000)] == [
        "0",
        "500",
        "20k",
        "1.5M",
    ]


def test_intervals_stand_from_top_to_bottom_and_one_without_bounds_is_its_estimate_alone() -> None:
    ax = Figure().subplots()
    plots.intervals(ax, {"uniform - online": Interval(5.0, 1.0, 9.0), "lap": Interval(-2.0, math.nan, math.nan)})
    reference, first, second = ax.lines
    assert list(reference.get_xdata()) == [0, 0]
    assert (first.get_xydata().tolist(), second.get_xydata().tolist()) == ([[5.0, 0.0]], [[-2.0, 1.0]])
    assert first.get_markerfacecolor() == STYLES["uniform"].colour
    assert first.get_marker() == STYLES["uniform"].marker
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    bar = ax.collections[0].get_segments()[0]
    np.testing.assert_array_equal(bar, [[1.0, 0.0], [9.0, 0.0]])


def test_a_profile_steps_down_where_the_threshold_is_passed() -> None:
    ax = Figure().subplots()
    share = np.array([1.0, 0.5, 0.0])
    plots.profile(ax, np.array([0.0, 10.0, 20.0]), {"lap": (share, share, share)})
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), share)
    assert line.get_drawstyle() == "steps-post"


def test_a_grid_tells_its_cells_and_leaves_a_missing_one_empty() -> None:
    ax = Figure().subplots()
    plots.grid(
        ax,
        {
            ("replay", "target"): Interval(316.84, 300.0, 320.0),
            ("replay", "none"): Interval(240.7, math.nan, math.nan),
            ("no replay", "none"): Interval(3.2, 3.0, 4.0),
        },
    )
    texts = [(text.get_text(), text.xy) for text in ax.texts]  # type: ignore[attr-defined]
    assert texts == [
        ("316.8", (0, 0)),
        ("[300.0, 320.0]", (0, 0)),
        ("240.7", (1, 0)),
        ("3.2", (1, 1)),
        ("[3.0, 4.0]", (1, 1)),
    ]
    shades = ax.images[0]
    assert np.ma.getmaskarray(shades.get_array()).tolist() == [[False, False], [True, False]]
    # ink (luminance 0.016) on the darkest shade: the contrast that WCAG asks for is 4.5
    red, green, blue = (
        (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
        for part in shades.to_rgba(np.array([[316.84]]))[0, 0, :3]
    )
    assert (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) / (0.016 + 0.05) > 4.5


# ---- around the panels ---------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8])
def test_no_text_of_a_caption_lies_on_another_or_on_a_panel_or_outside(count: int) -> None:
    figure = picture(NAMES[:count])
    texts, panels = boxes(figure)
    assert len(texts) > 2 + 2 * count  # the definitions take more than a line each
    for one, other in itertools.combinations(texts + panels, 2):
        overlap = Bbox.intersection(one, other)
        assert overlap is None or min(overlap.width, overlap.height) < 1, (one, other)
    for box in texts + panels:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1


def test_all_text_has_8_points_at_the_width_of_a_page() -> None:
    figure = picture()
    boxes(figure)
    shrunk = 6.5 / figure.get_figwidth()
    assert min(text.get_fontsize() for text in figure.findobj(Text)) * shrunk >= 8


def test_the_same_figure_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plots.save(picture(NAMES[:3]), tmp_path / folder, "curves")
    for name in ("curves.png", "curves.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a" / "curves.svg").read_bytes()
