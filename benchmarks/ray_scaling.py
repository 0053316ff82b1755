"""Replay shards: transitions a second in and batches a second out for 1, 2 and 4 of them, latencies, and what it costs.

    python benchmarks/ray_scaling.py [--quick] [--repeats N] [--seconds S] [--writers N] [--out FILE]

Writer processes add, a reader's process draws batches of 256 and updates priorities, apart and at once, with a prefetch
and without; replaybank.ray, RLlib's buffers as replay actors and, where REVERB_PYTHON names an interpreter that has it,
Reverb in turn, in one run. Prints a report and keeps it as JSON.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import contest
import machine
from adapters.scaling import Contestant, Done, Scale
from hands import ALPHA, AT_A_TIME, BATCH, BETA, PREFETCH, Report, memory
from measuring import LeftOut
from scaling_report import markdown
from sizes import CARTPOLE, FRAMES

RESULTS = Path(__file__).with_name("ray_scaling.json")
SHARDS = (1, 2, 4)
KINDS = {False: "uniform", True: "prioritized"}
#: What Ray may hold of messages and batches that are on their way.
OBJECT_STORE = 400_000_000


class Mode(NamedTuple):
    """What writers and the reader do at the same time."""

    key: str
    title: str
    writing: str | None = None
    reading: str | None = None


ALONE = (
    Mode("in", "transitions in", "in"),
    Mode("flush", f"one writer waits for every {AT_A_TIME}", "flush"),
    Mode("sample", "batches out, one at a time", None, "sample"),
    Mode("update", "updates alone", None, "update"),
    Mode("both", "batches out, with updates", None, "both"),
    Mode("batches", "batches out with a prefetch", None, "batches"),
)
AT_ONCE = (
    Mode("in+both", "in and out at once", "in", "both"),
    Mode("in+batches", "in and out with a prefetch at once", "in", "batches"),
)
#: Without priorities there is nothing to update, and the rest says little that "in" and "sample" do not.
UNIFORM = ("in", "sample", "batches", "in+batches")
MODES = {
    True: (*ALONE, *AT_ONCE),
    False: tuple(mode for mode in (*ALONE, *AT_ONCE) if mode.key in UNIFORM),
}


#: A module that cannot be imported leaves its library out.
CONTESTANTS = {
    "replaybank": ("adapters.scaling_replaybank", "ReplaybankShards"),
    "RLlib": ("adapters.scaling_rllib", "RLlibShards"),
    "Reverb": ("adapters.scaling_reverb", "ReverbShards"),
}

NOT_POSSIBLE = (
    "One machine: writers, shards, reader and Ray share its cores, so that more shards are more processes on as many "
    "cores, and what passes between processes goes through memory, not a network.",
    "Reverb compresses what it sends and keeps; its messages' bytes are not told, and the observations here are noise, "
    "which does not compress.",
    "Where writers and the reader are at work at once, CPU time cannot be shared out among transitions and batches: "
    "cores in use are told instead.",
    "RLlib and Reverb draw a batch, or each server's part of it, from one shard without regard to the others' "
    "priorities; replaybank draws from all as from one buffer.",
)


class Plan(NamedTuple):
    """What is run: for every scale, all its modes, `repeats` times, the libraries in turn."""

    scales: Sequence[Scale]
    repeats: int
    warm: float
    seconds: float


def spread(values: Sequence[float]) -> dict[str, float]:
    lower, median, upper = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def rate(reports: Sequence[Report]) -> float:
    return float(sum(report["count"] / report["seconds"] for report in reports))


def result(name: str, role: str, done: Sequence[Done]) -> dict[str, Any]:
    """A library's line of a row: rates, latencies (ms, of all repeats together), cores in use, CPU for one (µs)."""
    found: dict[str, Any] = {"name": name, "role": role}
    for what, which in (("transitions", "written"), ("batches", "read")):
        if getattr(done[0], which):
            found[what] = spread([rate(getattr(one, which)) for one in done])
    latencies: dict[str, list[float]] = {}
    for report in chain.from_iterable((*one.written, *one.read) for one in done):
        for call, times in report["latencies"].items():
            latencies.setdefault(call, []).extend(times)
    found["latency_ms"] = {
        call: {
            "median": 1e3 * float(np.median(times)),
            "p99": 1e3 * float(np.quantile(times, 0.99)),
            "calls": len(times),
        }
        for call, times in latencies.items()
    }
    cores: dict[str, list[float]] = {}
    for one in done:
        for key, reports in (("writers", one.written), ("reader", one.read)):
            if reports:
                cores.setdefault(key, []).append(sum(report["cpu"] / report["seconds"] for report in reports))
        for key, used in one.cores.items():
            cores.setdefault(key, []).append(used)
    found["cores"] = {key: float(np.mean(used)) for key, used in cores.items()}
    if ("transitions" in found) != ("batches" in found):  # who of several would have caused it cannot be told
        total = sum(rate(one.written) + rate(one.read) for one in done)
        found["cpu_us"] = {key: 1e6 * sum(used) / total for key, used in cores.items()} if total else {}
    return found


