"""One thing dies, or hangs: what goes on, what comes back, and what is told."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from hammering import GAMMA, SCHEMA, STEPS, parted, steps, verify
from killing import Load, contents, kill, pairs, process_of, until

import replaybank as rb
from replaybank.ray import Checkpoint, ClusterOptions, RateLimit, ReplayCluster

pytestmark = pytest.mark.usefixtures("ray_session")

LIFE, OTHER = 80, 160
SHARD_TIMEOUT = 0.5


def cluster_of(shards, path=None, capacity=100_000, limit=None, **options):
    """One that saves only when it is told to."""
    options = {"timeout": 60.0, "shard_timeout": SHARD_TIMEOUT, "writer_timeout": 30.0, **options}
    checkpoint = None if path is None else Checkpoint(path, every=3600.0)
    parts = rb.Prioritized(), rb.NStep(STEPS, GAMMA), limit, checkpoint
    return ReplayCluster(shards, capacity, SCHEMA, *parts, seed=0, options=ClusterOptions(**options))


def put(writer, life, first, n):
    """Adds steps of a life, with TD errors that one can tell."""
    for serial in range(first, first + n):
        values = {name: array[0] for name, array in steps(life, serial).items()}
        writer.add(**values, td_error=float(error_of(serial)))
        if parted(serial)[0]:
            writer.end()


def error_of(serial):
    return 1.0 + np.asarray(serial) % 7


def mass_of(errors):
    """Unnormalised probabilities with alpha 0.6 and epsilon 1e-6 (Schaul et al. 2016, eq. 1)."""
    return (np.abs(errors) + 1e-6) ** 0.6


def pid_of(cluster, shard):
    return process_of(cluster._directory.members()[shard][0])


def back(cluster, shard, pid):
    """What a shard says as soon as it has another process than this one."""

    def told():
        mine = next(one for one in cluster.stats()["shards"] if one["shard"] == shard)
        return mine if mine.get("pid", pid) != pid and mine["state"] == "open" else None

    return until(told, f"shard {shard} to be back")


def reported(cluster, **wanted):
    """The cluster's statistics as soon as they say that: shards report once a second."""

    def told():
        stats = cluster.stats()
        found = {name: stats[name] for name in wanted}
        if found != wanted:
            raise TimeoutError(f"expected {wanted}, found {found}")
        return stats

    return until(told, "the statistics", 30.0)


def drawn(reader, size):
    """The ids of all `size` transitions by life and serial, drawn until each was seen."""
    seen = {}

    def complete():
        batch = reader.sample(512)
        seen.update(zip(map(tuple, verify(batch).tolist()), batch.indices.tolist(), strict=True))
        return len(seen) >= size

    until(complete, f"all {size} to be drawn")
    return seen


def assert_exact(batch, life, serials):
    """Probabilities and weights are those of one buffer that holds these steps of a life, and nothing else."""
    found = verify(batch)
    assert set(found[:, 0].tolist()) == {life}
    masses = mass_of(error_of(serials))
    expected = mass_of(error_of(found[:, 1])) / masses.sum()
    np.testing.assert_allclose(batch.probabilities, expected, rtol=1e-9)
    weights = (len(serials) * expected) ** -0.4
    np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-6)


def two_writers(cluster, n=300):
    """Of two shards each has one: writers go to the emptiest. The second writer's shard is 1."""
    writers = [cluster.writer(), cluster.writer()]
    for writer, life in zip(writers, (LIFE, OTHER), strict=True):
        put(writer, life, 0, n)
        assert writer.flush() == (n, 0, 0, 0)
    return writers


# ---- a shard ----


