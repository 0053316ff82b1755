"""Every library's way to put a buffer on disk and to take it from there, and what is in it, to compare."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.cpprb import Cpprb
from adapters.frames import (
    CpprbCompressed,
    ReplaybankStack,
    Sb3Optimized,
    TianshouFrames,
    TorchRLCatFrames,
    TorchRLStacks,
)
from adapters.replaybank import Replaybank
from adapters.sb3 import StableBaselines3
from adapters.textbook import Textbook
from adapters.tianshou import Tianshou
from adapters.torchrl import TorchRL
from contender import Contender, LeftOutError, Role, Setup

AT_ONCE = 4096  # transitions that are compared at once
WRITE = 4 << 20  # bytes of one write of a floor
#: Parts of what a buffer holds, one after the other: columns by name.
Contents = Iterator[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Way:
    """How one library saves and loads; `part` is how much of the transitions it gets (1 / part of them)."""

    kind: type[Contender]
    save: Callable[[Any, Path], object]
    #: From a path and the contender, of which it may take what makes an empty buffer.
    load: Callable[[Path, Contender], Any]
    contents: Callable[[Any], Contents]
    #: Whether what is loaded has its priorities again.
    priorities: bool = True
    part: int = 1
    note: str = ""


def _slices(size: int) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, size)) for start in range(0, size, AT_ONCE))


# ---- replaybank ------------------------------------------------------------------------------------------------------


def _load_ours(path: Path, _: Contender) -> Any:
    import replaybank as rb

    return rb.ReplayBuffer.load(path)


def _ours(buffer: Any) -> Contents:
    """All that can be read; of frames the first ones of a stream that has wrapped around cannot."""
    added = buffer.stats()["added"]
    every = np.arange(added - len(buffer), added)
    for part in _slices(len(every)):
        ids = every[part]
        usable = buffer.view.usable(buffer._rows, ids)
        batch = buffer.read(ids if usable is None else ids[usable])
        names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
        columns = {name: np.ascontiguousarray(getattr(batch, name)) for name in names}
        yield {**columns, "priorities": buffer.sampler.priority_of(ids)}


# ---- peers -----------------------------------------------------------------------------------------------------------


def _save_sb3(buffer: Any, path: Path) -> None:
    from stable_baselines3.common.save_util import save_to_pkl

    save_to_pkl(path, buffer)


def _load_sb3(path: Path, _: Contender) -> Any:
    from stable_baselines3.common.save_util import load_from_pkl

    return load_from_pkl(path)


def _sb3(buffer: Any) -> Contents:
    names = ["observations", "actions", "rewards", "dones", "timeouts"]
    if not buffer.optimize_memory_usage:
        names.append("next_observations")
    for part in _slices(buffer.size()):
        yield {name: getattr(buffer, name)[part] for name in names}


def _load_cpprb(path: Path, contender: Contender) -> Any:
    """`load_transitions` adds to a buffer, so that is made here."""
    empty = type(contender)(contender.setup)._buffer
    empty.load_transitions(f"{path}.npz")
    return empty


def _cpprb(buffer: Any) -> Contents:
    for part in _slices(buffer.get_stored_size()):
        yield buffer._encode_sample(np.arange(part.start, part.stop))


def _tianshou(buffer: Any) -> Contents:
    for part in _slices(len(buffer)):
        rows = buffer._meta[part]
        columns = {name: getattr(rows, name) for name in ("obs", "act", "rew", "terminated", "truncated", "done")}
        if "obs_next" in rows.get_keys():
            columns["obs_next"] = rows.obs_next
        yield {**columns, "priorities": buffer.weight[np.arange(part.start, part.stop)]}


def _load_tianshou(path: Path, contender: Contender) -> Any:
    return type(contender._buffer).load_hdf5(str(path))


def _load_torchrl(path: Path, contender: Contender) -> Any:
    empty = type(contender)(contender.setup)._buffer
    empty.loads(path)
    return empty


def _torchrl(buffer: Any) -> Contents:
    storage = buffer.storage if hasattr(buffer, "storage") else buffer._storage
    for part in _slices(len(buffer)):
        rows = storage[part].flatten_keys(".")
        columns = {name: rows[name].numpy() for name in sorted(rows.keys()) if name != "index"}
        if hasattr(buffer._sampler, "_sum_tree"):
            columns["priorities"] = np.array([buffer._sampler._sum_tree[i] for i in range(part.start, part.stop)])
        yield columns


def _save_textbook(buffer: Any, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(buffer, file, protocol=pickle.HIGHEST_PROTOCOL)


def _load_textbook(path: Path, _: Contender) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _textbook(buffer: Any) -> Contents:
    for transition, priority in zip(buffer.memory, buffer.priorities, strict=True):
        columns = {str(i): np.asarray(value) for i, value in enumerate(transition)}
        yield {**columns, "priorities": np.asarray(priority)}


class TorchRLUniform(TorchRL):
    """Where its compiled tree does not load: it has no priorities to keep then."""

    name = "TorchRL, uniform"
    prioritizes = False


class CpprbCompressedTenth(CpprbCompressed):
    """What it saves are whole stacks, zipped: minutes for 100,000."""

    name = "cpprb, stack_compress, a tenth"


class TorchRLStacksTenth(TorchRLStacks):
    name = "TorchRL, whole stacks, a tenth"
    prioritizes = False


class TextbookTenth(Textbook):
    name = "textbook deque, a tenth"


# ---- floors ----------------------------------------------------------------------------------------------------------


class WriteFloor(Contender):
    """The bytes of our checkpoint, from memory to one file, and one fsync."""

    name = "write, one fsync"
    role = Role.FLOOR

    def build(self) -> None:
        self._buffer = self
        self.chunks: list[bytes] = []

    def read(self, checkpoint: Path) -> None:
        """What it writes: all files of a checkpoint, one after the other."""
        whole = b"".join(path.read_bytes() for path in files_of(checkpoint))
        self.chunks = [whole[start : start + WRITE] for start in range(0, len(whole), WRITE)]

    def save(self, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for chunk in self.chunks:
                file.write(chunk)
            os.fsync(file.fileno())

    def contents(self) -> Contents:
        for chunk in self.chunks:
            yield {"bytes": np.frombuffer(chunk, np.uint8)}

    def loaded(self, path: Path) -> WriteFloor:
        """Its bytes, read into memory once."""
        again = WriteFloor(self.setup)
        with path.open("rb", buffering=0) as file:
            again.chunks = list(iter(lambda: file.read(WRITE), b""))
        return again


class DdFloor(WriteFloor):
    """`dd bs=4M conv=fsync` of a file that holds them, which is in the page cache."""

    name = "dd, conv=fsync"

    @classmethod
    def check(cls, setup: Setup) -> None:
        if shutil.which("dd") is None:
            raise LeftOutError("there is no dd")

    def read(self, checkpoint: Path) -> None:
        super().read(checkpoint)
        self.source = checkpoint.with_name("source")
        self.source.write_bytes(b"".join(self.chunks))

    def save(self, path: Path) -> None:
        arguments = ["dd", f"if={self.source}", f"of={path}", "bs=4M", "conv=fsync", "status=none"]
        subprocess.run(arguments, check=True)


def files_of(path: Path) -> list[Path]:
    """A file, or all files of a folder."""
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


OURS = Way(Replaybank, lambda buffer, path: buffer.save(path), _load_ours, _ours)
SB3 = Way(StableBaselines3, _save_sb3, _load_sb3, _sb3, False, note="uniform: it has no prioritized buffer")
CPPRB = Way(
    Cpprb,
    lambda buffer, path: buffer.save_transitions(f"{path}.npz"),
    _load_cpprb,
    _cpprb,
    False,
    note="its priorities are gone",
)
TIANSHOU = Way(Tianshou, lambda buffer, path: buffer.save_hdf5(str(path)), _load_tianshou, _tianshou)
TORCHRL = Way(TorchRL, lambda buffer, path: buffer.dumps(path), _load_torchrl, _torchrl)
FLOORS = tuple(
    Way(kind, lambda floor, path: floor.save(path), lambda path, floor: floor.loaded(path), WriteFloor.contents)
    for kind in (WriteFloor, DdFloor)
)
UNIFORM = "uniform: nothing of priorities is kept"
WAYS: dict[str, tuple[Way, ...]] = {
    "transitions": (
        OURS,
        *FLOORS,
        SB3,
        CPPRB,
        TIANSHOU,
        TORCHRL,
        replace(TORCHRL, kind=TorchRLUniform, priorities=False, note=UNIFORM),
        Way(TextbookTenth, _save_textbook, _load_textbook, _textbook, part=10, note="a tenth of the transitions"),
    ),
    "frames": (
        replace(OURS, kind=ReplaybankStack, note="each frame once"),
        *FLOORS,
        replace(SB3, kind=Sb3Optimized, note="each stack once; uniform"),
        replace(
            CPPRB,
            kind=CpprbCompressedTenth,
            part=10,
            save=lambda buffer, path: buffer.save_transitions(f"{path}.npz", safe=False),
            note="a tenth; its priorities are gone",
        ),
        replace(TIANSHOU, kind=TianshouFrames, note="each frame once"),
        replace(TORCHRL, kind=TorchRLCatFrames, priorities=False, part=10, note="each frame twice; uniform"),
        replace(TORCHRL, kind=TorchRLStacksTenth, priorities=False, part=10, note="both stacks of a tenth; uniform"),
    ),
}
