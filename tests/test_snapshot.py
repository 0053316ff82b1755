"""What a save captures while others go on: the buffer at one instant, whatever leaves or moves on meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import SAMPLERS, VIEWS, Life, differing, parts
from replaybank import snapshot
from replaybank.snapshot import Snapshot


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows a piece, and a few pieces a file."""
    monkeypatch.setattr(snapshot, "PIECE_NBYTES", 600)
    monkeypatch.setattr(snapshot, "FILE_NBYTES", 3000)


def moved_on(monkeypatch: pytest.MonkeyPatch, after: int, meanwhile: Any) -> None:
    """Lets `meanwhile` happen once a snapshot has captured so many pieces (0: none), between two of them."""
    captured = [0]
    write = Snapshot._write

    def writing(self: Snapshot) -> None:
        write(self)
        captured[0] += 1
        if captured[0] == after:
            meanwhile()

    monkeypatch.setattr(Snapshot, "_write", writing)
    if after == 0:
        write_all = Snapshot.write_all

        def writing_all(self: Snapshot, lock: Any) -> None:
            meanwhile()
            write_all(self, lock)

        monkeypatch.setattr(Snapshot, "write_all", writing_all)


def run(life: Life, steps: int) -> None:
    for t in range(steps):
        life.step(t)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("much", [1, 25, 90])
def test_what_moves_on_while_it_is_written_is_saved_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, after: int, much: int
) -> None:
    """Rows leave before and after their turn, streams end and go on; and so again in an incremental save."""
    number = [*VIEWS].index(view) + after + much
    sampler = [*SAMPLERS.values()][number % len(SAMPLERS)]()
    buffer = rb.ReplayBuffer(37, None, (1, 3)[number % 2], sampler, VIEWS[view](), seed=1)
    life = Life(buffer, number)
    folder = tmp_path / "checkpoint"

    def meanwhile() -> None:
        for t in range(much):
            life.step(t)
            life.learn()
        if number % 3 == 0:
            buffer.clear()
            life.step(much)

    for _ in range(4):
        for t in range(17):
            life.step(t)
            life.learn()
        then = parts(buffer)
        with monkeypatch.context() as patch:
            moved_on(patch, after, meanwhile)
            buffer.save(folder)
        assert buffer._rows is not None
        assert buffer._rows.guards == ()
        loaded = rb.ReplayBuffer.load(folder)
        loaded.check_valid()
        buffer.check_valid()
        found = parts(loaded)
        assert [name for name in then if then[name] != found.get(name)] == []


def test_what_goes_wrong_where_rows_leave_is_told_to_who_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = rb.ReplayBuffer(37, None, seed=1)
    life = Life(buffer, 0)
    for t in range(40):
        life.step(t)
    buffer.save(tmp_path)
    last = parts(buffer)
    for t in range(30):
        life.step(t)

    told_to_who_adds: list[BaseException] = []
    for wrong in ("put", "_capture"):
        error = OSError("no more") if wrong == "put" else MemoryError("no more")

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        def meanwhile(wrong: str = wrong, fail: Any = fail) -> None:
            patch.setattr(snapshot.Writer if wrong == "put" else Snapshot, wrong, fail)
            try:
                for t in range(40):
                    life.step(t)
            except BaseException as raised:
                told_to_who_adds.append(raised)

        with monkeypatch.context() as patch:
            moved_on(patch, 1, meanwhile)
            with pytest.raises(type(error), match="no more"):
                buffer.save(tmp_path)
        assert told_to_who_adds == []
        assert buffer._rows is not None
        assert buffer._rows.guards == ()
        buffer.check_valid()
        assert parts(rb.ReplayBuffer.load(tmp_path)) == last
    buffer.save(tmp_path)
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