def best_peer(results: Sequence[dict[str, Any]], what: str) -> str | None:
    peers = [entry for entry in results if entry["role"] == "peer" and what in entry]
    return max(peers, key=lambda entry: entry[what]["median"])["name"] if peers else None


def key_of(scale: Scale, *more: str) -> str:
    return "-".join((scale.size.name, KINDS[scale.prioritized], str(scale.shards), *more))


def kinds(left_out: LeftOut) -> list[type[Contestant]]:
    """The libraries that are there."""
    found = []
    for name, (module, kind) in CONTESTANTS.items():
        try:
            found.append(getattr(import_module(module), kind))
        except ImportError as error:
            left_out.note(name, error, ["all"])
    return found


def begin(kind: type[Contestant], scale: Scale) -> tuple[Contestant, dict[str, Any]]:
    """Processes that are up and filled, and what does not hang on a clock: memory of each, and bytes of messages."""
    contestant = kind(scale)
    try:
        empty = weigh(contestant)
        filled = contestant.fill()
        sizes = {"filled": filled, "memory_empty": empty, "memory_filled": weigh(contestant)}
        return contestant, {"name": kind.name, "key": key_of(scale), **sizes, "bytes": dict(contestant.nbytes())}
    except BaseException:
        contestant.close()
        raise


def weigh(contestant: Contestant) -> dict[str, Any]:
    """Bytes of each process."""
    shards = [memory(pid) for pid in contestant.shards()]
    hands = [process.start("memory").result() for process in (*contestant.writers, contestant.reader)]
    return {"shards": shards, "writers": hands[:-1], "reader": hands[-1]}


@dataclass
class Run:
    """What has been found out so far."""

    kinds: Sequence[type[Contestant]]
    plan: Plan
    left_out: LeftOut
    rows: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def measure(self, scale: Scale) -> None:
        """All modes of a scale, the libraries in turn."""
        plan = self.plan
        keys = {mode: key_of(scale, mode.key) for mode in MODES[scale.prioritized]}
        there: list[Contestant] = []

        def left_out(name: str, error: Exception) -> None:  # whatever a peer fails with, the others go on
            self.left_out.note(name, error, [key_of(scale)])

        for kind in self.kinds:
            machine.say(f"starting and filling: {kind.name}, {key_of(scale)}")
            try:
                contestant, cost = begin(kind, scale)
            except Exception as error:
                left_out(kind.name, error)
            else:
                there.append(contestant)
                self.costs.append(cost)
                self.versions |= contestant.versions()
        found: dict[tuple[Mode, str], list[Done]] = {}
        try:
            for mode in [mode for _ in range(plan.repeats) for mode in keys]:
                for contestant in list(there):
                    try:
                        done = contestant.work(mode.writing, mode.reading, plan.warm, plan.seconds)
                    except Exception as error:
                        left_out(contestant.name, error)
                        there.remove(contestant)
                        contestant.close()
                    else:
                        found.setdefault((mode, contestant.name), []).append(done)
        finally:
            for contestant in there:
                contestant.close()
        for mode, key in keys.items():
            results = [result(one.name, one.role.value, found[mode, one.name]) for one in there]
            best = {what: best_peer(results, what) for what in ("transitions", "batches")}
            about = {"size": scale.size.name, "kind": KINDS[scale.prioritized], "shards": scale.shards}
            row = {"key": key, "title": mode.title, **about, "mode": mode.key, "results": results, "best_peer": best}
            self.rows.append(row)
            machine.say(f"{key}: " + "; ".join(f"{entry['name']} {_rates(entry)}" for entry in results))


