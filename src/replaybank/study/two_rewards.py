"""One value that is learnt from two rewards, 0 (90%) and 10 (10%), by prioritized replay; its true mean is 1.

Learners that draw by |TD error|^alpha, and correct by importance weights with beta, end where

    sum over rewards r of |r - Q|^(alpha (1 - beta)) (r - Q) = 0,

with alpha 1 and beta 0 at 2.5: prioritized replay changes the solution (Schaul et al. 2016, sec. 3.4). That is the
limit of small steps: every transition is drawn, and given the priority of the current Q, many times before Q moves. The
value starts between the rewards: from 0 the unrewarded transitions would first have errors, and so priorities, of about
0, and would hardly ever be drawn again. In a minibatch of 1 the largest weight of the batch is the weight itself: every
weight is 1, and the limit that of beta 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import brentq

import replaybank as rb
from replaybank.samplers.importance import WeightNorm
from replaybank.study import stats, walk_plots
from replaybank.study.base import Job, Record, Runs, Table, Track
from replaybank.study.claims import Claim, Verdict, decide_within
from replaybank.study.walk import BEAT
from replaybank.study.walk_times import told

Values = Mapping[str, Mapping[int, float]]
"""By arm and seed the value that was learnt."""


@dataclass(frozen=True)
class Arm:
    """How the value is learnt. effective: the beta whose limit it has."""

    beta: float
    norm: WeightNorm
    minibatch: int
    effective: float


REWARDS = (0.0, 10.0)
SHARES = (0.9, 0.1)
ARMS = {
    "beta 0": Arm(0.0, "buffer", 1, 0.0),
    "beta 0.4": Arm(0.4, "buffer", 1, 0.4),
    "beta 1": Arm(1.0, "buffer", 1, 1.0),
    "beta 1, batch of 1": Arm(1.0, "batch", 1, 0.0),
    "beta 1, batch of 32": Arm(1.0, "batch", 32, 1.0),
}


def limit(alpha: float, beta: float) -> float:
    """The value that two rewards end at: the root of sum |r - Q|^(alpha (1 - beta)) (r - Q)."""
    exponent = alpha * (1 - beta)

    def drift(value: float) -> float:
        pulls = (share * abs(r - value) ** exponent * (r - value) for r, share in zip(REWARDS, SHARES, strict=True))
        return float(sum(pulls))

    return float(brentq(drift, *REWARDS, xtol=1e-12))


def condition(name: str) -> str:
    """The name of an arm's condition."""
    return "two-rewards-" + name.replace(",", "").replace(" ", "-")


