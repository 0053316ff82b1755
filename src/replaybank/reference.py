"""The kernels in plain NumPy: what each computes, in a few lines. Same arguments, same effects, bit for bit.

Slow on purpose; the tests hold `kernels` against these. Nothing else uses them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import MAX, SUM
from replaybank.rows import (
    AHEAD,
    CHAIN,
    DISCOUNT,
    DISCOUNTS,
    FIRST,
    IS_FIRST,
    LAST,
    LINKS,
    MASK,
    NEXT_OBS,
    NO_TAIL,
    PLACE_ROW,
    START,
    STEPS,
    VALID,
)

Store = tuple[NDArray[Any], ...]  # rows, tails, free_tails, newest, cursor, geometry, after: what rows.py holds
Tree = tuple[NDArray[np.float64], NDArray[np.int64]]  # nodes, levels: what sum_tree.py holds
FAMILY = 8


def append(
    store: Store, plan: NDArray[np.int64], values: tuple[Any, ...], lead: int, owners: NDArray[np.int64] | None
) -> int:
    """One transition after the other: the old row leaves, the stream goes on or starts anew, the values are written.

    The twin takes values that are arrays of the leaves' own dtypes only; the kernel also takes plain scalars, and gives
    -1 for anything else.
    """
    rows, tails, free, newest, cursor, geometry, after = store
    capacity, obs_nbytes = int(geometry[0]), int(geometry[8])
    records, pool = _bytes(rows), _bytes(tails)
    n = 1 if lead < 0 else lead
    items = [
        _bytes(np.asarray(value).reshape(n, -1)) if np.size(value) else np.empty((n, 0), np.uint8) for value in values
    ]
    next_link, previous_link, tail_link, step_link = LINKS
    first = int(cursor[0])
    for i in range(n):
        id_, start = int(cursor[0]), int(cursor[1])
        owner = i % len(newest) if owners is None else int(owners[i])
        slot, leaving = id_ % capacity, id_ - capacity
        if leaving >= start and rows[tail_link][slot] != NO_TAIL:
            free[cursor[3]] = rows[tail_link][slot]
            cursor[3] += 1
        obs = [
            (at, item[i])
            for (place, at, *_), item in zip(plan, items, strict=True)
            if place == PLACE_ROW and at < obs_nbytes
        ]
        closed = newest[owner] < -1
        before = int(-2 - newest[owner] if closed else newest[owner])
        there = before >= start and before > leaving
        goes_on = there and not closed and not _ended(rows[before % capacity])
        if goes_on:
            open_tail = pool[rows[tail_link][before % capacity]]
            goes_on = all((open_tail[at : at + len(value)] == value).all() for at, value in obs)
        if goes_on:
            tail = rows[tail_link][before % capacity]
            rows[next_link][before % capacity] = id_ - before
            rows[tail_link][before % capacity] = NO_TAIL
        else:
            if there:
                after[rows[tail_link][before % capacity]] = id_ - before
            if cursor[3] > 0:
                cursor[3] -= 1
                tail = free[cursor[3]]
            else:
                tail = cursor[2]
                cursor[2] += 1
            after[tail] = 0
        rows[previous_link][slot] = id_ - before if goes_on else 0
        rows[step_link][slot] = rows[step_link][before % capacity] + 1 if goes_on else 0
        rows[next_link][slot] = 0
        rows[tail_link][slot] = tail
        for (place, at, *_), item in zip(plan, items, strict=True):
            record = records[slot] if place == PLACE_ROW else pool[tail]
            record[at : at + item.shape[1]] = item[i]
        newest[owner] = id_
        cursor[0] = id_ + 1
    return first


def block(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory for a batch; the kernel's starts a cache line, and serves again once nobody holds it."""
    return np.empty((), dtype)


def read(
    store: Store,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    plan: NDArray[np.int64],
    factors: NDArray[np.float32],
    out: NDArray[Any],
) -> None:
    """Each copy of the plan is one fancy index: bytes [at, at + nbytes) of the records that its source names."""
    rows, tails, _, _, _, geometry, _ = store
    capacity = int(geometry[0])
    records, pool = _bytes(rows), _bytes(tails)
    ahead = rows[LINKS[0]][last % capacity].astype(np.int64)
    tail = rows[LINKS[2]][last % capacity]
    target = out.reshape(1).view(np.uint8).reshape(-1) if out.ndim == 0 else out.view(np.uint8).reshape(-1)
    for source, at, nbytes, to in plan:
        if source == DISCOUNT:
            terminated = rows["terminated"][last % capacity]
            item = np.where(terminated, np.float32(0), factors).astype(np.float32).view(np.uint8).reshape(-1, 4)
        elif source == NEXT_OBS:
            shared = records[(last + ahead) % capacity, at : at + nbytes]
            held = pool[np.where(ahead == 0, tail, 0), at : at + nbytes]
            item = np.where((ahead == 0)[:, None], held, shared)
        else:
            ids = {FIRST: first, LAST: last}[int(source)]
            item = records[ids % capacity, at : at + nbytes]
        target[to : to + item.size] = item.ravel()


