"""The benchmark of threads: everybody gives back what was added, and the bars are about both rates at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import threads
from adapters.replaybank import Replaybank
from contender import LeftOutError, Setup
from measuring import Settings, build
from transitions import trajectories

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend

CAPACITY = 300


@pytest.mark.parametrize("crew", [threads.ONE_EACH, threads.Crew(2, 2)], ids=str)
@pytest.mark.parametrize("kind", threads.CONTENDERS, ids=lambda kind: kind.name)
def test_what_threads_add_and_sample_is_what_was_given(kind: Any, crew: threads.Crew) -> None:
    data = trajectories(CAPACITY + 100, np.random.default_rng(0))
    steps = data.part(CAPACITY, len(data)).steps()
    try:
        contender = build(kind, Setup(CAPACITY), data.part(0, CAPACITY), steps[:10])
    except (ImportError, LeftOutError) as error:
        pytest.skip(f"{kind.name}: {error!r}")
    adds, batches = threads.together(contender, [contender.add_form(step) for step in steps], 0.1, crew)
    assert adds > 0
    assert batches > 0
    known = {obs.tobytes() for obs in data.obs}
    columns = contender.sample(threads.SIZE)
    obs = np.asarray(contender.unpack(columns)[0], np.float32)
    assert all(one.tobytes() in known for one in obs.reshape(threads.SIZE, -1))


@pytest.mark.parametrize(("crew", "both"), [(threads.Crew(adders=4), (4, 0)), (threads.Crew(samplers=2), (0, 2))])
def test_a_crew_has_as_many_threads_at_work_as_it_says(crew: threads.Crew, both: tuple[int, int]) -> None:
    data = trajectories(CAPACITY, np.random.default_rng(0))
    contender = build(threads.NumPyColumns, Setup(CAPACITY), data, [])
    seen: tuple[set[int], set[int]] = set(), set()
    for call, who in zip(("add", "sample"), seen, strict=True):
        setattr(contender, call, noting(getattr(contender, call), who))
    rates = threads.together(contender, data.steps(), 0.1, crew)
    assert tuple(len(who) for who in seen) == both
    assert tuple(rate > 0 for rate in rates) == (both[0] > 0, both[1] > 0)


def noting(call: Callable[..., Any], who: set[int]) -> Callable[..., Any]:
    def noted(*given: Any) -> Any:
        who.add(threading.get_ident())
        return call(*given)

    return noted


def test_an_error_in_a_thread_is_raised_and_stops_the_other() -> None:
    data = trajectories(CAPACITY, np.random.default_rng(0))
    contender = build(threads.NumPyColumns, Setup(CAPACITY), data, [])
    with pytest.raises(TypeError):
        threads.together(contender, [(object(),)], 0.05)


def result(name: str, adds: float, batches: float) -> dict[str, Any]:
    return {"name": name, "adds": {"median": adds}, "batches": {"median": batches}}


def test_there_is_a_bar_for_either_rate() -> None:
    row = {
        "key": "uniform",
        "results": [result("replaybank", 10, 10), result("TorchRL", 5, 4), result("NumPy with a lock", 5, 20)],
    }
    assert [(bar["against"], bar["measured"], bar["met"]) for bar in threads.bars(row)] == [
        ("TorchRL", 2, True),
        ("TorchRL", 2.5, True),
        ("NumPy with a lock", 2, True),
        ("NumPy with a lock", 0.5, False),
    ]
    assert [bar["met"] for bar in threads.bars({**row, "results": row["results"][:1]})] == [None] * 4


def test_a_run_is_reported_with_its_bars_and_who_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CONTENDERS", (Replaybank, threads.NumPyColumns))
    done = threads.run(CAPACITY, Settings(repeats=2, seconds=0.05))
    assert [len(row["results"]) for row in done["rows"]] == [2, 1]
    assert [len(team["results"]) for team in done["teams"]] == [2, 2, 1, 1]
    for team in done["teams"]:
        assert all(rate["median"] > 0 for one in team["results"] for rate in one["threads"].values())
    text = threads.section(done)
    assert "| NumPy with a lock " in text
    assert " 4 threads |" in text
    assert done["interpreter"] in text
    assert done["left_out"] == [
        {"name": "NumPy with a lock", "reason": "has no prioritized buffer", "rows": ["prioritized"]}
    ]