def test_while_a_shard_is_dead_the_others_are_drawn_from_with_their_own_probabilities():
    """And without a checkpoint it comes back empty, all it had being counted."""
    with cluster_of(2) as cluster:
        one, other = two_writers(cluster)
        reader = cluster.reader()
        old = drawn(reader, 600)
        pid = pid_of(cluster, 1)
        kill(pid)
        put(other, OTHER, 300, 10)  # waits for the shard
        for _ in range(5):
            assert_exact(reader.sample(256), LIFE, np.arange(300))
        back(cluster, 1, pid)
        assert other.flush() == (310, 0, 0, 300)
        assert one.flush() == (300, 0, 0, 0)
        stats = reported(cluster, size=310, inserted=610, lost=300, overwritten=0)
        assert [shard["lost"] for shard in stats["shards"]] == [0, 300]
        until(lambda: reader.size() == 310, "the reader to see both")
        new = drawn(reader, 310)
        assert {key for key, id_ in new.items() if key[0] == OTHER} == {(OTHER, serial) for serial in range(300, 310)}
        gone = {old[OTHER, serial] for serial in range(300)}
        assert not gone & set(new.values()), "an id of a lost transition was given out again"
        before = dict(zip(new.values(), probabilities(reader, new), strict=True))
        report = reader.update_priorities([*gone], np.full(300, 1000.0))
        assert report == (0, 300, 0)
        assert dict(zip(new.values(), probabilities(reader, new), strict=True)) == before
        reported(cluster, stale=300)


def probabilities(reader, ids):
    """The probability of each of these ids now, drawn until all were seen."""
    found = {}

    def complete():
        batch = reader.sample(512)
        found.update(zip(batch.indices.tolist(), batch.probabilities.tolist(), strict=True))
        return found.keys() >= set(ids.values())

    until(complete, "all to be drawn")
    return [found[id_] for id_ in ids.values()]


def test_a_shard_comes_back_with_its_checkpoint_and_later_ids_are_stale(tmp_path):
    with cluster_of(1, tmp_path) as cluster:
        writer, reader = cluster.writer(), cluster.reader()
        put(writer, LIFE, 0, 200)
        writer.flush()
        cluster.save()
        put(writer, LIFE, 200, 100)
        writer.flush()
        old = drawn(reader, 300)
        saved = contents(tmp_path / "shard-0000")
        assert pairs(saved.found) == {(LIFE, serial) for serial in range(200)}
        pid = pid_of(cluster, 0)
        kill(pid)
        put(writer, LIFE, 300, 50)
        told = back(cluster, 0, pid)
        assert told["epoch"] == 1
        assert writer.flush() == (350, 0, 0, 100)
        stats = reported(cluster, size=250, inserted=350, lost=100)
        assert stats["shards"][0]["saved"] == 200
        here = {(LIFE, serial) for serial in (*range(200), *range(300, 350))}
        assert drawn(reader, 250).keys() == here
        # The own ids of the lost ones are those of other transitions now.
        lost = [old[LIFE, serial] for serial in range(200, 300)]
        kept = [old[LIFE, serial] for serial in range(200)]
        assert reader.update_priorities(lost, np.full(100, 1000.0)) == (0, 100, 0)
        assert reader.update_priorities(kept[:50], np.full(50, 20.0)) == (50, 0, 0)
        cluster.save()
        buffer = rb.ReplayBuffer.load(tmp_path / "shard-0000")
        ids = np.arange(250)
        serials = verify(buffer.read(ids))[:, 1]
        assert serials.tolist() == [*range(200), *range(300, 350)]
        expected = np.where(serials < 50, 20.0, error_of(serials)) + 1e-6
        np.testing.assert_allclose(buffer.sampler.priority_of(ids), expected, rtol=1e-12)


def test_a_shard_that_dies_again_and_again_counts_each_loss_once(tmp_path):
    with cluster_of(1, tmp_path) as cluster:
        writer = cluster.writer()
        lost = 0
        for turn in range(3):
            put(writer, LIFE, 200 * turn, 100)
            writer.flush()
            cluster.save()
            put(writer, LIFE, 200 * turn + 100, 100)
            lost += 100
            assert writer.flush().acknowledged == 200 * (turn + 1)
            pid = pid_of(cluster, 0)
            kill(pid)
            back(cluster, 0, pid)
        put(writer, LIFE, 600, 1)
        assert writer.flush() == (601, 0, 0, 300)
        reported(cluster, size=301, inserted=601, lost=300)
        cluster.save()
        serials = [*range(100), *range(200, 300), *range(400, 500), 600]
        assert contents(tmp_path / "shard-0000").found[:, 1].tolist() == serials


