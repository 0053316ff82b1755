"""Stacks of Atari frames: batches a second, and how many come back wrong.

    python benchmarks/frames.py [--quick] [--transitions N] [--repeats N] [--out FILE]

Breakout frames, 84×84, stacks of four, batches of 32 and 256, uniform and prioritized; every library with whole stacks
and with each frame kept once, in turn in one run. Prints a report and keeps it as JSON.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import contest
import machine
from adapters.frames import FRAME_CONTENDERS, ready
from bars import Bar
from contender import ALPHA, BETA, Contender, Role, Setup
from frames_data import FRAME_BYTES, Frames, breakout
from peers import WRAPPED, Entrant, LeftOut, Settings, measure_row
from work import Row, uniform

RESULTS = Path(__file__).with_name("frames.json")
SIZES = (32, 256)
PRIORITIZED = {False: "uniform", True: "prioritized"}

BARS = (
    Bar("uniform-32", 1.4, "C floor", at_most=True, note="7,500 a second where the floor does 10,400"),
    *(Bar(f"{kind}-{size}", 1) for kind in PRIORITIZED.values() for size in SIZES),
)


@dataclass(frozen=True)
class Mistakes:
    """What came back among `drawn` transitions: stacks that are not those that were added.

    `bootstrapped`: with a wrong `next_obs` and not marked as terminated, so that a value target uses it.
    """

    name: str
    drawn: int
    obs: int
    next_obs: int
    bootstrapped: int


def mistakes(contender: Contender, data: Frames, enough: int = 20_000, seconds: float = 20.0) -> Mistakes:
    """Draw until there are enough, or time is up, and compare with what was added."""
    drawn = wrong_obs = wrong_next = wrong_target = 0
    begin = perf_counter()
    while drawn < enough and perf_counter() - begin < seconds:
        columns = contender.columns(contender.sample(256))
        numbers = np.asarray(columns["reward"]).astype(np.int64)
        obs, next_obs = (np.asarray(columns[name]) for name in ("obs", "next_obs"))
        wrong = (next_obs != data.next_obs(numbers)).any(axis=(1, 2, 3))
        drawn += len(numbers)
        wrong_obs += int((obs != data.obs(numbers)).any(axis=(1, 2, 3)).sum())
        wrong_next += int(wrong.sum())
        wrong_target += int((wrong & ~np.asarray(columns["terminated"])).sum())
    return Mistakes(contender.name, drawn, wrong_obs, wrong_next, wrong_target)


def entrants(setup: Setup, data: Frames, rows: Sequence[Row], left_out: LeftOut) -> Iterator[Entrant]:
    for kind in FRAME_CONTENDERS:
        machine.say(f"filling: {kind.name}")
        try:
            contender = ready(kind, setup, data)
        except Exception as error:  # whatever a peer fails with, the others go on and the report names it
            left_out.note(kind.name, error, [row.key for row in rows])
        else:
            yield Entrant(kind.name, kind.role, contender, ())


def run(count: int, settings: Settings) -> dict[str, Any]:
    data = breakout(count + WRAPPED)
    left_out = LeftOut()
    measured: list[dict[str, Any]] = []
    wrong: list[Mistakes] = []
    for prioritized, kind in PRIORITIZED.items():
        rows = [Row(f"{kind}-{size}", f"{kind}, {size}", uniform(size)) for size in SIZES]
        there = list(entrants(Setup(count, prioritized=prioritized), data, rows, left_out))
        gc.collect()
        gc.freeze()
        measured.extend(measure_row(row, there, settings, left_out) for row in rows)
        gc.unfreeze()
        if not prioritized:
            wrong.extend(mistakes(entrant.contender, data) for entrant in there if entrant.role is not Role.FLOOR)
        del there
        gc.collect()
    return contest.document(
        FRAME_CONTENDERS,
        {**asdict(settings), "transitions": count, "alpha": ALPHA, "beta": BETA},
        rows=measured,
        mistakes=[asdict(found) for found in wrong],
        bars=contest.judged(BARS, measured),
        left_out=left_out.as_list(),
    )


def markdown(run: contest.Document) -> str:
    wrong = {
        title: {found["name"]: _share(found[field], found["drawn"]) for found in run["mistakes"]}
        for title, field in (
            ("wrong obs", "obs"),
            ("wrong next_obs", "next_obs"),
            ("of that, bootstrapped", "bootstrapped"),
        )
    }
    parts = [
        contest.heading("Stacks of four frames", run),
        contest.rates(run["rows"], wrong),
        contest.verdicts(run["bars"]),
        contest.absent(run["left_out"]),
        _notes(run["settings"]),
    ]
    return "\n\n".join(parts)


def _share(wrong: int, drawn: int) -> str:
    return f"{100 * wrong / drawn:.2f}%" if wrong else "0"


def _notes(settings: contest.Document) -> str:
    return f"""## How

{settings["transitions"]:,} transitions of Breakout (random policy, sticky actions) in every buffer, which has wrapped
around: {settings["transitions"] * FRAME_BYTES / 2**20:,.0f} MiB of frames where each is kept once, eight times as much
where both stacks are. Medians of {settings["repeats"]} repeats of about {settings["seconds"] * 1e3:g} ms, in turn; one
thread each. A batch counts until the arrays of a loss are in hand, but for Flashbax's trajectories: the five frames of
a pick are not cut into the two stacks. The best peer is in bold.

The C floor copies five frames in a row a pick, and has no columns, no tree and no random numbers; its memory is there
already, or fresh from the system for every batch. `wrong` compares with what was added, uniform sampling."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    return contest.timed_arguments(__doc__.splitlines()[0], RESULTS, 2_000, 30_000, given)


def main() -> None:
    options = arguments()
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    measured = run(options.transitions, Settings(options.repeats, options.seconds))
    contest.finish(measured, markdown(measured), options.out)


if __name__ == "__main__":
    main()
