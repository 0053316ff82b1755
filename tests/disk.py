"""A disk that fails when it is told to, and remembers what it could forget where the power goes.

`Disk` stands between replaybank and the system: every call that changes something on the disk is counted, one of them
may go wrong, and all of them are kept in a model of which file contents and which names are surely on the disk (fsync),
and which only may be.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BLOCK = 512  # bytes that a disk writes, or does not


class Died(BaseException):
    """The process is no more: nothing that it would do from now on happens."""


@dataclass(eq=False)
class Inode:
    """A file's contents: what was written, and what of it is on the disk."""

    now: bytearray = field(default_factory=bytearray)
    sure: bytes = b""

    def outcomes(self, rng: np.random.Generator) -> bytes:
        """What may be there after the power was gone: what was not waited for is there, or not, or zeros, or cut."""
        now, sure = bytes(self.now), self.sure
        if now == sure:
            return now
        match rng.integers(4):
            case 0:
                return sure
            case 1:
                return now
            case 2:
                return now[: int(rng.integers(len(now) + 1))]
        zeros = bytearray(now)
        for at in range(0, len(zeros), BLOCK):
            block = slice(at, min(at + BLOCK, len(zeros)))
            if sure[block] != now[block] and rng.random() < 0.5:
                zeros[block] = bytes(len(zeros[block]))
        return bytes(zeros)


class Folder(Inode):
    """A folder, which has no contents of its own here."""


class Disk:
    """Counts calls below a folder; the one numbered `fail_at` fails as `how` says, and with `for_good` all later ones.

    `how`: an errno (EMFILE: only of what opens a file); "short" (half of what is written,
    then ENOSPC); "die" (see Died). No call waits for the real disk.
    """

    def __init__(self, root: Path, fail_at: int = -1, how: int | str = errno.EIO, for_good: bool = False) -> None:
        self.root, self.fail_at, self.how, self.for_good = root, fail_at, how, for_good
        self.calls: list[str] = []
        self.dead = False
        self.names: list[tuple[bool, str, str, Inode | None]] = []  # on the disk or not; folder, name, what it becomes
        self.files: dict[str, Inode] = {}
        self._folders: dict[int, str] = {}
        for folder, names, files in os.walk(root):
            for name in names:
                self.names.append((True, folder, name, Folder()))
            for name in files:
                content = Path(folder, name).read_bytes()
                self.files[os.path.join(folder, name)] = inode = Inode(bytearray(content), content)
                self.names.append((True, folder, name, inode))

    def call(self, what: str, writing: Any = None) -> int:
        """Counts a call, or lets it fail; gives how many bytes of a write are to be done, where not all (else -1)."""
        if self.dead:
            raise Died
        number = len(self.calls)
        self.calls.append(what)
        later = self.for_good and 0 <= self.fail_at < number
        if self.how == errno.EMFILE and not what.startswith(("open", "read")):
            return -1
        if number == self.fail_at or later:
            if self.how == "die":
                self.dead = True
                raise Died
            if self.how == "short":
                if number == self.fail_at and writing is not None and len(writing) > 1:
                    self.fail_at += 1
                    return len(writing) // 2
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            assert isinstance(self.how, int)
            raise OSError(self.how, os.strerror(self.how))
        return -1

    def name(self, path: str, becomes: Inode | None) -> None:
        """A name is given, or taken away."""
        folder, name = os.path.split(path)
        self.names.append((False, folder, name, becomes))

    def after_power_loss(self, rng: np.random.Generator, to: Path) -> None:
        """Writes what may be on the disk now below `to`. Of names that were not waited for: the first ones, or any."""
        waiting = np.array([not entry[0] for entry in self.names], bool)
        cut = int(rng.choice([*np.flatnonzero(waiting), len(waiting)]))
        kept = ~waiting | (rng.random(len(waiting)) < 0.5 if rng.random() < 0.5 else np.arange(len(waiting)) < cut)
        there: dict[str, Inode] = {}
        for (_, folder, name, becomes), keep in zip(self.names, kept.tolist(), strict=True):
            if keep:
                path = os.path.join(folder, name)
                there.pop(path, None)
                if becomes is not None:
                    there[path] = becomes
        reachable = {str(self.root)}
        for path in sorted(there):
            if os.path.dirname(path) not in reachable:
                continue
            target = to / Path(path).relative_to(self.root)
            if isinstance(there[path], Folder):
                target.mkdir()
                reachable.add(path)
            else:
                target.write_bytes(there[path].outcomes(rng))


