"""Random schemas, samplers, views and their settings."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from odd import Boom, boom, value

import replaybank as rb

DTYPES = ("?", "b", "B", "h", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f4", "f4", "f8", "g", "F", "D", ">f4", ">i8")
SHAPES = ((), (), (), (1,), (2,), (3,), (2, 3), (0,), (2, 0), (4, 2))
SAMPLER_SETTINGS = ("alpha", "beta", "epsilon", "min_priority", "eta", "updates", "replace")
VIEW_SETTINGS = ("n", "gamma")


def leaf(r: Random) -> Any:
    dtype, shape = r.choice(DTYPES), r.choice(SHAPES)
    return dtype if not shape and r.random() < 0.5 else (dtype, shape)


def node(r: Random, depth: int) -> Any:
    if depth == 0 or r.random() < 0.5:
        return leaf(r)
    children = [node(r, depth - 1) for _ in range(r.randint(1, 3))]
    if r.random() < 0.5:
        return children
    names = r.sample(("x", "a b", '"]', "names", "ü", "obs"), len(children))
    return dict(zip(names, children, strict=True))


def spec(r: Random) -> dict[str, Any]:
    """A schema that is good."""
    kind = r.random()
    if kind < 0.4:
        return {"obs": ("float32", (3,)), "action": "int64"}
    if kind < 0.5:  # goals, for Hindsight
        goal = ("float32", (2,))
        obs = {"observation": "float64", "achieved_goal": goal, "desired_goal": goal}
        return {"obs": obs, "action": "int32", "state": "float32"}
    found = {"obs": node(r, 2), "action": node(r, 1)}
    if r.random() < 0.5:
        found["reward"] = (r.choice(("f4", "f8")), r.choice(((), (2,), (0,))))
    for name in ("extra", "state")[: r.choice((0, 0, 1, 2))]:
        found[name] = node(r, 1)
    return found


def stacked_spec(r: Random, k: int, axis: int) -> dict[str, Any]:
    """A schema whose observations are stacks of k frames."""
    frame = r.choice(((1, 2), (2, 3), (1,)))
    shape = list(frame)
    shape[axis] *= k
    return {"obs": (r.choice(("u1", "f4", "i2")), tuple(shape)), "action": "int64"}


class Schedule:
    """A schedule of the caller's: now and then it raises, or gives nonsense."""

    def __init__(self, *found: Any) -> None:
        self.found = found

    def __call__(self, position: int) -> Any:
        found = self.found[position % len(self.found)]
        if found is Boom:
            raise Boom("a schedule")
        return found

    def __repr__(self) -> str:
        return f"Schedule{self.found}"


def schedule(r: Random, least: float, most: float) -> Any:
    kind = r.random()
    if kind < 0.6:
        return r.choice((least, most, (least + most) / 2))
    if kind < 0.8:
        return rb.linear(least, most, r.randint(1, 5))
    odd = [r.choice((Boom, float("nan"), -1.0, "x", None, np.float32(0.5), 1, np.ones(3), 1e300)) for _ in range(2)]
    return Schedule(most, odd[0], least or most, odd[1])


def sampler(r: Random, depth: int = 2) -> Any:
    norm = r.choice(("batch", "buffer", None))
    alpha = r.choice((0, 0.5, 0.6, 1.0, 1, np.float32(0.3), 3.0))
    kind = r.randrange(8 if depth else 6)
    if kind == 0:
        return rb.Uniform(replace=r.random() < 0.6)
    if kind <= 2:
        least = r.choice((None, None, 0.1, 1))
        return rb.Prioritized(alpha, schedule(r, 0.0, 1.0), r.choice((None, 0.0, 1e-6, 1)), norm, least)
    if kind == 3:
        return rb.RankPrioritized(alpha, schedule(r, 0.0, 1.0), norm)
    if kind == 4:
        return rb.Recent(schedule(r, 0.9, 1.0), r.randint(1, 20), r.randint(1, 20))
    if kind == 5:
        return rb.SampleOnce()
    if kind == 6:
        return rb.Combined(sampler(r, depth - 1), r.randint(1, 4))
    parts = [(r.choice((1, 0.5, 3)), sampler(r, depth - 1)) for _ in range(r.randint(1, 3))]
    return rb.Mixture(parts, schedule(r, 0.0, 1.0), r.choice(("batch", None)))


