"""What `inspect` tells of a buffer, against plain-Python books of everything that was added, drawn and updated."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank import usage
from replaybank.inspection import Inspection, episodes, fields, inspect, use
from replaybank.inspection.histograms import Bins
from replaybank.inspection.report import Distribution, Field, Histogram

SCHEMA = {
    "obs": {"camera": ("uint8", (3, 3)), "parts": [("float32", (2,)), "bool"]},
    "action": "int64",
    "reward": "float32",
    "log_prob": "float64",
    "phase": "complex64",
    "flag": ("int8", (2,)),
}


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, so that small buffers have many."""
    monkeypatch.setattr(fields, "PIECE_NBYTES", 1000)
    monkeypatch.setattr(episodes, "IDS", 32)
    monkeypatch.setattr(use, "CHUNK", 16)


class Books:
    """A buffer's life: random streams that end, jump, are reset and masked; and a list of all that was added.

    `told`: id, stream, segment, fields. A segment goes on where next_obs is the next obs and nothing ended.
    """

    def __init__(self, buffer: rb.ReplayBuffer, seed: int) -> None:
        self.buffer, self.rng = buffer, np.random.default_rng(seed)
        self.streams = buffer.streams
        self.told: list[dict[str, Any]] = []
        self.drawn: set[int] = set()
        self.calls_at: list[int] = []  # by id: calls of sample before it came
        self.calls = self.sampled = 0
        self.obs = [self.observation() for _ in range(self.streams)]
        self.segment = list(range(self.streams))
        self.fresh = [True] * self.streams
        self.closed = [False] * self.streams
        self.next_segment = self.streams
        self.last_end = [False] * self.streams

    def observation(self) -> dict[str, Any]:
        rng = self.rng
        camera = rng.integers(0, 4, (3, 3)).astype(np.uint8)
        camera[0] = 7
        parts = rng.normal(size=2).astype(np.float32)
        if rng.random() < 0.05:
            parts[1] = rng.choice([np.nan, np.inf, -np.inf])
        return {"camera": camera, "parts": (parts, bool(rng.random() < 0.5))}

    def begin(self, stream: int) -> None:
        self.segment[stream], self.next_segment = self.next_segment, self.next_segment + 1

    def step(self) -> None:
        rng = self.rng
        mask = rng.random(self.streams) < 0.8 if self.streams > 1 else np.ones(1, bool)
        after = [self.observation() for _ in range(self.streams)]
        rows = []
        for stream in range(self.streams):
            if mask[stream] and not self.fresh[stream] and rng.random() < 0.04:  # a jump
                self.obs[stream] = self.observation()
                self.begin(stream)
            fields = {
                "action": int(rng.integers(-2, 3)),
                "reward": float(np.float32(rng.normal())),
                "log_prob": float(rng.choice([np.nan, -1.5, 2.25], p=[0.02, 0.49, 0.49])),
                "phase": complex(np.complex64(rng.normal() + 2j)),
                "flag": np.array([5, rng.integers(0, 100)], np.int8),
                "terminated": bool(rng.random() < 0.06),
                "truncated": bool(rng.random() < 0.03),
            }
            rows.append({**fields, "obs": self.obs[stream], "next_obs": after[stream], "stream": stream})
        names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
        extras = {name: [row[name] for row in rows] for name in ("log_prob", "phase", "flag")}
        standard = [_stacked([row[name] for row in rows]) for name in names]
        if self.streams == 1:
            first = [_first(value) for value in standard]
            self.buffer.add(*first, **{name: np.array(value)[0] for name, value in extras.items()})
        else:
            self.buffer.add(*standard, mask=mask, **{name: np.array(value) for name, value in extras.items()})
        for stream in np.flatnonzero(mask).tolist():
            row = rows[stream]
            self.told.append({**row, "segment": self.segment[stream], "id": len(self.told)})
            self.calls_at.append(self.calls)
            self.closed[stream] = False
            self.fresh[stream] = row["terminated"] or row["truncated"]
            self.obs[stream] = after[stream]
            if self.fresh[stream]:
                self.begin(stream)
                self.obs[stream] = self.observation()
        if rng.random() < 0.03:
            ends = rng.random(self.streams) < 0.5
            self.buffer.end(ends)
            for stream in np.flatnonzero(ends).tolist():
                if not self.fresh[stream]:
                    self.begin(stream)
                    self.closed[stream], self.fresh[stream] = True, True
        if rng.random() < 0.3:
            n = int(rng.integers(1, 6))
            self.drawn |= set(self.buffer.sample(n).indices.tolist())
            self.calls += 1
            self.sampled += n

    @property
    def live(self) -> list[dict[str, Any]]:
        return self.told[-self.buffer.capacity :]

    def segments(self) -> dict[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = {}
        for row in self.told:
            found.setdefault(row["segment"], []).append(row)
        return found

    def kinds(self) -> dict[str, list[list[dict[str, Any]]]]:
        """The live parts of segments, by what they are."""
        oldest = self.live[0]["id"]
        kinds: dict[str, list[list[dict[str, Any]]]] = {"whole": [], "beginning_left": [], "open": [], "broken_off": []}
        current = {self.segment[s] for s in range(self.streams)}
        for segment, rows in self.segments().items():
            live = [row for row in rows if row["id"] >= oldest]
            if not live:
                continue
            if live[-1]["terminated"] or live[-1]["truncated"]:
                kinds["whole" if live[0] is rows[0] else "beginning_left"].append(live)
            else:
                kinds["open" if segment in current else "broken_off"].append(live)
        return kinds


def _stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _stacked([value[name] for value in values]) for name in values[0]}
    if isinstance(values[0], tuple):
        return tuple(map(_stacked, map(list, zip(*values, strict=True))))
    return np.array(values)


