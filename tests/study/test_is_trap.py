"""What importance weights do to prioritized replay: against the library's draws, closed forms and a plain loop."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import replaybank as rb
from replaybank import cli
from replaybank.study import SettingError, is_trap, two_rewards
from replaybank.study.base import Runs
from replaybank.study.cliffwalk import learn
from replaybank.study.is_trap import TrapConfig, crossing, judge, learn_walk
from replaybank.study.walk import Cliffwalk, Tabular, generators, pairs_of, replay

SETTINGS: dict[str, Any] = {
    "beta": 0.0,
    "norm": "batch",
    "minibatch": 32,
    "alpha": 0.6,
    "step_size": 0.25,
    "scale": 0.1,
    "mse": 1e-3,
    "max_updates": 1_000_000,
}


def nothing() -> None:
    """Where nobody waits for news."""


def with_priorities(priorities: npt.NDArray[np.float64], alpha: float, beta: float) -> rb.Prioritized:
    """The library's sampler, normalising over the buffer, with these priorities."""
    sampler = rb.Prioritized(alpha, beta=beta, epsilon=0.0, weight_norm="buffer")
    n = len(priorities)
    buffer = rb.ReplayBuffer(n, sampler=sampler, seed=0)
    zeros, ends = np.zeros(n), np.ones(n, bool)
    buffer.extend(zeros, zeros, zeros, zeros, ends, ~ends)
    buffer.update_priorities(np.arange(n), priorities)
    return sampler


def expected_steps(priorities: npt.NDArray[np.float64], alpha: float, beta: float) -> npt.NDArray[np.float64]:
    """N P w of each transition by is_trap's formula ([N], priorities > 0), weights normalised over the buffer."""
    masses = priorities**alpha
    return np.asarray(masses ** (1 - beta) * masses.min() ** beta / masses.mean())


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_expected_steps_are_what_the_sampler_gives(alpha: float, beta: float) -> None:
    priorities = np.random.default_rng(0).uniform(1e-3, 2.0, 50)
    sampler = with_priorities(priorities, alpha, beta)
    probabilities = sampler.probability_of(np.arange(50))
    given = 50 * probabilities * sampler.weights(probabilities)
    assert np.allclose(given, expected_steps(priorities, alpha, beta), rtol=1e-5, atol=0)


def test_full_correction_is_uniform_replay_with_a_smaller_step() -> None:
    for seed in range(20):
        priorities = np.random.default_rng(seed).lognormal(-5, 4, 30)
        steps = expected_steps(priorities, 0.6, 1.0)
        assert np.ptp(steps) < 1e-12
        assert steps[0] < 1
        assert expected_steps(priorities, 0.6, 0.0).mean() == pytest.approx(1)
    assert expected_steps(np.full(30, 0.5), 0.6, 1.0) == pytest.approx(np.ones(30))


def test_a_minibatch_of_one_divided_by_its_largest_weight_is_not_corrected_at_all() -> None:
    single = {**SETTINGS, "minibatch": 1}
    plain = learn_walk(single, 6, 0, nothing)
    assert learn_walk({**single, "beta": 1.0}, 6, 0, nothing) == plain
    corrected = {**single, "beta": 1.0, "norm": "buffer", "max_updates": 20 * plain[0]}
    assert learn_walk(corrected, 6, 0, nothing) == (20 * plain[0], False)


def test_every_arm_of_the_walk_is_the_learner_that_its_name_says() -> None:
    times = {
        name: np.median(
            [learn_walk({**SETTINGS, "beta": arm.beta, "norm": arm.norm}, 5, s, nothing)[0] for s in range(3)]
        )
        for name, arm in is_trap.ARMS.items()
    }
    assert times["beta 0"] < times["uniform"] < times["beta 0.4, buffer"] < times["beta 1, batch"]
    assert times["beta 1, batch"] * 20 < times["beta 1, buffer"]


def test_uniform_replay_is_that_of_cliffwalk_whatever_the_minibatch() -> None:
    uniform = {**SETTINGS, "beta": None}
    expected = learn({**SETTINGS, "features": "tabular", "sampler": "uniform"}, 6, 3, nothing)
    assert learn_walk(uniform, 6, 3, nothing) == learn_walk({**uniform, "minibatch": 1}, 6, 3, nothing) == expected


