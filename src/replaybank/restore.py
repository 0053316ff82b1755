"""What a checkpoint holds, read and checked: nothing in a file is believed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.arguments import cores
from replaybank.checkpoint import Contents
from replaybank.files import ArrayReader, CheckpointError, Kinds, fields_of, str_of
from replaybank.held import Held
from replaybank.layout import STACK_LINKS
from replaybank.manifest import BACKUP, MANIFEST, joined, read, refusing
from replaybank.plain import lost, rebuilt
from replaybank.rows import MAX_CAPACITY, NONE, Rows
from replaybank.salvage import keep_whole
from replaybank.schema import Schema
from replaybank.snapshot import NO_IDS, RECORDS
from replaybank.stacking import Stacking
from replaybank.storage import Storage

MOST_THREADS = 4  # that load
INT64, UINT32 = np.dtype(np.int64), np.dtype(np.uint32)
PIECE, HELD = re.compile(RECORDS + r"\d{1,18}"), re.compile(r"(?:tail|older|next_older)_ids(_(\d{1,18})_(\d{1,18}))")
MAX_ADDED = 2**62


def load(folder: Path) -> Contents:
    """What the checkpoint in a folder holds.

    Raises FileNotFoundError where there is none, CheckpointError where it is damaged, or of another version.
    """
    manifest = read(folder / MANIFEST)
    while True:
        try:
            return _found(folder, manifest)
        except FileNotFoundError as error:  # a save may have come to its end meanwhile
            again = read(folder / MANIFEST)
            if again["token"] == manifest["token"]:
                raise CheckpointError(f"{Path(error.filename).name} is missing") from None
            manifest = again


def salvage(folder: Path) -> Contents:
    """What is whole of the checkpoint in a folder: `load`, but for what is damaged.

    Of `values` only what needs no state comes back where anything is lost. Raises CheckpointError where not even a
    manifest is whole.
    """
    damage: list[str] = []
    if not any((folder / name).exists() for name in (MANIFEST, BACKUP)):
        raise FileNotFoundError(f"no checkpoint in {folder}: {MANIFEST} is missing")
    for name in (MANIFEST, BACKUP):
        with _tolerance(damage):
            manifest = read(folder / name)
            if not damage:
                with _tolerance(damage):
                    return load(folder)
            return _found(folder, manifest, damage)
    raise CheckpointError("; ".join(damage))


@contextmanager
def _tolerance(damage: list[str] | None) -> Iterator[None]:
    """Notes what is damaged or missing; raises it where there is nobody to note it for."""
    try:
        yield
    except (CheckpointError, OSError) as error:
        if damage is None:
            raise
        damage.append(str(error))


def _found(folder: Path, manifest: dict[str, Any], damage: list[str] | None = None) -> Contents:
    with ExitStack() as stack:
        state, values, told = None, manifest["values"], manifest["rows"]
        with _tolerance(damage):
            state = stack.enter_context(closing(ArrayReader(folder, manifest["state"])))
            base = None
            if manifest["base"] is not None:
                base = stack.enter_context(closing(ArrayReader(folder, manifest["base"])))
            values = joined(values, state, base)
        if told is None:
            return Contents(None, values, None if damage else manifest["token"], damage=tuple(damage or ()))
        capacity, streams, _ = sizes(values)
        if told.get("used") is not None:
            if state is None or values is manifest["values"]:  # a storage goes on as it was, or not at all
                raise CheckpointError("; ".join(damage or ()))
            reopened = _reopened(folder, told, capacity or 1, streams, state)
            return Contents(reopened, values, manifest["token"], told["start"])
        rows = _empty_rows(told, capacity or 1, streams)
        here, newest = _read_rows(folder, manifest["files"], state, rows, damage)
    if damage:
        before = len(rows)
        keep_whole(rows, here)
        return Contents(rows, values, lost=before - len(rows), damage=tuple(damage))
    with refusing():
        rows.settle(newest)
    return Contents(rows, values, manifest["token"], rows.start)


def _reopened(folder: Path, told: dict[str, Any], capacity: int, streams: int, state: ArrayReader) -> Rows:
    """The rows of a storage as they were, but for those that may have been overwritten since."""
    used = told["used"]
    if not (isinstance(used, list) and len(used) == 2 and all(type(n) is int for n in used)):
        raise CheckpointError(f"rows: used: expected two numbers, found {used!r:.99}")
    rows = _empty_rows(told, capacity, streams, Storage(folder, reopen=True))
    still_open = state.read("tail_ids", INT64) if "tail_ids" in state.members else NO_IDS
    with refusing():
        if ((still_open < 0) | (still_open >= rows.added)).any():
            raise ValueError("something is held by a transition that is not there")
        rows.reopen(used[0], used[1], still_open)
        _hold(state, "", rows, [])
        rows.settle(_newest(state, rows))
    return rows


def _empty_rows(told: dict[str, Any], capacity: int, streams: int, storage: Storage | None = None) -> Rows:
    """Rows that wait for their records."""
    kinds: Kinds = {"schema": list, "stack": (dict, NoneType), "record": str, "added": int, "start": int}
    schema, stack, record, added, start = fields_of(told, "rows", **kinds)
    if not 0 <= start <= added <= MAX_ADDED:
        raise CheckpointError(f"rows: expected 0 <= start <= added, found {start} and {added}")
    with refusing():
        stacking = None if stack is None else Stacking.of_plain(stack)
        rows = Rows(Schema.of_plain(schema), capacity, streams, stacking, storage)
    if str_of(rows.dtype) != record:
        raise CheckpointError(f"rows: expected records of {str_of(rows.dtype):.200}, found {record:.200}")
    rows.begin(added, start if storage is None else min(max(start, storage.horizon), added))
    return rows


def _read_rows(
    folder: Path, files: list[dict[str, Any]], state: ArrayReader | None, rows: Rows, damage: list[str] | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Reads rows, without links. Gives which are here (bool [live]), and the newest of each stream ([streams])."""
    here = np.zeros(len(rows), bool)
    then_open: list[tuple[int, NDArray[np.int64]]] = []
    with _tolerance(damage):
        _require_chain(files, rows)
    for file in files:
        with _tolerance(damage), closing(ArrayReader(folder, file)) as reader:
            _read_transitions(reader, file, rows, here, then_open, damage)
    newest = np.full(rows.streams, -1)
    with _tolerance(damage):
        if state is not None:
            _hold(state, "", rows, then_open)
            newest = _newest(state, rows)
        if not here.all():
            raise CheckpointError(f"transition {rows.oldest + int(here.argmin())} is missing")
    return here, newest


