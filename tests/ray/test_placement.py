"""Where the coordinator sends writers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from replaybank.ray import ClusterOptions, coordinator
from replaybank.ray.coordinator import Coordinator


@pytest.fixture
def placing(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    """A coordinator of 4 shards with 8 streams each, in this process; its clock stands still."""
    context = SimpleNamespace(was_current_actor_reconstructed=False)
    monkeypatch.setattr(coordinator.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(coordinator.time, "monotonic", lambda: 100.0)
    made = Coordinator(SimpleNamespace(limit=None, name="test", options=ClusterOptions(streams=8)))
    for shard in range(4):
        asyncio.run(made.enroll(shard, None, {}))
    return made


def beat(made: Coordinator, shard: int, streams: int) -> None:
    asyncio.run(made.beat(shard, {"epoch": 0, "state": "open", "streams": streams}))


def place(made: Coordinator, streams: int = 1) -> int | None:
    return asyncio.run(made.place(streams))


def test_writers_are_spread_even_where_a_shard_reports_before_its_writer_has_come(placing: Coordinator) -> None:
    chosen = []
    for _ in range(4):
        chosen.append(place(placing))
        for shard in range(4):
            beat(placing, shard, streams=0)  # none has joined yet
    assert sorted(chosen) == [0, 1, 2, 3]


def test_a_writer_that_never_came_is_forgotten(placing: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [place(placing) for _ in range(3)] == [0, 1, 2]
    monkeypatch.setattr(coordinator.time, "monotonic", lambda: 100.0 + coordinator.COMING + 0.1)
    assert place(placing) == 0


def test_writers_on_their_way_do_not_fill_a_shard(placing: Coordinator) -> None:
    """They may be the ones it reports already; a shard that has no room for one says so itself."""
    for _ in range(4):
        assert place(placing, streams=8) is not None
    assert place(placing, streams=8) is not None
    for shard in range(4):
        beat(placing, shard, streams=8)
    assert place(placing, streams=1) is None
