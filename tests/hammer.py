"""Drives every kernel through the public paths, with odd sizes; run by test_sanitizers.py in a process of its own.

usage: python hammer.py NATIVE_MODULE [overflow]

It asserts little: the sanitizers that NATIVE_MODULE was built with watch every byte. With `overflow` it reads past the
end of an array on purpose, to show that they do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from typing import Any

import numpy as np


def load(path: str) -> Any:
    """Puts the module at `path` in the place of `replaybank._native`."""
    spec = importlib.util.spec_from_file_location("replaybank._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["replaybank._native"] = module
    spec.loader.exec_module(module)
    return module


native = load(sys.argv[1])

import replaybank as rb  # noqa: E402  after the module it should use
from replaybank import kernels  # noqa: E402
from replaybank.rows import Rows  # noqa: E402
from replaybank.samplers.sum_tree import Tree  # noqa: E402

assert kernels.append is native.append

DTYPES = ("?", "b", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "g", "F", "D")


def random_leaf(rng: np.random.Generator, big: bool) -> Any:
    shapes = [(), (0,), (1,), (3,), (7,), (2, 0, 3), (2, 3), (5, 1, 2), (4,), (8,), (33,)]
    shape = (3001,) if big else shapes[rng.integers(len(shapes))]
    return (DTYPES[rng.integers(len(DTYPES))], shape)


def random_node(rng: np.random.Generator, depth: int, big: bool = False) -> Any:
    if depth == 0 or rng.random() < 0.4:
        return random_leaf(rng, big)
    children = [random_node(rng, depth - 1) for _ in range(rng.integers(1, 5))]
    return children if rng.random() < 0.5 else {f"part{i}": child for i, child in enumerate(children)}


def values(rng: np.random.Generator, node: Any, lead: tuple[int, ...]) -> Any:
    if isinstance(node, dict):
        return {name: values(rng, child, lead) for name, child in node.items()}
    if isinstance(node, list):
        return tuple(values(rng, child, lead) for child in node)
    dtype, shape = node
    return rng.integers(0, 2, (*lead, *shape)).astype(dtype)


def random_life(seed: int) -> None:
    """A buffer of a random shape lives: links, ends, wraps, is sampled, updated, cleared."""
    rng = np.random.default_rng(seed)
    capacity, streams = int(rng.integers(1, 71)), int(rng.choice([1, 1, 2, 3, 8, 17]))
    big = seed % 10 == 0
    spec = {
        "obs": random_node(rng, 2, big),
        "action": random_node(rng, 1),
        "reward": (str(rng.choice(["f4", "f8"])), [(), (2,), (0,)][rng.integers(3)]),
        **{f"extra{i}": random_node(rng, 1) for i in range(rng.choice([0, 0, 1, 40]))},
    }
    if seed % 3 == 0:
        spec = {"obs": ("float32", (int(rng.integers(0, 9)),)), "action": ("int64", ()), "reward": ("float32", ())}
    samplers = (
        rb.Uniform(),
        rb.Uniform(replace=False),
        rb.Prioritized(),
        rb.Prioritized(1.0, 1.0, 0.0, "buffer"),
        rb.Prioritized(0.0, weight_norm=None),
        rb.Prioritized(min_priority=0.1),
        rb.RankPrioritized(),
        rb.RankPrioritized(1.0, weight_norm="buffer"),
        rb.Recent(0.99, 7, 3),
        rb.Combined(rb.RankPrioritized(), newest=2),
        rb.Mixture([(0.5, rb.RankPrioritized()), (0.3, rb.Uniform()), (0.2, rb.Prioritized())], beta=0.5),
        rb.SampleOnce(),
    )
    sampler = samplers[seed % len(samplers)]
    buffer = rb.ReplayBuffer(capacity, spec, streams, sampler, rb.NStep(1, 0.9), seed)
    before: list[Any] = [None] * streams
    for turn in range(30):
        chosen = int(rng.integers(streams))
        n = int(rng.choice([1, 2, 5, capacity, 2 * capacity + 1]))
        lone = turn % 2 == 0
        lead: tuple[int, ...] = (n,) if lone else (streams,) if streams > 1 else ()
        fields = {name: values(rng, node, lead) for name, node in spec.items()}
        fields["next_obs"] = values(rng, spec["obs"], lead)
        fields["terminated"] = rng.random(lead) < 0.1
        fields["truncated"] = np.zeros(lead, bool) if turn % 5 else (rng.random(lead) < 0.1)
        if not lone and before[0] is not None and turn % 3:
            fields["obs"] = before[0]
        if lone:
            buffer.extend(**fields, stream=chosen)
        else:
            buffer.add(**fields)
            before[0] = fields["next_obs"]
        for size in (1, int(rng.integers(1, 18)), 130):
            if not sampler.distinct or size <= len(buffer):
                buffer.view.n = int(rng.integers(1, 18))  # type: ignore[attr-defined]
                with contextlib.suppress(ValueError):  # all priorities may be 0
                    batch = buffer.sample(size)
                    errors = rng.normal(size=size) * (rng.random(size) < 0.8)
                    buffer.update_priorities(batch.indices, errors)
        if turn % 10 == 9:
            buffer.view = rb.Transition(0.5)
        else:
            buffer.view = rb.NStep(3, 0.5)
        newest = buffer.stats()["added"] - 1
        buffer.update_priorities(rng.integers(0, newest + 1, 200), rng.normal(size=200))
        for wrong in ([newest + 1], [2**63 - 1], [-(2**63)], [-1]):
            with contextlib.suppress(ValueError):
                buffer.update_priorities(wrong, [1.0])
        rows = buffer._rows
        assert rows is not None
        if len(buffer):
            ids = rng.integers(rows.oldest, rows.added, 17)
            for steps in (0, 1, 5, capacity + 3):
                for forward in (True, False):
                    rows.walk(ids, steps, forward)
                    rows.follow(ids, rng.integers(0, steps + 1, 17), forward)
                if turn % 3 == 0:
                    buffer.read(ids, rb.Sequence(steps + 1, across_episodes=bool(turn % 2)))
        if turn % 7 == 0:
            buffer.end()
        if hasattr(buffer.sampler, "alpha"):
            buffer.sampler.alpha = float(rng.choice([0.0, 0.5, 1.0]))
        buffer.check_valid()
        if turn == 20:
            buffer.clear()


def stacks(seed: int) -> None:
    """Stacks that are shifted, or not, or padded, in buffers of odd sizes; read alone and over several steps."""
    rng = np.random.default_rng(seed)
    capacity, streams, k = int(rng.integers(1, 40)), int(rng.integers(1, 4)), int(rng.integers(1, 6))
    leaf = (str(rng.choice(["u1", "f8", "i2"])), (k * int(rng.integers(1, 3)), int(rng.integers(1, 70))))
    spec = {"obs": {"a": leaf, "b": ("f4", (k,))}, "action": "int64"}
    view = rb.FrameStack(k, padding=("reset", "zero")[seed % 2], view=rb.NStep(3, 0.9) if seed % 3 else None)
    buffer = rb.ReplayBuffer(capacity, spec, streams, view=view, seed=seed)
    lead = (streams,) if streams > 1 else ()
    obs = values(rng, spec["obs"], lead)
    for _ in range(60):
        after = values(rng, spec["obs"], lead)
        if rng.random() < 0.8:  # shifted by a frame
            for name, array in after.items():
                width = array.shape[len(lead)] // k
                cut = (slice(None),) * len(lead)
                array[(*cut, slice(0, -width))] = obs[name][(*cut, slice(width, None))]
        if rng.random() < 0.1:
            obs = {name: np.zeros_like(array) for name, array in after.items()}
        buffer.add(obs, np.zeros(lead, int), np.zeros(lead), after, rng.random(lead) < 0.1, rng.random(lead) < 0.05)
        obs = after
        with contextlib.suppress(ValueError):  # all stacks may have lost a frame
            buffer.sample(int(rng.integers(1, 30)))
        buffer.check_valid()


def forged_links(seed: int) -> None:
    """Rows as a checkpoint that somebody made up may have them: refused, or as good as any."""
    rng = np.random.default_rng(seed)
    streams, stacked = int(rng.integers(1, 4)), seed % 2 == 0
    view = rb.FrameStack(3) if stacked else rb.NStep(3, 0.9)
    buffer = rb.ReplayBuffer(int(rng.integers(1, 40)), {"obs": ("u1", (3, 2)), "action": "?"}, streams, view=view)
    lead = (streams,) if streams > 1 else ()

    def add(times: int) -> None:
        for _ in range(times):
            obs = rng.integers(0, 2, (2, *lead, 3, 2)).astype("u1")
            off = np.zeros(lead, bool)
            buffer.add(obs[0], off, np.zeros(lead), obs[1], rng.random(lead) < 0.1, off)

    add(int(rng.integers(1, 30)))
    rows = buffer._rows
    assert rows is not None
    live = np.arange(rows.oldest, rows.added) % rows.capacity
    links = [name for name in rows.data.dtype.names or () if name.startswith("link_")]
    odd = (0, 1, 2, 3, rows.capacity, 2**31, 2**32 - 2, 2**32 - 1)
    for _ in range(int(rng.integers(0, 4))):
        rows.data[str(rng.choice(links))][rng.choice(live)] = rng.choice(odd)
        rows.newest[rng.integers(streams)] = rng.integers(-2 - rows.added, rows.added)
        rows.onward[rng.integers(len(rows.onward))] = rng.choice(odd)
    if kernels.relink(rows._store) >= 0:
        return
    rows.check_valid()
    ids = np.arange(rows.oldest, rows.added)
    for forward in (True, False):
        rows.walk(ids, 50, forward)
    with contextlib.suppress(ValueError):  # all stacks may have lost a frame
        buffer.sample(9)
    if not stacked:
        buffer.read(ids[-1:], rb.Sequence(30, across_episodes=True))
    add(50)
    buffer.check_valid()


def trees() -> None:
    """Every kernel of the tree, every number of lanes, sizes on both sides of whole families and registers."""
    rng = np.random.default_rng(0)
    for capacity in (*range(1, 71), 511, 512, 513, 4100):
        for combine in (kernels.SUM, kernels.MAX, kernels.MIN_POSITIVE):
            tree = Tree(capacity, combine)
            tree.fill(capacity // 2, capacity, 1.0)
            tree.fill(capacity - 1, min(2, capacity), 2.0)
            tree.fill(5, 0, 2.0)
            for n in (0, 1, 3, 17, 300):
                tree.update(rng.integers(0, 3 * capacity, n), rng.random(n), capacity + 1, 2 * capacity + 1)
            tree.build()
            tree.check_valid()
            if combine != kernels.SUM:
                continue
            for lanes in (1, 4, 8):
                if lanes > kernels.LANES:
                    continue
                for n in (*range(18), 64, 257):
                    for uniforms in (rng.random(n), np.zeros(n), np.full(n, np.nextafter(1.0, 0.0))):
                        ids, found = np.empty(n, np.int64), np.empty(n)
                        kernels.tree_find(
                            tree._tree, capacity, capacity + 1, 2 * capacity + 1, uniforms, ids, found, lanes
                        )


class Subclass(np.ndarray):
    """What NumPy's own tests of scalars mistake for a scalar where it has no axes."""


