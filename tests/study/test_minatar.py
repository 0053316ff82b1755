"""MinAtar: its settings, the state of its games, and what the study says of made-up runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("minatar")

from replaybank.study import SettingError, dqn, minatar
from replaybank.study.base import Record
from replaybank.study.environments import game_load, game_state, make_env
from replaybank.study.minatar import PUBLISHED, SMALL, STUDY, MinAtarConfig
from replaybank.study.runner import RunSettings, plot_study, run_study
from replaybank.study.stats import Interval

GAMES = ("Breakout", "Asterix", "Freeway", "Seaquest", "SpaceInvaders")


@pytest.mark.parametrize("game", GAMES)
def test_a_game_goes_on_from_its_state(game: str) -> None:
    first, second = make_env(f"MinAtar/{game}-v0"), make_env(f"MinAtar/{game}-v0")
    actions = np.random.default_rng(0).integers(6, size=600)
    first.reset(seed=1)
    second.reset(seed=2)
    for action in actions[:300]:
        if first.step(action)[2]:
            first.reset()
    game_load(second, json.loads(json.dumps(game_state(first))))
    assert game_state(second) == game_state(first)
    ended = 0
    for action in actions[300:]:
        ours, theirs = first.step(action), second.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:3] == theirs[1:3]
        if ours[2]:
            ended += 1
            np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    assert ended > 0 or game == "Freeway"  # that one lasts 2500 frames


def test_the_settings_are_the_references() -> None:
    replay, online, recent = (minatar.condition(MinAtarConfig(), name).dqn for name in ("replay", "online", "recent"))
    assert [dqn.epsilon_at(frame, 1_000_000, replay) for frame in (0, 5000, 55_000, 105_000, 999_999)] == pytest.approx(
        [1, 1, 0.55, 0.1, 0.1]
    )
    assert [dqn.epsilon_at(frame, 1_000_000, online) for frame in (0, 50_000, 100_000)] == pytest.approx([1, 0.55, 0.1])
    assert [config.learning_starts for config in (replay, online, recent)] == [5000, 1, 32]
    assert [config.batch_size for config in (replay, online, recent)] == [32, 1, 32]
    assert dqn.learning_rate_at(999_999, 1_000_000, replay) == 2.5e-4
    for config in (replay, online, recent):
        config.check_valid()
    env = make_env("MinAtar/Breakout-v0")
    assert env.action_space.n == 6  # type: ignore[attr-defined]
    assert env.unwrapped.game.sticky_action_prob == 0.1  # type: ignore[attr-defined]


def test_jobs_pair_the_seeds_and_put_the_long_ones_first() -> None:
    config = MinAtarConfig(conditions=("online", "replay", "recent"), together=2)
    jobs = minatar.jobs(config, [4, 5, 6])
    assert [job.condition == "online" for job in jobs] == [False] * 4 + [True] * 2
    for name in config.conditions:
        assert sorted(seed for job in jobs for seed in job.seeds if job.condition == name) == [4, 5, 6]


def made_up(returns: dict[int, float], frames: int) -> Record:
    """An episode every 1000 frames; its return is that of the first frame in `returns` not before its end."""
    ends = list(range(1000, frames + 1, 1000))
    values = [next(value for until, value in sorted(returns.items()) if end <= until) for end in ends]
    return {"episodes": {"step": ends, "return": values, "length": [1000] * len(ends)}}


def test_the_return_at_a_frame_is_that_of_the_frames_before_it() -> None:
    record = made_up({100_000: 1.0, 150_000: 2.0, 200_000: 4.0}, 200_000)
    assert minatar.return_at(record, 200_000) == 4.0
    assert minatar.return_at(record, 175_000) == 3.0
    assert minatar.return_at(record, 150_000) == 2.0
    assert np.isnan(minatar.return_at({"episodes": {"step": [500], "return": [1.0]}}, 200_000))


def runs_of(frames: int, replay: float, online: float, seeds: int = 5) -> dict[str, dict[int, Record]]:
    spread = np.linspace(-0.2, 0.2, seeds)
    return {
        name: {seed: made_up({frames: value + spread[seed]}, frames) for seed in range(seeds)}
        for name, value in (("replay", replay), ("online", online))
    }


def outcomes(config: MinAtarConfig, runs: dict[str, dict[int, Record]]) -> dict[str, str]:
    return {verdict.claim.key: verdict.outcome for verdict in minatar.judge(config, runs).verdicts}


@pytest.mark.parametrize(
    ("replay", "online", "expected"),
    [
        (9.2, 3.9, ("reproduced", "reproduced", "reproduced")),
        (7.0, 3.9, ("reproduced", "not reproduced", "reproduced")),
        (3.0, 3.9, ("not reproduced", "not reproduced", "reproduced")),
    ],
)
def test_values_are_held_against_the_published_ones_at_a_million(
    replay: float, online: float, expected: tuple[str, ...]
) -> None:
    found = outcomes(MinAtarConfig(), runs_of(1_000_000, replay, online))
    assert tuple(found[key] for key in ("replay", "value replay", "value online")) == expected


def test_before_the_first_published_frame_values_are_undecided_but_the_benefit_is_not() -> None:
    found = minatar.judge(SMALL, runs_of(SMALL.frames, 9.2, 3.9))
    verdicts = {verdict.claim.key: verdict for verdict in found.verdicts}
    expected = {"replay": "reproduced", "value replay": "undecided", "value online": "undecided"}
    assert {key: verdicts[key].outcome for key in expected} == expected
    assert "the first published value is 9.2 at 1,000,000 frames" in verdicts["value replay"].evidence
    assert set(outcomes(SMALL, runs_of(SMALL.frames, 9.2, 3.9, seeds=4)).values()) == {"undecided"}


@pytest.mark.parametrize(("replay", "outcome"), [(5.1, "reproduced"), (5.9, "not reproduced")])
def test_the_small_preset_is_held_against_what_was_measured_here(
    replay: float, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(minatar.MEASURED, "Breakout", {"replay": Interval(5.0, 4.9, 5.2)})
    found = outcomes(SMALL, runs_of(SMALL.frames, replay, 3.9))
    assert found["small replay"] == outcome
    assert "small online" not in found
    longer = replace(SMALL, frames=300_000)
    assert "small replay" not in outcomes(longer, runs_of(longer.frames, replay, 3.9))


def test_past_two_million_frames_the_later_published_value_counts() -> None:
    config = MinAtarConfig(frames=2_500_000)
    runs = runs_of(2_500_000, 9.7, 4.0)
    assert minatar.points(config) == [50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 2_500_000]
    evidence = {v.claim.key: v.evidence for v in minatar.judge(config, runs).verdicts}
    assert "at 2,000,000 frames with 5 seeds; published 9.7" in evidence["value replay"]


@pytest.mark.parametrize("missing", ["replay", "online", "seed"])
def test_an_interrupted_study_is_judged_by_what_there_is(missing: str) -> None:
    runs = runs_of(SMALL.frames, 9.2, 3.9)
    if missing == "seed":
        del runs["online"][2]
    else:
        del runs[missing]
    found = minatar.judge(SMALL, runs)
    assert len(found.rows) == sum(len(by_seed) for by_seed in runs.values()) * len(minatar.points(SMALL))
    assert ("replay" in {v.claim.key for v in found.verdicts}) == (missing == "seed")
    assert set(minatar.draw(SMALL, runs)) == {"learning_curves"}


def test_the_published_values_are_those_of_the_figure() -> None:
    assert {game: {name: by[1_000_000] for name, by in each.items()} for game, each in PUBLISHED.items()} == {
        "Breakout": {"replay": 9.2, "online": 3.9},
        "Asterix": {"replay": 6.8, "online": 4.7},
    }


def test_the_study_runs_from_the_command_to_its_files(tmp_path: Path) -> None:
    config = MinAtarConfig(frames=300, together=2)
    settings = RunSettings(seeds=2, workers=1, out=tmp_path / "out")
    assert run_study(STUDY, config, settings) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["conditions"]["online"]["seeds"] == 2
    written = (tmp_path / "out" / "learning_curves.svg").read_bytes()
    assert plot_study(tmp_path / "out") == 0
    assert (tmp_path / "out" / "learning_curves.svg").read_bytes() == written
    assert not list((tmp_path / "out" / "unfinished").glob("*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "Pong"}, "--env: 'Pong' is unknown; expected some of Breakout, Asterix"),
        ({"frames": 0}, "--frames: expected at least 1, given 0"),
        ({"conditions": ("replay", "replay")}, "--conditions: expected each at most once"),
    ],
)
def test_a_bad_setting_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(MinAtarConfig(), **change).check_valid()
