"""The benchmark of replay shards: everybody gives back what was added, and what is counted is what was done."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest

import hands
import ray_scaling
from adapters.scaling import Contestant, Done, Scale
from contender import LeftOutError
from hands import AT_A_TIME, BATCH
from measuring import LeftOut
from scaling_report import markdown
from sizes import CARTPOLE, FRAMES, Size

pytest.importorskip("ray", reason="needs Ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend
SMALL = replace(CARTPOLE, capacity=4_000, filled=1_000, distinct=256)
SMALL_FRAMES = replace(FRAMES, capacity=400, filled=128, distinct=256)
OURS = "replaybank"


def built(name: str, scale: Scale) -> tuple[Contestant, dict[str, Any]]:
    module, kind = ray_scaling.CONTESTANTS[name]
    try:
        return ray_scaling.begin(getattr(import_module(module), kind), scale)
    except (ImportError, LeftOutError) as reason:
        pytest.skip(f"{name}: {reason}")


def require_known(batches: list[dict[str, list[Any]]], scale: Scale) -> None:
    """Each drawn row is, byte for byte, one that a writer has added; and something of each writer's is drawn."""
    dtype = scale.size.dtype
    known: dict[bytes, tuple[int, tuple[Any, ...]]] = {}
    for writer in range(scale.writers):
        for obs, action, reward, next_obs, terminated, _, _ in scale.size.steps(writer):
            known[obs.tobytes()] = writer, (action, np.float32(reward), next_obs.tobytes(), terminated)
    found = set()
    names = ("obs", "action", "reward", "next_obs", "terminated")
    for drawn in batches:
        assert len(drawn["obs"]) == BATCH
    columns = [[value for drawn in batches for value in drawn[name]] for name in names]
    for obs, action, reward, next_obs, terminated in zip(*columns, strict=True):
        writer, rest = known[np.array(obs, dtype).tobytes()]
        assert rest == (action, np.float32(reward), np.array(next_obs, dtype).tobytes(), terminated)
        found.add(writer)
    assert found == set(range(scale.writers))


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        (OURS, Scale(SMALL_FRAMES, False, 2, 2)),
        pytest.param("RLlib", Scale(SMALL, True, 1, 1), marks=pytest.mark.slow),
        pytest.param("RLlib", Scale(SMALL_FRAMES, False, 1, 1), marks=pytest.mark.slow),
        pytest.param("Reverb", Scale(SMALL, True, 2, 2), marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else ray_scaling.key_of(value),
)
@pytest.mark.usefixtures("ray_session")
def test_what_the_reader_draws_is_what_writers_have_added(name: str, scale: Scale) -> None:
    contestant, cost = built(name, scale)
    try:
        assert cost["filled"] >= scale.size.filled
        # Some take a whole batch from one shard, the shards in turn.
        batches = [contestant.reader.start("batch").result() for _ in range(scale.shards)]
        require_known(batches, scale)
        if scale.prioritized:
            weights = np.array(batches[0]["weights"])
            assert weights.max() <= 1.000001
            assert weights.min() > 0
            assert len(set(weights.round(6))) > 1, "priorities do not tell"
        done = contestant.work("in", "batches", 0.3, 0.3)
        assert all(report["count"] > 0 for report in done.read)
        assert sum(report["count"] for report in done.written) > 0
    finally:
        contestant.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_has_every_mode_with_counts_and_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ray_scaling,
        "CONTESTANTS",
        {OURS: ray_scaling.CONTESTANTS[OURS], "nobody": ("adapters.no_such_library", "Nobody")},
    )
    scale = Scale(SMALL, True, 2, 2)
    done = ray_scaling.run(ray_scaling.Plan([scale], repeats=1, warm=0.1, seconds=0.2))
    assert [row["mode"] for row in done["rows"]] == [mode.key for mode in ray_scaling.MODES[True]]
    for row in done["rows"]:
        (entry,) = row["results"]
        mode = next(mode for mode in ray_scaling.MODES[True] if mode.key == row["mode"])
        assert ("transitions" in entry, "batches" in entry) == (bool(mode.writing), bool(mode.reading))
        assert {"shards", "coordinator", "ray"} <= set(entry["cores"])
        updates = {"update", "both", "batches"} & {mode.reading}
        assert ("update" in entry["latency_ms"]) == bool(updates)
    (cost,) = done["costs"]
    # Each observation travels once: 64 of 4 float32, of 51 with numbers beside them; not twice, as RLlib sends them.
    wire = AT_A_TIME * (16 + 8 + 4 + 2 + 1 + 4 + 8)
    assert wire < cost["bytes"]["transitions"] < wire + 16 * AT_A_TIME / 2 + 500
    assert cost["bytes"]["batch"] > BATCH * (2 * 16 + 8 + 4 + 2)
    assert len(cost["memory_filled"]["shards"]) == 2
    assert done["grants"]["grants"]["median"] > 0
    assert done["grants"]["coordinator_us"] >= 0
    assert [(entry["name"], entry["reason"]) for entry in done["left_out"]] == [
        ("nobody", "not installed (no module named adapters.no_such_library)")
    ]
    text = markdown(done)
    assert "2: updates alone" in text
    assert "nobody" in text


