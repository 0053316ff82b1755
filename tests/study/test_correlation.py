"""What the network sees, held against closed forms, autograd, plain-Python models and made-up runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import replaybank as rb
from replaybank.study import SettingError, dependence, networks
from replaybank.study.correlation import CLAIMS, STUDY, CorrelationConfig, jobs, judge, run, verdicts
from replaybank.study.correlation_tables import quarters
from replaybank.study.dqn import DQNConfig
from replaybank.study.gradients import TransitionGradients, transition_gradients
from replaybank.study.looks import COMPONENTS, GAPS, LAGS, SERIES, batch_measures, knowledge
from replaybank.study.streams import LEARNERS, Life, Look, look_updates, past_of

SMALL = DQNConfig(hidden=(32, 16), batch_size=16, learning_starts=200, learning_rate=0.01)


def autoregressive(phi: float, size: int, seed: int = 0) -> np.ndarray:
    """x_t = phi x_(t-1) + noise: its autocorrelation at lag k is phi^k."""
    rng = np.random.default_rng(seed)
    values = [rng.normal() / (1 - phi**2) ** 0.5]
    for noise in rng.normal(size=size - 1):
        values.append(phi * values[-1] + noise)
    return np.array(values)


# ---- dependence ----------------------------------------------------------------------


def test_autocorrelation_is_the_plain_sum() -> None:
    values = autoregressive(0.7, 50)
    deviations = values - values.mean()
    plain = [sum(deviations[t] * deviations[t + k] for t in range(50 - k)) for k in range(50)]
    np.testing.assert_allclose(dependence.autocorrelation(values), np.array(plain) / plain[0], atol=1e-12)
    np.testing.assert_array_equal(dependence.autocorrelation([3.0, 3.0, 3.0]), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_autocorrelation_time_of_an_autoregressive_series_is_its_closed_form(phi: float) -> None:
    exact = (1 + phi) / (1 - phi)
    assert dependence.autocorrelation_time(phi ** np.arange(2000.0)) == pytest.approx(exact, rel=0.02)
    # with a window of M lags its relative standard deviation is sqrt(2 (2 M + 1) / n), here at most 3% (Sokal 1997)
    found = dependence.autocorrelation_time(dependence.autocorrelation(autoregressive(phi, 400_000)))
    assert found == pytest.approx(exact, rel=0.09)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9, 0.99])
def test_expected_sample_size_is_the_closed_form_of_an_autoregressive_series(phi: float) -> None:
    batch = 64
    variance = sum(phi ** abs(i - j) for i, j in itertools.product(range(batch), repeat=2)) / batch**2
    assert dependence.expected_sample_size(phi ** np.arange(100.0), batch) == pytest.approx(1 / variance)


def test_observed_sample_size_agrees_with_the_closed_form_and_counts_every_window() -> None:
    phi, batch = 0.8, 64
    values = autoregressive(phi, 200_000)
    centred = values - values.mean()
    means = dependence.window_means(centred, batch)
    assert means.shape == (200_000 - batch + 1,)
    assert means[1234] == pytest.approx(centred[1234 : 1234 + batch].mean())
    found = dependence.observed_sample_size(np.square(centred).mean(), np.square(means))
    # some 3,000 windows that share nothing, each a squared normal: 2.6% standard error
    assert found == pytest.approx(dependence.expected_sample_size(phi ** np.arange(64.0), batch), rel=0.08)
    drawn = np.random.default_rng(1).choice(centred, (20_000, batch)).mean(axis=1)
    assert dependence.observed_sample_size(np.square(centred).mean(), np.square(drawn)) == pytest.approx(64, rel=0.04)


def test_components_count_in_units_of_their_own_variance_and_constants_not_at_all() -> None:
    errors = np.array([[1.0, 200.0, 0.0], [3.0, 600.0, 0.0]])  # means 2 and 400
    assert dependence.observed_sample_size([4.0, 1600.0, 0.0], errors) == pytest.approx(2 / (2 / 4 + 400 / 1600))
    with pytest.raises(ValueError, match="above 0"):
        dependence.observed_sample_size([0.0], errors[:, :1])


def test_cosine_of_a_zero_vector_is_zero() -> None:
    left = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    right = np.array([[4.0, 3.0], [1.0, 2.0], [-5.0, 0.0]])
    np.testing.assert_allclose(dependence.cosine(left, right), [24 / 25, 0.0, -1.0])


def test_ranking_accuracy_counts_pairs_and_half_of_the_ties() -> None:
    rng = np.random.default_rng(3)
    lower, upper = rng.integers(0, 6, 40), rng.integers(2, 9, 30)
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a in lower for b in upper]
    assert dependence.ranking_accuracy(lower, upper) == pytest.approx(np.mean(pairs))


# ---- gradients -----------------------------------------------------------------------


def by_autograd(parameters: list[np.ndarray], obs: np.ndarray, action: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The gradient of the mean Huber loss, layer by layer the weights' rows and then the bias, by torch."""
    tensors = [torch.from_numpy(parameter)[None].requires_grad_() for parameter in parameters]
    values = networks.mlp_values(tensors, torch.from_numpy(obs)[None])
    chosen = values[0, torch.arange(len(obs)), torch.from_numpy(action)]
    torch.nn.functional.smooth_l1_loss(chosen, torch.from_numpy(target)).backward()
    flat = [torch.cat([w.grad[0], b.grad[0]]).flatten() for w, b in zip(tensors[::2], tensors[1::2], strict=True)]
    return torch.cat(flat).numpy()


