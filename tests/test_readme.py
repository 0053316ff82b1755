"""Every Python block of the README runs as it stands."""

import re
import runpy
from pathlib import Path

import pytest

BLOCKS = re.findall(r"^```python\n(.*?)^```", (Path(__file__).parent.parent / "README.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {i}" for i in range(len(BLOCKS))])
def test_readme_block_runs(block, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block)
    runpy.run_path(str(script))
