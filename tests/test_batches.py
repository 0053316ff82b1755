"""`batches`: what is drawn depends on the calls, never on timing; and whatever ends it, it ends cleanly."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank.batch import Batch
from replaybank.prefetch import AsSampled, Batches

N = 8
SAMPLERS: dict[str, Callable[[], Any]] = {
    "uniform": rb.Uniform,
    "prioritized": lambda: rb.Prioritized(0.7, rb.linear(0.4, 1.0, 50)),
    "epochs": rb.SampleOnce,
    "combined": lambda: rb.Combined(rb.Prioritized()),
}


def filled(sampler: Any = None, size: int = 40, view: Any = None) -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(50, sampler=sampler, view=view, seed=3)
    for t in range(size):
        add(buffer, t)
    return buffer


def add(buffer: rb.ReplayBuffer, t: int) -> None:
    buffer.add(np.full(3, t, np.float32), t, float(t), np.full(3, t + 1, np.float32), t % 9 == 8, False)


def shown(batch: Batch) -> list[bytes]:
    return [name.encode() + np.asarray(value).tobytes() for name, value in batch.items()]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "replaybank-batches"]


def soon(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Any:
    yield
    gc.collect()
    assert soon(lambda: not workers()), "a thread was left behind"


class Fragile(rb.Transition):
    """A view that raises at its read number `at`."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error, self.reads = at, error, 0

    def read(self, *arguments: Any) -> Batch:
        self.reads += 1
        if self.reads == self.at:
            raise type(self.error)(*self.error.args)  # a new one: an error holds the frames it went through
        return super().read(*arguments)


def scheduled(buffer: rb.ReplayBuffer, prefetch: int) -> Any:
    """The plain loop that `batches` stands for: at each hand-out it draws until `prefetch` batches wait."""
    waiting: deque[Batch] = deque()
    while True:
        while len(waiting) <= prefetch:
            waiting.append(buffer.sample(N))
        yield waiting.popleft()


def learn(buffer: rb.ReplayBuffer, batches: Any, pause: Callable[[], None]) -> list[list[bytes]]:
    """30 steps of a loop that adds, updates, now and then changes alpha, and always looks at the batch."""
    world = np.random.default_rng(5)
    seen = []
    for step in range(30):
        pause()
        batch = next(batches)
        seen.append(shown(batch))
        if world.random() < 0.7:
            for t in range(int(world.integers(1, 4))):
                add(buffer, 100 + 4 * step + t)
        pause()
        if world.random() < 0.8:
            buffer.update_priorities(batch.indices, world.normal(size=N))
        if step == 15 and hasattr(buffer.sampler, "alpha"):
            buffer.sampler.alpha = 0.3
    return seen


def sleeps(seed: int) -> Callable[[], None]:
    dice = np.random.default_rng(seed)
    return lambda: time.sleep(dice.choice([0, 0, 1e-4, 2e-3]))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prefetch", range(5))
def test_what_is_drawn_follows_from_the_calls_alone(prefetch: int, sampler: str) -> None:
    plain = filled(SAMPLERS[sampler]())
    expected = learn(plain, scheduled(plain, prefetch), lambda: None)
    for round_ in range(2):
        buffer = filled(SAMPLERS[sampler]())
        with buffer.batches(N, prefetch=prefetch) as batches:
            assert learn(buffer, batches, sleeps(round_)) == expected
        # What was drawn ahead and never handed out has been drawn all the same.
        assert shown(buffer.sample(N)) == shown(plain_sample_after(sampler, prefetch))
        found, stats = buffer.stats(), plain.stats()
        counted = ("size", "added", "overwritten", "updated", "stale", "tails")
        assert {name: found[name] for name in counted} == {name: stats[name] for name in counted}
        assert (found["sampled"], found["calls"]) == (stats["sampled"] + N, stats["calls"] + 1)


def plain_sample_after(sampler: str, prefetch: int) -> Batch:
    plain = filled(SAMPLERS[sampler]())
    learn(plain, scheduled(plain, prefetch), lambda: None)
    return plain.sample(N)


def test_without_additions_every_prefetch_gives_the_batches_of_a_loop() -> None:
    plain = filled(rb.Prioritized())
    expected = [shown(plain.sample(N)) for _ in range(10)]
    for prefetch in range(5):
        with filled(rb.Prioritized()).batches(N, prefetch=prefetch) as batches:
            assert [shown(batch) for batch in itertools.islice(batches, 10)] == expected