def reward_fn(r: Random) -> Any:
    """One that is right, mostly."""
    wrong = (
        boom,
        lambda a, d, i: None,
        lambda a, d, i: np.full(len(a), np.nan),
        lambda a, d, i: np.zeros(len(a) + 1),
        lambda a, d, i: "x",
        lambda a, d, i: a.fill(np.nan) or np.zeros(len(a)),
        lambda a, d, i: d.resize((1, 1), refcheck=False) or np.zeros(len(a)),
        lambda a, d, i: i.clear() or np.zeros(len(a)),
        lambda a, d, i: value(Random(len(a))),
    )
    return r.choice(wrong) if r.random() < 0.3 else lambda a, d, i: -(a != d).any(axis=-1).astype(np.float32)


def view(r: Random) -> Any:
    """Any view but a FrameStack of stacks, which wants rows of its own."""
    kind = r.randrange(6)
    gamma = r.choice((0, 0.5, 0.99, 1.0, 1, np.float32(0.9)))
    if kind <= 1:
        return rb.Transition(gamma)
    if kind == 2:
        return rb.NStep(r.choice((1, 2, 3, 100, 2**40)), gamma)
    if kind == 3:
        inner = r.choice((None, rb.NStep(2, gamma), rb.Transition(gamma)))
        return rb.FrameStack(r.choice((1, 2, 4, 30)), r.choice((0, -1)), r.choice(("reset", "zero")), "frames", inner)
    if kind == 4:
        length = r.choice((1, 2, 5, 40))
        burn_in, stride = r.randrange(length), r.choice((1, 1, 2, 3, 50))
        at_start = r.choice(((), (), ("state",), ("extra",), ("nothing",)))
        return rb.Sequence(length, burn_in, stride, r.random() < 0.7, gamma, 0.9, r.random() < 0.4, at_start)
    ended = r.choice((None, None, lambda a, d, i: np.ones(len(a), bool), reward_fn(r)))
    strategy = r.choice(("future", "final", "episode"))
    return rb.Hindsight(reward_fn(r), strategy, r.choice((0, 1, 4.0, 1e300)), gamma, ended)


def odd_sampler(r: Random) -> Any:
    """Settings of a sampler that may be anything: gives a sampler, or raises."""
    a, b, c = value(r), value(r), value(r)
    return r.choice(
        (
            lambda: rb.Uniform(a),
            lambda: rb.Prioritized(a),
            lambda: rb.Prioritized(0.5, a),
            lambda: rb.Prioritized(epsilon=a, weight_norm=r.choice((b, None))),
            lambda: rb.Prioritized(min_priority=a),
            lambda: rb.RankPrioritized(a),
            lambda: rb.RankPrioritized(0.5, a, b),
            lambda: rb.Recent(a),
            lambda: rb.Recent(0.9, a),
            lambda: rb.Recent(0.9, 10, a),
            lambda: rb.Combined(a),
            lambda: rb.Combined(None, a),
            lambda: rb.Combined(rb.Combined(rb.Uniform(), 2), a),
            lambda: rb.Mixture(a),
            lambda: rb.Mixture([a, b]),
            lambda: rb.Mixture([(a, rb.Uniform())]),
            lambda: rb.Mixture([(1, a), (1, rb.Uniform())], c),
            lambda: rb.Mixture([(1.0, rb.Uniform())], 0.5, a),
            lambda: rb.Mixture([(1e300, rb.Uniform()), (1e300, rb.Uniform())]),
            lambda: rb.Mixture([(1e-320, rb.Uniform()), (1e300, rb.Uniform())]),
            lambda: rb.linear(a, b, c),
            lambda: rb.linear(0.0, 1.0, a),
        )
    )()


def odd_view(r: Random) -> Any:
    """Settings of a view that may be anything: gives a view, or raises."""
    a, b, c = value(r), value(r), value(r)
    return r.choice(
        (
            lambda: rb.Transition(a),
            lambda: rb.NStep(a, 0.9),
            lambda: rb.NStep(3, a),
            lambda: rb.FrameStack(a, adds="frames"),
            lambda: rb.FrameStack(2, a, "zero", "frames"),
            lambda: rb.FrameStack(2, 0, a, b),
            lambda: rb.FrameStack(2, 0, view=a),
            lambda: rb.FrameStack(2, adds=a),
            lambda: rb.Sequence(a),
            lambda: rb.Sequence(5, a),
            lambda: rb.Sequence(5, 1, a, b),
            lambda: rb.Sequence(5, gamma=a),
            lambda: rb.Sequence(5, eta=a, across_episodes=b),
            lambda: rb.Sequence(5, at_start=a),
            lambda: rb.Sequence(2**31),
            lambda: rb.Sequence(2**62, 2**61, 2**61),
            lambda: rb.Hindsight(a),
            lambda: rb.Hindsight(boom, a, b),
            lambda: rb.Hindsight(boom, k=a, gamma=c),
            lambda: rb.Hindsight(boom, terminated_fn=a),
            lambda: rb.Hindsight(boom, achieved=a, desired=b),
        )
    )()
