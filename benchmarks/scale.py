"""What 1,000 actors and 64 shards need: reckons, simulates, draws, and writes the figures into docs/scale.md.

    python benchmarks/scale_costs.py     # what calls cost, measured on this machine: scale_costs.json
    python benchmarks/scale.py           # the rest: scale.json, docs/images/scale.png and .svg, docs/scale.md
    python benchmarks/scale.py --page    # the page alone, from the JSON files

What `ray_scaling.py` measured (ray_scaling.json) is put beside what the simulation says of the same.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from scale_figure import draw
from scale_model import COSTS, Costs, Scenario, first, memory, offered, utilisation
from scale_page import written
from scale_simulation import simulate

HERE = Path(__file__).parent
RESULTS = HERE / "scale.json"
MEASURED = HERE / "ray_scaling.json"
PAGE = HERE.parent / "docs" / "scale.md"
IMAGES = PAGE.parent / "images"

# Ape-X (Horgan et al. 2018): actors of about 139 frames a second, four to a step; 19 batches of 512 a second.
FRAMES = Scenario()
CARTPOLE = replace(FRAMES, size="cartpole", rate=250.0)
SCENARIOS = {
    "frames": FRAMES,
    "cartpole": CARTPOLE,
    "frames, a rate held": replace(FRAMES, rate_limit=True),
    "cartpole, a rate held": replace(CARTPOLE, rate_limit=True),
}
ACTORS = (250, 500, 1000, 2000, 4000)
SHARDS = (4, 8, 16, 32, 64, 128, 256)
SHORT = {"warm": 0.5, "seconds": 2.0}

# What ray_scaling.py calls its modes, and the same here. `pending` of one packet: the writer waits for each.
AS_FAST_AS_IT_CAN = Scenario(rate=float("inf"), step=0.0, batch=256, prefetch=4, flush_seconds=1.0)
MODES = {
    "in": {"learners": 0},
    "flush": {"learners": 0, "actors": 1, "pending": 64},
    "both": {"actors": 0, "prefetch": None},
    "batches": {"actors": 0},
    "in+both": {"prefetch": None},
    "in+batches": {},
}


def swept(costs: dict[str, Costs]) -> dict[str, list[Scenario]]:
    return {
        f"{size} by {name}": [replace(SCENARIOS[size], **SHORT, **{name: n}) for n in numbers]
        for size in costs
        for name, numbers in (("actors", ACTORS), ("shards", SHARDS))
    }


def reckoned(costs: Costs, scenario: Scenario) -> dict[str, Any]:
    """What the products say."""
    busy = utilisation(costs, scenario)
    return {
        "scenario": asdict(scenario),
        "packet": scenario.packet,
        "offered": offered(scenario)._asdict(),
        "utilisation": busy,
        "first": first(busy),
        "memory": memory(costs, scenario),
        "look_seconds": {name: line(scenario.shards) for name, line in costs.look.items() if name != "bytes"},
    }


def checked(measured: dict[str, Any], costs: dict[str, Costs]) -> list[dict[str, Any]]:
    """What was measured of whole clusters on one machine, and the same simulated."""
    found = []
    for row in measured["rows"]:
        ours = next((one for one in row["results"] if one["name"] == "replaybank"), None)
        if ours is None or row["kind"] != "prioritized" or row["mode"] not in MODES:
            continue
        given = {"actors": measured["settings"]["writers"], "shards": row["shards"], **MODES[row["mode"]]}
        scenario = replace(AS_FAST_AS_IT_CAN, **SHORT, size=row["size"], cores=measured["hardware"]["cores"], **given)
        figures = simulate(scenario, costs[row["size"]])
        pairs: dict[str, tuple[float, float]] = {}
        for what in ("transitions", "batches"):
            if what in ours:
                pairs[f"{what}/s"] = (ours[what]["median"], figures[what])
        for call, times in (("flush", figures["flush_ms"]), ("sample", figures["sample_ms"])):
            if call in ours["latency_ms"] and times:
                for which in ("median", "p99"):
                    pairs[f"{call} {which}, ms"] = (ours["latency_ms"][call][which], times[which])
        for what, (real, simulated) in pairs.items():
            entry = {"size": row["size"], "mode": row["mode"], "shards": row["shards"], "what": what}
            found.append({**entry, "measured": real, "simulated": simulated})
    return found


def _one(scenario: Scenario, costs: Costs) -> dict[str, Any]:
    """What is reckoned and what is simulated of a scenario."""
    return {**reckoned(costs, scenario), "simulated": simulate(scenario, costs)}


def run(workers: int) -> dict[str, Any]:
    text = COSTS.read_text()
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else None
    costs = {size: Costs.of(json.loads(text), size) for size in ("frames", "cartpole")}
    sweeps = swept(costs)
    with ProcessPoolExecutor(workers) as pool:

        def later(scenario: Scenario) -> Any:
            return pool.submit(_one, scenario, costs[scenario.size])

        single = {name: later(scenario) for name, scenario in SCENARIOS.items()}
        several = {name: [later(scenario) for scenario in scenarios] for name, scenarios in sweeps.items()}
        checks = pool.submit(checked, measured, costs) if measured else None
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": machine.commit(),
            "versions": machine.versions(["numpy", "simpy"]),
            "costs": {key: json.loads(text)[key] for key in ("date", "commit", "hardware")},
            "measured": {key: measured[key] for key in ("date", "commit", "hardware")} if measured else None,
            "scenarios": {name: future.result() for name, future in single.items()},
            "sweeps": {name: [future.result() for future in futures] for name, futures in several.items()},
            "checks": checks.result() if checks else [],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page from the JSON files that are there")
    parser.add_argument("--workers", type=int, default=2, help="processes that simulate (2)")
    options = parser.parse_args()
    if not options.page:
        found = run(options.workers)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draw(found, IMAGES)
    page = written(PAGE.read_text(), json.loads(COSTS.read_text()), json.loads(RESULTS.read_text()))
    PAGE.write_text(page, encoding="utf-8")
    machine.say(f"written: {RESULTS}, {PAGE}")


if __name__ == "__main__":
    main()
