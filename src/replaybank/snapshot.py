"""One instant of rows, written to files while the rows live on."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.files import ArrayFile
from replaybank.held import Held, Piece
from replaybank.kernels import Lock
from replaybank.rows import Rows

PIECE_NBYTES = 1 << 22
FILE_NBYTES = 1 << 26
NO_IDS = np.empty(0, np.int64)
RECORDS = "records_"  # and the id of the first: the name of a piece's records


def longest_file(rows: Rows) -> int:
    """So many bytes are enough for a file of transitions: it is not rewritten, and goes when all of it has left."""
    return max(FILE_NBYTES, rows.capacity * rows.dtype.itemsize // 16)


def put_held(file: ArrayFile, suffix: str, held: Held) -> None:
    """Writes what rows hold, each array as its name and the suffix say; empty ones are left out."""
    for name in Held._fields:
        array: NDArray[Any] = getattr(held, name)
        if len(array):
            file.put(name + suffix, array)


class Writer:
    """The new files of a save."""

    def __init__(self, folder: Path, token: str, compression: str | None) -> None:
        self.folder = folder
        self.token = token
        self.compression = compression
        self.state = ArrayFile(folder / f"state-{token}.npz")
        self._file: ArrayFile | None = None
        self._done: list[dict[str, Any]] = []
        self._first = self._end = 0
        self.still_open = NO_IDS  # at the instant of the save: files tell the next save

    def put(self, piece: Piece, most: int) -> None:
        """Writes a piece; a file of `most` bytes or more is long enough."""
        if self._file is not None and self._file.nbytes >= most:
            self._end_file()
        if self._file is None:
            self._first = piece.first
            self._file = ArrayFile(self.folder / f"transitions-{piece.first}-{self.token}.npz", self.compression)
        self._end = piece.first + len(piece.records)
        if len(piece.records):
            self._file.put(f"{RECORDS}{piece.first}", piece.records)
        put_held(self._file, f"_{piece.first}_{len(piece.records)}", piece.held)

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.put("still_open", self.still_open)
            self._done.append({**self._file.close(), "first": self._first, "end": self._end})
            self._file = None

    def close(self) -> list[dict[str, Any]]:
        """Ends the files of transitions; gives what a reader must be told of them."""
        self._end_file()
        return self._done

    def abandon(self, remove: bool) -> None:
        """Gives all files up, and removes them where they are surely no part of a checkpoint."""
        files = [file for file in (self.state, self._file) if file is not None]
        for file in files:
            file.abandon()
        if remove:
            for path in (*(file.path for file in files), *(self.folder / told["name"] for told in self._done)):
                with suppress(OSError):  # the next save tries again
                    path.unlink()


class Snapshot:
    """One instant of rows, written down while they live on.

    Rows are captured from the oldest to the newest, under the buffer's lock, and written without it. Where rows are
    about to leave before their turn, they are captured and written there and then.
    """

    def __init__(self, rows: Rows, first: int, late: NDArray[np.int64], writer: Writer) -> None:
        """From id `first` on; of the rows before, only what those of `late` have come to hold for good."""
        self._rows = rows
        self._next = first
        self._end = rows.added
        self._writer = writer
        self._waiting: deque[Piece] = deque()
        self._writing = Lock()
        self._failed: BaseException | None = None
        self._most = longest_file(rows)
        # Where so many frames are put aside that a piece may be made of them, it has room for as many as there can be.
        beside = rows.costs.beside if rows.nbytes_aside > PIECE_NBYTES else 0
        self._n = max(1, PIECE_NBYTES // (rows.dtype.itemsize + beside))
        self._room = np.empty((min(self._n, max(self._end - first, 1)), rows.dtype.itemsize), np.uint8)
        self._still_open = writer.still_open = rows.open_ids()
        late = late[(late >= rows.oldest) & (late < first) & ~np.isin(late, self._still_open)]
        held = Held.of(rows, late[rows.data["link_next"][late % rows.capacity] == 0], own=False)
        if held.nbytes:
            self._waiting.append(Piece(first, np.empty(0, rows.dtype), held))

    def begin(self) -> None:
        """From now on rows do not leave before they are captured. Under the lock under which it was made."""
        self._rows.guards = (*self._rows.guards, self.before)

    def end(self, lock: Lock) -> None:
        """From now on rows may leave as they like."""
        with lock:
            self._rows.guards = tuple(guard for guard in self._rows.guards if guard != self.before)

    def before(self, leaving: int) -> None:
        """Keeps what is about to leave: ids below `leaving`."""
        leaving = min(leaving, self._end)
        if self._next >= leaving or self._failed is not None:
            return
        try:
            room = np.empty_like(self._room)  # the other one may be on its way to the disk
            while self._next < leaving and self._failed is None:
                self._capture(room)
                self._write()
        except Exception as error:
            self._failed = error
        except BaseException:  # it is for who adds, but a piece may be half a piece now
            self._failed = RuntimeError("save: interrupted where transitions had to be kept before they left")
            raise

    def _capture(self, room: NDArray[np.uint8]) -> None:
        end = min(self._next + self._n, self._end)
        self._waiting.append(Piece.of(self._rows, self._next, end, self._still_open, room))
        self._next = end

    def _write(self) -> None:
        """Writes what waits, in order. What fails is told to who saves, not to who adds."""
        with self._writing:
            while self._waiting and self._failed is None:
                try:
                    self._writer.put(self._waiting.popleft(), self._most)
                except Exception as error:
                    self._failed = error

    def write_all(self, lock: Lock) -> None:
        """Captures and writes until the end. Raises what writing raised."""
        while self._failed is None and self._next < self._end:
            with lock:
                if self._next < self._end:
                    self._capture(self._room)
            self._write()
        self._write()
        if self._failed is not None:
            raise self._failed
