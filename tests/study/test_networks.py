"""Networks and optimizers side by side against torch's own modules, one by one."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from replaybank.study import networks, optimizers

SHAPE, ACTIONS, SEEDS = (7, 6, 3), 5, (3, 8)


def separate(parameters: list[Tensor], which: int) -> nn.Sequential:
    """Convolutional network `which` of the stack as torch has it: channels before rows and columns."""
    rows, columns, channels = SHAPE
    places = (rows - 2) * (columns - 2)
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(places * 16, 128),
        nn.ReLU(),
        nn.Linear(128, ACTIONS),
    )
    kernel, kernel_bias, middle, middle_bias, last, last_bias = (p[which].detach() for p in parameters)
    with torch.no_grad():
        network[0].weight.copy_(kernel.reshape(3, 3, channels, 16).permute(3, 2, 0, 1))
        network[0].bias.copy_(kernel_bias[0])
        network[3].weight.copy_(middle.reshape(places, 16, 128).permute(2, 1, 0).reshape(128, -1))
        network[3].bias.copy_(middle_bias[0])
        network[5].weight.copy_(last.T)
        network[5].bias.copy_(last_bias[0])
    return network


@pytest.mark.parametrize("batch", [1, 4])
def test_stacked_convolutions_are_torchs_in_values_and_gradients(batch: int) -> None:
    network = networks.make_network("conv", SHAPE, (), ACTIONS)
    parameters = network.initial(SEEDS)
    obs = torch.rand(2, batch, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.3
    values = network.q_values(parameters, obs)
    assert values.shape == (2, batch, ACTIONS)
    values.square().sum().backward()
    for which in range(2):
        alone = separate(parameters, which)
        expected = alone(obs[which].permute(0, 3, 1, 2).float())
        torch.testing.assert_close(values[which], expected)
        expected.square().sum().backward()
        kernel = alone[0].weight.grad.permute(2, 3, 1, 0).reshape(parameters[0].shape[1:])
        torch.testing.assert_close(parameters[0].grad[which], kernel)
        torch.testing.assert_close(parameters[1].grad[which, 0], alone[0].bias.grad)
        middle = alone[3].weight.grad.reshape(128, 16, -1).permute(2, 1, 0).reshape(-1, 128)
        torch.testing.assert_close(parameters[2].grad[which], middle)
        torch.testing.assert_close(parameters[4].grad[which], alone[5].weight.grad.T)


@pytest.mark.parametrize(("kind", "shape"), [("mlp", (4,)), ("conv", SHAPE)])
def test_initial_weights_are_the_seeds_own_and_torchs_in_size(kind: networks.Kind, shape: tuple[int, ...]) -> None:
    network = networks.make_network(kind, shape, (16, 8), ACTIONS)
    together, alone = network.initial([5, 6, 7]), network.initial([6])
    for stacked, single in zip(together, alone, strict=True):
        torch.testing.assert_close(stacked[1:2], single, rtol=0, atol=0)
        assert not torch.equal(stacked[0], stacked[1])
    for weights, biases in zip(together[::2], together[1::2], strict=True):
        bound = weights.shape[1] ** -0.5
        assert 0.9 * bound < float(weights.detach().abs().max()) <= bound
        assert float(biases.detach().abs().max()) <= bound


def test_minatars_network_has_the_published_number_of_weights() -> None:
    # Breakout: 4 channels; 16 filters and their biases, 8 x 8 x 16 to 128, 128 to 6
    parameters = networks.make_network("conv", (10, 10, 4), (), 6).initial([0])
    assert sum(p.numel() for p in parameters) == (9 * 4 * 16 + 16) + (1024 * 128 + 128) + (128 * 6 + 6)


@pytest.mark.parametrize("shape", [(4,), (2, 10, 3)])
def test_a_convolution_wants_an_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected observations of rows x columns x channels, 3 or more"):
        networks.make_network("conv", shape, (), 2)


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_an_optimizer_of_a_stack_is_torchs_of_each(kind: optimizers.Kind) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 300, 250), (2, 1, 7)]  # the first goes in pieces
    stacks = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    alone = [[stack[which].detach().clone().requires_grad_() for stack in stacks] for which in range(2)]
    ours = optimizers.make_optimizer(kind, stacks)

    def torchs(parameters: list[Tensor]) -> torch.optim.Optimizer:
        if kind == "adam":
            return torch.optim.Adam(parameters, lr=2e-3)
        return torch.optim.RMSprop(parameters, lr=2e-3, alpha=0.95, eps=0.01, momentum=0.95, centered=True)

    theirs = [torchs(parameters) for parameters in alone]
    for _ in range(30):
        for place, stack in enumerate(stacks):
            stack.grad = torch.randn(stack.shape, generator=generator)
            for which in range(2):
                alone[which][place].grad = stack.grad[which].clone()
        ours.step(2e-3)
        for optimizer in theirs:
            optimizer.step()
        assert all(stack.grad is None for stack in stacks)
    for place, stack in enumerate(stacks):
        for which in range(2):
            torch.testing.assert_close(stack[which], alone[which][place])


def test_rmsprop_has_no_root_of_what_rounding_puts_below_zero() -> None:
    weights = torch.zeros(1, 2, 3).requires_grad_()
    ours = optimizers.CentredRMSProp([weights])
    for _ in range(400):  # a steady gradient: its variance goes to 0, and by rounding below it
        weights.grad = torch.full(weights.shape, 3.7)
        ours.step(1e-3)
    assert bool(weights.isfinite().all())


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_an_optimizer_goes_on_from_its_state(kind: optimizers.Kind) -> None:
    gradients = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    first = torch.zeros(2, 3, 4).requires_grad_()
    ours = optimizers.make_optimizer(kind, [first])

    def step(optimizer: optimizers.Optimizer, weights: Tensor, gradient: Tensor) -> None:
        weights.grad = gradient.clone()
        optimizer.step(0.1)

    for gradient in gradients[:3]:
        step(ours, first, gradient)
    second = first.detach().clone().requires_grad_()
    later = optimizers.make_optimizer(kind, [second])
    later.load(deepcopy(ours.state()))
    for gradient in gradients[3:]:
        step(ours, first, gradient)
        step(later, second, gradient)
    assert torch.equal(first, second)
