"""Who is alive: POSIX record locks, which the kernel drops when a process ends, in whatever way.

They cannot be mistaken for another process's, as a process id that was given out again can, and a forked child does not
hold its parent's. But a process does not see its own (`_here` remembers them), and it loses a lock when it closes *any*
descriptor of the file: so nothing here opens a file that this process has locked.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from replaybank import _native

_here: set[tuple[int, int]] = set()  # device and inode of the files that this process has locked
os.register_at_fork(after_in_child=_here.clear)


def _identity(file: int | Path) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def is_mine(path: Path) -> bool:
    """Whether this process holds the lock on this file. Raises FileNotFoundError where there is none."""
    return _identity(path) in _here


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is still what lies at `path`."""
    try:
        return _identity(fd) == _identity(path)
    except FileNotFoundError:
        return False


def take(fd: int) -> bool:
    """Locks an open file; False where another process has it."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except (BlockingIOError, PermissionError):
        return False
    _here.add(_identity(fd))
    return True


def holder(fd: int) -> int:
    """The process that holds the lock on an open file; 0 where it is free."""
    return os.getpid() if _identity(fd) in _here else _native.lock_holder(fd)


def release(fd: int) -> None:
    """Closes an open file, and so drops its lock."""
    _here.discard(_identity(fd))
    os.close(fd)
