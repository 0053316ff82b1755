"""Adding, sampling, updating and the whole step: the same work for every library, over the sizes of batches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

import contest
import machine
from adapters import CONTENDERS
from bars import BARS
from contender import ALPHA, BETA, Contender, Setup
from measuring import WRAPPED, Entrant, LeftOut, Part, Settings, build, measure_rows
from report import spread_table
from transitions import Transitions, trajectories, unrelated
from work import Row, add, sample, update, whole_step

MILLION = 1_000_000
QUICK = 128_000  # transitions; a multiple of 64
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
QUICK_SIZES = (32, 256, 4096)
#: Steps beyond the capacity: they make the buffer wrap around, and are what is added while the clock runs.
BEYOND = 4_096


@dataclass(frozen=True)
class Group:
    """Rows that share the same full buffers, one for each entrant."""

    setup: Setup
    rows: Sequence[Row]
    data: Callable[[int, np.random.Generator], Transitions] = trajectories
    entrants: Sequence[type[Contender]] = CONTENDERS

    def transitions(self) -> Transitions:
        """Enough to fill the buffer, and BEYOND more (with many streams, at least 256 steps)."""
        beyond = max(BEYOND, 256 * self.setup.streams)
        return self.data(self.setup.capacity + beyond, np.random.default_rng(self.setup.seed))


def groups(quick: bool) -> list[Group]:
    capacity = QUICK if quick else MILLION
    sizes = QUICK_SIZES if quick else SIZES
    quick_to_fill = [kind for kind in CONTENDERS if kind.most is None]
    plain, prioritized = Setup(capacity), Setup(capacity, prioritized=True)
    return [
        Group(plain, [Row("add", "add one", add), *_over("uniform", "uniform sample", sample, sizes)]),
        Group(
            prioritized,
            [
                *_over("prioritized", "prioritized sample with weights", sample, sizes),
                *_over("update", "update priorities", update, sizes),
                Row("step", "whole step: 4 adds, prioritized sample 256, update 256", whole_step(256)),
            ],
        ),
        Group(Setup(capacity, streams=64), [Row("add-64", "add 64 from 64 streams", add)]),
        Group(
            plain,
            [
                Row("add-unrelated", "add one, random states", add),
                Row("uniform-256-unrelated", "uniform sample, 256, random states", sample(256)),
            ],
            unrelated,
            quick_to_fill,
        ),
        Group(
            prioritized,
            [
                Row("prioritized-256-unrelated", "prioritized sample, 256, random states", sample(256)),
                Row("step-unrelated", "whole step, random states", whole_step(256)),
            ],
            unrelated,
            quick_to_fill,
        ),
    ]


def _over(key: str, title: str, work: Callable[[int], Any], sizes: Sequence[int]) -> list[Row]:
    return [Row(f"{key}-{size}", f"{title}, {size}", work(size)) for size in sizes]


def entrants(group: Group, left_out: LeftOut) -> Iterator[Entrant]:
    data, setup = group.transitions(), group.setup
    beyond = data.part(setup.capacity, len(data))
    steps = beyond.steps() if setup.streams == 1 else beyond.vector_steps(setup.streams)
    data = data.part(0, setup.capacity)
    for kind in group.entrants:
        most = min(kind.most or setup.capacity, setup.capacity)
        name = kind.name if most == setup.capacity else f"{kind.name}, {most:,}"
        machine.say(f"filling: {name} of {setup.capacity:,}")
        try:
            contender = build(kind, replace(setup, capacity=most), data.part(0, most), steps[:WRAPPED])
        except Exception as error:  # whatever a peer fails with, the others go on and the page names it
            left_out.note(name, error, [row.key for row in group.rows])
        else:
            yield Entrant(name, kind.role, contender, steps)


def measure(
    groups: Sequence[Group], settings: Settings, left_out: LeftOut
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and the versions of what has an interpreter of its own."""
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for group in groups:
        there = list(entrants(group, left_out))
        rows.extend(measure_rows(group.rows, there, settings, left_out))
        for entrant in there:
            versions.update(entrant.contender.versions)
        del there
        gc.collect()
    return rows, versions


def run(groups: Sequence[Group], settings: Settings) -> dict[str, Any]:
    left_out = LeftOut()
    rows, versions = measure(groups, settings, left_out)
    done = contest.document(
        CONTENDERS,
        {**asdict(settings), "transitions": groups[0].setup.capacity, "alpha": ALPHA, "beta": BETA},
        rows=rows,
        bars=contest.judged(BARS, rows),
        left_out=left_out.as_list(),
    )
    done["versions"].update(versions)
    return done


def section(run: contest.Document) -> str:
    rows = run["rows"]
    kinds = [
        ("Adding, and the whole step", ("add", "step")),
        ("Uniform batches", ("uniform",)),
        ("Prioritized batches, with weights", ("prioritized",)),
        ("Updating priorities", ("update",)),
    ]
    parts = []
    for title, begins in kinds:
        those = [row for row in rows if row["key"].startswith(begins)]
        if those:
            parts.append(f"### {title}\n\n{spread_table(those)}")
    settings = run["settings"]
    parts.append(f"""Microseconds a call: the median, and half of the distance between the quartiles; the best peer in
bold. Transitions of CartPole's size: 4 float32, an int64 action, a float32 reward, 4 float32, two booleans;
{settings["transitions"]:,} in every buffer but those that take minutes to fill, which have their own number in their
name. All have wrapped around; priorities are half-normal, alpha {settings["alpha"]:g}, beta {settings["beta"]:g}.
{settings["repeats"]} repeats of about {settings["seconds"] * 1e3:g} ms, fewer of calls that take much longer; the
libraries in turn within each; one thread each, no garbage collection while the clock runs. Every call gets fresh
priorities and fresh indices. What a library wants to be handed (a Batch, a TensorDict, an array with a leading axis) is
made beforehand. A sample counts until the arrays that a loss takes are in hand: obs, action, reward, next_obs,
terminated, and the weights. In *random states* no observation is another one's next, the worst case for whoever keeps
each once.

SB3 and TorchRL give torch tensors, Flashbax JAX arrays, the others NumPy. Flashbax waits for every result; *in one
scan*, nothing of a training loop lies between its calls. RLlib keeps episodes and gives a batch as a list of them;
Dopamine keeps objects; Reverb and its client have a process of their own, and read ahead. The textbook deque keeps
references where all others copy. NumPy records are one record array and `take`, whose columns are views. The C floor
has no checks, no random numbers and no weights: it writes a record where one is added, reads one where one is sampled,
walks the tree to it where it is prioritized, and adds up the sums above it where it is updated.""")
    return "\n\n".join(parts)


PART = Part("calls", "Calls", lambda quick: run(groups(quick), Settings.of(quick)), section)
