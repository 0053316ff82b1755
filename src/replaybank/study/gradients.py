"""The gradients of a network's TD loss, transition by transition, at weights that stay as they are.

The gradient of a layer's weights is a sum over transitions of (what goes into the layer) x (how the loss feels what
comes out of it). With both kept for every transition, the gradient of any batch is one matrix product, and the length
of every single gradient a product of two lengths (Goodfellow 2015, "Efficient per-example gradient computations").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TransitionGradients:
    """For each layer what goes in, with a 1 for the bias [n, in + 1], and the loss's slope in what comes out [n, out].

    n transitions; the gradient of transition i in the layer is the outer product of the two rows i.
    """

    inputs: tuple[Floats, ...]
    slopes: tuple[Floats, ...]

    def of_batches(self, ids: Ids) -> Vectors:
        """The gradient [K, parameters] of the mean loss of each batch of transitions; `ids` [K, B]."""
        layers = [
            np.matmul(inputs[ids].swapaxes(1, 2), slopes[ids]).reshape(len(ids), -1)
            for inputs, slopes in zip(self.inputs, self.slopes, strict=True)
        ]
        return np.concatenate(layers, axis=1) / np.float32(ids.shape[1])

    def of_all(self) -> Vectors:
        """The gradient [parameters] of the mean loss of all transitions."""
        pairs = zip(self.inputs, self.slopes, strict=True)
        sums = [(inputs.T @ slopes).reshape(-1) for inputs, slopes in pairs]
        return np.concatenate(sums) / np.float32(len(self.slopes[0]))

    def variance(self) -> float:
        """Mean squared distance of one transition's gradient from that of all."""
        squares = sum(
            np.square(inputs).sum(1, dtype=np.float64) * np.square(slopes).sum(1, dtype=np.float64)
            for inputs, slopes in zip(self.inputs, self.slopes, strict=True)
        )
        return float(np.mean(squares) - np.square(self.of_all()).sum(dtype=np.float64))


def transition_gradients(
    parameters: Sequence[Floats], obs: Floats, action: Ids, td_target: Floats
) -> TransitionGradients:
    """Of the Huber loss of Q(obs, action) to fixed targets, by a perceptron with ReLU (networks.mlp_values).

    parameters: weights [in, out] and biases [1, out] of each layer, alternating. obs [n, obs], action [n],
    td_target [n].
    """
    weights, biases = parameters[::2], parameters[1::2]
    ones = np.ones((len(obs), 1), np.float32)
    activations = [obs]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        activations.append(np.maximum(activations[-1] @ weight + bias, 0))
    values = activations[-1] @ weights[-1] + biases[-1]
    rows = np.arange(len(obs))
    slope = np.zeros_like(values)
    slope[rows, action] = np.clip(values[rows, action] - td_target, -1, 1)
    slopes = [slope]
    for weight, activation in zip(weights[:0:-1], activations[:0:-1], strict=True):
        slopes.append((slopes[-1] @ weight.T) * (activation > 0))
    inputs = tuple(np.concatenate([activation, ones], axis=1) for activation in activations)
    return TransitionGradients(inputs, tuple(reversed(slopes)))