def _first(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _first(child) for name, child in value.items()}
    return tuple(map(_first, value)) if isinstance(value, tuple) else value[0]


def lived(capacity: int, streams: int, steps: int, seed: int, **parts: Any) -> Books:
    books = Books(rb.ReplayBuffer(capacity, SCHEMA, streams, seed=seed, **parts), seed)
    for _ in range(steps):
        books.step()
    books.buffer.check_valid()
    return books


CASES = [(500, 1, 120), (60, 1, 300), (500, 3, 100), (50, 4, 200), (9, 2, 60)]


@pytest.mark.parametrize(("capacity", "streams", "steps"), CASES)
def test_only_whole_episodes_are_in_lengths_and_returns(capacity: int, streams: int, steps: int) -> None:
    books = lived(capacity, streams, steps, seed=capacity + streams)
    found = inspect(books.buffer).episodes
    kinds = books.kinds()
    for name, segments in kinds.items():
        count = getattr(found, name)
        assert (count.runs, count.transitions) == (len(segments), sum(map(len, segments))), name
    whole = kinds["whole"]
    assert found.terminated == sum(segment[-1]["terminated"] for segment in whole)
    assert found.truncated == sum(segment[-1]["truncated"] for segment in whole)
    if whole:
        assert found.lengths is not None
        assert_distribution(found.lengths, [len(segment) for segment in whole])
        (returns,) = found.returns
        assert_distribution(returns, [math.fsum(row["reward"] for row in segment) for segment in whole])


def test_an_episode_that_was_broken_off_is_not_open() -> None:
    buffer = rb.ReplayBuffer(9, {"obs": "float32", "action": "int64"})
    buffer.add(0, 0, 1.0, 1, False, False)
    assert inspect(buffer).episodes.open.runs == 1
    buffer.end()
    found = inspect(buffer)
    assert (found.episodes.open.runs, found.episodes.broken_off.runs) == (0, 1)
    assert any("break off" in note for note in found.notes)


def test_each_kind_of_episode_was_there() -> None:
    books = lived(50, 4, 190, 54)
    assert {name: len(segments) > 0 for name, segments in books.kinds().items()} == dict.fromkeys(
        ("whole", "beginning_left", "open", "broken_off"), True
    )


@pytest.mark.parametrize(("capacity", "streams", "steps"), [case for case in CASES if case[1] > 1])
def test_transitions_and_episodes_are_told_by_stream(capacity: int, streams: int, steps: int) -> None:
    books = lived(capacity, streams, steps, seed=capacity + streams)
    found = inspect(books.buffer).streams
    by_stream = Counter(row["stream"] for row in books.live)
    whole = Counter(segment[0]["stream"] for segment in books.kinds()["whole"])
    assert found.transitions == tuple(by_stream[stream] for stream in range(streams))
    assert found.episodes == tuple(whole[stream] for stream in range(streams))
    assert found.never_added == 0