def test_without_a_checkpoint_what_dies_at_once_is_counted_all_the_same():
    """Nobody was told of it yet but the writer; and a writer that dies with its shard cannot tell."""
    with cluster_of(1) as cluster:
        writer, gone = cluster.writer(), cluster.writer()
        put(writer, LIFE, 0, 20)
        writer.flush()
        reported(cluster, inserted=20)
        time.sleep(0.3)
        put(writer, LIFE, 20, 100)
        put(gone, OTHER, 0, 50)
        gone.flush()
        writer.flush()
        pid = pid_of(cluster, 0)
        kill(pid)
        back(cluster, 0, pid)
        put(writer, LIFE, 120, 1)
        assert writer.flush() == (121, 0, 0, 120)
        reported(cluster, size=1, inserted=171, lost=170)


@pytest.mark.parametrize("checkpoint", [False, True], ids=["nothing saved", "saved"])
def test_ids_are_not_given_out_again_where_the_coordinator_dies_with_a_shard(tmp_path, checkpoint):
    with cluster_of(1, tmp_path if checkpoint else None) as cluster:
        writer, reader = cluster.writer(), cluster.reader()
        known = {}
        for turn in range(3):
            put(writer, LIFE, 1000 * turn, 20)
            writer.flush()
            for key, id_ in drawn(reader, 20).items():
                assert known.setdefault(id_, key) == key, f"turn {turn}: {id_} was another transition before"
            shard, coordinator = pid_of(cluster, 0), process_of(cluster._directory.coordinator)
            kill(coordinator)
            kill(shard)
            back(cluster, 0, shard)
        put(writer, LIFE, 3000, 1)
        assert writer.flush() == (61, 0, 0, 60)
        reported(cluster, size=1, inserted=61, lost=60)


