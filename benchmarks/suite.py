"""The suite: replaybank, its peers and the floor in C, at the same work, part after part.

    python -m benchmarks --quick | --full [--only PART ...] [--out FILE]
    python -m benchmarks --page

Each part runs in a process of its own and is kept as soon as it is done, so that a part that fails or takes too long
costs no other. `--only` runs some parts again and leaves the others in the file as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import machine
from parts import PARTS

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
#: Where a quick run goes: it is a look, and not kept.
QUICK_RESULTS = HERE.parent / "runs" / "benchmarks.json"
WORKER = HERE / "one_part.py"
#: Seconds that one part may take.
PATIENCE = {"quick": 600.0, "full": 1_800.0}

Results = dict[str, dict[str, Any]]


def run(keys: Sequence[str], how: str, out: Path, anew: bool) -> Results:
    """Run parts, `how` quick or full, and keep each in `out`; what else is there is kept too, but for `anew`."""
    results: Results = {"parts": {}, "failed": {}} if anew or not out.exists() else read(out)
    for key in keys:
        machine.say(f"== {key}")
        try:
            results["parts"][key] = part(key, how)
            results["failed"].pop(key, None)
        except PartError as error:
            machine.say(f"{key} failed: {error}")
            results["failed"][key] = str(error)
        keep(results, out)
    return results


class PartError(Exception):
    """A part that gave no result, and why."""


def part(key: str, how: str) -> dict[str, Any]:
    """What a part measured, in a process of its own; raises PartError where that fails or takes too long."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        command = [sys.executable, str(WORKER), key, how, str(out)]
        process = subprocess.Popen(command, env=os.environ | machine.ONE_THREAD, process_group=0)
        try:
            status = process.wait(PATIENCE[how])
        except subprocess.TimeoutExpired:
            raise PartError(f"took more than {PATIENCE[how]:,.0f} s") from None
        finally:
            with suppress(ProcessLookupError):  # it has ended, and those that it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status != 0:
            raise PartError(f"ended with {status}")
        measured: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return measured


def read(path: Path) -> Results:
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def keep(results: Mapping[str, Any], out: Path) -> None:
    """Whole or not at all, in the order of the parts."""
    parts = {key: results["parts"][key] for key in PARTS if key in results["parts"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_suffix(".new")
    text = json.dumps({"parts": parts, "failed": results["failed"]}, indent=1, ensure_ascii=False)
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(out)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_const", dest="how", const="quick", help="small, about five minutes")
    what.add_argument("--full", action="store_const", dest="how", const="full", help="about half an hour")
    what.add_argument("--page", action="store_true", help="write docs/benchmarks.md and its figures from --out")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, help="default: benchmarks/results.json, quick: runs/benchmarks.json")
    options = parser.parse_args(given)
    options.out = options.out or (QUICK_RESULTS if options.how == "quick" else RESULTS)
    options.parts = options.only or list(PARTS)
    return options


def main() -> None:
    import page  # matplotlib, which a run does not need

    options = arguments()
    if options.page:
        page.write(read(options.out))
        return
    results = run(options.parts, options.how, options.out, anew=options.only is None)
    machine.say(f"written: {options.out}")
    print(page.written(results), end="")
    if any(key in results["failed"] for key in options.parts):
        sys.exit(1)
