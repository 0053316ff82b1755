"""Where the arrays of rows lie: in memory, or in files that are mapped into it."""

from __future__ import annotations

import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaybank.files import CheckpointError, hold_alone, let_go

STEP_NBYTES = 1 << 26  # pools take space on the disk by so much
AHEAD = 64  # the horizon moves by a 64th of the capacity
HORIZON = struct.Struct("<qq")  # which one it is, and an id; then comes their checksum
HORIZONS = (0, 512)  # where in the file, in turn: a write may tear one of them
HORIZON_NBYTES = HORIZON.size + 4
DAMAGED = (-1, 0)


class Memory(Protocol):
    """Where arrays of rows lie."""

    def array(self, name: str, n: int, dtype: np.dtype[Any], needed: int) -> NDArray[Any]:
        """An array [n] of a dtype, of which `needed` items are about to be used.

        A longer one of the same name may begin with what the one before held.
        """
        ...


class InMemory:
    """Arrays of their own, touched only as they are used."""

    def array(self, name: str, n: int, dtype: np.dtype[Any], needed: int) -> NDArray[Any]:
        return np.empty(n, dtype)


class Storage:
    """A folder with a file for each array, mapped into memory.

    Space on the disk is taken before it is used: a full disk is an OSError, not the end of the program. What the files
    hold means something only together with a checkpoint in the same folder. Transitions that it counts on may be
    overwritten by newer ones; the *horizon* says, on the disk before that happens, below which id. So after any end of
    the program or the machine the checkpoint is true, but for those.

    It belongs to the process that made it: in a forked child whatever would change it raises RuntimeError.

    `reopen`: what is there goes on; else it begins anew. Raises BlockingIOError where another buffer uses the folder,
    FileExistsError where a new one is to be made beside a checkpoint.
    """

    def __init__(self, folder: Path, reopen: bool = False) -> None:
        if not hasattr(os, "pread"):
            raise OSError("storage: rows in mapped files need a POSIX system (os.pread); leave it out, and use `save`")
        self.folder = folder
        self._expects = reopen
        self._process = os.getpid()
        if not reopen:
            require_free(folder)
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = hold_alone(folder / "storage.lock", f"{folder}: another buffer has its storage there")
        if not reopen:
            require_free(folder)  # whose it was until now may have saved
        self._maps: dict[str, mmap.mmap] = {}
        self._files: dict[str, int] = {}
        self._items: dict[str, int] = {}  # bytes of an item, of the pools that take space as they grow
        self._taken: dict[str, int] = {}
        try:
            self._horizon = os.open(folder / "horizon", os.O_RDWR | (0 if reopen else os.O_CREAT | os.O_TRUNC), 0o666)
        except FileNotFoundError:  # nobody knows what was overwritten
            raise CheckpointError("horizon is missing") from None
        os.fsync(self._horizon)  # who wrote it may not have come so far, and from now on it counts
        newest = max(_horizon_of(os.pread(self._horizon, HORIZON_NBYTES, at)) for at in HORIZONS)
        if newest == DAMAGED:
            raise CheckpointError("horizon is damaged: its checksums are wrong")
        self._moves, self.horizon = newest  # transitions with smaller ids may have been overwritten

    def array(self, name: str, n: int, dtype: np.dtype[Any], needed: int) -> NDArray[Any]:
        nbytes = max(dtype.itemsize * n, 1)
        known = name in self._files
        if not known:
            self._files[name] = os.open(self.folder / f"{name}.bin", os.O_RDWR | os.O_CREAT, 0o666)
        size = os.fstat(self._files[name]).st_size
        if size < nbytes and self._expects and not known:
            raise CheckpointError(f"{name}.bin: expected {nbytes} bytes, found {size}")
        if size < nbytes:
            os.ftruncate(self._files[name], nbytes)
        self._items[name] = dtype.itemsize
        self.require(name, needed)
        self._maps[name] = mmap.mmap(self._files[name], nbytes)
        shape: tuple[int, ...] = (n,)
        while dtype.subdtype is not None:
            dtype, inner = dtype.subdtype
            shape += inner
        if not math.prod(shape) * dtype.itemsize:
            return np.empty(shape, dtype)
        return np.frombuffer(self._maps[name], np.uint8, nbytes).view(dtype).reshape(shape)

    def require(self, name: str, items: int) -> None:
        """Takes space on the disk for the first `items` of an array; raises OSError where there is none."""
        nbytes, taken = items * self._items[name], self._taken.get(name, 0)
        if nbytes > taken:
            whole = os.fstat(self._files[name]).st_size
            end = min(max(nbytes, taken + STEP_NBYTES), whole)
            if hasattr(os, "posix_fallocate"):  # elsewhere a full disk may end the program
                os.posix_fallocate(self._files[name], taken, end - taken)
            self._taken[name] = end

    def guard(self, cursor: NDArray[np.int64], capacity: int) -> Callable[[int], None]:
        """What rows with this cursor must call before rows with ids below its argument leave."""

        def before(leaving: int) -> None:
            self._require_mine()
            self._expects = False  # what was there has been opened
            added, _, used, *_ = cursor.tolist()
            tails = min(used + max(leaving + capacity - added, 0), capacity)
            self.require("tails", tails)
            self.require("onward", tails)
            if leaving > self.horizon:
                self._move(leaving + capacity // AHEAD)

        return before

    def _move(self, horizon: int) -> None:
        """Puts the horizon on the disk."""
        numbers = HORIZON.pack(self._moves + 1, horizon)
        at = HORIZONS[(self._moves + 1) % 2]
        os.pwrite(self._horizon, numbers + struct.pack("<I", zlib.crc32(numbers)), at)
        os.fsync(self._horizon)
        self._moves, self.horizon = self._moves + 1, horizon

    def settle(self, oldest: int) -> None:
        """Takes the horizon, which runs ahead, back to the oldest transition: all that is saved now is there.

        To be called under the buffer's lock.
        """
        self._require_mine()
        if oldest < self.horizon:
            self._move(oldest)

    def flush(self) -> None:
        """Waits until all of it is on the disk."""
        for mapped in list(self._maps.values()):  # rows that are added meanwhile may need another file
            mapped.flush()
        for file in list(self._files.values()):
            os.fsync(file)

    def _require_mine(self) -> None:
        """A fork has the same files mapped: what it changed would change here."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"storage: {self.folder} belongs to process {self._process}, from which this one was forked: here its "
                "transitions can be neither added to nor saved"
            )

    def __del__(self) -> None:
        for file in (*getattr(self, "_files", {}).values(), getattr(self, "_horizon", None)):
            if file is not None:
                os.close(file)
        if hasattr(self, "_lock"):
            if os.getpid() == self._process:
                let_go(self._lock)
            self._lock.close()


def _horizon_of(stored: bytes) -> tuple[int, int]:
    """Which horizon it is and the id, zeros where none was written, or DAMAGED."""
    if not stored.strip(b"\0"):
        return 0, 0
    numbers, crc = stored[: HORIZON.size], stored[HORIZON.size :]
    if crc != struct.pack("<I", zlib.crc32(numbers)):
        return DAMAGED
    move, horizon = HORIZON.unpack(numbers)
    return (move, horizon) if move > 0 <= horizon else DAMAGED


def require_free(folder: Path) -> None:
    """Raises FileExistsError where a new storage would take the place of one that a checkpoint counts on."""
    if (folder / "manifest.json").exists():
        raise FileExistsError(f"storage: {folder} holds a checkpoint; ReplayBuffer.load opens it")
