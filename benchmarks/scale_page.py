"""The figures of docs/scale.md: blocks between marks, made of scale_costs.json and scale.json."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from report import table
from scale_figure import full

Document = Mapping[str, Any]
MARK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.S)
SIZES = {"frames": "frames", "cartpole": "CartPole"}


def written(page: str, costs: Document, found: Document) -> str:
    """The page with each block `<!-- name -->` … `<!-- end -->` made anew."""
    return MARK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]](costs, found)}\n\n{block[3]}", page)


def _costs(costs: Document, _: Document) -> str:
    """What calls cost."""
    hardware, calls = costs["hardware"], costs["calls"]
    lines = []

    def line(what: str, name: str, scale: float) -> None:
        lines.append((what, *(_line(costs["sizes"][size][name], scale) for size in SIZES)))

    def batch(what: str, name: str) -> None:
        cells = []
        for size in SIZES:
            one = {key: 1e6 * value for key, value in costs["sizes"][size][name].items()}
            cells.append(f"{one['fixed']:,.0f} + {one['shard']:,.0f} s + {one['transition']:.2f} n")
        lines.append((what, *cells))

    line("writer: a packet of n, µs", "writer", 1e6)
    line("shard: insert a packet of n, µs", "insert", 1e6)
    line("shard: draw n, µs", "draw", 1e6)
    line("shard: update n, µs", "update", 1e6)
    batch("learner: a batch of n from s shards, µs", "reader_draw")
    batch("learner: its update, µs", "reader_update")
    line("packet of n, bytes", "insert_bytes", 1)
    line("draw of n, bytes", "draw_bytes", 1)
    line("update of n, bytes", "update_bytes", 1)
    line_of_memory = [f"{costs['sizes'][size]['transition_nbytes']:,.0f}" for size in SIZES]
    lines.append(("a transition in a shard, bytes", *line_of_memory))
    shared = [
        ("coordinator: a shard's report", calls["beat"]["server"]),
        ("coordinator: who is there, nothing new", calls["poll"]["server"]),
        ("coordinator: leave to insert or sample (where a rate is held)", calls["grant"]["server"]),
    ]
    small = [(what, f"{1e6 * seconds:,.0f} µs") for what, seconds in shared]
    look = calls["look"]
    small += [
        ("coordinator: who is there, all of s shards", f"{_line(look['server'], 1e6, 's')} µs"),
        ("and who asked that", f"{_line(look['caller'], 1e6, 's')} µs"),
        ("a call, beside what it carries, both ways", f"{calls['call_bytes']:,.0f} bytes"),
        ("a call of a shard that is idle, median", f"{1e3 * calls['call_seconds']['median']:.2f} ms"),
        ("an empty shard's process", f"{calls['memory']['shard'] / 2**20:,.0f} MiB"),
    ]
    load = costs["load_average"]
    about = (
        f"Measured {costs['date'][:10]}, commit {costs['commit']}: {hardware['processor']}, {hardware['cores']} cores, "
        f"{costs['python']}, Ray {costs['versions']['ray']}; load average {load['before'][0]:.1f} before, "
        f"{load['after'][0]:.1f} after."
    )
    return "\n\n".join([about, table(("CPU and bytes", *SIZES.values()), lines), table(("any size", ""), small)])


def _line(line: Mapping[str, float], scale: float, n: str = "n") -> str:
    return f"{scale * line['fixed']:,.0f} + {scale * line['each']:,.2f} {n}"


def _hand(costs: Document, found: Document) -> str:
    """The pencil's table."""
    runs = {size: found["scenarios"][size] for size in SIZES}
    held = {size: found["scenarios"][f"{size}, a rate held"] for size in SIZES}
    of: dict[str, dict[str, Any]] = {size: costs["sizes"][size] for size in SIZES}
    half = costs["calls"]["call_bytes"] / 2
    lines = []

    def row(what: str, how: str, value: Callable[[str, dict[str, Any], dict[str, Any]], str]) -> None:
        lines.append((what, how, *(value(size, runs[size], runs[size]["scenario"]) for size in SIZES)))

    def bytes_in(size: str, run: dict[str, Any]) -> float:
        line = of[size]["insert_bytes"]
        return float(run["offered"]["packets"] * (line["fixed"] + line["each"] * run["packet"] + half))

    def bytes_out(size: str, run: dict[str, Any]) -> float:
        line, s = of[size]["draw_bytes"], run["scenario"]
        return float(run["offered"]["batches"] * (s["shards"] * (line["fixed"] + half) + line["each"] * s["batch"]))

    row("transitions/s", "actors × rate", lambda size, run, s: f"{s['actors']:,} × {s['rate']:g}")
    row("", "", lambda size, run, s: f"= {s['actors'] * s['rate']:,.0f}")
    row("n of a packet", "min(64, rate × 0.2 s)", lambda size, run, s: f"{run['packet']}")
    row("packets/s", "transitions/s ÷ n", lambda size, run, s: f"{run['offered']['packets']:,.0f}")
    row("draws/s, and updates/s", "batches/s × shards", lambda size, run, s: f"{_draws(run):,.0f}")
    row(
        "network in",
        "packets/s × (a packet + half a call)",
        lambda size, run, s: f"{bytes_in(size, run) / 1e6:,.1f} MB/s",
    )
    row(
        "network out",
        "draws/s × (a draw + half a call)",
        lambda size, run, s: f"{bytes_out(size, run) / 1e6:,.1f} MB/s",
    )
    for name, how in (
        ("actors' link out", "÷ 32 nodes ÷ 1.25 GB/s"),
        ("shards' link in", "÷ 8 nodes, with updates"),
        ("shards' link out", "÷ 8 nodes, with answers"),
        ("learner's link in", "all of it"),
        ("writer", "packets/s ÷ actors × a packet"),
        ("shard", "packets/s ÷ 64 × insert + batches/s × (draw + update)"),
        ("coordinator", "64 reports + looks"),
        ("learner", "batches/s × (a batch + its update)"),
    ):
        row(name, how, lambda size, run, s, name=name: _part(run["utilisation"][name]))  # type: ignore[misc]
    cells = [_part(held[size]["utilisation"]["coordinator"]) for size in SIZES]
    lines.append(("coordinator, a rate held", "+ (packets/s + batches/s) × a leave", *cells))
    row(
        "memory of a shard",
        "2,000,000 ÷ 64 × a transition + a process",
        lambda size, run, s: _mib(run["memory"]["shard"]),
    )
    row("memory of a node of 8", "", lambda size, run, s: _mib(run["memory"]["shards' node"]))
    row("memory of a writer", "beside what the actor has", lambda size, run, s: _mib(run["memory"]["writer"]))
    row(
        "to start",
        "actors × a look at 64 shards",
        lambda size, run, s: f"{s['actors'] * run['look_seconds']['server']:.1f} s",
    )
    return table(("", "how", *SIZES.values()), lines)