def walk(
    store: Store, ids: NDArray[np.int64], steps: int, forward: bool, path: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    """Step by step along the links; where there is none, or it leads to a row that has left, the id is repeated."""
    rows, _, _, _, cursor, geometry, _ = store
    capacity = int(geometry[0])
    oldest = max(int(cursor[1]), int(cursor[0]) - capacity)
    path[:, 0] = ids
    lengths[:] = 1
    for k in range(1, steps + 1):
        here = path[:, k - 1]
        distance = rows[LINKS[0] if forward else LINKS[1]][here % capacity].astype(np.int64)
        to = here + distance if forward else here - distance
        path[:, k] = np.where(to >= oldest, to, here)
        lengths += path[:, k] != here


def follow(
    store: Store,
    ids: NDArray[np.int64],
    steps: NDArray[np.int64],
    forward: bool,
    to: NDArray[np.int64],
    taken: NDArray[np.int64],
) -> None:
    """One link after the other, until the steps are taken or there is no further row."""
    to[:], taken[:] = ids, 0
    path, lengths = np.empty((len(ids), 2), np.int64), np.empty(len(ids), np.int64)
    while True:
        walk(store, to, 1, forward, path, lengths)
        moves = (lengths == 2) & (taken < steps)
        if not moves.any():
            return
        to[moves] = path[moves, 1]
        taken[moves] += 1


def sequences(
    store: Store,
    starts: NDArray[np.int64],
    length: int,
    burn_in: int,
    across: bool,
    gamma: float,
    plan: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Sequence by sequence: the slots of its steps, the records of their next observations, then column by column."""
    rows, tails, _, _, _, geometry, after = store
    capacity, obs_nbytes = int(geometry[0]), int(geometry[8])
    records, pool = _bytes(rows), _bytes(tails)
    target = out.reshape(1).view(np.uint8).reshape(-1)
    target[:] = 0
    for i, start in enumerate(starts.tolist()):
        slots: list[int] = []
        ahead: list[NDArray[np.uint8]] = []
        id_, distance = start, 1
        while distance and len(slots) < length:
            slot = id_ % capacity
            slots.append(slot)
            distance, tail = int(rows[LINKS[0]][slot]), rows[LINKS[2]][slot]
            ahead.append(records[(id_ + distance) % capacity, :obs_nbytes] if distance else pool[tail])
            if not distance and across:
                distance = int(after[tail])
            id_ += distance
        count = len(slots)
        steps, first = np.arange(count), rows[LINKS[3]][slots] == 0
        discounts = np.where(rows["terminated"][slots], np.float32(0), np.float32(gamma)).astype(np.float32)
        for part, at, nbytes, to in plan.tolist():
            items = {
                STEPS: records[slots, at : at + nbytes],
                CHAIN: np.stack([*records[slots, :obs_nbytes], ahead[-1]])[:, at : at + nbytes],
                AHEAD: np.stack(ahead)[:, at : at + nbytes],
                START: records[slots[:1], at : at + nbytes],
                VALID: np.ones(count, bool),
                IS_FIRST: first,
                MASK: steps >= burn_in,
                DISCOUNTS: discounts,
            }[part]
            line = to + i * {CHAIN: length + 1, START: 1}.get(part, length) * nbytes
            target[line : line + len(items) * nbytes] = items.ravel().view(np.uint8)


def returns(
    store: Store,
    path: NDArray[np.int64],
    lengths: NDArray[np.int64],
    gamma: float,
    at: int,
    dtype: int,
    totals: NDArray[np.float64],
) -> None:
    """Step by step: the total of the windows that reach step k grows by gamma ** k times the field there."""
    rows, _, _, _, _, geometry, _ = store
    number = np.dtype(np.float32 if dtype == np.dtype(np.float32).num else np.float64)
    size = totals.size // len(totals)
    field = _bytes(rows)[:, at : at + size * number.itemsize]
    totals[:] = 0
    factor = 1.0
    for k in range(path.shape[1]):
        values = np.ascontiguousarray(field[path[:, k] % geometry[0]]).view(number).astype(np.float64)
        inside = k < lengths
        totals[inside] += factor * values.reshape(totals.shape)[inside]
        factor *= gamma


def tree_build(tree: Tree, combine: int) -> None:
    """Every level from the one below."""
    nodes, levels = tree
    for level in range(1, len(levels) - 1):
        families = nodes[levels[level - 1] : levels[level]].reshape(-1, FAMILY)
        nodes[levels[level] : levels[level] + len(families)] = _combined(families, combine)


def tree_update(
    tree: Tree,
    combine: int,
    capacity: int,
    oldest: int,
    added: int,
    ids: NDArray[np.int64],
    values: NDArray[np.float64],
) -> int:
    """Sets the live leaves, the last one of a repeated id winning, and recomputes everything above."""
    live = (ids >= oldest) & (ids < added)
    for id_, value in zip(ids[live], values[live], strict=True):
        tree[0][id_ % capacity] = value
    tree_build(tree, combine)
    return int(live.sum())


def tree_fill(tree: Tree, combine: int, capacity: int, first_id: int, n: int, value: float) -> None:
    """Sets the leaves of consecutive ids."""
    tree[0][np.arange(first_id, first_id + n) % capacity] = value
    tree_build(tree, combine)


def tree_find(
    tree: Tree,
    capacity: int,
    oldest: int,
    added: int,
    uniforms: NDArray[np.float64],
    ids: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    lanes: int = 1,
) -> None:
    """From the root down: the left half if the target lies in it or the right half is empty, else the right one."""
    nodes, levels = tree
    n = len(uniforms)
    targets = (np.arange(n) + uniforms) * (nodes[levels[-2]] / n)
    slots = np.zeros(n, np.int64)
    for level in range(len(levels) - 3, -1, -1):
        children = nodes[levels[level] : levels[level + 1]].reshape(-1, FAMILY)[slots]
        slots *= FAMILY
        for width in (4, 2, 1):  # halve the family three times
            sums = children
            while sums.shape[1] > 2:
                sums = sums[:, ::2] + sums[:, 1::2]
            right = (targets >= sums[:, 0]) & (sums[:, 1] > 0)
            targets -= np.where(right, sums[:, 0], 0.0)
            children = np.where(right[:, None], children[:, width:], children[:, :width])
            slots += np.where(right, width, 0)
    probabilities[:] = nodes[slots] / nodes[levels[-2]]
    ids[:] = oldest + (slots - oldest) % capacity
    uniforms[:] = targets


def spread(uniforms: NDArray[np.float64], oldest: int, size: int, ids: NDArray[np.int64]) -> None:
    """Uniform numbers in [0, 1) to ids in [oldest, oldest + size)."""
    ids[:] = oldest + (uniforms * size).astype(np.int64)


def count_live(ids: NDArray[np.int64], oldest: int, added: int) -> int:
    """How many ids are live, or -1 - position of the first that was never given out."""
    never = np.flatnonzero((ids < 0) | (ids >= added))
    return -1 - int(never[0]) if never.size else int((ids >= oldest).sum())


def importance_weights(probabilities: NDArray[np.float64], scale: float, beta: float, out: NDArray[np.float32]) -> None:
    """(scale / probability) ** beta; a scale of NaN stands for the smallest. The kernel rounds both to float32."""
    out[:] = ((probabilities.min() if np.isnan(scale) else scale) / probabilities) ** beta


def magnitudes(values: NDArray[np.float64], epsilon: float, out: NDArray[np.float64]) -> float:
    """|values| + epsilon, and the largest of them (0 of none); NaN where one is not finite."""
    out[:] = np.abs(values) + epsilon
    return float(out.max(initial=0.0)) if np.isfinite(out).all() else np.nan


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The array's memory as bytes, one line a record."""
    array = np.ascontiguousarray(array)
    return array.view(np.uint8).reshape(len(array), -1)


def _ended(row: Any) -> bool:
    return bool(row["terminated"] or row["truncated"])


def _combined(families: NDArray[np.float64], combine: int) -> NDArray[np.float64]:
    c = families.T
    if combine == SUM:  # in this order: floating-point addition is not associative
        return np.asarray(((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7])))
    if combine == MAX:
        return np.asarray(c.max(axis=0))
    smallest = np.where(c > 0, c, np.inf).min(axis=0)
    return np.where(np.isinf(smallest), 0.0, smallest)
