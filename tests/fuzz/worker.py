"""Runs programs, one a line of its input: `TARGET SEED [CALLS]`, and answers each with a line of JSON.

usage: python worker.py [NATIVE_MODULE] < lines

A process of its own, so that a crash, a hang or a flood of memory ends it and not who asked. CALLS are the numbers of
the calls to make, with commas between them; all of them by default. NATIVE_MODULE: another build of the extension, as
tests/hammer.py takes. By hand, `echo "api 123" | REPLAYBANK_FUZZ_TELL=1 python worker.py` tells each call before it is
made.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.util
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HANGS_AFTER = 20.0  # seconds a program
MORE_MEMORY = 2 << 30  # bytes beyond what the modules take


def swap_in(path: str) -> None:
    """Puts the extension at `path` in the place of `replaybank._native`."""
    spec = importlib.util.spec_from_file_location("replaybank._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["replaybank._native"] = module
    spec.loader.exec_module(module)


def bound_memory() -> None:
    """What asks for much more than it has fails, instead of making the machine swap."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(target: Any, seed: int, calls: list[int] | None, tell: bool) -> dict[str, Any]:
    """Runs a program; says how many calls it made, and the failure, if there is one."""
    program = None
    try:
        program = target.Program(seed, (lambda text: print(text, file=sys.stderr, flush=True)) if tell else None)
        for i in range(program.length) if calls is None else calls:
            program.step(i)
    except Exception:
        made = program.calls if program is not None else 0
        length = program.length if program is not None else 0
        return {"calls": made, "length": length, "failure": traceback.format_exc()}
    return {"calls": program.calls, "length": program.length}


def main() -> None:
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    if len(sys.argv) > 1:
        swap_in(sys.argv[1])
    faulthandler.enable()
    warnings.simplefilter("error")
    tell = bool(os.environ.get("REPLAYBANK_FUZZ_TELL"))
    targets: dict[str, Any] = {}
    for line in sys.stdin:
        name, seed, *calls = line.split()
        if name not in targets:
            targets[name] = importlib.import_module(name)
            if len(sys.argv) == 1:  # sanitizers need all addresses there are
                bound_memory()
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        wanted = [int(i) for i in calls[0].split(",")] if calls else None
        answer = run(targets[name], int(seed), wanted, tell)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
