"""A buffer's notes: the user's own, in each checkpoint, true at the instant of the save."""

from __future__ import annotations

import copy
import json
import zlib

import numpy as np
import pytest

import replaybank as rb


def filled(n=20):
    buffer = rb.ReplayBuffer(100, {"obs": ("float32", (2,)), "action": "int64"}, seed=0)
    for t in range(n):
        buffer.add(np.full(2, t, np.float32), t, 1.0, np.full(2, t + 1, np.float32), False, False)
    return buffer


def test_notes_come_back_with_a_checkpoint_and_with_a_copy(tmp_path):
    buffer = filled()
    assert buffer.notes == {}
    buffer.notes["step"] = 17
    buffer.notes["run"] = {"name": "a", "returns": [1.5, None, True], "weights": np.arange(3.0)}
    buffer.save(tmp_path)
    found = rb.ReplayBuffer.load(tmp_path).notes
    assert found["step"] == 17
    assert found["run"]["returns"] == [1.5, None, True]
    assert np.array_equal(found["run"]["weights"], np.arange(3.0))
    twin = copy.deepcopy(buffer)
    twin.notes["step"] = 3
    assert buffer.notes["step"] == 17


def test_a_save_has_the_notes_of_its_instant(tmp_path):
    buffer = filled()
    buffer.notes["step"] = 1
    buffer.save(tmp_path / "one")
    buffer.notes["step"] = 2
    buffer.save(tmp_path / "two")
    assert [rb.ReplayBuffer.load(tmp_path / name).notes["step"] for name in ("one", "two")] == [1, 2]


def test_what_no_file_can_hold_is_refused_and_the_last_save_stays(tmp_path):
    buffer = filled()
    buffer.notes["step"] = 1
    buffer.save(tmp_path)
    buffer.notes["step"] = object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        buffer.save(tmp_path)
    assert rb.ReplayBuffer.load(tmp_path).notes == {"step": 1}


def test_a_checkpoint_of_before_there_were_notes_has_none(tmp_path):
    filled().save(tmp_path)
    for name in ("manifest.json", "manifest.backup.json"):
        whole = json.loads((tmp_path / name).read_text())
        del whole["checkpoint"]["values"]["notes"]
        text = json.dumps(whole["checkpoint"], sort_keys=True, separators=(",", ":"))
        (tmp_path / name).write_text(
            json.dumps({"crc32": zlib.crc32(text.encode()), "checkpoint": whole["checkpoint"]})
        )
    assert rb.ReplayBuffer.load(tmp_path).notes == {}
