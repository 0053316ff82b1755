"""Bytes that anybody could have made up: `load` refuses them, or gives a buffer that works.

Checkpoints of all kinds are damaged at random: bits, lengths, files of others; and by somebody who knows the format and
signs again what he changed: any value of the manifest or of an index, any element of an array. Each input has a seed,
and runs in a process that may die without taking the answer along.

    python tests/fuzz/test_fuzz_checkpoint.py SEED [MODULE]     tries one seed, loudly (with another native module)
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank.files import CheckpointError
from replaybank.manifest import MANIFEST, signed

MEMORY = 3 << 30  # bytes of address space for a process; checkpoints here take a few KiB
PATIENCE = 60  # seconds for one input, on a busy machine, before it counts as a hang
MUCH = 10**5  # who asks for so many of something may run out of memory
BLOCK = 500  # inputs for one process

INTEGERS = (
    *(0, 1, -1, -2, 2, 3, 7, 40, 255, 2**15, 10**5, 10**6 + 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**53),
    *(2**59, 2**62, 2**62 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30, -(10**30)),
)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e308, -1e308, 1.5)
TEXTS = (
    *("", ".", "..", "../x", "/dev/zero", "a\0b", "\ud800", "a" * 300, "lock", "manifest.json", "obs", "link_next"),
    *("PCG64", "MT19937", "Philox", "SFC64", "Uniform", "Prioritized", "Mixture", "SampleOnce", "NStep", "Sequence"),
    *(
        "Hindsight",
        "FrameStack",
        "linear",
        "batch",
        "buffer",
        "reset",
        "zero",
        "frames",
        "stacks",
        "zstd",
        "<f8",
        "|b1",
    ),
    *("<i8", "|u1", "|O", "<V8", "<f99", ">i8", "values.sampler_state.priorities", "newest", "terminated"),
)


# ---- what is damaged ----


def values(rng: np.random.Generator, node: Any, lead: tuple[int, ...]) -> Any:
    """Fields of such a node: small numbers."""
    if isinstance(node, dict):
        return {name: values(rng, child, lead) for name, child in node.items()}
    if isinstance(node, tuple):
        return tuple(values(rng, child, lead) for child in node)
    return rng.integers(0, 2, (*lead, *node.shape)).astype(node.dtype)


def add(buffer: rb.ReplayBuffer, rng: np.random.Generator, n: int) -> None:
    """Adds n times; now and then the stream goes on from what came before."""
    schema = buffer.schema
    assert schema is not None
    lead = (buffer.streams,) if buffer.streams > 1 else ()
    obs = None
    for _ in range(n):
        fields = {name: values(rng, node, lead) for name, node in schema.fields.items()}
        if obs is not None and rng.random() < 0.8:
            fields["obs"] = obs
        for name in ("terminated", "truncated"):
            fields[name] = rng.random(lead) < 0.05
        buffer.add(**fields)
        obs = fields["next_obs"]


def samplers() -> list[Any]:
    """One of each kind."""
    return [
        rb.Uniform(),
        rb.Prioritized(0.6, rb.linear(0.4, 1.0, 100)),
        rb.RankPrioritized(weight_norm="buffer"),
        rb.SampleOnce(),
        rb.Recent(0.99, 7, 3),
        rb.Combined(rb.Prioritized(weight_norm="buffer"), 2),
        rb.Mixture([(1, rb.RankPrioritized()), (2, rb.Combined()), (1, rb.SampleOnce())]),
    ]


def views() -> list[Any]:
    """One of each kind that a file can hold; all read stacks of 2 frames."""
    return [
        rb.Transition(0.9),
        rb.NStep(3, 0.9),
        rb.FrameStack(2),
        rb.FrameStack(2, axis=-1, padding="zero", view=rb.NStep(2, 0.9)),
        rb.FrameStack(3, adds="frames"),
        rb.Sequence(4, burn_in=1, stride=2),
        rb.Sequence(3, across_episodes=True, at_start=["more"]),
    ]


BITS = (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM)
OBSERVATIONS: tuple[Any, ...] = (("uint8", (2, 2)), {"a": ("float32", (2, 4)), "b": [("int64", (2,)), ("?", (4, 2))]})


@functools.cache
def valid(number: int) -> dict[str, bytes]:
    """The files of a checkpoint, the last of a few saves."""
    rng = np.random.default_rng(number)
    spec = {"obs": OBSERVATIONS[number % 2], "action": "int64", "more": ("float32", (2,))}
    streams = (1, 3)[number // 2 % 2]
    sampler, view = samplers()[number % 7], views()[(number + number // 7) % 7]
    seed = np.random.Generator(BITS[number % 5](number))
    buffer = rb.ReplayBuffer(int(rng.integers(1, 60)), spec, streams, sampler, view, seed)
    compression = "zstd" if number % 4 == 3 and has_zstd() else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkpoint")
        for _ in range(int(rng.integers(1, 4))):
            add(buffer, rng, int(rng.integers(1, 30)))
            exercise_draws(buffer, rng)
            if rng.random() < 0.2:
                buffer.clear()
            buffer.save(folder, compression=compression)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}


def has_zstd() -> bool:
    """Whether compression can be tried."""
    try:
        import zstandard  # noqa: F401
    except ImportError:
        return False
    return True


# ---- how ----


def damaged(rng: np.random.Generator) -> dict[str, bytes]:
    """A checkpoint that is none any more, or another one."""
    files = dict(valid(int(rng.integers(70))))
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            scratch(files, rng)
        return files
    manifest = json.loads(files[MANIFEST])["checkpoint"]
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        if rng.random() < 0.5:
            manifest = change(manifest, rng)
        else:
            with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):  # changed beyond that already
                change_file(files, manifest, rng)
    with contextlib.suppress(ValueError):  # what cannot be signed
        files[MANIFEST] = signed(manifest)
    return files


def scratch(files: dict[str, bytes], rng: np.random.Generator) -> None:
    """What a bad disk does, or a bad copy."""
    name = str(rng.choice(list(files)))
    content = bytearray(files[name])
    match rng.integers(6):
        case 0:
            for _ in range(int(rng.integers(1, 9))):
                if content:
                    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        case 1:
            del content[rng.integers(len(content) + 1) :]
        case 2:
            at = int(rng.integers(len(content) + 1))
            content[at : at + int(rng.integers(1, 600))] = bytes(int(rng.integers(1, 600)))
        case 3:
            other = valid(int(rng.integers(70)))
            content = bytearray(other[str(rng.choice(list(other)))])
        case 4:
            content = bytearray(files[str(rng.choice(list(files)))])
        case 5:
            depth = int(rng.choice([10, 1000, 10**5]))
            content = bytearray(b'{"crc32": 1, "checkpoint": ' + b"[" * depth + b"]" * depth + b"}")
    files[name] = bytes(content)
    if rng.random() < 0.1:
        del files[name]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in nested ones."""
    yield at
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        yield from places(child, (*at, key))


