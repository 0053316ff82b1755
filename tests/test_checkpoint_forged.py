"""Checkpoints that somebody who knows the format has changed, and signed again: refused, with a word on what."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from checkpoints import differing
from replaybank.files import CheckpointError
from replaybank.manifest import MANIFEST, signed

BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def add(buffer: rb.ReplayBuffer, n: int, begin: int = 0) -> None:
    """Transitions that follow one another, and say when they came."""
    lead = (buffer.streams,) if buffer.streams > 1 else ()
    for t in range(begin, begin + n):
        off = np.zeros(lead, bool)
        buffer.add(np.full((*lead, 2), t), off, np.full(lead, t), np.full((*lead, 2), t + 1), off, off)


def saved(folder: Path, bits: Any = np.random.PCG64, streams: int = 1, **parts: Any) -> rb.ReplayBuffer:
    """A buffer that has lived a little, and its checkpoint."""
    buffer = rb.ReplayBuffer(50, None, streams, seed=np.random.Generator(bits(3)), **parts)
    add(buffer, 20)
    buffer.sample(5)
    buffer.save(folder)
    return buffer


def forge(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the manifest, and signs it again."""
    manifest = json.loads((folder / MANIFEST).read_bytes())["checkpoint"]
    change(manifest)
    (folder / MANIFEST).write_bytes(signed(manifest))


def forge_array(folder: Path, told: dict[str, Any], name: str, change: Callable[[bytes], bytes]) -> None:
    """Changes an array, not its length, and all checksums that tell of it."""
    path = folder / told["name"]
    content = bytearray(path.read_bytes())
    offset, nbytes, _ = told["index"]
    index = json.loads(content[offset : offset + nbytes])
    (entry,) = (entry for entry in index if entry[0] == name)
    begin, end = entry[1] + entry[2], entry[1] + entry[2] + entry[3]
    content[begin:end] = change(bytes(content[begin:end]))
    entry[4] = zlib.crc32(content[entry[1] : end])
    text = json.dumps(index).encode()
    told["index"] = [len(content), len(text), zlib.crc32(text)]
    path.write_bytes(content + text)


@pytest.mark.parametrize("key", ["rows", "state", "values", "files", "token"])
def test_what_the_manifest_lacks_is_named(tmp_path: Path, key: str) -> None:
    saved(tmp_path)
    forge(tmp_path, lambda manifest: manifest.pop(key))
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        rb.ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize("bits", BITS)
def test_a_generator_begins_where_it_has_numbers(tmp_path: Path, bits: Any) -> None:
    """NumPy's generators read on from any position that they are told: beyond their memory, too."""
    saved(tmp_path, bits)
    whole = json.loads((tmp_path / MANIFEST).read_bytes())["checkpoint"]["values"]["generator"]
    wrong: list[Any] = [None, [], {}, {**whole, "state": None}, {**whole, "state": {**whole["state"], "more": 1}}]
    wrong += [{**whole, "state": {key: {"$array": "newest"} for key in whole["state"]}}]
    for at in (-1, -(10**6), 700, 10**6, 2**31, 2**70, 1.0, None):
        if "pos" in whole["state"]:
            wrong.append({**whole, "state": {**whole["state"], "pos": at}})
        if "buffer_pos" in whole:
            wrong.append({**whole, "buffer_pos": at})
    for state in wrong:
        forge(tmp_path, lambda manifest, state=state: manifest["values"].update(generator=state))
        with pytest.raises(CheckpointError, match="generator"):
            rb.ReplayBuffer.load(tmp_path).sample(5)
    forge(tmp_path, lambda manifest: manifest["values"].update(generator=whole))
    rb.ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize("settings", [None, 1, "x", [1]])
def test_settings_that_are_none_are_refused(tmp_path: Path, settings: Any) -> None:
    saved(tmp_path)
    forge(tmp_path, lambda manifest: manifest["values"]["sampler"].update(settings=settings))
    with pytest.raises(CheckpointError, match="Uniform: expected the settings replace"):
        rb.ReplayBuffer.load(tmp_path)


def test_a_field_of_no_fields_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    forge(tmp_path, lambda manifest: manifest["rows"]["schema"][0].__setitem__(1, ["dict"]))
    with pytest.raises(CheckpointError, match="not a schema"):
        rb.ReplayBuffer.load(tmp_path)


