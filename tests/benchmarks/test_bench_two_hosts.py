"""The benchmark of two hosts measures the line: no answer before its time, no transition smaller than its bytes."""

from __future__ import annotations

import pytest

from hosts import Line, available
from two_hosts import HEADER, markdown, run

pytest.importorskip("ray", reason="needs Ray")


@pytest.mark.slow
def test_rows_obey_the_line() -> None:
    if reason := available():
        pytest.skip(reason)
    measured = run({"slow": Line(delay=0.02)}, ["cartpole"], seconds=0.1)
    rows = {row["what"]: row for row in measured["parts"][0]["rows"]}
    assert rows["64 transitions, flushed"]["median_ms"] >= 40
    assert rows["sample(256)"]["median_ms"] >= 80  # first what shards hold, then the draws
    assert rows["batches(256, prefetch=0)"]["median_ms"] >= 40
    assert rows["batches(256, prefetch=16)"]["median_ms"] < rows["sample(256)"]["median_ms"]
    assert rows["update_priorities of 256"]["median_ms"] >= 40
    assert rows["transitions in"]["bytes_there"] > 4 * 4 + 8 + 4 + 2  # observation, action, reward, ends
    assert rows["sample(256)"]["bytes_back"] > 2 * 4 * 4 + 8 + 4 + 2 + 8  # two observations, and an id
    text = markdown(measured)
    assert all(title in text for title in (*HEADER, *rows))
