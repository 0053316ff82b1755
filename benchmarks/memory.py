"""How many bytes a transition of Atari frames takes in RAM.

    python benchmarks/memory.py [--quick] [--transitions N] [--only NAME] [--out FILE]

Each library fills a buffer in a process of its own, one `add` a transition as a training loop does; what is measured is
how much the process's resident memory has grown. Prints a report and keeps it as JSON.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import contest
import machine
from adapters.frames import BUFFERS
from bars import OURS
from contender import Contender, LeftOutError, Setup
from frames_data import FRAME_BYTES, STACK, breakout
from peers import LeftOut
from report import factor, table

RESULTS = Path(__file__).with_name("memory.json")
MOST_BYTES = 7_200
WARM = 64
#: What a buffer may need beyond its frames, as a share of them.
BEYOND = 0.1


def resident() -> int:
    """Bytes of this process in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fill(kind: type[Contender], count: int) -> int:
    """How many bytes this process grows by with `count` transitions in a buffer.

    A small buffer comes first, so that neither libraries nor compiled code count. The frames are mapped from disk, and
    unmapped before the end.
    """
    kind.check(Setup(WARM))
    small = kind(Setup(WARM))
    small.fill(breakout(count).part(2 * WARM))
    small.sample(2)
    del small
    gc.collect()
    before = resident()
    contender = kind(Setup(count))
    contender.fill(breakout(count))
    gc.collect()
    grown = resident() - before
    contender.sample(2)  # the buffer is alive until here
    return grown


def measure(count: int, names: Sequence[str], left_out: LeftOut) -> Iterator[dict[str, Any]]:
    breakout(count)  # collected once, before anyone needs it
    for kind in BUFFERS:
        if kind.name not in names:
            continue
        machine.say(f"filling: {kind.name}")
        needed = (1 + BEYOND) * count * kind.frames_each * FRAME_BYTES
        try:
            if needed > _available():
                raise LeftOutError(f"needs {needed / 2**30:.0f} GiB, more than there is")
            grown = _in_a_process_of_its_own(kind, count)
        except Exception as error:  # whatever a peer fails with, the others go on and the report names it
            left_out.note(kind.name, error, ["memory"])
        else:
            yield {"name": kind.name, "role": kind.role.value, "bytes": grown / count}


def _available() -> float:
    """Bytes of RAM that a new process can have."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024


def _in_a_process_of_its_own(kind: type[Contender], count: int) -> int:
    command = [sys.executable, __file__, "--fill", kind.name, "--transitions", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LeftOutError(machine.without_paths((done.stderr.strip().splitlines() or ["failed"])[-1]))
    return int(done.stdout.split()[-1])


def judged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ours = next((result["bytes"] for result in results if result["name"] == OURS), None)
    met = None if ours is None else ours <= MOST_BYTES
    return {"text": f"at most {MOST_BYTES:,} bytes a transition", "limit": MOST_BYTES, "measured": ours, "met": met}


def run(count: int, names: Sequence[str]) -> dict[str, Any]:
    left_out = LeftOut()
    results = list(measure(count, names, left_out))
    return contest.document(
        BUFFERS, {"transitions": count}, results=results, bar=judged(results), left_out=left_out.as_list()
    )


def markdown(run: contest.Document) -> str:
    bar = run["bar"]
    lines = [
        (
            result["name"],
            f"{result['bytes']:,.0f}",
            factor(result["bytes"] / bar["measured"] if bar["measured"] else None),
            f"{result['bytes'] * 1e6 / 1e9:.1f}",
        )
        for result in sorted(run["results"], key=lambda result: result["bytes"])
    ]
    verdict = {True: "met", False: "NOT met", None: "not measured"}[bar["met"]]
    parts = [
        contest.heading("Atari frames in RAM", run),
        table(("", "bytes a transition", "times replaybank", "GB for a million"), lines),
        f"## Bar\n\n{bar['text']}: {verdict}",
        contest.absent(run["left_out"]),
        f"""## How

{run["settings"]["transitions"]:,} transitions of Breakout, 84×84 frames in stacks of {STACK}; a frame is
{FRAME_BYTES:,} bytes. Growth of the resident size of a process of its own, from before the buffer is made until it is
full; libraries are loaded, and compiled code has run, before.""",
    ]
    return "\n\n".join(parts)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    names = [kind.name for kind in BUFFERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"names: {'; '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="2,000 transitions")
    parser.add_argument("--transitions", type=int, help="in every buffer (100,000), up to a million")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="may be repeated")
    parser.add_argument("--out", type=Path, help="default: memory.json beside this file, for whole runs alone")
    parser.add_argument("--fill", choices=names, help=argparse.SUPPRESS)  # a process of its own, called by this one
    options = parser.parse_args(given)
    if options.out is None and not (options.quick or options.only or options.transitions):
        options.out = RESULTS
    options.transitions = options.transitions or (2_000 if options.quick else 100_000)
    options.names = options.only or names
    return options


def main() -> None:
    options = arguments()
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    if options.fill:
        print(fill(next(kind for kind in BUFFERS if kind.name == options.fill), options.transitions))
        return
    measured = run(options.transitions, options.names)
    contest.finish(measured, markdown(measured), options.out)


if __name__ == "__main__":
    main()
