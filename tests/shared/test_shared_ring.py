"""The ring itself: wrapping around, running full, dropping the oldest, damage; and the kernels against their twins."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from actors import buffer, steps

import replaybank as rb
from replaybank import kernels, shared
from replaybank.rows import Rows
from replaybank.schema import Schema
from replaybank.shared import reference
from replaybank.shared.ring import (
    DROPPED,
    IDLE,
    W_ABANDONED,
    W_CLAIMED,
    W_CLOSED,
    W_HEAD,
    W_MARKS,
    W_TAIL,
    Ring,
)


def numbers_in(buffer):
    """(life, number) of all transitions, in order, each with the next observation that it must have."""
    added = buffer.stats()["added"]
    if not added:
        return []
    batch = buffer.read(np.arange(added - len(buffer), added))
    np.testing.assert_array_equal(batch.obs[:, 0], batch.next_obs[:, 0])
    np.testing.assert_array_equal(batch.obs[:, 1] + 1, batch.next_obs[:, 1])
    np.testing.assert_array_equal(batch.obs[:, 1], batch.action)
    return [*map(tuple, batch.obs.tolist())]


def fill(writer):
    """Five at a time, until that raises."""
    while True:
        writer.extend(*steps(0, writer.stats()["added"], 5))


def test_messages_of_every_size_at_every_offset_come_whole_and_in_order():
    memory = buffer(50_000)
    rng = np.random.default_rng(0)
    sent, offsets, sizes = 0, set(), set()
    with shared.Learner(memory, ring_bytes=4096) as learner, shared.Writer(learner.address, timeout=0.0) as writer:
        words = writer._ring.words
        for _ in range(6000):
            n = int(rng.integers(1, 33))
            offsets.add(int(words[W_HEAD]) % 4096)
            try:
                if n == 7:
                    writer.end()
                    offsets.add(int(words[W_HEAD]) % 4096)
                writer.extend(*steps(1, sent, n))
            except TimeoutError:
                learner.drain(int(rng.integers(1, 40)))
            else:
                sent += n
                sizes.add(n)
        learner.drain()
        assert numbers_in(memory) == [(1, number) for number in range(sent)][-50_000:]
        assert offsets == set(range(0, 4096, 64))
        assert sizes == set(range(1, 33))
        assert learner.writers()[0].transitions == sent
        memory.check_valid()


def test_what_does_not_fit_into_half_a_ring_is_refused_with_the_size_that_would_do():
    with shared.Learner(buffer(), ring_bytes=4096) as learner, shared.Writer(learner.address) as writer:
        with pytest.raises(ValueError, match=r"100 transitions at a time are too many .* ring_bytes=\d+") as refused:
            writer.extend(*steps(0, 0, 100))
        assert writer.stats()["added"] == 0
        assert learner.drain().transitions == 0
    enough = int(str(refused.value).rsplit("=", 1)[1])
    with shared.Learner(buffer(), ring_bytes=enough) as learner, shared.Writer(learner.address) as writer:
        writer.extend(*steps(0, 0, 100))
        assert learner.drain().transitions == 100


def test_a_full_ring_times_out_and_nothing_of_the_call_is_published():
    memory = buffer()
    with shared.Learner(memory, ring_bytes=4096) as learner, shared.Writer(learner.address, timeout=0.01) as writer:
        with pytest.raises(TimeoutError, match=r"writer 1 .* waited 0\.0\d+ s for the learner .* which is full"):
            fill(writer)
        sent = writer.stats()["added"]
        assert sent > 0
        assert learner.writers()[0].waiting == sent
        assert learner.drain() == (sent, 0, ())
        writer.extend(*steps(0, sent, 5))
        learner.drain()
        assert numbers_in(memory) == [(0, number) for number in range(sent + 5)]


def test_a_writer_goes_on_as_soon_as_there_is_room():
    memory = buffer()
    with shared.Learner(memory, ring_bytes=4096) as learner, shared.Writer(learner.address, timeout=60) as writer:
        thread = threading.Thread(target=lambda: [writer.extend(*steps(0, 20 * i, 20)) for i in range(300)])
        thread.start()
        while thread.is_alive():
            learner.drain()
        learner.drain()
        assert numbers_in(memory) == [(0, number) for number in range(6000)]


def test_drop_oldest_keeps_the_newest_and_counts_the_rest_on_both_sides():
    """Against a plain list: what was read and what was dropped are all that was sent, and gaps are where drops were."""
    memory = buffer(100_000)
    rng = np.random.default_rng(1)
    sent = 0
    learner = shared.Learner(memory, ring_bytes=4096, full="drop_oldest")
    with learner, shared.Writer(learner.address, timeout=1.0) as writer:
        dropped = 0
        for _ in range(2000):
            n = int(rng.integers(1, 20))
            writer.extend(*steps(0, sent, n))
            sent += n
            if rng.random() < 0.1:
                dropped += learner.drain(int(rng.integers(1, 200))).dropped
        dropped += learner.drain().dropped
        found = [number for _, number in numbers_in(memory)]
        assert found == sorted(set(found))
        assert found[-1] == sent - 1
        missing = sent - len(found)
        assert missing > 1000
        assert dropped == missing == writer.stats()["dropped"] == learner.writers()[0].dropped
        assert writer.stats()["added"] == sent
        starts = [int(segment.ids[0]) for segment in memory.segments()]
        assert starts == [i for i in range(len(found)) if i == 0 or found[i] != found[i - 1] + 1]


def test_nothing_is_linked_across_what_was_dropped_even_where_it_would_fit():
    """Observations that are all alike: only the gap says that something is missing."""
    memory = rb.ReplayBuffer(10_000, {"obs": "int64", "action": "int64"}, streams=2)
    same = (0, 0, 0.0, 0, False, False)
    learner = shared.Learner(memory, ring_bytes=4096, full="drop_oldest")
    with learner, shared.Writer(learner.address, 2) as writer:
        both = [np.array([value, value]) for value in same]
        writer.add(*both)
        writer.add(*both)
        learner.drain()
        for _ in range(100):
            writer.add(*both)
        assert learner.drain().dropped > 0
        writer.add(*both)
        learner.drain()
        lengths = [len(segment.ids) for segment in memory.segments()]
        assert lengths[:2] == [2, 2]
        assert len(lengths) == 4
        assert sum(lengths) == 206 - writer.stats()["dropped"]


def test_an_end_that_was_dropped_still_ends():
    memory = rb.ReplayBuffer(10_000, {"obs": "int64", "action": "int64"})
    learner = shared.Learner(memory, ring_bytes=4096, full="drop_oldest")
    with learner, shared.Writer(learner.address) as writer:
        writer.add(0, 0, 0.0, 0, False, False)
        learner.drain()
        writer.end()
        while not writer.stats()["dropped"]:
            writer.end()
            writer.add(0, 0, 0.0, 0, False, False)
        dropped = writer.stats()["dropped"]
        learner.drain()
        assert all(len(segment.ids) == 1 for segment in memory.segments())
        assert learner.stats()["dropped"] == dropped


def test_what_a_writer_dropped_before_it_died_is_counted():
    """It made room for a message that never came: only the mark of the last one tells how many there were."""
    memory = buffer()
    learner = shared.Learner(memory, ring_bytes=4096, full="drop_oldest")
    with learner:
        writer = shared.Writer(learner.address)
        for i in range(10):
            writer.extend(*steps(0, 5 * i, 5))
        words, ring = writer._ring.words, writer._ring.channel[0][writer._ring.channel[1] :]
        for _ in range(10):  # all of them
            words[W_TAIL] += ring[words.item(W_TAIL) :][:8].view(np.int64)[0]
        writer.close()
        (report,) = learner.drain().left
        assert (report.state, report.transitions, report.dropped, report.waiting) == ("closed", 0, 50, 0)
        assert learner.stats()["dropped"] == 50


def test_a_message_that_is_being_read_is_never_dropped():
    learner = shared.Learner(buffer(), ring_bytes=4096, full="drop_oldest")
    with learner, shared.Writer(learner.address, timeout=0.01) as writer:
        writer.extend(*steps(0, 0, 5))
        words = writer._ring.words
        size = words.item(W_HEAD)
        words[W_CLAIMED], words[W_TAIL] = 0, size  # as the learner does while it reads
        before = writer._ring.channel[0][-4096:][:size].copy()
        with pytest.raises(TimeoutError):
            fill(writer)
        sent = writer.stats()["added"]
        np.testing.assert_array_equal(writer._ring.channel[0][-4096:][:size], before)
        assert writer.stats() == {"added": sent, "dropped": 0}
        words[W_CLAIMED] = IDLE
        writer.extend(*steps(0, sent, 5))
        learner._rings or learner.writers()
        learner._rings[1].memory[:] = [1, 5, 1, 0]
        assert learner.drain().transitions == sent


def test_most_is_shared_fairly_and_nobody_starves():
    memory = buffer()
    with shared.Learner(memory) as learner:
        writers = [shared.Writer(learner.address) for _ in range(4)]
        for life, writer in enumerate(writers):
            for i in range(100):
                writer.extend(*steps(life, 10 * i, 10))
        drained = learner.drain(400)
        assert drained.transitions == 400
        assert [report.transitions for report in learner.writers()] == [100] * 4
        writers[3].close()  # what the others leave goes to those who have more
        for _ in range(30):
            learner.drain(10)
        assert min(report.transitions for report in learner.writers()) >= 150
        assert learner.drain(4000).transitions == 4000 - 400 - 300
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("seed", range(30))
def test_damage_closes_the_writer_with_a_report_and_never_more(seed, caplog):
    """Words and headers overwritten at random: whatever is read was sent, and the buffer stays valid."""
    rng = np.random.default_rng(seed)
    memory = buffer(500, streams=3)
    with shared.Learner(memory, ring_bytes=4096) as learner:
        for _ in range(40):
            writer = shared.Writer(learner.address, 2, timeout=0.0)
            both = [np.stack([value] * 2) for value in (np.zeros(2, int), 0, 0.0, np.zeros(2, int), False, False)]
            writer.extend(*steps(0, 0, int(rng.integers(1, 20))), stream=1)
            learner.drain()
            for _ in range(rng.integers(1, 5)):
                writer.add(*both)
                writer.end()
            words, file = writer._ring.words, writer._ring.channel[0]
            evil = [0, 1, -1, 7, 64, 4096, 2**31, 2**62, 2**63 - 1, -(2**63), int(rng.integers(-(2**63), 2**63 - 1))]
            for _ in range(rng.integers(1, 4)):
                value = evil[rng.integers(len(evil))]
                if rng.random() < 0.3:
                    words[rng.choice([W_HEAD, W_TAIL, W_CLAIMED, W_CLOSED, *W_MARKS])] = value
                else:
                    tail = words.item(W_TAIL) % 4096 // 64 * 64
                    headers = file[-4096:].view(np.int64)
                    headers[(tail // 8 + rng.integers(0, 5)) % len(headers)] = value
            learner.drain()
            memory.check_valid()
            writer._ring.words[W_ABANDONED] = 1
            writer.close()
            for _ in range(3):
                learner.drain()
            memory.check_valid()
            if learner.writers()[-1].state == "open":  # its counters lead nowhere, so it never gets empty
                assert not learner._rings[max(learner._rings)].quiet
                learner._rings[max(learner._rings)].words[[W_TAIL, W_HEAD, W_CLOSED]] = 0, 0, 1
                learner.drain()
        stats = learner.stats()
        assert stats["damaged"] > 5
        assert stats["damaged"] == sum("damaged" in record.message for record in caplog.records)


def test_a_file_that_is_no_ring_is_refused(base):
    with shared.Learner(buffer(), ring_bytes=4096) as learner:
        folder = learner._directory
        (folder / "7.ring").write_bytes(b"nonsense")
        (folder / "8.ring").write_bytes(bytes(100_000))
        with shared.Writer(learner.address) as writer:
            good = writer._ring.path.read_bytes()
            (folder / "20.ring").write_bytes(good)  # the stream of another
            (folder / "21.ring").write_bytes(good[:-64])
            writer.extend(*steps(0, 0, 3))
            time.sleep(0.02)
            assert learner.drain().transitions == 3
            assert learner.stats()["damaged"] == 4
            assert sorted(path.name for path in folder.glob("*.ring")) == [writer._ring.path.name]


SPECS = {
    "flat": {"obs": ("float32", (3,)), "action": "int64"},
    "nested": {"obs": {"camera": ("uint8", (5, 7)), "speed": "float64"}, "action": "bool", "note": "int16"},
}


@pytest.mark.parametrize("drop", [False, True], ids=["block", "drop"])
@pytest.mark.parametrize("spec", SPECS)
def test_kernels_and_twins_do_the_same(spec, drop, tmp_path):
    """Byte for byte, in the file, in what each side remembers and in the rows."""
    schema = Schema.of(SPECS[spec])
    rng = np.random.default_rng(3)
    sides = {}
    for name, module in (("kernel", kernels), ("twin", reference)):
        ring = Ring.create(tmp_path / name, [4, 1], 4096)
        read = (*ring.channel[:2], np.zeros(4, np.int64))
        rows = Rows(schema, 40, 5)
        for array in rows._store[:2]:
            array.view(np.uint8)[:] = 0
        sides[name] = (module, ring, read, rows)
    statuses = set()
    for turn in range(800):
        kind = rng.integers(6)
        n = int(rng.integers(1, 12)) if kind == 0 else 2
        values = tuple(np.asarray(rng.integers(0, 2, (n, *leaf.shape)), leaf.dtype) for leaf in schema.leaves)
        owners, stream, masked = np.arange(2), -1, False
        if kind == 0:
            owners, stream = None, int(rng.integers(2))
        elif kind == 1:
            owners, masked = np.flatnonzero(rng.random(2) < 0.7), True
            if not len(owners):
                continue
        most = int(rng.integers(1, 30))
        found = []
        for module, ring, read, rows in sides.values():
            if kind == 5:
                found.append(module.channel_drain(rows._store, rows.plan, read, ring.streams, most))
            elif kind == 4:
                found.append(module.channel_end(ring.channel, np.arange(turn % 2, 2), drop))
            else:
                found.append(module.channel_push(ring.channel, rows.plan, values, n, owners, stream, masked, drop))
        assert found[0] == found[1]
        statuses.add(found[0] if kind != 5 else "drained")
        (_, ring, read, rows), (_, ring_twin, read_twin, rows_twin) = sides.values()
        np.testing.assert_array_equal(ring.channel[0], ring_twin.channel[0])
        np.testing.assert_array_equal(ring.memory, ring_twin.memory)
        np.testing.assert_array_equal(read[2], read_twin[2])
        for a, b in zip(rows._store, rows_twin._store, strict=True):
            if a is not rows._store[3] and a is not rows._store[5]:
                assert a.tobytes() == b.tobytes()
    assert statuses >= ({"drained", 0} if drop else {"drained", 0, -2})
    assert (sides["kernel"][1].memory[DROPPED] > 0) == drop
    for _, ring, _, _ in sides.values():
        ring.close(clean=False)
