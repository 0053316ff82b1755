"""Files that are whole or not there: arrays with checksums, texts that are replaced at once, one writer a folder."""

from __future__ import annotations

import contextlib
import io
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from replaybank.extras import of_extra

WORTH_BEGINNING = 1 << 20  # bytes that are sent to the disk before all is written
CHUNK = 1 << 22  # bytes that are read or compressed at a time
COMPRESSIONS = (None, "zstd")
Kinds: TypeAlias = dict[str, "type | tuple[type, ...]"]


class CheckpointError(ValueError):
    """What is on disk is no checkpoint that this version can read, or damaged; the message says which part."""


class Member(NamedTuple):
    """An array in a file: where its .npy begins, how long header and contents are as stored, and the CRC-32 of both."""

    name: str
    offset: int
    header: int
    nbytes: int
    crc: int
    dtype: str
    shape: tuple[int, ...]
    compression: str | None


class ArrayFile:
    """A new file of arrays, written one after another: a .npz, which `numpy.load` reads (uncompressed).

    A zip archive whose members are .npy files, stored. Its last member is the index of the others. Not whole before
    `close`, which gives what a reader must be told of it, and returns once it is on the disk.
    """

    def __init__(self, path: Path, compression: str | None = None) -> None:
        import zipfile  # with what it imports a good part of the time that `import replaybank` takes

        self.path = path
        self._members: list[Member] = []
        self._compress = compressor(compression)
        self._compression = compression
        self._raw = io.BufferedWriter(io.FileIO(path, "x"))
        self._info = zipfile.ZipInfo
        self._zip = zipfile.ZipFile(self._raw, "w", zipfile.ZIP_STORED)

    @property
    def nbytes(self) -> int:
        """Bytes written so far."""
        return self._raw.tell()

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Writes an array."""
        array = np.ascontiguousarray(array)
        header = io.BytesIO()
        npy.write_array_header_2_0(header, npy.header_data_from_array_1_0(array))
        contents: Any = array.reshape(-1).view(np.uint8).data if array.size else b""
        if self._compress is not None:
            contents = self._compress(contents)
        suffix = "" if self._compression is None else f".{self._compression}"
        offset, crc = self._write(f"{name}.npy{suffix}", header.getvalue(), contents)
        where = (offset, len(header.getvalue()), len(contents), crc)
        self._members.append(Member(name, *where, str_of(array.dtype), array.shape, self._compression))

    def _write(self, name: str, *parts: Any) -> tuple[int, int]:
        info = self._info(name)
        with self._zip.open(info, "w", force_zip64=True) as member:
            offset = self._raw.tell()
            for part in parts:
                member.write(part)
        if hasattr(os, "posix_fadvise"):  # Linux then begins to write them to the disk, which `close` waits for
            nbytes = sum(map(len, parts))
            if nbytes >= WORTH_BEGINNING:
                os.posix_fadvise(self._raw.fileno(), offset, nbytes, os.POSIX_FADV_DONTNEED)
        return offset, info.CRC

    def close(self) -> dict[str, Any]:
        """Ends the file and waits until it is on the disk; gives its name, its length, and where its index is."""
        index = json.dumps([list(member) for member in self._members]).encode()
        offset, crc = self._write("index.json", index)
        self._zip.close()
        nbytes = self._raw.tell()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        return {"name": self.path.name, "nbytes": nbytes, "index": [offset, len(index), crc]}

    def abandon(self) -> None:
        """Gives the file up, as it is."""
        self._zip.fp = None  # or it would write its directory when it is collected
        with contextlib.suppress(OSError, ValueError):
            self._raw.raw.close()  # what is still buffered is of no use


class ArrayReader:
    """The arrays of a file that `ArrayFile` wrote, checked against what was told of it.

    Raises CheckpointError where the file is shorter than told, or its index is not what was written.
    """

    def __init__(self, folder: Path, told: Any) -> None:
        name, nbytes, index = fields_of(told, "a file", name=str, nbytes=int, index=list)
        self.name = name
        self._file = (folder / name).open("rb", buffering=0)
        self._lock = Lock()
        try:
            self._nbytes = os.fstat(self._file.fileno()).st_size
            if self._nbytes < nbytes:
                raise CheckpointError(f"{name}: expected {nbytes} bytes, found {self._nbytes}")
            if len(index) != 3 or not all(type(number) is int for number in index):
                raise CheckpointError(f"{name}: no index")
            self.members = self._index(*index)
        except BaseException:
            self._file.close()
            raise

    def _index(self, offset: int, nbytes: int, crc: int) -> dict[str, Member]:
        text = self._bytes("index", offset, nbytes)
        if zlib.crc32(text) != crc:
            raise CheckpointError(f"{self.name}: the index is damaged")
        members = {}
        for entry in parsed(text, f"{self.name}: index"):
            if not (isinstance(entry, list) and len(entry) == len(Member._fields)):
                raise CheckpointError(f"{self.name}: expected an entry of the index, found {entry!r:.99}")
            named, numbers, dtype, shape, compression = entry[0], entry[1:5], entry[5], entry[6], entry[7]
            plain = isinstance(named, str) and isinstance(dtype, str) and isinstance(shape, list)
            if not plain or any(type(n) is not int or n < 0 for n in numbers + shape) or len(shape) > 32:
                raise CheckpointError(f"{self.name}: expected an entry of the index, found {entry!r:.99}")
            if compression is not None and compression not in COMPRESSIONS:
                raise CheckpointError(f"{self.name}: {named}: unknown compression {compression!r:.99}")
            members[named] = Member._make((named, *numbers, dtype, tuple(shape), compression))
        return members

    def _bytes(self, name: str, offset: int, nbytes: int) -> bytearray:
        """Bytes of the file, at most as many as it has."""
        self._require(name, offset, nbytes)
        found = bytearray(nbytes)
        self._fill(name, offset, memoryview(found))
        return found

    def _require(self, name: str, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self._nbytes:
            raise CheckpointError(f"{self.name}: {name} is said to lie beyond the end of the file")

    def _fill(self, name: str, offset: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            part = out[done : done + CHUNK]
            if hasattr(os, "preadv"):  # from several threads at a time
                got = os.preadv(self._file.fileno(), [part], offset + done)
            else:
                with self._lock:
                    self._file.seek(offset + done)
                    got = self._file.readinto(part) or 0
            if not got:
                raise CheckpointError(f"{self.name}: {name}: the file ends early")
            done += got

    def part_into(self, name: str, begin: int, out: memoryview) -> None:
        """Fills `out` with stored bytes of an array, from `begin` on; nothing is checked but that they are there."""
        member = self.members[name]
        self._require(name, member.offset, member.header + begin + len(out))
        self._fill(name, member.offset + member.header + begin, out)

    def shape_of(self, name: str, dtype: np.dtype[Any], ndim: int = 1) -> tuple[int, ...]:
        """The shape of an array of this dtype and number of axes that the file holds; allocates nothing."""
        member = self.members.get(name)
        if member is None:
            raise CheckpointError(f"{self.name}: {name} is missing")
        if member.dtype != str_of(dtype) or len(member.shape) != ndim:
            given = f"{member.dtype:.99} of shape {member.shape}"
            raise CheckpointError(f"{self.name}: {name}: expected {ndim} axes of {str_of(dtype):.99}, found {given}")
        nbytes = dtype.itemsize * math.prod(member.shape)
        self._require(name, member.offset, member.header + member.nbytes)
        if member.compression is None and member.nbytes != nbytes:
            raise CheckpointError(f"{self.name}: {name}: expected {nbytes} bytes, found {member.nbytes}")
        if member.compression is not None and nbytes > 1000 * (member.nbytes + CHUNK):
            raise CheckpointError(f"{self.name}: {name}: {member.nbytes} bytes cannot hold {nbytes}")
        return member.shape

    def read(self, name: str, dtype: np.dtype[Any], ndim: int = 1) -> NDArray[Any]:
        """An array of this dtype and number of axes."""
        found = np.empty(self.shape_of(name, dtype, ndim), dtype)
        self.read_into(name, found)
        return found

    def mapped(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array with one axis, mapped into memory: what is written to it stays there."""
        (n,) = self.shape_of(name, dtype)
        member = self.members[name]
        if member.compression is not None:
            raise CheckpointError(f"{self.name}: {name} is compressed")
        if n == 0:
            return np.empty(0, dtype)
        begin = member.offset + member.header
        start = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        pages = mmap.mmap(self._file.fileno(), begin - start + member.nbytes, access=mmap.ACCESS_COPY, offset=start)
        found = np.frombuffer(pages, np.uint8, member.nbytes, begin - start)
        crc = zlib.crc32(self._bytes(name, member.offset, member.header))
        if zlib.crc32(found.data, crc) != member.crc:
            raise CheckpointError(f"{self.name}: {name} is damaged: its checksum is wrong")
        return found.view(dtype)

    def read_into(self, name: str, out: NDArray[Any]) -> None:
        """Fills `out`, contiguous and of the array's shape and dtype; undefined contents after an error."""
        if self.shape_of(name, out.dtype, out.ndim) != out.shape:
            raise CheckpointError(f"{self.name}: {name}: expected shape {out.shape}")
        member = self.members[name]
        target = out.reshape(-1).view(np.uint8).data if out.size else memoryview(b"")
        crc = zlib.crc32(self._bytes(name, member.offset, member.header))
        if member.compression is None:
            for begin in range(0, len(target), CHUNK):  # while it is still in the cache
                part = target[begin : begin + CHUNK]
                self._fill(name, member.offset + member.header + begin, part)
                crc = zlib.crc32(part, crc)
        else:
            stored = self._bytes(name, member.offset + member.header, member.nbytes)
            crc = zlib.crc32(stored, crc)
        if crc != member.crc:
            raise CheckpointError(f"{self.name}: {name} is damaged: its checksum is wrong")
        if member.compression is not None:
            decompress(f"{self.name}: {name}", stored, target)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def compressor(compression: str | None) -> Any:
    """The function that compresses bytes; None for none. Raises ValueError for an unknown one."""
    if compression is None:
        return None
    if compression not in COMPRESSIONS:
        known = ", ".join(repr(one) for one in COMPRESSIONS)
        raise ValueError(f"compression: expected one of {known}, given {compression!r}")
    with of_extra("zstd"):
        import zstandard

    return zstandard.ZstdCompressor(level=1).compress


