"""What a cluster tells Prometheus, through Ray: docs/ray.md lists the names. Metrics never fail what they measure.

Ray exports what is recorded here from each machine (with the packages of ray[default]; without them it goes nowhere),
every ten seconds, with the prefix `ray_` and the label WorkerId of the process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

log = logging.getLogger("replaybank.ray")

EVERY = 1.0  # seconds between two reports of a reader or a writer
# Upper edges of the latencies' buckets, seconds: a call of an actor takes about one millisecond.
LATENCIES = [edge * 10.0**power for power in range(-5, 1) for edge in (1, 2.5, 5)] + [10.0]

# By what `stats()` calls them: name and text. Gauges are set, counters follow what was counted.
SHARD_GAUGES = {
    "up": ("replaybank_shard_up", "1 where the shard reports, 0 where it is away"),
    "size": ("replaybank_transitions", "Transitions in the shard"),
    "capacity": ("replaybank_capacity_transitions", "Transitions that the shard can hold"),
    "mass": ("replaybank_mass", "Total of the shard's unnormalised probabilities"),
    "writers": ("replaybank_writers", "Writers that the shard serves"),
    "nbytes": ("replaybank_memory_bytes", "Bytes of the shard's buffer"),
    "saved": ("replaybank_saved_transitions", "Transitions that had ever come in by the shard's last checkpoint"),
    "save_seconds": ("replaybank_save_seconds", "How long the shard's last checkpoint took"),
    "beat_age": ("replaybank_beat_age_seconds", "Time since the shard last reported"),
}
SHARD_COUNTERS = {
    "inserted": ("replaybank_inserted_transitions_total", "Transitions taken in from writers"),
    "sampled": ("replaybank_sampled_transitions_total", "Transitions drawn"),
    "updated": ("replaybank_updated_priorities_total", "Priorities set"),
    "stale": ("replaybank_stale_priorities_total", "Priorities for transitions that had left, or were lost"),
    "overwritten": ("replaybank_overwritten_transitions_total", "Transitions that made room for newer ones"),
    "lost": ("replaybank_lost_transitions_total", "Transitions that went with a process and no checkpoint had"),
    "repeated": ("replaybank_repeated_transitions_total", "Transitions that writers sent again and the shard had"),
    "refused": ("replaybank_refused_messages_total", "Messages of writers that were not what the schema says"),
    "writers_died": ("replaybank_dead_writers_total", "Writers that fell silent"),
}
RATE_GAUGES = {
    "measured": ("replaybank_samples_per_insert", "Samples per insert, as measured"),
    "samples_per_insert": ("replaybank_wanted_samples_per_insert", "Samples per insert, as they should be"),
    "ahead": ("replaybank_ahead_samples", "By how many samples inserts are ahead; readers are where it is negative"),
    "tolerance": ("replaybank_tolerance_samples", "How far ahead either side may get"),
    "waiting_to_insert": ("replaybank_waiting_to_insert", "Calls of writers that wait for readers"),
    "waiting_to_sample": ("replaybank_waiting_to_sample", "Calls of readers that wait for writers"),
}
READER_COUNTERS = {
    "updated": ("replaybank_reader_updated_priorities_total", "Priorities that the reader's updates set"),
    "stale": ("replaybank_reader_stale_priorities_total", "Those of its updates that came too late"),
    "unsent": ("replaybank_reader_unsent_priorities_total", "Those for shards that did not answer"),
    "failures": ("replaybank_reader_failures_total", "Calls of shards that failed or took too long"),
}
WRITER_GAUGES = {"pending": ("replaybank_writer_pending_transitions", "Added and not yet acknowledged by a shard")}
WRITER_COUNTERS = {
    "acknowledged": ("replaybank_writer_acknowledged_transitions_total", "Transitions that a shard has taken"),
    "dropped": ("replaybank_writer_dropped_transitions_total", "Transitions dropped where no shard took them in time"),
    "lost": ("replaybank_writer_lost_transitions_total", "Acknowledged transitions that went with a shard"),
}

Self = TypeVar("Self", bound="Quiet")
Given = ParamSpec("Given")


class Quiet:
    """What fails once says so in the log, and does nothing more."""

    _failed = False


def quietly(method: Callable[Concatenate[Self, Given], None]) -> Callable[Concatenate[Self, Given], None]:
    """A method of a Quiet that raises no Exception."""

    @wraps(method)
    def call(self: Self, /, *args: Given.args, **kwargs: Given.kwargs) -> None:
        if self._failed:
            return
        try:
            method(self, *args, **kwargs)
        except Exception:
            self._failed = True
            log.exception("%s: metrics are off, all else goes on", type(self).__name__)

    return call


class ClusterMetrics(Quiet):
    """For the coordinator, which outlives its shards: all that `ReplayCluster.stats` tells, once a second or so.

    Counters follow what was counted in the life of the cluster, also over restarts.
    """

    @quietly
    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._shards = Panel(SHARD_GAUGES, SHARD_COUNTERS, ("cluster", "shard"))
        self._rate = Panel(RATE_GAUGES, {}, ("cluster",))

    @quietly
    def report(self, stats: Mapping[str, Any]) -> None:
        """`stats`: what `ReplayCluster.stats` gives."""
        for shard in stats["shards"]:
            tags = {"cluster": self._cluster, "shard": str(shard["shard"])}
            self._shards.show({**shard, "up": shard["state"] != "away"}, tags)
        self._rate.show(stats["rate_limit"] or {}, {"cluster": self._cluster})


class ShardMetrics(Quiet):
    """For a shard's own process: how long its calls take."""

    @quietly
    def __init__(self, cluster: str, shard: int) -> None:
        tags = {"cluster": cluster, "shard": str(shard)}
        self._insert = _latency("replaybank_insert_seconds", "A message of a writer, in the shard", tags)
        self._draw = _latency("replaybank_draw_seconds", "A draw, in the shard", tags)

    @quietly
    def inserted(self, seconds: float) -> None:
        """One message of a writer took so long."""
        self._insert.observe(seconds)

    @quietly
    def drawn(self, seconds: float) -> None:
        """One draw took so long."""
        self._draw.observe(seconds)


