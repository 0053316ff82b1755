"""Transitions to add: good ones that go on from each other, in odd forms, and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import odd

from replaybank.schema import Schema


class Transitions:
    """Makes the arguments of `add` and `extend`; `last` holds each stream's newest next observation, by leaf."""

    def __init__(self, streams: int, stacked: int) -> None:
        self.streams, self.stacked = streams, stacked
        self.last: list[Any] = [None] * streams

    def good(self, r: Random, schema: Schema, lead: int, stream: int = 0) -> dict[str, Any]:
        """A good transition for each of the streams, or `lead` of one stream; most go on from what came last."""
        shape = () if lead < 0 else (lead,)
        rng = np.random.default_rng(r.getrandbits(32))
        top = r.choice((1, 2, 2, 200))

        def draw(leaf: Any) -> np.ndarray:
            most = 2 if leaf.dtype.kind == "b" or leaf.dtype.itemsize == 1 else top
            return rng.integers(0, most, (*shape, *leaf.shape)).astype(leaf.dtype)

        drawn = {leaf.name: draw(leaf) for leaf in schema.leaves}
        for name in ("terminated", "truncated"):
            drawn[name] = np.array(rng.random(shape) < 0.12)
        for name, after in [(name, name[5:]) for name in drawn if name.startswith("next_obs")]:
            if self.stacked and r.random() < 0.8:
                self.shift(drawn[after], drawn[name])
            if r.random() < 0.85:
                self.go_on(drawn, after, name, lead, stream)
        return {name: nest(node, lambda leaf: drawn[leaf.name]) for name, node in schema.fields.items()}

    def shift(self, obs: np.ndarray, after: np.ndarray) -> None:
        """Lets stacks begin with what came before, where they lie along the first axis of one stream's."""
        if self.streams == 1 and obs.ndim and obs.shape[0] % self.stacked == 0:
            width = obs.shape[0] // self.stacked
            after[: len(after) - width] = obs[width:]

    def go_on(self, drawn: dict[str, np.ndarray], obs: str, after: str, lead: int, stream: int) -> None:
        if lead == self.streams > 1:
            for i, last in enumerate(self.last):
                if last is not None and obs in last:
                    drawn[obs][i] = last[obs]
            return
        last = self.last[stream]
        if lead < 0:
            if last is not None and obs in last:
                drawn[obs][...] = last[obs]
        elif lead > 0:
            drawn[obs][1:] = drawn[after][:-1]
            if last is not None and obs in last:
                drawn[obs][0] = last[obs]

    def disturb(self, r: Random, fields: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Fields in odd forms, and at times wrong ones; and whether what they hold is what they say they hold."""
        kind = r.random()
        if kind < 0.35:
            return fields, True
        if kind < 0.7:
            fields = {name: change(value, lambda leaf: r.choice(odd.FORMS)(leaf)) for name, value in fields.items()}
            return fields, True
        fields = dict(fields)
        name = r.choice(list(fields))
        if kind < 0.75:
            fields.pop(name)
        elif kind < 0.8:
            fields[r.choice(("unknown", "stream", "link_next", "discount", "_x"))] = odd.value(r)
        elif kind < 0.85:  # of the right shape, with a value that does not fit
            wrong = r.choice((float("nan"), float("inf"), 1e300, 0.5, 300, -1, 2**40, 1j))
            name = r.choice(("reward", "action", name))
            if name in fields:
                fields[name] = change(fields[name], lambda leaf: np.full(np.shape(leaf), wrong))
        elif kind < 0.88:
            fields[name] = odd.Arrays(*(self.disturbed_leaf(r, fields[name]) for _ in range(2)))
            return fields, False
        elif kind < 0.9:  # another field is changed while this one is looked at
            other = leaf_of(fields[r.choice(list(fields))])
            whole = leaf_of(fields[name])
            fields[name] = odd.Arrays(whole, before=r.choice(MISDEEDS)(other, whole))
            return fields, False
        elif kind < 0.95 and isinstance(fields[name], dict | tuple):
            fields[name] = change(fields[name], lambda leaf: odd.value(r) if r.random() < 0.5 else leaf)
            return fields, False
        else:
            fields[name] = odd.value(r)
            return fields, not isinstance(fields[name], odd.Arrays)
        return fields, True

    def disturbed_leaf(self, r: Random, value: Any) -> Any:
        leaf = leaf_of(value)
        return r.choice((leaf, leaf.copy(), leaf[:0] if leaf.ndim else leaf, np.zeros((2, 2)), leaf.astype("D")))


MISDEEDS: tuple[Callable[[Any, Any], Callable[[], Any]], ...] = (
    lambda other, own: lambda: other.fill(1) if other.flags.writeable else None,
    lambda other, own: lambda: other.resize((0,), refcheck=False) if other.flags.owndata else None,
    lambda other, own: lambda: own.resize((1000,), refcheck=False) if own.flags.owndata else None,
    lambda other, own: lambda: setattr(other, "shape", (1, *other.shape)),
    lambda other, own: lambda: setattr(own, "dtype", "u1") if own.ndim and own.size else None,
    lambda other, own: odd.boom,
)


def nest(node: Any, make: Callable[[Any], Any]) -> Any:
    if isinstance(node, dict):
        return {name: nest(child, make) for name, child in node.items()}
    return tuple(nest(child, make) for child in node) if isinstance(node, tuple) else make(node)


def change(value: Any, how: Callable[[Any], Any]) -> Any:
    """A nested field with each array changed."""
    if isinstance(value, dict):
        return {name: change(child, how) for name, child in value.items()}
    return tuple(change(child, how) for child in value) if isinstance(value, tuple) else how(value)


def leaf_of(value: Any) -> Any:
    """Some array of a nested field."""
    while isinstance(value, dict | tuple) and len(value):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return np.zeros(2) if isinstance(value, dict | tuple) else value


def by_path(batch: Any, path: tuple[str, ...]) -> Any:
    found = batch[path[0]]
    for part in path[1:]:
        found = found[int(part)] if isinstance(found, tuple) else found[part]
    return found
