"""One contender in a process of its own, so that its memory can be measured; `durability.py` calls it, line by line."""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import machine
from adapters.durability import WAYS, Contents, Way, WriteFloor, files_of
from contender import Contender, Setup
from frames_data import Frames, breakout, random_frames
from transitions import Step, Transitions, priorities_like_td_errors, trajectories

QUICK_FRAMES = 2_000  # below this frames are noise, which needs no emulator
UPDATE = 256


def status(field: str) -> int:
    """Bytes of RAM of this process: VmRSS now, VmHWM the most since `forget`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} here")


def forget() -> None:
    """The most begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    gc.collect()
    begin = perf_counter()
    found = work()
    return found, perf_counter() - begin


def digest(contents: Contents) -> dict[str, int]:
    """A checksum a column."""
    found: dict[str, int] = {}
    for part in contents:
        for name, values in part.items():
            found[name] = zlib.crc32(np.ascontiguousarray(values), found.get(name, 0))
    return found


def experience(work: str, count: int) -> Transitions | Frames:
    if work == "transitions":
        return trajectories(count, np.random.default_rng(0), (20, 200))
    return breakout(count) if count > QUICK_FRAMES else random_frames(count, np.random.default_rng(0))


class Worker:
    """A full buffer, and a folder that is its own."""

    def __init__(self, way: Way, work: str, count: int, folder: Path) -> None:
        self.way = way
        self.folder = folder
        self.saved = 0
        setup = Setup(count // way.part, prioritized=way.kind.prioritizes)
        way.kind.check(setup)
        self.contender: Contender = way.kind(setup)
        self.steps: list[Step] = []
        if not isinstance(self.contender, WriteFloor):
            self.fill(experience(work, count // way.part), setup)
            self.digest = digest(way.contents(self.contender._buffer))

    def fill(self, data: Transitions | Frames, setup: Setup) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.contender.fill(data)
        if setup.prioritized:
            self.contender.set_priorities(priorities_like_td_errors(setup.capacity, np.random.default_rng(0)))
        beyond = (
            data.part(0, setup.capacity // 100) if isinstance(data, Transitions) else data.part(setup.capacity // 100)
        )
        self.steps = list(beyond.steps())

    def fresh(self) -> Path:
        """Where nothing is yet; what was saved before goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        os.sync()
        self.saved += 1
        return self.folder / f"saved-{self.saved}"

    def read(self, checkpoint: str) -> dict[str, Any]:
        """For a floor: what it is to write."""
        assert isinstance(self.contender, WriteFloor)
        self.contender.read(Path(checkpoint))
        self.digest = digest(self.contender.contents())
        return {}

    def turn(self) -> dict[str, Any]:
        """One save and one load: seconds, bytes, and the most memory beyond the buffer's own."""
        way, contender, path = self.way, self.contender, self.fresh()
        gc.collect()
        forget()
        before = status("VmRSS")
        _, saving = timed(lambda: way.save(contender._buffer, path))
        save_memory = status("VmHWM") - before
        size = sum(file.stat().st_size for file in files_of(self.folder))
        forget()
        loaded, loading = timed(lambda: way.load(path, contender))
        load_memory = status("VmHWM") - status("VmRSS")
        if digest(way.contents(loaded)) != self.digest:
            raise ValueError("what was loaded is not what was saved")
        return {
            "save": saving,
            "load": loading,
            "bytes": size,
            "save_memory": save_memory,
            "load_memory": load_memory,
        }

    def keep(self) -> dict[str, Any]:
        """A checkpoint that stays, for the floors."""
        path = self.folder.with_name("kept")
        self.way.save(self.contender._buffer, path)
        return {"path": str(path)}

    def again(self, updates: bool) -> dict[str, Any]:
        """A save, 1% new transitions, and a save to the same path; `updates`: with the priorities of a loop, too."""
        buffer, path, rng = self.contender._buffer, self.fresh(), np.random.default_rng(self.saved)
        _, first = timed(lambda: buffer.save(path))
        for number, step in enumerate(self.steps):
            self.contender.add(*step)
            if updates and number % 4 == 3:
                batch = self.contender.sample(UPDATE)
                self.contender.update(batch.indices, priorities_like_td_errors(UPDATE, rng))
        _, second = timed(lambda: buffer.save(path))
        loaded, load = timed(lambda: self.way.load(path, self.contender))
        self.digest = digest(self.way.contents(buffer))
        if digest(self.way.contents(loaded)) != self.digest:
            raise ValueError("what was loaded is not what was saved")
        return {"first": first, "second": second, "load": load}

    def background(self) -> dict[str, Any]:
        """The longest `add` and `sample` while a save is under way, and for as long without."""
        path = self.fresh()
        saving = self.contender._buffer.save(path, background=True)
        begin = perf_counter()
        during = self.longest(lambda: not saving.done())
        saving.result()
        seconds = perf_counter() - begin
        end = perf_counter() + seconds
        without = self.longest(lambda: perf_counter() < end)
        self.digest = digest(self.way.contents(self.contender._buffer))
        return {
            "seconds": seconds,
            "add": during[0],
            "sample": during[1],
            "add_without": without[0],
            "sample_without": without[1],
        }

    def longest(self, going: Callable[[], bool]) -> tuple[float, float]:
        """Of a loop that adds a step and samples 256, the longest of each."""
        add = sample = 0.0
        calls = 0
        gc.collect()
        gc.disable()
        while going():
            step = self.steps[calls % len(self.steps)]
            begin = perf_counter()
            self.contender.add(*step)
            added = perf_counter()
            self.contender.sample(UPDATE)
            end = perf_counter()
            add, sample = max(add, added - begin), max(sample, end - added)
            calls += 1
        gc.enable()
        return add, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("work", choices=WAYS)
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    orders = sys.stdin
    worker: Worker | None = None
    while True:
        try:
            if worker is None:
                way = next(way for way in WAYS[given.work] if way.kind.name == given.name)
                worker = Worker(way, given.work, given.count, given.folder)
                answer: dict[str, Any] = {}
            else:
                line = orders.readline()
                if not line:
                    break
                order, arguments = json.loads(line)
                answer = getattr(worker, order)(**arguments)
        except Exception as error:  # whatever a library fails with goes into the report
            reason = str(error) if type(error).__name__ == "LeftOutError" else f"{type(error).__name__}: {error}"
            print(json.dumps({"error": machine.without_paths(reason)}), file=answers, flush=True)
            if worker is None:
                break
        else:
            print(json.dumps(answer), file=answers, flush=True)
    shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