def test_each_transition_is_learnt_with_its_weight_and_gets_its_error_as_priority() -> None:
    walk = Cliffwalk(4)
    weights, memory = generators(0, 4)
    learner, model = (Tabular(walk, np.random.default_rng(9), 0.25, 0.1) for _ in range(2))
    sampler = rb.Prioritized(0.6, beta=0.7, weight_norm="buffer")
    buffer = walk.memory(sampler, memory)
    assert replay(buffer, learner, 8, 0.0, 200, nothing) == 200

    other = np.random.default_rng([0, 4]).spawn(2)[1]
    pairs = pairs_of(walk.memory(rb.Uniform(), other))
    n, priorities = len(pairs), np.ones(30)
    for _ in range(25):
        masses = priorities**0.6
        draws = (np.arange(8) + other.random(8)) / 8 * masses.sum()
        ids = np.searchsorted(np.cumsum(masses), draws, side="right")
        w = (n * masses[ids] / masses.sum()) ** -0.7 / (n * masses.min() / masses.sum()) ** -0.7
        for i, weight in zip(ids, w.astype(np.float32), strict=True):
            priorities[i] = abs(model.update(pairs[i], float(weight))) + 1e-6
    assert np.allclose(learner.values(), model.values(), rtol=1e-5, atol=1e-7)
    assert np.allclose(sampler.priority_of(np.arange(n)), priorities, rtol=1e-4, atol=1e-7)


# ---- two rewards ---------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_limit_is_the_closed_form(alpha: float, beta: float) -> None:
    # 0.9 Q^(e+1) = 0.1 (10 - Q)^(e+1), so Q / (10 - Q) = (1/9)^(1/(e+1))
    odds = (1 / 9) ** (1 / (alpha * (1 - beta) + 1))
    assert two_rewards.limit(alpha, beta) == pytest.approx(10 * odds / (1 + odds), abs=1e-9)


def test_the_limits_of_the_field_notes() -> None:
    assert two_rewards.limit(1, 0) == pytest.approx(2.5)
    assert two_rewards.limit(1, 1) == pytest.approx(1)


class Silent:
    """A track that nobody follows."""

    folder = Path()

    def begin(self, step: int) -> None:
        """Nothing."""

    def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
        """Nothing."""

    def progress(self, step: int, text: str = "") -> None:
        """Nothing."""


@pytest.mark.parametrize("arm", list(two_rewards.ARMS))
def test_what_is_learnt_from_two_rewards_is_the_limit_of_the_arm(arm: str) -> None:
    config = TrapConfig(two_rewards_transitions=200, two_rewards_step_size=0.005, two_rewards_updates=16_000)
    (job,) = [job for job in is_trap.jobs(config, [0]) if job.condition == two_rewards.condition(arm)]
    learnt = is_trap.run(job, Silent())[0]["value"]
    assert learnt == pytest.approx(two_rewards.limit(1.0, two_rewards.ARMS[arm].effective), rel=0.06)


# ---- what the study says -------------------------------------------------------------


def test_a_crossing_is_where_the_ratio_falls_below_one_for_good() -> None:
    states = [2, 3, 4, 5]
    assert crossing(states, [1.2, 0.9, 1.1, 0.4]) == "n = 4 to 5"
    assert crossing(states, [0.9, 0.8, 0.7, 0.6]) == "everywhere"
    assert crossing(states, [0.9, 0.8, 0.7, 1.0]) == "nowhere"
    assert crossing(states, [math.inf, 2.0, 0.7, 0.6]) == "n = 3 to 4"


