"""The study of shards: its rule, what it runs, and that a cluster's batches are what the agent would have had."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats as scipy_stats

import replaybank as rb
from replaybank.samplers.base import Sampler
from replaybank.study import SettingError
from replaybank.study.base import Record
from replaybank.study.claims import decide_within
from replaybank.study.folder import Folder
from replaybank.study.memories import BufferSettings
from replaybank.study.performance import performances
from replaybank.study.runner import JobTrack
from replaybank.study.shards import (
    CONFIDENCE,
    MARGINS,
    ONE_BUFFER,
    STUDY,
    ShardsConfig,
    comparisons,
    draw,
    jobs,
    judge,
    name,
    run,
    seeds_needed,
    spread,
)
from replaybank.study.stats import paired_difference

if TYPE_CHECKING:
    from replaybank.study.cluster_buffer import ClusterBuffer

CONFIG = ShardsConfig()
SEEDS = range(12)
FLAT = {name(shards): 150.0 for shards in (0, *CONFIG.shards)}


def record(value: float, condition: str = ONE_BUFFER) -> Record:
    """A run of which every episode has that return, in a cluster with shards of equal use."""
    ends = list(range(100, CONFIG.steps + 1, 100))
    episodes = {"episodes": {"step": ends, "return": [value] * len(ends), "length": [100] * len(ends)}}
    if condition == ONE_BUFFER:
        return episodes
    shards = int(condition.removeprefix("shards-"))
    return {**episodes, "inserted": [CONFIG.steps // shards] * shards, "overwritten": [0] * shards}


def runs_with(means: Mapping[str, float], noise: float = 4.0) -> dict[str, dict[int, Record]]:
    """Runs with those means and a noise of their own."""
    rng = np.random.default_rng(0)
    return {
        condition: {seed: record(mean + rng.uniform(-noise, noise), condition) for seed in SEEDS}
        for condition, mean in means.items()
    }


def outcomes(means: Mapping[str, float], noise: float = 4.0) -> list[str]:
    return [verdict.outcome for verdict in judge(CONFIG, runs_with(means, noise)).verdicts]


@pytest.mark.parametrize(
    ("means", "noise", "expected"),
    [
        (FLAT, 4.0, ["reproduced"] * 6),
        (FLAT, 150.0, ["undecided"] * 6),
        (FLAT | {"shards-2": 40.0}, 4.0, ["reproduced"] * 2 + ["not reproduced"] * 2 + ["reproduced"] * 2),
        (FLAT | {"shards-1": 260.0}, 4.0, ["not reproduced"] * 2 + ["reproduced"] * 4),
    ],
)
def test_equal_curves_are_the_same_planted_effects_are_not_and_noise_decides_nothing(
    means: dict[str, float], noise: float, expected: list[str]
) -> None:
    assert outcomes(means, noise) == expected


def test_what_is_undecided_says_how_many_seeds_would_decide() -> None:
    found = judge(CONFIG, runs_with(FLAT, noise=150.0))
    for verdict, comparison in zip(
        found.verdicts, comparisons(CONFIG, performances_of(runs_with(FLAT, 150.0))), strict=True
    ):
        assert verdict.evidence.endswith(f"would take about {comparison.needed} seeds")
        assert comparison.needed > len(SEEDS)


def performances_of(runs: Mapping[str, Mapping[int, Record]]) -> dict[str, object]:
    return performances(runs, CONFIG.steps, None)


@pytest.mark.parametrize("ratio", [1.5, 3.0])
def test_so_many_seeds_as_are_said_to_be_needed_decide_in_about_four_of_five_studies(ratio: float) -> None:
    """2,000 simulated studies of normal differences around 0; a true power of 0.8 gives 0.77 to 0.83 but 1 of 1000
    times. Student's intervals stand for the bootstrap, which has their width (tests/study/test_stats.py)."""
    margin, rng = 10.0, np.random.default_rng(5)
    sample = np.array([-1.0, 1.0] * 500)
    needed = seeds_needed((sample / sample.std(ddof=1) * ratio * margin).tolist(), margin)
    studies = rng.normal(0, ratio * margin, (2000, needed))
    half = scipy_stats.t.ppf(0.95, needed - 1) * studies.std(axis=1, ddof=1) / np.sqrt(needed)
    decided = np.mean(np.abs(studies.mean(axis=1)) + half <= margin)
    assert 0.74 < decided < 0.86


