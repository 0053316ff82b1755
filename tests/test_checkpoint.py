"""What is saved and loaded goes on as if nothing had happened; what is damaged is refused, and said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import SAMPLERS, VIEWS, Life, differing
from oracle import Oracle, same_batch
from replaybank import checkpoint, snapshot
from replaybank.files import CheckpointError
from replaybank.manifest import MANIFEST, signed

BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def lived(buffer: rb.ReplayBuffer, steps: int, seed: int = 0) -> Life:
    """A life of so many steps, each with a batch."""
    life = Life(buffer, seed)
    for t in range(steps):
        life.step(t)
        life.learn()
    return life


def require_same_future(one: rb.ReplayBuffer, other: rb.ReplayBuffer, batches: int) -> None:
    """Both live on in the same way, and draw the same batches, bit for bit."""
    assert differing(one, other) == []
    other.check_valid()
    first, second = Life(one, 77), Life(other, 77)
    drawn = 0
    for t in range(batches):
        if t % 5 == 0:
            first.step(t)
            second.step(t)
        batch, same = first.learn(), second.learn()
        if isinstance(batch, str):
            assert batch == same
        else:
            drawn += 1
            assert same_batch(batch, same)
            assert [getattr(batch, name).tobytes() for name in ("indices", "probabilities", "weights")] == [
                getattr(same, name).tobytes() for name in ("indices", "probabilities", "weights")
            ]
    assert drawn > batches // 2
    assert differing(one, other) == []


def forge(folder: Path, **changes: Any) -> None:
    """Changes the manifest, and signs it again."""
    manifest = json.loads((folder / MANIFEST).read_bytes())["checkpoint"]
    (folder / MANIFEST).write_bytes(signed({**manifest, **changes}))


# ---- it goes on ----


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_loaded_goes_on_as_what_was_saved(tmp_path: Path, sampler: str, view: str) -> None:
    """In the middle of episodes and schedules, wrapped around, by increments; one stream and three, all generators."""
    number = [*SAMPLERS].index(sampler) * len(VIEWS) + [*VIEWS].index(view)
    seed = np.random.Generator(BITS[number % 5](number))
    buffer = rb.ReplayBuffer(37, None, (1, 3)[number % 2], SAMPLERS[sampler](), VIEWS[view](), seed)
    life = Life(buffer, number)
    for t in range(60):
        life.step(t)
        life.learn()
        if t % 20 == 9:
            buffer.save(tmp_path)
        if t == 40 and number % 3 == 0:
            buffer.clear()
    buffer.save(tmp_path)
    require_same_future(buffer, rb.ReplayBuffer.load(tmp_path), 120)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("bits", BITS)
def test_a_thousand_batches_are_those_of_the_run_that_never_stopped(tmp_path: Path, bits: Any, streams: int) -> None:
    seed = np.random.Generator(bits(5))
    sampler = rb.Mixture([(1, rb.Prioritized()), (1, rb.Recent(rb.linear(0.9, 1.0, 2000), 9, 4))], rb.linear(0, 1, 900))
    buffer = rb.ReplayBuffer(100, None, streams, sampler, rb.NStep(3, 0.9), seed)
    lived(buffer, 80)
    buffer.save(tmp_path)
    require_same_future(buffer, rb.ReplayBuffer.load(tmp_path), 1000)


@pytest.mark.parametrize("schema", [None, {"obs": ("float32", (2,)), "action": "int64"}])
def test_a_buffer_that_holds_nothing_is_saved(tmp_path: Path, schema: Any) -> None:
    """Before the first add, with and without a schema, and after a clear."""
    buffer = rb.ReplayBuffer(20, schema, 2, rb.Prioritized(), seed=3)
    ones, off = np.ones((2, 2), np.float32), np.zeros(2, bool)
    for clear in (False, True):
        buffer.save(tmp_path)
        other = rb.ReplayBuffer.load(tmp_path)
        assert differing(buffer, other) == []
        with pytest.raises(ValueError, match="empty"):
            other.sample(1)
        for one in (buffer, other):
            one.add(ones, off, off, ones * 2, off, off)
        assert same_batch(buffer.sample(9), other.sample(9))
        if not clear:
            buffer.clear()


def test_what_is_loaded_is_what_a_list_says(tmp_path: Path) -> None:
    """Held against a deque of transitions: contents, what follows what, and priorities."""
    oracle = Oracle(41, 3)
    buffer = rb.ReplayBuffer(41, None, 3, rb.Prioritized(), seed=0)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(3, 2)).astype(np.float32)
    for t in range(90):
        after = rng.normal(size=(3, 2)).astype(np.float32)
        ends = rng.random((2, 3)) < 0.1
        fields = {"obs": obs, "action": rng.integers(0, 5, 3), "reward": rng.normal(size=3).astype(np.float32)}
        fields |= {"next_obs": after, "terminated": ends[0], "truncated": ends[1]}
        buffer.add(**fields)
        oracle.add([(stream, {name: value[stream] for name, value in fields.items()}) for stream in range(3)])
        anew = ends.any(axis=0) | (rng.random(3) < 0.1)
        obs = np.where(anew[:, None], after + 1, after)
        ids, errors = rng.integers(0, 3 * t + 3, 5), rng.normal(size=5)
        oracle.update(ids.tolist(), errors.tolist())
        buffer.update_priorities(ids, errors)
        if t % 7:
            continue
        buffer.save(tmp_path)
        loaded = rb.ReplayBuffer.load(tmp_path)
        ids = np.array(oracle.ids())
        batch = loaded.read(ids, rb.NStep(3, 0.9))
        for i, id_ in enumerate(ids.tolist()):
            expected, discount = oracle.n_step(id_, 3, 0.9)
            for name in ("obs", "action", "next_obs", "terminated", "truncated"):
                assert np.array_equal(batch[name][i], expected[name])
            assert batch["reward"][i] == pytest.approx(expected["reward"], rel=1e-6)
            assert batch["discount"][i] == pytest.approx(discount)
        assert loaded.stats()["tails"] == oracle.tails()
        found = loaded.sampler.probability_of(ids)
        assert found == pytest.approx([oracle.probabilities()[id_] for id_ in ids.tolist()])


def test_shuffled_stacks_keep_their_frames(tmp_path: Path) -> None:
    """Nothing of a stack is in another one: all frames were put aside; a run goes on in the middle of an episode."""
    rng = np.random.default_rng(0)
    buffer = rb.ReplayBuffer(30, None, view=rb.FrameStack(4), seed=1)
    stacks = rng.integers(0, 255, (80, 2, 4, 3), np.uint8)
    for t in range(80):
        obs, after = stacks[t]
        if t % 3:  # goes on from the one before
            obs = stacks[t - 1, 1]
        buffer.add(obs, t, 0.0, after, False, False)
        if t % 13 == 0:
            buffer.save(tmp_path)
            loaded = rb.ReplayBuffer.load(tmp_path)
            assert differing(buffer, loaded) == []
            ids = np.arange(max(0, t - 20), t + 1)
            assert same_batch(buffer.read(ids), loaded.read(ids))
    loaded = rb.ReplayBuffer.load(tmp_path)
    assert np.array_equal(loaded.read([78]).next_obs[0], stacks[78, 1])


# ---- saving again and again ----


def test_many_saves_write_little_and_keep_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are joined, and go once what they hold has left; all are on the disk once, and at most as much again."""
    monkeypatch.setattr(snapshot, "PIECE_NBYTES", 1 << 12)
    monkeypatch.setattr(snapshot, "FILE_NBYTES", 1 << 15)
    buffer = rb.ReplayBuffer(1000, {"obs": ("float64", (20,)), "action": "int64"}, sampler=rb.Prioritized(), seed=0)
    live, written, added = 1000 * 200, 0, 0
    rng = np.random.default_rng(0)
    for number in range(250):
        n = int(rng.choice([1, 10, 40, 150]))
        obs, off = rng.random((n + 1, 20)), np.zeros(n, bool)
        buffer.extend(obs[:-1], off, np.zeros(n), obs[1:], off, off)
        before = {path.name for path in tmp_path.glob("transitions-*")}
        buffer.save(tmp_path)
        added += n * 200
        written += sum(path.stat().st_size for path in tmp_path.glob("transitions-*") if path.name not in before)
        if number % 10 == 0:
            assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []
            used = sum(path.stat().st_size for path in tmp_path.iterdir())
            assert used < 2 * live + 100_000
            assert len([*tmp_path.iterdir()]) < 60
    assert written < 8 * added


