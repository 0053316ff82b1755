"""What a cluster tells Prometheus through Ray: right figures, good names, and never an error or a wait for them."""

from __future__ import annotations

import logging
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

import replaybank as rb
from replaybank.ray import ClusterOptions, ReplayCluster, metrics
from replaybank.ray.metrics import ClusterMetrics, ReaderMetrics, ShardMetrics, WriterMetrics

SHARD = dict.fromkeys((*metrics.SHARD_GAUGES, *metrics.SHARD_COUNTERS), 0) | {"shard": 0, "state": "open"}
SHARD.pop("up")
KINDS = ("Gauge", "Counter", "Histogram")


class Told:
    """Stands in for Ray's metrics, and keeps what it was told by name and tags; a counter's value is its sum."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.seen: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
        self.descriptions: dict[str, str] = {}
        self.calls = 0
        self.broken: tuple[str, ...] = ()  # the verbs that raise

    def fail(self, verb: str) -> None:
        self.calls += 1
        if verb in self.broken:
            raise RuntimeError(f"{verb} is broken")

    def of(self, name: str, **tags: str) -> float:
        return self.values[name, tuple(sorted(tags.items()))]

    def metric(self) -> type:
        told = self

        class Metric:
            def __init__(self, name: str, text: str, *rest: Any) -> None:
                told.fail("make")
                told.descriptions[name] = text
                self.name, self.keys, self.defaults = name, set(rest[-1]), {}

            def set_default_tags(self, tags: dict[str, str]) -> Any:
                self.defaults = tags
                return self

            def at(self, tags: dict[str, str] | None) -> tuple[str, tuple[tuple[str, str], ...]]:
                given = self.defaults if tags is None else tags
                assert given.keys() == self.keys
                return self.name, tuple(sorted(given.items()))

            def set(self, value: float, tags: dict[str, str] | None = None) -> None:
                told.fail("set")
                told.values[self.at(tags)] = value

            def _record(self, value: float, tags: dict[str, str] | None = None) -> None:
                told.values[self.at(tags)] = told.values.get(self.at(tags), 0.0) + value

            def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
                told.fail("inc")
                assert value > 0, "Ray refuses others"
                self._record(value, tags)

            def observe(self, value: float) -> None:
                told.fail("observe")
                told.seen.setdefault(self.at(None), []).append(value)

        return Metric


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found = Told()
    for kind in KINDS:
        monkeypatch.setattr(metrics, kind, found.metric())
    return found


def stats(*shards: dict[str, Any], rate: Any = None) -> dict[str, Any]:
    return {"shards": [{**SHARD, **one} for one in shards], "rate_limit": rate}


def test_gauges_are_what_was_told_last_and_counters_go_as_far_as_was_counted(told: Told) -> None:
    board = ClusterMetrics("pong")
    board.report(stats({"inserted": 100, "size": 100, "mass": 2.5}, {"shard": 1, "inserted": 7}))
    board.report(stats({"inserted": 250, "size": 90, "mass": 1.5}, {"shard": 1, "inserted": 7}))
    assert told.of("replaybank_inserted_transitions_total", cluster="pong", shard="0") == 250
    assert told.of("replaybank_inserted_transitions_total", cluster="pong", shard="1") == 7
    assert told.of("replaybank_transitions", cluster="pong", shard="0") == 90
    assert told.of("replaybank_mass", cluster="pong", shard="0") == 1.5


def test_a_counter_is_there_before_anything_is_counted(told: Told) -> None:
    """Prometheus sees a rise only where it has seen what was before."""
    ClusterMetrics("pong").report(stats({}))
    assert told.of("replaybank_lost_transitions_total", cluster="pong", shard="0") == 0


def test_a_count_that_fell_is_not_counted_twice(told: Told) -> None:
    board = ClusterMetrics("pong")
    for sampled in (100, 40, 40, 55):  # 60 went with the process, then 15 more were drawn
        board.report(stats({"sampled": sampled}))
    assert told.of("replaybank_sampled_transitions_total", cluster="pong", shard="0") == 115


def test_a_shard_that_is_away_is_not_up(told: Told) -> None:
    board = ClusterMetrics("pong")
    for state, up in (("open", 1), ("draining", 1), ("away", 0)):
        board.report(stats({"state": state}))
        assert told.of("replaybank_shard_up", cluster="pong", shard="0") == up


def test_of_a_shard_that_has_not_reported_nothing_is_made_up(told: Told) -> None:
    ClusterMetrics("pong").report({"shards": [{"shard": 3, "state": "open", "beat_age": 0.0}], "rate_limit": None})
    assert {name for name, _ in told.values} == {"replaybank_shard_up", "replaybank_beat_age_seconds"}


def test_the_rate_limit_is_told_where_there_is_one(told: Told) -> None:
    limit = {"samples_per_insert": 8.0, "measured": 7.5, "ahead": -100.0, "tolerance": 16000.0, "min_size": 1000}
    ClusterMetrics("pong").report(stats(rate=limit | {"waiting_to_insert": 0, "waiting_to_sample": 2}))
    found = {name: value for (name, tags), value in told.values.items() if tags == (("cluster", "pong"),)}
    assert found == {
        "replaybank_wanted_samples_per_insert": 8.0,
        "replaybank_samples_per_insert": 7.5,
        "replaybank_ahead_samples": -100.0,
        "replaybank_tolerance_samples": 16000.0,
        "replaybank_waiting_to_insert": 0,
        "replaybank_waiting_to_sample": 2,
    }


def test_latencies_are_seen_one_by_one(told: Told) -> None:
    shard, reader = ShardMetrics("pong", 3), ReaderMetrics("pong", "0")
    for seconds in (0.001, 0.002):
        shard.drawn(seconds)
        reader.sampled(2 * seconds)
    shard.inserted(0.5)
    of_shard, of_reader = (("cluster", "pong"), ("shard", "3")), (("cluster", "pong"), ("reader", "0"))
    assert told.seen == {
        ("replaybank_draw_seconds", of_shard): [0.001, 0.002],
        ("replaybank_insert_seconds", of_shard): [0.5],
        ("replaybank_sample_seconds", of_reader): [0.002, 0.004],
    }


def test_readers_and_writers_are_looked_at_once_a_second_and_at_their_end(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: now[0]))
    reader, writer = ReaderMetrics("pong", "0"), WriterMetrics("pong", "77")
    for pending in range(5):
        reader.report({"updated": 10, "stale": pending, "unsent": 0, "failures": 0, "batches": 5, "away": {}})
        writer.report({"acknowledged": 64, "pending": pending, "dropped": 0, "lost": 0})
        now[0] += 0.3
        late = told.of("replaybank_reader_stale_priorities_total", cluster="pong", reader="0")
        waiting = told.of("replaybank_writer_pending_transitions", cluster="pong", writer="77")
        assert late == waiting == (4 if pending == 4 else 0)
    writer.report({"acknowledged": 64, "pending": 0, "dropped": 9, "lost": 3}, at_once=True)
    assert told.of("replaybank_writer_dropped_transitions_total", cluster="pong", writer="77") == 9


@pytest.mark.parametrize("verb", ["make", "set", "inc", "observe"])
def test_what_fails_in_ray_is_logged_once_and_ends_there(
    verb: str, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    told.broken = (verb,)
    with caplog.at_level(logging.ERROR):
        board, shard = ClusterMetrics("pong"), ShardMetrics("pong", 0)
        for _ in range(3):
            board.report(stats({"inserted": 5}))
            shard.inserted(0.1)
            shard.drawn(0.1)
    failing = {"make": ["ClusterMetrics", "ShardMetrics"], "observe": ["ShardMetrics"]}.get(verb, ["ClusterMetrics"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}: metrics are off, all else goes on" for name in failing
    ]
    if "ClusterMetrics" in failing:
        assert asked(told, lambda: board.report(stats({"inserted": 500}))) == 0
    if "ShardMetrics" in failing:
        assert asked(told, lambda: shard.drawn(0.1)) == 0


def asked(told: Told, call: Callable[[], None]) -> int:
    """How often a call asks Ray's metrics for something."""
    before = told.calls
    call()
    return told.calls - before


