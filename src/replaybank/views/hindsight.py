"""Other goals in hindsight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from replaybank.batch import Batch
from replaybank.convert import as_field, is_finite, require_finite
from replaybank.parts import shown
from replaybank.rows import NEXT_OBS, Rows
from replaybank.schema import Leaf, Node, Schema
from replaybank.views.gather import Gather, Windows
from replaybank.views.transition import discount_factor

# Achieved goals [m, ...], desired goals [m, ...] and info to m numbers or bools, as Gymnasium-Robotics' compute_reward.
GoalFunction: TypeAlias = Callable[[NDArray[Any], NDArray[Any], dict[str, Any]], Any]
FAR = np.iinfo(np.int64).max
STRATEGIES = ("future", "final", "episode")
RELABELED: dict[str, Node] = {"relabeled": Leaf(("relabeled",), np.dtype(bool), ())}


@dataclass(frozen=True)
class Hindsight:
    """An id means the transition it was given to, as if another goal had been pursued (Andrychowicz et al. 2017).

    For observations that are mappings with `achieved_goal` and `desired_goal` (arrays of one shape and dtype), as
    Gymnasium-Robotics gives them; under other names: `achieved`, `desired`. With probability k / (k + 1) the desired
    goal of obs and next_obs becomes what some step of the same segment achieved, in its next_obs (sec. 3.3 and 4.5):

    - `strategy="future"`: of a step drawn uniformly from this one to the last that there is;
    - "final": of the last step that there is;
    - "episode": of a step drawn uniformly from all of the segment that are in the buffer.

    So an episode that is still running is relabeled with what it has achieved so far. Random numbers are the buffer's.

    Where a goal was replaced (`relabeled`, bool [n]) the reward becomes `reward_fn(achieved, desired, info)`: the
    achieved goals of next_obs and the new desired ones, [m, ...], and `info`, a dict of their extra fields; it gives m
    finite rewards. `terminated` stays as it was recorded, unless `terminated_fn` (with the same arguments)
    gives it, bool [m]. Neither function can call the buffer (RuntimeError): it is in the middle of a call of its own.
    `discount` is gamma, 0 after termination. To find a later step takes time in proportion to how
    far the segment's end is.

    Settings are fixed; to change them, give the buffer another view. Raises TypeError where a function is none, and
    ValueError where strategy is none of the three, k is not a finite number >= 0, or gamma is not in [0, 1]; and, when
    it reads, where observations have no such goals or a function gives anything else.
    """

    reward_fn: GoalFunction
    strategy: Literal["future", "final", "episode"] = "future"
    k: float = 4
    gamma: float = 1.0
    terminated_fn: GoalFunction | None = None
    achieved: str = "achieved_goal"
    desired: str = "desired_goal"
    _known: dict[str, Gather] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        optional = [("terminated_fn", self.terminated_fn)] if self.terminated_fn is not None else []
        for name, function in (("reward_fn", self.reward_fn), *optional):
            if not callable(function):
                raise TypeError(
                    f"Hindsight: {name} must be a function of (achieved, desired, info), given {function!r}"
                )
        if not (isinstance(self.strategy, str) and self.strategy in STRATEGIES):
            raise ValueError(f"Hindsight: strategy must be one of {', '.join(STRATEGIES)}, given {self.strategy!r}")
        if not (is_finite(self.k) and self.k >= 0):
            raise ValueError(f"Hindsight: k must be a finite number >= 0, given {self.k!r}")
        discount_factor("Hindsight", self.gamma)

    def read(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        gather = self._gather(rows)
        batch = gather.read(rows, Windows(ids, ids, np.array([self.gamma], np.float32), None))
        batch.relabeled[:] = rng.random(len(ids)) * (self.k + 1) < self.k
        which = np.flatnonzero(batch.relabeled)
        if len(which):
            goals = self._goals(rows, self._steps(rows, ids[which], rng))
            self._relabel(batch, which, goals, rows.schema)
        return batch

    def stack(self, schema: Schema) -> None:
        return None

    def usable(self, rows: Rows, ids: NDArray[np.int64]) -> None:
        return None

    def members(self, rows: Rows, ids: NDArray[np.int64]) -> None:
        return None

    def __repr__(self) -> str:
        return shown(self)

    def settings(self) -> dict[str, Any]:
        return {
            "reward_fn": self.reward_fn,
            "strategy": self.strategy,
            "k": float(self.k),
            "gamma": float(self.gamma),
            "terminated_fn": self.terminated_fn,
            "achieved": self.achieved,
            "desired": self.desired,
        }

    def _steps(self, rows: Rows, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """For each id, the one of the step that achieved what is to be its goal."""
        far = np.full(len(ids), FAR)
        last, ahead = rows.follow(ids, far)
        if self.strategy == "final":
            return last
        first, back = (ids, 0) if self.strategy == "future" else rows.follow(ids, far, forward=False)
        return rows.follow(first, rng.integers(0, back + ahead + 1))[0]

    def _goals(self, rows: Rows, ids: NDArray[np.int64]) -> NDArray[Any]:
        """What the steps achieved: [m, ...]."""
        goal, _ = self._leaves(rows.schema)
        block = np.empty((), np.dtype([("goal", goal.dtype, (len(ids), *goal.shape))]))
        plan = np.array([(NEXT_OBS, rows.offset_of(goal), goal.nbytes, 0)], np.int64)
        rows.read(ids, ids, plan, np.zeros(1, np.float32), block)
        goals: NDArray[Any] = block["goal"]
        return goals

    def _relabel(self, batch: Batch, which: NDArray[np.int64], goals: NDArray[Any], schema: Schema) -> None:
        """Writes the goals, and what follows from them, to the transitions at places `which` ([m])."""
        extras = {name: _taken(batch[name], which) for name in schema.extras}
        arguments = (batch.next_obs[self.achieved][which], goals, extras)
        like = batch.reward
        reward = as_field("reward_fn", self.reward_fn(*arguments), like.dtype, like.shape[1:], len(which))
        require_finite("reward_fn", reward)
        if self.terminated_fn is not None:
            terminated = as_field("terminated_fn", self.terminated_fn(*arguments), np.dtype(bool), (), len(which))
            batch.terminated[which] = terminated
            batch.discount[which] = np.where(terminated, 0.0, self.gamma)
        batch.reward[which] = reward
        for obs in (batch.obs, batch.next_obs):
            obs[self.desired][which] = goals

    def _gather(self, rows: Rows) -> Gather:
        """How these rows become batches; checks that they hold goals."""
        if rows.stack is not None:
            raise ValueError("Hindsight: this buffer keeps stacks of frames; goals cannot be replaced in them")
        known = self._known.get("gather")
        if known is None or known.schema is not rows.schema:
            self._leaves(rows.schema)
            known = self._known["gather"] = Gather(rows, told=RELABELED)
        return known

    def _leaves(self, schema: Schema) -> tuple[Leaf, Leaf]:
        """The achieved and the desired goal of next_obs."""
        node = schema.fields["next_obs"]
        names = (self.achieved, self.desired)
        found = [node.get(name) for name in names] if isinstance(node, dict) else []
        achieved, desired = found if found else (None, None)
        if not (isinstance(achieved, Leaf) and isinstance(desired, Leaf)):
            keys = ", ".join(node) if isinstance(node, dict) else "no mapping"
            raise ValueError(f"Hindsight: obs: expected a mapping with arrays {' and '.join(names)}, given {keys}")
        if (achieved.dtype, achieved.shape) != (desired.dtype, desired.shape):
            given = " and ".join(f"{leaf.dtype} of shape {leaf.shape}" for leaf in (achieved, desired))
            raise ValueError(f"Hindsight: obs: expected {' and '.join(names)} of one dtype and shape, given {given}")
        return achieved, desired


def _taken(value: Any, which: NDArray[np.int64]) -> Any:
    """The items at places `which` of a nested field."""
    if isinstance(value, dict):
        return {name: _taken(child, which) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(_taken(child, which) for child in value)
    return value[which]
