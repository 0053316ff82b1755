"""What is whole of a damaged checkpoint comes back as it was; what is lost is counted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank import snapshot

FRAMES = 3


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces and files, so that small buffers have many."""
    monkeypatch.setattr(snapshot, "PIECE_NBYTES", 400)
    monkeypatch.setattr(snapshot, "FILE_NBYTES", 3000)


class Life:
    """Streams of transitions, each with a number of its own (uid), now and then out of order."""

    def __init__(self, rng: np.random.Generator, streams: int, stacks: bool) -> None:
        self.rng, self.streams, self.stacks = rng, streams, stacks
        self.obs: list[Any] = [None] * streams
        self.count = 0

    def observation(self) -> Any:
        if self.rng.random() < 0.8:  # a reset
            return np.repeat(self.rng.integers(0, 9, (1, 2)), FRAMES, 0).astype(np.float32)
        return self.rng.integers(0, 9, (FRAMES, 2)).astype(np.float32)

    def step(self) -> dict[str, Any]:
        obs, after, ends = [], [], []
        for stream in range(self.streams):
            here = self.obs[stream]
            if here is None or self.rng.random() < 0.05:
                here = self.observation()
            newest = self.rng.integers(0, 9, (1, 2)).astype(np.float32)
            following = np.concatenate([here[1:], newest]) if self.rng.random() < 0.95 else self.observation()
            end = self.rng.random() < 0.1
            obs.append(here)
            after.append(following)
            ends.append(end)
            self.obs[stream] = None if end else following
        n = self.streams
        uid = np.arange(self.count, self.count + n)
        self.count += n
        last = slice(None) if self.stacks else -1
        arrays = {"obs": np.array(obs)[:, last], "next_obs": np.array(after)[:, last]}
        arrays |= {"action": uid % 3, "reward": uid * 0.5, "terminated": np.array(ends), "truncated": np.zeros(n, bool)}
        return {**arrays, "uid": uid}


def damage(rng: np.random.Generator, folder: Path) -> None:
    """A bit flipped, an end cut off, or a file gone; of one file or two."""
    files = sorted(file for file in folder.iterdir() if file.suffix == ".npz" or file.name == "manifest.json")
    for at in rng.choice(len(files), min(len(files), int(rng.integers(1, 3))), replace=False):
        contents = bytearray(files[at].read_bytes())
        kind = rng.random()
        if kind < 0.8:
            if kind < 0.6:
                contents[int(rng.integers(len(contents)))] ^= 1 << int(rng.integers(8))
            else:
                del contents[int(rng.integers(len(contents))) :]
            files[at].write_bytes(contents)
        else:
            files[at].unlink()


def readable(buffer: rb.ReplayBuffer) -> Any:
    """All that the buffer's view can use, oldest first."""
    added = buffer.stats()["added"]
    ids = np.arange(added - len(buffer), added)
    usable = buffer.view.usable(buffer._rows, ids)
    return buffer.read(ids if usable is None else ids[usable])


@pytest.mark.parametrize("seed", range(4))
def test_what_comes_back_is_what_was_added_and_the_rest_is_counted(seed: int, tmp_path: Path) -> None:
    lost = 0
    for trial in range(8):
        rng = np.random.default_rng([seed, trial])
        streams, stacks = int(rng.integers(1, 4)), trial % 3 == 0
        view = rb.FrameStack(FRAMES) if stacks else rb.Transition()
        buffer = rb.ReplayBuffer(int(rng.integers(20, 300)), streams=streams, view=view, sampler=rb.Prioritized())
        life, folder = Life(rng, streams, stacks), tmp_path / str(trial)
        for _ in range(int(rng.integers(1, 200))):
            step = life.step()
            buffer.add(**step)
            if rng.random() < 0.05:
                buffer.save(folder)
        buffer.save(folder)
        damage(rng, folder)
        try:
            rb.ReplayBuffer.load(folder)
            sound = True
        except (rb.CheckpointError, FileNotFoundError):
            sound = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = rb.ReplayBuffer.load(folder, salvage=True)
        found.check_valid()
        lost += len(buffer) - len(found)
        if not sound:
            assert f"salvaged {len(found)} transitions" in str(caught[0].message)
            assert f"lost {len(buffer) - len(found)}" in str(caught[0].message)
        else:
            assert not caught
            assert len(found) == len(buffer)
        if len(found):
            here, there = readable(found), readable(buffer)
            where = {uid: at for at, uid in enumerate(there.uid.tolist())}
            chosen = [where[uid] for uid in here.uid.tolist()]
            for name in step:
                assert np.array_equal(here[name], there[name][chosen]), name
            assert (np.diff(here.uid) > 0).all()
        found.add(**step)
        found.check_valid()
        found.save(folder)
        rb.ReplayBuffer.load(folder).check_valid()
    assert lost > 20


def test_most_comes_back_where_one_bit_is_wrong(tmp_path: Path) -> None:
    """One piece of many is lost, and perhaps the transition before it, whose next observation was in it: it is kept."""
    rng = np.random.default_rng(0)
    buffer, life = rb.ReplayBuffer(500), Life(rng, 1, stacks=False)
    for _ in range(500):
        buffer.add(**life.step())
    buffer.save(tmp_path)
    file = max(tmp_path.glob("transitions-*.npz"), key=lambda one: one.stat().st_size)
    contents = bytearray(file.read_bytes())
    contents[contents.index(b"records_") + 900] ^= 4
    file.write_bytes(contents)
    with pytest.warns(RuntimeWarning, match="lost [1-9][0-9]?: .*is damaged"):
        found = rb.ReplayBuffer.load(tmp_path, salvage=True)
    assert 450 < len(found) < 500


def test_a_backup_of_the_manifest_is_enough(tmp_path: Path) -> None:
    buffer, life = rb.ReplayBuffer(100), Life(np.random.default_rng(0), 1, stacks=False)
    for _ in range(60):
        buffer.add(**life.step())
    buffer.save(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(rb.CheckpointError, match=r"manifest\.json"):
        rb.ReplayBuffer.load(tmp_path)
    with pytest.warns(RuntimeWarning, match="salvaged 60 .*lost 0"):
        assert len(rb.ReplayBuffer.load(tmp_path, salvage=True)) == 60
    (tmp_path / "manifest.backup.json").unlink()
    with pytest.raises(rb.CheckpointError, match=r"manifest\.json.*manifest\.backup\.json"):
        rb.ReplayBuffer.load(tmp_path, salvage=True)