def odd_arguments() -> None:
    """Everything that Python lets through to `append`, in every place of a flat buffer. What is refused is refused."""
    odd: list[Any] = [
        None, True, 1, -1, 2**63 - 1, 2**63, -(2**63), 2**200, 1.5, float("nan"), float("inf"), 1e300, 1e-320, 1j,
        "1", b"1", [], [1], [[1], [1, 2]], (), {}, {1}, object(), Ellipsis, slice(None), int, rb,
        *(np.array(1).astype(code)[()] for code in "?bBhHiIlLqQefdgFDG"),
        *(np.ones(shape, code) for code in "?qfdgG" for shape in ((), (1,), (3,), (3, 1), (0,), (2, 3), (3, 3))),
        *(np.ones(shape, code).view(Subclass) for code in "?lfd" for shape in ((), (3,))),
        np.datetime64("2020-01-01"), np.timedelta64(1), np.str_("1"), np.bytes_(b"1"), np.void(b"1234"),
        np.zeros((), [("x", "f4")])[()], np.ma.masked, np.ma.array(1.0), np.ones(3, ">f4"), np.ones(6, "f4")[::2],
        np.ones(3, "f4")[::-1], np.frombuffer(b"x" * 13, "f4", offset=1), np.frombuffer(b"\x02", bool)[0],
        np.frombuffer(b"\x02", bool).reshape(()), np.array([1, None, 2]), np.broadcast_to(np.float32(1), 3),
    ]  # fmt: skip
    good = [np.ones(3, np.float32), 1, 1.0, np.ones(3, np.float32), False, False]
    spec = {"obs": ("float32", (3,)), "action": "int64"}
    kinds = [spec, {**spec, "reward": "float64", "action": "uint8"}, {**spec, "action": "longdouble"}]
    buffers = [rb.ReplayBuffer(5, kind) for kind in kinds] + [rb.ReplayBuffer(5, spec, streams=3)]
    for buffer in buffers:
        for place in range(6):
            for value in odd:
                arguments = [*good]
                arguments[place] = value
                with contextlib.suppress(TypeError, ValueError):
                    buffer.add(*arguments)
                with contextlib.suppress(TypeError, ValueError):
                    buffer.extend(*arguments)
        buffer.check_valid()
        if len(buffer):
            buffer.sample(9)


