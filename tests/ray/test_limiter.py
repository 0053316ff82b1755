"""Samples per insert, held in a band: what may go on, what stops for good, and what the waiting are told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaybank.ray.limiter import Limiter, RateLimit

RATES = [Fraction(rate) for rate in ("1", "2", "3", "8", "1/2", "1/3", "2/3", "3/2", "5/4", "4/5", "1/10")]
rates = st.sampled_from(RATES)
counts = st.integers(1, 12)


def allowed(rate: Fraction, min_size: int, tolerance: Fraction, kind: str, n: int, inserted: int, sampled: int) -> bool:
    """The rule as it is written down, in fractions."""
    if kind == "insert":
        return inserted + n <= min_size or (inserted + n - min_size) * rate - sampled <= tolerance
    return inserted >= min_size and (inserted - min_size) * rate - sampled - n >= -tolerance


def dead_end(
    rate: Fraction, min_size: int, tolerance: Fraction, inserts: Sequence[int], samples: Sequence[int], all_wait: bool
) -> bool:
    """Whether calls of these sizes can come to where nothing goes on, by trying all that can happen.

    `all_wait`: there is a caller of each size, so one that may go is enough. Otherwise the next call of a writer and
    of a reader may have any of the sizes, so it is enough for one size of each to wait.
    From min_size on (inserted - min_size) * rate - sampled says all there is to know about a state, and is bounded.
    """
    need = all if all_wait else any
    seen: set[tuple[int, Fraction]] = set()
    left = [(0, Fraction(0))]
    while left:
        state = left.pop()
        if state in seen:
            continue
        seen.add(state)
        before, ahead = state

        def may(kind: str, n: int, before: int = before, ahead: Fraction = ahead) -> bool:
            if before < min_size:
                return allowed(rate, min_size, tolerance, kind, n, before, 0)
            return -tolerance <= ahead + (n * rate if kind == "insert" else -n) <= tolerance

        if need(not may("insert", n) for n in inserts) and need(not may("sample", n) for n in samples):
            return True
        for n in inserts:
            if may("insert", n):
                past = max(0, before + n - min_size)
                left.append((min(min_size, before + n), ahead + past * rate))
        left += [(before, ahead - n) for n in samples if may("sample", n)]
    return False


def refused(limit: RateLimit, insert: int, sample: int) -> bool:
    try:
        limit.check(1_000, insert, sample)
    except ValueError as error:
        return "tolerance must be at least" in str(error)
    return False


def tolerances(rate: Fraction, insert: int, sample: int) -> Iterable[Fraction]:
    """Those around where it might turn, on the lattice of what is reckoned, and between two of its points."""
    step = Fraction(1, rate.denominator)
    middle = {(insert * rate + sample) / 2, (insert - 1) * rate, Fraction(insert)}
    near = {(point // step + k) * step for point in middle for k in (-2, -1, 0, 1)}
    return sorted(t for t in near | {t + step / 3 for t in near} if t >= 0)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_check_refuses_exactly_where_calls_of_up_to_so_many_can_stop_for_good(rate: Fraction) -> None:
    verdicts = set()
    for insert in (1, 2, 3, 4, 5):
        for sample in (1, 2, 3, 5, 8):
            for min_size in (1, 4, 7):
                for tolerance in tolerances(rate, insert, sample):
                    limit = RateLimit(float(rate), min_size, float(tolerance))
                    stops = dead_end(
                        rate, min_size, tolerance, range(1, insert + 1), range(1, sample + 1), all_wait=False
                    )
                    assert refused(limit, insert, sample) == stops, (rate, insert, sample, min_size, tolerance)
                    verdicts.add(stops)
    assert verdicts == {True, False}


@given(rates, st.integers(1, 7), st.lists(counts, min_size=1, max_size=3), st.lists(counts, min_size=1, max_size=3))
def test_the_largest_call_of_each_side_is_enough_to_check(
    rate: Fraction, min_size: int, inserts: list[int], samples: list[int]
) -> None:
    least = RateLimit(float(rate), min_size).least_tolerance(max(inserts), max(samples))
    tolerance = Fraction(least).limit_denominator(1000)
    RateLimit(float(rate), min_size, least).check(1_000, max(inserts), max(samples))
    for all_wait in (True, False):
        assert not dead_end(rate, min_size, tolerance, inserts, samples, all_wait)


@given(rates, counts, counts, st.integers(1, 9))
def test_one_size_for_all_gets_by_with_less_by_at_most_half_the_common_divisor(
    rate: Fraction, insert: int, sample: int, min_size: int
) -> None:
    q = rate.denominator
    common = Fraction(math.gcd(insert * rate.numerator, sample * q), q)
    half = (insert * rate + sample) / 2
    if half - common / 2 > (insert - 1) * rate:
        tolerance = half - common / 2 - Fraction(1, 2 * q)
        assert dead_end(rate, min_size, tolerance, [insert], [sample], all_wait=True)


@given(rates, counts, counts)
def test_the_least_tolerance_passes_and_anything_less_does_not(rate: Fraction, insert: int, sample: int) -> None:
    least = RateLimit(float(rate)).least_tolerance(insert, sample)
    RateLimit(float(rate), tolerance=least).check(1_000, insert, sample)
    if least:
        with pytest.raises(ValueError, match=re.escape(f"at least {_said(least)} samples")):
            RateLimit(float(rate), tolerance=math.nextafter(least, 0)).check(1_000, insert, sample)


def _said(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:,}"


@given(st.floats(1e-6, 1e6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_least_tolerance_passes_at_any_rate(rate: float, insert: int, sample: int) -> None:
    least = RateLimit(rate).least_tolerance(insert, sample)
    RateLimit(rate, tolerance=least).check(10**6, insert, sample)
    assert least >= max((insert - 1) * rate, (insert * rate + sample - 1) / 2) * (1 - 1e-9)


@given(st.floats(1e-3, 1e3), st.integers(1, 1000), st.integers(1, 1000))
def test_the_default_tolerance_is_enough_for_calls_of_up_to_a_thousand(rate: float, insert: int, sample: int) -> None:
    RateLimit(rate).check(10**6, insert, sample)
    assert RateLimit(rate).band == 1000 * max(1, rate)


calls = st.lists(st.tuples(st.sampled_from(["insert", "sample"]), st.integers(1, 40)), max_size=120)


@given(rates, st.integers(1, 30), st.fractions(0, 60, max_denominator=12), calls)
def test_what_may_go_on_is_what_the_rule_says_and_never_leaves_the_band(
    rate: Fraction, min_size: int, tolerance: Fraction, calls: list[tuple[str, int]]
) -> None:
    limiter = Limiter(RateLimit(float(rate), min_size, float(tolerance)))
    for kind, n in calls:
        may = limiter.may_insert(n) if kind == "insert" else limiter.may_sample(n)
        assert may == allowed(rate, min_size, tolerance, kind, n, limiter.inserted, limiter.sampled)
        if may:
            (limiter.inserted_ if kind == "insert" else limiter.sampled_)(n)
        ahead = (limiter.inserted - min_size) * rate - limiter.sampled
        assert limiter.ahead == pytest.approx(float(ahead))
        if limiter.inserted < min_size:
            assert limiter.sampled == 0
        else:
            assert -tolerance <= ahead <= tolerance


@given(rates, st.integers(1, 500), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_measured_ratio_comes_to_the_one_asked_for(
    rate: Fraction, min_size: int, insert: int, sample: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    limit = RateLimit(float(rate), min_size, RateLimit(float(rate)).least_tolerance(insert, sample) + 5)
    limit.check(1_000, insert, sample)
    limiter = Limiter(limit)
    assert limiter.measured == 0
    eager = rng.random()
    for _ in range(3_000):
        first = rng.random() < eager
        for inserts in (first, not first):
            if inserts and limiter.may_insert(insert):
                limiter.inserted_(insert)
                break
            if not inserts and limiter.may_sample(sample):
                limiter.sampled_(sample)
                break
        else:
            pytest.fail("neither may go on")
    counted = limiter.inserted - min_size
    if counted > 0:
        assert abs(limiter.measured - float(rate)) <= limit.band / counted + 1e-9


def test_counts_as_large_as_they_get_lose_nothing() -> None:
    limiter = Limiter(RateLimit(0.1, 10, 1))
    limiter.restore(10 + 10 * 10**17, 10**17)
    assert limiter.ahead == 0
    assert limiter.may_sample(1)
    assert not limiter.may_sample(2)
    assert limiter.may_insert(10)
    assert not limiter.may_insert(11)


states = st.tuples(st.integers(0, 60), st.integers(0, 200))


@given(rates, st.integers(1, 30), st.fractions(0, 60, max_denominator=12), states, st.integers(1, 80))
def test_why_a_sample_waits_names_the_inserts_that_let_it_go_on(
    rate: Fraction, min_size: int, tolerance: Fraction, state: tuple[int, int], n: int
) -> None:
    limiter = Limiter(RateLimit(float(rate), min_size, float(tolerance)))
    limiter.restore(*state)
    line = limiter.why("sample", n)
    if limiter.may_sample(n):
        assert line == f"{n} may be sampled now"
        return
    more = int(re.search(r"; ([\d,]+) more inserts", line)[1].replace(",", ""))
    limiter.restore(state[0] + more - 1, state[1])
    assert not limiter.may_sample(n)
    reach = (state[0] + more - min_size) * rate - state[1]
    assert ("tolerance is too small" in line) == (reach > tolerance)
    limiter.restore(state[0] + more, state[1])
    assert limiter.may_sample(n)
    if state[0] < min_size:
        assert line.startswith(f"{state[0]} of {min_size} transitions inserted that must be there before the first")


@given(rates, st.integers(1, 30), st.fractions(0, 60, max_denominator=12), states, st.integers(1, 80))
def test_why_an_insert_waits_names_the_samples_that_let_it_go_on(
    rate: Fraction, min_size: int, tolerance: Fraction, state: tuple[int, int], n: int
) -> None:
    limiter = Limiter(RateLimit(float(rate), min_size, float(tolerance)))
    limiter.restore(*state)
    line = limiter.why("insert", n)
    if limiter.may_insert(n):
        assert line == f"{n} may be inserted now"
    elif state[0] < min_size:
        room = int(re.search(r"at most ([\d,]+) may be inserted now", line)[1].replace(",", ""))
        assert limiter.may_insert(room)
        assert not limiter.may_insert(room + 1)
    else:
        more = int(re.search(r"; ([\d,]+) more samples", line)[1].replace(",", ""))
        stops = (state[0] - min_size) * rate - state[1] - more < -tolerance
        assert ("tolerance is too small" in line) == stops
        limiter.restore(state[0], state[1] + more - 1)
        assert not limiter.may_insert(n)
        limiter.restore(state[0], state[1] + more)
        assert limiter.may_insert(n)


def test_why_says_who_is_ahead_and_by_how_much() -> None:
    limiter = Limiter(RateLimit(8, 1_000, 512))
    limiter.restore(612, 0)
    assert limiter.why("sample", 512) == (
        "612 of 1,000 transitions inserted that must be there before the first sample; "
        "388 more inserts let 512 be sampled"
    )
    assert limiter.why("insert", 453) == (
        "612 of 1,000 transitions inserted that must be there before the first sample, and an insert of 453 would go "
        "past that by more than the tolerance of 512 samples: at most 452 may be inserted now"
    )
    limiter.restore(2_000, 8_512)
    assert limiter.why("sample", 512) == (
        "samples are 512 ahead, 512 are allowed: 8,512 were sampled of 1,000 inserted after the first 1,000, "
        "at 8 an insert; 64 more inserts let 512 be sampled"
    )
    limiter.restore(2_000, 7_500)
    assert limiter.why("insert", 64) == (
        "inserts are 500 samples ahead, 512 are allowed: 7,500 were sampled of 1,000 inserted after the first 1,000, "
        "at 8 an insert; 500 more samples let 64 be inserted"
    )


@pytest.mark.parametrize("n", [7, 8, 9])
def test_why_says_where_the_tolerance_is_too_small_up_to_the_very_edge(n: int) -> None:
    limiter = Limiter(RateLimit(1, 1, 4))
    limiter.restore(5, 0)
    assert ("samples stop before that" in limiter.why("insert", n)) == (n > 8)
    limiter.restore(1, 4)
    assert ("inserts stop before that" in limiter.why("sample", n)) == (n > 8)


@given(rates, counts, counts, st.integers(1, 30), st.fractions(0, 9, max_denominator=12), st.data())
def test_what_is_given_back_or_restored_never_stops_both_sides(
    rate: Fraction, insert: int, sample: int, min_size: int, more: Fraction, data: st.DataObject
) -> None:
    limit = RateLimit(float(rate), min_size, RateLimit(float(rate)).least_tolerance(insert, sample) + float(more))
    limiter = Limiter(limit)
    limiter.restore(data.draw(st.integers(0, 60)), data.draw(st.integers(0, 200)))
    for kind, most in (("insert", limiter.inserted), ("sample", limiter.sampled)):
        limiter.give_back(kind, data.draw(st.integers(0, most)))
    for _ in range(2_500):  # the side that is behind brings it back, then both go on within
        if limiter.may_insert(insert):
            limiter.inserted_(insert)
        elif limiter.may_sample(sample):
            limiter.sampled_(sample)
        else:
            pytest.fail(limiter.why("insert", insert) + " / " + limiter.why("sample", sample))
    assert limiter.inserted >= min_size
    assert abs(limiter.ahead) <= limit.band + 1e-9


def test_given_back_is_as_if_it_had_never_been() -> None:
    limiter, other = Limiter(RateLimit(2, 10, 8)), Limiter(RateLimit(2, 10, 8))
    for one in (limiter, other):
        one.inserted_(10)
    limiter.sampled_(8)
    limiter.inserted_(8)  # allowed because of the 8 sampled
    limiter.give_back("sample", 8)
    other.inserted_(8)
    assert (limiter.inserted, limiter.sampled) == (other.inserted, other.sampled) == (18, 0)
    assert limiter.ahead == 16
    assert not limiter.may_insert(1)
    assert limiter.may_sample(24)
    for kind, n in (("sample", 1), ("insert", 19)):
        with pytest.raises(ValueError, match=f"n {kind}"):
            limiter.give_back(kind, n)
    assert (limiter.inserted, limiter.sampled) == (18, 0)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "8", None])
def test_a_rate_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="samples_per_insert must be a finite number > 0, given"):
        RateLimit(value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "8"])
def test_a_tolerance_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="tolerance must be a finite number >= 0, given"):
        RateLimit(8, tolerance=value)


def test_a_min_size_that_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="min_size: expected 1 to"):
        RateLimit(8, 0)
    with pytest.raises(TypeError, match="min_size: expected an integer"):
        RateLimit(8, 1.5)
    with pytest.raises(ValueError, match="at most the capacity, 999 transitions, given 1,000"):
        RateLimit(8).check(999, 1, 1)
    RateLimit(8).check(1_000, 1, 1)


@pytest.mark.parametrize("n", [0, -1, 1.5, "3"])
def test_a_call_of_no_transitions_is_refused(n: object) -> None:
    limiter = Limiter(RateLimit(8))
    for ask in (limiter.may_insert, limiter.may_sample):
        with pytest.raises((TypeError, ValueError), match="n: expected"):
            ask(n)
    with pytest.raises((TypeError, ValueError)):
        limiter.restore(5, -1)
    assert (limiter.inserted, limiter.sampled) == (0, 0)


def test_settings_are_those_in_force() -> None:
    assert Limiter(RateLimit(4)).settings == {"samples_per_insert": 4.0, "min_size": 1000, "tolerance": 4000.0}
    assert RateLimit(np.float32(0.5), 10, 7).band == 7.0
