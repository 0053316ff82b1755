"""A view may refuse ids; the buffer draws others for them, and gives up where there are too few."""

import numpy as np
import pytest
import scipy.stats

import replaybank as rb


class Only(rb.Transition):
    """A view of one's own that can use some ids only."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def usable(self, rows, ids):
        return self.rule(ids)


def filled(sampler, rule):
    buffer = rb.ReplayBuffer(100, sampler=sampler, view=Only(rule), seed=0)
    for i in range(130):
        buffer.add(float(i), i % 2, 0.0, i + 1.0, False, False)
    return buffer


def test_unusable_ids_are_replaced_by_usable_ones_with_their_own_probabilities():
    """Chi-square over the 50 usable ids, 100,000 draws; an id drawn 10% too often would shift it by 20 on average."""
    buffer = filled(rb.Uniform(), lambda ids: ids % 2 == 0)
    batches = [buffer.sample(500) for _ in range(200)]
    ids = np.concatenate([batch.indices for batch in batches])
    assert (ids % 2 == 0).all()
    np.testing.assert_array_equal(np.concatenate([batch.obs for batch in batches]), ids)
    counts = np.bincount(ids - 30, minlength=100)[::2]
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_redrawn_priorities_keep_their_probabilities():
    sampler = rb.Prioritized(alpha=1.0, epsilon=0.0)
    buffer = filled(sampler, lambda ids: ids % 3 == 0)
    priorities = np.arange(1.0, 101.0)
    buffer.update_priorities(np.arange(30, 130), priorities)
    batch = buffer.sample(400)
    assert (batch.indices % 3 == 0).all()
    np.testing.assert_allclose(batch.probabilities, priorities[batch.indices - 30] / priorities.sum(), rtol=1e-12)


def test_a_view_that_can_use_nothing_is_an_error_and_not_a_hang():
    with pytest.raises(ValueError, match="could use too few"):
        filled(rb.Uniform(), lambda ids: np.zeros(len(ids), bool)).sample(5)


@pytest.mark.parametrize("sampler", [lambda: rb.Uniform(replace=False), rb.SampleOnce])
def test_without_replacement_no_id_comes_twice_whatever_the_view_refuses(sampler):
    """50 of 100 can be used; batches of 40 often need several redraws, each of which could repeat the batch's own."""
    buffer = filled(sampler(), lambda ids: ids % 2 == 0)
    for _ in range(50):
        ids = buffer.sample(40).indices
        assert (ids % 2 == 0).all()
        assert len(np.unique(ids)) == 40
    with pytest.raises(ValueError, match="could use too few"):
        buffer.sample(60)