def several_files(folder: Path) -> rb.ReplayBuffer:
    """A checkpoint of files none of which is joined with another; streams end and go on between them."""
    buffer = saved(folder, streams=3)
    for begin in (30, 40):
        buffer.end()
        add(buffer, 1, begin)
        buffer.save(folder)
    assert len(json.loads((folder / MANIFEST).read_bytes())["checkpoint"]["files"]) == 3
    return rb.ReplayBuffer.load(folder)


@pytest.mark.parametrize("key", ["first", "end"])
@pytest.mark.parametrize("off", [-5, 5, 10**9])
def test_where_a_file_begins_and_ends_is_what_it_holds(tmp_path: Path, key: str, off: int) -> None:
    """The next save would go on from there."""
    several_files(tmp_path)
    if key == "first" and off < 0:
        return  # a file that once held more is what every save may leave
    forge(tmp_path, lambda manifest: manifest["files"][-1].update({key: manifest["files"][-1][key] + off}))
    with pytest.raises(CheckpointError, match="follow each other"):
        rb.ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize("file", [0, 1])
def test_rows_that_are_said_to_have_been_open_are_those(tmp_path: Path, file: int) -> None:
    """The next save writes what they have come to hold, and nothing of the others."""
    several_files(tmp_path)
    other = np.array([1, 2, 3]).tobytes()

    def swap(manifest: dict[str, Any]) -> None:
        forge_array(tmp_path, manifest["files"][file], "still_open", lambda _: other)

    forge(tmp_path, swap)
    with pytest.raises(CheckpointError, match="open"):
        rb.ReplayBuffer.load(tmp_path)


def test_a_save_goes_on_from_nothing_where_its_last_files_are_damaged(tmp_path: Path) -> None:
    buffer = several_files(tmp_path)
    for path in tmp_path.glob("transitions-*"):
        content = path.read_bytes()
        at = content.index(b"NUMPY", content.index(b"still_open"))
        path.write_bytes(content[: at + 80] + b"\xff" + content[at + 81 :])
    buffer.save(tmp_path)
    assert differing(buffer, rb.ReplayBuffer.load(tmp_path)) == []


@pytest.mark.parametrize("name", ["", "..", "../x", "/dev/zero", "a\0b", "\ud800", "a" * 300, "lock", "manifest.json"])
@pytest.mark.parametrize("which", ["state", "files"])
def test_names_are_those_of_a_checkpoints_files(tmp_path: Path, which: str, name: str) -> None:
    saved(tmp_path)

    def rename(manifest: dict[str, Any]) -> None:
        (manifest["files"][0] if which == "files" else manifest["state"])["name"] = name

    forge(tmp_path, rename)
    with pytest.raises(CheckpointError, match="expected the name of a file"):
        rb.ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize(("streams", "lead"), [(1, 0), (1, 3), (1, -2), (3, -1), (3, 1), (3, 2)])
def test_how_streams_come_is_as_many_as_there_are(tmp_path: Path, streams: int, lead: int) -> None:
    saved(tmp_path, streams=streams)
    forge(tmp_path, lambda manifest: manifest["values"].update(lead=lead))
    with pytest.raises(CheckpointError, match="lead: expected"):
        rb.ReplayBuffer.load(tmp_path)


@pytest.mark.parametrize("wrong", ["seen", "marks", "added"])
def test_what_was_drawn_is_of_transitions_that_were_there(tmp_path: Path, wrong: str) -> None:
    saved(tmp_path)

    def later(manifest: dict[str, Any]) -> None:
        if wrong == "added":
            manifest["values"]["usage"]["added"] = 21
            return
        last = {"seen": [1, 5], "marks": [0, 0, 21, 1]}[wrong]
        forge_array(
            tmp_path, manifest["state"], f"values.usage.{wrong}", lambda old: np.array(last).tobytes()[: len(old)]
        )

    forge(tmp_path, later)
    with pytest.raises(CheckpointError, match="state: "):
        rb.ReplayBuffer.load(tmp_path)


def test_max_bytes_are_as_many_as_there_are(tmp_path: Path) -> None:
    saved(tmp_path)
    forge(tmp_path, lambda manifest: manifest["values"].update(max_bytes=900))
    with pytest.raises(CheckpointError, match="max_bytes: 900 "):
        rb.ReplayBuffer.load(tmp_path)
