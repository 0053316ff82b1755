"""Batches for ever, prepared ahead of the one who asks for them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from replaybank.batch import Batch
from replaybank.kernels import Lock

PATIENCE = 10.0  # seconds that the end of the process waits for a thread that moves a batch


class Mover(Protocol):
    """How a batch gets to where it is used."""

    def move(self, batch: Batch) -> Any:
        """Begins to bring it there. Called in the background."""
        ...

    def hand_out(self, moved: Any) -> Batch:
        """What `move` gave, ready to be used. Called in the consumer's thread."""
        ...


class AsSampled:
    """NumPy batches, where they are."""

    def move(self, batch: Batch) -> Batch:
        return batch

    def hand_out(self, moved: Batch) -> Batch:
        return moved


class Line:
    """What an iterator and its thread share.

    A draw is a promise of the buffer's lock (`Lock.owed`): whoever enters next makes it, be it the thread or another
    call of the buffer. So what is drawn depends on the order of calls alone, and no lock is ever held across threads.
    """

    def __init__(self, lock: Lock, sample: Callable[[], Batch], mover: Mover) -> None:
        self.lock = lock
        self.mover = mover
        self.thread: threading.Thread | None = None
        self.ready: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()  # moved, or why not; None: the end
        self._sample = sample
        self._drawn: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.calls: SimpleQueue[bool] = SimpleQueue()  # whether to go on
        self._serving = threading.Lock()  # what is drawn first is ready first

    def ask(self, n: int) -> None:
        """`n` more batches are to be drawn, before anything that is called from now on."""
        with self.lock:
            self.lock.owed.extend([self._draw] * n)

    def _draw(self) -> None:
        try:
            self._drawn.put((self._sample(), None))
        except Exception as error:
            self._drawn.put((None, error))
        except BaseException as interrupt:  # meant for whoever makes this draw, be it for somebody else
            self._drawn.put((None, RuntimeError(f"the draw of this batch was interrupted by {interrupt!r}")))
            raise

    def serve(self) -> None:
        """Draws what was asked for and is not drawn yet, and moves it."""
        with self._serving:
            with self.lock:
                pass
            while True:
                try:
                    batch, error = self._drawn.get_nowait()
                except Empty:
                    return
                try:
                    moved = None if error else self.mover.move(batch)
                except BaseException as failure:
                    moved, error = None, failure
                self.ready.put((moved, error))

    def start(self) -> None:
        """Starts the thread; from now on `wake` lets it serve."""
        given = (weakref.ref(self), self.lock, self.calls)
        self.thread = threading.Thread(target=_work, args=given, name="replaybank-batches", daemon=True)
        _RUNNING.add(self)
        self.thread.start()

    def wake(self) -> None:
        self.calls.put(True)

    def join(self, seconds: float | None = None) -> None:
        """Waits until the thread has ended; not for one whose start was interrupted."""
        if self.thread is not None and self.thread.is_alive():
            self.thread.join(seconds)


def _work(line_of: Callable[[], Line | None], lock: Lock, calls: SimpleQueue[bool]) -> None:
    """What the thread does. While it waits it holds no line: an error in it may hold the frame that has the iterator.

    In the end it keeps what was promised, so that a buffer's future is no matter of timing.
    """
    while calls.get():
        line = line_of()
        if line is not None:
            try:
                line.serve()
            except BaseException:
                line.wake()  # it is in line with the batches; those behind it are served next
        del line
    with lock:
        pass


class Batches(Iterator[Batch]):
    """Batches of a buffer, for ever: what `ReplayBuffer.batches` gives, which says what it promises.

    Ends with `close()`, as a context manager, and when nobody holds it any more. Several threads may share one: each
    batch goes to one of them. It belongs to the process that made it: in a forked child `next` raises RuntimeError.
    """

    def __init__(self, lock: Lock, sample: Callable[[], Batch], mover: Mover, prefetch: int) -> None:
        self._line = Line(lock, sample, mover)
        self._prefetch = prefetch
        self._turn = threading.Lock()  # of the consumers
        self._due = 0  # asked for, and not handed out
        self._finished = False
        # Only says so, and does not wait: it may be called anywhere.
        self._stop = weakref.finalize(self, self._line.calls.put, False)
        self._stop.atexit = False  # then there is somebody to wait for it

    def __next__(self) -> Batch:
        with self._turn:
            try:
                return self._next()
            except BaseException:  # also an interrupt, after which nobody knows how far this came
                self.close()
                raise

    def _next(self) -> Batch:
        if self._finished:
            raise StopIteration
        line = self._line
        if self._prefetch and line.thread is None:
            line.start()
        if line.thread is not None and not line.thread.is_alive():
            raise RuntimeError("these batches are prepared in another process; call `batches` in this one")
        line.ask(self._prefetch + 1 - self._due)
        self._due = self._prefetch
        if line.thread is not None:
            line.wake()
        if line.ready.empty():
            line.serve()  # sooner than the thread, which has to wait for the interpreter
        moved, error = line.ready.get()
        if error is not None:
            raise error
        if moved is None:
            raise StopIteration
        return line.mover.hand_out(moved)

    def close(self) -> None:
        """Ends the thread and waits for it. What is prepared is lost; `next` raises StopIteration from now on."""
        self._finished = True
        self._stop()
        line = self._line
        if not line.lock.mine:
            line.join()
        with suppress(Empty):  # not asked whether it is: another consumer may be quicker
            while True:
                line.ready.get_nowait()
        line.ready.put((None, None))  # for a consumer that waits in another thread

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def mover_for(device: Any, pin: bool) -> Mover:
    """What brings batches to a PyTorch device; None: they stay NumPy batches."""
    if device is None:
        return AsSampled()
    from replaybank.movers import mover

    return mover(device, pin)


# Those whose threads run: the end of the process stops them, and a fork finds their buffers at rest.
_RUNNING: weakref.WeakSet[Line] = weakref.WeakSet()
_held: list[Lock] = []


@atexit.register
def _end_all() -> None:
    for line in list(_RUNNING):
        line.calls.put(False)
        line.join(PATIENCE)


def _before_fork() -> None:
    for line in list(_RUNNING):
        if not line.lock.mine:
            line.lock.__enter__()
            _held.append(line.lock)


def _after_fork() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)


def _in_child() -> None:
    _RUNNING.clear()  # a fork leaves their threads behind
    _after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