def test_streams_that_never_added_are_counted() -> None:
    buffer = rb.ReplayBuffer(9, {"obs": "float32", "action": "int64"}, streams=3)
    zeros = np.zeros(3, int)
    buffer.add(zeros, zeros, zeros, zeros, zeros, zeros, mask=np.array([True, False, False]))
    found = inspect(buffer)
    assert (found.streams.never_added, found.streams.transitions) == (2, (1, 0, 0))
    assert any("2 of 3 streams" in note for note in found.notes)


def assert_distribution(found: Distribution, values: list[float]) -> None:
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    assert found.count == len(values)
    assert (found.low, found.high) == pytest.approx((ordered[0], ordered[-1]), rel=1e-12)
    assert (found.mean, found.median) == pytest.approx((math.fsum(values) / len(values), middle), rel=1e-9, abs=1e-12)
    assert_histogram(found.histogram, values, 1e-9)


def assert_histogram(found: Histogram | None, values: list[float], slack: float = 0.0) -> None:
    """Counted by comparing each value with each edge; with slack, values that near an edge may be on either side."""
    assert found is not None
    edges = found.edges
    assert list(edges) == sorted(set(edges))
    assert sum(found.counts) == len(values)
    assert edges[0] - slack <= min(values) <= max(values) <= edges[-1] + slack
    for at, count in enumerate(found.counts):
        last = at == len(found.counts) - 1
        inner = [v for v in values if edges[at] + slack < v < edges[at + 1] - slack]
        near = [v for v in values if abs(v - edges[at]) <= slack or abs(v - edges[at + 1]) <= slack]
        near = near if slack else [v for v in values if v == edges[at] or (last and v == edges[-1])]
        assert (len(inner) <= count <= len(inner) + len(near)) if slack else count == len(inner) + len(near)


# ---- fields ----


def components(values: list[Any]) -> list[list[float]]:
    """By component the values of all items."""
    items = [np.ravel(value).tolist() for value in values]
    items = [[part for z in item for part in ((z.real, z.imag) if isinstance(z, complex) else (z,))] for item in items]
    return [list(column) for column in zip(*items, strict=True)]


def assert_field(found: Field, ids: list[int], values: list[Any], binned: bool) -> None:
    columns = components(values)
    every = [value for column in columns for value in column]
    finite = [value for value in every if math.isfinite(value)]
    assert found.items == len(values)
    assert found.components == len(columns)
    assert found.nan == sum(map(math.isnan, every))
    assert found.infinite == sum(map(math.isinf, every))
    assert (found.low, found.high) == (min(finite), max(finite))
    assert found.mean == pytest.approx(math.fsum(finite) / len(finite), rel=1e-9, abs=1e-9)
    bad = [id_ for at, id_ in enumerate(ids) if not all(math.isfinite(column[at]) for column in columns)]
    assert found.first_bad == (min(bad) if bad else None)
    same = [len({"nan" if math.isnan(v) else v for v in column}) == 1 for column in columns]
    assert found.constant == sum(same)
    assert len(found.histograms) == (len(columns) if binned else 0)
    for column, constant, histogram in zip(columns, same, found.histograms, strict=False):
        if constant:
            assert histogram is None
        else:
            assert_histogram(histogram, [float(value) for value in column if math.isfinite(value)])


