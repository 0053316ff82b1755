"""Every Python block of docs/ray.md runs as it stands, as a program of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray")

PAGE = (Path(__file__).parent.parent / "docs" / "ray.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray leaves files there
    settings = "num_cpus=2, object_store_memory=100_000_000, include_dashboard=False"
    script = tmp_path / "block.py"
    script.write_text(block.replace("ray.init()", f"ray.init({settings})"))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == 2