def test_an_interrupt_where_rows_leave_reaches_who_was_interrupted_and_the_save_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was captured halfway, or twice, is no checkpoint."""
    buffer = rb.ReplayBuffer(37, None, seed=1)
    life = Life(buffer, 0)
    for t in range(40):
        life.step(t)
    capture = Snapshot._capture

    def interrupted(self: Snapshot, room: Any) -> None:
        before = self._next
        capture(self, room)
        self._next = before
        raise KeyboardInterrupt

    def meanwhile() -> None:
        patch.setattr(Snapshot, "_capture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(life, 40)
        patch.setattr(Snapshot, "_capture", capture)
        buffer.check_valid()

    with monkeypatch.context() as patch:
        moved_on(patch, 1, meanwhile)
        with pytest.raises(RuntimeError, match="interrupted"):
            buffer.save(tmp_path)
    assert not [*tmp_path.glob("*.npz")]
    buffer.save(tmp_path)
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


def test_threads_that_go_on_leave_a_save_its_instant(tmp_path: Path, effort: int) -> None:
    """Each transition and each priority tells when it came; a cut through time has all before it and none after."""
    capacity, rounds = 1000, 4 * effort
    buffer = rb.ReplayBuffer(capacity, None, 1, rb.Prioritized(alpha=1.0, epsilon=0.0), seed=0)
    stop = threading.Event()
    clock = threading.Lock()
    time = [0]
    wrong: list[BaseException] = []

    def tick() -> int:
        time[0] += 1
        return time[0]

    def add() -> None:
        now = tick()
        obs = np.full((5, 20), now, np.float64)
        ones = np.ones(5)
        buffer.extend(obs, ones, ones, obs + 1, ones > 1, ones > 1, when=np.full(5, now))

    def update() -> None:
        """All ids get a priority that is later than any before."""
        now = tick()
        added = buffer.stats()["added"]
        ids = np.arange(max(0, added - capacity), added)
        buffer.update_priorities(ids, np.full(len(ids), float(now)))

    def go_on(action: Any, every: int) -> None:
        try:
            while not stop.is_set():
                for _ in range(every):
                    with clock:
                        action()
        except BaseException as error:
            wrong.append(error)

    add()
    threads = [
        threading.Thread(target=go_on, args=arguments)
        for arguments in ((add, 9), (update, 1), (lambda: buffer.sample(32), 1))
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(rounds):
            begun = time[0]
            saving = buffer.save(tmp_path, background=True)
            assert saving is not None
            saving.result()
            ended = time[0]
            loaded = rb.ReplayBuffer.load(tmp_path)
            loaded.check_valid()
            assert loaded._rows is not None
            ids = np.arange(loaded._rows.oldest, loaded._rows.added)
            records = loaded._rows.data[ids % capacity]
            priorities = loaded.sampler.priority_of(ids)  # type: ignore[attr-defined]
            when = records["when"]
            # Groups of five came at once; what came after the last update has the priority that update gave.
            assert np.array_equal(when, records["obs"][:, 0])
            last_update = int(priorities.max())
            assert (np.diff(when) >= 0).all()
            assert (priorities == last_update).all() or last_update == 1
            cut = max(int(when.max()), last_update if last_update > 1 else 0)
            assert begun <= cut <= ended or number == 0
            if number % 2:
                with clock:
                    tick()
                    buffer.clear()
                    add()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


MEMORY = """
import sys, threading
import numpy as np
import replaybank as rb

kind, folder = sys.argv[1:]
rng = np.random.default_rng(0)
if kind == "rows":
    buffer = rb.ReplayBuffer(300_000, {"obs": ("float32", (200,)), "action": "int64"}, sampler=rb.Prioritized())
    n = 10_000
    for _ in range(31):
        obs = rng.random((n + 1, 200), np.float32)
        off = np.zeros(n, bool)
        buffer.extend(obs[:-1], off, np.zeros(n), obs[1:], off, off)
else:  # shuffled stacks: every one of them keeps its older frames to itself
    buffer = rb.ReplayBuffer(2_000, {"obs": ("uint8", (8, 84, 84)), "action": "int64"}, view=rb.FrameStack(8))
    n = 100
    for _ in range(21):
        off = np.zeros(n, bool)
        stacks = rng.integers(0, 255, (2, n, 8, 84, 84), np.uint8)
        buffer.extend(stacks[0], off, np.zeros(n), stacks[1], off, off)
        del stacks
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10
def now():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) >> 10
stop = threading.Event()
def go_on():
    if kind == "rows":
        obs = rng.random((501, 200), np.float32)
        off = np.zeros(500, bool)
        while not stop.is_set():
            buffer.extend(obs[:-1], off, np.zeros(500), obs[1:], off, off)
for way in ("alone", "while others add"):
    open("/proc/self/clear_refs", "w").write("5")
    before = now()
    saving = buffer.save(folder + way, background=True)
    thread = threading.Thread(target=go_on)
    if way != "alone":
        thread.start()
    saving.result()
    stop.set()
    print(before, peak() - before)
    if way != "alone":
        thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("kind", ["rows", "stacks"])
def test_a_save_takes_at_most_64_mib(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", MEMORY, kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        whole, more = map(int, line.split())
        assert whole > 200, "too little to tell"
        assert more <= 64, done.stdout
