"""Two hosts: what a writer and a reader on one cost whose shards are on the other, over lines of different quality.

    python benchmarks/two_hosts.py [--quick] [--seconds S] [--out FILE]

The hosts are network namespaces, the line between them delays and loses packets (hosts.py): needs Linux and root.
Takes rates and latencies of calls, and the bytes of each transition that the line carries, with all headers and all
that Ray says besides. Prints a report and keeps it as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import contest
import machine
from hosts import Line, TwoHosts, available
from report import table

RESULTS = Path(__file__).with_name("two_hosts.json")
WORKER = Path(__file__).with_name("two_hosts_worker.py")
LINES = {
    "no delay": Line(),
    "1 ms each way": Line(delay=0.001),
    "10 ms each way": Line(delay=0.01),
    "10 ms each way, 1 % lost": Line(delay=0.01, loss=0.01),
}
SIZES = ("cartpole", "frames")
HEADER = ("", "median", "99 %", "transitions/s", "bytes there", "bytes back")


def measure(line: Line, size: str, seconds: float) -> list[dict[str, Any]]:
    """What the worker measured over such a line."""
    with TwoHosts(line) as hosts:
        hosts.start_ray()
        command = [sys.executable, str(WORKER), size, str(seconds)]
        with hosts.a.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            for said in worker.stdout:
                told = json.loads(said)
                if "done" in told:
                    rows: list[dict[str, Any]] = told["done"]
                    return rows
                now = hosts.traffic()
                print(json.dumps([now.a_to_b.bytes, now.b_to_a.bytes]), file=worker.stdin)
    raise RuntimeError("the worker ended before it was done")


def run(lines: Mapping[str, Line], sizes: Sequence[str], seconds: float) -> dict[str, Any]:
    parts = []
    for size in sizes:
        for name, line in lines.items():
            machine.say(f"{size}, {name}")
            parts.append({"size": size, "line": name, **line._asdict(), "rows": measure(line, size, seconds)})
    return contest.document([], {"seconds": seconds}, ray=machine.versions(["ray"]).get("ray"), parts=parts)


def markdown(run: Mapping[str, Any]) -> str:
    texts = [contest.heading("Shards on another host", run)]
    for part in run["parts"]:
        lines = [
            (
                row["what"],
                f"{row['median_ms']:,.1f} ms",
                f"{row['p99_ms']:,.1f} ms",
                f"{row['a_second']:,.0f}",
                f"{row['bytes_there']:,.0f}",
                f"{row['bytes_back']:,.0f}",
            )
            for row in part["rows"]
        ]
        texts.append(f"## {part['size']}, {part['line']}\n\n{table(HEADER, lines)}")
    return "\n\n".join(texts)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="CartPole's size, over one line, shortly")
    parser.add_argument("--seconds", type=float, help="of each row (4, quick: 0.3)")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} beside this file, for whole runs alone")
    options = parser.parse_args(given)
    options.seconds = options.seconds or (0.3 if options.quick else 4.0)
    if options.out is None and not options.quick:
        options.out = RESULTS
    return options


def main() -> None:
    options = arguments()
    if reason := available():
        raise SystemExit(reason)
    lines = dict(list(LINES.items())[-1:]) if options.quick else LINES
    measured = run(lines, SIZES[:1] if options.quick else SIZES, options.seconds)
    contest.finish(measured, markdown(measured), options.out)


if __name__ == "__main__":
    main()
