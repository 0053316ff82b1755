"""Processes that come, leave and are killed."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import actors
import numpy as np
import pytest
from actors import buffer, steps

import replaybank as rb
from replaybank import shared
from replaybank.shared import home, locks
from scale import LONG

# Python warns of a fork in a process with threads; the test runner may have some.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),  # JAX's, where another test has imported it
]
WAIT = 60.0  # seconds: more than anything here takes


def start(target, *arguments, method="spawn"):
    process = multiprocessing.get_context(method).Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def drain_until(learner, done):
    """Drains until `done()`; gives the reports of those who left on the way."""
    left, end = [], time.monotonic() + WAIT
    while not done():
        assert time.monotonic() < end, "waited too long"
        left += learner.drain().left
        time.sleep(0.0005)
    return left


def lives_in(memory):
    """The numbers of each life, in the order in which they are in the buffer; all whole."""
    added = memory.stats()["added"]
    assert added == len(memory), "the test's buffer is too small"
    batch = memory.read(np.arange(added))
    np.testing.assert_array_equal(batch.obs[:, 0], batch.next_obs[:, 0])
    np.testing.assert_array_equal(batch.obs[:, 1] + 1, batch.next_obs[:, 1])
    np.testing.assert_array_equal(batch.obs[:, 1], batch.action)
    return {int(life): batch.obs[batch.obs[:, 0] == life, 1] for life in np.unique(batch.obs[:, 0])}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_writers_of_every_start_method(method):
    """Two of them, in a ring that is too small to hold what they write."""
    memory = buffer(streams=2)
    with shared.Learner(memory, ring_bytes=8192) as learner:
        writers = [start(actors.write, learner.address, life, 1500, 7, method=method) for life in (1, 2)]
        left = drain_until(learner, lambda: learner.stats()["closed"] == 2)
        assert sorted((report.pid, report.state, report.transitions) for report in left) == sorted(
            (process.pid, "closed", 1500) for process in writers
        )
        for process in writers:
            process.join(WAIT)
            assert process.exitcode == 0
    assert [(life, numbers.tolist()) for life, numbers in lives_in(memory).items()] == [
        (life, list(range(1500))) for life in (1, 2)
    ]
    assert sorted(len(segment.ids) for segment in memory.segments()) == [1500, 1500]
    memory.check_valid()


def test_a_process_that_ends_without_closing_is_reported_as_dead(caplog):
    memory = buffer(streams=1)
    with shared.Learner(memory) as learner, caplog.at_level(logging.INFO, "replaybank.shared"):
        process = start(actors.leave_without_closing, learner.address, 5)
        process.join(WAIT)
        assert learner.stats()["writers"] == 1  # who looks has seen it; the next drain lets it go
        (report,) = learner.drain().left
        assert (report.pid, report.state, report.streams, report.transitions) == (process.pid, "died", (0,), 5)
        assert learner.drain() == (0, 0, ())
        assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
        assert f"died of writer 1 (process {process.pid}): 5 transitions taken" in caplog.text
        with shared.Writer(learner.address) as writer:  # goes on with the very observation that came next
            writer.extend(*steps(0, 5, 3))
            learner.drain()
    assert [len(segment.ids) for segment in memory.segments()] == [5, 3]
    assert not any(segment.ended for segment in memory.segments())
    np.testing.assert_array_equal(memory.read([4]).next_obs, [[0, 5]])


class Calls:
    """The learner's calls: the longest by the clock, and the longest of its own processor time, in seconds."""

    def __init__(self):
        self.longest = self.longest_cpu = 0.0

    @contextmanager
    def timed(self):
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        yield
        self.longest = max(self.longest, time.perf_counter() - begin)
        self.longest_cpu = max(self.longest_cpu, time.thread_time() - begin_cpu)


def kill_and_restart(learner, writers, seconds, learn=lambda: None, look=lambda enough=1: None):
    """Kills writers at random instants and starts others; gives how many there were, what was taken, all reports, and
    the times of the learner's calls: `drain` and `learn`. `look` is called now and then, off the clock.
    """
    rng = np.random.default_rng(0)
    there, lives, total, reports, calls = {}, 0, 0, [], Calls()
    end, next_kill = time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end or there or learner.stats()["writers"]:
        while now < end and len(there) < writers:
            there[lives] = start(actors.write_until_killed, learner.address, lives, lives, method="fork")
            lives += 1
        if there and now >= next_kill and (now >= end or learner.stats()["writers"]):
            victim = there.pop(list(there)[rng.integers(len(there))])
            os.kill(victim.pid, signal.SIGKILL)
            victim.join(WAIT)
            next_kill = now + float(rng.exponential(0.5 / writers))
        with calls.timed():
            drained = learner.drain()
            learn()
        reports += drained.left
        total += drained.transitions
        look(100_000)
    look()
    return lives, total, reports, calls