@pytest.fixture
def gradients() -> tuple[TransitionGradients, Callable[[np.ndarray], np.ndarray]]:
    """Of 30 transitions of a small network, and the same by autograd for the transitions asked for."""
    rng = np.random.default_rng(5)
    sizes = (4, 7, 5, 3)
    parameters = []
    for inputs, outputs in itertools.pairwise(sizes):
        parameters += [rng.normal(size=shape).astype(np.float32) for shape in ((inputs, outputs), (1, outputs))]
    obs, target = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(scale=3, size=30).astype(np.float32)
    action = rng.integers(3, size=30)
    found = transition_gradients(parameters, obs, action, target)
    return found, lambda ids: by_autograd(parameters, obs[ids], action[ids], target[ids])


def test_gradients_of_batches_and_of_all_are_those_of_autograd(gradients: Any) -> None:
    found, by_torch = gradients
    ids = np.random.default_rng(6).integers(30, size=(5, 8))
    np.testing.assert_allclose(found.of_batches(ids), [by_torch(row) for row in ids], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.of_all(), by_torch(np.arange(30)), rtol=1e-4, atol=1e-5)


def test_the_variance_of_gradients_is_that_of_every_single_one(gradients: Any) -> None:
    found, by_torch = gradients
    single = np.stack([by_torch(np.array([k])) for k in range(30)])
    plain = np.square(single - single.mean(axis=0)).sum(axis=1).mean()
    assert found.variance() == pytest.approx(plain, rel=1e-4)


# ---- streams -------------------------------------------------------------------------


def test_looks_are_even_and_in_the_middle_between_two_target_copies() -> None:
    assert look_updates(1000, 4, 100) == [150, 450, 650, 950]
    marks = look_updates(19_501, 20, 100)
    assert len(set(marks)) == 20
    assert {mark % 100 for mark in marks} == {50}
    assert marks[-1] > 19_501 - 151


def looked(actor: str, names: list[str], steps: int = 500) -> Iterator[Look]:
    """A look at seeds 3 and 4, after 250 updates or more. It holds while training halts."""
    yield from Life("CartPole-v1", [3, 4], steps, SMALL, actor, names).looks(1, lambda step: None)


