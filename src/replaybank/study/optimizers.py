"""Optimizers of stacked parameters. Each works element by element: S networks learn what each would learn alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Kind = Literal["adam", "rmsprop"]


class Optimizer(Protocol):
    """Moves parameters along their gradients; its state is a mapping of tensors and plain values."""

    def step(self, learning_rate: float) -> None:
        """One step, after which the gradients are gone."""

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on, beside the parameters and their gradients."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from that state."""


def make_optimizer(kind: Kind, parameters: Sequence[Tensor]) -> Optimizer:
    """An optimizer at its start."""
    return Adam(parameters) if kind == "adam" else CentredRMSProp(parameters)


class Adam:
    """Kingma & Ba 2015, with torch's standard settings (.9, .999, 1e-8)."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.adam = torch.optim.Adam(parameters, fused=True)

    def step(self, learning_rate: float) -> None:
        """One step, after which the gradients are gone."""
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        self.adam.zero_grad()

    def state(self) -> dict[str, Any]:
        """The moments and the number of steps."""
        return self.adam.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from that state."""
        self.adam.load_state_dict(state)


class CentredRMSProp:
    """RMSProp with the gradient's mean taken off its mean square (Graves 2013, eq. 38 to 41).

    The settings are DQN's (Mnih et al. 2015, Extended Data Table 1): decay .95 of both means, momentum .95, 0.01 in
    the denominator; as in torch 0.01 is added to the root. What `torch.optim.RMSprop(centered=True)` does to whole
    stacks is done here to pieces that stay in a core's cache.
    """

    decay, momentum, minimum = 0.95, 0.95, 0.01

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.memory = {
            name: [torch.zeros_like(parameter) for parameter in self.parameters]
            for name in ("mean_square", "mean", "velocity")
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One step, after which the gradients are gone."""
        for parameter, *memory in zip(self.parameters, *self.memory.values(), strict=True):
            if parameter.grad is None:
                continue
            whole = (parameter, parameter.grad, *memory)
            pieces = (tensor.view(-1).split(_PIECE) for tensor in whole)
            for weights, gradient, mean_square, mean, velocity in zip(*pieces, strict=True):
                mean_square.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
                mean.lerp_(gradient, 1 - self.decay)
                variance = torch.addcmul(mean_square, mean, mean, value=-1).clamp_(min=_LEAST)
                root = variance.sqrt_().add_(self.minimum)
                velocity.mul_(self.momentum).addcdiv_(gradient, root)
                weights.add_(velocity, alpha=-learning_rate)
            parameter.grad = None

    def state(self) -> dict[str, Any]:
        """The means and the velocity of each parameter."""
        return dict(self.memory)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from that state."""
        for name, tensors in self.memory.items():
            for tensor, loaded in zip(tensors, state[name], strict=True):
                tensor.copy_(loaded)


_PIECE = 1 << 17
"""Elements: half a megabyte of each of the tensors."""
_LEAST = 1e-20
"""Of a variance: rounding may put it below 0, where it has no root. The root of this is lost in a float32 of 0.01."""