def test_what_a_hung_shard_is_sent_is_there_once(tmp_path):
    """It answers nothing, but lives: the reader goes on, and the writer sends nothing twice into it."""
    with cluster_of(2, tmp_path) as cluster:
        _, other = two_writers(cluster)
        reader = cluster.reader()
        reader.sample(10)
        pid = pid_of(cluster, 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            put(other, OTHER, 300, 400)
            with pytest.raises(TimeoutError, match="400 transitions are not acknowledged within 3 s"):
                other.flush(timeout=3.0)
            for _ in range(20):
                assert_exact(reader.sample(64), LIFE, np.arange(300))
            assert "1" in str(reader.stats()["away"])
            assert reader.stats()["failures"] == 1, "it was asked again while it was known to be away"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert other.flush() == (700, 0, 0, 0)
        until(lambda: reader.size() == 1000, "the reader to see both")
        stats = reported(cluster, size=1000, inserted=1000, lost=0)
        assert stats["shards"][1]["pid"] == pid, "it was restarted"
        cluster.save()
        there = contents(tmp_path / "shard-0001")
        assert there.found.tolist() == [[OTHER, serial] for serial in range(700)]
        assert there.unlinked == 0


# ---- a writer ----


def test_a_writer_with_no_room_waits_and_says_why_or_drops_and_counts(tmp_path):
    with cluster_of(1, tmp_path) as cluster:
        patient = cluster.writer(pending=200, flush_size=32, timeout=1.0)
        hasty = cluster.writer(pending=200, flush_size=32, full="drop_oldest")
        for writer, life in ((patient, LIFE), (hasty, OTHER)):
            put(writer, life, 0, 10)
            writer.flush()
        pid = pid_of(cluster, 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(
                TimeoutError, match=r"no room for 1 more within 1 s: 200 of 200 .* shard 0 has not answered"
            ):
                put(patient, LIFE, 10, 1000)
            assert patient.stats() == (10, 200, 0, 0)
            put(hasty, OTHER, 10, 1000)
            stats = hasty.stats()
            assert stats.acknowledged == 10
            assert stats.pending <= 200
            assert stats.pending + stats.dropped == 1000
        finally:
            os.kill(pid, signal.SIGCONT)
        assert patient.flush() == (210, 0, 0, 0)
        acknowledged, pending, dropped, lost = hasty.flush()
        assert (acknowledged + dropped, pending, lost) == (1010, 0, 0)
        cluster.save()
        there = contents(tmp_path / "shard-0000")
        here = pairs(there.found)
        assert {serial for life, serial in here if life == LIFE} == set(range(210))
        kept = sorted(serial for life, serial in here if life == OTHER)
        assert len(kept) == acknowledged
        assert kept[:10] == [*range(10)]
        assert kept[-1] == 1009, "it was the oldest that were to be dropped"


def test_a_dead_writer_leaves_whole_transitions_and_its_streams(tmp_path):
    """One is killed between two flushes: a prefix of each of its lives is there, and its places are free again."""
    (tmp_path / "notes").mkdir()
    with cluster_of(1, tmp_path / "checkpoint", streams=3, writer_timeout=2.0) as cluster:
        load = Load(cluster, tmp_path / "notes")
        try:
            worker = load.start("write")
            until(lambda: len(worker.told("flushed")) > 5, "some flushes")
            load.kill(worker)
            [[streams]] = worker.told("streams")
            acknowledged = worker.told("flushed")[-1][1]
            reported(cluster, writers=0, writers_died=1)
            heir = cluster.writer(streams=3)  # needs all of them
            values = steps(8 * np.arange(50, 53), 0)
            heir.add(**values)
            assert heir.flush(timeout=30.0).acknowledged == 3
            cluster.save()
            there = contents(tmp_path / "checkpoint" / "shard-0000")
            for stream in range(streams):
                serials = there.found[there.found[:, 0] == 8 * worker.number + stream, 1]
                assert serials.tolist() == [*range(len(serials))]
                assert len(serials) >= acknowledged // streams
            load.look()
        finally:
            load.end()


# ---- the coordinator ----


def test_without_the_coordinator_all_goes_on_and_the_rate_is_found_again():
    limit = RateLimit(2.0, min_size=100, tolerance=2500.0)
    with cluster_of(2, limit=limit) as cluster:
        one, other = two_writers(cluster)
        reader = cluster.reader()
        for _ in range(4):
            reader.sample(100)
        before = reported(cluster, inserted=600, sampled=400)["rate_limit"]
        pid = process_of(cluster._directory.coordinator)
        kill(pid)
        put(one, LIFE, 300, 100)
        put(other, OTHER, 300, 100)
        assert one.flush().acknowledged == other.flush().acknowledged == 400
        assert len(reader.sample(100)) == 100
        after = reported(cluster, inserted=800, sampled=500, size=800, lost=0)["rate_limit"]
        assert abs(before["ahead"] - (500 * 2 - 400)) <= 4 * 128, "what writers hold in advance"
        assert abs(after["ahead"] - (700 * 2 - 500)) <= 4 * 128
        with pytest.raises(TimeoutError, match="sample"):
            [reader.sample(100, timeout=2.0) for _ in range(100)]
        stats = reported(cluster, inserted=800)
        assert stats["rate_limit"]["ahead"] >= -2500.0
        assert 500 + 100 * ((stats["sampled"] - 500) // 100) == stats["sampled"]
        assert stats["sampled"] <= 700 * 2 + 2500


def test_without_the_coordinator_readers_and_writers_that_know_the_shards_need_not_wait():
    with cluster_of(2) as cluster:
        one, _ = two_writers(cluster)
        reader = cluster.reader()
        reader.sample(10)
        pid = process_of(cluster._directory.coordinator)
        os.kill(pid, signal.SIGSTOP)
        try:
            for turn in range(10):
                put(one, LIFE, 300 + 10 * turn, 10)
                one.flush(timeout=5.0)
                batch = reader.sample(64, timeout=5.0)
                verify(batch)
                assert reader.update_priorities(batch.indices, np.ones(64), timeout=5.0) == (64, 0, 0)
                time.sleep(0.2)
        finally:
            os.kill(pid, signal.SIGCONT)
        reported(cluster, size=700, lost=0)
