"""Large arrays of which a checkpoint keeps what has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.files import ArrayFile, ArrayReader, CheckpointError

PAGE = 4096  # bytes
LARGE = 1 << 20  # bytes: smaller arrays are kept whole
AT_ONCE = 1 << 18  # bytes that are compared at a time, in the cache
FEW = 4  # a part of the pages: where more have changed, the whole is kept
UINT8, UINT32 = np.dtype(np.uint8), np.dtype(np.uint32)


def put(file: ArrayFile, name: str, array: NDArray[Any], base: ArrayReader | None) -> bool:
    """Writes an array, or, where it is large and few pages differ from that of the base, those; gives which it was."""
    if base is not None and array.nbytes >= LARGE and array.ndim == 1:
        pages = _changed(array, name, base)
        if pages is not None:
            contents = array.view(np.uint8)
            file.put(f"{name}.pages", pages)
            parts = [contents[page * PAGE : (page + 1) * PAGE] for page in pages.tolist()]
            file.put(f"{name}.bytes", np.concatenate([contents[:0], *parts]))
            return True
    file.put(name, array)
    return False


def patched(name: str, dtype: np.dtype[Any], state: ArrayReader, base: ArrayReader) -> NDArray[Any]:
    """The array of which `put` wrote the pages to the one file, and the rest before to the other."""
    array = base.mapped(name, dtype)
    contents = array.view(np.uint8)
    pages, stored = state.read(f"{name}.pages", UINT32), state.read(f"{name}.bytes", UINT8)
    lengths = np.minimum(len(contents) - pages.astype(np.int64) * PAGE, PAGE)
    if (lengths <= 0).any() or lengths.sum() != len(stored):
        raise CheckpointError(f"{state.name}: {name}: pages that do not fit")
    at = 0
    for page, length in zip(pages.tolist(), lengths.tolist(), strict=True):
        contents[page * PAGE : page * PAGE + length] = stored[at : at + length]
        at += length
    return array


def _changed(array: NDArray[Any], name: str, base: ArrayReader) -> NDArray[np.uint32] | None:
    """The pages that are not as in the base; None where that has no such array, or most are not."""
    contents, found = array.view(np.uint8), [np.empty(0, np.uint32)]
    before = np.empty(min(AT_ONCE, len(contents)), np.uint8)
    most = -(-len(contents) // PAGE) // FEW
    try:
        if base.shape_of(name, array.dtype) != array.shape:
            return None
        for begin in range(0, len(contents), AT_ONCE):
            now = contents[begin : begin + AT_ONCE]
            then = before[: len(now)]
            base.part_into(name, begin, then.data)
            whole = len(now) // PAGE * PAGE
            pages = (now[:whole] != then[:whole]).reshape(-1, PAGE).any(axis=1)
            if whole < len(now):
                pages = np.append(pages, (now[whole:] != then[whole:]).any())
            found.append((np.flatnonzero(pages) + begin // PAGE).astype(np.uint32))
            most -= len(found[-1])
            if most < 0:
                return None
    except (OSError, CheckpointError):
        return None
    return np.concatenate(found)
