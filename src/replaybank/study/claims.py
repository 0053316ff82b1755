"""Claims of the literature, and what a study says of them: reproduced, not reproduced, or undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from replaybank.study.stats import SEEDS_FOR_A_CLAIM, Interval

Outcome = Literal["reproduced", "not reproduced", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A sentence (text) that a study can confirm or refute.

    key: its name in files. source: paper and section, figure or table.
    """

    key: str
    text: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """What a study says of a claim.

    outcome: reproduced, not reproduced or undecided. evidence: the figures, their intervals, the number of seeds.
    """

    claim: Claim
    outcome: Outcome
    evidence: str


def decide(interval: Interval, expected: Literal["above", "below"], bound: float = 0.0, *, seeds: int) -> Outcome:
    """Whether the truth lies on the expected side of `bound`.

    The whole interval on the expected side: reproduced. On the other side: not reproduced. Neither, no interval, or
    fewer than 5 seeds: undecided.
    """
    if seeds < SEEDS_FOR_A_CLAIM or math.isnan(interval.low) or math.isnan(interval.high):
        return "undecided"
    above, below = interval.low > bound, interval.high < bound
    if above or below:
        return "reproduced" if above == (expected == "above") else "not reproduced"
    return "undecided"


def decide_within(interval: Interval, low: float, high: float, *, seeds: int) -> Outcome:
    """Whether the truth lies from `low` to `high`.

    The whole interval within: reproduced. Wholly outside: not reproduced. Neither, no interval, or fewer than 5 seeds:
    undecided.
    """
    if seeds < SEEDS_FOR_A_CLAIM or math.isnan(interval.low) or math.isnan(interval.high):
        return "undecided"
    if low <= interval.low and interval.high <= high:
        return "reproduced"
    return "not reproduced" if interval.high < low or interval.low > high else "undecided"