def _draws(run: Document) -> float:
    return float(run["offered"]["batches"] * run["scenario"]["shards"])


def _part(busy: float) -> str:
    return f"**{busy:.0%}**" if busy > 1 else f"{busy:.1%}"


def _mib(nbytes: float) -> str:
    return f"{nbytes / 2**20:,.0f} MiB"


def _first(_: Document, found: Document) -> str:
    """Which resource is full first, and at how many times the load."""
    lines = []
    for name, run in found["scenarios"].items():
        busy = sorted(
            ((part, what) for what, part in run["utilisation"].items() if what != "accelerator"), reverse=True
        )
        cells = [f"{what}: {part:.1%}, so {_times(1 / part)} the load" for part, what in busy[:3]]
        lines.append((name, *cells))
    return table(("", "first", "second", "third"), lines)


def _times(factor: float) -> str:
    return f"{factor:.2f}×" if factor < 10 else f"{factor:,.0f}×"


def _simulated(_: Document, found: Document) -> str:
    lines = []
    for name, run in found["scenarios"].items():
        figures, reckoned = run["simulated"], run["utilisation"]
        busy = figures["utilisation"]
        cells = [f"{figures['transitions']:,.0f}", f"{figures['batches']:.1f}"]
        cells += [_latency(figures[call]) for call in ("flush_ms", "sample_ms")]
        for what in ("shard", "coordinator", "learner"):
            cells.append(f"{busy[what]:.0%} ({reckoned[what]:.0%})")
        cells.append(", ".join(f"{figures['queue'][what]:.2g}" for what in ("shard", "coordinator", "learner")))
        lines.append((name, *cells))
    header = ("", "transitions/s", "batches/s", "flush ms", "sample ms", "shard", "coordinator", "learner", "waiting")
    return table(header, lines)


def _latency(times: Mapping[str, float] | None) -> str:
    return "–" if times is None else f"{times['median']:,.1f} / {times['p99']:,.1f}"


def _swept(_: Document, found: Document) -> str:
    parts = []
    for size in SIZES:
        for name in ("actors", "shards"):
            lines = []
            for point in found["sweeps"][f"{size} by {name}"]:
                figures = point["simulated"]
                lines.append(
                    (
                        f"{point['scenario'][name]:,}",
                        f"{figures['transitions']:,.0f}",
                        f"{figures['batches']:.1f}",
                        _latency(figures["flush_ms"]),
                        _latency(figures["sample_ms"]),
                        full(point) or "–",
                    )
                )
            header = (f"{size}: {name}", "transitions/s", "batches/s", "flush ms", "sample ms", "full")
            parts.append(table(header, lines))
    return "\n\n".join(parts)


def _checked(_: Document, found: Document) -> str:
    if not found["checks"]:
        return "Nothing was measured yet."
    lines = [
        (
            f"{one['size']}, {one['mode']}, {one['shards']}: {one['what']}",
            _figure(one["measured"]),
            _figure(one["simulated"]),
            f"{one['simulated'] / one['measured']:.2f}",
        )
        for one in found["checks"]
    ]
    rates = [one["simulated"] / one["measured"] for one in found["checks"] if one["what"].endswith("/s")]
    inside = sum(0.5 <= ratio <= 2 for ratio in rates)
    medians = [one["simulated"] / one["measured"] for one in found["checks"] if "median" in one["what"]]
    told = (
        f"Of {len(rates)} rates {inside} are within a factor of two of those measured (from {min(rates):.2f} to "
        f"{max(rates):.2f} times)"
    )
    if medians:
        told += f"; median latencies are from {min(medians):.2f} to {max(medians):.2f} times those measured"
    return f"{told}.\n\n{table(('size, mode, shards', 'measured', 'simulated', 'ratio'), lines)}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


BLOCKS: dict[str, Callable[[Document, Document], str]] = {
    "costs": _costs,
    "hand": _hand,
    "first": _first,
    "simulated": _simulated,
    "swept": _swept,
    "checked": _checked,
}
