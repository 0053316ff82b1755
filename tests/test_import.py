"""What `import replaybank` loads, and that its names are there when they are asked for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

import replaybank

# What extras install, and parts of the standard library that most programs never need.
FOREIGN = {
    "torch", "gymnasium", "jax", "ray", "scipy", "matplotlib", "pandas", "plotly", "rich", "tyro", "zstandard", "h5py",
    "minari", "tensorboard", "stable_baselines3", "tianshou",
}  # fmt: skip
HEAVY = {"asyncio", "concurrent", "ctypes.util", "email", "http", "importlib.metadata", "multiprocessing", "zipfile"}
MAIN = """
import replaybank as rb
buffer = rb.ReplayBuffer(10, sampler=rb.Prioritized(), view=rb.NStep(2, gamma=0.9), seed=0)
buffer.add([0.0], 0, 1.0, [1.0], False, False)
buffer.update_priorities(buffer.sample(4).indices, [1.0] * 4)
"""


def loaded(code: str) -> set[str]:
    """The modules in a new interpreter after `code`, less those in one that has only NumPy."""
    told = "import sys, numpy; before = set(sys.modules)\n{}\nprint(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", told.format(code)], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_import_loads_nothing_but_itself() -> None:
    assert {name for name in loaded("import replaybank") if not name.startswith("importlib")} == {"replaybank"}


def test_a_buffer_in_use_loads_no_extra_and_nothing_heavy() -> None:
    names = loaded(MAIN)
    assert {name.partition(".")[0] for name in names} & FOREIGN == set()
    assert names & HEAVY == set()


def test_every_public_name_is_the_one_its_module_defines() -> None:
    tree = ast.parse(Path(str(replaybank.__file__)).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("replaybank.")
        for alias in node.names
    }
    assert sorted(typed) == sorted(replaybank.__all__)
    for name, home in typed.items():
        assert getattr(replaybank, name) is getattr(importlib.import_module(home), name)
        assert getattr(replaybank, name).__module__ == home


def test_dir_and_star_name_what_is_not_loaded_yet() -> None:
    code = (
        "import replaybank; names = set(dir(replaybank)); from replaybank import *; "
        "assert {*replaybank.__all__, '__version__'} <= names; assert set(replaybank.__all__) <= set(globals())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_metadata_and_a_valid_one() -> None:
    assert replaybank.__version__ == version("replaybank")
    assert str(Version(replaybank.__version__)) == replaybank.__version__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ReplayBufer'"):
        replaybank.ReplayBufer  # noqa: B018