@pytest.mark.parametrize(("capacity", "streams", "steps"), CASES)
def test_ranges_nans_and_constants_are_those_of_all_values(capacity: int, streams: int, steps: int) -> None:
    books = lived(capacity, streams, steps, seed=capacity * streams)
    by_name = {field.name: field for field in inspect(books.buffer).fields}
    live = books.live
    ids = [row["id"] for row in live]
    for name in ("action", "reward", "log_prob", "phase", "flag", "terminated", "truncated"):
        assert_field(by_name[name], ids, [row[name] for row in live], binned=True)
    lasts = sorted((s[-1] for kind in books.kinds().values() for s in kind), key=lambda row: row["id"])
    for name, rows in (("obs", live), ("next_obs", lasts)):
        of = [row["id"] for row in rows]
        assert_field(by_name[f'{name}["camera"]'], of, [row[name]["camera"] for row in rows], binned=False)
        floats = by_name[f'{name}["parts"]["0"]']
        assert_field(floats, of, [row[name]["parts"][0] for row in rows], binned=name == "obs")
        assert_field(
            by_name[f'{name}["parts"]["1"]'], of, [row[name]["parts"][1] for row in rows], binned=name == "obs"
        )
    assert by_name['obs["camera"]'].constant_at[:3] == ((0, 0), (0, 1), (0, 2))
    assert by_name["flag"].constant_at == ((0,),)


def test_sizes_are_those_of_the_records() -> None:
    books = lived(60, 2, 100, 1)
    found = inspect(books.buffer)
    sizes = {field.name: (field.dtype, field.shape, field.bytes_each, field.bytes_total) for field in found.fields}
    assert sizes['obs["camera"]'] == ("uint8", (3, 3), 9, 540)
    assert sizes["phase"] == ("complex64", (), 8, 480)
    assert found.memory.total == books.buffer.nbytes
    record = sum(field.bytes_each for field in found.fields if field.kind == "transition") + found.memory.links_each
    assert found.memory.transitions == 60 * record


def test_stacks_are_told_of_as_the_frames_that_are_kept() -> None:
    rng = np.random.default_rng(0)
    buffer = rb.ReplayBuffer(40, {"obs": ("uint8", (4, 5, 5)), "action": "int64"}, view=rb.FrameStack(4), seed=0)
    stack = rng.integers(0, 250, (4, 5, 5)).astype(np.uint8)  # no padding: the older frames are kept aside
    for _ in range(10):
        after = np.concatenate([stack[1:], rng.integers(0, 250, (1, 5, 5))]).astype(np.uint8)
        buffer.add(stack, 0, 0.0, after, False, False)
        stack = after
    obs, *_, following, older = inspect(buffer).fields
    assert (obs.shape, obs.bytes_each, obs.items) == ((1, 5, 5), 25, 10)
    assert (following.name, following.items) == ("next_obs", 1)
    assert (older.kind, older.items) == ("older frame", 3)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint64", [0, 2**64 - 1, 5]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("int8", [-128, 127]),
        ("float64", [-1.7e308, 1.7e308, 0.0]),
        ("float64", [1.7e308, 1.6e308, 1.5e308]),
        ("float64", [5e-324, 1e-323, 0.0]),
        ("float64", [1.0, np.nextafter(1.0, 2.0)]),
        ("float16", [65504.0, -65504.0, np.inf]),
        ("float32", [np.nan, np.nan]),
        ("bool", [True, False, True]),
    ],
)
def test_the_ends_of_a_dtype_are_told_exactly(dtype: str, values: list[Any]) -> None:
    n = len(values)
    buffer = rb.ReplayBuffer(n, {"obs": "float32", "action": "int64", "x": dtype})
    zeros = np.zeros(n)
    buffer.extend(zeros, zeros.astype(int), zeros, zeros, zeros > 0, zeros > 0, x=np.array(values, dtype))
    found = inspect(buffer)
    field = {one.name: one for one in found.fields}["x"]
    finite = [value for value in values if math.isfinite(value)]
    assert (field.low, field.high) == ((min(finite), max(finite)) if finite else (None, None))
    assert sum(field.histograms[0].counts) == len(finite) if field.histograms[0] else field.constant == 1
    json.dumps(found.plain(), allow_nan=False)


@pytest.mark.parametrize("streams", [1, 2])
def test_an_empty_buffer_has_no_figures(streams: int) -> None:
    schema = {"obs": ("float32", (2,)), "action": "int64"}
    cleared = rb.ReplayBuffer(5, schema, streams, rb.Prioritized())
    cleared.extend(np.zeros((3, 2)), [0] * 3, np.zeros(3), np.zeros((3, 2)), [False] * 3, [False] * 3)
    cleared.clear()
    for buffer in (rb.ReplayBuffer(5, None, streams), rb.ReplayBuffer(5, schema, streams, rb.Prioritized()), cleared):
        found = inspect(buffer)
        assert (found.size, found.use, found.effective_size, found.priorities) == (0, None, None, ())
        assert (found.episodes.lengths, found.episodes.returns) == (None, ())
        assert all(field.low is None for field in found.fields)
        assert found.notes == ("the buffer holds nothing",)