def change(value: Any, rng: np.random.Generator) -> Any:
    """Nested values with one of them changed."""
    value = copy.deepcopy(value)
    paths = list(places(value))
    *path, last = paths[rng.integers(1, len(paths))] if len(paths) > 1 else ("",)
    parent = functools.reduce(lambda node, key: node[key], path, value)
    old, other = (
        parent[last],
        copy.deepcopy(functools.reduce(lambda n, k: n[k], paths[rng.integers(len(paths))], value)),
    )
    match rng.integers(10):
        case 0 if isinstance(parent, dict):
            del parent[last]
        case 1 if isinstance(parent, list):
            parent.insert(last, copy.deepcopy(old)) if rng.random() < 0.5 else parent.pop(last)
        case 2:
            parent[last] = other
        case 3:
            deep: Any = old
            for _ in range(int(rng.choice([1, 2, 31, 33, 100]))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            parent[last] = deep
        case 4 | 5 | 6 if type(old) is int:
            parent[last] = old + int(rng.choice([-8, -1, 1, 2, 9, old or 5]))
        case 4 if isinstance(parent, dict):
            parent[str(rng.choice(list(TEXTS)))] = parent.pop(last)
        case _:
            parent[last] = plain(rng)
    return value


def plain(rng: np.random.Generator) -> Any:
    """Any value."""
    pool = (INTEGERS, INTEGERS, FLOATS, TEXTS, (None, True, False, [], {}, [1, 2], {"$array": "newest"}, [[]]))
    chosen: tuple[Any, ...] = pool[rng.integers(len(pool))]
    return copy.deepcopy(chosen[rng.integers(len(chosen))])


def change_file(files: dict[str, bytes], manifest: Any, rng: np.random.Generator) -> None:
    """Changes an array, or what the index says of one, and signs again."""
    told = (manifest["state"], *manifest["files"])[rng.integers(1 + len(manifest["files"]))]
    content = bytearray(files[told["name"]])
    offset, nbytes, _ = told["index"]
    index = json.loads(content[offset : offset + nbytes])
    entry = index[rng.integers(len(index))]
    match rng.integers(4):
        case 0:
            index = change(index, rng)
        case 1:  # shorter or longer, and true to itself
            size = entry[3] // max(int(np.prod(entry[6])), 1)
            n = int(rng.choice([-1, 1, -entry[6][0], 2]))
            entry[6][0] += n
            entry[3] += n * size
            entry[4] = zlib.crc32(content[entry[1] : entry[1] + entry[2] + entry[3]])
        case _:
            begin = entry[1] + entry[2]
            content[begin : begin + entry[3]] = elements(content[begin : begin + entry[3]], entry, rng)
            entry[4] = zlib.crc32(content[entry[1] : begin + entry[3]])
    text = json.dumps(index).encode()
    told["index"] = [len(content), len(text), zlib.crc32(text)]
    files[told["name"]] = bytes(content + text)
    told["nbytes"] = len(content) + len(text)


def elements(stored: bytes, entry: list[Any], rng: np.random.Generator) -> bytes:
    """An array's bytes with some elements changed: of a record its links (uint32, at its end) more often."""
    simple = len(entry[5]) < 5
    dtype = np.dtype(entry[5] if simple else np.uint32)
    if not dtype.itemsize:  # of no bytes: changed to that by an earlier change
        return bytes(stored)
    array = np.frombuffer(stored[: len(stored) // dtype.itemsize * dtype.itemsize], dtype).copy()
    rest = stored[array.nbytes :]
    if not len(array):
        return bytes(stored)
    words = max(len(array) // max(entry[6][0], 1), 1)  # of a record
    for _ in range(int(rng.choice([1, 1, 2, 5]))):
        at = rng.integers(len(array))
        if not simple and rng.random() < 0.7:
            at = at // words * words + words - 1 - rng.integers(min(6, words))
        match rng.integers(5):
            case 0:
                array[at] = array[rng.integers(len(array))]
            case 1:
                array[at] += np.array(rng.choice([1, 2, 255]), np.int64).astype(dtype)
            case 2:
                array[:] = rng.permutation(array)
            case 3:
                array[at] = np.frombuffer(rng.bytes(dtype.itemsize), dtype)[0]
            case 4:
                array[at] = np.array([int(rng.choice(INTEGERS[:20]))]).astype(dtype)[0]
    return array.tobytes() + rest


# ---- what must be so ----


def exercise_draws(buffer: rb.ReplayBuffer, rng: np.random.Generator) -> None:
    """Draws and updates; what there is too little of may be refused."""
    for n in (1, 5):
        with contextlib.suppress(ValueError):
            batch = buffer.sample(n)
            buffer.update_priorities(batch.indices, rng.normal(size=len(batch.indices)))


def exercise(buffer: rb.ReplayBuffer, folder: Path, rng: np.random.Generator) -> None:
    """All that can be done with a buffer."""
    buffer.check_valid()
    exercise_draws(buffer, rng)
    rows = buffer._rows
    if rows is not None:
        ids = np.arange(rows.oldest, rows.added)
        for forward in (True, False):
            rows.walk(ids, 5, forward)
            rows.follow(ids, np.full(len(ids), 5), forward)
    assert sum(len(segment.ids) for segment in buffer.segments()) == len(buffer)
    if buffer.schema is not None and max((leaf.nbytes for leaf in buffer.schema.leaves), default=0) < MUCH:
        add(buffer, rng, 12)
    buffer.end()
    exercise_draws(buffer, rng)
    buffer.check_valid()
    buffer.stats()
    buffer.save(folder)
    again = rb.ReplayBuffer.load(folder)
    again.check_valid()
    assert len(again) == len(buffer)
    buffer.clear()
    if buffer.schema is not None and max((leaf.nbytes for leaf in buffer.schema.leaves), default=0) < MUCH:
        add(buffer, rng, 3)
    buffer.check_valid()


def asks_for_much(files: dict[str, bytes]) -> bool:
    """Whether a manifest asks for sizes that a machine may not have: capacity, streams, shapes, settings."""
    manifest = json.loads(files[MANIFEST])["checkpoint"]
    told = (manifest["values"], manifest["rows"]["schema"], manifest["rows"]["stack"])
    sizes = [told[0]["capacity"], told[0]["streams"]]
    for part in (told[0]["sampler"], told[0]["view"], *told[1:]):
        sizes += [functools.reduce(lambda node, key: node[key], path, part) for path in places(part)]
    return any(type(size) in (int, float) and size > MUCH for size in sizes)


def attempt(seed: int, folder: Path) -> str:
    """Tries one input; gives what came of it. Raises what should not be."""
    rng = np.random.default_rng([seed, 1])
    files = damaged(rng)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        buffer = rb.ReplayBuffer.load(folder)
    except CheckpointError:
        return "refused"
    except FileNotFoundError:
        assert MANIFEST not in files
        return "missing"
    except TypeError as error:
        if not str(error).startswith("load: give "):
            raise
        return "to be given"
    except MemoryError:
        assert asks_for_much(files)
        return "too large"
    if buffer.capacity > MUCH or buffer.streams > MUCH:
        return "large"
    try:
        exercise(buffer, folder, rng)
    except MemoryError:
        assert asks_for_much(files)
        return "too large to use"
    return "accepted"


def work(first: int, end: int, told: Path) -> None:
    """Tries seeds; `told` holds, whatever happens, the one that is being tried, and then what came of all."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=told.parent) as name, told.open("w") as file:
        for seed in range(first, end):
            file.seek(0)
            file.write(f"{seed:12}\n")
            file.flush()
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            came = attempt(seed, Path(name))
            counts[came] = counts.get(came, 0) + 1
        faulthandler.cancel_dump_traceback_later()
        file.write(json.dumps(counts))


def fuzz(first: int, n: int, folder: Path, processes: int = 1) -> dict[str, int]:
    """Tries n seeds; what came of them. Fails with the seeds that went wrong, and how."""
    blocks = [(at, min(at + BLOCK, first + n)) for at in range(first, first + n, BLOCK)]
    running: dict[subprocess.Popen[str], tuple[int, Path]] = {}
    counts: dict[str, int] = {}
    wrong: list[str] = []
    while blocks or running:
        while blocks and len(running) < processes:
            begin, end = blocks.pop(0)
            told = folder / f"told-{begin}"
            command = [sys.executable, __file__, "--worker", str(begin), str(end), str(told)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            running[process] = (end, told)
        process = next(iter(running))
        _, errors = process.communicate()
        end, told = running.pop(process)
        seed, *came = told.read_text().split("\n", 1) if told.exists() else ["none"]
        if process.returncode or not came or not came[0]:
            wrong.append(f"seed {seed.strip()}: {process.returncode}\n{errors[-3000:]}")
            if told.exists() and int(seed) + 1 < end:
                blocks.insert(0, (int(seed) + 1, end))
            if len(wrong) >= 5:
                blocks.clear()
        else:
            for name, count in json.loads(came[0]).items():
                counts[name] = counts.get(name, 0) + count
        told.unlink(missing_ok=True)
    assert not wrong, "\n\n".join(wrong)
    return counts


def require_both(counts: dict[str, int]) -> None:
    """Most must be refused, and some accepted, or it tries nothing."""
    assert counts["refused"] > sum(counts.values()) // 4
    assert counts["accepted"] > sum(counts.values()) // 50


def test_a_damaged_or_made_up_checkpoint_is_refused_or_works(tmp_path: Path) -> None:
    require_both(fuzz(0, 600, tmp_path, 2))


@pytest.mark.slow
def test_many_more_checkpoints_are_refused_or_work(tmp_path: Path) -> None:
    """REPLAYBANK_FUZZ: how many inputs."""
    require_both(fuzz(10**6, int(os.environ.get("REPLAYBANK_FUZZ", "1200")), tmp_path, 2))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        work(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        with tempfile.TemporaryDirectory() as scratch_folder:
            print(attempt(int(sys.argv[1]), Path(scratch_folder)))
