"""What docs/ray.md says was measured is in the result file. Its Python blocks run with all others, in test_docs.py."""

import json
import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "ray.md").read_text()


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
