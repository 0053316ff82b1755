"""How the cost of a call grows with the buffer: 10,000 to 100 million transitions, ours, the peers' and the floor's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import contest
import machine
from adapters import CONTENDERS
from adapters.dopamine import Dopamine
from adapters.floor import FloorContender
from adapters.replaybank import Replaybank
from adapters.rllib import RLlib
from adapters.textbook import Textbook
from bars import OURS
from calls import BEYOND, Group, measure
from contender import ALPHA, BETA, Contender, LeftOutError, Role, Setup
from measuring import LeftOut, Part, Settings
from report import factor, spread_table
from transitions import Transitions, trajectories
from work import Row, add, sample, update

CAPACITIES = tuple(10**exponent for exponent in (4, 5, 6, 7, 8))
QUICK_CAPACITIES = CAPACITIES[:3]
#: Everybody but ours and the floor stops here: together they need five times as much memory for the next.
MOST_OF_PEERS = 10**7
#: Those that keep a Python object or more for each transition: half a kilobyte, and minutes to fill.
KEEP_OBJECTS = (Textbook, RLlib, Dopamine)
MOST_OF_OBJECTS = 10**6
#: Bytes for a transition while a buffer of 48-byte records and its tree are filled, and given priorities.
BYTES_EACH = 80
SIZE = 256
WORK = {"add": "add one", "uniform": "uniform sample", "prioritized": "prioritized sample", "update": "update"}


@dataclass(frozen=True)
class Repeated:
    """The same transitions over and over, `count` of them: what `fill` takes part by part, without being there."""

    data: Transitions
    count: int

    def __len__(self) -> int:
        return self.count

    def part(self, start: int, stop: int) -> Transitions | Repeated:
        """From `start` up to `stop`; repeated again where that is more than there is."""
        size, begin = min(stop, self.count) - start, start % len(self.data)
        return self.data.part(begin, begin + size) if begin + size <= len(self.data) else Repeated(self.data, size)


def transitions(count: int, rng: np.random.Generator) -> Any:
    """`count` of them; beyond 10 million, a million over and over."""
    if count <= MOST_OF_PEERS + BEYOND:
        return trajectories(count, rng)
    return Repeated(trajectories(10**6, rng), count)


def entrants(capacity: int, left_out: LeftOut) -> tuple[type[Contender], ...]:
    """Who takes part; ours and the floor, where the machine has the memory for both."""
    peers = [kind for kind in CONTENDERS if kind.role in (Role.PEER, Role.REFERENCE)]
    rows = [f"{work}-{capacity}" for work in WORK]
    there: list[type[Contender]] = []
    for kind in peers:
        if capacity > MOST_OF_PEERS:
            left_out.note(kind.name, LeftOutError(f"stops at {MOST_OF_PEERS:,}, for memory and for patience"), rows)
        elif capacity > (kind.most or capacity):
            left_out.note(kind.name, LeftOutError(f"is not asked to hold more than {kind.most:,}"), rows)
        elif kind in KEEP_OBJECTS and capacity > MOST_OF_OBJECTS:
            reason = (
                f"stops at {MOST_OF_OBJECTS:,}: an object or more for each transition, gigabytes and minutes to fill"
            )
            left_out.note(kind.name, LeftOutError(reason), rows)
        else:
            there.append(kind)
    ours = (Replaybank, FloorContender)
    needed = len(ours) * BYTES_EACH * capacity
    if needed > machine.available():
        for kind in ours:
            words = f"{needed / 2**30:.0f} GiB would be needed, more than there is"
            left_out.note(kind.name, LeftOutError(words), rows)
        return tuple(there)
    return (*ours, *there)


def groups(capacity: int, kinds: Sequence[type[Contender]]) -> list[Group]:
    title = f"{capacity:,}"
    makers = {"add": add, "uniform": sample(SIZE), "prioritized": sample(SIZE), "update": update(SIZE)}
    rows = {key: Row(f"{key}-{capacity}", title, maker) for key, maker in makers.items()}
    return [
        Group(Setup(capacity), [rows["add"], rows["uniform"]], transitions, kinds),
        Group(Setup(capacity, prioritized=True), [rows["prioritized"], rows["update"]], transitions, kinds),
    ]


def grows(rows: Sequence[contest.Document]) -> list[dict[str, Any]]:
    """The bar: a prioritized sample of 10 million takes at most twice as long as one of a million."""
    ours = {row["key"]: result["median"] for row in rows for result in row["results"] if result["name"] == OURS}
    small, large = ours.get(f"prioritized-{10**6}"), ours.get(f"prioritized-{10**7}")
    measured = large / small if small and large else None
    against = "replaybank at 1,000,000"
    return [
        {
            "row": f"prioritized-{10**7}",
            "text": f"at most 2× the time of {against}",
            "limit": 2,
            "at_most": True,
            "against": against,
            "measured": measured,
            "met": None if measured is None else measured <= 2,
        }
    ]


def run(capacities: Sequence[int], settings: Settings) -> dict[str, Any]:
    left_out = LeftOut()
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for capacity in capacities:
        found, others = measure(groups(capacity, entrants(capacity, left_out)), settings, left_out)
        rows.extend(found)
        versions |= others
    done = contest.document(
        CONTENDERS,
        {**asdict(settings), "capacities": list(capacities), "batch": SIZE, "alpha": ALPHA, "beta": BETA},
        rows=rows,
        bars=grows(rows),
        left_out=left_out.as_list(),
    )
    done["versions"].update(versions)
    return done


def section(run: contest.Document) -> str:
    parts = []
    for key, title in WORK.items():
        rows = [row for row in run["rows"] if row["key"].rpartition("-")[0] == key]
        batch = "" if key == "add" else f", {run['settings']['batch']}"
        parts.append(f"### {title[0].upper()}{title[1:]}{batch}\n\n{spread_table(rows)}")
        growth = [
            (row["title"], result["median"]) for row in rows for result in row["results"] if result["name"] == OURS
        ]
        if len(growth) > 1:
            ratio = factor(growth[-1][1] / growth[0][1])
            parts.append(f"replaybank at {growth[-1][0]} transitions takes {ratio} the time of {growth[0][0]}.")
    parts.append(f"""Rows are transitions in every buffer, of the same kind as above; what grows is how much of the work
waits for memory, and how deep trees are. Beyond {MOST_OF_PEERS:,} a million different transitions are repeated.""")
    return "\n\n".join(parts)


def measured(quick: bool) -> dict[str, Any]:
    return run(QUICK_CAPACITIES if quick else CAPACITIES, Settings.of(quick))


PART = Part("capacity", "Capacity", measured, section)
