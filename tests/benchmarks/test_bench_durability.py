"""Checkpoints: every library loads what it saved, what is lost is noticed, and the figures are of what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import durability
from adapters.durability import OURS, WAYS, DdFloor, Way, WriteFloor, files_of
from bars import OURS as OURS_NAME
from contender import LeftOutError, Role, Setup
from durability_worker import Worker, digest, forget, status

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend

COUNTS = {"transitions": 2_000, "frames": 200}
#: What it keeps of its transform cannot be saved; the report says so.
CANNOT = "TorchRL, CatFrames"
LIBRARIES = [(work, way) for work, ways in WAYS.items() for way in ways if way.kind.role is not Role.FLOOR]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk need not be idle here."""
    monkeypatch.setattr("os.sync", lambda: None)


def working(way: Way, work: str, folder: Path) -> Worker:
    try:
        return Worker(way, work, COUNTS[work], folder / "worker")
    except (ImportError, LeftOutError) as error:
        if way.kind.role is Role.OURS:
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(("work", "way"), LIBRARIES, ids=[f"{way.kind.name} {work}" for work, way in LIBRARIES])
def test_what_is_loaded_is_what_was_saved(work: str, way: Way, tmp_path: Path) -> None:
    worker = working(way, work, tmp_path)
    assert ("priorities" in worker.digest) is way.priorities
    assert len(worker.digest) >= 5
    if way.kind.name == CANNOT:
        with pytest.raises(ValueError, match="uninitialized"):
            worker.turn()
        return
    for _ in range(2):
        found = worker.turn()
        assert found["save"] > 0
        assert found["load"] > 0
        assert found["bytes"] > 1_000
    assert found["bytes"] == sum(path.stat().st_size for path in files_of(worker.folder))


def test_a_priority_or_a_transition_that_is_lost_is_noticed(tmp_path: Path) -> None:
    def forgets(path: Path, contender: Any) -> Any:
        buffer = OURS.load(path, contender)
        buffer.update_priorities([7], [0.125])
        return buffer

    def adds(path: Path, contender: Any) -> Any:
        buffer = OURS.load(path, contender)
        buffer.add(np.zeros(4, np.float32), 0, 0.0, np.ones(4, np.float32), False, False)
        return buffer

    for load in (forgets, adds):
        with pytest.raises(ValueError, match="not what was saved"):
            working(replace(OURS, load=load), "transitions", tmp_path).turn()


@pytest.mark.parametrize("work", COUNTS)
def test_a_second_save_and_one_in_the_background(work: str, tmp_path: Path) -> None:
    worker = working(WAYS[work][0], work, tmp_path)
    before = worker.contender._buffer.stats()
    for updates in (False, True):
        found = worker.again(updates)
        assert set(found) == {"first", "second", "load"}
        assert min(found.values()) > 0
    after = worker.contender._buffer.stats()
    new = COUNTS[work] // 100
    assert after["added"] - before["added"] == 2 * new
    assert after["updated"] - before["updated"] == new // 4 * 256
    found = worker.background()
    assert found["seconds"] > 0
    assert min(found.values()) >= 0, "a save may end before another call begins"
    worker.turn()


@pytest.mark.parametrize("kind", [WriteFloor, DdFloor])
def test_floors_write_the_bytes_of_a_checkpoint(kind: type[WriteFloor], tmp_path: Path) -> None:
    ours = working(OURS, "transitions", tmp_path)
    kept = Path(ours.keep()["path"])
    floor = kind(Setup(10))
    floor.read(kept)
    written = tmp_path / "written"
    floor.save(written)
    assert written.read_bytes() == b"".join(path.read_bytes() for path in files_of(kept))
    assert digest(floor.loaded(written).contents()) == digest(floor.contents())


def test_the_most_memory_of_some_work_is_seen() -> None:
    forget()
    before = status("VmRSS")
    np.ones(8 << 20)  # 64 MiB, and gone
    grown = status("VmHWM") - before
    assert 60 << 20 < grown < 80 << 20
    forget()
    assert status("VmHWM") - status("VmRSS") < 8 << 20


# ---- the run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for work, ways in WAYS.items():
        monkeypatch.setitem(durability.WAYS, work, ways[:3])


@pytest.mark.usefixtures("only_ours")
def test_a_run_measures_every_row_and_bar(tmp_path: Path) -> None:
    found = durability.run({"transitions": 2_000}, 2, tmp_path)
    assert found["left_out"] == []
    keys = [row["key"].removeprefix("transitions-") for row in found["rows"]]
    assert keys == ["save", "load", "again", "again-updated", "background"]
    judged = {bar["row"]: bar["met"] for bar in found["bars"] if "MiB" not in bar["against"]}
    assert judged["transitions-load"] is None  # no peer is there
    assert all(judged[f"transitions-{key}"] is not None for key in ("save", "again", "again-updated"))
    assert [bar["measured"] < 1 for bar in found["bars"] if "MiB" in bar["against"]] == [True, True]
    text = durability.section(found)
    assert all(name in text for name in (OURS_NAME, "write, one fsync", "dd, conv=fsync"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("only_ours")
def test_a_process_that_dies_is_named_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dies = tmp_path / "dies.py"
    dies.write_text("print('{}', flush=True)\n")
    monkeypatch.setattr(durability, "WORKER", dies)
    folder = tmp_path / "folder"
    folder.mkdir()
    found = durability.run({"transitions": 10}, 1, folder)
    assert {entry["name"]: entry["reason"] for entry in found["left_out"]} == dict.fromkeys(
        (OURS_NAME, "write, one fsync", "dd, conv=fsync"), "its process died"
    )
    assert [row["results"] for row in found["rows"]] == [[], []]
    assert "Medians of 1 turns" in durability.section(found)


def test_peers_that_lose_priorities_are_no_bar_for_loading() -> None:
    measuring = durability.Measuring("transitions", 10, 1, Path(), durability.LeftOut())
    turn = {"save": 1.0, "load": 1.0, "bytes": 1, "save_memory": 1, "load_memory": 1}
    measuring.turns = {"cpprb": [turn], "Tianshou": [turn | {"load": 9.0}], OURS_NAME: [turn]}
    save, load = measuring.rows()
    assert save["best_peer"] == "cpprb"
    assert load["best_peer"] == "Tianshou"


def test_peers_that_hold_a_tenth_are_no_bar() -> None:
    measuring = durability.Measuring("frames", 10, 1, Path(), durability.LeftOut())
    turn = {"save": 1.0, "load": 1.0, "bytes": 1, "save_memory": 1, "load_memory": 1}
    slow = {"save": 9.0, "load": 9.0}
    whole = "Tianshou, ignore_obs_next and stack_num"
    measuring.turns = {"TorchRL, whole stacks, a tenth": [turn], whole: [turn | slow], OURS_NAME: [turn]}
    assert [row["best_peer"] for row in measuring.rows()] == [whole, whole]