def made_up(config: TrapConfig, relative: dict[str, list[float]], values: dict[str, float], seeds: int = 6) -> Runs:
    """Runs in which uniform replay takes ten updates a transition, and the arms these multiples of that."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for name, factors in {"uniform": [1.0, 1.0, 1.0], **relative}.items():
        counts = [10 * Cliffwalk(n).transitions * f for n, f in zip(config.states, factors, strict=True)]
        runs[is_trap.file_name(name)] = {
            seed: {
                "states": config.states,
                "updates": [config.max_updates if math.isinf(c) else int(c * (1 + 0.01 * seed)) for c in counts],
                "learnt": [math.isfinite(c) for c in counts],
            }
            for seed in range(seeds)
        }
    for name, value in values.items():
        runs[two_rewards.condition(name)] = {seed: {"value": value * (1 + 0.002 * seed)} for seed in range(seeds)}
    return runs


CONFIG = TrapConfig(fewest_states=4, most_states=6)


def outcomes(runs: Runs) -> dict[str, str]:
    return {verdict.claim.key: verdict.outcome for verdict in judge(CONFIG, runs).verdicts}


def test_verdicts_follow_the_ratios_and_the_closed_form() -> None:
    relative = {
        "beta 0": [0.9, 0.5, 0.2],
        "beta 0.4, batch": [2.0, 1.5, 0.5],
        "beta 0.4, buffer": [2.0, 1.5, 1.4],
        "beta 1, batch": [4.0, 4.0, 4.0],
        "beta 1, buffer": [4.0, 2.0, 0.5],
    }
    values = {"beta 0": 2.5, "beta 0.4": 2.02, "beta 1": 1.5, "beta 1, batch of 1": 2.5}
    assert outcomes(made_up(CONFIG, relative, values)) == {
        "faster without": "reproduced",
        "slower, batch": "reproduced",
        "slower, buffer": "not reproduced",
        "crossing, batch": "reproduced",
        "crossing, buffer": "not reproduced",
        "bias": "reproduced",
        "partly": "reproduced",
        "corrected": "not reproduced",
        "batch of 1": "reproduced",
    }


def test_few_seeds_and_missing_arms_decide_nothing() -> None:
    few = made_up(CONFIG, {"beta 1, batch": [4.0, 4.0, 4.0]}, {"beta 0": 2.5}, seeds=3)
    assert outcomes(few) == {"slower, batch": "undecided", "bias": "undecided"}
    assert is_trap.draw(CONFIG, few).keys() == {"is-trap", "two-rewards"}
    without = {"beta-0": made_up(CONFIG, {"beta 0": [0.9, 0.5, 0.2]}, {})["beta-0"]}
    assert outcomes(without) == {}
    assert is_trap.draw(CONFIG, without) == {}


def test_an_arm_that_never_learns_the_walk_is_told_so() -> None:
    found = judge(CONFIG, made_up(CONFIG, {"beta 1, buffer": [4.0, math.inf, math.inf]}, {}))
    assert [row[3] for row in found.tables[0].rows] == ["1,230", "never", "never"]
    assert found.verdicts[0].outcome == "undecided"


def test_a_study_of_which_no_run_learns_anything_is_still_told_and_drawn() -> None:
    never = [math.inf] * 3
    runs = made_up(CONFIG, {"uniform": never, "beta 1, batch": never, "beta 0": [1.0, 1.0, math.inf]}, {})
    found = judge(CONFIG, runs)
    assert {verdict.outcome for verdict in found.verdicts} == {"undecided"}
    assert [row[2] for row in found.tables[0].rows] == ["never"] * 3
    is_trap.draw(CONFIG, runs)["is-trap"].savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"minibatch": 0}, "--minibatch"),
        ({"alpha": -0.1}, "--alpha: expected from 0 to 10, given -0.1"),
        ({"two_rewards_alpha": 11.0}, "--two-rewards-alpha"),
        ({"two_rewards_transitions": 25}, "--two-rewards-transitions: expected a multiple of 10, given 25"),
        ({"two_rewards_step_size": 0.0}, "--two-rewards-step-size"),
        ({"two_rewards_updates": 10}, "--two-rewards-updates"),
        ({"most_states": 1}, "--most-states"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        TrapConfig(**wrong).check_valid()


def test_the_command_leaves_its_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ["--most-states", "3", "--seeds", "1", "--workers", "1", "--two-rewards-updates", "1000"]
    assert cli.main(["study", "run", "is-trap", *flags, "--out", str(out)]) == 0
    assert "Updates relative to uniform replay" in capfd.readouterr().out
    for stem in ("is-trap", "two-rewards"):
        assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((out / "runs" / "beta-1-batch" / "seed0.json").read_text())["record"]
    assert record["updates"] == [learn_walk({**SETTINGS, "beta": 1.0}, n, 0, nothing)[0] for n in (2, 3)]