def _rates(entry: dict[str, Any]) -> str:
    return ", ".join(f"{entry[what]['median']:,.0f}" for what in ("transitions", "batches") if what in entry)


def grants(scale: Scale, plan: Plan) -> dict[str, Any]:
    """What it costs where a rate is held, so wide that nobody waits: each message and each batch asks for leave."""
    from adapters.scaling_replaybank import LimitedShards

    machine.say("a cluster that holds a rate")
    contestant, _ = begin(LimitedShards, scale)
    try:
        done = [contestant.work("in", "batches", plan.warm, plan.seconds) for _ in range(plan.repeats)]
    finally:
        contestant.close()
    asked = [rate(one.written) / AT_A_TIME + rate(one.read) for one in done]
    found = result(contestant.name, contestant.role.value, done)
    coordinator = 1e6 * sum(one.cores["coordinator"] for one in done) / sum(asked)
    return {"key": key_of(scale, "limited"), **found, "grants": spread(asked), "coordinator_us": coordinator}


def run(plan: Plan) -> dict[str, Any]:
    started, load = time.monotonic(), _load()
    left_out = LeftOut()
    whole = Run(kinds(left_out), plan, left_out)
    limited = None
    for scale in plan.scales:
        whole.measure(scale)
    if any(kind.name == "replaybank" for kind in whole.kinds):
        limited = grants(plan.scales[len(plan.scales) // 2], plan)
    settings = {
        "repeats": plan.repeats,
        "seconds": plan.seconds,
        "warm": plan.warm,
        "writers": plan.scales[0].writers,
        "at_a_time": AT_A_TIME,
        "batch": BATCH,
        "prefetch": PREFETCH,
        "alpha": ALPHA,
        "beta": BETA,
        "sizes": [asdict(size) for size in dict.fromkeys(scale.size for scale in plan.scales)],
        "how": {kind.name: kind.how for kind in whole.kinds},
    }
    found = {"rows": whole.rows, "costs": whole.costs, "grants": limited, "left_out": left_out.as_list()}
    document = contest.document(whole.kinds, settings, **found, not_possible=list(NOT_POSSIBLE))  # type: ignore[arg-type]
    document["versions"] |= whole.versions
    document["load_average"] = {"before": load, "after": _load()}
    document["took_seconds"] = round(time.monotonic() - started)
    return document


def _load() -> list[float]:
    """Of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def plan_of(options: argparse.Namespace) -> Plan:
    sizes = [(CARTPOLE, True), (CARTPOLE, False), (FRAMES, True)]
    shards = SHARDS
    if options.quick:
        sizes = [(replace(CARTPOLE, capacity=4_000, filled=2_000, distinct=512), True)]
        shards = SHARDS[:2]
    scales = [Scale(size, prioritized, k, options.writers) for size, prioritized in sizes for k in shards]
    return Plan(scales, options.repeats, options.seconds / 3, options.seconds)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="CartPole's size alone, 1 and 2 shards, one short repeat")
    parser.add_argument("--repeats", type=int, help="(3, quick: 1)")
    parser.add_argument("--seconds", type=float, help="of each (0.3, quick: 0.2)")
    parser.add_argument("--writers", type=int, help="processes (4, quick: 2)")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} beside this file, for whole runs alone")
    options = parser.parse_args(given)
    if options.out is None and not options.quick:
        options.out = RESULTS
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.2 if options.quick else 0.3)
    options.writers = options.writers or (2 if options.quick else 4)
    return options


def main() -> None:
    options = arguments()
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    import ray

    ray.init(
        num_cpus=os.cpu_count(),
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        measured = run(plan_of(options))
    finally:
        ray.shutdown()
    contest.finish(measured, markdown(measured), options.out)


if __name__ == "__main__":
    main()