def _newest(state: ArrayReader, rows: Rows) -> NDArray[np.int64]:
    """The newest row of each stream."""
    newest = state.read("newest", INT64)
    if newest.shape != (rows.streams,) or (newest >= rows.added).any() or (newest < -1 - rows.added).any():
        raise CheckpointError(
            f"{state.name}: newest: expected one of {rows.added} transitions in {rows.streams} streams"
        )
    return newest


def _require_chain(files: list[dict[str, Any]], rows: Rows) -> None:
    """Raises CheckpointError where files of transitions do not follow each other: the next save goes on from them."""
    ends = [file["end"] for file in files]
    if [file["first"] for file in files[1:]] != ends[:-1] or (ends and ends[-1] != rows.added):
        raise CheckpointError("transitions: the files do not follow each other")


def _read_transitions(
    reader: ArrayReader,
    told: dict[str, Any],
    rows: Rows,
    here: NDArray[np.bool_],
    then_open: list[tuple[int, NDArray[np.int64]]],
    damage: list[str] | None,
) -> None:
    """Reads the live transitions of a file, and what they and others hold; says which are `here` (bool [live]).

    `then_open`: by earlier file the id that came next, and the rows that were open; it gets those of this one.
    """
    from concurrent.futures import ThreadPoolExecutor

    def read_piece(name: str) -> None:
        with _tolerance(damage):
            first, n = int(name.removeprefix(RECORDS)), *reader.shape_of(name, rows.dtype)
            if not told["first"] <= first <= first + n <= min(told["end"], rows.added):
                expected = f"{told['first']} to {told['end'] - 1}"
                raise CheckpointError(f"{reader.name}: {name}: expected transitions {expected}, found {first}")
            if first + n > rows.oldest:
                _read_records(reader, name, first, n, rows)
                here[max(first - rows.oldest, 0) : first + n - rows.oldest] = True

    # Checksums, copies, and memory that is touched for the first time: several threads are that much faster.
    with ThreadPoolExecutor(min(cores(), MOST_THREADS)) as pool:
        for _ in pool.map(read_piece, [name for name in reader.members if PIECE.fullmatch(name)]):
            pass
    groups = (match.groups() for name in reader.members if (match := HELD.fullmatch(name)))
    for suffix, *of in dict.fromkeys(groups):
        whole = False
        with _tolerance(damage):
            _hold(reader, suffix, rows, then_open)
            whole = True
        if not whole and rows.stack is not None:  # nobody knows any more which stacks of these were put aside
            begin = int(of[0]) - rows.oldest
            here[max(begin, 0) : max(begin + int(of[1]), 0)] = False
    with _tolerance(damage):
        were_open = reader.read("still_open", INT64)
        live = were_open[(were_open >= rows.oldest) & (were_open < told["end"])]
        if (rows.data["link_tail"][live % rows.capacity] != NONE).any():
            raise CheckpointError(f"{reader.name}: still_open: found a transition that was not")
        then_open.append((told["end"], were_open))


