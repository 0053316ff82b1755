"""Sequences of steps: 16 of 80 steps, observations of 64 float32, from 200,000 transitions.

Reverb where REVERB_PYTHON names an interpreter that has it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

import contest
import machine
from adapters.sequences import LENGTH, OBS, SEQUENCE_CONTENDERS
from bars import Bar
from contender import Setup
from measuring import Entrant, LeftOut, Part, Settings, measure_rows
from transitions import Transitions, trajectories
from work import Row, sample

COUNT, QUICK = 200_000, 5_000  # transitions in every buffer
SIZE = 16
LENGTHS = (300, 700)
ROW = Row("sequences", f"{SIZE} sequences of {LENGTH}", sample(SIZE))

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
    rows = measure_rows([ROW], there, settings, left_out)
    done = contest.document(
        SEQUENCE_CONTENDERS,
        {**asdict(settings), "transitions": count},
        rows=rows,
        at_ends={kind.name: kind.at_ends for kind in SEQUENCE_CONTENDERS},
        bars=contest.judged(BARS, rows),
        left_out=left_out.as_list(),
    )
    for entrant in there:
        done["versions"].update(entrant.contender.versions)
    return done


def section(run: contest.Document) -> str:
    settings = run["settings"]
    table = contest.rates(run["rows"], {"where an episode ends": run["at_ends"]})
    return f"""{table}

{settings["transitions"]:,} transitions in every buffer: {OBS} float32, an int64 action, a float32 reward; episodes
of {LENGTHS[0]} to {LENGTHS[1]} steps. Medians of {settings["repeats"]} repeats of about
{settings["seconds"] * 1e3:g} ms, in turn; one thread each. A batch counts until obs, action, reward and terminated
are in hand, [{SIZE}, {LENGTH}, ...]; the C floor copies the same bytes, from random starts, into memory that is
there; the NumPy gather has the obs alone. The best peer is in bold; Flashbax, which crosses episodes, is not one.
TensorFlow reads ahead for Reverb, in threads."""


PART = Part(
    "sequences", "Sequences of steps", lambda quick: run(QUICK if quick else COUNT, Settings.of(quick)), section
)
