"""What `import replaybank` costs, beside `import numpy`.

    python benchmarks/import_time.py [--turns N] [--out FILE]

Every turn starts a new interpreter for each line, one after the other. Milliseconds are medians, less what an
interpreter takes that imports nothing; bytecode lies in a folder of its own that a first turn fills, so that all have
theirs ready.
Ends with status 1 where `import replaybank` takes more than 1.3 times as long as `import numpy`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

MOST = 1.3
NOTHING = "pass"
NUMPY = "import numpy"
OURS = "import replaybank"
LINES = {
    NUMPY: NUMPY,
    OURS: OURS,
    "and its first name": "import replaybank; replaybank.ReplayBuffer",
    "and its first batch": (
        "import replaybank as rb; b = rb.ReplayBuffer(100, sampler=rb.Prioritized(), seed=0); "
        "b.add([0.0], 0, 1.0, [1.0], False, False); b.sample(4)"
    ),
}


def start(code: str, environment: dict[str, str]) -> float:
    """Seconds that a new interpreter takes to run `code` and end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return time.perf_counter() - begin


def measure(turns: int) -> dict[str, list[float]]:
    """Seconds a turn, for nothing and for each of `LINES`."""
    codes = {NOTHING: NOTHING, **LINES}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        for code in codes.values():
            start(code, environment)
        taken: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(turns):
            for name, code in codes.items():
                taken[name].append(start(code, environment))
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--out", type=Path, help="keep the figures as JSON")
    options = parser.parse_args()
    taken = measure(options.turns)
    nothing = median(taken.pop(NOTHING))
    cost = {name: median(times) - nothing for name, times in taken.items()}
    ratio = {name: cost[name] / cost[NUMPY] for name in cost}
    for name in cost:
        print(f"{name:22}{cost[name] * 1e3:8.1f} ms{ratio[name]:8.2f} x numpy")
    if options.out:
        told = {
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "replaybank": version("replaybank"),
            "turns": options.turns,
            "milliseconds": {name: round(value * 1e3, 2) for name, value in cost.items()},
            "times_numpy": {name: round(value, 3) for name, value in ratio.items()},
        }
        options.out.write_text(json.dumps(told, indent=2) + "\n")
    return int(ratio[OURS] > MOST)


if __name__ == "__main__":
    sys.exit(main())
