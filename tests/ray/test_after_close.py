"""What is left of a cluster after `close()` says so at once, and does not wait for what will not come back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

import replaybank as rb
from replaybank.ray import ClusterOptions, RateLimit, ReplayCluster

pytestmark = pytest.mark.usefixtures("ray_session")
PATIENCE = 60.0  # seconds that a call would wait for shards which may come back
names = (f"closed-{n}" for n in itertools.count())


def made(limit: RateLimit | None) -> ReplayCluster:
    schema = {"obs": ("float32", (1,)), "action": "int64"}
    options = ClusterOptions(name=next(names), timeout=PATIENCE, streams=2)
    return ReplayCluster(1, 100, schema, rb.Prioritized(), samples_per_insert=limit, options=options)


@pytest.fixture(params=[None, RateLimit(8.0, min_size=10, tolerance=10_000.0)], ids=["no rate", "rate"])
def cluster(request: pytest.FixtureRequest) -> Iterator[ReplayCluster]:
    with made(request.param) as cluster:
        yield cluster


def test_readers_and_writers_of_a_closed_cluster_say_so_at_once(cluster: ReplayCluster) -> None:
    writer, reader = cluster.connect()
    for t in range(20):
        writer.add([t], 0, 0.0, [t + 1], False, False)
    writer.flush()
    fresh = cluster.reader()
    batches = reader.batches(4, prefetch=2)
    batch = next(batches)
    reader.sample(4)
    cluster.close()

    begin = time.monotonic()
    for call in (
        lambda: reader.sample(4),
        reader.size,
        lambda: [next(batches) for _ in range(4)],  # those on their way may have come
        lambda: fresh.sample(4),
        lambda: reader.update_priorities(batch.indices, batch.reward),
        cluster.stats,
        cluster.add_shard,
    ):
        with pytest.raises(RuntimeError, match=f"^the cluster {cluster.name!r} was closed, or has ended"):
            call()
    writer.add([0], 0, 0.0, [1], False, False)
    with pytest.raises(RuntimeError, match=r"this writer has failed: the cluster .* was closed"):
        writer.flush()
    assert writer.close().dropped == 1
    reader.close()
    batches.close()
    assert reader.stats()["batches"] >= 2
    cluster.close()
    assert time.monotonic() - begin < PATIENCE / 2


def test_a_cluster_of_the_same_name_is_another_one() -> None:
    with made(None) as cluster:
        reader = cluster.reader()
        with cluster.writer() as writer:
            writer.add([0], 0, 0.0, [1], False, False)
        reader.sample(1)
        cluster.close()
        options = ClusterOptions(name=cluster.name, timeout=PATIENCE, streams=2)
        with ReplayCluster(1, 100, cluster.schema, options=options) as other:
            with pytest.raises(RuntimeError, match="was closed"):
                reader.sample(1)
            assert other.reader().size() == 0