def test_what_was_loaded_goes_on_saving_by_increments(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(3000, {"obs": ("float64", (20,)), "action": "int64"}, seed=0)
    for begin in (0, 3000):
        obs, off = np.random.default_rng(begin).random((2001, 20)), np.zeros(2000, bool)
        buffer.extend(obs[:-1], off, np.zeros(2000), obs[1:], off, off)
    buffer.save(tmp_path)
    first = {path.name for path in tmp_path.glob("transitions-*")}
    for t in range(3):
        buffer = rb.ReplayBuffer.load(tmp_path)
        buffer.add(np.full(20, t), 0, 0.0, np.full(20, t), False, False)
        buffer.save(tmp_path)
    now = {path.name: path.stat().st_size for path in tmp_path.glob("transitions-*")}
    assert first <= now.keys()
    assert sum(size for name, size in now.items() if name not in first) < 10_000
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


def test_two_buffers_on_one_path_write_all_of_their_own(tmp_path: Path) -> None:
    """Each finds that the last save there was not its own."""
    buffers = [rb.ReplayBuffer(40, None, seed=seed) for seed in (0, 1)]
    lives = [lived(buffer, 10 + 10 * i, i) for i, buffer in enumerate(buffers)]
    for turn in range(6):
        buffer, life = buffers[turn * turn % 3 % 2], lives[turn * turn % 3 % 2]
        life.step(turn)
        buffer.save(tmp_path)
        assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []
    one, other = rb.ReplayBuffer.load(tmp_path), rb.ReplayBuffer.load(tmp_path)
    Life(one, 3).step(0)
    Life(other, 4).step(0)
    one.save(tmp_path)
    other.save(tmp_path)
    assert differing(other, rb.ReplayBuffer.load(tmp_path)) == []


def test_two_saves_to_one_path_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process and in two."""
    buffer = rb.ReplayBuffer(40, None, seed=0)
    lived(buffer, 10)
    code = (
        "import replaybank as rb, sys\nbuffer = rb.ReplayBuffer(9)\n"
        "try:\n    buffer.save(sys.argv[1])\nexcept BlockingIOError as error:\n    print('refused', error)"
    )
    told = []
    publish = checkpoint.publish

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(checkpoint, "publish", publish)
        with pytest.raises(BlockingIOError, match="another process is saving"):
            rb.ReplayBuffer(9).save(tmp_path)
        told.append(subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True))
        publish(*arguments)

    monkeypatch.setattr(checkpoint, "publish", meanwhile)
    buffer.save(tmp_path)
    assert told[0].startswith("refused")
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where another test has imported it
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_process_that_was_forked_during_a_save_does_not_keep_others_from_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = rb.ReplayBuffer(40, None, seed=0)
    lived(buffer, 10)
    publish, children = checkpoint.publish, []
    waiting, go = os.pipe()

    def meanwhile(*arguments: Any) -> None:
        child = os.fork()
        if not child:
            os.close(go)
            os.read(waiting, 1)
            os._exit(0)
        children.append(child)
        publish(*arguments)

    monkeypatch.setattr(checkpoint, "publish", meanwhile)
    buffer.save(tmp_path)
    monkeypatch.setattr(checkpoint, "publish", publish)
    try:
        buffer.save(tmp_path)
    finally:
        os.close(go)
        os.close(waiting)
        os.waitpid(children[0], 0)


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    for name in ("notes.txt", "state-1.npz", "transitions-0.npz", "lock", "manifest.json.old"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / f"state-{'0' * 16}.npz").write_bytes(b"of a save that broke off")
    buffer = rb.ReplayBuffer(40, None, seed=0)
    for t in range(3):
        lived(buffer, 5, t)
        buffer.save(tmp_path)
    for name in ("notes.txt", "state-1.npz", "transitions-0.npz", "lock", "manifest.json.old"):
        assert (tmp_path / name).read_bytes() == b"mine"
    assert (tmp_path / "folder").is_dir()
    assert not (tmp_path / f"state-{'0' * 16}.npz").exists()


# ---- what can go wrong, and is said ----


def test_paths_and_compressions_that_cannot_be(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(40, None, seed=0)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            buffer.save(path)
        with pytest.raises(OSError, match="file"):
            rb.ReplayBuffer.load(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        rb.ReplayBuffer.load(tmp_path)
    with pytest.raises(ValueError, match="compression: expected one of None, 'zstd', given 'zip'"):
        buffer.save(tmp_path / "new", compression="zip")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    saving = buffer.save(tmp_path / "file", background=True)
    assert saving is not None
    for _ in range(2):
        with pytest.raises(OSError, match="file"):
            saving.result()


class Own(rb.Uniform):
    """A sampler that is not the library's."""


def test_what_a_file_cannot_hold_must_be_given(tmp_path: Path) -> None:
    """A sampler of one's own, a schedule that is a function, Hindsight's reward."""

    def beta(samples: int) -> float:
        return 0.5

    def reward(*_: Any) -> Any:
        return 0.0

    goals = dict.fromkeys(("achieved_goal", "desired_goal", "observation"), ("float32", (2,)))
    cases: list[tuple[Any, Any, str, Any]] = [
        (Own, rb.Transition, "sampler=.*Own", None),
        (lambda: rb.Prioritized(beta=beta), rb.Transition, "sampler=.*beta", None),
        (lambda: rb.Combined(Own()), rb.Transition, "sampler=.*Own", None),
        (rb.Uniform, lambda: rb.Hindsight(reward), "view=.*reward", goals),
    ]
    for number, (sampler, view, message, obs) in enumerate(cases):
        schema = None if obs is None else {"obs": obs, "action": "int64"}
        buffer = rb.ReplayBuffer(30, schema, sampler=sampler(), view=view(), seed=1)
        if schema is None:
            lived(buffer, 20)
        buffer.save(tmp_path / str(number))
        with pytest.raises(TypeError, match=f"load: give {message}"):
            rb.ReplayBuffer.load(tmp_path / str(number))
        given = {"sampler": sampler()} if "sampler" in message else {"view": view()}
        loaded = rb.ReplayBuffer.load(tmp_path / str(number), **given)
        assert differing(buffer, loaded) == []
        if schema is None:
            require_same_future(buffer, loaded, 60)


def test_another_kind_of_sampler_begins_with_what_is_there(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(30, None, 2, rb.Prioritized(), seed=1)
    lived(buffer, 40)
    buffer.clear()
    lived(buffer, 3)
    buffer.save(tmp_path)
    for sampler in (rb.Uniform(), rb.RankPrioritized(), rb.SampleOnce(), Own()):
        loaded = rb.ReplayBuffer.load(tmp_path, sampler=sampler, view=rb.NStep(2, 0.5))
        loaded.check_valid()
        ids = loaded.sample(len(buffer)).indices
        assert ids.min() >= buffer.stats()["added"] - len(buffer)
    kept = rb.ReplayBuffer.load(tmp_path, sampler=rb.Prioritized(0.3))
    assert kept.sampler.state()["priorities"].tobytes() == buffer.sampler.state()["priorities"].tobytes()


def test_a_newer_version_is_refused_by_its_number(tmp_path: Path) -> None:
    rb.ReplayBuffer(9).save(tmp_path)
    forge(tmp_path, version=2)
    with pytest.raises(CheckpointError, match="version 1, found replaybank checkpoint version 2; a newer replaybank"):
        rb.ReplayBuffer.load(tmp_path)
    forge(tmp_path, format="another", version=1)
    with pytest.raises(CheckpointError, match=r"found another version 1$"):
        rb.ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_what_is_missing_cut_or_flipped_is_refused_by_its_name(tmp_path: Path, compression: str | None) -> None:
    if compression:
        pytest.importorskip("zstandard")
    buffer = rb.ReplayBuffer(40, None, 2, rb.Prioritized(), rb.FrameStack(3), seed=0)
    for t in range(3):
        lived(buffer, 20 // (1 + 9 * t), t)
        buffer.save(tmp_path, compression=compression)
    rng = np.random.default_rng(0)
    files = [path for path in tmp_path.iterdir() if path.name not in ("lock", "manifest.backup.json")]
    assert len(files) >= 3
    refused = 0
    for path in files:
        whole = path.read_bytes()
        damages = [None, *rng.integers(0, len(whole), 10).tolist(), *(-rng.integers(1, len(whole), 60)).tolist()]
        for damage in damages:
            if damage is None:
                path.unlink()
            elif damage >= 0:
                path.write_bytes(whole[:damage])
            else:
                flipped = bytearray(whole)
                flipped[damage] ^= 1 << int(rng.integers(8))
                path.write_bytes(flipped)
            if damage is None and path.name == MANIFEST:
                with pytest.raises(FileNotFoundError):
                    rb.ReplayBuffer.load(tmp_path)
            else:
                try:  # a bit of the archive's own directory is nobody's
                    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []
                    assert damage is not None
                    assert damage < 0
                except CheckpointError as error:
                    refused += 1
                    if not str(error).startswith(path.name):
                        raise
            path.write_bytes(whole)
    assert refused > 0.6 * 70 * len(files)
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


# ---- the files ----


def test_numpy_reads_the_files_and_nothing_is_pickled(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(40, None, 2, rb.Prioritized(), rb.FrameStack(3), seed=np.random.Generator(BITS[2](1)))
    lived(buffer, 30)
    buffer.save(tmp_path)
    names = set()
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                if name == "index.json":
                    continue
                array = arrays[name]
                assert not array.dtype.hasobject
                names.add(name.split("_")[0])
                if name.startswith("records_"):
                    assert array.dtype.names is not None
                    assert {"obs", "action", "reward", "state", "terminated", "truncated"} <= {*array.dtype.names}
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    assert {"records", "newest", "values.sampler"} <= {name.split("_")[0] for name in names}
    json.loads((tmp_path / MANIFEST).read_bytes())
    assert not [*tmp_path.glob("*.pkl")]


def test_compressed_files_hold_the_same(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    buffer = rb.ReplayBuffer(400, None, 2, rb.RankPrioritized(), rb.FrameStack(3), seed=0)
    life = lived(buffer, 100)
    buffer.save(tmp_path / "plain")
    for compression in ("zstd", None, "zstd"):
        life.step(0)
        buffer.save(tmp_path / "small", compression=compression)
        assert differing(buffer, rb.ReplayBuffer.load(tmp_path / "small")) == []
    small, plain = (sum(p.stat().st_size for p in (tmp_path / n).glob("tr*")) for n in ("small", "plain"))
    assert small < plain


# ---- what is odd, but may be ----


@pytest.mark.parametrize("seed", [True, np.int64(3), [1, 2], 2**200, np.random.SeedSequence(4), None])
def test_whatever_seed_it_had_it_is_loaded(tmp_path: Path, seed: Any) -> None:
    buffer = rb.ReplayBuffer(20, None, seed=seed)
    lived(buffer, 9)
    buffer.save(tmp_path)
    loaded = rb.ReplayBuffer.load(tmp_path)
    assert same_batch(buffer.sample(9), loaded.sample(9))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_that_was_not_told_of_the_last_is_saved(tmp_path: Path, sampler: str) -> None:
    """An interrupt can come after rows have come in, and before the sampler knows."""
    buffer = rb.ReplayBuffer(20, None, 2, SAMPLERS[sampler](), seed=0)
    life = lived(buffer, 15)
    added = buffer.sampler.added
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(first: int, n: int) -> None:
            raise KeyboardInterrupt

        patch.setattr(buffer.sampler, "added", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            life.step(0)
    assert buffer.sampler.added == added
    buffer.save(tmp_path)
    loaded = rb.ReplayBuffer.load(tmp_path)
    loaded.check_valid()
    buffer.check_valid()
    require_same_future(buffer, loaded, 30)


@pytest.mark.parametrize("leave", ["clear", "overwrite"])
def test_what_was_drawn_may_all_have_left(tmp_path: Path, leave: str) -> None:
    """`stats` finds out that it has, between two calls of `sample`."""
    buffer = rb.ReplayBuffer(20, None, 2, seed=0)
    life = lived(buffer, 15)
    if leave == "clear":
        life.step(0)
        buffer.clear()
    for t in range(20):
        life.step(t)
    buffer.stats()
    buffer.save(tmp_path)
    require_same_future(buffer, rb.ReplayBuffer.load(tmp_path), 20)
