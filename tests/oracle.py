"""A replay buffer in plain Python: the independent answer that the tests hold the real one against.

It shares no code and no idea of memory with replaybank: transitions sit in a `deque(maxlen=capacity)`, streams are
lists of everything ever added, priorities are a dict. It is slow and obvious on purpose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


def leaves(value: Any) -> list[np.ndarray]:
    """The arrays of a nested field, in order."""
    if isinstance(value, Mapping):
        return [leaf for child in value.values() for leaf in leaves(child)]
    if isinstance(value, tuple):
        return [leaf for child in value for leaf in leaves(child)]
    return [np.asarray(value)]


def same_bytes(one: Any, other: Any) -> bool:
    """Whether two nested fields are equal byte for byte: 0.0 is not -0.0, and a NaN equals itself."""
    return [leaf.tobytes() for leaf in leaves(one)] == [leaf.tobytes() for leaf in leaves(other)]


def same_batch(one: Any, other: Any) -> bool:
    """Whether two batches have the same fields, byte for byte."""
    names = list(one.keys())
    return names == list(other.keys()) and all(same_bytes(one[name], other[name]) for name in names)


def item(value: Any, i: int) -> Any:
    """Row i of a nested field with a leading axis."""
    if isinstance(value, Mapping):
        return {name: item(child, i) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(item(child, i) for child in value)
    return np.asarray(value)[i]


def stacked(values: list[Any]) -> Any:
    """Nested fields of single transitions as one with a leading axis."""
    first = values[0]
    if isinstance(first, Mapping):
        return {name: stacked([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(stacked([value[i] for value in values]) for i in range(len(first)))
    return np.stack(values)


@dataclass(frozen=True, eq=False)
class Step:
    """One transition as it was added. `fields` holds obs, action, reward, next_obs, terminated, truncated, extras."""

    id: int
    stream: int
    place: int  # in the list of its stream
    fields: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        return bool(self.fields["terminated"]) or bool(self.fields["truncated"])


class Oracle:
    """The last `capacity` transitions, what followed what, and the priorities."""

    def __init__(self, capacity: int, streams: int, alpha: float = 0.6, epsilon: float = 1e-6) -> None:
        self.alpha = alpha
        self.epsilon = epsilon
        self.streams = streams
        self.live: deque[Step] = deque(maxlen=capacity)
        self.lives: list[list[Step]] = [[] for _ in range(streams)]  # per stream, everything since the last clear
        self.raw: dict[int, float] = {}
        self.added = self.cleared = self.sampled = self.updated = self.stale = 0

    # ---- what happens ----

    def add(self, transitions: list[tuple[int, Mapping[str, Any]]]) -> None:
        """One call: (stream, fields) of each transition. All newcomers of a call get the same priority."""
        newcomer = max(self.raw.values(), default=0.0) or 1.0
        for stream, fields in transitions:
            step = Step(self.added, stream, len(self.lives[stream]), fields)
            self.added += 1
            self.live.append(step)
            self.lives[stream].append(step)
            self.raw[step.id] = newcomer
            self.raw = {id_: priority for id_, priority in self.raw.items() if id_ >= self.live[0].id}

    def update(self, ids: list[int], td_errors: list[float]) -> tuple[int, int]:
        """How many were set, and how many had left."""
        updated = stale = 0
        for id_, error in zip(ids, td_errors, strict=True):
            if id_ in self.raw:
                self.raw[id_] = abs(error) + self.epsilon
                updated += 1
            else:
                stale += 1
        self.updated += updated
        self.stale += stale
        return updated, stale

    def clear(self) -> None:
        self.cleared += len(self.live)
        self.live.clear()
        self.lives = [[] for _ in self.lives]
        self.raw = {}

    # ---- what must be so ----

    def ids(self) -> list[int]:
        return [step.id for step in self.live]

    def step(self, id_: int) -> Step:
        return self.live[id_ - self.live[0].id]

    def following(self, step: Step) -> Step | None:
        """The next transition of the stream, where it goes on from `step`."""
        life = self.lives[step.stream]
        if step.place + 1 == len(life) or step.ended:
            return None
        after = life[step.place + 1]
        return after if same_bytes(step.fields["next_obs"], after.fields["obs"]) else None

    def tails(self) -> int:
        """Observations that no live row holds as its own: one for each live transition that nothing follows."""
        return sum(self.following(step) is None for step in self.live)

    def n_step(self, id_: int, n: int, gamma: float) -> tuple[dict[str, Any], float]:
        """The fields and the discount of the n-step transition that starts at a live id; rewards in float64."""
        first = last = self.step(id_)
        total = np.asarray(first.fields["reward"], np.float64)
        k = 1
        while k < n and (after := self.following(last)) is not None:
            total = total + gamma**k * np.asarray(after.fields["reward"], np.float64)
            last = after
            k += 1
        fields = {
            **first.fields,
            "reward": total,
            "next_obs": last.fields["next_obs"],
            "terminated": last.fields["terminated"],
            "truncated": last.fields["truncated"],
        }
        return fields, 0.0 if last.fields["terminated"] else gamma**k

    def probabilities(self) -> dict[int, float]:
        """P(i) = p_i^alpha / sum_k p_k^alpha of every live id (Schaul et al. 2016, eq. 1)."""
        masses = {id_: priority**self.alpha for id_, priority in self.raw.items()}
        total = sum(masses.values())
        return {id_: mass / total for id_, mass in masses.items()} if total else dict.fromkeys(masses, 0.0)

    def stats(self) -> dict[str, int]:
        return {
            "size": len(self.live),
            "capacity": int(self.live.maxlen or 0),
            "streams": self.streams,
            "added": self.added,
            "overwritten": self.added - self.cleared - len(self.live),
            "cleared": self.cleared,
            "sampled": self.sampled,
            "updated": self.updated,
            "stale": self.stale,
            "tails": self.tails(),
        }