def crowd() -> None:
    """Several threads on one buffer, with batches and rows large enough to release the GIL."""
    buffer = rb.ReplayBuffer(300, streams=4, sampler=rb.Prioritized(), view=rb.NStep(3, 0.9), seed=0, threads=3)
    wide, off = np.ones((4, 2000), np.float32), np.zeros(4, bool)

    def add() -> None:
        for t in range(150):
            buffer.add(wide * t, off, off, wide * (t + 1), off, off)

    def learn() -> None:
        for _ in range(80):
            batch = buffer.sample(100)
            buffer.update_priorities(batch.indices, batch.reward)
        for _ in range(20):
            buffer.sample(400)  # so large that the work is split

    add()
    threads = [threading.Thread(target=work) for work in (add, add, learn, learn)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.check_valid()


def rings(seed: int) -> None:
    """A ring between two ends in this process: random messages that wrap around and drop, then hostile bytes.

    Whatever another process has written there, the reader must stay within the file and within the rows.
    """
    rng = np.random.default_rng(seed)
    spec = {"obs": random_node(rng, 2), "action": random_node(rng, 1), "reward": ("f8", ())}
    stacked = seed % 4 == 0
    if stacked:
        spec = {"obs": ("u1", (4, 3)), "action": ("i8", ()), "reward": ("f4", ())}
    schema = rb.ReplayBuffer(1, spec).schema
    assert schema is not None
    view = rb.FrameStack(4) if stacked else rb.Transition()
    rows = Rows(schema, int(rng.integers(1, 60)), 5, view.stack(schema))
    size = 64 * int(rng.integers(1, 80))
    whole = np.zeros(4096 + size + 64, np.uint8)
    file = whole[-whole.ctypes.data % 64 :][: 4096 + size]  # as a mapped file: at the start of a cache line
    words = file[:1024].view(np.int64)
    words[48] = -1
    near, far = (file, 4096, np.zeros(4, np.int64)), (file, 4096, np.zeros(4, np.int64))
    streams = np.array([3, 1], np.int64)
    largest = size // max(1, sum(leaf.nbytes for leaf in schema.leaves))
    for turn in range(150):
        n = int(rng.choice([1, 2, 7, 40]))
        masked = turn % 3 == 0
        owners = np.flatnonzero(rng.random(n) < 0.5) if masked else rng.integers(0, 2, n)
        if masked:
            owners = owners[:2] % 2
        lone = turn % 2 == 1
        given = tuple(
            np.ascontiguousarray(np.broadcast_to(rng.integers(0, 2), (n, *leaf.shape)).astype(leaf.dtype))
            for leaf in schema.leaves
        )
        drop = bool(rng.random() < 0.7)
        if lone:
            kernels.channel_push(near, rows.plan, given, n, None, int(rng.integers(2)), False, drop)
        elif len(owners) and (masked or len(owners) == n):
            kernels.channel_push(near, rows.plan, given, n, owners.astype(np.int64), -1, masked, drop)
        kernels.channel_end(near, rng.integers(0, 2, 2), drop)
        if turn > 50 and turn % 5 == 0:
            for _ in range(rng.integers(1, 6)):
                value = rng.choice([0, 1, -1, 3, 63, 64, 65, size, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
                place = rng.choice([16, 32, 48, 49, 64, 65, 66, 67, 68, -1, -1, -1])
                if place < 0:
                    place = 512 + (words[32] % size // 8 + rng.integers(-8, 12)) % (size // 8)
                file.view(np.int64)[place] = value
        rows.drain(far, streams, int(rng.integers(1, 100)), largest)
        rows.check_valid()
        if turn > 50 and turn % 15 == 0:  # a new pair of processes
            file[:] = rng.integers(0, 256, len(file), dtype=np.uint8) if turn % 2 else 0
            words[:] = 0
            words[48] = -1
            near[2][:], far[2][:] = 0, 0


if sys.argv[2:] == ["overflow"]:
    tree = Tree(100)
    kernels.tree_build((tree.nodes.copy(), tree._levels * 3), kernels.SUM)
    sys.exit("read past the end, and nothing noticed")

trees()
odd_arguments()
for seed in range(60):
    random_life(seed)
    stacks(seed)
    rings(seed)
for seed in range(300):
    forged_links(seed)
crowd()
print("clean")