def test_learners_of_one_stream_share_the_stream_and_not_their_weights() -> None:
    for one, other in zip(looked("uniform", ["uniform"]), looked("uniform", list(LEARNERS)), strict=True):
        np.testing.assert_array_equal(one.past.obs, other.past.obs)
        for ours, theirs in zip(one.parameters("uniform"), other.parameters("uniform"), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        weights = [other.parameters(name)[0] for name in LEARNERS]
        assert not any(np.array_equal(*pair) for pair in itertools.combinations(weights, 2))


def test_early_transitions_are_the_same_whoever_acts() -> None:
    early, later = SMALL.learning_starts, []
    for ours, theirs in zip(looked("uniform", ["uniform"], 800), looked("online", ["online"], 800), strict=True):
        np.testing.assert_array_equal(ours.past.obs[:early], theirs.past.obs[:early])
        later.append(not np.array_equal(ours.past.obs, theirs.past.obs))
    assert any(later)


def test_each_learner_draws_what_its_name_says() -> None:
    life = Life("CartPole-v1", [0], 400, SMALL, "uniform", list(LEARNERS))
    for _ in life.looks(1, lambda step: None):
        pass
    newest = {name: life.buffers[name][0].sample(life.batch_sizes[name]).obs for name in LEARNERS}
    stream = life.streams[0].read(np.arange(400)).obs
    np.testing.assert_array_equal(newest["online"], stream[-1:])
    np.testing.assert_array_equal(np.sort(newest["recent"], axis=0), np.sort(stream[-16:], axis=0))
    assert len(newest["single"]) == 1
    assert len(newest["uniform"]) == 16
    assert len(life.buffers["single"][0]) == len(life.buffers["uniform"][0]) == 400


def test_the_past_numbers_episodes_from_one_end_to_the_next() -> None:
    stream = rb.ReplayBuffer(10, seed=0)
    for t, (terminated, truncated) in enumerate([(False, False), (True, False), (False, True), (False, False)]):
        stream.add([float(t)], 0, 1.0, [t + 1.0], terminated, truncated)
    past = past_of(stream)
    np.testing.assert_array_equal(past.episode, [0, 0, 1, 2])
    np.testing.assert_array_equal(past.obs[:, 0], [0, 1, 2, 3])


# ---- looks ---------------------------------------------------------------------------


def test_a_look_measures_what_the_stream_and_the_weights_say() -> None:
    look = next(looked("uniform", ["uniform"], 900))
    batch, past = 16, look.past
    measures = batch_measures(look, "uniform", batch)
    angle = past.obs[:, 2].astype(np.float64)
    windows = [angle[k : k + batch].mean() - angle.mean() for k in range(len(angle) - batch + 1)]
    assert measures["ess/consecutive/angle"] == pytest.approx(angle.var() / np.mean(np.square(windows)), rel=1e-6)
    assert measures["ess/random/observation"] == pytest.approx(batch, rel=0.35)  # of 128 batches
    centred = (past.obs - past.obs.mean(axis=0, dtype=np.float64)) / past.obs.std(axis=0, dtype=np.float64)
    squares = [np.square(centred[k : k + batch].mean(axis=0)).sum() for k in range(len(angle) - batch + 1)]
    assert measures["ess/consecutive/observation"] == pytest.approx(4 / np.mean(squares), rel=1e-5)
    values, targets = look.values_and_targets("uniform")
    everything = by_autograd(look.parameters("uniform"), past.obs, past.action, targets)
    newest = slice(len(past) - batch, None)
    latest = by_autograd(look.parameters("uniform"), past.obs[newest], past.action[newest], targets[newest])
    cosine = latest @ everything / np.linalg.norm(latest) / np.linalg.norm(everything)
    assert measures["cosine/newest/recent"] == pytest.approx(float(cosine), abs=1e-4)
    tiles = past.episode[: len(past) // batch * batch].reshape(-1, batch)
    assert measures["episodes/consecutive"] == np.mean([len(set(row.tolist())) for row in tiles])
    known = knowledge(look, "uniform", 200)
    fell = past.terminated[:200]
    pairs = [low < high for low in values[:200][fell] for high in values[:200][~fell]]
    assert known["ranking/uniform"] == pytest.approx(np.mean(pairs))
    assert known["fall error/uniform"] == pytest.approx(np.abs(values[:200][fell] - 1).mean())
    assert known["newest TD error/uniform"] == pytest.approx(np.abs(targets - values)[-500:].mean())


# ---- the study -----------------------------------------------------------------------


class Silence:
    """A track that hears nothing."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
        pass

    def begin(self, step: int) -> None:
        pass

    def progress(self, step: int, text: str = "") -> None:
        self.steps.append(step)


def test_jobs_pair_the_seeds_and_put_the_longest_first() -> None:
    asked = jobs(CorrelationConfig(together=2), [5, 6, 7])
    assert [job.condition for job in asked[:2]] == ["uniform", "uniform"]
    assert {job.condition: job.settings["learners"] for job in asked}["uniform"] == list(LEARNERS)
    for name in LEARNERS:
        assert [seed for job in asked if job.condition == name for seed in job.seeds] == [5, 6, 7]


def test_a_run_leaves_every_measure_of_every_look_and_is_repeatable() -> None:
    config = CorrelationConfig(steps=2000, looks=2, dqn=replace(SMALL, train_period=2))
    config.check_valid()
    job = jobs(config, [1])[-1]
    track = Silence()
    records = run(job, track)  # type: ignore[arg-type]
    assert track.steps[-1] == 2000
    assert records == run(job, Silence())  # type: ignore[arg-type]
    for record in records.values():
        assert len(record["step"]) == 2
        assert all(len(values) == 2 and np.isfinite(values).all() for values in record["measures"].values())
        assert {len(values) for values in record["autocorrelation"].values()} == {len(LAGS)}
    found = judge(config, {job.condition: records})
    assert found.verdicts == ()
    assert found.tables


def made_up(seeds: int, shift: float) -> dict[str, dict[int, dict[str, Any]]]:
    """Runs of all conditions in which random draws are better by `shift` in everything, but for a little noise."""
    rng = np.random.default_rng(8)
    config = CorrelationConfig()

    def values(centre: float) -> list[float]:
        return (centre + 0.01 * rng.normal(size=config.looks)).tolist()

    def record(condition: str) -> dict[str, Any]:
        measures: dict[str, list[float]] = {}
        for name in (*SERIES, "observation", "gradient"):
            measures[f"ess/consecutive/{name}"] = values(32 - 10 * shift)
            measures[f"ess/random/{name}"] = values(32.0)
        for name in SERIES:
            measures[f"ess/formula/{name}"] = measures[f"time/{name}"] = values(5.0)
        random = {"single": shift / 2, "uniform": shift / 2}
        for name in LEARNERS:
            level = 0.5 + random.get(name, 0.0)
            for kind in ("all", "newest", "apart", *(f"gap {gap}" for gap in GAPS)):
                better = shift if kind.startswith("gap") else 0.0
                measures[f"cosine/{kind}/{name}"] = values(level - 0.3 + better)
            falling = np.linspace(0, -shift / 4, config.looks) * (name not in random)
            measures[f"ranking/{name}"] = (level + falling + 0.01 * rng.normal(size=config.looks)).tolist()
            for tag in ("fall error", "early TD error", "newest TD error"):
                measures[f"{tag}/{name}"] = values(1.0)
        for tag in ("episodes", "age", "newest"):
            for kind in ("consecutive", "random"):
                measures[f"{tag}/{kind}"] = values(3.0)
        final = 100 * (1 + random.get(condition, 0.0)) + rng.normal()
        return {
            "episodes": {"step": [config.steps], "return": [final], "length": [100]},
            "step": list(range(1000, 1000 * (config.looks + 1), 1000)),
            "measures": measures,
            "autocorrelation": {name: [0.5] * len(LAGS) for name in (*SERIES, "drawn")},
        }

    return {name: {seed: record(name) for seed in range(seeds)} for name in LEARNERS}


def test_verdicts_follow_what_the_runs_say_both_ways() -> None:
    for shift, expected in ((0.4, "reproduced"), (-0.4, "not reproduced")):
        found = list(verdicts(CorrelationConfig(), made_up(8, shift)))
        assert {verdict.claim.key for verdict in found} == set(CLAIMS)
        outcomes = {verdict.claim.key: verdict.outcome for verdict in found}
        assert set(outcomes.values()) == {expected}, outcomes
    assert {verdict.outcome for verdict in verdicts(CorrelationConfig(), made_up(4, 0.4))} == {"undecided"}


def test_findings_cope_with_missing_runs_and_figures_are_drawn() -> None:
    config, runs = CorrelationConfig(), made_up(5, 0.4)
    assert judge(config, {}).verdicts == ()
    assert STUDY.draw(config, {}) == {}
    partly = judge(config, {"uniform": runs["uniform"], "recent": {0: runs["recent"][0]}})
    assert partly.summary["streams"].keys() == {"uniform", "recent"}
    for table in judge(config, runs).tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    figure = STUDY.draw(config, runs)["correlation"]
    assert len(figure.axes) == 4
    early, late = quarters(config.looks)
    assert (early, late) == (slice(0, 5), slice(15, None))
    assert len(COMPONENTS) == 4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CorrelationConfig(steps=5000), "--steps: expected at least 20000"),
        (CorrelationConfig(steps=30_000), "--capacity: expected at least --steps, 30000"),
        (CorrelationConfig(looks=0), "--looks"),
        (CorrelationConfig(dqn=DQNConfig(batch_size=1)), "--batch-size"),
        (CorrelationConfig(dqn=DQNConfig(learning_starts=100)), "--learning-starts"),
        (CorrelationConfig(dqn=DQNConfig(loss="squared")), "--loss"),
        (CorrelationConfig(dqn=DQNConfig(n_step=3)), "--n-step"),
        (CorrelationConfig(dqn=DQNConfig(target_period=2000)), "--target-period"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_flag(config: CorrelationConfig, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        config.check_valid()