def test_a_difference_at_the_margin_is_called_the_same_in_one_of_twenty_studies() -> None:
    """The error that the rule promises: 400 studies of 20 normal differences whose mean is the margin; more than 8% of
    them are said to be within it with a probability below 0.005 where it is 5%."""
    rng = np.random.default_rng(6)
    said = [
        decide_within(
            paired_difference(rng.normal(10.0, 8.0, 20), np.zeros(20), confidence=CONFIDENCE), -10.0, 10.0, seeds=20
        )
        for _ in range(400)
    ]
    assert said.count("reproduced") / len(said) < 0.08


def test_an_interrupted_study_is_judged_on_what_there_is() -> None:
    some = runs_with({key: FLAT[key] for key in (ONE_BUFFER, "shards-4")})
    assert [verdict.claim.key.partition(":")[0] for verdict in judge(CONFIG, some).verdicts] == ["4 shards"] * 2
    assert list(draw(CONFIG, some)) == ["shards", "shards_differences"]
    alone = runs_with({ONE_BUFFER: 150.0})
    assert judge(CONFIG, alone).verdicts == ()
    assert list(draw(CONFIG, alone)) == ["shards"]
    few = {condition: dict(list(by_seed.items())[:2]) for condition, by_seed in some.items()}
    assert {verdict.outcome for verdict in judge(CONFIG, few).verdicts} == {"undecided"}


def test_the_table_tells_how_unevenly_the_shards_were_used() -> None:
    runs = runs_with({"shards-2": 150.0})
    uneven = [{**each, "inserted": [300, 100], "overwritten": [7, 0]} for each in runs["shards-2"].values()]
    (row,) = spread(CONFIG, {"shards-2": dict(enumerate(uneven))}).rows
    assert row == ("shards-2", "25.0%", "75.0%", "7")


def test_every_condition_has_every_seed_and_differs_in_its_shards_alone() -> None:
    made = jobs(CONFIG, range(10))
    assert {(job.condition, job.seeds) for job in made} == {
        (name(shards), tuple(range(first, first + CONFIG.together)))
        for shards in (0, 1, 2, 4)
        for first in range(0, 10, CONFIG.together)
    }
    assert made[0].condition == "shards-4"
    assert sorted({job.settings.pop("shards") for job in made}) == [0, 1, 2, 4]
    assert len({json.dumps(job.settings) for job in made}) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shards": (0, 2)}, "--shards: expected at least 1, given 0"),
        ({"shards": ()}, "--shards: expected at least 1, given 0"),
        ({"shards": (2, 2)}, r"--shards: expected each at most once, given \[2, 2\]"),
        ({"steps": 10}, "--steps: expected at least"),
    ],
)
def test_what_cannot_be_run_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(CONFIG, **changed).check_valid()


