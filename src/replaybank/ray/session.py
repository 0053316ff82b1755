"""The connection to Ray that a thread of ours was started under."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as first_of
from threading import RLock
from typing import Any

import ray
import ray._private.worker as ray_worker
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util import client

from replaybank.ray.calls import reason

LOOK = 0.2  # seconds between two looks whether Ray was shut down

# Ray holds this while it connects or shuts down. It has no public name: without it a call that begins in the same
# microseconds as the shutdown would end the process.
_gate = getattr(ray_worker, "_connect_or_shutdown_lock", None) or RLock()


class RayEnded(RuntimeError):
    """Ray was shut down, or is another one by now."""


class Session:
    """Calls of actors from a thread that does not know when the program shuts Ray down.

    A thread that calls Ray after `ray.shutdown()` makes Ray connect by itself, which starts a second one; one that is
    within a call meanwhile makes Ray end the process. So calls go out while the shutdown is kept waiting, for
    microseconds, and answers are waited for outside of Ray. All raise RayEnded when it was shut down.
    """

    def __init__(self) -> None:
        with _gate:
            self._mine = _connected()

    def ended(self) -> bool:
        """Whether Ray was shut down since this was made."""
        with _gate:
            return self._mine is None or _connected() != self._mine

    def require(self) -> None:
        """Raises RayEnded where Ray was shut down since this was made: before a call that would start another one."""
        if self.ended():
            raise RayEnded("Ray was shut down")

    def call(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Calls `call(*args)`, an actor's method, and gives what it will answer."""
        with _gate:
            if self.ended():
                raise RayEnded("Ray was shut down")
            answer: Future[Any] = call(*args).future()
            return answer

    def wait(self, answers: Sequence[Future[Any]], seconds: float) -> None:
        """Until one of them is there, or so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            done, _ = first_of(answers, max(min(left, LOOK), 0.0), FIRST_COMPLETED)
            if done or left <= LOOK:
                return
            if self.ended():
                raise RayEnded("Ray was shut down")

    def get(self, answer: Future[Any], seconds: float) -> Any:
        """An answer; raises GetTimeoutError where it takes longer, and what the call raised."""
        self.wait([answer], seconds)
        if not answer.done():
            raise GetTimeoutError(f"no answer within {seconds:.3g} s")
        return answer.result()

    def found(self, name: str, namespace: str) -> Any:
        """The actor of this name, also while Ray restarts it; None where it has ended for good."""
        with _gate:
            self.require()
            try:
                return ray.get_actor(name, namespace=namespace)
            except ValueError:
                return None

    def ask(self, call: Callable[[], Any], seconds: float, what: str, require: Callable[[], None] | None = None) -> Any:
        """What `call()`, a call of an actor that may be made again, gives, if need be of the actor that Ray restarts.

        `require()` is called where the actor has died, and raises where Ray will not restart it. Raises TimeoutError,
        with `what`, where the answer takes longer.
        """
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            try:
                return self.get(self.call(call), left)
            except GetTimeoutError:
                raise TimeoutError(f"{what}: no answer within {seconds:.3g} s") from None
            except RayActorError as error:
                if require is not None:
                    require()
                if left < 0.1:
                    raise TimeoutError(f"{what}: {reason(error)}") from None
                time.sleep(0.1)


def _connected() -> Any:
    """Which connection of this process to Ray there is; None where there is none."""
    if client.ray.is_connected():  # ray://
        return client.ray.get_context().client_worker
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.get_session_name(), context.get_worker_id()
