"""How many bytes a transition of Atari frames takes in RAM.

Each library fills a buffer in a process of its own, one `add` a transition as a training loop does; what is measured is
how much the process's resident memory has grown.
"""

from __future__ import annotations

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
from measuring import LeftOut, Part
from report import factor, table

COUNT, QUICK = 30_000, 2_000  # transitions
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
    for kind in (kind for kind in BUFFERS if kind.name in names):
        machine.say(f"filling: {kind.name}")
        needed = (1 + BEYOND) * count * kind.frames_each * FRAME_BYTES
        try:
            if needed > machine.available():
                raise LeftOutError(f"needs {needed / 2**30:.0f} GiB, more than there is")
            grown = _in_a_process_of_its_own(kind, count)
        except Exception as error:  # whatever a peer fails with, the others go on and the report names it
            left_out.note(kind.name, error, ["memory"])
        else:
            yield {"name": kind.name, "role": kind.role.value, "bytes": grown / count}


def _in_a_process_of_its_own(kind: type[Contender], count: int) -> int:
    command = [sys.executable, __file__, kind.name, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LeftOutError(machine.without_paths((done.stderr.strip().splitlines() or ["failed"])[-1]))
    return int(done.stdout.split()[-1])


def judged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The bar; what is measured is a share of MOST_BYTES."""
    ours = next((result["bytes"] for result in results if result["name"] == OURS), None)
    return {
        "row": "memory",
        "text": f"at most {MOST_BYTES:,} bytes a transition",
        "limit": 1,
        "at_most": True,
        "against": f"{MOST_BYTES:,} bytes",
        "measured": None if ours is None else ours / MOST_BYTES,
        "met": None if ours is None else ours <= MOST_BYTES,
    }


def run(count: int, names: Sequence[str] = tuple(kind.name for kind in BUFFERS)) -> dict[str, Any]:
    left_out = LeftOut()
    results = list(measure(count, names, left_out))
    return contest.document(
        BUFFERS,
        {"transitions": count, "frame_bytes": FRAME_BYTES, "stack": STACK},
        results=results,
        bars=[judged(results)],
        left_out=left_out.as_list(),
    )


def section(run: contest.Document) -> str:
    settings = run["settings"]
    ours = next((result["bytes"] for result in run["results"] if result["name"] == OURS), None)
    lines = [
        (
            result["name"],
            f"{result['bytes']:,.0f}",
            factor(result["bytes"] / ours if ours else None),
            f"{result['bytes'] * 1e6 / 1e9:.1f}",
        )
        for result in sorted(run["results"], key=lambda result: float(result["bytes"]))
    ]
    return f"""{table(("", "bytes a transition", "times replaybank", "GB for a million"), lines)}

{settings["transitions"]:,} transitions of Breakout, 84×84 frames in stacks of {settings["stack"]}; a frame is
{settings["frame_bytes"]:,} bytes. Growth of the resident size of a process of its own, from before the buffer is made
until it is full, once; libraries are loaded, and compiled code has run, before."""


def main() -> None:
    """In a process of its own: the bytes that one library's buffer of so many transitions takes."""
    _, name, count = sys.argv
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    print(fill(next(kind for kind in BUFFERS if kind.name == name), int(count)))


PART = Part("memory", "Bytes of Atari frames in memory", lambda quick: run(QUICK if quick else COUNT), section)

if __name__ == "__main__":
    main()
