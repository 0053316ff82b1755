"""Prioritized DQN and SAC, held against SB3's own: the same batch, the same step of learning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples

import replaybank as rb
from replaybank.adapters.sb3 import PrioritizedDQN, PrioritizedSAC, SB3PrioritizedReplayBuffer, SB3ReplayBuffer

torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other

BOX = spaces.Box(-1, 1, (3,), np.float32)


def filled(kind: Any, seed: int = 0, **settings: Any) -> Any:
    """A model that has seen 200 steps of CartPole or Pendulum and learned nothing yet."""
    env_id = "CartPole-v1" if issubclass(kind, DQN) else "Pendulum-v1"
    model = kind("MlpPolicy", env_id, seed=seed, learning_starts=10**6, device="cpu", **settings)
    model.learn(200)
    return model


def plain_batch(batch: Any) -> ReplayBufferSamples:
    return ReplayBufferSamples(*batch[: len(ReplayBufferSamples._fields)])


class Fixed:
    """A buffer that gives the same batch over and over."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.fed_back: list[tuple[Any, torch.Tensor]] = []

    def sample(self, batch_size: int, env: Any = None) -> Any:
        return self.batch

    def update_priorities(self, indices: Any, td_errors: torch.Tensor) -> None:
        self.fed_back.append((indices, td_errors.detach().flatten()))


def after_training(model: Any, buffer: Any, steps: int = 3) -> list[torch.Tensor]:
    """The parameters after some gradient steps, in which nothing is random but the actions of SAC."""
    model.replay_buffer = buffer
    torch.manual_seed(0)
    model.train(gradient_steps=steps, batch_size=32)
    return [parameter.detach().clone() for parameter in model.policy.parameters()]


