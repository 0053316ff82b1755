"""The buffer's lock: one at a time, promises first, and nobody waits for himself."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import replaybank as rb
from replaybank.kernels import Lock


def test_one_thread_at_a_time() -> None:
    lock = Lock()
    inside, most, count = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, count
        for _ in range(300):
            with lock:
                inside += 1
                most = max(most, inside)
                seen = count
                if seen % 10 == 0:
                    time.sleep(1e-5)  # lets the others try
                count = seen + 1
                inside -= 1

    crowd = [threading.Thread(target=work) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert (most, count, inside) == (1, 1200, 0)
    assert not lock.mine


def test_who_enters_twice_is_told_so_instead_of_waiting_for_ever() -> None:
    lock = Lock()
    with lock:
        assert lock.mine
        with pytest.raises(RuntimeError, match="inside one of its own calls"), lock:
            pass
        assert lock.mine
    with lock:
        pass


def test_a_schedule_that_uses_its_buffer_is_told_so() -> None:
    buffer = rb.ReplayBuffer(9, sampler=rb.Prioritized(beta=lambda _: len(buffer)))
    buffer.add([0.0], 0, 0.0, [1.0], False, False)
    with pytest.raises(RuntimeError, match="inside one of its own calls"):
        buffer.sample(1)
    assert len(buffer) == 1


def test_promises_are_kept_in_order_before_anything_else() -> None:
    lock, kept = Lock(), []
    with lock:
        lock.owed.extend([lambda: kept.append(1), lambda: kept.append(2)])
        assert kept == []
    with lock:
        assert kept == [1, 2]
        assert lock.owed == []


def test_a_promise_that_raises_is_gone_and_the_lock_is_open() -> None:
    lock, kept = Lock(), []
    with lock:
        lock.owed.extend([lambda: 1 // 0, lambda: kept.append(2)])
    with pytest.raises(ZeroDivisionError), lock:
        kept.append(3)
    assert kept == []
    with lock:
        assert kept == [2]


def test_a_wait_can_be_interrupted() -> None:
    lock, taken, let_go = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            let_go.wait(20)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().ident
    assert main is not None
    holder = threading.Thread(target=hold)
    timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR1))
    try:
        holder.start()
        assert taken.wait(20)
        timer.start()
        with pytest.raises(KeyboardInterrupt), lock:
            pass
    finally:
        let_go.set()
        holder.join()
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    with lock:
        assert lock.mine


def test_copies_are_open_and_share_what_was_shared() -> None:
    lock = Lock()
    with lock:
        lock.owed.append(print)
        for left, right in (copy.deepcopy((lock, lock)), pickle.loads(pickle.dumps((lock, lock)))):
            assert left is right is not lock
            assert left.owed == []
            with left:
                pass


def test_a_copied_buffer_and_its_sampler_share_a_lock_of_their_own() -> None:
    for sampler in (rb.Prioritized(), rb.RankPrioritized(), rb.Recent(), rb.Mixture([(1.0, rb.Prioritized())])):
        buffer = rb.ReplayBuffer(9, sampler=sampler)
        other = pickle.loads(pickle.dumps(buffer))
        assert other.sampler._lock is other._lock
        assert buffer.sampler._lock is buffer._lock
        assert other._lock is not buffer._lock


SETTINGS = [
    (rb.Prioritized, {"alpha": 0.9, "beta": 0.1, "epsilon": 0.1, "min_priority": 0.5}),
    (rb.RankPrioritized, {"alpha": 0.9, "beta": 0.1}),
    (rb.Recent, {"eta": 0.5, "updates": 7}),
    (lambda: rb.Mixture([(1.0, rb.Uniform())]), {"beta": 0.1}),
]


@pytest.mark.parametrize(("sampler", "settings"), SETTINGS)
def test_settings_of_a_sampler_wait_for_what_was_promised(sampler, settings) -> None:  # type: ignore[no-untyped-def]
    for name, value in settings.items():
        buffer = rb.ReplayBuffer(9, sampler=sampler(), seed=0)
        buffer.add(np.zeros(2), 0, 0.0, np.zeros(2), False, False)
        before, seen = getattr(buffer.sampler, name), []
        with buffer._lock:
            buffer._lock.owed.append(lambda: seen.append(getattr(buffer.sampler, name)))  # noqa: B023
        setattr(buffer.sampler, name, value)
        assert seen == [before]
        assert getattr(buffer.sampler, name) == value
