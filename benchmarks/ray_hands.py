"""Processes of Ray's that write and read: actors around what `hands.py` has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray

from adapters.scaling import PATIENCE
from hands import Reading, Writing


class Hand:
    """In the actor's process. `build` makes it there."""

    def __init__(self, build: Callable[[], Writing | Reading]) -> None:
        self._hand = build()

    def do(self, verb: str, *given: Any) -> Any:
        return getattr(self._hand, verb)(*given)


class RayTask:
    def __init__(self, ref: Any) -> None:
        self._ref = ref

    def result(self) -> Any:
        return ray.get(self._ref, timeout=PATIENCE)


class RayProcess:
    """A writer's or reader's actor. It takes no share of the CPUs that Ray counts: all of them share all cores."""

    def __init__(self, build: Callable[[], Writing | Reading]) -> None:
        here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
        self._actor = ray.remote(num_cpus=0, runtime_env=here)(Hand).remote(build)

    def start(self, verb: str, *given: Any) -> RayTask:
        return RayTask(self._actor.do.remote(verb, *given))

    def end(self) -> None:
        ray.kill(self._actor)


def own_processes() -> Sequence[int]:
    """Ray's, on this machine, that are neither actors nor this one: its scheduler and store, and its control."""
    names = ("raylet", "gcs_server")
    return [child.pid for child in psutil.Process().children(recursive=True) if child.name().startswith(names)]


def nbytes(*given: Any) -> int:
    """How long the arguments or the result of a call are when Ray has serialized them: pickle and buffers."""
    buffers: list[Any] = []
    text = ray.cloudpickle.dumps(given, protocol=5, buffer_callback=buffers.append)
    return len(text) + sum(buffer.raw().nbytes for buffer in buffers)
