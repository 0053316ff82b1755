"""The checker of the fault tests finds what it is there for."""

from __future__ import annotations

import hammering
import numpy as np
import pytest
from hammering import GAMMA, STEPS, parted, steps, verify, verify_draw

import replaybank as rb


def filled(streams=3, n=60, view=None):
    """A buffer of some lives, as writers add them."""
    view = rb.NStep(STEPS, GAMMA) if view is None else view
    buffer = rb.ReplayBuffer(10_000, hammering.SCHEMA, streams, rb.Prioritized(), view, seed=0)
    lives = 8 + np.arange(streams)
    for serial in range(n):
        buffer.add(**steps(lives, serial))
        if parted(serial)[0]:
            buffer.end()
    return buffer


def test_what_was_added_whole_is_found_whole():
    buffer = filled()
    ids = np.arange(180)
    found = verify(buffer.read(ids))
    assert found.tolist() == [[8 + id_ % 3, id_ // 3] for id_ in range(180)]
    batch = buffer.sample(64)
    verify_draw(batch, 64)
    np.testing.assert_array_equal(verify(batch), found[batch.indices])


@pytest.mark.parametrize(
    ("field", "place", "finds"),
    [
        ("obs", (5, 0), "obs is torn"),
        ("obs", (5, 1), "obs is torn"),
        ("action", 5, "action is torn"),
        ("noise", (5, 39), "noise is torn"),
        ("next_obs", (5, 0), "next_obs is torn"),
        ("next_obs", (5, 1), "next_obs is"),
        ("reward", 5, "reward is no"),
        ("terminated", 5, "terminated"),
        ("truncated", 5, "truncated"),
        ("discount", 5, "discount"),
    ],
)
def test_one_wrong_value_is_found(field, place, finds):
    batch = filled().read(np.arange(20))
    array = batch[field]
    array[place] = ~array[place] if array.dtype == bool else array[place] + 1
    with pytest.raises(AssertionError, match=finds):
        verify(batch)


def test_a_transition_of_two_is_found():
    buffer = filled()
    batch, other = buffer.read(np.arange(20)), buffer.read(np.arange(20, 40))
    for name in ("obs", "action", "noise", "reward", "next_obs"):
        whole = batch[name].copy()
        batch[name][7] = other[name][7]
        with pytest.raises(AssertionError, match=r"torn|another|sum"):
            verify(batch)
        batch[name][:] = whole


def test_a_window_across_a_reset_is_found():
    """What a buffer makes that was not told of the ends that no flag shows."""
    buffer = rb.ReplayBuffer(100, hammering.SCHEMA, view=rb.NStep(STEPS, GAMMA))
    buffer.extend(**steps(8, np.arange(60)))
    with pytest.raises(AssertionError, match="beyond the end of a segment"):
        verify(buffer.read(np.arange(60)))


def test_probabilities_and_weights_that_cannot_be_are_found():
    buffer = filled()
    for field, value in (("probabilities", 0.0), ("probabilities", 1.1), ("weights", np.nan), ("weights", 2.0)):
        batch = buffer.sample(16)
        batch[field][3] = value
        with pytest.raises(AssertionError, match=field[:6]):
            verify_draw(batch, 16)
    with pytest.raises(AssertionError, match="asked for 17"):
        verify_draw(buffer.sample(16), 17)
