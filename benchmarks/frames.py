"""Stacks of Atari frames: batches a second, and how many come back wrong.

Breakout frames, 84×84, stacks of four, batches of 32 and 256, uniform and prioritized; every library with whole stacks
and with each frame kept once.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

import contest
import machine
from adapters.frames import FRAME_CONTENDERS, ready
from bars import Bar
from contender import ALPHA, BETA, Contender, Role, Setup
from frames_data import FRAME_BYTES, Frames, breakout
from measuring import WRAPPED, Entrant, LeftOut, Part, Settings, measure_rows
from work import Row, sample

COUNT, QUICK = 30_000, 2_000  # transitions in every buffer
SIZES = (32, 256)
ENOUGH = 20_000  # transitions that are compared
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


def mistakes(contender: Contender, data: Frames, enough: int = ENOUGH, seconds: float = 20.0) -> Mistakes:
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
        rows = [Row(f"{kind}-{size}", f"{kind}, {size}", sample(size)) for size in SIZES]
        there = list(entrants(Setup(count, prioritized=prioritized), data, rows, left_out))
        measured.extend(measure_rows(rows, there, settings, left_out))
        if not prioritized:
            enough = min(ENOUGH, 2 * count)
            wrong.extend(
                mistakes(entrant.contender, data, enough) for entrant in there if entrant.role is not Role.FLOOR
            )
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


def section(run: contest.Document) -> str:
    wrong = {
        title: {found["name"]: _share(found[field], found["drawn"]) for found in run["mistakes"]}
        for title, field in (
            ("wrong obs", "obs"),
            ("wrong next_obs", "next_obs"),
            ("of that, bootstrapped", "bootstrapped"),
        )
    }
    return f"{contest.rates(run['rows'], wrong)}\n\n{_notes(run['settings'])}"


def _share(wrong: int, drawn: int) -> str:
    return f"{100 * wrong / drawn:.2f}%" if wrong else "0"


def _notes(settings: contest.Document) -> str:
    return f"""{settings["transitions"]:,} transitions of Breakout (random policy, sticky actions) in every buffer,
which has wrapped around: {settings["transitions"] * FRAME_BYTES / 2**20:,.0f} MiB of frames where each is kept
once, eight times as much where both stacks are. Medians of {settings["repeats"]} repeats of about
{settings["seconds"] * 1e3:g} ms, in turn; one thread each. A batch counts until the arrays of a loss are in
hand, but for Flashbax's trajectories: the five frames of a pick are not cut into the two stacks. The best peer
is in bold.

The C floor copies five frames in a row a pick, and has no columns, no tree and no random numbers; its memory is
there already, or fresh from the system for every batch. `wrong` compares with what was added, uniform sampling."""


PART = Part(
    "frames", "Stacks of Atari frames", lambda quick: run(QUICK if quick else COUNT, Settings.of(quick)), section
)
