"""The report of `ray_scaling.py` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import contest
from hands import AT_A_TIME
from report import ABSENT, table


def markdown(run: contest.Document) -> str:
    names = list(dict.fromkeys(entry["name"] for row in run["rows"] for entry in row["results"]))
    parts = [contest.heading("Replay shards", run)]
    for size, kind in dict.fromkeys((row["size"], row["kind"]) for row in run["rows"]):
        rows = [row for row in run["rows"] if (row["size"], row["kind"]) == (size, kind)]
        parts.append(f"## {size}, {kind}")
        for title, cell in (
            ("a second", _amounts),
            ("ms, median / 99 %", _latency),
            ("CPU µs for one, or cores", _cpu),
        ):
            lines = []
            for row in rows:
                cells = {entry["name"]: cell(entry) for entry in row["results"]}
                lines.append((f"{row['shards']}: {row['title']}", *(cells.get(name) or ABSENT for name in names)))
            used = [line for line in lines if set(line[1:]) != {ABSENT}]
            parts.append(table((title, *names), used))
    parts += [_messages(run["costs"], names), _memory(run["costs"], names)]
    if run["grants"]:
        parts.append(_grants(run["grants"]))
    parts += [contest.absent(run["left_out"]), _notes(run)]
    return "\n\n".join(parts)


def _amounts(entry: contest.Document) -> str:
    if set(entry["latency_ms"]) == {"flush"}:
        return ""
    return " + ".join(f"{entry[what]['median']:,.0f}" for what in ("transitions", "batches") if what in entry)


def _latency(entry: contest.Document) -> str:
    return ", ".join(f"{call} {one['median']:.2f} / {one['p99']:.2f}" for call, one in entry["latency_ms"].items())


def _cpu(entry: contest.Document) -> str:
    if "cpu_us" in entry:
        return ", ".join(f"{name} {value:,.1f}" for name, value in entry["cpu_us"].items())
    return ", ".join(f"{name} {value:.2f} cores" for name, value in entry["cores"].items())


def _messages(costs: Sequence[contest.Document], names: Sequence[str]) -> str:
    lines = []
    for key in dict.fromkeys(cost["key"] for cost in costs):
        found = {cost["name"]: cost["bytes"] for cost in costs if cost["key"] == key}
        cells = [", ".join(f"{what} {n:,.0f}" for what, n in found.get(name, {}).items()) for name in names]
        lines.append((key, *(cell or ABSENT for cell in cells)))
    return f"## Bytes of a message of {AT_A_TIME}, a batch, an update\n\n" + table(("", *names), lines)


def _memory(costs: Sequence[contest.Document], names: Sequence[str]) -> str:
    lines = []
    for key in dict.fromkeys(cost["key"] for cost in costs):
        found = {cost["name"]: cost for cost in costs if cost["key"] == key}
        lines.append((key, *(_sizes(found[name]) if name in found else ABSENT for name in names)))
    return "## MiB: shards empty and filled, a writer, the reader\n\n" + table(("", *names), lines)


def _sizes(cost: contest.Document) -> str:
    before, after = cost["memory_empty"], cost["memory_filled"]
    found = (sum(before["shards"]), sum(after["shards"]), np.mean(after["writers"]), after["reader"])
    return ", ".join(f"{nbytes / 2**20:,.0f}" for nbytes in found)


def _grants(limited: contest.Document) -> str:
    return (
        f"## A rate is held (`{limited['key']}`)\n\n{limited['grants']['median']:,.0f} grants a second for "
        f"{_amounts(limited)} transitions and batches; each takes {limited['coordinator_us']:,.0f} µs of CPU of the "
        "coordinator."
    )


def _notes(run: contest.Document) -> str:
    settings = run["settings"]
    how = "\n".join(f"- {name}: {text}" for name, text in settings["how"].items())
    limits = "\n".join(f"- {text}" for text in run["not_possible"])
    sizes = "; ".join(f"{one['name']}: {one['filled']:,} of {one['capacity']:,}" for one in settings["sizes"])
    return f"""## How

{settings["writers"]} writer processes, which get a step at a time as an environment gives them, and send
{settings["at_a_time"]} a message. One reader: batches of {settings["batch"]} until the arrays of a loss are in hand;
with a prefetch, {settings["prefetch"]} are asked for in advance, and updates are not waited for. Prioritized, each
batch's priorities are updated, but where batches go out one at a time. Shards begin with transitions ({sizes}).
What counts as in has been acknowledged. Medians of {settings["repeats"]} repeats of {settings["seconds"]:g} s, the
libraries in turn; latencies of all repeats together. CPU is of whole processes; that of shards comes in ticks of 10 ms.
Load average before {run["load_average"]["before"]}, after
{run["load_average"]["after"]}.

{how}

{limits}"""