class Follower:
    """Checks each life as it comes: what is in the buffer since the last look, against the number that must be next."""

    def __init__(self, memory):
        self.memory = memory
        self.looked_at = 0
        self.next = {}

    def look(self, enough=1):
        added = self.memory.stats()["added"]
        if added - self.looked_at < enough:
            return
        assert added - self.looked_at <= len(self.memory), "the test's buffer is too small"
        batch = self.memory.read(np.arange(self.looked_at, added))
        self.looked_at = added
        np.testing.assert_array_equal(batch.obs + np.array([0, 1]), batch.next_obs)
        np.testing.assert_array_equal(batch.obs[:, 1], batch.action)
        for life in np.unique(batch.obs[:, 0]).tolist():
            numbers = batch.obs[batch.obs[:, 0] == life, 1]
            first = self.next.get(life, 0)
            np.testing.assert_array_equal(numbers, np.arange(first, first + len(numbers)))
            self.next[life] = first + len(numbers)


def test_whatever_is_published_arrives_whole_in_order_and_once():
    """In a small ring, so most are killed while they wait or write."""
    memory = buffer(200_000, streams=3)
    follower = Follower(memory)
    with shared.Learner(memory, ring_bytes=2**16) as learner:
        lives, total, reports, _ = kill_and_restart(learner, 3, 2.0, look=follower.look)
    assert lives > 8
    assert sum(follower.next.values()) == total == sum(report.transitions for report in reports)
    assert {report.state for report in reports} == {"died"}
    assert sum(report.waiting + report.dropped for report in reports) == 0
    memory.check_valid()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_eight_writers_killed_and_restarted_at_random():
    """A minute with REPLAYBANK_LONG=1, else ten seconds. The learner drains, samples and updates; it never waits.

    Its longest call (drain, sample 256, update 256) is held to 100 ms of its own processor time: the machine may be
    busy with anything. The longest by the clock is printed.
    """
    memory = buffer(2_000_000, streams=8, sampler=rb.Prioritized(), seed=0)
    follower = Follower(memory)

    def learn():
        if len(memory):
            batch = memory.sample(256)
            memory.update_priorities(batch.indices, batch.reward)

    with shared.Learner(memory) as learner:
        lives, total, reports, calls = kill_and_restart(learner, 8, 60.0 if LONG else 10.0, learn, follower.look)
    print(
        f"{lives} writers, {total:,} transitions; longest drain + sample + update: {calls.longest * 1e3:.1f} ms by the "
        f"clock, {calls.longest_cpu * 1e3:.1f} ms of processor time"
    )
    assert calls.longest_cpu < 0.1
    assert lives > 20
    assert sum(follower.next.values()) == total == sum(report.transitions for report in reports)
    assert {report.state for report in reports} == {"died"}
    memory.check_valid()


# ---- streams ----


def test_streams_are_taken_and_given_back():
    memory = buffer(streams=3)
    with shared.Learner(memory) as learner:
        one, two = shared.Writer(learner.address, 2), shared.Writer(learner.address)
        with pytest.raises(RuntimeError, match="asked for 1 streams, but of the buffer's 3 only 0 are free: 2 writers"):
            shared.Writer(learner.address)
        assert [report.streams for report in learner.writers()] == [(0, 1), (2,)]
        one.close()
        with pytest.raises(RuntimeError, match="once the learner has drained"):
            shared.Writer(learner.address)
        learner.drain()
        three = shared.Writer(learner.address)  # any time
        assert [report.streams for report in learner.writers()] == [(0, 1), (2,), (0,)]
        assert [report.state for report in learner.writers()] == ["closed", "open", "open"]
        for writer in (two, three):
            writer.close()
        learner.drain()
        assert learner.stats() == {
            **dict.fromkeys(("writers", "waiting", "died", "damaged", "abandoned", "transitions", "dropped"), 0),
            "joined": 3,
            "closed": 3,
        }


def test_a_writer_that_is_dropped_has_left_in_peace():
    with shared.Learner(buffer()) as learner:
        writer = shared.Writer(learner.address)
        writer.extend(*steps(0, 0, 3))
        del writer
        gc.collect()
        (report,) = learner.drain().left
        assert (report.state, report.transitions) == ("closed", 3)


def test_two_writers_in_one_process_do_not_end_each_other():
    """A process loses a record lock when it closes any descriptor of the file: nothing may do so."""
    with shared.Learner(buffer()) as learner:
        one = shared.Writer(learner.address)
        two = shared.Writer(learner.address)
        two.close()
        three = shared.Writer(learner.address)
        time.sleep(0.02)
        learner.drain()
        one.extend(*steps(0, 0, 3))
        three.extend(*steps(0, 0, 3))
        time.sleep(0.02)
        assert learner.drain().transitions == 6
        assert learner.stats()["died"] == 0
        one.close()
        three.close()