def _require_open(held: Held, then_open: list[tuple[int, NDArray[np.int64]]]) -> None:
    """Raises ValueError where earlier files do not tell that a row would come to hold something: saves rely on it."""
    for end, were_open in then_open:
        for ids in (held.tail_ids, held.next_older_ids):
            if not np.isin(ids[ids < end], were_open).all():
                raise ValueError("something is held by a transition that was not open")


def _read_records(reader: ArrayReader, name: str, first: int, n: int, rows: Rows) -> None:
    """Reads records to where they belong; those that have left, and those that wrap around, by a detour."""
    begin = first % rows.capacity
    direct = first >= rows.oldest and begin + n <= rows.capacity
    target = rows.data[begin : begin + n] if direct else np.empty(n, rows.dtype)
    reader.read_into(name, target)
    slots: Any = slice(begin, begin + n)
    if not direct:
        live = max(first, rows.oldest)
        slots = np.arange(live, first + n) % rows.capacity
        rows.data[slots] = target[live - first :]
    for link in ("link_tail", *(STACK_LINKS if rows.stack is not None else ())):
        rows.data[link][slots] = NONE


def _hold(reader: ArrayReader, suffix: str, rows: Rows, then_open: list[tuple[int, NDArray[np.int64]]]) -> None:
    """Gives live rows what they hold, as far as the file says."""
    found = []
    records = {"tails": rows.tails, "older": rows.older, "next_older": rows.older}
    for name in Held._fields:
        like = records.get(name)
        dtype = UINT32 if name == "onward" else INT64 if like is None else like.dtype
        rest = () if like is None else like.shape[1:]
        if name + suffix not in reader.members:
            found.append(np.empty((0, *rest), dtype))
            continue
        shape = reader.shape_of(name + suffix, dtype, 1 + len(rest))
        if shape[1:] != rest:
            raise CheckpointError(f"{reader.name}: {name}: expected items of shape {rest}, found {shape[1:]}")
        found.append(reader.read(name + suffix, dtype, 1 + len(rest)))
    lengths = [len(array) for array in found]
    if len({*lengths[:3]}) > 1 or len({*lengths[3:5]}) > 1 or len({*lengths[5:]}) > 1:
        raise CheckpointError(f"{reader.name}: what rows hold is not one for each")
    with refusing():
        held = Held._make(found).since(rows.oldest)
        _require_open(held, then_open)
        rows.hold(held)


def sizes(values: dict[str, Any]) -> tuple[int | None, int, int | None]:
    """Capacity (None where max_bytes gives it, and nothing was added yet), streams and max_bytes."""
    capacity, streams, max_bytes = fields_of(values, "values", capacity=int, streams=int, max_bytes=(int, NoneType))
    if capacity == 0 and max_bytes is not None:
        capacity = None
    for name, value in (("capacity", capacity), ("streams", streams)):
        if value is not None and not 1 <= value <= MAX_CAPACITY:
            raise CheckpointError(f"values: {name}: expected 1 to {MAX_CAPACITY}, found {value}")
    return capacity, streams, max_bytes


def part(name: str, values: dict[str, Any], kinds: tuple[type, ...]) -> Any:
    """The buffer's sampler or view, made again; TypeError where it holds what a file cannot."""
    description = values.get(name)
    with refusing():
        gone = lost(description)
    if gone:
        raise TypeError(f"load: give {name}=: the saved one holds {gone[0]}, which is not in the checkpoint")
    with refusing():
        return rebuilt(description, kinds)


def require_agreement(state: Any, added: int, start: int) -> None:
    """Raises CheckpointError where a sampler's state is of other ids than were added, and live from `start` on."""
    here = {"added": added, "start": start}
    for key, value in state.items() if isinstance(state, dict) else enumerate(state if isinstance(state, list) else ()):
        if key in here and value != here[key]:
            raise CheckpointError(f"sampler: {key}: expected {here[key]}, found {value!r:.99}")
        require_agreement(value, added, start)
