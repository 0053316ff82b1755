"""Every Python block of docs/running.md runs as it stands, as a program of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "running.md").read_text()
_, *SECTIONS = re.split(r"^## ", PAGE, flags=re.M)
BLOCKS = [
    pytest.param(block, id=section.splitlines()[0])
    for section in SECTIONS
    for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str, tmp_path: Path) -> None:
    if "import shared" in block:
        pytest.importorskip("fcntl")
    script = tmp_path / "block.py"
    script.write_text(block)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_there_is_a_block_for_each_thing() -> None:
    assert len(BLOCKS) == 5