def test_the_thread_draws_while_the_consumer_computes() -> None:
    buffer = filled()
    with buffer.batches(N, prefetch=2) as batches:
        next(batches)
        for _ in range(3):
            assert soon(lambda: batches._line.ready.qsize() == 2)  # nobody calls the buffer
            next(batches)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_empty_buffer_is_refused_when_a_batch_is_asked_for(prefetch: int) -> None:
    batches = rb.ReplayBuffer(5).batches(N, prefetch=prefetch)
    with pytest.raises(ValueError, match="buffer is empty"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("prefetch", range(4))
def test_an_error_comes_in_its_turn_and_ends_the_iterator(prefetch: int) -> None:
    buffer = filled(view=Fragile(4, ZeroDivisionError("in the view")))
    batches = buffer.batches(N, prefetch=prefetch)
    plain = filled()
    for _ in range(3):
        assert shown(next(batches)) == shown(plain.sample(N))
    with pytest.raises(ZeroDivisionError, match="in the view"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert len(buffer.sample(N)) == N


class Broken(AsSampled):
    def move(self, batch: Batch) -> Batch:
        raise MemoryError("no room there")


def test_an_error_of_a_move_reaches_the_consumer() -> None:
    buffer = filled()
    batches = Batches(buffer._lock, lambda: buffer._sample(N), Broken(), 1)
    with pytest.raises(MemoryError, match="no room"):
        next(batches)


def test_who_keeps_a_promise_gets_the_interrupt_and_so_does_the_iterator() -> None:
    buffer = filled(view=Fragile(1, KeyboardInterrupt()))
    batches = buffer.batches(N, prefetch=0)
    batches._line.ask(1)
    with pytest.raises(KeyboardInterrupt):
        add(buffer, 0)
    assert len(buffer) == 40, "the interrupted call has not begun"
    with pytest.raises(RuntimeError, match="interrupted by KeyboardInterrupt"):
        next(batches)
    add(buffer, 0)


def update_for_ever(buffer: rb.ReplayBuffer, batches: Batches, seconds: float) -> None:
    """Until the signal comes, after so much time on the processor."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    for batch in batches:
        buffer.update_priorities(batch.indices, batch.reward)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_interrupts_at_any_moment_leave_no_lock_and_no_thread(prefetch: int) -> None:
    buffer = filled(rb.Prioritized())
    dice = np.random.default_rng(prefetch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, interrupt)
    try:
        for _ in range(12):
            batches = buffer.batches(N, prefetch=prefetch)
            with pytest.raises(KeyboardInterrupt):
                update_for_ever(buffer, batches, float(dice.uniform(0.0005, 0.004)))
            del batches
            gc.collect()
            assert not buffer._lock.mine
            buffer.sample(N)
    finally:
        signal.signal(signal.SIGPROF, before)
    assert soon(lambda: not workers())
    buffer.check_valid()


def test_a_loop_that_breaks_off_leaves_nothing_behind() -> None:
    buffer = filled()
    for batch in buffer.batches(N):
        assert len(batch) == N
        break
    gc.collect()
    assert soon(lambda: not workers())
    gone = weakref.ref(buffer)
    del buffer, batch
    assert soon(lambda: gc.collect() >= 0 and gone() is None)


def test_an_error_that_nobody_asks_for_keeps_no_thread() -> None:
    buffer = filled(view=Fragile(3, ValueError("in the view")))

    def use() -> None:
        batches = buffer.batches(N, prefetch=1)
        next(batches)
        batches._line.ask(1)
        add(buffer, 0)  # keeps the promise; the error knows this frame, and this frame the iterator
        batches._line.wake()

    use()
    assert soon(lambda: gc.collect() >= 0 and not workers())


def test_closing_ends_a_consumer_that_waits_and_may_be_repeated() -> None:
    buffer = filled()
    batches = buffer.batches(N, prefetch=1)
    next(batches)
    batches.close()
    batches.close()
    assert not workers()
    assert list(batches) == []

    class Slow(AsSampled):
        def move(self, batch: Batch) -> Batch:
            started.set()
            go_on.wait(20)
            return batch

    started, go_on = threading.Event(), threading.Event()
    slow = Batches(buffer._lock, lambda: buffer._sample(N), Slow(), 1)
    ended: list[int] = []
    consumer = threading.Thread(target=lambda: ended.append(len(list(slow))))
    consumer.start()
    assert started.wait(20)
    closer = threading.Thread(target=slow.close)
    closer.start()
    go_on.set()
    closer.join(20)
    consumer.join(20)
    assert len(ended) == 1


def test_closing_does_not_wait_for_a_batch_that_another_thread_has_just_taken() -> None:
    batches = filled().batches(N, prefetch=1)
    next(batches)
    taken: list[Any] = []

    class Contested(SimpleQueue):  # type: ignore[type-arg]
        def empty(self) -> bool:
            there = not super().empty()
            while not super().empty():
                taken.append(super().get())
            return not there

    ready, contested = batches._line.ready, Contested()
    while not ready.empty():
        contested.put(ready.get())
    contested.put(("a batch", None))
    batches._line.ready = contested
    closer = threading.Thread(target=batches.close, daemon=True)
    closer.start()
    closer.join(5)
    waits = closer.is_alive()
    contested.put((None, None))
    assert not waits


def test_two_iterators_and_calls_of_sample_take_turns() -> None:
    plain, buffer = filled(rb.SampleOnce()), filled(rb.SampleOnce())
    with buffer.batches(3, prefetch=2) as left, buffer.batches(5, prefetch=1) as right:
        sizes = [3, 3, 3, 5, 5, 3, 5, 7, 3]
        expected = [plain.sample(n).indices.tolist() for n in sizes]
        found = [next(left), next(right), next(left), next(right), buffer.sample(7), next(left)]
    assert [batch.indices.tolist() for batch in found] == [expected[i] for i in (0, 3, 1, 4, 7, 2)]


def test_each_batch_goes_to_one_of_several_consumers() -> None:
    plain = filled()
    expected = sorted(shown(plain.sample(N)) for _ in range(200))
    found: list[list[bytes]] = []
    with filled().batches(N) as batches:
        crowd = [
            threading.Thread(target=lambda: found.extend(shown(next(batches)) for _ in range(50))) for _ in range(4)
        ]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
    assert sorted(found) == expected


def test_a_buffer_is_pickled_while_batches_are_prepared() -> None:
    buffer = filled(rb.Prioritized())
    with buffer.batches(N, prefetch=3) as batches:
        for _ in range(20):
            next(batches)
            copy = pickle.loads(pickle.dumps(buffer))
            copy.check_valid()
            # The copy goes on where the buffer is: with what was asked for already drawn.
            assert copy.stats()["sampled"] == buffer.stats()["sampled"]
    assert shown(copy.sample(N)) == shown(buffer.sample(N))


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where another test has imported it
def test_bad_arguments_are_refused_at_once() -> None:
    buffer = filled()
    for n in (0, -1):
        with pytest.raises(ValueError, match="n: expected"):
            buffer.batches(n)
    with pytest.raises(TypeError, match="n: expected"):
        buffer.batches(2.5)  # type: ignore[arg-type]
    for prefetch in (-1, 10**6):
        with pytest.raises(ValueError, match="prefetch: expected"):
            buffer.batches(N, prefetch=prefetch)


ENDS = {
    "a process ends while batches are prepared": """
batches = buffer.batches(4096)
next(batches)
print("fine", flush=True)
""",
    "a thread that is at it finishes first": """
import time
class Slow(rb.Transition):
    def read(self, *given):
        time.sleep(0.3)
        batch = super().read(*given)
        drawn.append(len(batch))
        if len(drawn) == 3:
            print("fine", flush=True)
        return batch
drawn, buffer.view = [], Slow()
batches = buffer.batches(8, prefetch=1)
next(batches)
next(batches)
""",
    "it ends by an error inside a loop": """
try:
    for batch in buffer.batches(4096, prefetch=4):
        raise SystemExit(0)
finally:
    print("fine", flush=True)
""",
    "a child goes on without the thread": """
import os, signal, time
for attempt in range(20):
    batches = buffer.batches(30_000, prefetch=2)
    next(batches)
    next(batches)  # the thread draws another one, for some milliseconds
    time.sleep(attempt * 2e-4)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        buffer.sample(8)
        try:
            next(batches)
        except RuntimeError:
            with buffer.batches(8) as again:
                next(again)
            batches.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, attempt
    next(batches)
    batches.close()
print("fine", flush=True)
""",
}


@pytest.mark.parametrize("ending", ENDS)
def test_whatever_ends_the_process(ending: str) -> None:
    if "fork" in ENDS[ending] and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    script = f"""
import numpy as np, replaybank as rb
buffer = rb.ReplayBuffer(5000, seed=0)
x = np.zeros((5000, 64), np.float32)
f = np.zeros(5000, bool)
buffer.extend(x, f, f, x, f, f)
{ENDS[ending]}"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_tensors_on_the_cpu_hold_the_same_values() -> None:
    torch = pytest.importorskip("torch")
    plain = filled(rb.Prioritized())
    with filled(rb.Prioritized()).batches(N, device="cpu", prefetch=2) as batches:
        for batch in itertools.islice(batches, 4):
            assert isinstance(batch.obs, torch.Tensor)
            expected = plain.sample(N)
            for name, value in expected.items():
                np.testing.assert_array_equal(batch[name].numpy(), value)


@pytest.mark.parametrize("pin", [True, False])
def test_tensors_on_cuda_hold_the_same_values(pin: bool) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    plain = filled(rb.Prioritized())
    work = torch.zeros(2000, 2000, device="cuda")
    with filled(rb.Prioritized()).batches(N, device="cuda", pin=pin, prefetch=3) as batches:
        for batch in itertools.islice(batches, 50):
            work = work @ work  # what runs on the current stream keeps it busy
            expected = plain.sample(N)
            doubled = {name: batch[name] * 2 for name in batch.keys()}  # noqa: SIM118
            for name, value in expected.items():
                np.testing.assert_array_equal(doubled[name].cpu().numpy(), np.asarray(value) * 2)
