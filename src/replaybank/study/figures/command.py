"""`replaybank figures`: every picture as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from replaybank.study import SettingError
from replaybank.study.figures import numbers, pictures

ALPHA = 0.6
"""Of the picture of priorities; the notebook has a slider for it."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "legend.fontsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "replaybank",  # else the names of clip paths are random
}
DPI = 150


def figures(out: Path = Path("figures")) -> int:
    """Draw the pictures of the ideas into the folder `out`, made if it is not there; prints each file it wrote.

    Existing files of the same names are replaced; the same versions of the libraries give the same bytes. Raises
    SettingError where `out` is a file or cannot be written to. Returns 0.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # whatever the user's own settings are
            matplotlib.rcParams.update(STYLE)
            for name, figure in drawn().items():
                for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                    path = out / f"{name}.{kind}"
                    figure.savefig(path, dpi=DPI, metadata=metadata)
                    print(path)
    except OSError as error:
        raise SettingError(f"--out: expected a folder to write to, given {out}: {error.strerror}") from error
    return 0


def drawn() -> dict[str, Figure]:
    """The pictures by the names of their files, in the order in which the ideas are told."""
    return {
        "batches": pictures.batches(numbers.batches()),
        "stream": pictures.stream(numbers.stream()),
        "priorities": pictures.priorities(numbers.TD_ERRORS, numbers.probabilities(numbers.TD_ERRORS, ALPHA), ALPHA),
        "weights": pictures.corrections(numbers.corrections()),
        "tree": pictures.tree(numbers.walk()),
    }
