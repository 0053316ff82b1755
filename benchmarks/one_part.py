"""One part of the suite in a process of its own; `suite.py` calls it: KEY quick|full FILE."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from time import perf_counter

import machine
from parts import PARTS


def main() -> None:
    _, key, run, out = sys.argv
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    before, begin = machine.load(), perf_counter()
    measured = PARTS[key].run(run == "quick")
    about = {
        "run": run,
        "seconds": round(perf_counter() - begin, 1),
        "load": {"before": before, "after": machine.load()},
    }
    Path(out).write_text(json.dumps(about | measured), encoding="utf-8")


if __name__ == "__main__":
    main()
