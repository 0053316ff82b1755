"""Every sampler with every view, on one stream and on several, before and after the buffer has wrapped around.

What was drawn must be live and usable, and what the view made of it must be what the plain list of what was added says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lives import Lived, live

import replaybank as rb
from oracle import same_bytes

SAMPLERS = {
    "uniform": lambda: rb.Uniform(),
    "without replacement": lambda: rb.Uniform(replace=False),
    "prioritized": lambda: rb.Prioritized(),
    "LAP": lambda: rb.Prioritized(min_priority=0.5, beta=0.0),
    "by rank": lambda: rb.RankPrioritized(),
    "recent": lambda: rb.Recent(0.99, 10, 8),
    "combined": lambda: rb.Combined(rb.Prioritized(), newest=3),
    "mixture": lambda: rb.Mixture([(0.4, rb.Uniform()), (0.4, rb.RankPrioritized()), (0.2, rb.Prioritized())]),
    "once": lambda: rb.SampleOnce(),
}
GAMMA = 0.9
VIEWS = {
    "transition": lambda: rb.Transition(0.9),
    "3 steps": lambda: rb.NStep(3, 0.9),
    "stacks": lambda: rb.FrameStack(3, adds="frames", padding="zero"),
    "stacks of 2 steps": lambda: rb.FrameStack(2, adds="frames", view=rb.NStep(2, 0.9)),
    "sequences": lambda: rb.Sequence(5, burn_in=1, gamma=0.9, at_start=("state",)),
    "grid of sequences": lambda: rb.Sequence(4, stride=3, gamma=0.9),
}


def leaves(value: Any) -> list[np.ndarray]:
    if isinstance(value, dict):
        return [leaf for child in value.values() for leaf in leaves(child)]
    if isinstance(value, tuple):
        return [leaf for child in value for leaf in leaves(child)]
    return [np.asarray(value)]


class Told:
    """The plain list, with what came before and after in the segment."""

    def __init__(self, told: list[Lived], capacity: int) -> None:
        self.by_id = {one.id: one for one in told}
        self.runs: dict[tuple[int, int], list[Lived]] = {}
        for one in told:
            self.runs.setdefault((one.stream, one.segment), []).append(one)
        self.oldest = max(0, len(told) - capacity)

    def run(self, id_: int) -> tuple[list[Lived], int]:
        run = self.runs[self.by_id[id_].stream, self.by_id[id_].segment]
        return run, run.index(self.by_id[id_])


def check_window(batch: Any, i: int, run: list[Lived], at: int, steps: int, gamma: float) -> None:
    """Item i is the window of up to `steps` steps from `at`."""
    window = run[at : at + steps]
    first, last = window[0].fields, window[-1].fields
    assert batch.discount[i] == np.float32(0.0 if last["terminated"] else gamma ** len(window))
    reward = sum(gamma**j * float(one.fields["reward"]) for j, one in enumerate(window))
    np.testing.assert_allclose(batch.reward[i], reward, rtol=1e-5, atol=1e-6)
    assert same_bytes(batch.action[i], first["action"])
    assert (batch.terminated[i], batch.truncated[i]) == (last["terminated"], last["truncated"])


def check_obs(batch: Any, i: int, run: list[Lived], at: int, steps: int) -> None:
    last = run[at : at + steps][-1].fields
    assert all(same_bytes(a[i], b) for a, b in zip(leaves(batch.obs), leaves(run[at].fields["obs"]), strict=True))
    assert all(same_bytes(a[i], b) for a, b in zip(leaves(batch.next_obs), leaves(last["next_obs"]), strict=True))


def check_stacks(batch: Any, i: int, run: list[Lived], at: int, steps: int, k: int, zero: bool) -> None:
    """Observations of item i are stacks of the last k frames of the segment."""
    frames = [one.fields["obs"] for one in run] + [run[-1].fields["next_obs"]]
    for stack, newest in ((batch.obs, at), (batch.next_obs, min(at + steps, len(run)))):
        for place in range(k):
            which = newest - (k - 1 - place)
            for found, frame in zip(leaves(stack), leaves(frames[max(which, 0)]), strict=True):
                assert same_bytes(found[i, place], np.zeros_like(frame) if which < 0 and zero else frame)


def check_sequence(batch: Any, i: int, run: list[Lived], at: int, length: int, burn_in: int, at_start: bool) -> None:
    steps = run[at : at + length]
    assert batch.valid[i].tolist() == [t < len(steps) for t in range(length)]
    assert batch.mask[i].tolist() == [burn_in <= t < len(steps) for t in range(length)]
    assert batch.is_first[i].tolist() == [t < len(steps) and at + t == 0 for t in range(length)]
    for t, step in enumerate(steps):
        for name in ("obs", "next_obs", "action", "reward"):
            for found, expected in zip(leaves(batch[name]), leaves(step.fields[name]), strict=True):
                assert same_bytes(found[i, t], expected)
        assert batch.discount[i, t] == np.float32(0.0 if step.fields["terminated"] else GAMMA)
    for found, expected in zip(leaves(batch.state), leaves(steps[0].fields["state"]), strict=True):
        assert same_bytes(found[i] if at_start else found[i, 0], expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("capacity", "streams"), [(400, 1), (60, 1), (90, 4)])
def test_what_is_drawn_is_what_was_lived(sampler: str, view: str, capacity: int, streams: int) -> None:
    buffer, told = live(capacity, streams, 80, seed=3, sampler=SAMPLERS[sampler](), view=VIEWS[view]())
    truth = Told(told, capacity)
    rng = np.random.default_rng(0)
    for _ in range(12):
        batch = buffer.sample(7)
        ids = batch.indices
        assert (ids >= truth.oldest).all()
        if buffer.sampler.distinct:
            assert len(np.unique(ids)) == len(ids)
        for i, id_ in enumerate(ids.tolist()):
            run, at = truth.run(id_)
            if view == "sequences":
                check_sequence(batch, i, run, at, 5, 1, True)
            elif view == "grid of sequences":
                check_sequence(batch, i, run, at - at % 3, 4, 0, False)
            elif view == "stacks":
                check_window(batch, i, run, at, 1, 1.0)
                check_stacks(batch, i, run, at, 1, 3, True)
            else:
                steps = {"transition": 1, "3 steps": 3, "stacks of 2 steps": 2}[view]
                check_window(batch, i, run, at, steps, GAMMA)
                if view == "stacks of 2 steps":
                    check_stacks(batch, i, run, at, 2, 2, False)
                else:
                    check_obs(batch, i, run, at, steps)
        np.testing.assert_array_equal(buffer.read(ids).obs["here"], batch.obs["here"])
        buffer.update_priorities(ids, rng.normal(size=7))
    buffer.check_valid()
