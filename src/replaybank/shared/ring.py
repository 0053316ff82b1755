"""One writer's ring: a file in shared memory, of which native/channel.hpp says what its messages are."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replaybank.rows import Channel
from replaybank.shared import locks

MAGIC, VERSION = 0x676E69726B6E6162, 1
PAGE = 4096
# Words of 8 bytes at the beginning of the file (native/channel.hpp, Control).
W_MAGIC, W_VERSION, W_STREAMS, W_PID = range(4)
W_HEAD, W_TAIL, W_CLAIMED, W_ABANDONED = 16, 32, 48, 49
W_MARKS, W_CLOSED = (64, 65, 66, 67), 68
CONTROL = 1024  # bytes; then come the writer's streams, int64 each
IDLE = -1
# What each side remembers.
POSITION, TRANSITIONS, MESSAGES, DROPPED = range(4)
MESSAGE, LINE = 32, 64  # bytes of a message's header, and of what it begins on
# What a push says (native/channel.hpp, Pushed).
DONE, NOT_PLAIN, FULL, TOO_LARGE, ABANDONED = 0, -1, -2, -3, -4


class Damaged(Exception):
    """A file that is no ring of this learner's; the message says why."""


def _begin(streams: int) -> int:
    """Where the messages begin."""
    return -(-(CONTROL + 8 * streams) // PAGE) * PAGE


def message_nbytes(items: list[int], n: int, owners: bool) -> int:
    """Bytes of a message of `n` transitions whose leaves have so many bytes each."""
    parts = [8 * n] * owners + [item * n for item in items]
    return -(-(MESSAGE + sum(-(-part // 16) * 16 for part in parts)) // LINE) * LINE


class Ring:
    """The file in memory. `streams`: which of the buffer's streams are the writer's."""

    def __init__(self, fd: int, path: Path, streams: list[int], touch: bool = False) -> None:
        self.fd = fd
        self.path = path
        self.streams: NDArray[np.int64] = np.array(streams, np.int64)
        # The file is as long as it was when it was made, and full of zeros: touching it cannot fail for want of memory.
        # `touch`: all of it at once, so that no `add` waits for pages.
        flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if touch else 0)
        file: NDArray[np.uint8] = np.frombuffer(mmap.mmap(fd, 0, flags=flags), np.uint8)
        self.words: NDArray[np.int64] = file[:CONTROL].view(np.int64)
        self.memory: NDArray[np.int64] = np.zeros(4, np.int64)
        self.channel: Channel = (file, _begin(len(streams)), self.memory)

    @classmethod
    def create(cls, path: Path, streams: list[int], ring_bytes: int) -> Ring:
        """A new file, locked by this process. Raises OSError (ENOSPC) where shared memory is used up."""
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            begin = _begin(len(streams))
            head = np.zeros(begin // 8, np.int64)
            head[[W_MAGIC, W_VERSION, W_STREAMS, W_PID]] = MAGIC, VERSION, len(streams), os.getpid()
            head[W_CLAIMED] = IDLE
            head[CONTROL // 8 :][: len(streams)] = streams
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(head.tobytes())
                file.write(bytes(ring_bytes))
            locks.take(fd)
            return cls(fd, path, streams, touch=True)
        except BaseException:
            locks.release(fd)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def attach(cls, path: Path, most_streams: int, ring_bytes: int) -> Ring:
        """Another process's ring. Raises Damaged where it is none of this learner's."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            streams = _streams_in(fd, path, most_streams, ring_bytes)
            return cls(fd, path, streams)
        except BaseException:
            os.close(fd)
            raise

    @property
    def alive(self) -> bool:
        """Whether the writer's process is."""
        return locks.holder(self.fd) != 0

    @property
    def pid(self) -> int:
        """The writer's process."""
        return self.words.item(W_PID)

    @property
    def closed(self) -> bool:
        """Whether the writer has left in peace."""
        return self.words.item(W_CLOSED) != 0

    @property
    def empty(self) -> bool:
        """Whether everything was read or dropped."""
        return self.words.item(W_TAIL) == self.words.item(W_HEAD)

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to read and nobody has left."""
        item = self.words.item
        return item(W_TAIL) == item(W_HEAD) and item(W_CLOSED) == 0

    @property
    def published(self) -> int:
        """How many transitions were ever published; exact once the writer is gone."""
        one, first, other, second = (self.words.item(word) for word in W_MARKS)
        head = self.words.item(W_HEAD)
        return {0: 0, other: second, one: first}.get(head, max(first, second))

    def abandon(self) -> None:
        """Tells the writer that nothing will be read any more."""
        self.words[W_ABANDONED] = 1

    def close(self, clean: bool) -> None:
        """The writer leaves; `clean`: in peace, which the learner is told."""
        if clean:
            self.words[W_CLOSED] = 1
        del self.words, self.channel
        locks.release(self.fd)


def _streams_in(fd: int, path: Path, most_streams: int, ring_bytes: int) -> list[int]:
    head = np.frombuffer(os.pread(fd, CONTROL, 0), np.int64)
    if len(head) * 8 != CONTROL or head[W_MAGIC] != MAGIC or head[W_VERSION] != VERSION:
        raise Damaged(f"{path.name} is no ring of this version")
    count = head.item(W_STREAMS)
    if not 1 <= count <= most_streams or os.fstat(fd).st_size != _begin(count) + ring_bytes:
        raise Damaged(f"{path.name} has {os.fstat(fd).st_size} bytes for {count} streams")
    streams: list[int] = np.frombuffer(os.pread(fd, 8 * count, CONTROL), np.int64).tolist()
    if len(set(streams)) != count or min(streams) < 0 or max(streams) >= most_streams:
        raise Damaged(f"{path.name} is for streams {streams[:8]}, where there are {most_streams}")
    return streams
