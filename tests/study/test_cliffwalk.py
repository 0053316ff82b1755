"""The Blind Cliffwalk: its memory, values and learners, each way to choose, and what the study says of the runs."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from replaybank import cli
from replaybank.study import SettingError, cliffwalk
from replaybank.study.base import Job, Runs
from replaybank.study.cliffwalk import CliffwalkConfig, follow_errors, follow_oracle, judge, learn
from replaybank.study.walk import Cliffwalk, Learner, Linear, Tabular, generators, pairs_of, replay

SETTINGS: dict[str, Any] = {
    "features": "tabular",
    "step_size": 0.25,
    "scale": 0.1,
    "mse": 1e-3,
    "alpha": 0.6,
    "rank_alpha": 0.7,
    "max_updates": 1_000_000,
}


def nothing() -> None:
    """Where nobody waits for news."""


def executed(n: int, actions: tuple[int, ...]) -> tuple[tuple[int, int, float, int, bool], ...]:
    """What an agent lives through that takes these actions: a walk in plain Python, (s, a, r, s', end) each."""
    lived = []
    for state, action in enumerate(actions):
        right = action == (0, 1)[state % 2]
        wins = right and state == n - 1
        ends = wins or not right
        lived.append((state, action, 1.0 if wins else 0.0, n if ends else state + 1, ends))
        if ends:
            break
    return tuple(lived)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_the_memory_is_every_action_sequence_once_and_to_its_end(n: int) -> None:
    buffer = Cliffwalk(n).memory(rb.Uniform(), np.random.default_rng(0))
    assert len(buffer) == 2 ** (n + 1) - 2 == Cliffwalk(n).transitions
    batch = buffer.read(np.arange(len(buffer)))
    assert batch.reward.sum() == 1.0 == (batch.reward > 0).sum()
    assert not batch.truncated.any()
    columns = (batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminated)
    steps = list(zip(*(column.tolist() for column in columns), strict=True))
    ends = [0, *(np.flatnonzero(batch.terminated) + 1).tolist()]
    stored = Counter(tuple(steps[a:b]) for a, b in itertools.pairwise(ends))
    assert stored == Counter(executed(n, actions) for actions in itertools.product((0, 1), repeat=n))


def test_sequences_come_in_an_order_of_the_seed() -> None:
    orders = [pairs_of(Cliffwalk(6).memory(rb.Uniform(), np.random.default_rng(seed))) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    counts = Counter(orders[0])
    assert all(counts[pair] == 2 ** (6 - 1 - pair // 2) for pair in range(12))


@pytest.mark.parametrize("n", [2, 7, 16])
def test_optimal_values_are_those_of_value_iteration(n: int) -> None:
    q = np.zeros((n + 1, 2))
    for _ in range(n + 1):
        q[:n] = 0.0
        for state in reversed(range(n)):
            q[state, state % 2] = 1.0 if state == n - 1 else (1 - 1 / n) * q[state + 1].max()
    assert np.allclose(Cliffwalk(n).optimal(), q[:n].ravel(), rtol=0, atol=1e-15)


def with_features(walk: Cliffwalk, linear: bool, theta: list[float], pair: int) -> tuple[Any, Any]:
    """Q by pair and the features of one, from one weight vector, as the paper's appendix writes it."""
    phi = np.eye(walk.pairs)
    if linear:
        phi = np.hstack([phi, np.tile(np.eye(2), (walk.states, 1))])
    return phi @ np.array(theta), phi[pair]


@pytest.mark.parametrize("linear", [False, True])
def test_an_update_is_a_step_along_the_features(linear: bool) -> None:
    walk = Cliffwalk(5)
    learner: Learner = (Linear if linear else Tabular)(walk, np.random.default_rng(3), 0.25, 0.1)
    again = np.random.default_rng(3)
    theta = np.concatenate([again.normal(0, 0.1, 10), again.normal(0, 0.1, 2)])[: 12 if linear else 10]
    rng = np.random.default_rng(4)
    for _ in range(300):
        pair, weight = int(rng.integers(10)), float(rng.random())
        q, phi = with_features(walk, linear, theta.tolist(), pair)
        state, action = divmod(pair, 2)
        target = 0.0
        if action == state % 2:
            target = 1.0 if state == 4 else 0.8 * max(q[2 * state + 2], q[2 * state + 3])
        before, full = learner.squares, learner.change(pair)
        td_error = learner.update(pair, weight)
        assert td_error == pytest.approx(target - q[pair], abs=1e-12)
        fully, _ = with_features(walk, linear, (theta + 0.25 * td_error * phi).tolist(), pair)
        assert full == pytest.approx(((fully - walk.optimal()) ** 2).sum() - before, abs=1e-12)
        theta = theta + 0.25 * weight * td_error * phi
        moved, _ = with_features(walk, linear, theta.tolist(), pair)
        assert np.allclose(learner.values(), moved, rtol=0, atol=1e-12)
        assert learner.squares == pytest.approx(((moved - walk.optimal()) ** 2).sum(), abs=1e-12)


@pytest.mark.parametrize("sampler", ["uniform", "oracle", "greedy", "proportional", "rank"])
@pytest.mark.parametrize("features", ["tabular", "linear"])
def test_a_run_ends_with_the_first_update_below_the_threshold(sampler: str, features: str) -> None:
    settings = {**SETTINGS, "sampler": sampler, "features": features}
    updates, learnt = learn(settings, 5, 0, nothing)
    assert learnt
    assert learn({**settings, "max_updates": updates}, 5, 0, nothing) == (updates, True)
    assert learn({**settings, "max_updates": updates - 1}, 5, 0, nothing) == (updates - 1, False)


def prepared(n: int, seed: int) -> tuple[Cliffwalk, Tabular, list[int], np.random.Generator]:
    """A walk, its learner, its memory by id, and the generator as it is once the memory is filled."""
    walk = Cliffwalk(n)
    weights, memory = generators(seed, n)
    learner = Tabular(walk, weights, 0.25, 0.1)
    return walk, learner, pairs_of(walk.memory(rb.Uniform(), memory)), memory


def mse(walk: Cliffwalk, learner: Learner) -> float:
    return float(np.mean((learner.values() - walk.optimal()) ** 2))


def test_uniform_replay_in_blocks_is_single_draws_bit_for_bit() -> None:
    for seed in range(3):
        found = []
        for block in (1, 7, 4096):
            walk = Cliffwalk(6)
            weights, memory = generators(seed, 6)
            learner = Tabular(walk, weights, 0.25, 0.1)
            buffer = walk.memory(rb.Uniform(), memory)
            found.append((replay(buffer, learner, block, 1e-3 * walk.pairs, 10**6, nothing), learner.values().tolist()))
        assert found[0] == found[1] == found[2]


def test_uniform_replay_is_a_plain_loop_over_random_ids() -> None:
    walk, learner, pairs, rng = prepared(6, 1)
    updates = 0
    while mse(walk, learner) >= 1e-3:
        learner.update(pairs[int(rng.random() * len(pairs))])
        updates += 1
    assert learn({**SETTINGS, "sampler": "uniform"}, 6, 1, nothing) == (updates, True)


def test_proportional_replay_is_a_plain_loop_over_a_list_of_priorities() -> None:
    for seed in range(4):
        walk, learner, pairs, rng = prepared(5, seed)
        masses, updates = np.ones(len(pairs)), 0
        while mse(walk, learner) >= 1e-3:
            i = int(np.searchsorted(np.cumsum(masses), rng.random() * masses.sum(), side="right"))
            masses[i] = (abs(learner.update(pairs[i])) + 1e-6) ** 0.6
            updates += 1
        assert learn({**SETTINGS, "sampler": "proportional"}, 5, seed, nothing) == (updates, True)


def test_replay_by_rank_is_a_plain_loop_over_a_sorted_list() -> None:
    for seed in range(4):
        walk, learner, pairs, rng = prepared(5, seed)
        priorities, updates = [1.0] * len(pairs), 0
        masses = np.arange(1.0, len(pairs) + 1) ** -0.7
        while mse(walk, learner) >= 1e-3:
            order = sorted(range(len(pairs)), key=lambda i: (-priorities[i], -i))
            i = order[int(np.searchsorted(np.cumsum(masses), rng.random() * masses.sum(), side="right"))]
            priorities[i] = abs(learner.update(pairs[i]))
            updates += 1
        assert learn({**SETTINGS, "sampler": "rank"}, 5, seed, nothing) == (updates, True)


def test_greedy_replay_takes_the_largest_error_and_first_those_it_has_not_seen() -> None:
    for seed in range(4):
        walk, learner, pairs, _ = prepared(6, seed)
        errors, updates, chosen = [math.inf] * len(pairs), 0, []
        while mse(walk, learner) >= 1e-3:
            i = errors.index(max(errors))
            errors[i] = abs(learner.update(pairs[i]))
            chosen.append(i)
            updates += 1
        assert chosen[: len(pairs)] == list(range(len(pairs)))[: len(chosen)]
        _, other, _, _ = prepared(6, seed)
        assert follow_errors(pairs, other, 1e-3 * walk.pairs, 10**6, nothing) == updates
        assert other.values().tolist() == learner.values().tolist()


def test_the_oracle_takes_the_transition_that_lowers_the_error_most() -> None:
    walk, learner, pairs, _ = prepared(4, 2)
    q, updates = learner.values(), 0
    after, optimal = walk.successors(), walk.optimal()
    while np.mean((q - optimal) ** 2) >= 1e-3:
        tried = []
        for pair in pairs:  # every transition of the memory, copies and all
            target = walk.gamma * max(q[after[pair]], q[after[pair] + 1]) if after[pair] >= 0 else 0.0
            target += pair == walk.rewarded
            moved = q.copy()
            moved[pair] += 0.25 * (target - q[pair])
            tried.append((float(np.mean((moved - optimal) ** 2)), moved))
        q = min(tried, key=lambda one: one[0])[1]
        updates += 1
    assert follow_oracle(walk, learner, 1e-3 * walk.pairs, 10**6) == updates
    assert np.allclose(learner.values(), q, rtol=0, atol=1e-12)


def test_an_oracle_that_no_update_helps_is_stuck_and_says_so() -> None:
    walk = Cliffwalk(10)
    weights, _ = generators(0, 10)
    learner = Linear(walk, weights, 0.25, 0.1)
    updates = follow_oracle(walk, learner, 1e-3 * walk.pairs, 10**6)
    assert updates < 10_000
    assert mse(walk, learner) > 1e-3
    before = learner.squares
    for pair in range(walk.pairs):
        assert learner.change(pair) > -1e-12
    assert learner.squares == before
    assert learn({**SETTINGS, "sampler": "oracle", "features": "linear"}, 10, 0, nothing) == (updates, False)


def test_the_order_of_the_papers_figures() -> None:
    medians = {
        sampler: np.median([learn({**SETTINGS, "sampler": sampler}, 9, seed, nothing)[0] for seed in range(5)])
        for sampler in cliffwalk.SAMPLERS
    }
    assert medians["oracle"] < medians["greedy"] < medians["proportional"] < medians["uniform"] / 4
    assert medians["rank"] < medians["uniform"] / 4


# ---- what the study says -------------------------------------------------------------


def runs_of(config: CliffwalkConfig, law: dict[str, Any], seeds: int = 6) -> Runs:
    """Made-up runs: by sampler how many updates a number of transitions takes; infinite: never."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for sampler, of in law.items():
        for features in config.features:
            counts = [of(Cliffwalk(n).transitions) for n in config.states]
            runs[f"{sampler}-{features}"] = {
                seed: {
                    "states": config.states,
                    "updates": [config.max_updates if math.isinf(c) else int(c * (1 + 0.01 * seed)) for c in counts],
                    "learnt": [math.isfinite(c) for c in counts],
                }
                for seed in range(seeds)
            }
    return runs


def outcomes(config: CliffwalkConfig, runs: Runs) -> dict[str, str]:
    return {verdict.claim.key: verdict.outcome for verdict in judge(config, runs).verdicts}


def test_verdicts_follow_the_slopes_and_the_ratios() -> None:
    config = CliffwalkConfig()
    as_published = runs_of(
        config,
        {
            "uniform": lambda n: 100 * n,
            "oracle": lambda n: 1000 * math.log(n),
            "greedy": lambda n: 10 * n,
            "proportional": lambda n: 20 * n,
            "rank": lambda n: 20 * n,
        },
    )
    assert set(outcomes(config, as_published).values()) == {"reproduced"}
    otherwise = runs_of(
        config,
        {
            "uniform": lambda n: 100 * n**1.5,
            "oracle": lambda n: 100 * n,
            "greedy": lambda n: 1000 * n**1.5,
            "proportional": lambda n: 1000 * n**1.5,
            "rank": lambda n: 1000 * n**1.5,
        },
    )
    assert set(outcomes(config, otherwise).values()) == {"not reproduced"}


def test_verdicts_on_slopes_leave_small_walks_out_and_the_table_has_both() -> None:
    config = CliffwalkConfig()
    found = judge(config, runs_of(config, {"uniform": lambda n: 100 * max(n, 510)}))
    assert [verdict.outcome for verdict in found.verdicts] == ["reproduced"]
    slopes = found.summary["conditions"]["uniform-tabular"]
    assert slopes["slope"]["estimate"] == pytest.approx(1, abs=1e-3)
    assert slopes["slope_all_sizes"]["estimate"] < 0.8


def test_few_seeds_and_missing_runs_decide_nothing() -> None:
    config = CliffwalkConfig()
    law = {"uniform": lambda n: 100 * n, "greedy": lambda n: 10 * n}
    assert set(outcomes(config, runs_of(config, law, seeds=3)).values()) == {"undecided"}
    only = {"greedy-tabular": dict(runs_of(config, law)["greedy-tabular"])}
    found = judge(config, only)
    assert [verdict.claim.key for verdict in found.verdicts] == ["greedy slope"]
    assert cliffwalk.draw(config, only)


def test_runs_that_never_learnt_the_walk_are_told_and_count_as_infinitely_long() -> None:
    config = CliffwalkConfig(features=("tabular",))
    law = {"uniform": lambda n: 100 * n, "greedy": lambda n: math.inf if n > 10_000 else 10 * n}
    found = judge(config, runs_of(config, law))
    last = found.tables[0].rows[-1]
    assert last[3] == "never"
    assert any("greedy-tabular: 24 of 90 runs never" in note for note in found.notes)
    assert {v.claim.key: v.outcome for v in found.verdicts}["greedy"] == "undecided"
    assert [row["learnt"] for row in found.rows if row["sampler"] == "greedy" and row["states"] == 16] == [False] * 6


def test_a_study_of_which_no_run_learns_anything_is_still_told_and_drawn() -> None:
    config = CliffwalkConfig(max_updates=5)
    runs = runs_of(config, dict.fromkeys(cliffwalk.SAMPLERS, lambda n: math.inf))
    assert set(outcomes(config, runs).values()) == {"undecided"}
    cliffwalk.draw(config, runs)["cliffwalk"].savefig(io.BytesIO())


def test_jobs_pair_the_seeds_and_settings_tell_all_a_run_depends_on() -> None:
    jobs = cliffwalk.jobs(CliffwalkConfig(most_states=9), range(3))
    seeds: dict[str, list[int]] = {}
    for job in jobs:
        assert isinstance(job, Job)
        seeds.setdefault(job.condition, []).extend(job.seeds)
        assert set(SETTINGS) | {"sampler", "states"} == set(job.settings)
    assert len(seeds) == 10
    assert all(own == [0, 1, 2] for own in seeds.values())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samplers": ("uniform", "best")}, "--samplers: 'best' is unknown"),
        ({"features": ()}, "--features: expected each at most once and at least one"),
        ({"fewest_states": 1}, "--fewest-states"),
        ({"most_states": 21}, "--most-states"),
        ({"slopes_from": 16}, "--slopes-from: expected from 2 to 15"),
        ({"step_size": 0.0}, "--step-size"),
        ({"scale": 0.0}, "--scale"),
        ({"mse": -1.0}, "--mse"),
        ({"alpha": 31.0}, "--alpha"),
        ({"max_updates": 0}, "--max-updates"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        CliffwalkConfig(**wrong).check_valid()


def printed_medians(study: str) -> list[list[str]]:
    """The rows of a committed study's tables that begin with a number of states."""
    lines = (Path(__file__).parents[2] / "studies" / study / "README.md").read_text().splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    return [row for row in cells if row[0].isdigit()]


def as_printed(summary: dict[str, Any], conditions: list[dict[str, Any]]) -> list[list[str]]:
    """The rows that a summary.json says."""
    rows = []
    for k, n in enumerate(summary["states"]):
        row = [str(n), f"{summary['transitions'][k]:,}"]
        for condition in conditions:
            median, never = condition["median_updates"][k], condition["not_learnt"][k]
            some = f"{median:,.0f} ({never} never)" if never and median is not None else f"{median or 0:,.0f}"
            row.append("never" if never == condition["seeds"] else some)
        rows.append(row)
    return rows


def test_the_committed_medians_are_those_that_are_printed() -> None:
    folder = Path(__file__).parents[2] / "studies"
    walks = json.loads((folder / "cliffwalk" / "summary.json").read_text())
    samplers = ("uniform", "oracle", "greedy", "proportional", "rank")
    expected = []
    for features in ("tabular", "linear"):
        expected += as_printed(walks, [walks["conditions"][f"{sampler}-{features}"] for sampler in samplers])
    assert printed_medians("cliffwalk") == expected
    traps = json.loads((folder / "is-trap" / "summary.json").read_text())
    assert printed_medians("is-trap") == as_printed(traps, list(traps["walk"].values()))


def test_the_command_leaves_its_files_and_tells_the_verdicts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    flags = ["--most-states", "4", "--slopes-from", "3", "--seeds", "2", "--workers", "1", "--out", str(out)]
    assert cli.main(["study", "run", "cliffwalk", *flags]) == 0
    assert "undecided" in capfd.readouterr().out
    for ending in ("png", "svg"):
        assert (out / f"cliffwalk.{ending}").stat().st_size > 10_000
    summary = json.loads((out / "summary.json").read_text())
    record = json.loads((out / "runs" / "rank-linear" / "seed1.json").read_text())["record"]
    settings = {**SETTINGS, "sampler": "rank", "features": "linear"}
    assert record["updates"] == [learn(settings, n, 1, nothing)[0] for n in (2, 3, 4)]
    other = json.loads((out / "runs" / "rank-linear" / "seed0.json").read_text())["record"]
    expected = [(a + b) / 2 for a, b in zip(record["updates"], other["updates"], strict=True)]
    assert summary["conditions"]["rank-linear"]["median_updates"] == expected
