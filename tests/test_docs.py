"""Every Python block of docs/libraries.md runs as it stands."""

import re
import runpy
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "libraries.md").read_text()
# What the block of a section needs beside replaybank.
NEEDS = {
    "Gymnasium": ("gymnasium",),
    "Stable-Baselines3": ("stable_baselines3",),
    "CleanRL": ("torch", "gymnasium"),
    "Tianshou": ("tianshou",),
    "RLlib": ("ray.rllib",),
    "Minari": ("minari", "h5py", "PIL"),
    "JAX": ("jax",),
}
MARKS = {
    "RLlib": (
        pytest.mark.slow,  # it starts Ray
        pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),  # JAX's, where it is loaded
    ),
    "Minari": (pytest.mark.filterwarnings("ignore:`.*` is set to None:UserWarning"),),  # what a dataset should tell
}


def blocks() -> list[tuple[str, str]]:
    """The Python blocks, each with the title of its section."""
    _, *sections = re.split(r"^## ", PAGE, flags=re.M)
    return [
        (section.splitlines()[0], block)
        for section in sections
        for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    ]


def test_every_section_has_its_block():
    assert [title for title, _ in blocks()] == list(NEEDS)


@pytest.mark.parametrize(
    ("title", "block"),
    [pytest.param(title, block, id=title, marks=MARKS.get(title, ())) for title, block in blocks()],
)
def test_block_runs(title, block, tmp_path, monkeypatch):
    for library in NEEDS[title]:
        pytest.importorskip(library, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    for place in ("HOME", "MINARI_DATASETS_PATH"):  # where Ray and Minari leave files
        monkeypatch.setenv(place, str(tmp_path))
    script = tmp_path / "block.py"
    script.write_text(block)
    try:
        runpy.run_path(str(script))
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
