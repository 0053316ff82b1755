"""Sequences are what the streams lived through; the answers come from the plain list of what was added (lives.py)."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from lives import Lived, live, stacked, zeros_like

import replaybank as rb
from oracle import item, same_batch, same_bytes

FIELDS = ("action", "reward", "terminated", "truncated", "state", "note")
SIZES = [(1000, 1), (1000, 3), (60, 1), (60, 4), (3, 5), (1, 1)]


def path_of(told: list[Lived], capacity: int, id_: int, view: rb.Sequence) -> list[Lived] | None:
    """The transitions that an id means, or None where that is not in the buffer any more."""
    rows, oldest = [row for row in told if row.stream == told[id_].stream], len(told) - capacity
    at = rows.index(told[id_]) - told[id_].step % view.stride
    if at < 0 or rows[at].id < oldest or rows[at].segment != told[id_].segment:
        return None
    path = rows[at : at + view.length]
    if not view.across_episodes:
        path = [row for row in path if row.segment == path[0].segment]
    return path if view.pad or len(path) == view.length else None


def check(batch: rb.Batch, i: int, path: list[Lived], view: rb.Sequence) -> None:
    """Sequence i of the batch, byte for byte."""
    count, length = len(path), view.length

    def padded(values: list[Any]) -> Any:
        return stacked(values + [zeros_like(values[0])] * (length - count))

    for name in FIELDS:
        if name in view.at_start:
            assert same_bytes(item(batch[name], i), path[0].fields[name]), name
        else:
            assert same_bytes(item(batch[name], i), padded([row.fields[name] for row in path])), name
    assert same_bytes(item(batch.next_obs, i), padded([row.fields["next_obs"] for row in path]))
    obs = [row.fields["obs"] for row in path]
    if not view.across_episodes:
        obs = [*obs, path[-1].fields["next_obs"]][:length]  # the final observation follows
    assert same_bytes(item(batch.obs, i), stacked(obs + [zeros_like(obs[0])] * (length - len(obs))))
    steps = np.arange(length)
    assert batch.valid[i].tolist() == (steps < count).tolist()
    assert batch.mask[i].tolist() == ((steps < count) & (steps >= view.burn_in)).tolist()
    assert batch.is_first[i].tolist() == [t < count and path[t].step == 0 for t in steps]
    gammas = [0.0 if row.fields["terminated"] else view.gamma for row in path]
    assert batch.discount[i].tolist() == np.float32(gammas + [0.0] * (length - count)).tolist()


def check_all(buffer: rb.ReplayBuffer, told: list[Lived], view: rb.Sequence) -> None:
    """Every live id, and that those which mean nothing are refused."""
    ids = np.arange(max(0, len(told) - buffer.capacity), len(told))
    paths = [path_of(told, buffer.capacity, id_, view) for id_ in ids]
    usable = np.array([path is not None for path in paths], bool)
    batch = buffer.read(ids[usable], view)
    for i, path in enumerate(path for path in paths if path is not None):
        check(batch, i, path, view)
    for id_ in ids[~usable][:3]:
        with pytest.raises(ValueError, match=f"cannot use {id_}"):
            buffer.read([id_], view)


VIEWS = [
    rb.Sequence(4, gamma=0.9),
    rb.Sequence(1),
    rb.Sequence(70, burn_in=3),
    rb.Sequence(5, burn_in=2, pad=False, at_start=("state",)),
    rb.Sequence(6, stride=3),
    rb.Sequence(4, stride=7, pad=False),
    rb.Sequence(9, across_episodes=True, at_start=("note", "state")),
    rb.Sequence(30, stride=2, across_episodes=True, pad=False, gamma=0.5),
]


@pytest.mark.parametrize("view", VIEWS, ids=repr)
@pytest.mark.parametrize(("capacity", "streams"), SIZES)
def test_a_sequence_is_what_its_stream_lived_through(view: rb.Sequence, capacity: int, streams: int) -> None:
    """With masks, extends, ends of both kinds, resets in the middle, and on a buffer that has wrapped many times."""
    check_all(*live(capacity, streams, 150, seed=capacity + streams), view)


@given(
    capacity=st.integers(1, 60),
    streams=st.integers(1, 6),
    calls=st.integers(1, 80),
    seed=st.integers(0, 2**16),
    end=st.sampled_from([0.0, 0.1, 0.5]),
    length=st.integers(1, 20),
    stride=st.integers(1, 6),
    pad=st.booleans(),
    across=st.booleans(),
)
def test_any_sequence_of_any_life(
    capacity: int, streams: int, calls: int, seed: int, end: float, length: int, stride: int, pad: bool, across: bool
) -> None:
    buffer, told = live(capacity, streams, calls, seed, end)
    if told:
        view = rb.Sequence(length, length // 2, stride, pad, across_episodes=across, at_start=("note",) * (seed % 2))
        check_all(buffer, told, view)


def counting(streams: int = 1, view: rb.Sequence | None = None, **ends: Any) -> rb.ReplayBuffer:
    """Ten steps a stream; `terminated` and `truncated` name (step, stream); after an end a stream starts at 100."""
    buffer = rb.ReplayBuffer(100, {"obs": "float32", "action": "int64"}, streams, view=view or rb.Sequence(5), seed=0)
    here = np.zeros(streams, np.float32)
    for t in range(10):
        flags = {name: np.zeros(streams, bool) for name in ("terminated", "truncated")}
        for name, places in ends.items():
            for step, stream in places:
                flags[name][stream] |= step == t
        fields = {"obs": here, "action": np.full(streams, t), "reward": here + 1, "next_obs": here + 1, **flags}
        buffer.add(**(fields if streams > 1 else {name: value[0] for name, value in fields.items()}))
        here = np.where(flags["terminated"] | flags["truncated"], 100 * (here // 100 + 1), here + 1).astype(np.float32)
    return buffer


def test_a_window_that_crosses_a_truncated_end_is_cut_there() -> None:
    """CleanRL's Rainbow and others run across truncated ends."""
    buffer = counting(truncated=[(3, 0)])
    batch = buffer.read([2, 4])
    assert batch.obs.tolist() == [[2, 3, 4, 0, 0], [100, 101, 102, 103, 104]]
    assert batch.next_obs.tolist() == [[3, 4, 0, 0, 0], [101, 102, 103, 104, 105]]
    assert batch.valid.tolist() == [[True, True, False, False, False], [True] * 5]
    assert batch.reward.tolist() == [[3, 4, 0, 0, 0], [101, 102, 103, 104, 105]]
    assert batch.truncated.tolist() == [[False, True, False, False, False], [False] * 5]
    assert batch.discount.tolist() == [[1, 1, 0, 0, 0], [1] * 5]  # a truncation does not stop bootstrapping


