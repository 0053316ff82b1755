"""Sends programs to a worker process, and makes those that fail short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"
MOST_TRIALS = 200  # runs to make one program short


@dataclass(frozen=True)
class Failure:
    """A program that failed: `kind` is the last line of what it said, `calls` those that it takes."""

    target: str
    seed: int
    kind: str
    text: str
    calls: list[int]

    def __str__(self) -> str:
        calls = ",".join(map(str, self.calls))
        again = f'echo "{self.target} {self.seed} {calls}" | REPLAYBANK_FUZZ_TELL=1 python tests/fuzz/worker.py'
        return f"{self.target}, seed {self.seed}: {self.kind}\n{self.text}\nagain: {again}"


class Worker:
    """A process that runs programs; another one takes its place when it ends."""

    def __init__(self, native: Path | None = None, environment: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, str(WORKER), *([str(native)] if native else [])]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the worker

    def run(self, target: str, seed: int, calls: list[int] | None = None) -> dict[str, Any]:
        """The worker's answer; where it died, what it left on its standard error as the failure."""
        if self._process is None:
            self._errors.seek(0)
            self._errors.truncate()
            self._process = subprocess.Popen(
                self._command, env=self._environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        told = f" {','.join(map(str, calls))}" if calls is not None else ""
        try:
            stdin.write(f"{target} {seed}{told}\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self.close()
        self._errors.seek(0)
        return {"calls": 0, "length": 100, "failure": f"{self._errors.read()[-6000:]}\nthe process ended with {code}"}

    def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            process.wait(30)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._errors.close()


def kind_of(failure: str) -> str:
    """What went wrong, in a line: failures of one kind are told once."""
    return failure.strip().splitlines()[-1][:200]


def shortened(worker: Worker, target: str, seed: int, length: int, kind: str) -> list[int]:
    """Few calls of a program that still fail in the same way (all of them, where leaving some out mends it)."""
    calls, size, trials = list(range(length)), max(1, length // 2), 0
    while size and trials < MOST_TRIALS:
        at = len(calls)
        while at > 0 and trials < MOST_TRIALS:
            fewer = calls[: max(0, at - size)] + calls[at:]
            answer = worker.run(target, seed, fewer)
            trials += 1
            if fewer and kind_of(answer.get("failure", "none"))[:40] == kind[:40]:
                calls = fewer
            at -= size
        size //= 2
    return calls


def hunt(worker: Worker, target: str, seeds: Iterable[int], most_calls: int = 2**62) -> tuple[int, int, list[Failure]]:
    """Runs programs until `most_calls` are made: how many programs, how many calls, and the failures, one of a kind."""
    programs = calls = 0
    found: dict[str, Failure] = {}
    for seed in seeds:
        answer = worker.run(target, seed)
        programs += 1
        calls += answer["calls"]
        if text := answer.get("failure"):
            kind = kind_of(text)
            if kind not in found and len(found) < 5:
                hangs = "Timeout (" in text  # each trial would take as long
                length = answer["length"]
                few = list(range(length)) if hangs else shortened(worker, target, seed, length, kind)
                found[kind] = Failure(target, seed, kind, text[-3000:], few)
        if calls >= most_calls:
            break
    return programs, calls, list(found.values())