class Dying(Contestant):
    """Starts, and fails at its first work."""

    name = "dying"
    how = "not at all"

    def build(self) -> None:
        self.writers, self.reader = [], self  # type: ignore[assignment]
        self.closed = 0

    def start(self, verb: str, *given: Any) -> Any:
        return self

    def result(self) -> int:
        return 0

    def shards(self) -> list[int]:
        return []

    def fill(self) -> int:
        return 0

    def work(self, *given: Any) -> Done:
        raise RuntimeError("its shard is dead")

    def close(self) -> None:
        self.closed += 1
        assert self.closed == 1


def test_who_fails_is_left_out_with_the_reason_and_ended_once() -> None:
    left_out = LeftOut()
    whole = ray_scaling.Run([Dying], ray_scaling.Plan([], 2, 0.0, 0.0), left_out)
    whole.measure(Scale(SMALL, True, 4, 1))
    assert left_out.as_list() == [
        {"name": "dying", "reason": "RuntimeError: its shard is dead", "rows": ["cartpole-prioritized-4"]}
    ]
    assert all(row["results"] == [] for row in whole.rows)


def report(count: int, seconds: float, cpu: float, **latencies: list[float]) -> dict[str, Any]:
    return {"count": count, "seconds": seconds, "cpu": cpu, "latencies": latencies}


def test_a_line_of_a_row_has_rates_latencies_and_cpu_for_one() -> None:
    done = [
        Done([report(100, 1.0, 0.5), report(300, 2.0, 1.0)], [], {"shards": 0.25}),
        Done([report(100, 1.0, 0.5), report(100, 1.0, 0.5)], [], {"shards": 0.65}),
    ]
    found = ray_scaling.result("x", "peer", done)
    assert found["transitions"] == {"median": 225, "lower_quartile": 212.5, "upper_quartile": 237.5}
    assert "batches" not in found
    # 0.5 + 0.5 and 0.5 + 0.5 cores for 250 and 200 a second
    assert found["cpu_us"] == {"writers": pytest.approx(1e6 * 2 / 450), "shards": pytest.approx(1e6 * 0.9 / 450)}
    assert found["cores"] == {"writers": pytest.approx(1.0), "shards": pytest.approx(0.45)}
    times = [0.001 * number for number in range(101)]
    found = ray_scaling.result("x", "peer", [Done([report(1, 1.0, 0.1)], [report(9, 1.0, 0.2, sample=times)], {})])
    assert found["latency_ms"]["sample"] == {"median": pytest.approx(50), "p99": pytest.approx(99), "calls": 101}
    assert "cpu_us" not in found, "whose CPU it was cannot be told"


def test_what_was_done_before_the_clock_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    steps = count(1)
    done = 0

    def step() -> None:
        nonlocal done
        done = next(steps)

    monkeypatch.setattr(hands.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(hands.time, "process_time", lambda: 10.0 * done)
    found = hands.within(step, lambda: done, lambda: done, begin=5.0, end=12.0)
    # Looks 0 … 4: a step each; 5: it begins, 6: the start, and a step; 7 … 11: a step each; 12: it ends, at 13.
    assert found == {"count": 6, "seconds": 7.0, "cpu": 60.0}


@pytest.mark.parametrize("size", [SMALL, SMALL_FRAMES], ids=lambda size: size.name)
def test_steps_go_on_where_the_one_before_ended(size: Size) -> None:
    steps = size.steps(3)
    assert len(steps) == size.distinct
    ended = 0
    for before, after in pairwise(steps):
        assert after[0].shape == size.shape
        assert after[0].dtype == size.dtype
        if before[4] or before[5]:
            ended += 1
            assert after[0] is not before[3]
        else:
            assert after[0] is before[3]
    assert ended > 0
    again, other = size.steps(3), size.steps(4)
    assert all((a[0] == b[0]).all() and a[1:3] == b[1:3] for a, b in zip(steps, again, strict=True))
    assert (steps[0][0] != other[0][0]).any()
