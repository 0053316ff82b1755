"""A save on its way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import Thread


class Saving:
    """A save that may still be on its way: `result()` waits for it, and raises what went wrong.

    `work` saves, in a thread of this `name`. Where it went wrong and nobody asks, that is warned of (RuntimeWarning).
    The program does not end before it does.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._name = name
        self._work: Callable[[], None] | None = work
        self._error: BaseException | None = None
        self._asked = False
        self._thread = Thread(target=self._run, name=f"replaybank: {name}")

    def start(self) -> Saving:
        """Begins, in a thread."""
        self._thread.start()
        return self

    def _run(self) -> None:
        assert self._work is not None
        try:
            self._work()
        except BaseException as error:
            self._error = error
        self._work = None  # with it goes the hold on the buffer

    def done(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return self._work is None

    def result(self, timeout: float | None = None) -> None:
        """Waits until it is on the disk; raises TimeoutError after `timeout` seconds, or what went wrong."""
        self._thread.join(timeout)
        if not self.done():
            raise TimeoutError(f"{self._name}: not done after {timeout} seconds")
        self._asked = True
        if self._error is not None:
            raise self._error

    def __del__(self) -> None:
        if getattr(self, "_error", None) is not None and not self._asked:
            warnings.warn(f"{self._name} failed, and nobody asked: {self._error!r}", RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"Saving({self._name}, {'done' if self.done() else 'on its way'})"
