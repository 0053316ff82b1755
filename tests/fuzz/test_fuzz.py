"""Random programs over the public API find no crash, no hang, no undocumented exception, and nothing left half done.

An input is a call of the API (`Program.call`): a program makes five to sixty of them, on one buffer. Programs run in a
worker process. By default a few hundred calls are made, always the same ones; as `slow` others, some more. The nightly
form, for as many inputs as one likes, from a seed that may be given:

    REPLAYBANK_FUZZ=100000 REPLAYBANK_FUZZ_SEED=0 pytest -m slow tests/fuzz

A failure says its seed, the few calls that it takes, and how to run them again. `TARGETS` are modules beside this one,
each with a class `Program(seed, say)` that has `length`, `calls` and `step(i)`.
"""

from __future__ import annotations

import itertools
import os

import pytest
from fuzzing import Worker, hunt

TARGETS = ("api", "textbook", "hostile")
NIGHTLY = int(os.environ.get("REPLAYBANK_FUZZ", "0"))
SEED = int(os.environ.get("REPLAYBANK_FUZZ_SEED", "0")) or 1_000_000


def assert_none_fails(target: str, first_seed: int, calls: int) -> None:
    if target == "textbook":
        pytest.importorskip("torch")
    with Worker() as worker:
        programs, made, failures = hunt(worker, target, itertools.count(first_seed), calls)
    print(f"{target}: {made} calls in {programs} programs from seed {first_seed} on")
    assert not failures, "\n\n".join(map(str, failures))
    assert made >= calls


@pytest.mark.parametrize("target", TARGETS)
def test_no_program_breaks_it(target: str) -> None:
    assert_none_fails(target, 0, 3000)


@pytest.mark.slow
@pytest.mark.timeout(7200 if NIGHTLY else 300)
@pytest.mark.parametrize("target", TARGETS)
def test_no_program_of_many_breaks_it(target: str) -> None:
    assert_none_fails(target, SEED, NIGHTLY or 15_000)