def test_one_environments_end_does_not_cut_every_environments_window() -> None:
    """AgileRL: one environment's end cut every environment's window."""
    batch = counting(streams=3, terminated=[(2, 1)]).read([0, 1, 2])
    assert batch.valid.sum(axis=1).tolist() == [5, 3, 5]
    assert batch.discount.tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1] * 5]


def test_across_episodes_the_stream_goes_on_and_is_first_says_where() -> None:
    view = rb.Sequence(5, across_episodes=True, gamma=0.5)
    batch = counting(streams=2, view=view, truncated=[(2, 1)], terminated=[(4, 0)]).read([3, 6])
    assert batch.obs.tolist() == [[1, 2, 100, 101, 102], [3, 4, 100, 101, 102]]
    assert batch.next_obs.tolist() == [[2, 3, 101, 102, 103], [4, 5, 101, 102, 103]]
    assert batch.is_first.tolist() == [[False, False, True, False, False]] * 2
    assert batch.discount.tolist() == [[0.5] * 5, [0.5, 0, 0.5, 0.5, 0.5]]


def test_across_episodes_goes_on_after_a_reset_in_the_middle() -> None:
    buffer = counting()
    buffer.end()
    for start in (7.0, 8.0):
        buffer.add(start, 0, 0.0, start + 1, False, False)
    batch = buffer.read([8], rb.Sequence(5, across_episodes=True))
    assert batch.obs.tolist() == [[8, 9, 7, 8, 0]]
    assert batch.is_first.tolist() == [[False, False, True, False, False]]
    assert buffer.read([8]).valid.sum() == 2


def test_after_clear_nothing_leads_to_what_was_before() -> None:
    buffer = counting(truncated=[(9, 0)], view=rb.Sequence(5, across_episodes=True))
    buffer.clear()
    buffer.add(3.0, 0, 0.0, 4.0, False, False)
    assert buffer.read([10]).obs.tolist() == [[3, 0, 0, 0, 0]]
    buffer.check_valid()


