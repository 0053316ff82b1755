"""Every library does the same work: it gives back the bytes it was given, by the priorities it was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters import CONTENDERS
from contender import ALPHA, BETA, LOSS_FIELDS, Contender, LeftOutError, NoSuchWorkError, Role, Setup
from measuring import build
from transitions import Transitions, priorities_like_td_errors, trajectories

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend

CAPACITY = 512
BATCH = 256
SAMPLING = [kind for kind in CONTENDERS if kind.role not in (Role.FLOOR, Role.DETAIL)]


def full(kind: type[Contender], setup: Setup) -> tuple[Contender, Transitions]:
    """A full buffer that has wrapped around, and what it should hold; skips, with the reason, where there is none.

    Our own is never skipped.
    """
    data = trajectories(setup.capacity + 64, np.random.default_rng(1), lengths=(3, 20))
    filling, beyond = data.part(0, setup.capacity), data.part(setup.capacity, len(data))
    steps = beyond.steps() if setup.streams == 1 else beyond.vector_steps(setup.streams)
    try:
        contender = build(kind, setup, filling, steps)
    except (ImportError, LeftOutError, NoSuchWorkError) as error:
        if kind.role is Role.OURS:
            raise
        pytest.skip(f"{kind.name}: {error!r}")
    if setup.streams > 1:
        return contender, data
    begin = len(data) - setup.capacity
    if kind.whole_episodes:  # without the rest of one that began before
        ended = data.terminated | data.truncated
        begin = 1 + int(np.flatnonzero(ended[begin - 1 :])[0]) + begin - 1
    return contender, data.part(begin, len(data))


def rows(columns: Mapping[str, NDArray[Any]], names: list[str]) -> list[bytes]:
    """One string of bytes a transition, the same for all libraries whatever integer and boolean types they keep."""
    dtypes = {"obs": "f4", "next_obs": "f4", "reward": "f4", "action": "i8", "terminated": "?", "truncated": "?"}
    parts = [np.asarray(columns[name]).astype(dtypes[name]) for name in names]
    return [b"".join(part[row].tobytes() for part in parts) for row in range(len(parts[0]))]


def names_in(columns: Mapping[str, Any]) -> list[str]:
    return [name for name in columns if name != "weights"]


@pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("kind", SAMPLING, ids=lambda kind: kind.name)
def test_samples_are_what_was_added_and_nothing_else_is(kind: type[Contender], prioritized: bool) -> None:
    contender, expected = full(kind, Setup(CAPACITY, prioritized=prioritized))
    seen: set[bytes] = set()
    for _ in range(100):
        columns = contender.columns(contender.sample(BATCH))
        names = names_in(columns)
        seen.update(rows(columns, names))
    held = set(rows(expected.columns(), names))
    assert {"obs", "action", "reward", "next_obs", "terminated"} <= set(names)
    assert seen <= held
    # Uniform: 50 draws a row on average, none is missed. Prioritized: the smallest may be.
    assert len(seen) >= (0.9 if prioritized else 1.0) * len(held)


@pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("kind", SAMPLING, ids=lambda kind: kind.name)
def test_what_is_timed_is_every_array_that_a_loss_takes(kind: type[Contender], prioritized: bool) -> None:
    contender, _ = full(kind, Setup(CAPACITY, prioritized=prioritized))
    batch = contender.sample(BATCH)
    columns = contender.columns(batch)
    names = (*LOSS_FIELDS, "weights") if prioritized else LOSS_FIELDS
    for name, given in zip(names, contender.unpack(batch), strict=True):
        values = np.asarray(given)
        np.testing.assert_array_equal(values.reshape(columns[name].shape).astype(columns[name].dtype), columns[name])


@pytest.mark.parametrize("kind", SAMPLING, ids=lambda kind: kind.name)
def test_streams_give_back_what_was_added(kind: type[Contender]) -> None:
    contender, expected = full(kind, Setup(CAPACITY, streams=8))
    columns = contender.columns(contender.sample(BATCH))
    names = names_in(columns)
    assert set(rows(columns, names)) <= set(rows(expected.columns(), names))


@pytest.mark.parametrize("kind", SAMPLING, ids=lambda kind: kind.name)
def test_weights_follow_from_the_priorities_that_were_set(kind: type[Contender]) -> None:
    contender, _ = full(kind, Setup(CAPACITY, prioritized=True))
    places = np.arange(CAPACITY)
    priorities = priorities_like_td_errors(CAPACITY, np.random.default_rng(2))
    indices = contender.indices_of(places)
    contender.update(indices, contender.priority_form(priorities))
    by_index = dict(zip(np.asarray(indices).tolist(), priorities.tolist(), strict=True))
    batch = contender.sample(BATCH)
    drawn = np.array([by_index[index] for index in np.asarray(contender.indices(batch)).tolist()])
    weights = np.asarray(contender.columns(batch)["weights"], dtype=np.float64)
    constant = weights * drawn ** (ALPHA * BETA)
    np.testing.assert_allclose(constant, constant[0], rtol=2e-3)


@pytest.mark.parametrize("kind", SAMPLING, ids=lambda kind: kind.name)
def test_an_update_reaches_the_transitions_it_names(kind: type[Contender]) -> None:
    contender, _ = full(kind, Setup(CAPACITY, prioritized=True))
    priorities = np.full(CAPACITY, 1e-4, dtype=np.float32)
    chosen = np.array([3, 200, CAPACITY - 1])
    priorities[chosen] = 1e3
    contender.update(contender.indices_of(np.arange(CAPACITY)), contender.priority_form(priorities))
    drawn = np.asarray(contender.indices(contender.sample(BATCH)))
    share = np.isin(drawn, np.asarray(contender.indices_of(chosen))).mean()
    assert share > 0.9  # expected: 0.98 or more; of equal priorities: 0.006


@pytest.mark.parametrize(
    ("work", "prioritized"),
    [("adding", False), ("sampling", False), ("sampling", True), ("updating", True), ("stepping", True)],
)
@pytest.mark.parametrize("kind", CONTENDERS, ids=lambda kind: kind.name)
def test_every_trial_can_be_repeated(kind: type[Contender], work: str, prioritized: bool) -> None:
    contender, data = full(kind, Setup(CAPACITY, prioritized=prioritized))
    arguments = {"adding": (data.steps(),), "stepping": (32, data.steps())}.get(work, (32,))
    try:
        trial = getattr(contender, work)(*arguments)
    except NoSuchWorkError:
        pytest.skip(f"{kind.name} has no {work} to time")
    for _ in range(3):
        for given in trial.prepare(2):
            trial.call(*given)
    assert trial.per_call >= 1


@pytest.mark.parametrize("kind", CONTENDERS, ids=lambda kind: kind.name)
def test_updates_get_fresh_indices_and_priorities(kind: type[Contender]) -> None:
    if kind.role in (Role.COMPILED, Role.DETAIL):
        pytest.skip("prepares many calls as one")
    contender, _ = full(kind, Setup(CAPACITY, prioritized=True))
    trial = contender.updating(16)
    first, second = trial.prepare(2)
    (third,) = trial.prepare(1)
    for one, other in ((first, second), (second, third)):
        for mine, theirs in zip(one, other, strict=True):
            assert not np.array_equal(np.asarray(mine), np.asarray(theirs))
