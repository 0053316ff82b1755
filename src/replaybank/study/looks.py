"""What is measured at a look: what batches of a stream are worth, where their gradients point, what learners know.

A measure is a number under a tag such as `ess/consecutive/gradient`; correlation.py says what each means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from replaybank.study import dependence
from replaybank.study.gradients import TransitionGradients, transition_gradients
from replaybank.study.streams import Look, Past

Measures = dict[str, float]
Ids = npt.NDArray[np.int64]

COMPONENTS = ("position", "velocity", "angle", "angular velocity")
"""CartPole's observation."""
SERIES = (*COMPONENTS, "TD error")
GAPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Steps from one batch to the other whose gradients are compared."""
LAGS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1000)
"""Lags at which the autocorrelation is kept."""
DRAWN = 128
"""Batches that are drawn at random, and places of which consecutive ones are compared."""
NEWEST = 500
"""Of so many of the newest transitions the TD error is taken."""


def _series(past: Past, td_error: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
    """The observation's components and the TD error of every transition, [n] each."""
    found = {name: past.obs[:, k].astype(np.float64) for k, name in enumerate(COMPONENTS)}
    return {**found, "TD error": td_error.astype(np.float64)}


def autocorrelations(look: Look, actor: str) -> dict[str, list[float]]:
    """At LAGS, of the stream's observations and of the actor's TD errors at its present weights.

    `drawn`: of the TD errors in the order in which as many transitions come when they are drawn at random.
    """
    values, targets = look.values_and_targets(actor)
    series = _series(look.past, targets - values)
    drawn = series["TD error"][look.past.draw(len(look.past))]
    found = {name: dependence.autocorrelation(values) for name, values in {**series, "drawn": drawn}.items()}
    return {name: [round(float(correlation[lag]), 5) for lag in LAGS] for name, correlation in found.items()}


def batch_measures(look: Look, actor: str, batch: int) -> Measures:
    """Of batches of `batch` and of 1, consecutive and drawn at random, of the actor's stream at the actor's weights."""
    past = look.past
    values, targets = look.values_and_targets(actor)
    gradients = transition_gradients(look.parameters(actor), past.obs, past.action, targets)
    drawn = past.draw(DRAWN * batch).reshape(DRAWN, batch)
    tiles = np.arange(len(past) // batch * batch).reshape(-1, batch)
    return {
        **_series_measures(_series(past, targets - values), drawn, batch),
        **_gradient_measures(gradients, drawn, tiles, len(past)),
        **_coverage(past, drawn, tiles),
    }


def _series_measures(series: dict[str, npt.NDArray[np.float64]], drawn: Ids, batch: int) -> Measures:
    found: Measures = {}
    for name, values in series.items():
        correlation = dependence.autocorrelation(values)
        found[f"time/{name}"] = dependence.autocorrelation_time(correlation)
        found[f"ess/formula/{name}"] = dependence.expected_sample_size(correlation, batch)
    observation = np.stack([series[name] for name in COMPONENTS], axis=1)
    for name, values in {**series, "observation": observation}.items():
        centred = values - values.mean(axis=0)
        variance = np.square(centred).mean(axis=0)
        means = {"consecutive": dependence.window_means(centred, batch), "random": centred[drawn].mean(axis=1)}
        for kind, mean in means.items():
            found[f"ess/{kind}/{name}"] = dependence.observed_sample_size(variance, np.square(mean))
    return found


def _gradient_measures(gradients: TransitionGradients, drawn: Ids, tiles: Ids, newest: int) -> Measures:
    batch = drawn.shape[1]
    everything, variance = gradients.of_all(), gradients.variance()
    of_tiles, of_drawn = gradients.of_batches(tiles), gradients.of_batches(drawn)
    of_single = gradients.of_batches(drawn[:, :1])
    found: Measures = {}
    for kind, directions in {"consecutive": of_tiles, "random": of_drawn}.items():
        errors = np.square(directions - everything).sum(axis=1, dtype=np.float64)
        found[f"ess/{kind}/gradient"] = dependence.observed_sample_size(variance, errors)
    # a single transition at a random place of the stream is the same thing for online and for single
    to_all = {"recent": of_tiles, "uniform": of_drawn, "online": of_single, "single": of_single}
    for kind, directions in to_all.items():
        found[f"cosine/all/{kind}"] = float(dependence.cosine(directions, everything).mean())
    latest = {"recent": np.arange(newest - batch, newest), "online": np.array([newest - 1])}
    for kind, ids in latest.items():
        found[f"cosine/newest/{kind}"] = float(dependence.cosine(gradients.of_batches(ids[None]), everything)[0])
    places = np.linspace(0, newest - batch - GAPS[-1], DRAWN).astype(np.int64)
    for kind, size in {"recent": batch, "online": 1}.items():
        runs = places[:, None] + np.arange(size)
        here = gradients.of_batches(runs)
        for gap in GAPS:
            there = gradients.of_batches(runs + gap)
            found[f"cosine/gap {gap}/{kind}"] = float(dependence.cosine(here, there).mean())
    apart = {
        "recent": (of_tiles, np.roll(of_tiles, len(of_tiles) // 2, axis=0)),
        "uniform": (of_drawn[::2], of_drawn[1::2]),
        "single": (of_single[::2], of_single[1::2]),
    }
    for kind, (one, other) in apart.items():
        found[f"cosine/apart/{kind}"] = float(dependence.cosine(one, other).mean())
    return found


def _coverage(past: Past, drawn: Ids, tiles: Ids) -> Measures:
    newest = len(past) - 1
    batch = drawn.shape[1]
    latest = np.arange(newest + 1 - batch, newest + 1)[None]
    found: Measures = {}
    for kind, ids in {"consecutive": tiles, "random": drawn}.items():
        found[f"episodes/{kind}"] = float(np.mean([len(np.unique(row)) for row in past.episode[ids]]))
    for kind, ids in {"consecutive": latest, "random": drawn}.items():
        found[f"age/{kind}"] = float(np.mean(newest - ids))
        found[f"newest/{kind}"] = float(np.mean((ids == newest).any(axis=1)))
    return found


def knowledge(look: Look, name: str, early: int) -> Measures:
    """What a learner's network says of the first `early` transitions: its ranking of falls, and its errors.

    A transition that ends in a fall is worth 1, its reward, under any policy, and every other one at least 1 + gamma.
    """
    values, targets = look.values_and_targets(name)
    fell = look.past.terminated[:early]
    said, errors = values[:early], np.abs(targets - values)
    return {
        f"ranking/{name}": dependence.ranking_accuracy(said[fell], said[~fell]),
        f"fall error/{name}": float(np.abs(said[fell] - look.past.reward[:early][fell]).mean()),
        f"early TD error/{name}": float(errors[:early].mean()),
        f"newest TD error/{name}": float(errors[-NEWEST:].mean()),
    }
