"""Draws over several buffers, with the probabilities and weights of one large buffer that holds all they hold.

The order of things, for a batch of n over k shards with a `sampler` that is divisible:

1. `shares`, one of each shard that answers; `counts = allot(sampler, shares, n, rng)`;
2. each shard draws its `counts[k]`, with probabilities `within[k]` of its own;
3. with `shares[k].mass / whole(shares).mass * within[k]` each was drawn; `sampler.weigh(those, whole(shares), calls)`;
4. `places(sampler, counts, rng)`: where in the batch each shard's draws go.

Shares may be older than the draws: what came in between changes what a shard draws among its own, not how often it was
asked. The probability of step 3, of the shares that step 1 had and what the shard says as it draws, is therefore that
with which a transition really was drawn, but not that of one buffer at any one instant; and weights over the largest in
the buffer may exceed 1 where a smaller priority came in between.

A shard that was allotted draws and does not answer: `allot` them among the others, by the shares that these had, and
leave it out from step 3 on. That gives n * m_k / M + n * (m_gone / M) * m_k / (M - m_gone) = n * m_k / (M - m_gone)
draws of shard k, which is what one buffer of the others would.

Where a view cannot use a transition, its shard draws another of its own; one large buffer would look everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from replaybank.parts import as_part
from replaybank.samplers.base import Floats, Sampler
from replaybank.samplers.share import Divisible, Share


def divisible(sampler: Sampler) -> Divisible:
    """`sampler` if several buffers can draw as one with it; else ValueError. TypeError where it is no sampler."""
    part = as_part("sampler", sampler, Sampler, "Uniform()")
    if not isinstance(part, Divisible):
        raise ValueError(
            f"sampler: expected one whose probabilities add up over shards, Uniform or Prioritized, given {part!r}"
        )
    return part


def whole(shares: Sequence[Share]) -> Share:
    """All of them as one."""
    smallest = min((share.smallest for share in shares if share.mass > 0), default=math.nan)
    return Share(sum(share.size for share in shares), math.fsum(share.mass for share in shares), smallest)


def allot(sampler: Divisible, shares: Sequence[Share], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many of `n` draws each shard makes (int64 [k], summing to n); none where its mass is 0.

    The expected count of each transition is n * P(i), P(i) = p_i / M that of one buffer (p_i unnormalised, m_k their
    sum in shard k, M over all):

    - E[n_k] = n * m_k / M, since each point that is thrown on [0, M) is as likely anywhere, taken over all n points;
    - E[count of i] = E[n_k * p_i / m_k] = n * p_i / M, since n_k draws of shard k give i n_k * p_i / m_k times, whether
      they are stratified (their ranges cover m_k evenly) or not.

    Stratified: point j falls into the j-th of n equal ranges of M (Schaul et al. 2016, App. B.2.1), so that
    |n_k - n * m_k / M| < 2. Independent: as n single draws. Distinct: as n different transitions of one buffer. Of the
    last two the whole law is that of one buffer, of the first the marginals are.

    Raises ValueError where all shards are empty, all masses are 0, or draws are distinct and there are fewer than `n`.
    """
    sizes = np.array([share.size for share in shares], np.int64)
    ends = np.cumsum([share.mass for share in shares])
    if not sizes.any():
        raise ValueError(f"sample: asked for {n} transitions, but all {len(shares)} shards are empty; add some first")
    if not ends[-1] > 0.0:
        raise ValueError(
            f"sample: every priority in all {len(shares)} shards is 0; update_priorities, or use epsilon > 0"
        )
    if sampler.distinct:
        if n > sizes.sum():
            raise ValueError(
                f"sample: expected at most {sizes.sum()} transitions without replacement, asked for {n}; "
                f"the shards hold {', '.join(map(str, sizes))}"
            )
        return _counts(np.cumsum(sizes), rng.choice(int(sizes.sum()), n, replace=False))
    points = rng.random(n)
    if sampler.stratified:
        points = (np.arange(n) + points) / n
    return _counts(ends, np.minimum(points * ends[-1], np.nextafter(ends[-1], 0.0)))


def places(sampler: Divisible, counts: NDArray[np.int64], rng: np.random.Generator) -> list[slice | NDArray[np.int64]]:
    """Where in the batch (positions 0 … n - 1) the draws of each shard go: `batch[places[k]] = drawn[k]`.

    Stratified: one shard after the other, as the ranges of one buffer are. Else in random order: as one buffer's, where
    the position tells nothing of what was drawn (a part of the batch is a batch again).
    """
    ends = np.cumsum(counts)
    runs = [slice(end - count, end) for count, end in zip(counts.tolist(), ends.tolist(), strict=True)]
    if sampler.stratified:
        return list(runs)
    order = rng.permutation(int(ends[-1]))
    return [order[run] for run in runs]


def _counts(ends: NDArray[np.int64] | Floats, points: NDArray[np.int64] | Floats) -> NDArray[np.int64]:
    """How many points (in [0, ends[-1])) lie before the first end, between it and the next, … (int64 [k])."""
    return np.bincount(np.searchsorted(ends, points, side="right"), minlength=len(ends)).astype(np.int64, copy=False)