def decompress(name: str, stored: bytearray, out: memoryview) -> None:
    """Fills `out` with what was compressed; raises CheckpointError where that is not exactly as long."""
    with of_extra("zstd"):
        import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(stored) as stream:
            done = 0
            while done < len(out) and (got := stream.readinto(out[done : done + CHUNK])):
                done += got
            more = stream.read(1)
    except zstandard.ZstdError as error:
        raise CheckpointError(f"{name}: cannot be decompressed: {error}") from None
    if done != len(out) or more:
        raise CheckpointError(f"{name}: expected {len(out)} bytes once decompressed")


def str_of(dtype: np.dtype[Any]) -> str:
    """A dtype as text: the same for the same layout in memory, and another for another."""
    return dtype.str if dtype.names is None and dtype.subdtype is None else repr(npy.dtype_to_descr(dtype))


def parsed(text: bytes | bytearray, what: str) -> Any:
    """JSON, or CheckpointError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what}: not JSON: {error}") from None


def fields_of(found: Any, what: str, /, **kinds: type | tuple[type, ...]) -> list[Any]:
    """The values of a mapping's keys, each of exactly one of its types; else CheckpointError."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{what}: expected a mapping with {', '.join(kinds)}, found {found!r:.99}")
    values = []
    for name, kind in kinds.items():
        if name not in found:
            raise CheckpointError(f"{what}: {name} is missing")
        value = found[name]
        allowed = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in allowed:
            expected = " or ".join(one.__name__ for one in allowed)
            raise CheckpointError(f"{what}: {name}: expected {expected}, found {value!r:.99}")
        values.append(value)
    return values


