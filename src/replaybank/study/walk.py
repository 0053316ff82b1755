"""The Blind Cliffwalk of Schaul et al. 2016 (sec. 3.1, app. B.1): the walk, its memory, and Q-learning on its replay.

A pair of state s and action a is the number 2 s + a. The walk is deterministic, so a pair says all that a transition
holds, and the memory's 2^(n+1) - 2 transitions are 2 n different ones: the pair of state s is there 2^(n-1-s) times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

import replaybank as rb
from replaybank.samplers.base import Sampler
from replaybank.study import SettingError

Array = npt.NDArray[np.float64]

BEAT = 4096  # updates between two calls of `beat`


@dataclass(frozen=True)
class Cliffwalk:
    """`states` states in a row and two actions, of which the right one, `state % 2`, goes on to the next state.

    The wrong one ends the episode with reward 0; the right one in the last state ends it with reward 1. Everything else
    gives 0. That the right action alternates keeps a learner from generalising over it.
    """

    states: int

    @property
    def gamma(self) -> float:
        """The discount 1 - 1/n, which keeps values of about one size for every n (app. B.1)."""
        return 1 - 1 / self.states

    @property
    def pairs(self) -> int:
        """How many pairs of state and action there are."""
        return 2 * self.states

    @property
    def transitions(self) -> int:
        """How many transitions all 2^n sequences of actions have, each executed to its end: 2^(n+1) - 2."""
        return (2 << self.states) - 2

    def right(self, state: int) -> int:
        """The pair of a state and its right action."""
        return 2 * state + state % 2

    @property
    def rewarded(self) -> int:
        """The only pair with a reward."""
        return self.right(self.states - 1)

    def successors(self) -> list[int]:
        """By pair the first pair of the state that follows, -1 where the episode ends; [2 n]."""
        after = [-1] * self.pairs
        for state in range(self.states - 1):
            after[self.right(state)] = 2 * (state + 1)
        return after

    def optimal(self) -> Array:
        """Q* by pair (float64 [2 n]): gamma^(n-1-s) for the right action of state s, 0 for the wrong one."""
        values = np.zeros(self.pairs)
        for state in range(self.states):
            values[self.right(state)] = self.gamma ** (self.states - 1 - state)
        return values

    def memory(self, sampler: Sampler, rng: np.random.Generator) -> rb.ReplayBuffer:
        """A buffer of all 2^n action sequences, in random order, each executed until it ends; exactly one succeeds.

        Observations are the states, and n after the end.
        """
        n = self.states
        states = np.arange(n)
        actions = rng.permutation(2**n)[:, None] >> states & 1
        wrong = actions != states % 2
        executed = np.cumsum(wrong, axis=1) - wrong == 0  # [2^n, n]: no wrong action before
        obs = np.broadcast_to(states, executed.shape)[executed]
        failed, action = wrong[executed], actions[executed]
        terminated = failed | (obs == n - 1)
        reward = (terminated & ~failed).astype(np.float32)
        after = np.where(terminated, n, obs + 1)
        buffer = rb.ReplayBuffer(self.transitions, sampler=sampler, seed=rng)
        buffer.extend(obs, action, reward, after, terminated, np.zeros(len(obs), bool))
        return buffer


def check_walk(fewest: int, most: int, step_size: float, scale: float, mse: float) -> None:
    """Raise SettingError for sizes of a walk, or a learner on it, that cannot be."""
    if not 2 <= fewest <= most <= 20:
        raise SettingError(
            f"--fewest-states, --most-states: expected 2 <= fewest <= most <= 20, given {fewest}, {most}"
        )
    if not 0 < step_size <= 1:
        raise SettingError(f"--step-size: expected above 0 and at most 1, given {step_size}")
    if not (0 < scale < math.inf):
        raise SettingError(f"--scale: expected a number above 0 (greedy replay needs random values), given {scale}")
    if not (0 < mse < math.inf):
        raise SettingError(f"--mse: expected a number above 0, given {mse}")


def generators(seed: int, states: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Of a walk in a run: one for the initial weights, one for the memory and its draws; the same for every sampler."""
    weights, memory = np.random.default_rng([seed, states]).spawn(2)
    return weights, memory


def pairs_of(buffer: rb.ReplayBuffer) -> list[int]:
    """By id the pair of every transition of a walk's memory."""
    pairs: list[int] = (2 * buffer.field("obs") + buffer.field("action")).tolist()
    return pairs


class Learner(Protocol):
    """Q-learning on single transitions (app. B.1, eq. 2 and 3)."""

    squares: float
    """The sum of the squared errors of all 2 n values: 2 n times the MSE to Q*."""

    def update(self, pair: int, weight: float = 1.0) -> float:
        """One step along weight * TD error; gives the TD error that it was made with."""
        ...

    def change(self, pair: int) -> float:
        """By how much such a step would change `squares`. Nothing is changed."""
        ...

    def values(self) -> Array:
        """Q by pair (float64 [2 n])."""
        ...


