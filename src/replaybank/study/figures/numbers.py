"""What the pictures of the ideas show, computed with the library itself. Nothing here draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import replaybank as rb
from replaybank.study.dependence import autocorrelation, expected_sample_size

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

TD_ERRORS = (0.1, 0.3, 0.2, 2.0, 0.1, 0.6, 0.2, 1.2, 0.4, 0.1)
"""Sizes of the TD errors of ten transitions: most are small and a few large."""
LEAVES = (4.0, 1.0, 3.0, 8.0, 2.0, 6.0, 5.0, 3.0)
"""Priorities of eight transitions; together 32."""
DRAW = 0.61
"""The random number in [0, 1) with which the tree is walked."""
POLE_ANGLE = 2
"""Where CartPole's observation holds the pole's angle, in radians."""


def cartpole(steps: int, buffers: Sequence[rb.ReplayBuffer], seed: int) -> Iterator[bool]:
    """Random actions on CartPole-v1, each transition into every buffer; after each step, whether its episode ended."""
    env = gym.make("CartPole-v1")
    actions = np.random.default_rng(seed).integers(2, size=steps)
    obs, _ = env.reset(seed=seed)
    for action in actions:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        for buffer in buffers:
            buffer.add(obs, action, float(reward), next_obs, terminated, truncated)
        ended = terminated or truncated
        obs = env.reset()[0] if ended else next_obs
        yield ended


# ---- 1: what a batch contains --------------------------------------------------------


@dataclass(frozen=True)
class Batches:
    """What the updates of an agent learn from with each of three memories, on one stream.

    ends: the last step of each finished episode [episodes]. updates: the steps after which an update comes [k].
    learned_from: by memory, the steps whose transitions are in the batch of each update [k, batch].
    """

    steps: int
    ends: Ids
    updates: Ids
    learned_from: dict[str, Ids]

    def episodes(self, memory: str) -> Ids:
        """From how many episodes the batch of each update comes [k]."""
        return np.array([np.unique(np.searchsorted(self.ends, batch)).size for batch in self.learned_from[memory]])


def batches(steps: int = 240, period: int = 24, batch_size: int = 8, seed: int = 0) -> Batches:
    """Memories `online` (the newest transition), `recent` (a batch of the newest) and `uniform` (drawn from all)."""
    once = {"online": 1, "recent": batch_size}  # drawn without repetition, as many as there are: all of them
    buffers = {name: rb.ReplayBuffer(size, sampler=rb.Uniform(replace=False), seed=seed) for name, size in once.items()}
    buffers["uniform"] = rb.ReplayBuffer(steps, seed=seed)
    updates, ends = [], []
    drawn: dict[str, list[Ids]] = {name: [] for name in buffers}
    for step, ended in enumerate(cartpole(steps, list(buffers.values()), seed)):
        if ended:
            ends.append(step)
        if (step + 1) % period == 0:
            updates.append(step)
            for name, buffer in buffers.items():
                drawn[name].append(buffer.sample(once.get(name, batch_size)).indices)
    return Batches(steps, np.array(ends), np.array(updates), {name: np.stack(ids) for name, ids in drawn.items()})


# ---- 2: how alike a batch is ---------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Pole angles, two batches of them, and how alike angles are that stand k places apart.

    angles: radians [steps]. consecutive, random: the steps of two batches [batch], both within the first `shown` steps.
    in_order, shuffled: autocorrelation at lags 0 to k [k + 1] of the stream, and of the same angles in random order.
    """

    angles: Floats
    shown: int
    consecutive: Ids
    random: Ids
    in_order: Floats
    shuffled: Floats

    @property
    def consecutive_worth(self) -> float:
        """How many independent angles the consecutive batch is worth."""
        return expected_sample_size(self.in_order, len(self.consecutive))