@contextmanager
def between(disk: Disk) -> Iterator[Disk]:
    """While it is: what replaybank does below the disk's root goes through the disk."""
    system = {name: getattr(os, name) for name in ("open", "close", "fsync", "replace", "unlink", "mkdir")}
    raw, opening = io.FileIO, io.open
    inside = str(disk.root)

    def ours(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(inside)

    class File(raw):  # type: ignore[misc, valid-type]
        def __init__(self, path: Any, mode: str = "r") -> None:
            self.inode = None
            disk.call(f"open {os.path.basename(path)}")
            known = disk.files.get(os.fspath(path))
            super().__init__(path, mode)
            self.inode = known or Inode()
            self.inode.now.clear()
            if known is None:
                disk.files[os.fspath(path)] = self.inode
                disk.name(os.fspath(path), self.inode)

        def write(self, data: Any) -> int:
            data = bytes(data)
            some = disk.call("write", data)
            at = self.tell()
            done: int = super().write(data if some < 0 else data[:some])
            self.inode.now[at : at + done] = data[:done]
            return done

        def close(self) -> None:
            if self.inode is None or self.closed:
                super().close()
                return
            try:
                if not disk.dead:
                    disk.call("close")
            finally:
                super().close()

    def open_(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if not ours(path):
            return int(system["open"](path, flags, *rest, **more))
        disk.call("open folder")
        number = int(system["open"](path, flags, *rest, **more))
        disk._folders[number] = os.fspath(path)
        return number

    def close(number: int) -> None:
        folder = disk._folders.pop(number, None)
        system["close"](number)
        if folder is not None:
            disk.call("close folder")

    def fsync(number: int) -> None:
        folder = disk._folders.get(number)
        disk.call("fsync" if folder is None else "fsync folder")
        if folder is not None:
            disk.names = [(sure or at == folder, at, *rest) for sure, at, *rest in disk.names]  # type: ignore[misc]
            return
        path = os.readlink(f"/proc/self/fd/{number}")
        inode = disk.files[path]
        inode.sure = bytes(inode.now)

    def replace(old: Any, new: Any) -> None:
        disk.call("replace")
        system["replace"](old, new)
        inode = disk.files[os.fspath(new)] = disk.files.pop(os.fspath(old))
        disk.name(os.fspath(new), inode)
        disk.name(os.fspath(old), None)

    def unlink(path: Any, *rest: Any, **more: Any) -> None:
        if not ours(path):
            system["unlink"](path, *rest, **more)
            return
        if disk.dead:
            return
        disk.call("unlink")
        system["unlink"](path, *rest, **more)
        disk.files.pop(os.fspath(path), None)
        disk.name(os.fspath(path), None)

    def mkdir(path: Any, *rest: Any, **more: Any) -> None:
        if ours(path):
            disk.call("mkdir")
        system["mkdir"](path, *rest, **more)
        if ours(path):
            disk.name(os.fspath(path), Folder())

    def io_open(path: Any, *rest: Any, **more: Any) -> Any:
        if ours(path) and not disk.dead:
            disk.call(f"read {os.path.basename(path)}")
        return opening(path, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        for name, function in (("open", open_), ("close", close), ("fsync", fsync), ("replace", replace)):
            patch.setattr(os, name, function)
        patch.setattr(os, "unlink", unlink)
        patch.setattr(os, "mkdir", mkdir)
        patch.setattr(io, "FileIO", File)
        patch.setattr(io, "open", io_open)
        yield disk