def logged(model: Any) -> dict[str, float]:
    return {key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")}


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(
    ("kind", "plain", "settings"),
    [
        (PrioritizedDQN, DQN, {}),
        (PrioritizedSAC, SAC, {}),
        (PrioritizedSAC, SAC, {"ent_coef": 0.1, "target_update_interval": 2, "use_sde": True}),
    ],
    ids=["DQN", "SAC", "SAC with gSDE, fixed temperature"],
)
def test_without_alpha_and_beta_it_learns_what_sb3s_own_algorithm_learns(
    kind: Any, plain: Any, n_steps: int, settings: dict[str, Any]
) -> None:
    """Same networks, same batch: the same parameters after three gradient steps, and the same values logged."""
    model = filled(kind, n_steps=n_steps, replay_buffer_kwargs={"alpha": 0.0, "beta": 0.0}, **settings)
    other = filled(plain, n_steps=n_steps, **settings)
    batch = model.replay_buffer.sample(32)
    assert (batch.discounts is None) == (n_steps == 1)
    assert torch.equal(batch.weights, torch.ones(32, 1))
    ours = after_training(model, Fixed(batch))
    theirs = after_training(other, Fixed(plain_batch(batch)))
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    assert logged(model) == pytest.approx(logged(other), rel=1e-5)
    assert logged(model)["train/n_updates"] == 3


def test_weights_enter_the_loss_of_dqn() -> None:
    """All weight on one transition, as often as the batch is long: the step that this transition alone would make."""
    batch = filled(PrioritizedDQN).replay_buffer.sample(32)
    one = torch.zeros(32, 1)
    one[5] = 32.0
    alone = ReplayBufferSamples(*(None if field is None else field[5:6] for field in plain_batch(batch)))
    ours = after_training(filled(PrioritizedDQN), Fixed(batch._replace(weights=one)), steps=1)
    theirs = after_training(filled(DQN), Fixed(alone), steps=1)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def test_dqns_td_errors_become_priorities() -> None:
    """By hand: |r + gamma (1 - done) max Q_target(s') - Q(s, a)| + epsilon, of the networks before the step."""
    model = filled(PrioritizedDQN, replay_buffer_kwargs={"epsilon": 0.25, "n_steps": 3})
    before = copy.deepcopy(model.policy)
    drawn = model.replay_buffer.sample
    batches = []
    with patch.object(
        model.replay_buffer, "sample", lambda *args, **kwargs: batches.append(drawn(*args)) or batches[0]
    ):
        model.train(gradient_steps=1, batch_size=64)
    (batch,) = batches
    with torch.no_grad():
        best = before.q_net_target(batch.next_observations).max(1).values
        target = batch.rewards[:, 0] + batch.discounts[:, 0] * (1 - batch.dones[:, 0]) * best
        value = before.q_net(batch.observations)[torch.arange(64), batch.actions[:, 0]]
    priorities = model.replay_buffer.bank.sampler.priority_of(batch.indices)
    np.testing.assert_allclose(priorities, (target - value).abs().numpy() + 0.25, rtol=1e-5)
    assert len(np.unique(priorities.round(4))) > 30


def test_sacs_critics_are_weighted_and_their_mean_td_error_is_fed_back() -> None:
    """By hand, with the same random actions: 0.5 * sum over critics of mean(w * (Q - y)^2)."""
    model = filled(PrioritizedSAC)
    batch = model.replay_buffer.sample(32)
    batch = batch._replace(rewards=torch.linspace(-0.5, 0.5, 32)[:, None])  # so that the critics err to both sides
    weights = torch.linspace(0, 2, 32)[:, None]
    temperature = torch.tensor(0.3)
    torch.manual_seed(1)
    with torch.no_grad():
        action, log_prob = model.actor.action_log_prob(batch.next_observations)
        lower = torch.minimum(*model.critic_target(batch.next_observations, action))
        target = batch.rewards + 0.99 * (1 - batch.dones) * (lower - 0.3 * log_prob[:, None])
        first, second = (value - target for value in model.critic(batch.observations, batch.actions))
    assert (first * second < 0).any()
    model.replay_buffer = Fixed(batch)
    torch.manual_seed(1)
    loss = model._train_critics(batch._replace(weights=weights), temperature)
    assert loss == pytest.approx(0.5 * float((weights * first**2).mean() + (weights * second**2).mean()), rel=1e-5)
    ((indices, errors),) = model.replay_buffer.fed_back
    assert indices is batch.indices
    torch.testing.assert_close(errors, ((first.abs() + second.abs()) / 2)[:, 0])


def test_weights_of_zero_leave_sacs_critics_alone() -> None:
    model = filled(PrioritizedSAC)
    batch = model.replay_buffer.sample(32)
    model.replay_buffer = Fixed(batch)
    model._train_critics(batch._replace(weights=torch.zeros(32, 1)), torch.tensor(0.3))
    assert all(not parameter.grad.any() for parameter in model.critic.parameters())


def test_samples_carry_the_weights_and_indices_of_the_sampler() -> None:
    model = filled(PrioritizedDQN, replay_buffer_kwargs={"alpha": 1.0, "beta": 0.5, "epsilon": 0.0})
    buffer = model.replay_buffer
    priorities = np.random.default_rng(0).uniform(0.1, 1, 200)
    assert buffer.update_priorities(np.arange(200), torch.tensor(-priorities)[:, None]) == (200, 0)
    batch = buffer.sample(64)
    probabilities = priorities[batch.indices] / priorities.sum()
    weights = (200 * probabilities) ** -0.5
    assert batch.weights.shape == (64, 1)
    np.testing.assert_allclose(batch.weights[:, 0], weights / weights.max(), rtol=1e-5)


def test_beta_rises_while_the_model_learns_and_goes_on_after_loading(tmp_path: Path) -> None:
    """The schedule counts calls of `sample`, here one a gradient step; its position is saved with the buffer."""
    beta = rb.linear(0.0, 1.0, steps=20)
    model = filled(PrioritizedDQN, replay_buffer_kwargs={"alpha": 1.0, "beta": beta})
    buffer = model.replay_buffer
    buffer.update_priorities(np.arange(200), np.linspace(0.1, 1, 200))
    assert buffer.sample(64).weights.min() == 1  # beta 0
    model.train(gradient_steps=9, batch_size=8)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    loaded = model.replay_buffer
    assert loaded is not buffer
    batch = loaded.sample(64)  # the eleventh: beta 0.5
    raw = loaded.bank.sampler.priority_of(batch.indices)
    np.testing.assert_allclose(batch.weights[:, 0], (raw / raw.min()) ** -0.5, rtol=1e-4)


def test_n_steps_of_the_algorithm_reach_the_prioritized_buffer() -> None:
    """Without the warning that they are ignored, and with the algorithm's gamma; saved and loaded too."""
    model = filled(PrioritizedDQN, n_steps=3, gamma=0.9)
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (3, 0.9)
    batch = model.replay_buffer.sample(200)
    assert batch.discounts.unique().tolist() == pytest.approx([0.9**3, 0.9**2, 0.9])
    assert filled(PrioritizedDQN, gamma=0.9, replay_buffer_kwargs={"n_steps": 2}).replay_buffer.gamma == 0.9
    with pytest.warns(UserWarning, match="`n_steps=3` is ignored"):
        PrioritizedDQN("MlpPolicy", "CartPole-v1", n_steps=3, replay_buffer_kwargs={"n_steps": 5})


def test_a_model_loaded_with_another_gamma_discounts_by_that(tmp_path: Path) -> None:
    """What the algorithm told its buffer is not saved as if the user had: it would outlive the algorithm's own."""
    model = filled(PrioritizedDQN, n_steps=3, gamma=0.9, replay_buffer_kwargs={"alpha": 0.3})
    assert model.replay_buffer_kwargs == {"alpha": 0.3}
    model.save(tmp_path / "model")
    loaded = PrioritizedDQN.load(tmp_path / "model", gamma=0.5, n_steps=2)
    assert (loaded.replay_buffer.gamma, loaded.replay_buffer.n_steps) == (0.5, 2)
    assert loaded.replay_buffer.bank.sampler.alpha == 0.3


def test_a_buffer_without_priorities_is_refused() -> None:
    with pytest.raises(TypeError, match="PrioritizedDQN: replay_buffer_class must be SB3PrioritizedReplayBuffer"):
        PrioritizedDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=SB3ReplayBuffer)


def test_one_set_of_keyword_arguments_serves_several_buffers() -> None:
    """SB3 keeps them, and saves them with the model: the sampler in them must stay unused."""
    kwargs = {"sampler": rb.Prioritized(alpha=0.3), "seed": 1}
    first, second = (SB3PrioritizedReplayBuffer(10, BOX, spaces.Discrete(4), **kwargs) for _ in range(2))
    assert first.bank.sampler is not second.bank.sampler
    assert first.bank.sampler.alpha == 0.3
    with pytest.raises(ValueError, match="belongs to no buffer"):
        kwargs["sampler"].window  # noqa: B018
