"""What a buffer must hold, in plain Python: lists of bytes, and who follows whom."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from replaybank.schema import Leaf, Node, Schema, children_of


def leaf_values(node: Node, value: Any) -> list[Any]:
    """The values of a node's leaves, in order."""
    if isinstance(node, Leaf):
        return [value]
    items = value if isinstance(node, dict) else {str(i): item for i, item in enumerate(value)}
    return [leaf for name, child in children_of(node).items() for leaf in leaf_values(child, items[name])]


def plain(array: Any) -> bytes:
    """The values' bytes; of a long double those of its value only (the rest of its bytes may be anything)."""
    array = np.asarray(array)
    if array.dtype == bool:
        array = array != np.False_  # in memory that is no bool's, any byte but 0 is True
    return array.astype({"g": "f8", "G": "c16"}.get(array.dtype.char, array.dtype)).tobytes()


def lossless(given: np.ndarray, taken: np.ndarray) -> bool:
    """Whether a conversion loses no more than the digits of a float."""
    if taken.dtype.kind in "fc":
        real = taken.dtype.kind == "c" or given.dtype.kind != "c"
        return real and bool((np.isinf(given) | ~np.isinf(taken)).all())
    whole = taken.dtype.kind == "b" or given.dtype.kind in "biu"
    return whole and given.tolist() == taken.tolist()


@dataclass(eq=False)
class Step:
    """One transition: `values` are the bytes of each leaf, by name."""

    id: int
    stream: int
    values: dict[str, bytes]
    ended: bool
    after: Step | None = None
    first: bool = True


class Model:
    """The last `capacity` transitions, what follows what, counts, and raw priorities."""

    def __init__(self, capacity: int, streams: int) -> None:
        self.live: deque[Step] = deque(maxlen=capacity)
        self.newest: list[Step | None] = [None] * streams
        self.closed = [False] * streams
        self.raw: dict[int, float] = {}
        self.counts = dict.fromkeys(("added", "cleared", "sampled", "updated", "stale"), 0)

    def arrays(self, schema: Schema, fields: dict[str, Any], lead: int) -> dict[str, np.ndarray]:
        """What was handed over, as arrays of the leaves' dtypes with a leading axis, by the leaf's name."""
        found: dict[str, np.ndarray] = {}
        for name, node in schema.fields.items():
            leaves = [leaf for leaf in schema.leaves if leaf.path[0] == name]
            for leaf, value in zip(leaves, leaf_values(node, fields[name]), strict=True):
                given = np.asarray(value)
                with np.errstate(all="ignore"):
                    array = given.astype(leaf.dtype)
                    assert lossless(given, array), f"{leaf.name}: took {given!r} for {leaf.dtype}"
                array = array[np.newaxis] if lead < 0 else array
                assert name != "reward" or np.isfinite(array).all(), f"took a reward of {given!r}"
                assert array.shape == (abs(lead), *leaf.shape), f"{leaf.name}: took {array.shape} for {leaf.shape}"
                found[leaf.name] = array
        return found

    def add(self, arrays: dict[str, np.ndarray], owners: list[tuple[int, int]]) -> None:
        """`owners`: (stream, place in the arrays) of each transition."""
        newcomer = max(self.raw.values(), default=0.0) or 1.0
        for stream, i in owners:
            values = {name: plain(array[i]) for name, array in arrays.items()}
            ended = bool(arrays["terminated"][i]) or bool(arrays["truncated"][i])
            step = Step(self.counts["added"], stream, values, ended)
            if len(self.live) == self.live.maxlen:
                self.raw.pop(self.live[0].id, None)
            self.live.append(step)
            before = self.newest[stream]
            if before is not None and before in self.live and not before.ended and not self.closed[stream]:
                same = [values[name] == before.values["next_" + name] for name in values if name.startswith("obs")]
                if all(same):
                    before.after, step.first = step, False
            self.newest[stream], self.closed[stream] = step, False
            self.counts["added"] += 1
            self.raw[step.id] = newcomer

    def clear(self) -> None:
        self.counts["cleared"] += len(self.live)
        self.live.clear()
        self.newest = [None] * len(self.newest)
        self.closed = [False] * len(self.closed)
        self.raw = {}

    def step(self, id_: int) -> Step:
        return self.live[id_ - self.live[0].id]

    def column(self, name: str, steps: list[Step]) -> bytes:
        return b"".join(step.values[name] for step in steps)

    def window(self, id_: int, n: int) -> list[Step]:
        """The steps of the n-step transition from a live id on."""
        steps = [self.step(id_)]
        while len(steps) < n and (after := steps[-1].after) is not None:
            steps.append(after)
        return steps

    def segments(self) -> list[list[int]]:
        runs: dict[int, list[int]] = {}
        root: dict[int, int] = {}
        for step in self.live:
            head = root.setdefault(step.id, step.id)
            runs.setdefault(head, []).append(step.id)
            if step.after is not None:
                root[step.after.id] = head
        return list(runs.values())

    def stats(self) -> dict[str, int]:
        size = len(self.live)
        overwritten = self.counts["added"] - self.counts["cleared"] - size
        return {"size": size, "overwritten": overwritten, **self.counts}

    def tails(self) -> int:
        """Observations that no live row holds: one for each live transition that nothing follows."""
        return sum(step.after is None for step in self.live)
