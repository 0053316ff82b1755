"""The directory in which a learner and its writers meet: who owns it, who may join, and what is swept up."""

from __future__ import annotations

import json
import mmap
import os
import re
import secrets
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.shared import locks

PREFIX = "replaybank-shared-"
LEARNER, JOINING, ABOUT = "learner.lock", "joining.lock", "learner.json"
FORMAT = 1
RING, UNFINISHED = ".ring", ".new"
ATTEMPTS = 1000
MOMENT = 0.001  # seconds between two looks at something that somebody else does quickly

# Record locks do not keep two threads of a process apart.
_one_at_a_time = threading.Lock()
_one_moves = threading.RLock()  # in, or somebody dead out


def _new_locks() -> None:
    global _one_at_a_time, _one_moves
    _one_at_a_time, _one_moves = threading.Lock(), threading.RLock()


os.register_at_fork(after_in_child=_new_locks)


class LearnerGone(ConnectionError):
    """There is no learner at this address (any more): it was closed, or its process has ended."""


def gone(directory: Path) -> LearnerGone:
    """The error that there is no learner."""
    return LearnerGone(f"there is no learner at {str(directory)!r}: its process has ended, or it was closed")


def place(name: str | None) -> Path:
    """Where the learner of this name has its directory: in shared memory, or where there is none a temporary one."""
    if name is None:
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
        raise ValueError(f"name: expected 1 to 100 letters, digits, '.', '_' or '-', given {name!r}")
    return _base() / (PREFIX + name)


def _base() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def claim(directory: Path) -> int:
    """Makes the directory this process's; gives the open file whose lock says so. What the dead have left goes.

    Raises RuntimeError where a living learner has it.
    """
    with _one_moves:
        return _claim(directory)


def _claim(directory: Path) -> int:
    for _ in range(ATTEMPTS):
        try:
            directory.mkdir(0o700)
            fd = os.open(directory / LEARNER, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # taken for a dead one's before there was a lock in it
        except FileExistsError:
            holder = bury(directory)
            if holder:
                raise RuntimeError(
                    f"the learner at {str(directory)!r} is alive, in process {holder}: there is one learner a name; "
                    "close it, or choose another name"
                ) from None
            continue
        if locks.take(fd) and locks.is_at(fd, directory / LEARNER):
            return fd
        locks.release(fd)
        time.sleep(MOMENT)
    raise RuntimeError(f"{str(directory)!r} is no learner's directory, and in the way of one: remove it")


def sweep() -> None:
    """Removes what dead learners of this user have left."""
    for directory in _base().glob(PREFIX + "*"):
        with suppress(OSError):
            bury(directory)


def bury(directory: Path) -> int:
    """Removes the directory where its learner is dead; gives the process of one that lives, 0 where none does.

    Raises PermissionError where the directory is another user's, or none.
    """
    with _one_moves:
        return _bury(directory)


def _bury(directory: Path) -> int:
    status = os.lstat(directory) if directory.is_symlink() or directory.exists() else None
    if status is None:
        return 0
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{str(directory)!r} is not a directory of this user's")
    path = directory / LEARNER
    try:
        if locks.is_mine(path):
            return os.getpid()
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        with suppress(OSError):  # not empty: a learner has just moved in
            directory.rmdir()
        return 0
    if not locks.take(fd):
        holder = locks.holder(fd)
        os.close(fd)
        return holder
    try:
        if locks.is_at(fd, path):
            remove(directory)
    finally:
        locks.release(fd)
    return 0


def remove(directory: Path) -> None:
    """Removes the directory of this process, the lock last: who is killed on the way leaves a dead learner's."""
    with suppress(FileNotFoundError):  # somebody has tidied up
        for path in directory.iterdir():
            if path.name != LEARNER:
                path.unlink(missing_ok=True)
        (directory / LEARNER).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


def describe(directory: Path, about: dict[str, Any]) -> None:
    """Says what writers need to know; from now on they may join."""
    (directory / JOINING).write_bytes(bytes(8))
    unfinished = directory / (ABOUT + UNFINISHED)
    unfinished.write_text(json.dumps({"format": FORMAT, **about}), encoding="utf-8")
    unfinished.replace(directory / ABOUT)


def description(directory: Path) -> dict[str, Any]:
    """What the learner says. Raises LearnerGone where there is none, ValueError where it speaks another language."""
    try:
        about: dict[str, Any] = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise gone(directory) from None
    if about.get("format") != FORMAT:
        raise ValueError(f"the learner at {str(directory)!r} is of another version of replaybank; use the same")
    return about


@contextmanager
def joining(directory: Path, timeout: float | None) -> Iterator[int]:
    """One process at a time joins, or closes the directory; gives a file that counts those who have joined.

    Raises LearnerGone where there is no such directory, TimeoutError where others take too long.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with _one_at_a_time:
        try:
            fd = os.open(directory / JOINING, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise gone(directory) from None
        try:
            while not locks.take(fd):
                if deadline is not None and time.monotonic() > deadline:
                    who = locks.holder(fd)
                    raise TimeoutError(f"waited {timeout:g} s for process {who} to have joined {str(directory)!r}")
                time.sleep(MOMENT)
            yield fd
        finally:
            locks.release(fd)


def counter(directory: Path) -> NDArray[np.int64]:
    """How many writers have ever joined, shape (): a window on shared memory."""
    with (directory / JOINING).open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ), np.int64).reshape(())


def joined(fd: int) -> int:
    """How many writers have ever joined."""
    return int.from_bytes(os.pread(fd, 8, 0), sys.byteorder)


def count_joined(fd: int, number: int) -> None:
    """Says that as many have joined."""
    os.pwrite(fd, number.to_bytes(8, sys.byteorder), 0)


def rings(directory: Path) -> dict[int, Path]:
    """The files of the writers that have joined and not been let go, by number."""
    return {int(path.stem): path for path in directory.iterdir() if path.suffix == RING and path.stem.isdecimal()}
