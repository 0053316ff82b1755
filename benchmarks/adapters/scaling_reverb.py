"""Reverb: a server a shard, and writers and a reader that are its clients, all in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from adapters.reverb import interpreter
from adapters.scaling import Contestant
from contender import LeftOutError

WORKER = Path(__file__).resolve().parents[1] / "reverb_shards.py"


class ReverbTask:
    def __init__(self, process: ReverbProcess) -> None:
        self._process = process

    def result(self) -> Any:
        return self._process.answer()


class ReverbProcess:
    """`reverb_shards.py` in a role: a word in, a word out. It ends where its standard input does."""

    def __init__(self, role: str, **given: Any) -> None:
        self._process = subprocess.Popen(
            [interpreter(), str(WORKER), role, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, verb: str, *given: Any) -> ReverbTask:
        assert self._process.stdin is not None
        print(json.dumps([verb, *given]), file=self._process.stdin, flush=True)
        return ReverbTask(self)

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LeftOutError("a process of it ended before it answered")
        return json.loads(line)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ReverbShards(Contestant):
    name = "Reverb"
    how: ClassVar[str] = (
        "A process a shard with one server and one table (Prioritized(0.6) or Uniform, Fifo, MinSize(1)). Each writer "
        "has a trajectory_writer to one of them, so an observation travels once; at most 128 items are not yet taken. "
        "Without prefetch, Client.sample from one server, the servers in turn; with it, a TrajectoryDataset of each "
        "server, an equal part of each batch from each, and prefetch(4). Priorities: mutate_priorities, which always "
        "waits. Weights are computed from the probabilities it gives."
    )

    def build(self) -> None:
        interpreter()
        size, prioritized, shards, writers = self.scale
        self._all: list[ReverbProcess] = []
        about = {"shape": size.shape, "dtype": size.dtype, "prioritized": prioritized}
        self._servers = [self._process("server", capacity=size.capacity // shards, **about) for _ in range(shards)]
        told = [server.answer() for server in self._servers]
        self._versions: Mapping[str, str] = told[0]["versions"]
        ports = [one["port"] for one in told]
        self.writers = [
            self._process("writer", port=ports[number % shards], seed=number, distinct=size.distinct, **about)
            for number in range(writers)
        ]
        self.reader = self._process("reader", ports=ports, **about)
        for process in (*self.writers, self.reader):
            process.answer()

    def _process(self, role: str, **given: Any) -> ReverbProcess:
        self._all.append(ReverbProcess(role, **given))
        return self._all[-1]

    def shards(self) -> Sequence[int]:
        return [server.pid for server in self._servers]

    def versions(self) -> Mapping[str, str]:
        return self._versions

    def close(self) -> None:
        for process in reversed(self._all):
            process.end()
