"""A storage after the power was gone: whatever the disk had written by itself since the last save.

A model of the disk: at each save all of the files is on it. From then on the system may write any page of a mapped file
at any time, in any state that it has been in; only the horizon is waited for. So after the power was gone each page is
as it was at one of the moments since the save.
"""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank import checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mapped as on POSIX")
FRAMES = 3
PAGE = 64  # bytes: the smaller, the more ways in which pages of different moments meet


def broken(*_: Any) -> None:
    raise OSError("no manifest")


class Machine:
    """A buffer in files, what it was at its last save, and what may be on the disk."""

    def __init__(self, rng: np.random.Generator, folder: Path, stacks: bool) -> None:
        self.rng, self.folder, self.stacks = rng, folder, stacks
        self.streams, self.capacity = int(rng.integers(1, 4)), int(rng.integers(10, 150))
        view = rb.FrameStack(FRAMES) if stacks else rb.NStep(3, 0.9)
        self.buffer = rb.ReplayBuffer(
            self.capacity, None, self.streams, rb.Prioritized(), view, seed=1, storage=folder / "0"
        )
        self.obs: list[Any] = [None] * self.streams
        self.starts = 0
        self.moments: list[dict[str, bytes]] = []
        self.saved: dict[int, list[bytes]] = {}
        self.left = self.added = 0

    @property
    def here(self) -> Path:
        return self.folder / str(self.starts)

    def observation(self) -> Any:
        if self.rng.random() < 0.7:
            return np.repeat(self.rng.integers(0, 9, (1, 2)), FRAMES, 0).astype(np.float32)
        return self.rng.integers(0, 9, (FRAMES, 2)).astype(np.float32)

    def add(self) -> None:
        obs, after, ends = [], [], []
        for stream, known in enumerate(self.obs):
            here = self.observation() if known is None or self.rng.random() < 0.1 else known
            newest = self.rng.integers(0, 9, (1, 2)).astype(np.float32)
            following = np.concatenate([here[1:], newest]) if self.rng.random() < 0.9 else self.observation()
            end = bool(self.rng.random() < 0.15)
            self.obs[stream] = None if end else following
            obs.append(here)
            after.append(following)
            ends.append(end)
        zeros = np.zeros(self.streams)
        number = np.arange(self.streams) + self.rng.integers(10**6)
        self.buffer.add(np.array(obs), number, zeros, np.array(after), np.array(ends), zeros.astype(bool))

    def contents(self) -> dict[int, list[bytes]]:
        """By id all that a transition is, as far as it can be read."""
        added = self.buffer.stats()["added"]
        ids = np.arange(added - len(self.buffer), added)
        rows = self.buffer._rows
        usable = None if rows is None or not len(ids) else self.buffer.view.usable(rows, ids)
        ids = ids if usable is None else ids[usable]
        if not len(ids):
            return {}
        batch = self.buffer.read(ids)
        names = tuple(batch.keys())
        return {int(id_): [np.asarray(batch[name][i]).tobytes() for name in names] for i, id_ in enumerate(ids)}

    def look(self) -> None:
        """What the system may have on its way to the disk now."""
        self.moments.append({file.name: file.read_bytes() for file in self.here.glob("*.bin")})

    def save(self) -> None:
        self.buffer.save()
        self.saved, self.added = self.contents(), self.buffer.stats()["added"]
        self.left = self.added - len(self.buffer)
        self.moments = []
        self.look()

    def break_off_a_save(self) -> None:
        """What was saved before is what counts, though all else is on the disk."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "publish", broken)
            with pytest.raises(OSError, match="no manifest"):
                self.buffer.save()
        self.look()

    def lose_power(self) -> int:
        """Goes on from what was on the disk; gives how many transitions had left since the save."""
        self.look()
        leaving = self.buffer.stats()["added"] - len(self.buffer)
        before = self.here
        self.starts += 1
        self.here.mkdir()
        for file in before.iterdir():
            if file.suffix != ".bin":
                shutil.copy(file, self.here / file.name)
        for name in self.moments[-1]:
            self.write(name)
        del self.buffer
        gc.collect()
        shutil.rmtree(before)
        self.buffer = rb.ReplayBuffer.load(self.here)
        self.buffer.check_valid()
        assert self.buffer.stats()["added"] == self.added
        oldest = self.added - len(self.buffer)
        most = min(max(leaving, self.left) + self.capacity // 64, self.added)
        assert self.left <= oldest <= most, "more is lost than has left"
        there = self.contents()
        expected = {id_: values for id_, values in self.saved.items() if id_ >= oldest}
        assert there == {id_: expected[id_] for id_ in there}, "a transition is not what was saved"
        cut = (FRAMES - 1) * self.streams * self.stacks  # stacks of which some frames have left
        assert len(expected) - len(there) <= cut, "a transition that has not left is lost"
        self.obs = [None] * self.streams
        self.saved, gone = there, oldest - self.left
        self.left = oldest
        self.moments = []
        self.look()
        return gone

    def write(self, name: str) -> None:
        """One file as the disk may have it: each page from one of the moments."""
        states = [moment.get(name, b"") for moment in self.moments]
        size = max(map(len, states))
        pages = -(-size // PAGE)
        padded = np.array([np.frombuffer(state.ljust(pages * PAGE, b"\0"), np.uint8) for state in states])
        newest = self.rng.random() < 0.2
        which = np.full(pages, len(states) - 1) if newest else self.rng.integers(0, len(states), pages)
        mixed = padded.reshape(len(states), pages, PAGE)[which, np.arange(pages)].tobytes()
        (self.here / name).write_bytes(mixed[:size])


@pytest.mark.parametrize("seed", range(3))
def test_what_the_disk_wrote_by_itself_changes_nothing(seed: int, tmp_path: Path) -> None:
    losses = gone = 0
    for trial in range(5):
        rng = np.random.default_rng([seed, trial])
        machine = Machine(rng, tmp_path / str(trial), stacks=trial % 2 == 0)
        saved = False
        for _ in range(int(rng.integers(20, 250))):
            machine.add()
            if saved and rng.random() < 0.1:
                machine.look()
            if rng.random() < 0.01:
                machine.buffer.clear()
            if rng.random() < 0.05:
                machine.save()
                saved = True
            if saved and rng.random() < 0.05:
                machine.break_off_a_save()
            if saved and rng.random() < 0.05:
                gone += machine.lose_power()
                losses += 1
    assert losses > 8
    assert gone > 0