def stream(steps: int = 20_000, shown: int = 200, batch_size: int = 32, lags: int = 60, seed: int = 1) -> Stream:
    """CartPole-v1 under random actions: all of it for the autocorrelation, its first `shown` steps for the batches."""
    newest, early, whole = (
        rb.ReplayBuffer(size, sampler=rb.Uniform(replace=False), seed=seed) for size in (batch_size, shown, steps)
    )
    middle = (shown + batch_size) // 2  # where the consecutive batch ends
    consecutive = random = np.empty(0, np.int64)
    for step, _ in enumerate(cartpole(steps, [newest, early, whole], seed), start=1):
        if step == middle:
            consecutive = np.sort(newest.sample(batch_size).indices)
        if step == shown:
            random = np.sort(early.sample(batch_size).indices)
    everything = whole.sample(steps)  # without repetition: all of it, in random order
    shuffled = everything.obs[:, POLE_ANGLE].astype(np.float64)
    angles = shuffled[np.argsort(everything.indices)]
    in_order, at_random = autocorrelation(angles)[: lags + 1], autocorrelation(shuffled)[: lags + 1]
    return Stream(angles, shown, consecutive, random, in_order, at_random)


# ---- 3 and 4: priorities, probabilities, weights -------------------------------------


def prioritized(td_errors: Sequence[float], alpha: float, beta: float = 0.0, epsilon: float = 1e-6) -> rb.ReplayBuffer:
    """A buffer of as many transitions as there are TD errors, with the priorities that follow from them."""
    sampler = rb.Prioritized(alpha=alpha, beta=beta, epsilon=epsilon)
    buffer = rb.ReplayBuffer(len(td_errors), sampler=sampler, seed=0)
    for i in range(len(td_errors)):
        buffer.add([float(i)], 0, 0.0, [float(i)], True, False)
    buffer.update_priorities(np.arange(len(td_errors)), td_error=np.array(td_errors))
    return buffer


def probabilities(td_errors: Sequence[float], alpha: float) -> Floats:
    """With which probability one draw of `Prioritized(alpha)` gives each transition [n]: p^alpha / sum of p^alpha."""
    return prioritized(td_errors, alpha).sampler.probability_of(np.arange(len(td_errors)))


def weights(td_errors: Sequence[float], alpha: float, beta: float) -> Floats:
    """The importance weights of the same transitions [n]: (n P)^-beta, divided by the largest of them."""
    sampler = prioritized(td_errors, alpha, beta).sampler
    return sampler.weights(sampler.probability_of(np.arange(len(td_errors)))).astype(np.float64)


@dataclass(frozen=True)
class Corrections:
    """Weights against sizes of TD errors [n]: by alpha with beta = 1, and by beta with one alpha."""

    td_errors: Floats
    by_alpha: dict[float, Floats]
    by_beta: dict[float, Floats]
    alpha: float


def corrections(
    alphas: Sequence[float] = (0.0, 0.3, 0.6, 1.0), betas: Sequence[float] = (0.0, 0.4, 0.7, 1.0), alpha: float = 0.6
) -> Corrections:
    """For 41 transitions whose TD errors rise evenly on a logarithmic scale from 0.01 to 1."""
    td_errors = np.logspace(-2, 0, 41)
    errors = td_errors.tolist()
    return Corrections(
        td_errors,
        {value: weights(errors, value, 1.0) for value in alphas},
        {value: weights(errors, alpha, value) for value in betas},
        alpha,
    )


# ---- 5: the tree ---------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """One draw from a binary sum tree.

    levels: the sums, root first [1], [2], [4] …, leaves last. target: the draw, from 0 to the root's sum. path: on each
    level the node that is visited. left: what is left of the target there. shares: the leaves' probabilities [n].
    """

    levels: tuple[Floats, ...]
    target: float
    path: tuple[int, ...]
    left: tuple[float, ...]
    shares: Floats


def walk(priorities: Sequence[float] = LEAVES, draw: float = DRAW) -> Walk:
    """The walk that `draw` in [0, 1) takes; `priorities`: as many as a power of two, alpha is 1."""
    levels = [np.array(priorities)]
    while len(levels[0]) > 1:
        levels.insert(0, levels[0].reshape(-1, 2).sum(axis=1))
    node, left = 0, draw * float(levels[0][0])
    path, lefts = [node], [left]
    for below in levels[1:]:
        node *= 2
        if left >= below[node]:
            left -= float(below[node])
            node += 1
        path.append(node)
        lefts.append(left)
    buffer = prioritized(priorities, alpha=1.0, epsilon=0.0)
    shares = buffer.sampler.probability_of(np.arange(len(priorities)))
    return Walk(tuple(levels), draw * float(levels[0][0]), tuple(path), tuple(lefts), shares)
