"""How many samples are drawn of each insert, held within a band: who may go on, who must wait, and why.

As the rate limiter of Reverb (Cassirer et al. 2021, arXiv:2102.04736: `SampleToInsertRatio`, whose `error_buffer` is
the tolerance here), except that min_size is held against all inserts, whichever of them the buffer still holds, and
that the least tolerance is exact: Reverb asks for max(1, samples_per_insert), whatever the size of a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from replaybank.arguments import whole_number
from replaybank.convert import is_finite
from replaybank.samplers.base import not_negative

Kind = Literal["insert", "sample"]

# A number with a denominator up to this is meant where its float is given: 0.1 is a tenth, 1 / 3 is a third.
SIMPLE = 10**6
MOST = 2**63 - 1


@dataclass(frozen=True)
class RateLimit:
    """`samples_per_insert` transitions are sampled for each one inserted after the first `min_size`.

    `samples_per_insert`: finite, > 0. `min_size`: transitions, >= 1, that are inserted before the first is sampled.
    `tolerance`: samples, finite, >= 0: how far either side may be ahead of the other. None is
    1000 * max(1, samples_per_insert), where neither inserts nor samples of up to 1000 at a time can ever stop for good.
    Raises TypeError or ValueError where a number is none of these.

    With I transitions inserted and S sampled, inserts are ahead by A = (I - min_size) * samples_per_insert - S samples.

    - n may be sampled if and only if I >= min_size and afterwards A >= -tolerance.
    - n may be inserted if and only if afterwards I <= min_size or A <= tolerance.

    So an insert before min_size is held to nothing as long as it does not pass min_size: no sample is drawn there that
    could make up for it, and A, though far below the band, only rises. One that passes min_size is held to the band
    like any other: after it, samples count. From min_size on -tolerance <= A <= tolerance, however large a call is.
    """

    samples_per_insert: float
    min_size: int = 1000
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not (is_finite(self.samples_per_insert) and self.samples_per_insert > 0):
            raise ValueError(
                f"RateLimit: samples_per_insert must be a finite number > 0, given {self.samples_per_insert!r}"
            )
        whole_number("RateLimit: min_size", self.min_size, MOST)
        if self.tolerance is not None:
            not_negative("RateLimit", "tolerance", self.tolerance)

    @property
    def band(self) -> float:
        """The tolerance in samples, also where it is None."""
        return 1000 * max(1.0, float(self.samples_per_insert)) if self.tolerance is None else float(self.tolerance)

    def least_tolerance(self, insert: int, sample: int) -> float:
        """The least tolerance, in samples, that `check` lets pass for inserts and samples of up to so many at a time.

        With samples_per_insert = p / q in lowest terms it is the larger of (insert - 1) * p / q and
        ceil((insert * p + sample * q - 1) / 2) / q.
        """
        least = self._least(insert, sample)
        near = float(least)
        return near if exact(near) >= least else math.nextafter(near, math.inf)

    def _least(self, insert: int, sample: int) -> Fraction:
        """`least_tolerance`, not rounded up to a float."""
        p, q = exact(self.samples_per_insert).as_integer_ratio()
        insert = whole_number("insert", insert, MOST)
        sample = whole_number("sample", sample, MOST)
        return Fraction(max((insert - 1) * p, (insert * p + sample * q) // 2), q)

    def check(self, capacity: int, insert: int, sample: int) -> None:
        """Raises ValueError where writers and readers can come to a state in which none of them may ever go on.

        `capacity`: transitions that the buffer holds. `insert`, `sample`: the most transitions of one call. Calls of
        fewer must be reckoned with (a flush by time, an episode's end), so any number from 1 on is. It does not
        matter how many writers and readers there are: the state is shared, and a smaller call may go where a larger
        one may.

        Let samples_per_insert = p / q in lowest terms, a = A * q (an integer) and t = floor(tolerance * q). Writers
        and readers stand still for good where calls of `insert` and of `sample` wait and neither may go on.

        From min_size on that is a + insert * p > t and a - sample * q < -t: an a in [t + 1 - insert * p,
        sample * q - t - 1]. There is one exactly where 2 * t + 1 < insert * p + sample * q, in the band or outside of
        it (after `restore` or `give_back`). And it is reached: calls of 1 move a by +p and -q, which have no common
        divisor. If the band has p + q integers or more, any p + q in a row are one cycle of these moves (from the
        lower q of them up, from the upper p down), so all of the band can be reached from a = 0. If it has
        fewer, no cycle fits into it, as one has at least q moves up and p down through as many different numbers: so
        calls of 1 alone come to where neither may go on, and larger ones may not either.

        Before min_size samples wait; inserts stand still exactly where one would pass min_size by so much that
        A > tolerance. The most that it can pass by is insert - 1, from min_size - 1 on.

        Both are impossible exactly where tolerance >= `least_tolerance(insert, sample)`. Were every call of the
        largest size, less might do: half the greatest common divisor of insert * p / q and sample from min_size on,
        and nothing before it where min_size is a multiple of insert. One call of another size could then stop all.
        """
        most = whole_number("capacity", capacity, MOST)
        if self.min_size > most:
            raise ValueError(
                f"RateLimit: min_size must be at most the capacity, {most:,} transitions, given {self.min_size:,}"
            )
        if exact(self.band) < self._least(insert, sample):
            least = spoken(exact(self.least_tolerance(insert, sample)))
            raise ValueError(
                f"RateLimit: with {insert:,} transitions an insert, {sample:,} a sample and "
                f"{spoken(exact(self.samples_per_insert))} samples per insert writers and readers can come to wait for "
                f"each other for ever: tolerance must be at least {least} samples, given {spoken(exact(self.band))}"
            )


class Limiter:
    """The counts of one buffer, and what a RateLimit says to them. It neither waits nor knows the time."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.inserted = 0
        self.sampled = 0
        # Everything is reckoned in integers, in parts of a sample: no count is so large that a part gets lost.
        self._insert, self._sample = exact(limit.samples_per_insert).as_integer_ratio()
        self._band = math.floor(exact(limit.band) * self._sample)

    def may_insert(self, n: int) -> bool:
        """Whether n transitions (>= 1) may be inserted now."""
        inserted = self.inserted + whole_number("n", n, MOST)
        return inserted <= self.limit.min_size or self._parts(inserted, self.sampled) <= self._band

    def may_sample(self, n: int) -> bool:
        """Whether n transitions (>= 1) may be sampled now."""
        sampled = self.sampled + whole_number("n", n, MOST)
        return self.inserted >= self.limit.min_size and self._parts(self.inserted, sampled) >= -self._band

    def inserted_(self, n: int) -> None:
        """Counts n transitions (>= 0) as inserted, allowed or not; to be called before anyone else asks."""
        self.inserted += whole_number("n", n, MOST, 0)

    def sampled_(self, n: int) -> None:
        """Counts n transitions (>= 0) as sampled, allowed or not; to be called before anyone else asks."""
        self.sampled += whole_number("n", n, MOST, 0)

    def give_back(self, kind: Kind, n: int) -> None:
        """Takes n transitions out of the count, as one whose call was allowed and counted made nothing of it.

        Meanwhile others may have gone on because of it, so then the band can be left by up to n samples above, or
        n * samples_per_insert below. The side that is ahead then waits, and the other one brings it back: where
        `check` passed that one may always go on. Raises ValueError where n is more than was counted.
        """
        if kind == "insert":
            self.inserted -= whole_number("n inserted", n, self.inserted, 0)
        else:
            self.sampled -= whole_number("n sampled", n, self.sampled, 0)

    def restore(self, inserted: int, sampled: int) -> None:
        """Takes up counts from before, whatever their band was: outside of this one the side that is ahead waits."""
        inserted = whole_number("inserted", inserted, MOST, 0)
        self.sampled = whole_number("sampled", sampled, MOST, 0)
        self.inserted = inserted

    @property
    def ahead(self) -> float:
        """By how many samples inserts are ahead; negative where samples are, and before min_size."""
        return self._parts(self.inserted, self.sampled) / self._sample

    @property
    def measured(self) -> float:
        """Samples for each insert after the first min_size; 0 while there is none.

        Within the band it differs from samples_per_insert by at most tolerance / (inserted - min_size).
        """
        counted = self.inserted - self.limit.min_size
        return self.sampled / counted if counted > 0 else 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """The limit's numbers, the tolerance as it is where None was given."""
        return {
            "samples_per_insert": float(self.limit.samples_per_insert),
            "min_size": self.limit.min_size,
            "tolerance": self.limit.band,
        }

    def why(self, kind: Kind, n: int) -> str:
        """One line: why n transitions may not be inserted or sampled now, and what would let them be."""
        return self._why_insert(n) if kind == "insert" else self._why_sample(n)

    def _why_insert(self, n: int) -> str:
        if self.may_insert(n):
            return f"{n:,} may be inserted now"
        if self.inserted < self.limit.min_size:
            room = self.limit.min_size - self.inserted + (self._band + self.sampled * self._sample) // self._insert
            return (
                f"{self._missing()}, and an insert of {n:,} would go past that by more than the tolerance of "
                f"{spoken(exact(self.limit.band))} samples: at most {room:,} may be inserted now"
            )
        over = self._parts(self.inserted + n, self.sampled) - self._band
        more = -(-over // self._sample)
        line = f"{self._standing()}; {more:,} more samples let {n:,} be inserted"
        return line + self._never("samples", n, self._parts(self.inserted, self.sampled + more) < -self._band)

    def _why_sample(self, n: int) -> str:
        if self.may_sample(n):
            return f"{n:,} may be sampled now"
        short = -self._band - self._parts(self.inserted, self.sampled + n)
        more = max(self.limit.min_size - self.inserted, -(-short // self._insert))
        standing = self._missing() if self.inserted < self.limit.min_size else self._standing()
        line = f"{standing}; {more:,} more inserts let {n:,} be sampled"
        after = self._parts(self.inserted + more, self.sampled)
        return line + self._never("inserts", n, after > self._band)

    def _never(self, other: str, n: int, never: bool) -> str:
        """What to add where the other side may not go on for so long either."""
        if not never:
            return ""
        return f", but {other} stop before that: the tolerance is too small for {n:,} at a time"

    def _missing(self) -> str:
        """How many are there, before min_size."""
        return (
            f"{self.inserted:,} of {self.limit.min_size:,} transitions inserted that must be there "
            "before the first sample"
        )

    def _standing(self) -> str:
        """Who is ahead by how much, from min_size on."""
        parts = self._parts(self.inserted, self.sampled)
        ahead = spoken(Fraction(abs(parts), self._sample))
        counted = self.inserted - self.limit.min_size
        return (
            f"{f'samples are {ahead}' if parts < 0 else f'inserts are {ahead} samples'} ahead, "
            f"{spoken(exact(self.limit.band))} are allowed: {self.sampled:,} were sampled of {counted:,} inserted "
            f"after the first {self.limit.min_size:,}, at {spoken(exact(self.limit.samples_per_insert))} an insert"
        )

    def _parts(self, inserted: int, sampled: int) -> int:
        """By how much inserts would be ahead with these counts, in parts of a sample."""
        return (inserted - self.limit.min_size) * self._insert - sampled * self._sample


def exact(number: float) -> Fraction:
    """The number that is meant by a float: the one with a small denominator whose float it is, else the float."""
    simple = Fraction(float(number)).limit_denominator(SIMPLE)
    return simple if float(simple) == float(number) else Fraction(float(number))


def spoken(number: Fraction) -> str:
    """A number for an error message: all its digits, thousands apart."""
    return f"{number.numerator:,}" if number.denominator == 1 else f"{float(number):,}"