def test_stats_of_another_shape_do_no_harm(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    ClusterMetrics("pong").report({})
    WriterMetrics("pong", "1").report({"pending": "many"})
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError, ValueError]


def names() -> dict[str, str]:
    """All metrics by name, with their kind."""
    gauges = (metrics.SHARD_GAUGES, metrics.RATE_GAUGES, metrics.WRITER_GAUGES)
    counters = (metrics.SHARD_COUNTERS, metrics.READER_COUNTERS, metrics.WRITER_COUNTERS)
    histograms = ("replaybank_insert_seconds", "replaybank_draw_seconds", "replaybank_sample_seconds")
    found = [(name, "gauge") for table in gauges for name, _ in table.values()]
    found += [(name, "counter") for table in counters for name, _ in table.values()]
    found += [(name, "histogram") for name in histograms]
    assert len(dict(found)) == len(found), "a name twice"
    return dict(found)


def test_names_are_as_prometheus_wants_them() -> None:
    for name, kind in names().items():
        assert re.fullmatch(r"replaybank(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert kind != "histogram" or name.endswith("_seconds")


def test_the_documentation_names_them_all() -> None:
    pages = (Path(__file__).parents[2] / "docs").glob("ray*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    rows = re.findall(r"^\| `ray_(replaybank_\w+)` \| (\w+)", text, re.MULTILINE)
    assert dict(rows) == names()
    assert len(rows) == len(names())


# ---- through Ray ----


@pytest.fixture(scope="module")
def page(ray_session: None) -> str:
    """Where this machine's metrics are told."""
    port = ray.nodes()[0].get("MetricsExportPort", -1)
    if port <= 0:
        pytest.skip("Ray exports metrics only with the packages of ray[default]")
    return f"http://127.0.0.1:{port}/metrics"


def scraped(page: str, cluster: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The cluster's samples by name and those of our tags that tell shards, readers and writers apart."""
    with urllib.request.urlopen(page, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, tags, value in re.findall(r"^ray_(replaybank_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        given = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if given["cluster"] == cluster:
            found[name, frozenset((key, given[key]) for key in ("shard", "reader", "writer", "le") if key in given)] = (
                float(value)
            )
    return found


@pytest.fixture(scope="module")
def cluster(page: str) -> Iterator[ReplayCluster]:
    with ReplayCluster(
        2,
        1000,
        {"obs": ("float32", (2,)), "action": "int64"},
        rb.Prioritized(),
        samples_per_insert=8.0,
        seed=0,
        options=ClusterOptions(name="measured"),
    ) as made:
        yield made


def test_prometheus_reads_what_the_cluster_counted(page: str, cluster: ReplayCluster) -> None:
    with cluster.writer() as first, cluster.writer() as second, cluster.reader() as reader:
        for t in range(600):
            for writer in (first, second):
                writer.add(np.full(2, t, np.float32), 0, 1.0, np.full(2, t + 1, np.float32), False, False)
        for writer in (first, second):
            writer.flush()
        for _ in range(5):
            batch = reader.sample(32)
            reader.update_priorities(batch.indices, np.ones(32))
        deadline = time.monotonic() + 60  # the coordinator reports every second, and Ray every ten
        while (missing := contradictions(scraped(page, "measured"), cluster.stats())) and time.monotonic() < deadline:
            time.sleep(0.5)
    assert missing == []


def contradictions(found: dict[tuple[str, frozenset[tuple[str, str]]], float], told: dict[str, Any]) -> list[str]:
    """Where what was scraped is not what the cluster tells, or not what was done."""
    wrong = []
    for shard in told["shards"]:
        at = frozenset({("shard", str(shard["shard"]))})
        for key, (name, _) in (metrics.SHARD_GAUGES | metrics.SHARD_COUNTERS).items():
            expected = 1 if key == "up" else shard.get(key)
            if key == "beat_age":  # another one at each look
                expected = found.get((name, at))
            if expected is None or found.get((name, at)) != expected:
                wrong.append(f"{name}, shard {shard['shard']}: {found.get((name, at))}, expected {expected}")
    sums = {
        "replaybank_inserted_transitions_total": 1200,
        "replaybank_sampled_transitions_total": 160,
        "replaybank_updated_priorities_total": 160,
        "replaybank_writer_acknowledged_transitions_total": 1200,
        "replaybank_sample_seconds_count": 5,
        "replaybank_wanted_samples_per_insert": 8,
    }
    for name, expected in sums.items():
        total = sum(value for (one, _), value in found.items() if one == name)
        if total != expected:
            wrong.append(f"{name}: {total}, expected {expected}")
    if not any(name == "replaybank_draw_seconds_bucket" for name, _ in found):
        wrong.append("no draw was timed")
    return wrong