def test_who_was_killed_while_joining_leaves_nothing():
    with shared.Learner(buffer()) as learner:
        unfinished = learner._directory / f"1{home.UNFINISHED}"
        unfinished.write_bytes(b"half")
        with shared.Writer(learner.address):
            assert not unfinished.exists()


# ---- fork ----


def test_a_forked_writer_and_a_forked_learner_refuse_and_harm_nobody():
    memory = buffer()
    with shared.Learner(memory) as learner, shared.Writer(learner.address) as writer:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = []
            for call in (lambda: writer.extend(*steps(9, 0, 3)), learner.drain):
                try:
                    call()
                except ValueError as error:
                    said.append(str(error))
            writer.close()
            learner.close()
            with shared.Writer(learner.address) as own:  # a new one is fine
                own.extend(*steps(1, 0, 2))
            os.write(write, "\n".join(said).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        said = os.read(read, 10_000).decode().splitlines()
        os.close(read)
        os.close(write)
        assert len(said) == 2
        assert "this writer is closed, or belongs to the process that this one was forked from" in said[0]
        assert "the learner is closed, or belongs to the process that this one was forked from" in said[1]
        writer.extend(*steps(0, 0, 4))
        learner.drain()
        assert {life: len(numbers) for life, numbers in lives_in(memory).items()} == {0: 4, 1: 2}
        assert learner.stats()["closed"] == 1


# ---- learners ----


def killed_learner(base, name="killed"):
    """A learner in another process, and its address."""
    ready, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = start(actors.learn_for_ever, str(base), name, send)
    send.close()
    assert ready.poll(WAIT)
    return process, ready.recv()


def test_a_second_learner_of_a_name_is_refused(base):
    with shared.Learner(buffer(), name="one") as learner:
        with pytest.raises(RuntimeError, match=rf"is alive, in process {os.getpid()}"):
            shared.Learner(buffer(), name="one")
        answer, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
        process = start(actors.try_to_learn, str(base), "one", send)
        assert answer.poll(WAIT)
        assert f"is alive, in process {os.getpid()}" in answer.recv()
        process.join(WAIT)
        with shared.Learner(buffer(), name="two") as other:  # whose start swept, and left the living alone
            assert other.address != learner.address
        with shared.Writer(learner.address) as writer:
            writer.extend(*steps(0, 0, 3))
            assert learner.drain().transitions == 3
    with shared.Learner(buffer(), name="one"):  # the name is free again
        pass


def test_a_writer_whose_learner_was_killed_is_told_and_does_not_hang(base):
    process, address = killed_learner(base)
    with shared.Writer(address, timeout=WAIT) as writer, shared.Writer(address, timeout=WAIT) as full:
        with suppress(TimeoutError):
            full._timeout = 0.0
            while True:
                full.extend(*steps(0, 0, 5))
        full._timeout = WAIT
        os.kill(process.pid, signal.SIGKILL)
        process.join(WAIT)
        begin = time.monotonic()
        with pytest.raises(shared.LearnerGone, match=rf"process {process.pid}\) is dead"):
            full.extend(*steps(0, 0, 5))
        time.sleep(0.15)
        with pytest.raises(shared.LearnerGone):
            writer.extend(*steps(0, 0, 1))
        assert time.monotonic() - begin < WAIT / 2
    with pytest.raises(shared.LearnerGone, match="there is no learner at"):
        shared.Writer(address)


def test_a_new_learner_takes_over_from_a_killed_one_of_the_same_name(base):
    process, address = killed_learner(base)
    old = shared.Writer(address)
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT)
    with shared.Learner(buffer(), name="killed") as learner:
        assert learner.address == address
        with shared.Writer(address) as new:
            new.extend(*steps(1, 0, 3))
            time.sleep(0.15)
            with pytest.raises(shared.LearnerGone):
                old.extend(*steps(2, 0, 3))
            assert learner.drain().transitions == 3
        old.close()
        assert learner.writers()[0].transitions == 3


def test_a_writer_of_a_learner_that_is_gone_is_not_taken_for_one_of_its_successor(base):
    process, address = killed_learner(base)
    old = shared.Writer(address)  # whose file had the name that the first writer's has from now on
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT)
    with shared.Learner(buffer(streams=3), name="killed") as learner:
        go_on, wait = multiprocessing.get_context("spawn").Pipe()
        other = start(actors.hold_streams, address, 2, wait)
        assert go_on.poll(WAIT)
        with shared.Writer(address):
            assert [report.streams for report in learner.writers()] == [(0, 1), (2,)]
        go_on.send(None)
        other.join(WAIT)
        learner.drain()
    old.close()


