"""The simulated cluster of docs/scale.md queues as theory says, and its page tells what its files hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("simpy", reason="needs SimPy")
pytest.importorskip("tyro", reason="needs tyro")
pytest.importorskip("matplotlib", reason="needs matplotlib")

from scale_model import Batch, Costs, Ends, Line, Scenario, first, offered, utilisation
from scale_page import BLOCKS, written
from scale_simulation import Clock, Cluster, Link, Process, simulate

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "scale.md"
FILES = [REPOSITORY / "benchmarks" / name for name in ("scale_costs.json", "scale.json")]

COSTS = Costs(
    writer=Line(300e-6, 10e-6),
    insert=Line(500e-6, 2e-6),
    insert_bytes=Line(500.0, 7000.0),
    draw=Line(400e-6, 1e-6),
    draw_bytes=Line(1200.0, 14000.0),
    update=Line(300e-6, 1e-6),
    update_bytes=Line(200.0, 16.0),
    reader_draw=Batch(200e-6, 250e-6, 0.5e-6),
    reader_update=Batch(100e-6, 200e-6, 0.5e-6),
    grant=Ends(300e-6, 600e-6),
    beat=Ends(300e-6, 600e-6),
    poll=Ends(300e-6, 500e-6),
    look={name: Line(500e-6, 50e-6) for name in ("caller", "server", "bytes")},
    call_bytes=2000.0,
    way=100e-6,
    memory={"shard": 70_000_000, "coordinator": 70_000_000, "process": 50_000_000, "writer": 60_000_000},
    transition_nbytes=7100.0,
)
SMALL = Scenario(actors=60, shards=6, batch=96, warm=0.5, seconds=4.0)


def served(load: float, service: Callable[[np.random.Generator], float], seconds: float) -> Process:
    """A process that is asked at random (Poisson) for jobs of mean length 1."""
    clock, rng = Clock(seconds / 100, seconds), np.random.default_rng(0)
    process = Process(clock)

    def arrivals():  # type: ignore[no-untyped-def]
        while True:
            yield clock.env.timeout(rng.exponential(1 / load))
            clock.env.process(process.work(service(rng)))

    clock.env.process(arrivals())
    clock.env.run(seconds)
    return process


# Mean waits of Pollaczek and Khinchine, in service times; 100,000 seconds make their standard error about 2 %.
@pytest.mark.parametrize(
    ("service", "wait"),
    [
        pytest.param(lambda rng: 1.0, lambda load: load / (2 * (1 - load)), id="M/D/1"),
        pytest.param(lambda rng: rng.exponential(), lambda load: load / (1 - load), id="M/M/1"),
    ],
)
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_a_process_makes_wait_as_long_as_queueing_theory_says(service, wait, load) -> None:
    process = served(load, service, 100_000.0)
    assert process.utilisation == pytest.approx(load, rel=0.02)
    assert np.mean(process.waits) == pytest.approx(wait(load), rel=0.08)
    # Little: those who wait are arrivals a second times how long each does.
    assert process.queue == pytest.approx(load * np.mean(process.waits), rel=0.02)


def test_processes_that_share_cores_do_no_more_than_these() -> None:
    import simpy

    clock = Clock(0.0, 10.0)
    cores = simpy.Resource(clock.env, 2)
    processes = [Process(clock, cores) for _ in range(5)]
    for process in processes:
        for _ in range(20):
            clock.env.process(process.work(1.0))
    clock.env.run(10.0)
    assert sum(process.utilisation for process in processes) == pytest.approx(2.0)


def test_a_link_sends_one_message_after_the_other() -> None:
    clock = Clock(0.0, 10.0)
    link = Link(clock, 100.0)
    assert [link.through(100.0), link.through(50.0)] == [1.0, 1.5]
    assert link.utilisation == pytest.approx(0.15)


@pytest.mark.parametrize("scenario", [SMALL, replace(SMALL, rate_limit=True), replace(SMALL, updates=False)])
def test_what_is_simulated_is_as_busy_as_what_is_reckoned(scenario) -> None:
    """The utilisation law, of every resource; nothing is full here."""
    found, busy = simulate(scenario, COSTS), utilisation(COSTS, scenario)
    assert max(part for name, part in busy.items() if name != "accelerator") < 0.9
    assert found["transitions"] == pytest.approx(scenario.actors * scenario.rate, rel=0.03)
    assert found["batches"] == pytest.approx(offered(scenario).batches, rel=0.03)
    for name, part in busy.items():
        assert found["utilisation"][name] == pytest.approx(part, rel=0.06, abs=0.002), name


def test_packets_on_their_way_are_as_many_as_little_says() -> None:
    scenario = replace(SMALL, rate=300.0)
    cluster = Cluster(scenario, COSTS).run()
    arrivals = cluster.acknowledged / scenario.packet / scenario.seconds
    on_their_way = cluster.figures()["packets_on_their_way"]
    assert on_their_way == pytest.approx(arrivals * np.mean(cluster.flushes), rel=0.02)


def test_a_flush_of_an_idle_cluster_takes_what_its_parts_take() -> None:
    scenario = replace(SMALL, actors=1, learners=0, shards_on_a_node=1, actors_on_a_node=1)
    n, half = scenario.packet, COSTS.call_bytes / 2
    there, back = COSTS.insert_bytes(n) + half, half
    parts = COSTS.writer.fixed + COSTS.insert(n) + 2 * (COSTS.way + scenario.delay) + 2 * (there + back) / scenario.link
    assert simulate(scenario, COSTS)["flush_ms"]["median"] == pytest.approx(1e3 * parts, rel=1e-6)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_no_more_packets_are_on_their_way_than_may_be(in_flight) -> None:
    """A writer that is alone, and as fast as can be: Little again, from the time that one packet takes."""
    costs = replace(COSTS, writer=Line(0.0, 0.0))
    scenario = replace(SMALL, actors=1, rate=math.inf, learners=0, in_flight=in_flight, seconds=1.0)
    there, back = costs.insert_bytes(64) + costs.call_bytes / 2, costs.call_bytes / 2
    takes = costs.insert(64) + 2 * (costs.way + scenario.delay) + 2 * (there + back) / scenario.link
    most = min(in_flight / takes, 1 / costs.insert(64))  # the shard has its limit, too
    assert simulate(scenario, costs)["transitions"] == pytest.approx(64 * most, rel=0.03)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"actors": 600, "shards": 1, "batch": 16, "actors_on_a_node": 8}, "shard"),
        ({"shards": 160, "batch": 160}, "learner"),
        ({"actors": 400, "shards": 60, "batch": 6, "rate_limit": True}, "coordinator"),
        ({"actors": 300, "rate": 320.0, "gbit": 0.2, "shards": 60, "actors_on_a_node": 1}, "shards' link in"),
    ],
)
def test_the_resource_that_is_reckoned_to_be_full_first_is_the_one_that_fills(changed, name) -> None:
    scenario = replace(SMALL, seconds=1.5, **changed)
    busy = utilisation(COSTS, scenario)
    assert first(busy) == name
    assert busy[name] > 1.1
    found = simulate(scenario, COSTS)
    assert found["utilisation"][name] > 0.97
    assert max(found["utilisation"], key=found["utilisation"].get) in (name, "accelerator")
    what, asked = ("batches", offered(scenario).batches) if name == "learner" else ("transitions", 0.0)
    if name == "learner":
        assert found[what] == pytest.approx(asked / busy[name], rel=0.1)  # what it can do, and no more


def test_the_same_seed_gives_the_same_figures() -> None:
    short = replace(SMALL, seconds=0.5)
    assert simulate(short, COSTS) == simulate(short, COSTS)
    assert simulate(short, COSTS) != simulate(replace(short, seed=1), COSTS)


def test_a_packet_is_full_or_old() -> None:
    assert replace(SMALL, rate=35.0).packet == 7
    assert replace(SMALL, rate=1.0).packet == 1
    assert replace(SMALL, rate=10_000.0).packet == 64
    assert replace(SMALL, rate=math.inf).packet == 64


def test_the_page_holds_the_figures_of_the_files() -> None:
    costs, found = (json.loads(path.read_text()) for path in FILES)
    page = PAGE.read_text()
    assert all(f"<!-- {name} -->" in page for name in BLOCKS)
    assert written(page, costs, found) == page, "run: python benchmarks/scale.py --page"


def test_what_was_simulated_is_of_the_costs_that_are_told() -> None:
    costs, found = (json.loads(path.read_text()) for path in FILES)
    assert found["costs"]["date"] == costs["date"], "run: python benchmarks/scale.py"
    for name, run in found["scenarios"].items():
        scenario = Scenario(**run["scenario"])
        assert utilisation(Costs.of(costs, scenario.size), scenario) == pytest.approx(run["utilisation"]), name


def test_what_was_measured_is_of_the_run_that_is_kept() -> None:
    measured = REPOSITORY / "benchmarks" / "ray_scaling.json"
    if not measured.exists():
        pytest.skip("ray_scaling.json was not made yet")
    found = json.loads(FILES[1].read_text())
    assert found["measured"]["date"] == json.loads(measured.read_text())["date"], "run: python benchmarks/scale.py"


@pytest.mark.slow
def test_the_scenarios_of_the_page_can_be_run_again() -> None:
    costs, found = (json.loads(path.read_text()) for path in FILES)
    run = found["scenarios"]["frames"]
    scenario = Scenario(**run["scenario"])
    again = simulate(scenario, Costs.of(costs, scenario.size))
    assert flat(again) == pytest.approx(flat(run["simulated"]))


def flat(found: dict[str, Any], name: str = "") -> dict[str, float]:
    """Nested figures by their whole names."""
    told: dict[str, float] = {}
    for key, value in found.items():
        told |= flat(value, f"{name}{key}.") if isinstance(value, dict) else {f"{name}{key}": value}
    return told
