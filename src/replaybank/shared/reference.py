"""The NumPy twins of the kernels `channel_push`, `channel_end` and `channel_drain`: one message after the other.

For one process at a time, as they know no atomic exchange; tests hold the kernels against them. Nothing else uses them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import reference
from replaybank.rows import Channel
from replaybank.shared.ring import (
    ABANDONED,
    DONE,
    DROPPED,
    FULL,
    IDLE,
    LINE,
    MESSAGE,
    MESSAGES,
    POSITION,
    TOO_LARGE,
    TRANSITIONS,
    W_ABANDONED,
    W_CLAIMED,
    W_HEAD,
    W_MARKS,
    W_TAIL,
)

KIND_TRANSITIONS, KIND_END, KIND_SKIP = 1, 2, 3
HEADER = np.dtype([("nbytes", "i8"), ("first", "i8"), ("number", "u4"), ("n", "i4"), ("kind", "i4"), ("stream", "i4")])
ITEM_NBYTES = 2  # a column of the plan


def channel_push(
    channel: Channel,
    plan: NDArray[np.int64],
    values: tuple[NDArray[Any], ...],
    lead: int,
    owners: NDArray[np.int64] | None,
    stream: int,
    item_a_stream: bool,
    drop: bool,
) -> int:
    """Publishes transitions. The twin takes arrays of the leaves' own dtypes only."""
    n = max(lead, 1) if owners is None else len(owners)
    parts = [] if owners is None else [owners.view(np.uint8)]
    for value in values:
        item = np.ascontiguousarray(value).reshape(max(lead, 1), -1).view(np.uint8)
        parts.append((item[owners] if item_a_stream else item).reshape(-1))
    return _push(channel, KIND_TRANSITIONS, n, stream, parts, drop)


def channel_end(channel: Channel, streams: NDArray[np.int64], drop: bool) -> int:
    """Publishes that a segment of these streams ends here."""
    return _push(channel, KIND_END, len(streams), -1, [streams.view(np.uint8)], drop)


def _push(channel: Channel, kind: int, n: int, stream: int, parts: list[NDArray[np.uint8]], drop: bool) -> int:
    words, data, memory = _opened(channel)
    if words[W_ABANDONED]:
        return ABANDONED
    nbytes = -(-(MESSAGE + sum(-(-len(part) // 16) * 16 for part in parts)) // LINE) * LINE
    if nbytes > len(data) // 2:
        return TOO_LARGE
    head = int(words[W_HEAD])
    rest = len(data) - head % len(data)
    skip = rest if nbytes > rest else 0
    end = head + skip + nbytes - len(data)
    while memory[POSITION] < end:
        memory[POSITION] = words[W_TAIL] if words[W_CLAIMED] == IDLE else min(words[W_TAIL], words[W_CLAIMED])
        if memory[POSITION] >= end:
            break
        if not drop or words[W_CLAIMED] != IDLE:
            return FULL
        oldest = _header(data, int(words[W_TAIL]))
        words[W_TAIL] += oldest["nbytes"]
        memory[DROPPED] += oldest["n"] if oldest["kind"] == KIND_TRANSITIONS else 0
    if skip:
        _write(data, head, (skip, memory[TRANSITIONS], memory[MESSAGES], 0, KIND_SKIP, -1))
        head += skip
    _write(data, head, (nbytes, memory[TRANSITIONS], memory[MESSAGES], n, kind, stream))
    at = head % len(data) + MESSAGE
    for part in parts:
        data[at : at + len(part)] = part
        at += -(-len(part) // 16) * 16
    memory[TRANSITIONS] += n if kind == KIND_TRANSITIONS else 0
    mark = 2 * int(memory[MESSAGES] % 2)
    words[[*W_MARKS[mark : mark + 2]]] = head + nbytes, memory[TRANSITIONS]
    memory[MESSAGES] += 1
    words[W_HEAD] = head + nbytes
    return DONE


def channel_drain(
    store: reference.Store, plan: NDArray[np.int64], channel: Channel, streams: NDArray[np.int64], most: int
) -> int:
    """Reads whole messages up to `most` transitions, but one at least. The twin takes rings without damage only."""
    words, data, memory = _opened(channel)
    before = int(memory[TRANSITIONS])
    while words[W_TAIL] < words[W_HEAD]:
        position = int(words[W_TAIL])
        message = _header(data, position)
        n, taken = int(message["n"]), int(memory[TRANSITIONS]) - before
        if message["kind"] == KIND_TRANSITIONS and taken and n > most - taken:
            break
        words[W_TAIL] = position + message["nbytes"]
        if message["kind"] == KIND_SKIP:
            continue
        if message["number"] != memory[POSITION]:
            _end(store, streams)
        memory[POSITION] = int(message["number"]) + 1
        memory[MESSAGES] += 1
        at = position % len(data) + MESSAGE
        owners = np.full(n, message["stream"], np.int64)
        if message["stream"] < 0:
            owners = data[at : at + 8 * n].view(np.int64)
            at += -(-8 * n // 16) * 16
        if message["kind"] == KIND_END:
            _end(store, streams[owners])
            continue
        values = []
        for leaf in plan:
            size = int(leaf[ITEM_NBYTES]) * n
            values.append(data[at : at + size].reshape(n, -1))
            at += -(-size // 16) * 16
        memory[DROPPED] = message["first"] - memory[TRANSITIONS]
        memory[TRANSITIONS] += n
        reference.append(store, plan, tuple(values), n, streams[owners], False)
    return int(memory[TRANSITIONS]) - before


def _opened(channel: Channel) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    file, begin, memory = channel
    return file[:begin].view(np.int64), file[begin:], memory


def _header(data: NDArray[np.uint8], position: int) -> Any:
    at = position % len(data)
    return data[at : at + MESSAGE].view(HEADER)[0]


def _write(data: NDArray[np.uint8], position: int, message: tuple[Any, ...]) -> None:
    at = position % len(data)
    data[at : at + MESSAGE].view(HEADER)[0] = message


def _end(store: reference.Store, streams: NDArray[np.int64]) -> None:
    newest = store[6]
    newest[streams] = np.where(newest[streams] < 0, newest[streams], -2 - newest[streams])
