"""The kernels in plain NumPy: what each computes, in a few lines. Same arguments, same effects, bit for bit.

Slow on purpose; the tests hold `kernels` against these. Nothing else uses them.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.kernels import MAX, SUM
from replaybank.layout import LINKS, PLACE_ROW, STACK_LINKS
from replaybank.rows import (
    AHEAD,
    BOTH_STACKS,
    CHAIN,
    DISCOUNT,
    DISCOUNTS,
    FIRST,
    IS_FIRST,
    LAST,
    LAST_STEP,
    MASK,
    NEXT_OBS,
    NEXT_STACK,
    NONE,
    START,
    STEPS,
    VALID,
)

# rows, tails, older, free_tails, free_older, onward, newest, cursor, geometry: what rows.py holds
Store = tuple[NDArray[Any], ...]
Tree = tuple[NDArray[np.float64], NDArray[np.int64]]  # nodes, levels: what sum_tree.py holds
Order = tuple[NDArray[Any], ...]  # leaves, branches, state, priorities by slot: what order.py holds
Deck = tuple[
    NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]
]  # cards, places, counts: what sample_once.py holds
FAMILY = 8


def append(
    store: Store,
    plan: NDArray[np.int64],
    values: tuple[Any, ...],
    lead: int,
    owners: NDArray[np.int64] | None,
    item_a_stream: bool,
) -> int:
    """One transition after the other: the old row leaves, the stream goes on or starts anew, the values are written.

    The twin takes values that are arrays of the leaves' own dtypes only; the kernel also takes plain scalars, and gives
    -1 for anything else.
    """
    rows, tails, _, free, free_older, onward, newest, cursor, geometry = store
    capacity, frames, zero = int(geometry[0]), int(geometry[9]), bool(geometry[10])
    records, pool = _bytes(rows), _bytes(tails)
    n = 1 if lead < 0 else lead
    # Every value as frames: [n, frames, bytes]; what is no stack is one frame.
    items = [_bytes(np.asarray(value)).reshape(n, leaf[5], -1) for leaf, value in zip(plan, values, strict=True)]
    leaves = list(zip(plan, items, strict=True))
    obs, next_obs = ([(leaf[1], item) for leaf, item in leaves if leaf[6] and leaf[0] == place] for place in (0, 1))
    next_link, previous_link, tail_link, step_link = LINKS
    first = int(cursor[0])

    for t in range(n if owners is None else len(owners)):
        id_, start = int(cursor[0]), int(cursor[1])
        owner = t % len(newest) if owners is None else int(owners[t])
        i = owner if item_a_stream else t
        slot = id_ % capacity
        if id_ - capacity >= start:
            _give_back(free, cursor[2:], rows[tail_link][slot])
            for link in STACK_LINKS if frames > 1 else ():
                _give_back(free_older, cursor[4:], rows[link][slot])
        closed, oldest = newest[owner] < -1, max(0, start, id_ + 1 - capacity)
        before = int(-2 - newest[owner] if closed else newest[owner])
        previous = before % capacity
        goes_on = not closed and _goes_on(store, before, oldest, obs, i)
        aside = NONE
        if goes_on:
            tail = rows[tail_link][previous]
            rows[next_link][previous] = id_ - before
            rows[tail_link][previous] = NONE
            if frames > 1:
                aside = int(rows[STACK_LINKS[1]][previous])
                rows[STACK_LINKS[1]][previous] = NONE
        else:
            if before >= oldest:
                onward[rows[tail_link][previous]] = id_ - before
            tail = _take(free, cursor[2:])
            onward[tail] = 0
            if not all((item[i, :-1] == (0 if zero else item[i, -1])).all() for _, item in obs):
                aside = _put_aside(store, obs, i)
        rows[previous_link][slot] = id_ - before if goes_on else 0
        rows[step_link][slot] = rows[step_link][previous] + 1 if goes_on else 0
        rows[next_link][slot] = 0
        rows[tail_link][slot] = tail
        if frames > 1:
            shifted = all((b[i, :-1] == a[i, 1:]).all() for (_, a), (_, b) in zip(obs, next_obs, strict=True))
            rows[STACK_LINKS[0]][slot] = aside
            rows[STACK_LINKS[1]][slot] = NONE if shifted else _put_aside(store, next_obs, i)
        for (place, at, *_), item in leaves:
            record = records[slot] if place == PLACE_ROW else pool[tail]
            record[at : at + item.shape[2]] = item[i, -1]
        newest[owner] = id_
        cursor[0] = id_ + 1
    return first


def drop(store: Store, oldest: int) -> None:
    """What each row that leaves holds in the pools goes back to them, and `start` moves on."""
    rows, _, _, free, free_older, _, _, cursor, geometry = store
    for id_ in range(_oldest(store), oldest):
        row = rows[id_ % int(geometry[0])]
        _give_back(free, cursor[2:], row[LINKS[2]])
        for link in STACK_LINKS if geometry[9] > 1 else ():
            _give_back(free_older, cursor[4:], row[link])
    cursor[1] = max(int(cursor[1]), oldest)


def compact(store: Store) -> None:
    """Of each pool: what lies beyond the number in use moves, row after row, to the last of the free places before."""
    rows, tails, older, free, free_older, onward, _, cursor, geometry = store
    live = np.arange(_oldest(store), int(cursor[0])) % int(geometry[0])
    pools: list[tuple[tuple[NDArray[Any], ...], NDArray[Any], NDArray[Any], tuple[str, ...]]]
    pools = [((tails, onward), free, cursor[2:4], LINKS[2:3])]
    if geometry[9] > 1:
        pools.append(((older,), free_older, cursor[4:], STACK_LINKS))
    for arrays, places, counts, links in pools:
        in_use = int(counts[0] - counts[1])
        open_ = [place for place in places[: counts[1]].tolist() if place < in_use]
        for link in links:
            for slot in live:
                place = rows[link][slot]
                if place != NONE and place >= in_use:
                    to = open_.pop()
                    for array in arrays:
                        array[to] = array[place]
                    rows[link][slot] = to
        counts[:] = in_use, 0


def release(array: NDArray[Any], begin: int, end: int) -> int:
    """The whole pages in a range of an array's bytes; where the last one ends. What was in them may be anything."""
    page, at = mmap.PAGESIZE, array.ctypes.data
    first, last = -(-(at + begin) // page) * page, (at + end) // page * page
    return last - at if first < last else begin


def block(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory for a batch; the kernel's starts a cache line, and serves again once nobody holds it."""
    return np.empty((), dtype)


def columns(block: NDArray[Any], places: dict[str, Any]) -> dict[str, Any]:
    """By name the columns of a block that `places` names; what is no name of a column is left out."""
    return {name: block[place] for name, place in places.items() if isinstance(place, str)}


def read(
    store: Store,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    plan: NDArray[np.int64],
    factors: NDArray[np.float32],
    out: NDArray[Any],
) -> None:
    """Each copy of the plan is one fancy index: bytes [at, at + nbytes) of the records that its source names."""
    rows, tails, *_, geometry = store
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


def read_stacks(
    store: Store,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    frames: int,
    zero: bool,
    plan: NDArray[np.int64],
    out: NDArray[Any],
) -> bool:
    """Item by item: the stack of `first`, and the one after `last`."""
    oldest = _oldest(store)
    target = out.reshape(1).view(np.uint8)
    for i, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        stack, stack_before = _stack(store, begin, frames, zero, oldest), _stack(store, end, frames, zero, oldest)
        if stack is None or stack_before is None:
            raise IndexError("frames of a stack have left the buffer")
        after = _next_stack(store, end, stack_before)
        assert after is not None
        both = np.concatenate([stack, after[-1:]])
        shifted = after[:-1].tobytes() == stack_before[1:].tobytes()
        for source, at, nbytes, to in plan:
            if source == BOTH_STACKS and not shifted:
                return False
            item = (both if source == BOTH_STACKS else after if source == NEXT_STACK else stack)[:, at : at + nbytes]
            target[to + i * item.size : to + (i + 1) * item.size] = item.ravel()
    return True


def stacks_complete(store: Store, ids: NDArray[np.int64], frames: int, complete: NDArray[np.bool_]) -> None:
    """Whether the walk back to the oldest frame of each stack stays in the buffer."""
    complete[:] = [_stack(store, id_, frames, False, _oldest(store)) is not None for id_ in ids.tolist()]


def relink(store: Store) -> int:
    """Each row tells the one before that it comes next; then whoever has no next row must hold a tail of its own."""
    rows, _, _, free, free_older, onward, newest, cursor, _ = store
    capacity, added, oldest = len(rows), int(cursor[0]), _oldest(store)
    ids = range(oldest, added)
    rows["link_next"][[id_ % capacity for id_ in ids]] = 0
    for id_ in ids:
        row = rows[id_ % capacity]
        back, step = int(row["link_previous"]), int(row["link_step"])
        flags = [rows[name].view(np.uint8)[id_ % capacity] for name in ("terminated", "truncated")]  # a bool hides 2
        if max(flags) > 1 or (back == 0) != (step == 0) or back > id_:
            return id_
        if back and id_ - back >= oldest:
            before = rows[(id_ - back) % capacity]
            if _ended(before) or before["link_next"] or int(before["link_step"]) != step - 1:
                return id_
            before["link_next"] = back
    held: dict[str, set[int]] = {"tail": set(), "older": set(), "begun": set(), "newest": set()}

    def take(kind: str, index: int, end: int) -> bool:
        known = held[kind]
        fresh = 0 <= index < end and index not in known
        known.add(index)
        return fresh

    for id_ in ids:
        row = rows[id_ % capacity]
        following, tail = int(row["link_next"]), int(row["link_tail"])
        if (tail != NONE) if following else not take("tail", tail, int(cursor[2])):
            return id_
        if "link_older" in (rows.dtype.names or ()):
            own, after = int(row["link_older"]), int(row["link_next_older"])
            if own != NONE and not take("older", own, int(cursor[4])):
                return id_
            if after != NONE and (following or not take("older", after, int(cursor[4]))):
                return id_
        if not following and onward[tail]:
            on = id_ + int(onward[tail])
            if on >= added or rows[on % capacity]["link_step"] or not take("begun", on, added):
                return id_
    for latest in newest.tolist():
        id_ = -2 - latest if latest < -1 else latest
        if id_ >= added:
            return int(id_)
        if id_ >= oldest:
            row = rows[id_ % capacity]
            if row["link_next"] or onward[row["link_tail"]] or not take("newest", id_, added):
                return int(id_)
    for pool, kind, at in ((free, "tail", 2), (free_older, "older", 4)):
        left = [index for index in range(int(cursor[at]) - 1, -1, -1) if index not in held[kind]]
        pool[: len(left)] = left
        cursor[at + 1] = len(left)
    return -1


def walk(
    store: Store, ids: NDArray[np.int64], steps: int, forward: bool, path: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    """Step by step along the links; where there is none, or it leads to a row that has left, the id is repeated."""
    rows, *_, cursor, geometry = store
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
    rows, tails, _, _, _, onward, _, _, geometry = store
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
                distance = int(onward[tail])
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
    rows, *_, geometry = store
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


def order_add(order: Order, oldest: int, added: int, values: NDArray[np.float64]) -> None:
    """The twins of `order_…` keep no order: they write priorities down, and sort all of them when they are asked."""
    by_slot = order[3]
    by_slot[np.arange(added, added + len(values)) % len(by_slot)] = values


def order_drop(order: Order, oldest: int, added: int, n: int) -> None:
    """Nothing is kept of who is there: `oldest` and `added` tell the twins that."""


def order_update(order: Order, oldest: int, added: int, ids: NDArray[np.int64], values: NDArray[np.float64]) -> int:
    """Sets the priorities of live ids, the last one of a repeated id winning."""
    live = (ids >= oldest) & (ids < added)
    for id_, value in zip(ids[live], values[live], strict=True):
        order[3][id_ % len(order[3])] = value
    return int(live.sum())


def order_find(order: Order, oldest: int, added: int, ranks: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
    """The largest priority first, and of equal ones the newest id."""
    live = np.arange(oldest, added)
    ids[:] = live[np.lexsort((-live, -order[3][live % len(order[3])]))][ranks]


def order_ranks(order: Order, oldest: int, added: int, ids: NDArray[np.int64], ranks: NDArray[np.int64]) -> None:
    """How many live ids have a larger priority, or the same one and are newer."""
    live = np.arange(oldest, added)
    of = order[3][live % len(order[3])]
    for i, id_ in enumerate(ids):
        priority = order[3][id_ % len(order[3])]
        ranks[i] = ((of > priority) | ((of == priority) & (live > id_))).sum()


def deck_add(deck: Deck, first_id: int, n: int) -> None:
    """Each slot is put at the end where it is new, and then in front of those that have been dealt."""
    cards, places, counts = deck
    for id_ in range(first_id, first_id + n):
        slot = id_ % len(cards)
        if counts[1] < len(cards):
            cards[counts[1]] = slot
            places[slot] = counts[1]
            counts[1] += 1
        if places[slot] >= counts[0]:
            _swap(deck, int(places[slot]), int(counts[0]))
            counts[0] += 1


def deck_deal(deck: Deck, kept: int, uniforms: NDArray[np.float64], slots: NDArray[np.int64]) -> None:
    """Any of the waiting ones but the first `kept`, which changes places with the last of them."""
    cards, _, counts = deck
    for i, uniform in enumerate(uniforms):
        last = int(counts[0]) - 1
        _swap(deck, kept + int(uniform * (last + 1 - kept)), last)
        slots[i] = cards[last]
        counts[0] = last


def deck_drop(deck: Deck, first_id: int, n: int) -> None:
    """Each slot becomes the last of those it is among, waiting or dealt; then the last of all, which is taken off."""
    cards, places, counts = deck
    for id_ in range(first_id, first_id + n):
        place = int(places[id_ % len(cards)])
        if place < counts[0]:
            counts[0] -= 1
            _swap(deck, place, int(counts[0]))
            place = int(counts[0])
        counts[1] -= 1
        _swap(deck, place, int(counts[1]))


def spread(uniforms: NDArray[np.float64], oldest: int, size: int, ids: NDArray[np.int64]) -> None:
    """Uniform numbers in [0, 1) to ids in [oldest, oldest + size)."""
    ids[:] = oldest + (uniforms * size).astype(np.int64)


def mark_drawn(
    cursor: NDArray[np.int64],
    capacity: int,
    bits: NDArray[np.uint8],
    seen: NDArray[np.int64],
    ids: NDArray[np.int64],
) -> int:
    """Clears the bits of what has left since, sets those of live ids, and counts; gives `added`."""
    added = int(cursor[0])
    oldest = max(int(cursor[1]), added - capacity)
    drawn = np.unpackbits(bits, bitorder="little")
    drawn[np.arange(seen[0], oldest) % capacity] = 0
    drawn[ids % capacity] = 1
    bits[:] = np.packbits(drawn, bitorder="little")
    seen[:] = oldest, drawn.sum()
    return added


def paired(ids: Any, values: Any) -> bool:
    """Whether these are plainly int64 [n] and float64 [n]: arrays that the kernels take as they are."""
    arrays = type(ids) is type(values) is np.ndarray and ids.dtype == np.int64 and values.dtype == np.float64
    if not (arrays and ids.ndim == 1 and ids.shape == values.shape):
        return False
    return all(a.flags.c_contiguous and a.flags.aligned and a.dtype.isnative for a in (ids, values))


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
    """The array's memory as bytes, one line a record; of its own memory where it is contiguous."""
    array = np.ascontiguousarray(array).reshape(-1) if array.ndim == 0 else np.ascontiguousarray(array)
    return array.view(np.uint8).reshape(len(array), -1) if array.size else np.empty((len(array), 0), np.uint8)


Stacks = list[tuple[int, NDArray[np.uint8]]]  # where in a record each leaf of observations goes: [n, frames, bytes]


def _goes_on(store: Store, before: int, oldest: int, obs: Stacks, i: int) -> bool:
    """Whether transition i goes on from row `before`: is it here, has it not ended, and does it lead to this obs?"""
    rows, *_, geometry = store
    row = rows[before % int(geometry[0])]
    if before < oldest or _ended(row) or row[LINKS[3]] == LAST_STEP:
        return False
    after = _next_stack(store, before, _stack(store, before, int(geometry[9]), bool(geometry[10]), oldest))
    return after is not None and all((after[:, at : at + item.shape[2]] == item[i]).all() for at, item in obs)


def _put_aside(store: Store, obs: Stacks, i: int) -> int:
    """Keeps the older frames of transition i; gives their place in the pool."""
    _, _, older, _, free_older, _, _, cursor, _ = store
    index = _take(free_older, cursor[4:])
    for at, item in obs:
        _bytes(older[index])[:, at : at + item.shape[2]] = item[i, :-1]
    return index


def _oldest(store: Store) -> int:
    return max(int(store[7][1]), int(store[7][0]) - int(store[8][0]))


def _take(free: NDArray[np.uint32], counts: NDArray[np.int64]) -> int:
    """A place in a pool: the last that was freed, or one more. `counts`: how many were ever used, how many are free."""
    if counts[1] > 0:
        counts[1] -= 1
        return int(free[counts[1]])
    counts[0] += 1
    return int(counts[0]) - 1


def _give_back(free: NDArray[np.uint32], counts: NDArray[np.int64], index: int) -> None:
    if index != NONE:
        free[counts[1]] = index
        counts[1] += 1


def _stack(store: Store, id_: int, frames: int, zero: bool, oldest: int) -> NDArray[np.uint8] | None:
    """The frames of a row's observation, oldest first: bytes [frames, …]; None where a needed row has left."""
    rows, _, older, *_, geometry = store
    slot, size = id_ % int(geometry[0]), int(geometry[8])
    own = _bytes(rows)[slot : slot + 1, :size]
    if frames == 1:
        return own
    if geometry[11] >= 0 and rows[STACK_LINKS[0]][slot] != NONE:
        before = _bytes(older[rows[STACK_LINKS[0]][slot]])[older.shape[1] - (frames - 1) :]
    elif rows[LINKS[1]][slot] == 0:
        before = np.repeat(np.zeros_like(own) if zero else own, frames - 1, axis=0)
    else:
        previous = id_ - int(rows[LINKS[1]][slot])
        found = _stack(store, previous, frames - 1, zero, oldest) if previous >= oldest else None
        if found is None:
            return None
        before = found
    return np.concatenate([before, own])


def _next_stack(store: Store, id_: int, stack: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """The frames of the observation after a row whose own are `stack`; None where they are needed and have left."""
    rows, tails, older, *_, geometry = store
    slot, size = id_ % int(geometry[0]), int(geometry[8])
    ahead = int(rows[LINKS[0]][slot])
    after = (id_ + ahead) % int(geometry[0])
    own = _bytes(rows)[after : after + 1, :size] if ahead else _bytes(tails)[rows[LINKS[2]][slot]][np.newaxis]
    aside = NONE
    if geometry[11] >= 0:
        aside = rows[STACK_LINKS[0]][after] if ahead else rows[STACK_LINKS[1]][slot]
    if aside != NONE:
        return np.concatenate([_bytes(older[aside]), own])
    return None if stack is None else np.concatenate([stack[1:], own])


def _swap(deck: Deck, a: int, b: int) -> None:
    cards, places, _ = deck
    cards[[a, b]] = cards[[b, a]]
    places[cards[[a, b]]] = a, b


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
