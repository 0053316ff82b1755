"""Checkpoints: a buffer on disk, true at one instant, whatever happens while it is written.

A checkpoint is a folder:

- `manifest.json`: what there is, and the checksum of that; `manifest.backup.json` is the same again;
- `transitions-….npz`: runs of transitions, in pieces of a few MiB, which never change once they are written;
- `state-….npz`: what may change at any time: priorities, streams, next observations that may still move on.

A save writes new files, waits until they are on the disk, and then replaces the manifest: that is when it becomes true.
`restore.py` brings back what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import pages
from replaybank.files import ArrayReader, CheckpointError, alone, str_of, sync_folder
from replaybank.held import Held
from replaybank.kernels import Lock
from replaybank.manifest import FORMAT, MANIFEST, VERSION, publish, read, split, sweep, tidy
from replaybank.rows import Rows
from replaybank.snapshot import NO_IDS, Snapshot, Writer, longest_file, put_held

FAN = 8  # so many shorter files become one


@dataclass
class Contents:
    """What a checkpoint keeps: rows, and everything else that the buffer is, as nested plain values and arrays.

    Dicts of numbers, texts, lists, None and arrays; what is saved may be windows on what goes on changing.

    `token` names the save. `start`: where the ids begin that the sampler's state has. `damage`: what had to be left
    out, a line each, and `lost`: so many transitions.
    """

    rows: Rows | None
    values: dict[str, Any]
    token: str | None = None
    start: int = 0
    lost: int = 0
    damage: tuple[str, ...] = ()


def save(
    folder: Path, lock: Lock, contents: Callable[[], Contents], last: str | None, compression: str | None = None
) -> str:
    """Writes a checkpoint of what `contents` gives; `lock` guards all of that, and is held for moments only.

    Gives a token. `last`: that of the last save of the same buffer to the same folder, or of what was loaded from
    there: where the folder still holds it, only what was added since is written.
    """
    _make(folder)
    token = os.urandom(8).hex()
    with alone(folder):
        tidy(folder)
        before = _manifest_of(folder, last)
        files, then_open = _files_of(folder, before)
        writer = Writer(folder, token, compression)
        snapshot = None
        try:
            with lock:
                now = contents()
                manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "token": token}
                manifest |= _write_state(now, writer, folder, before)
                rows = now.rows
                storage = rows.storage if rows is not None else None
                if rows is not None and storage is not None and storage.folder == folder:
                    storage.settle(rows.oldest)
                    files, manifest["rows"]["used"] = [], rows.used
                elif rows is not None:
                    first, files = _where_to_begin(files, rows)
                    late = then_open[files[-1]["name"]] if files else NO_IDS
                    snapshot = Snapshot(rows, first, late, writer)
                    snapshot.begin()
            if snapshot is not None:
                snapshot.write_all(lock)
                snapshot.end(lock)
            elif storage is not None:
                storage.flush()
            manifest["files"] = files + writer.close()
            manifest["state"] = writer.state.close()
            publish(folder, manifest)
        except BaseException:
            if snapshot is not None:
                snapshot.end(lock)
            writer.abandon(remove=_holds_another(folder, token))
            raise
        sweep(folder, manifest)
    return token


def _make(folder: Path) -> None:
    """Makes a folder, where there is none, and waits until its name and those above it are on the disk."""
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(f"{folder}: expected a folder, or nothing yet; a file is there")
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _holds_another(folder: Path, token: str) -> bool:
    """Whether a folder surely holds another save than this one, or none."""
    try:
        return bool(read(folder / MANIFEST)["token"] != token)
    except FileNotFoundError:
        return True
    except (OSError, CheckpointError):  # it may have come so far: the next save removes what is of no use
        return False


def _manifest_of(folder: Path, last: str | None) -> dict[str, Any] | None:
    """The manifest of the checkpoint in a folder, if it is the buffer's."""
    try:
        manifest = read(folder / MANIFEST) if last is not None else None
    except (OSError, CheckpointError):
        return None
    return manifest if manifest is not None and manifest["token"] == last else None


def _files_of(folder: Path, before: dict[str, Any] | None) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.int64]]]:
    """The files of transitions that a save can go on from.

    And by name the rows that were open when a file was written: what they hold is not in the files up to it.
    """
    files, then_open = list(before["files"]) if before is not None else [], {}
    try:
        for file in files:
            with closing(ArrayReader(folder, file)) as reader:
                then_open[file["name"]] = reader.read("still_open", np.dtype(np.int64))
    except (OSError, CheckpointError):
        return [], {}
    return files, then_open


def _where_to_begin(files: list[dict[str, Any]], rows: Rows) -> tuple[int, list[dict[str, Any]]]:
    """The first id to write, and the files that stay: those with live rows, but for the last ones if all are short."""
    files = [file for file in files if file["end"] > rows.oldest]
    if not files:
        return rows.oldest, []
    new = rows.added - files[-1]["end"]
    most = longest_file(rows)
    while True:
        short = 0
        while short < len(files) and _count(files[-1 - short]) <= FAN * new and files[-1 - short]["nbytes"] < most:
            short += 1
        if short < FAN - 1:
            break
        new += sum(map(_count, files[-short:]))
        files = files[:-short]
    return max(rows.oldest, rows.added - new), files


def _count(file: dict[str, Any]) -> int:
    return int(file["end"] - file["first"])


def _write_state(now: Contents, writer: Writer, folder: Path, before: dict[str, Any] | None) -> dict[str, Any]:
    """Writes all that may change at any time; gives what the manifest says of it.

    Of large arrays only the pages that are not as they were in a file of the checkpoint `before`: the base.
    """
    base, told = before and (before["base"] or before["state"]), None
    with ExitStack() as stack:
        reader = None
        if base is not None:
            with suppress(OSError, CheckpointError):
                reader = stack.enter_context(closing(ArrayReader(folder, base)))
        in_pages: set[str] = set()

        def put(name: str, array: NDArray[Any]) -> bool:
            if pages.put(writer.state, name, array, reader):
                in_pages.add(name)
            return name in in_pages

        values = split(now.values, "values", put)
    rows = now.rows
    if rows is not None:
        told = {
            "schema": rows.schema.plain(),
            "stack": None if rows.stack is None else rows.stack.plain(),
            "record": str_of(rows.dtype),
            "used": None,  # of the pools, where the rows themselves are here: in a storage
            "added": rows.added,
            "start": rows.start,
        }
        put_held(writer.state, "", Held.of(rows, rows.open_ids(), own=False))
        writer.state.put("newest", rows.newest)
    return {"values": values, "rows": told, "base": base if in_pages else None}
