"""What the machine has, and what is asked of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def machine_bytes(process: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory this process may ever have: the machine's, or a control group's limit where that is lower.

    None where the system does not say. `process` and `groups`: where Linux says it.
    """
    found = [limit for group in _groups(process, groups) if (limit := _number(group)) is not None]
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((size for size in found if size > 0), default=None)


def _groups(process: Path, groups: Path) -> Iterator[Path]:
    """The files that may hold a limit of this process: those of its group and of all above, versions 2 and 1."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
        group = root / path.lstrip("/")
        # A container sees the host's path and has its own group as the root.
        yield from (folder / name for folder in (group, *group.parents) if folder == root or root in folder.parents)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())  # "max" where there is no limit
    except (OSError, ValueError):
        return None


def warn_beyond(asked: int, had: int | None) -> None:
    """One RuntimeWarning where a full buffer will be larger than the memory there is."""
    if had is not None and asked > had:
        warnings.warn(
            f"this buffer needs {_readable(asked)} ({asked} bytes) once it is full, and the machine has "
            f"{_readable(had)} ({had}); lower its capacity, or give max_bytes",
            RuntimeWarning,
            stacklevel=4,
        )


@contextmanager
def reserving(nbytes: int, what: str) -> Iterator[None]:
    """A MemoryError in it says what was asked for."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{what} needs {_readable(nbytes)} ({nbytes} bytes), which there are not") from error


def _readable(nbytes: int) -> str:
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"