def test_a_return_is_told_of_each_component_of_a_reward() -> None:
    buffer = rb.ReplayBuffer(9, {"obs": "float32", "action": "int64", "reward": ("float32", (2,))})
    for step in range(4):
        buffer.add(step, 0, [1, -step], step + 1, step == 3, False)
    assert [(one.low, one.count) for one in inspect(buffer).episodes.returns] == [(4.0, 1), (-6.0, 1)]


def test_a_very_long_episode_is_summed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "IDS", 4)
    books = lived(500, 1, 300, 8)
    lengths = [len(segment) for segment in books.kinds()["whole"]]
    assert max(lengths) > 12
    returns = [math.fsum(row["reward"] for row in segment) for segment in books.kinds()["whole"]]
    assert_distribution(inspect(books.buffer).episodes.returns[0], returns)


# ---- draws and priorities ----


def test_ages_and_what_was_never_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "time", lambda: 50.0)
    books = lived(60, 3, 120, 3)
    use = inspect(books.buffer).use
    assert use is not None
    live = [row["id"] for row in books.live]
    assert (use.calls, use.sampled) == (books.calls, books.sampled)
    assert use.never_sampled == sum(id_ not in books.drawn for id_ in live) / len(live)
    assert use.never_sampled == pytest.approx(books.buffer.stats()["never_sampled"])
    for age, id_ in ((use.oldest, live[0]), (use.middle, live[(len(live) - 1) // 2]), (use.newest, live[-1])):
        assert (age.id, age.added, age.seconds) == (id_, live[-1] - id_, 0.0)
        since = books.calls - books.calls_at[id_]
        assert since <= age.samples <= since + 1  # a mark is made at each call: that one may be counted, too
    bounds = [*use.slices, live[-1] + 1]
    for at, told in enumerate(use.never_sampled_by_slice):
        ids = range(bounds[at], bounds[at + 1])
        assert told == sum(id_ not in books.drawn for id_ in ids) / len(ids)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_priorities_are_those_that_were_set(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    books = lived(50, 2, 60, seed, sampler=rb.Prioritized(alpha=alpha, epsilon=0.0))
    ids = [row["id"] for row in books.live]
    priorities = rng.choice([0.0, 0.5, 1.0, 7.0, *rng.exponential(size=9)], len(ids))
    books.buffer.update_priorities(ids, priorities)
    found = inspect(books.buffer, top=7)
    assert found.priorities is not None
    (one,) = found.priorities
    told = dict(zip(ids, priorities.tolist(), strict=True))
    masses = {id_: p**alpha for id_, p in told.items()}
    total = math.fsum(masses.values())
    probability = {id_: mass / total for id_, mass in masses.items()}
    assert (one.low, one.high, one.zeros) == (min(told.values()), max(told.values()), list(told.values()).count(0.0))
    assert one.mean == pytest.approx(math.fsum(told.values()) / len(told))
    effective = 1 / math.fsum(p * p for p in probability.values())
    assert (one.effective_size, found.effective_size) == pytest.approx((effective, effective))
    positive = [p for p in told.values() if p > 0]
    assert_histogram(one.histogram, positive)
    edges = one.histogram.edges if one.histogram else ()
    for at, share in enumerate(one.draws):
        last = at == len(one.draws) - 1
        within = [i for i, p in told.items() if p > 0 and edges[at] <= p and (p < edges[at + 1] or last)]
        assert share == pytest.approx(math.fsum(probability[id_] for id_ in within), abs=1e-12)
    expected = sorted(ids, key=lambda id_: (-told[id_], -id_))[:7]
    rows = {row["id"]: row for row in books.live}
    assert [of.id for of in one.top] == expected
    for of in one.top:
        row = rows[of.id]
        assert of.priority == told[of.id]
        assert of.probability == pytest.approx(probability[of.id])
        assert of.likely == pytest.approx(probability[of.id] * len(ids))
        assert (of.action, of.reward) == (row["action"], row["reward"])
        assert (of.terminated, of.truncated, of.sampled) == (row["terminated"], row["truncated"], of.id in books.drawn)
        assert of.age is not None
        assert of.age.added == ids[-1] - of.id
        assert of.step == [r["id"] for r in books.segments()[row["segment"]]].index(of.id)


def test_the_top_of_many_pieces_is_the_top_of_all() -> None:
    books = lived(300, 1, 280, 5, sampler=rb.RankPrioritized())
    ids = [row["id"] for row in books.live]
    priorities = np.random.default_rng(0).integers(1, 4, len(ids)).astype(float)
    books.buffer.update_priorities(ids, priorities)
    told = dict(zip(ids, priorities.tolist(), strict=True))
    for top in (0, 1, 5, 12, 40, 1000):
        (one,) = inspect(books.buffer, top).priorities or ()
        assert [of.id for of in one.top] == sorted(ids, key=lambda id_: (-told[id_], -id_))[:top]
    ranks = np.arange(1, len(ids) + 1) ** -0.7
    assert one.effective_size == pytest.approx(ranks.sum() ** 2 / (ranks**2).sum())


@pytest.mark.parametrize(
    ("sampler", "names"),
    [
        (rb.Uniform, []),
        (lambda: rb.Recent(0.9), []),
        (rb.SampleOnce, []),
        (lambda: rb.Combined(rb.Prioritized()), ["Prioritized"]),
        (lambda: rb.Mixture([(2, rb.RankPrioritized()), (1, rb.Combined(rb.Prioritized())), (1, rb.Uniform())]),
         ["RankPrioritized", "Prioritized"]),
    ],
)  # fmt: skip
def test_only_samplers_that_keep_priorities_are_told_of(sampler: Any, names: list[str]) -> None:
    books = lived(30, 1, 50, 2, sampler=sampler())
    found = inspect(books.buffer)
    assert found.priorities is not None
    assert [one.sampler.partition("(")[0] for one in found.priorities] == names
    assert found.effective_size == pytest.approx(books.buffer.stats()["effective_size"])


def test_looking_changes_nothing() -> None:
    from checkpoints import digest

    books, other = (lived(60, 2, 80, 9, sampler=rb.Combined(rb.Prioritized())) for _ in range(2))
    before = digest(books.buffer)
    inspect(books.buffer)
    assert digest(books.buffer) == before
    assert np.array_equal(books.buffer.sample(20).indices, other.buffer.sample(20).indices)


@pytest.mark.parametrize("top", [-1, 10_001])
def test_a_top_out_of_range_is_refused(top: int) -> None:
    with pytest.raises(ValueError, match=f"given {top}"):
        inspect(rb.ReplayBuffer(3), top)


def test_no_copy_of_the_observations_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    n = 60_000
    buffer = rb.ReplayBuffer(n, {"obs": ("float32", (256,)), "action": "int64"}, sampler=rb.Prioritized(), seed=0)
    obs = np.zeros((n, 256), np.float32)  # 58 MiB
    ends = np.arange(n) % 10 == 9
    buffer.extend(obs, np.zeros(n, int), np.zeros(n), obs, ends, np.zeros(n, bool))
    tracemalloc.start()
    found: Inspection = inspect(buffer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.episodes.whole.runs == n // 10
    assert peak < 32 * 2**20


def test_a_value_on_an_edge_is_in_the_bin_above_it() -> None:
    values = [float(value) for value in range(51)]
    bins = Bins(0.0, 50.0)
    bins.add(np.array(values))
    assert_histogram(bins.histogram(), values)
    assert bins.counts.tolist() == [1] * 49 + [2]


@pytest.mark.parametrize("values", [[3.0], [0.0, 1.0], [1e300, 1e300], [-5.0, 5.0, 2.0], [1.0, 1e9]])
def test_bins_hold_each_value_once(values: list[float]) -> None:
    for log in (False, True)[: 1 + (min(values) > 0)]:
        bins = Bins(min(values), max(values), log=log)
        bins.add(np.array(values))
        found = bins.histogram()
        assert sum(found.counts) == len(values)
        assert list(found.edges) == sorted(set(found.edges))
