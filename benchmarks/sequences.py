"""Sequences of steps: 16 of 80 steps, observations of 64 float32, from 200,000 transitions.

    python benchmarks/sequences.py [--quick] [--transitions N] [--repeats N] [--out FILE]

All libraries in turn in one run; Reverb where REVERB_PYTHON names an interpreter that has it. Prints a report and
keeps it as JSON.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import contest
import machine
from adapters.sequences import LENGTH, OBS, SEQUENCE_CONTENDERS
from bars import Bar
from contender import Setup
from peers import Entrant, LeftOut, Settings, measure_row
from transitions import Transitions, trajectories
from work import Row, uniform

RESULTS = Path(__file__).with_name("sequences.json")
SIZE = 16
LENGTHS = (300, 700)
ROW = Row("sequences", f"{SIZE} sequences of {LENGTH}", uniform(SIZE))

BARS = (
    Bar(ROW.key, 1.52, "one NumPy gather", at_most=True, note="10,000 a second where it does 15,200"),
    Bar(ROW.key, 1),
)


def experience(count: int, lengths: tuple[int, int] = LENGTHS, seed: int = 0) -> Transitions:
    """Episodes of random lengths; the reward of a transition is its number, counted from 0."""
    data = trajectories(count, np.random.default_rng(seed), lengths, obs_size=OBS)
    return replace(data, reward=np.arange(count, dtype=np.float32))


def run(count: int, settings: Settings) -> dict[str, Any]:
    data = experience(count)
    left_out = LeftOut()
    there: list[Entrant] = []
    for kind in SEQUENCE_CONTENDERS:
        machine.say(f"filling: {kind.name}")
        try:
            kind.check(Setup(count))
            contender = kind(Setup(count))
            contender.fill(data)
        except Exception as error:  # whatever a peer fails with, the others go on and the report names it
            left_out.note(kind.name, error, [ROW.key])
        else:
            there.append(Entrant(kind.name, kind.role, contender, ()))
    gc.collect()
    gc.freeze()
    row = measure_row(ROW, there, settings, left_out)
    gc.unfreeze()
    done = contest.document(
        SEQUENCE_CONTENDERS,
        {**asdict(settings), "transitions": count},
        rows=[row],
        at_ends={kind.name: kind.at_ends for kind in SEQUENCE_CONTENDERS},
        bars=contest.judged(BARS, [row]),
        left_out=left_out.as_list(),
    )
    for entrant in there:
        done["versions"].update(entrant.contender.versions)
    return done


def markdown(run: contest.Document) -> str:
    settings = run["settings"]
    parts = [
        contest.heading(f"Sequences of {LENGTH} steps", run),
        contest.rates(run["rows"], {"where an episode ends": run["at_ends"]}),
        contest.verdicts(run["bars"]),
        contest.absent(run["left_out"]),
        f"""## How

{settings["transitions"]:,} transitions in every buffer: {OBS} float32, an int64 action, a float32 reward; episodes of
{LENGTHS[0]} to {LENGTHS[1]} steps. Medians of {settings["repeats"]} repeats of about {settings["seconds"] * 1e3:g} ms,
in turn; one thread each. A batch counts until obs, action, reward and terminated are in hand, [{SIZE}, {LENGTH}, ...];
the NumPy gather has the obs alone. The best peer is in bold; Flashbax, which crosses episodes, is not one.""",
    ]
    return "\n\n".join(parts)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    return contest.timed_arguments(__doc__.splitlines()[0], RESULTS, 5_000, 200_000, given)


def main() -> None:
    options = arguments()
    machine.use_one_thread()
    warnings.simplefilter("ignore")  # the peers' own
    measured = run(options.transitions, Settings(options.repeats, options.seconds))
    contest.finish(measured, markdown(measured), options.out)


if __name__ == "__main__":
    main()
