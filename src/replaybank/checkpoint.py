"""Checkpoints: a buffer on disk, true at one instant, whatever happens while it is written.

A checkpoint is a folder:

- `manifest.json`: what there is, and the checksum of that; `manifest.backup.json` is the same again;
- `transitions-….npz`: runs of transitions, in pieces of a few MiB, which never change once they are written;
- `state-….npz`: what may change at any time: priorities, streams, next observations that may still move on.

A save writes new files, waits until they are on the disk, and then replaces the manifest: that is when it becomes true.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank import pages
from replaybank.arguments import cores
from replaybank.files import ArrayReader, CheckpointError, Kinds, alone, fields_of, str_of, sync_folder
from replaybank.held import Held
from replaybank.kernels import Lock
from replaybank.layout import STACK_LINKS
from replaybank.manifest import BACKUP, FORMAT, MANIFEST, VERSION, joined, publish, read, refusing, split, sweep, tidy
from replaybank.plain import lost, rebuilt
from replaybank.rows import MAX_CAPACITY, NONE, Rows
from replaybank.salvage import keep_whole
from replaybank.schema import Schema
from replaybank.snapshot import NO_IDS, Snapshot, Writer, longest_file, put_held
from replaybank.stacking import Stacking
from replaybank.storage import Storage

MOST_THREADS = 4  # that load
FAN = 8  # so many shorter files become one
INT64, UINT32 = np.dtype(np.int64), np.dtype(np.uint32)
RECORDS = "records_"
PIECE, HELD = re.compile(RECORDS + r"\d{1,18}"), re.compile(r"(?:tail|older|next_older)_ids(_(\d{1,18})_(\d{1,18}))")
MAX_ADDED = 2**62
GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
POSITIONS = {"pos": 624, "buffer_pos": 4}  # in what generators keep: they would read on from anywhere


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


# ---- saving ----


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
                then_open[file["name"]] = reader.read("still_open", INT64)
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
        put_held(writer.state, "", rows.held(rows.open_ids(), own=False))
        writer.state.put("newest", rows.newest)
    return {"values": values, "rows": told, "base": base if in_pages else None}


# ---- loading ----


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
        state, values, rows = None, manifest["values"], None
        with _tolerance(damage):
            state = stack.enter_context(closing(ArrayReader(folder, manifest["state"])))
            base = None
            if manifest["base"] is not None:
                base = stack.enter_context(closing(ArrayReader(folder, manifest["base"])))
            values = joined(values, state, base)
        if manifest["rows"] is not None:
            capacity, streams, _ = sizes(values)
            told = manifest["rows"]
            if told.get("used") is not None:
                if state is None:
                    raise CheckpointError("; ".join(damage or ()))
                reopened = _reopened(folder, told, capacity or 1, streams, state)
                return Contents(reopened, values, manifest["token"], told["start"])
            rows = _empty_rows(told, capacity or 1, streams)
            here = np.zeros(len(rows), bool)
            then_open: list[tuple[int, NDArray[np.int64]]] = []
            with _tolerance(damage):
                _require_chain(manifest["files"], rows)
            for file in manifest["files"]:
                with _tolerance(damage), closing(ArrayReader(folder, file)) as reader:
                    _read_transitions(reader, file, rows, here, then_open, damage)
            newest = np.full(rows.streams, -1)
            with _tolerance(damage):
                if state is not None:
                    _hold(state, "", rows, then_open)
                    newest = _newest(state, rows)
                if not here.all():
                    raise CheckpointError(f"transition {rows.oldest + int(here.argmin())} is missing")
            if damage:
                before = len(rows)
                keep_whole(rows, here)
                return Contents(rows, values, lost=before - len(rows), damage=tuple(damage))
            with refusing():
                rows.settle(newest)
    if damage:
        return Contents(rows, values, damage=tuple(damage))
    return Contents(rows, values, manifest["token"], rows.start if rows is not None else 0)


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


def generator_state(rng: np.random.Generator) -> Any:
    """The state of a generator, as far as `generator` can make it again: else TypeError."""
    state = rng.bit_generator.state
    if state["bit_generator"] not in GENERATORS:
        raise TypeError(f"save: the generator must be one of {', '.join(GENERATORS)}, given {rng.bit_generator!r}")
    return state


def generator(state: Any) -> np.random.Generator:
    """A generator in a state that was saved."""
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if name not in GENERATORS:
        raise CheckpointError(f"generator: expected one of {', '.join(GENERATORS)}, found {name!r:.99}")
    bits = getattr(np.random, name)(0)
    _require_like(bits.state, state, "generator")
    with refusing():
        bits.state = state
    return np.random.Generator(bits)


def _require_like(known: Any, found: Any, where: str, key: str = "") -> None:
    """Raises CheckpointError where a generator's state is not built as a known one: NumPy itself checks little."""
    if isinstance(known, np.ndarray):
        like = isinstance(found, np.ndarray) and (found.dtype, found.shape) == (known.dtype, known.shape)
    elif isinstance(known, dict):
        like = isinstance(found, dict) and found.keys() == known.keys()
    else:
        like = type(found) is type(known) and (key not in POSITIONS or 0 <= found <= POSITIONS[key])
    if not like:
        raise CheckpointError(f"{where}: expected something like {known!r:.99}, found {found!r:.99}")
    if isinstance(known, dict):
        for name, value in known.items():
            _require_like(value, found[name], f"{where}: {name}", name)


def require_agreement(state: Any, added: int, start: int) -> None:
    """Raises CheckpointError where a sampler's state is of other ids than were added, and live from `start` on."""
    here = {"added": added, "start": start}
    for key, value in state.items() if isinstance(state, dict) else enumerate(state if isinstance(state, list) else ()):
        if key in here and value != here[key]:
            raise CheckpointError(f"sampler: {key}: expected {here[key]}, found {value!r:.99}")
        require_agreement(value, added, start)