def test_burn_in_is_valid_but_not_in_the_mask() -> None:
    batch = counting(view=rb.Sequence(5, burn_in=2)).read([0, 7, 8])
    assert batch.valid.sum(axis=1).tolist() == [5, 3, 2]
    assert batch.mask.tolist() == [[False] * 2 + [True] * 3, [False] * 2 + [True] + [False] * 2, [False] * 5]


def test_obs_and_next_obs_are_windows_of_one_array() -> None:
    """Inside a segment the one is the other a step later; half the copying, half the memory."""
    batch = counting().read([0, 3])
    assert np.shares_memory(batch.obs, batch.next_obs)
    assert batch.obs.base is batch.next_obs.base
    apart = counting().read([0, 3], rb.Sequence(5, across_episodes=True))
    assert not np.shares_memory(apart.obs, apart.next_obs)


def test_with_a_stride_an_id_means_the_sequence_that_begins_at_its_grid_point() -> None:
    buffer = counting(truncated=[(6, 0)], view=rb.Sequence(3, stride=3))
    batch = buffer.read(np.arange(10))
    assert batch.obs[:, 0].tolist() == [0, 0, 0, 3, 3, 3, 6, 100, 100, 100]
    assert batch.indices.tolist() == list(range(10))


def test_a_sequence_whose_beginning_has_left_is_not_drawn() -> None:
    buffer = rb.ReplayBuffer(10, view=rb.Sequence(3, stride=4), seed=0)
    for t in range(15):  # 5 … 14 are left; the grid points are 8 and 12
        buffer.add(float(t), 0, 0.0, t + 1.0, False, False)
    assert set(buffer.sample(300).obs[:, 0].tolist()) == {8, 12}
    with pytest.raises(ValueError, match="cannot use 7"):
        buffer.read([9, 7])


def test_without_padding_only_complete_sequences_are_drawn() -> None:
    buffer = counting(truncated=[(6, 0)], view=rb.Sequence(4, pad=False))
    batch = buffer.sample(300)
    assert set(batch.obs[:, 0].tolist()) == {0, 1, 2, 3}
    assert batch.valid.all()
    buffer.view = rb.Sequence(9, pad=False)
    with pytest.raises(ValueError, match="could use too few"):
        buffer.sample(2)
    buffer.view = rb.Sequence(9, pad=False, across_episodes=True)
    assert set(buffer.sample(100).action[:, 0].tolist()) == {0, 1}


