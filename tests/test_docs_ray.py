"""Every Python block of docs/ray.md runs as it stands, as a program of its own."""

import json
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


def test_what_is_said_to_be_measured_is_in_the_result_file() -> None:
    found = json.loads((Path(__file__).parent.parent / "benchmarks" / "ray_scaling.json").read_text())
    rows = {
        (row["size"], row["shards"], row["mode"]): row["results"]
        for row in found["rows"]
        if row["kind"] == "prioritized"
    }
    modes = {
        "transitions in": ("in", "transitions"),
        "batches, one at a time": ("sample", "batches"),
        "batches and updates, prefetched": ("batches", "batches"),
    }
    lines = re.findall(r"^\| (cartpole|frames), (\d) shards?: (.*?) \| (.*) \|$", PAGE, re.M)
    assert len(lines) == 18
    for size, shards, text, figures in lines:
        mode, what = modes[text]
        results = {one["name"]: one[what]["median"] for one in rows[size, int(shards), mode]}
        told = [f"{results[name]:,.0f}" for name in ("replaybank", "RLlib", "Reverb")]
        assert figures.split(" | ") == told, (size, shards, text)
    for said, row in ((r"3.1 ms with one shard, 8.0 with four", "sample"), (r"0.4 and 1.6 ms", "batches")):
        latencies = [rows["cartpole", shards, row][0]["latency_ms"]["sample"]["median"] for shards in (1, 4)]
        assert [f"{latency:.1f}" for latency in latencies] == re.findall(r"\d+\.\d", said)
        assert said in PAGE
