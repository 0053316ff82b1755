"""Fair clocks: every contender's calls in turn, repeat after repeat, so that a drifting machine hits all alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

Inputs = Sequence[tuple[Any, ...]]
#: Whoever takes more than SLOW times the seconds of a repeat for one call has FEW repeats.
SLOW, FEW = 20, 3


@dataclass(frozen=True)
class Trial:
    """One piece of work that can be timed.

    `prepare(n)` makes the arguments of n calls outside of the timed region, fresh ones each time. One call stands for
    `per_call` pieces of work: 1 but for loops that run inside a compiled program.
    """

    prepare: Callable[[int], Inputs]
    call: Callable[..., object]
    per_call: int = 1


@dataclass(frozen=True)
class Timing:
    """Microseconds for one piece of work, over the repeats."""

    median: float
    lower_quartile: float
    upper_quartile: float
    repeats: int
    calls: int


def microseconds(trial: Trial, calls: int) -> float:
    """The mean time of one piece of work over `calls` calls in a row."""
    inputs = trial.prepare(calls)
    call = trial.call
    begin = perf_counter_ns()
    for arguments in inputs:
        call(*arguments)
    elapsed = perf_counter_ns() - begin
    return elapsed / 1e3 / (calls * trial.per_call)


def calls_within(trial: Trial, seconds: float, most: int = 5_000) -> int:
    """How many calls fill `seconds`, found with the trial warmed up: compilation, caches, first allocations.

    It is warm where it no longer gets quicker by a fifth, or after a dozen looks.
    """
    microseconds(trial, 1)
    calls, before = 1, np.inf
    for _ in range(12):
        estimate = microseconds(trial, calls)
        calls = _filling(seconds, estimate, trial, most)
        if estimate > 0.8 * before:
            break
        before = estimate
    return calls


def _filling(seconds: float, estimate: float, trial: Trial, most: int = 5_000) -> int:
    """Calls that fill `seconds`, where a piece of work takes `estimate` microseconds."""
    return int(np.clip(1e6 * seconds / (estimate * trial.per_call), 1, most))


def interleave(
    trials: Mapping[str, Trial], repeats: int, seconds: float, failed: Callable[[str, Exception], None]
) -> dict[str, Timing]:
    """Time all trials in turn, `repeats` times, each for about `seconds`; the very slow FEW times.

    A trial that raises is handed to `failed` with its error and is left out; the others go on.
    """
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    with _no_garbage_collection():
        for name, trial in trials.items():
            try:
                calls[name] = calls_within(trial, seconds)
                samples[name] = []
            except Exception as error:  # a peer may fail in any way; the caller names it
                failed(name, error)
        for _ in range(repeats):
            for name in list(samples):
                if len(samples[name]) >= FEW and _slow(samples[name][-1], trials[name], seconds):
                    continue
                try:
                    samples[name].append(microseconds(trials[name], calls[name]))
                    # What was cold at the first look, and is quicker now, gets the calls that it needs.
                    calls[name] = max(calls[name], _filling(seconds, samples[name][-1], trials[name]))
                except Exception as error:
                    failed(name, error)
                    del samples[name]
    return {name: _summary(values, calls[name]) for name, values in samples.items()}


def _slow(estimate: float, trial: Trial, seconds: float) -> bool:
    """Whether one call takes much longer than a repeat should."""
    return estimate * trial.per_call > 1e6 * SLOW * seconds


def _summary(values: Sequence[float], calls: int) -> Timing:
    lower, median, upper = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return Timing(median, lower, upper, repeats=len(values), calls=calls)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