@pytest.mark.parametrize(("capacity", "streams"), SIZES)
@pytest.mark.parametrize("stride", [1, 3, 5])
def test_a_priority_goes_to_all_ids_that_mean_the_sequence(capacity: int, streams: int, stride: int) -> None:
    sampler = rb.Prioritized(alpha=1.0, epsilon=0.0)
    view = rb.Sequence(4, stride=stride)
    buffer, told = live(capacity, streams, 150, seed=stride, sampler=sampler, view=view)
    oldest = max(0, len(told) - capacity)
    rng = np.random.default_rng(0)
    expected = np.ones(len(told))
    for _ in range(5):
        ids, errors = rng.integers(max(0, oldest - 5), len(told), 9), rng.random(9) + 0.1
        report = buffer.update_priorities(ids, errors)
        assert report == ((ids >= oldest).sum(), (ids < oldest).sum())
        for id_, error in zip(ids.tolist(), errors.tolist(), strict=True):
            cell = (told[id_].stream, told[id_].segment, told[id_].step // stride)
            for row in told[oldest:]:
                if id_ >= oldest and (row.stream, row.segment, row.step // stride) == cell:
                    expected[row.id] = error  # of one that comes twice the last stays
        np.testing.assert_array_equal(sampler.priority_of(np.arange(oldest, len(told))), expected[oldest:])
    buffer.check_valid()


def test_sequences_are_drawn_in_proportion_to_their_priorities() -> None:
    """Chi-square over 5 sequences, 20,000 draws: one that comes 5% too often would shift it by 10 and more."""
    sampler = rb.Prioritized(alpha=1.0, epsilon=0.0)
    buffer = rb.ReplayBuffer(20, sampler=sampler, view=rb.Sequence(4, stride=4), seed=1)
    for t in range(20):
        buffer.add(float(t), 0, 0.0, t + 1.0, False, False)
    buffer.update_priorities([1, 7, 8, 12, 18], [1.0, 2.0, 3.0, 4.0, 5.0])
    starts = np.concatenate([buffer.sample(1).obs[:, 0] for _ in range(20_000)])
    counts = np.bincount(starts.astype(int) // 4)
    assert scipy.stats.chisquare(counts, np.arange(1, 6) / 15 * 20_000).pvalue > 1e-4


def test_priority_mixes_the_largest_and_the_mean_over_the_mask() -> None:
    """Kapturowski et al. 2019, sec. 2.3: eta * max + (1 - eta) * mean of |TD error|."""
    view = rb.Sequence(4, eta=0.9)
    td_error = [[1.0, -3.0, 2.0, np.nan], [0.5, 0.5, 0.5, 0.5], [np.inf, 1.0, 2.0, 3.0]]
    mask = np.array([[True, True, True, False], [True] * 4, [False] * 4])
    np.testing.assert_allclose(view.priority(td_error, mask), [0.9 * 3 + 0.1 * 2, 0.5, 0.0])
    np.testing.assert_allclose(rb.Sequence(4, eta=0.0).priority(td_error, mask), [2.0, 0.5, 0.0])
    assert view.priority(np.zeros((0, 4)), np.zeros((0, 4), bool)).shape == (0,)
    buffer = counting(view=view)
    batch = buffer.sample(3)
    assert buffer.update_priorities(batch.indices, view.priority(batch.reward, batch.mask)).stale == 0


@pytest.mark.parametrize(
    ("td_error", "mask", "message"),
    [
        (np.zeros(4), np.ones(4, bool), "td_error: expected real numbers of shape"),
        (np.zeros((2, 4), complex), np.ones((2, 4), bool), "td_error: expected real numbers of shape"),
        (np.zeros((2, 4)), np.ones((2, 3), bool), r"mask: expected bool of shape \(2, 4\)"),
        (np.zeros((2, 4)), np.ones((2, 4)), r"mask: expected bool of shape \(2, 4\)"),
    ],
)
def test_priority_names_what_does_not_fit(td_error: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rb.Sequence(4).priority(td_error, mask)


def test_a_stored_state_is_read_at_the_start_only() -> None:
    buffer, told = live(60, 2, 100, seed=3)
    ids = np.array([told[-9].id, told[-30].id])
    batch = buffer.read(ids, rb.Sequence(6, at_start=("state",)))
    assert batch.state["h"].shape == (2, 3)
    assert batch.note.shape == (2, 6)
    assert batch.state["c"].tolist() == [told[i].fields["state"]["c"] for i in ids]


@pytest.mark.parametrize("name", ["h", "obs", "reward"])
def test_at_start_must_name_extra_fields(name: str) -> None:
    buffer, _ = live(60, 1, 10, seed=3, view=rb.Sequence(3, at_start=["state", name]))
    with pytest.raises(ValueError, match=rf"at_start: expected extra fields .*state, note.*given '{name}'"):
        buffer.sample(2)
    plain = counting(view=rb.Sequence(3, at_start=(name,)))
    with pytest.raises(ValueError, match=r"extra fields of this buffer \(none\)"):
        plain.sample(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be an integer of at least 1"),
        ({"length": 2.0}, "length must be an integer of at least 1"),
        ({"length": 3, "burn_in": 3}, "burn_in must be an integer of at least 0 and below length 3"),
        ({"length": 3, "burn_in": -1}, "burn_in must be"),
        ({"length": 3, "stride": 0}, "stride must be an integer of at least 1"),
        ({"length": 3, "gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"length": 3, "eta": -0.1}, r"eta must be in \[0, 1\]"),
        ({"length": 3, "at_start": "state"}, "at_start must be a tuple of names"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        rb.Sequence(**settings)


def test_settings_are_fixed_and_another_view_may_take_over() -> None:
    buffer = counting()
    with pytest.raises(dataclasses.FrozenInstanceError):
        buffer.view.length = 3
    for length in (5, 2, 7):
        buffer.view = dataclasses.replace(buffer.view, length=length)
        assert buffer.sample(4).reward.shape == (4, length)


def test_one_view_serves_buffers_of_different_schemas() -> None:
    view = rb.Sequence(3)
    other, told = live(60, 1, 20, seed=1)
    for _ in range(2):
        assert counting().read([0], view).obs.tolist() == [[0, 1, 2]]
        check_all(other, told, view)


@pytest.mark.parametrize(
    "sampler", [rb.Uniform(), rb.Uniform(replace=False), rb.Prioritized(), rb.Prioritized(weight_norm="buffer")]
)
def test_every_sampler_draws_sequences_and_the_same_seed_the_same(sampler: Any) -> None:
    view = rb.Sequence(5, stride=2)
    batches = []
    for _ in range(2):
        buffer, told = live(200, 3, 60, seed=9, sampler=copy.deepcopy(sampler), view=view)
        batch = buffer.sample(16)
        assert len(batch) == 16
        assert batch.weights.shape == (16,)
        for i, id_ in enumerate(batch.indices):
            check(batch, i, path_of(told, 200, id_, view), view)
        batches.append(batch)
    assert same_batch(*batches)


def test_a_batch_of_sequences_travels() -> None:
    torch = pytest.importorskip("torch")
    buffer, told = live(200, 2, 60, seed=9, view=rb.Sequence(5, at_start=("state",)))
    batch = buffer.sample(8)
    assert same_batch(batch, pickle.loads(pickle.dumps(batch)))
    tensors = batch.to_torch()
    assert list(tensors.keys()) == list(batch.keys())
    assert tensors.valid.dtype == torch.bool
    for name in ("obs", "next_obs"):
        assert tensors[name]["here"].shape == (8, 5, 2)
        assert np.array_equal(tensors[name]["here"].numpy(), batch[name]["here"])
    assert tensors.obs["here"].data_ptr() + 8 == tensors.next_obs["here"].data_ptr()
    assert torch.equal(tensors.mask, torch.from_numpy(batch.mask))
    double = batch.to_torch(dtype=torch.float64)
    assert double.obs["here"].dtype == torch.float64


def test_a_pickled_buffer_goes_on_across_ends() -> None:
    buffer, told = live(60, 3, 100, seed=4, view=rb.Sequence(20, across_episodes=True))
    buffer.end()
    twin = pickle.loads(pickle.dumps(buffer))
    for one in (buffer, twin):
        fields = stacked([told[-1].fields] * 3)
        one.add(**fields)
        one.check_valid()
    ids = np.arange(len(told) - 50, len(told) + 3)
    assert same_batch(buffer.read(ids), twin.read(ids))
    assert buffer.read(ids).is_first[:, 1:].any()


def test_a_stride_beyond_the_buffer_is_one_sequence_a_segment() -> None:
    buffer, told = live(40, 2, 60, seed=6, sampler=rb.Prioritized(alpha=1.0, epsilon=0.0))
    view = buffer.view = rb.Sequence(3, stride=10**12)
    ids = np.arange(len(told) - 40, len(told))
    usable = view.usable(buffer._rows, ids)  # type: ignore[arg-type]
    assert usable is not None
    id_ = int(ids[usable][-1])
    buffer.update_priorities([id_], [77.0])
    mine = [row.id for row in told[-40:] if (row.stream, row.segment) == (told[id_].stream, told[id_].segment)]
    assert np.flatnonzero(buffer.sampler.priority_of(ids) == 77.0).tolist() == [i - ids[0] for i in mine]  # type: ignore[attr-defined]


def test_settings_are_kept_whatever_form_they_come_in() -> None:
    """Names from an iterator come once; a list may change; flags may be NumPy's or 0 and 1."""
    names = ["state"]
    buffer, _ = live(40, 2, 60, seed=6)
    expected = rb.Sequence(3, at_start=("state",), across_episodes=True)
    for at_start in (names, iter(names)):
        view = rb.Sequence(3, at_start=at_start, across_episodes=np.bool_(True), pad=1)  # type: ignore[arg-type]
        names.append("unknown")
        for n in (1, 2):
            ids = np.arange(n) + buffer.stats()["added"] - 40
            assert same_batch(buffer.read(ids, view), buffer.read(ids, expected))
        names.pop()


def test_a_batch_beyond_what_numpy_can_hold_says_so() -> None:
    buffer, _ = live(40, 2, 60, seed=6)
    with pytest.raises(ValueError, match=r"a batch of .* GiB was asked for; the most is 2 GiB"):
        buffer.read([buffer.stats()["added"] - 1], rb.Sequence(10**9))
