"""A place of its own for each test, which must be empty when it ends."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from replaybank.shared import home


@pytest.fixture(autouse=True)
def base(monkeypatch, tmp_path):
    """Where this test's learners have their directories: shared memory where there is some, and clean afterwards."""
    memory = Path("/dev/shm")
    folder = memory / f"replaybank-test-{secrets.token_hex(6)}" if memory.is_dir() else tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(home, "_base", lambda: folder)
    yield folder
    left = [str(path) for path in folder.rglob("*")]
    shutil.rmtree(folder)
    assert not left, "shared memory is left behind"
