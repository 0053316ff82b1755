"""What makes a folder of files a checkpoint: the manifest, and the values that it keeps by name."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.files import ArrayReader, CheckpointError, Kinds, fields_of, parsed, sync_folder, write_whole
from replaybank.pages import patched

FORMAT, VERSION = "replaybank checkpoint", 1
MANIFEST, BACKUP = "manifest.json", "manifest.backup.json"
OURS = re.compile(r"(transitions-\d+|state)-[0-9a-f]{16}\.npz|manifest(\.backup)?\.json\.new")
SIMPLE = re.compile(r"[<>|=][biuf]\d{1,2}")  # dtypes of values
MOST_NESTED = 32  # levels of values


def publish(folder: Path, manifest: dict[str, Any]) -> None:
    """Makes a checkpoint true, whose files are on the disk already: it is once `manifest.json` is replaced."""
    sync_folder(folder)
    text = signed(manifest)
    write_whole(folder / MANIFEST, text)
    sync_folder(folder)
    write_whole(folder / BACKUP, text, wait=False)  # no checkpoint depends on it


def sweep(folder: Path, manifest: dict[str, Any]) -> None:
    """Removes files of earlier checkpoints, and of such as did not come to their end."""
    with suppress(OSError):  # the next save tries again
        for file in _leftovers(folder, manifest):
            file.unlink()


def tidy(folder: Path) -> None:
    """Removes what saves that broke off have left, so that the next one has the room."""
    with suppress(OSError, CheckpointError):  # where there is no checkpoint, or it cannot be told what it needs
        manifest = read(folder / MANIFEST)
        if _leftovers(folder, manifest):
            sync_folder(folder)  # the last one may have become true without waiting for that
            sweep(folder, manifest)


def _leftovers(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """The files in a folder that a save wrote, and this checkpoint does not need."""
    known = {told["name"] for told in _files_of(manifest)}
    return [file for file in folder.iterdir() if OURS.fullmatch(file.name) and file.name not in known]


def _files_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """All that a manifest tells of files."""
    base = [manifest["base"]] if manifest["base"] is not None else []
    return [manifest["state"], *base, *manifest["files"]]


def read(path: Path) -> dict[str, Any]:
    """The manifest, its checksum and the types of what it says checked."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint in {path.parent}: {path.name} is missing") from None
    crc, found = fields_of(parsed(text, path.name), path.name, crc32=int, checkpoint=dict)
    name, version = fields_of(found, path.name, format=str, version=int)
    if name != FORMAT or version != VERSION:
        raise CheckpointError(
            f"{path.name}: expected {FORMAT} version {VERSION}, found {name:.99} version {version}"
            + ("; a newer replaybank wrote it" if name == FORMAT and version > VERSION else "")
        )
    try:
        right = crc == zlib.crc32(_canonical(found))
    except (ValueError, RecursionError):  # what no save writes: infinities, endless nesting
        right = False
    if not right:
        raise CheckpointError(f"{path.name} is damaged: its checksum is wrong")
    kinds: Kinds = {"token": str, "values": dict, "rows": (dict, NoneType)}
    fields_of(found, path.name, **kinds, files=list, state=dict, base=(dict, NoneType))
    for file in found["files"]:
        fields_of(file, f"{path.name}: a file", name=str, nbytes=int, first=int, end=int)
    for told in _files_of(found):
        if not OURS.fullmatch(str(told.get("name"))):
            raise CheckpointError(f"{path.name}: expected the name of a file, found {told.get('name')!r:.99}")
    whole: dict[str, Any] = found
    return whole


def signed(manifest: dict[str, Any]) -> bytes:
    """A manifest as text, with its checksum."""
    crc = zlib.crc32(_canonical(manifest))
    return json.dumps({"crc32": crc, "checkpoint": manifest}, allow_nan=False).encode()


def _canonical(manifest: Any) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def split(value: Any, name: str, put: Callable[[str, NDArray[Any]], bool]) -> Any:
    """Nested values as JSON takes them, with names for arrays, which `put` writes, all or some pages of them."""
    if isinstance(value, dict):
        return {key: split(child, f"{name}.{key}", put) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [split(child, f"{name}.{i}", put) for i, child in enumerate(value)]
    if isinstance(value, np.ndarray):
        return {"$array": name, "in_pages": True} if put(name, value) else {"$array": name}
    return value.item() if isinstance(value, np.generic) else value


def joined(value: Any, state: ArrayReader, base: ArrayReader | None = None, depth: int = 0) -> Any:
    """Nested values, with their arrays; `base` has those of which `state` has some pages only."""
    if depth > MOST_NESTED:
        raise CheckpointError("values are nested too deeply")
    if isinstance(value, list):
        return [joined(child, state, base, depth + 1) for child in value]
    if not isinstance(value, dict):
        return value
    if "$array" not in value:
        return {key: joined(child, state, base, depth + 1) for key, child in value.items()}
    reader = base if base is not None and value.get("in_pages") is True else state
    member = reader.members.get(value["$array"]) if isinstance(value["$array"], str) else None
    if member is None or not SIMPLE.fullmatch(member.dtype):
        raise CheckpointError(f"{reader.name}: {value['$array']!r:.99} is no array of it")
    with refusing():
        dtype = np.dtype(member.dtype)
    if reader is base:
        return patched(member.name, dtype, state, reader)
    if len(member.shape) == 1:
        return state.mapped(member.name, dtype)  # what takes it up copies it: once is enough
    return state.read(member.name, dtype, len(member.shape))


@contextmanager
def refusing() -> Iterator[None]:
    """Where values from a file are used: what they are refused with becomes a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{error} is missing") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(str(error)) from None