class Tabular:
    """A value for each pair."""

    def __init__(self, walk: Cliffwalk, rng: np.random.Generator, step_size: float, scale: float) -> None:
        """`scale`: standard deviation of the normal initial values."""
        self._q: list[float] = rng.normal(0.0, scale, walk.pairs).tolist()
        self._optimal: list[float] = walk.optimal().tolist()
        self._after, self._rewarded = walk.successors(), walk.rewarded
        self._gamma, self._step_size = walk.gamma, step_size
        self.squares = float(np.sum((self.values() - walk.optimal()) ** 2))

    def _td_error(self, pair: int) -> float:
        q, after = self._q, self._after[pair]
        if after >= 0:
            return self._gamma * max(q[after], q[after + 1]) - q[pair]
        return (1.0 if pair == self._rewarded else 0.0) - q[pair]

    def update(self, pair: int, weight: float = 1.0) -> float:
        td_error = self._td_error(pair)
        step, value = self._step_size * weight * td_error, self._q[pair]
        self.squares += step * (2 * (value - self._optimal[pair]) + step)
        self._q[pair] = value + step
        return td_error

    def change(self, pair: int) -> float:
        step = self._step_size * self._td_error(pair)
        return step * (2 * (self._q[pair] - self._optimal[pair]) + step)

    def values(self) -> Array:
        return np.array(self._q)


class Linear:
    """Q(s, a) = theta[s, a] + bias[a]: of each action a weight for a 1-hot state and one for a constant feature."""

    def __init__(self, walk: Cliffwalk, rng: np.random.Generator, step_size: float, scale: float) -> None:
        """`scale`: standard deviation of the normal initial weights."""
        self._states = walk.states
        self._theta: list[float] = rng.normal(0.0, scale, walk.pairs).tolist()
        self._bias: list[float] = rng.normal(0.0, scale, 2).tolist()
        self._optimal: list[float] = walk.optimal().tolist()
        self._after, self._rewarded = walk.successors(), walk.rewarded
        self._gamma, self._step_size = walk.gamma, step_size
        errors = self.values() - walk.optimal()
        self._sums = [float(errors[0::2].sum()), float(errors[1::2].sum())]  # of each action's errors
        self.squares = float(np.sum(errors**2))

    def _td_error(self, pair: int) -> float:
        theta, bias, after = self._theta, self._bias, self._after[pair]
        value = theta[pair] + bias[pair & 1]
        if after >= 0:
            return self._gamma * max(theta[after] + bias[0], theta[after + 1] + bias[1]) - value
        return (1.0 if pair == self._rewarded else 0.0) - value

    def _change(self, pair: int, step: float) -> float:
        """The bias moves the errors of all n pairs of the action by `step`, and the pair's own weight its error again.

        So of n - 1 pairs e^2 becomes (e + step)^2, and of the pair itself (e + 2 step)^2.
        """
        error = self._theta[pair] + self._bias[pair & 1] - self._optimal[pair]
        return step * (2 * (self._sums[pair & 1] + error) + (self._states + 3) * step)

    def update(self, pair: int, weight: float = 1.0) -> float:
        td_error = self._td_error(pair)
        step, action = self._step_size * weight * td_error, pair & 1
        self.squares += self._change(pair, step)
        self._sums[action] += (self._states + 1) * step
        self._theta[pair] += step
        self._bias[action] += step
        return td_error

    def change(self, pair: int) -> float:
        return self._change(pair, self._step_size * self._td_error(pair))

    def values(self) -> Array:
        return np.add(self._theta, self._bias * self._states, dtype=np.float64)


def replay(
    buffer: rb.ReplayBuffer, learner: Learner, minibatch: int, enough: float, most: int, beat: Callable[[], None]
) -> int:
    """Draws minibatches and learns from them until `learner.squares` < `enough`; gives the number of updates.

    The transitions of a minibatch are learnt from one after the other, each with its importance weight, and then get
    their TD errors as priorities. So an update is a step of one size however large the minibatch is, which says how
    many transitions are drawn before priorities are set. Ends after `most` updates; the learner tells whether it was
    enough. `beat` is called now and then.
    """
    pairs, update, updates, since = pairs_of(buffer), learner.update, 0, 0
    while learner.squares >= enough and updates < most:
        batch = buffer.sample(min(minibatch, most - updates))
        td_errors = []
        for i, weight in zip(batch.indices.tolist(), batch.weights.tolist(), strict=True):
            td_errors.append(update(pairs[i], weight))
            if learner.squares < enough:
                return updates + len(td_errors)
        buffer.update_priorities(batch.indices, np.array(td_errors))
        updates, since = updates + len(td_errors), since + len(td_errors)
        if since >= BEAT:
            beat()
            since = 0
    return updates