def test_the_study_is_listed_judged_and_drawn_without_ray() -> None:
    code = """
import sys
sys.modules["ray"] = None
from replaybank.study.catalog import list_studies
from replaybank.study.shards import ShardsConfig, jobs
list_studies()
jobs(ShardsConfig(), range(3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "through the shards of a cluster" in " ".join(done.stdout.split())


def test_all_claims_are_those_of_the_default_settings() -> None:
    found = judge(CONFIG, runs_with(FLAT))
    assert tuple(verdict.claim for verdict in found.verdicts) == STUDY.claims
    assert len(STUDY.claims) == len(CONFIG.shards) * len(MARGINS)


# ---- a cluster as the agent's buffer -------------------------------------------------

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
SETTINGS = BufferSettings(capacity=200, batch_size=64, gamma=0.9, alpha=1.0, beta=0.5, updates=100)
LENGTH = 6


def step(number: int) -> tuple[np.ndarray, int, float, np.ndarray, bool, bool]:
    """Transition `number` of a stream of episodes of 6 steps; its reward tells which it is."""
    obs, following = (np.full(2, value, np.float32) for value in (number, number + 1))
    return obs, number % 3, float(number), following, number % LENGTH == LENGTH - 1, False


@pytest.fixture
def make_buffer(ray_session: None) -> Iterator[Callable[..., ClusterBuffer]]:
    from replaybank.study.cluster_buffer import ClusterBuffer

    schema = rb.Schema.of({"obs": ("float32", (2,)), "action": "int64"})
    with ExitStack() as opened:

        def make(sampler: Sampler, draws_after: Callable[[int], bool], shards: int = 2) -> ClusterBuffer:
            return opened.enter_context(ClusterBuffer(shards, SETTINGS, schema, sampler, draws_after, seed=0))

        yield make


@needs_ray
def test_a_draw_sees_all_that_was_added_before_it_from_all_shards(make_buffer: Callable[..., ClusterBuffer]) -> None:
    """Of 20 transitions or fewer, 64 uniform draws miss one given one in 4% of batches or fewer; the newest is looked
    for in 20 batches, half of them drawn ahead."""
    buffer = make_buffer(rb.Uniform(), lambda number: number % 2 == 0)
    seen = 0
    for number in range(20):
        buffer.add(*step(number))
        rewards = buffer.sample(64).reward
        assert rewards.max() <= number
        seen += number in rewards
    assert seen >= 16
    assert set(buffer.sample(64).reward) | set(buffer.sample(64).reward) == set(range(20))
    account = buffer.account()
    assert sorted(account["inserted"]) == [8, 12]  # episodes go to one shard and the other in turn
    assert account["overwritten"] == [0, 0]


@needs_ray
def test_priorities_are_set_before_the_next_draw(make_buffer: Callable[..., ClusterBuffer]) -> None:
    buffer = make_buffer(rb.Prioritized(alpha=1.0, beta=0.5, epsilon=0.0), lambda number: False)
    for number in range(18):
        buffer.add(*step(number))
    ids: dict[float, int] = {}
    while len(ids) < 18:
        batch = buffer.sample(64)
        ids.update(zip(batch.reward.tolist(), batch.indices.tolist(), strict=True))
    for chosen in (3.0, 8.0, 16.0):
        buffer.update_priorities(np.array(list(ids.values())), np.array([float(key == chosen) for key in ids]))
        assert set(buffer.sample(64).reward) == {chosen}


@needs_ray
def test_what_a_shard_refuses_reaches_the_agent(make_buffer: Callable[..., ClusterBuffer]) -> None:
    buffer = make_buffer(rb.Prioritized(), lambda number: False)
    buffer.add(*step(0))
    batch = buffer.sample(4)
    buffer.update_priorities(batch.indices, np.full(4, np.nan))
    with pytest.raises(ValueError, match=r"td_error|finite"):
        buffer.sample(4)


@needs_ray
@pytest.mark.slow
def test_a_small_study_goes_from_jobs_to_findings(ray_session: None, tmp_path: Path) -> None:
    small = replace(CONFIG.dqn, hidden=(8,), learning_starts=256, capacity=600)
    config = replace(CONFIG, steps=600, shards=(2,), dqn=small)
    track = JobTrack("shards", jobs(config, range(2))[0], Folder(tmp_path), False, False)
    runs = {job.condition: run(job, track) for job in jobs(config, range(2))}
    track.close()
    assert all(sum(record["inserted"]) == 600 for record in runs["shards-2"].values())
    found = judge(config, runs)
    assert [row["memory"] for row in found.rows] == [ONE_BUFFER] * 2 + ["shards-2"] * 2
    assert list(found.summary["differences"]) == [
        "shards-2: area under the learning curve",
        "shards-2: final return",
    ]