class ReaderMetrics(Quiet):
    """For a reader's process; `reader` tells several of one process apart."""

    @quietly
    def __init__(self, cluster: str, reader: str) -> None:
        self._tags = {"cluster": cluster, "reader": reader}
        self._sample = _latency("replaybank_sample_seconds", "A batch, from the call to its return", self._tags)
        self._panel = Panel({}, READER_COUNTERS, tuple(self._tags))
        self._next = 0.0

    @quietly
    def sampled(self, seconds: float) -> None:
        """The caller waited so long for a batch."""
        self._sample.observe(seconds)

    @quietly
    def report(self, stats: Mapping[str, Any]) -> None:
        """`stats`: what `Reader.stats` gives. At most once a second it is looked at."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._panel.show(stats, self._tags)


class WriterMetrics(Quiet):
    """For a writer's process; `writer` tells several of one process apart."""

    @quietly
    def __init__(self, cluster: str, writer: str) -> None:
        self._tags = {"cluster": cluster, "writer": writer}
        self._panel = Panel(WRITER_GAUGES, WRITER_COUNTERS, tuple(self._tags))
        self._next = 0.0

    @quietly
    def report(self, stats: Mapping[str, Any], at_once: bool = False) -> None:
        """`stats`: what `Writer.stats` gives. At most once a second it is looked at, but with `at_once` now."""
        if at_once or time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._panel.show(stats, self._tags)


class Panel:
    """Gauges and counters by the keys of a dict of figures; what the dict does not have is not shown."""

    def __init__(
        self, gauges: Mapping[str, tuple[str, str]], counters: Mapping[str, tuple[str, str]], tags: tuple[str, ...]
    ) -> None:
        self._gauges = {key: Gauge(name, text, tags) for key, (name, text) in gauges.items()}
        self._counters = {key: Counter(name, text, tags) for key, (name, text) in counters.items()}
        self._counted: dict[tuple[str, ...], float] = {}

    def show(self, figures: Mapping[str, Any], tags: dict[str, str]) -> None:
        """Sets the gauges to these figures, and takes the counters as far."""
        for key, gauge in self._gauges.items():
            if key in figures:
                gauge.set(float(figures[key]), tags)
        for key, counter in self._counters.items():
            if key in figures:
                self._count(counter, (key, *tags.values()), float(figures[key]), tags)

    def _count(self, counter: Any, at: tuple[str, ...], total: float, tags: dict[str, str]) -> None:
        before = self._counted.get(at)
        self._counted[at] = total
        if before is None and total == 0:
            # Ray's `inc` takes no 0, and to Prometheus a rise from nothing is none: a first loss would be unseen.
            counter._record(0.0, tags)
        elif total > (before or 0.0):
            counter.inc(total - (before or 0.0), tags)


def _latency(name: str, text: str, tags: dict[str, str]) -> Any:
    return Histogram(name, text, LATENCIES, tuple(tags)).set_default_tags(tags)