def learn(job: Job, track: Track, seed: int) -> Record:
    """One run: the mean of the value over the second half of its updates."""
    settings = job.settings
    n, minibatch = settings["two_rewards_transitions"], settings["minibatch"]
    order, draws = np.random.default_rng([seed, n]).spawn(2)
    reward = order.permutation(np.repeat(REWARDS, [n - n // 10, n // 10]))
    sampler = rb.Prioritized(settings["two_rewards_alpha"], beta=settings["beta"], weight_norm=settings["norm"])
    buffer = rb.ReplayBuffer(n, sampler=sampler, seed=draws)
    state, ended = np.zeros(n), np.ones(n, bool)
    buffer.extend(state, state, reward, state, ended, ~ended)
    step_size, updates = settings["two_rewards_step_size"], settings["two_rewards_updates"]
    rewards, value, late = reward.tolist(), sum(REWARDS) / 2, []
    for done in range(0, updates, minibatch):
        batch = buffer.sample(minibatch)
        td_errors = []
        for i, weight in zip(batch.indices.tolist(), batch.weights.tolist(), strict=True):
            td_errors.append(rewards[i] - value)
            value += step_size * weight * td_errors[-1]
        buffer.update_priorities(batch.indices, np.array(td_errors))
        if done >= updates // 2:
            late.append(value)
        if done % BEAT < minibatch:
            track.scalar(seed, "charts/value", value, done)
            track.progress(done)
    return {"value": float(np.mean(late))}


# ---- what was found ------------------------------------------------------------------

BIAS = Claim(
    "bias",
    "prioritized replay changes the solution: 2.5 instead of 1 for alpha 1, beta 0",
    "Schaul et al. 2016, sec. 3.4; the closed form",
)
CORRECTED = Claim("corrected", "importance weights with beta 1 compensate for it fully", "Schaul et al. 2016, sec. 3.4")
HALF = Claim("partly", "with beta 0.4 the value ends between, at the root of the closed form", "the closed form")
IN_VAIN = Claim(
    "batch of 1",
    "divided by the largest weight of a minibatch of 1 they compensate for nothing: the value ends as with beta 0",
    "the closed form",
)
TOLERANCE = (0.97, 1.03)
"""A value counts as the expected one if its ratio to it lies in here."""
EXPECTED = {"beta 0": BIAS, "beta 0.4": HALF, "beta 1": CORRECTED, "beta 1, batch of 1": IN_VAIN}


def values_of(runs: Runs) -> dict[str, dict[int, float]]:
    """By arm and seed the value that was learnt from the two rewards."""
    return {
        name: {seed: record["value"] for seed, record in sorted(runs[condition(name)].items())}
        for name in ARMS
        if runs.get(condition(name))
    }


def table(alpha: float, values: Values) -> Table:
    rows = tuple(
        (
            name,
            f"{limit(alpha, ARMS[name].effective):.4f}",
            told(stats.bootstrap_interval(list(by_seed.values())), 4),
        )
        for name, by_seed in values.items()
    )
    title = f"The value learnt from rewards of 0 (90%) and 10 (10%), alpha {alpha:g}; true: 1"
    return Table(title, ("arm", "closed form", "learnt"), rows)


def verdicts(alpha: float, values: Values) -> list[Verdict]:
    found = []
    for name, claim in EXPECTED.items():
        if name in values:
            expected = limit(alpha, ARMS[name].effective)
            learnt = stats.bootstrap_interval(list(values[name].values()))
            low, high = (share * expected for share in TOLERANCE)
            outcome = decide_within(learnt, low, high, seeds=len(values[name]))
            evidence = f"closed form {expected:.4f}, learnt {told(learnt, 4)}, {len(values[name])} seeds"
            found.append(Verdict(claim, outcome, evidence))
    return found


def summary(alpha: float, values: Values) -> dict[str, Any]:
    """Closed form and measured value of each arm."""
    return {
        name: {
            "seeds": len(by_seed),
            "closed_form": limit(alpha, ARMS[name].effective),
            "value": asdict(stats.bootstrap_interval(list(by_seed.values()))),
        }
        for name, by_seed in values.items()
    }


NOTE = (
    "Two rewards: every learner starts at 5 and draws from the library's `Prioritized`, and what is drawn gets new "
    f"priorities. The closed form is the limit of small steps; it is met if the interval lies within {TOLERANCE[0]} "
    f"and {TOLERANCE[1]} times it. Batches of 32 are corrected up to the rare ones without both rewards."
)


def draw(alpha: float, values: Values) -> Figure:
    """The closed form by beta, and what was learnt."""
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    ax = figure.subplots()
    betas = np.linspace(0, 1, 101)
    exact = {
        f"closed form, alpha {a:g}": np.array([limit(a, float(beta)) for beta in betas])
        for a in sorted({alpha, 0.6}, reverse=True)
    }
    measured = {
        name: (ARMS[name].beta, stats.bootstrap_interval(list(by_seed.values()))) for name, by_seed in values.items()
    }
    walk_plots.limits(ax, betas, exact, measured)
    walk_plots.level(ax, 1.0, "true value", 0.01)
    walk_plots.legend_below(figure, ax, 2)
    return figure
