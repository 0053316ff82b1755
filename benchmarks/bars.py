"""The bars: how much faster, against whom, and whether this run met them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contender import Role

OURS = "replaybank"
BEST_PEER = "the best peer"


@dataclass(frozen=True)
class Bar:
    """A limit on a ratio of medians in one run.

    `at_most` False: `against` takes at least `limit` times as long as we do. `at_most` True: we take at most `limit`
    times as long as `against`.
    """

    row: str
    limit: float
    against: str = BEST_PEER
    at_most: bool = False
    note: str = ""

    @property
    def text(self) -> str:
        if self.at_most:
            words = f"at most {self.limit:.3g}× the time of {self.against}"
        else:
            words = f"at least {self.limit:.3g}× faster than {self.against}"
        return f"{words} ({self.note})" if self.note else words


BARS: tuple[Bar, ...] = (
    Bar("uniform-256", 5),
    Bar("uniform-256", 2, "Flashbax, in one scan"),
    Bar("prioritized-256", 3.5),
    Bar("update-256", 4),
    Bar("update-4096", 4),
    Bar("step", 6),
    Bar("step", 1.8, "Flashbax, in one scan"),
    Bar("add", 3, "SB3"),
    Bar("add", 4.6 / 1.5, "SB3", note="under 1.5 µs where SB3 takes 4.6"),
    Bar("add-64", 2, "SB3"),
    Bar("prioritized-256", 1.7, "C floor", at_most=True),
)


def best_peer(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The quickest peer of a row by its median; compiled scans, references and the floor are not peers."""
    peers = [result for result in results if result["role"] == Role.PEER.value]
    return min(peers, key=lambda result: result["median"], default=None)


def judge(bar: Bar, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The bar with what was measured; `measured` and `met` are None where one side of the ratio is missing."""
    by_name = {result["name"]: result for result in results}
    other = best_peer(results) if bar.against == BEST_PEER else by_name.get(bar.against)
    ours = by_name.get(OURS)
    measured: float | None = None
    met: bool | None = None
    if ours and other:
        measured = ours["median"] / other["median"]
        if not bar.at_most:
            measured = 1 / measured
        met = measured <= bar.limit if bar.at_most else measured >= bar.limit
    return {
        "row": bar.row,
        "text": bar.text,
        "limit": bar.limit,
        "at_most": bar.at_most,
        "against": other["name"] if other else bar.against,
        "measured": measured,
        "met": met,
    }
