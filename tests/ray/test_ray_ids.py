"""Ids of a cluster: what goes in comes out, for every shard, epoch and id."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaybank.ray import ids

SHARDS = st.integers(0, 4095)
EPOCHS = st.integers(0, 511)
OWN = st.integers(0, 2**42 - 1)


@given(st.lists(st.tuples(SHARDS, EPOCHS, OWN), max_size=20))
def test_what_an_id_is_made_of_comes_back(parts):
    made = np.array([ids.base(shard, epoch) | own for shard, epoch, own in parts], np.int64)
    assert (made >= 0).all()
    assert len(set(made.tolist())) == len(set(parts))
    found = ids.split(made)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == parts


@pytest.mark.parametrize(("shard", "epoch"), [(4096, 0), (0, 512), (-1, 0), (0, -1)])
def test_what_has_no_place_in_an_id_is_refused(shard, epoch):
    with pytest.raises(RuntimeError, match="4096 shards and 512 epochs"):
        ids.base(shard, epoch)


def test_negative_ids_were_never_given_out():
    with pytest.raises(ValueError, match="-3 was never given out"):
        ids.split(np.array([5, -3]))