def write_whole(path: Path, text: bytes, wait: bool = True) -> None:
    """Replaces a file at once: a reader finds the old one or the new one, whole, whatever happens.

    Without `wait` that holds for a program that dies, not for a machine that does.
    """
    new = path.with_name(path.name + ".new")
    with io.BufferedWriter(io.FileIO(new, "w")) as file:
        file.write(text)
        file.flush()
        if wait:
            os.fsync(file.fileno())
    os.replace(new, path)


def sync_folder(folder: Path) -> None:
    """Waits until the names of a folder's files are on the disk."""
    if os.name != "posix":
        return  # such systems do not open folders; their renames are written through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold_alone(path: Path, refusal: str) -> io.BufferedWriter:
    """An open file that nobody else holds so until it is closed; raises BlockingIOError(refusal) where one does."""
    file = path.open("ab")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # nothing to lock with: one holder is then the user's promise
        pass
    except OSError:
        file.close()
        raise BlockingIOError(refusal) from None
    return file


def let_go(file: io.BufferedWriter) -> None:
    """Holds a file no longer, in no process: one that was forked meanwhile has it open, too."""
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While no other process writes to the folder; raises BlockingIOError where one does."""
    with hold_alone(folder / "lock", f"{folder}: another process is saving to it") as file:
        try:
            yield
        finally:
            let_go(file)
