"""The floor: `floor.c`, compiled where the benchmark runs, and the memory that it works on."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contender import LeftOutError
from transitions import FIELDS, OBS_SIZE, Transitions

RECORD = np.dtype(
    [
        ("obs", np.float32, OBS_SIZE),
        ("action", np.int64),
        ("reward", np.float32),
        ("next_obs", np.float32, OBS_SIZE),
        ("terminated", np.bool_),
        ("truncated", np.bool_),
    ],
    align=True,
)
BRANCHES = 8
LANES = 4096
FLAGS = ("-O3", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


class _Columns(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in FIELDS]


class _Tree(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), ("offsets", ctypes.c_void_p), ("depth", ctypes.c_int64)]


@cache
def compiled() -> ctypes.CDLL:
    """Compile `floor.c` with the system's C compiler; raises LeftOutError where that is not possible."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LeftOutError("no C compiler found")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "floor.so"
        command = [*compiler.split(), *FLAGS, "-o", str(library), str(Path(__file__).with_name("floor.c"))]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", "") or str(error)
            raise LeftOutError(f"the C compiler failed: {detail.strip().splitlines()[0]}") from error
        functions = ctypes.CDLL(str(library))
    for name in ("floor_read", "floor_walk", "floor_walk_and_read", "floor_update", "floor_add", "floor_step"):
        getattr(functions, name).restype = None
    functions.floor_frames.restype = ctypes.c_int
    return functions


def to_records(data: Transitions) -> NDArray[np.void]:
    records = np.zeros(len(data), RECORD)
    for name, values in data.columns().items():
        records[name] = values
    return records


class Floor:
    """Records, a sum tree of eight children a node, and room for one batch."""

    def __init__(self, capacity: int) -> None:
        self._functions = compiled()
        if self._functions.floor_record_size() != RECORD.itemsize:
            raise LeftOutError("the C compiler lays records out in another way than NumPy")
        self.records = np.zeros(capacity, RECORD)
        self.slots = np.zeros(LANES, np.int64)
        self._next = ctypes.c_int64(0)
        self.columns = {name: np.zeros((LANES, *RECORD[name].shape), RECORD[name].base) for name in FIELDS}
        self._lay_out_tree(capacity)

    def _lay_out_tree(self, leaves: int) -> None:
        sizes = [-(-leaves // BRANCHES) * BRANCHES]
        while sizes[0] > BRANCHES:
            nodes = sizes[0] // BRANCHES
            sizes.insert(0, -(-nodes // BRANCHES) * BRANCHES)
        self._offsets = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
        room = np.zeros(sum(sizes) + BRANCHES)
        start = (-room.ctypes.data % 64) // room.itemsize
        self._values = room[start : start + sum(sizes)]
        self.levels = [self._values[offset : offset + size] for offset, size in zip(self._offsets, sizes, strict=True)]

    def set_priorities(self, priorities: NDArray[Any]) -> None:
        """Set all leaves and every sum above them."""
        self.levels[-1][: len(priorities)] = priorities
        for above, below in zip(self.levels[-2::-1], self.levels[:0:-1], strict=True):
            sums = below.reshape(-1, BRANCHES).sum(axis=1)
            above[: len(sums)] = sums

    def read(self, slots: NDArray[np.int64]) -> None:
        """Copy the rows `slots[call]` into columns, call after call."""
        calls, size = slots.shape
        self._functions.floor_read(
            _pointer(self.records), _pointer(slots), ctypes.c_int64(size), ctypes.c_int64(calls), self._columns()
        )

    def walk(self, uniforms: NDArray[np.float64]) -> None:
        """Find one leaf in each stratum, `uniforms[call]` saying where in it."""
        calls, size = uniforms.shape
        self._functions.floor_walk(
            self._tree(), _pointer(uniforms), ctypes.c_int64(size), ctypes.c_int64(calls), _pointer(self.slots)
        )

    def walk_and_read(self, uniforms: NDArray[np.float64]) -> None:
        calls, size = uniforms.shape
        self._functions.floor_walk_and_read(
            self._tree(),
            _pointer(self.records),
            _pointer(uniforms),
            ctypes.c_int64(size),
            ctypes.c_int64(calls),
            _pointer(self.slots),
            self._columns(),
        )

    def update(self, slots: NDArray[np.int64], priorities: NDArray[np.float64]) -> None:
        calls, size = slots.shape
        self._functions.floor_update(
            self._tree(), _pointer(slots), _pointer(priorities), ctypes.c_int64(size), ctypes.c_int64(calls)
        )

    def add(self, added: NDArray[np.void]) -> None:
        """Copy records into the places after those that were added before, going round."""
        self._functions.floor_add(
            _pointer(self.records),
            ctypes.c_int64(len(self.records)),
            ctypes.byref(self._next),
            _pointer(added),
            ctypes.c_int64(len(added)),
        )

    def step(
        self,
        added: NDArray[np.void],
        newcomer: float,
        uniforms: NDArray[np.float64],
        priorities: NDArray[np.float64],
    ) -> None:
        """For each call: add four of the records, walk and read as `uniforms[call]` says, update what was found."""
        calls, size = uniforms.shape
        self._functions.floor_step(
            self._tree(),
            _pointer(self.records),
            ctypes.c_int64(len(self.records)),
            ctypes.byref(self._next),
            _pointer(added),
            ctypes.c_double(newcomer),
            _pointer(uniforms),
            _pointer(priorities),
            ctypes.c_int64(size),
            ctypes.c_int64(calls),
            _pointer(self.slots),
            self._columns(),
        )

    def _columns(self) -> _Columns:
        return _Columns(*(self.columns[name].ctypes.data for name in FIELDS))

    def _tree(self) -> _Tree:
        return _Tree(self._values.ctypes.data, self._offsets.ctypes.data, len(self._offsets))


class FrameFloor:
    """Frames, or other items, side by side in memory, and room for the runs of items of one batch."""

    def __init__(self, frames: NDArray[Any], run: int, most: int) -> None:
        """`frames` [count, ...], contiguous; a pick copies `run` of them; a batch has at most `most` picks."""
        self._functions = compiled()
        self._frames = frames
        self._frame_bytes = frames[0].nbytes
        self.out = np.zeros((most, run, *frames.shape[1:]), frames.dtype)

    def copy(self, picks: NDArray[np.int64], fresh: bool) -> None:
        """Copy the runs that begin at frames `picks[call]`, call after call, into `out` or into fresh memory."""
        calls, size = picks.shape
        done = self._functions.floor_frames(
            _pointer(self._frames),
            ctypes.c_int64(self._frame_bytes),
            ctypes.c_int64(self.out[0].nbytes),
            _pointer(picks),
            ctypes.c_int64(size),
            ctypes.c_int64(calls),
            None if fresh else _pointer(self.out),
        )
        if done != 0:
            raise MemoryError("the system gave no memory for a batch")


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