def test_a_writer_that_is_refused_is_told_and_leaves_nothing_open(base):
    with shared.Learner(buffer(streams=2)) as learner, shared.Writer(learner.address) as first:
        first.extend(*steps(0, 0, 3))
        learner.drain()
        taken = [*first._ring.streams]
        first._ring.streams[:] = 1  # what no writer of ours does: the next one takes the same
        with shared.Writer(learner.address) as second:
            assert [*second._ring.streams] == taken
            files = len(os.listdir("/dev/fd"))
            learner.drain()
            assert len(os.listdir("/dev/fd")) == files
            assert learner.stats()["damaged"] == 1
            with pytest.raises(shared.LearnerGone, match="has let writer 2 go"):
                second.extend(*steps(1, 0, 3))


def test_a_learner_lets_no_transitions_of_a_storage_leave_for_those_that_do_not_come(tmp_path):
    memory = buffer(capacity=1000, streams=1, storage=tmp_path / "storage")
    with shared.Learner(memory, ring_bytes=2**13) as learner, shared.Writer(learner.address) as writer:
        for first in range(0, 500, 50):
            writer.extend(*steps(0, first, 50))
            learner.drain()
        memory.save()
        writer.extend(*steps(0, 500, 50))
        learner.drain()
        learner.close()
    del learner, memory
    gc.collect()
    assert len(rb.ReplayBuffer.load(tmp_path / "storage")) == 500


def test_the_next_learner_sweeps_up_what_killed_ones_have_left(base):
    process, address = killed_learner(base)
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT)
    assert os.path.isdir(address)
    with shared.Learner(buffer(), name="another"):
        assert not os.path.exists(address)


def test_who_sweeps_does_not_bury_a_learner_that_another_thread_has_just_made(base, monkeypatch):
    process, address = killed_learner(base)
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT)
    learners = []
    other = threading.Thread(target=lambda: learners.append(shared.Learner(buffer(), name="killed")))
    is_mine = locks.is_mine

    def slow(path):
        answer = is_mine(path)
        if threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(0.5)
        return answer

    monkeypatch.setattr(locks, "is_mine", slow)
    home.sweep()
    other.join(WAIT)
    with learners[0] as learner, shared.Writer(learner.address) as writer:
        writer.extend(*steps(0, 0, 3))
        assert learner.drain().transitions == 3


def test_a_closed_learner_takes_what_is_there_and_turns_writers_away():
    memory = buffer()
    learner = shared.Learner(memory)
    writer, idle = shared.Writer(learner.address), shared.Writer(learner.address)
    writer.extend(*steps(0, 0, 3))
    drain = learner._drain

    def drain_late(most):
        with pytest.raises(shared.LearnerGone):  # what comes after the last drain must not be lost without a word
            idle.extend(*steps(1, 0, 3))
        return drain(most)

    learner._drain = drain_late
    learner.close()
    learner.close()
    assert len(memory) == 3
    with pytest.raises(shared.LearnerGone):
        writer.extend(*steps(0, 3, 3))
    with pytest.raises(shared.LearnerGone):
        idle.end()
    assert not os.path.exists(learner.address)
    assert [report.state for report in learner.writers()] == ["abandoned", "abandoned"]
    writer.close()
    idle.close()


def test_a_learner_that_is_forgotten_or_ends_with_its_process_cleans_up(base):
    learner = shared.Learner(buffer())
    address = learner.address
    del learner
    gc.collect()
    assert not os.path.exists(address)
    code = (
        "import replaybank as rb; from replaybank import shared; from replaybank.shared import home; "
        f"from pathlib import Path; home._base = lambda: Path({str(base)!r}); "
        "learner = shared.Learner(rb.ReplayBuffer(9, {'obs': 'int64', 'action': 'int64'})); "
        "writer = shared.Writer(learner.address); print(learner.address)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=True)
    assert done.stderr == ""
    assert not os.path.exists(done.stdout.strip())


def test_another_users_or_a_strangers_directory_is_left_alone(base, monkeypatch):
    stranger = home.place("stranger")
    stranger.mkdir()
    (stranger / "something").write_text("of value")
    monkeypatch.setattr(home, "ATTEMPTS", 3)
    with pytest.raises(RuntimeError, match="is no learner's directory"):
        shared.Learner(buffer(), name="stranger")
    (stranger / home.LEARNER).touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="is not a directory of this user's"):
        shared.Learner(buffer(), name="stranger")
    assert (stranger / "something").read_text() == "of value"
    monkeypatch.undo()
    for path in [*stranger.iterdir()]:
        path.unlink()
    stranger.rmdir()


def test_the_package_does_not_import_it():
    code = "import sys, replaybank; sys.exit('replaybank.shared' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=WAIT).returncode == 0
