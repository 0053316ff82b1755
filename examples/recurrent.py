"""A recurrent Q-network in a maze that only a memory can solve, beside its feed-forward twin, in one file.

    pip install -c constraints.txt '.[study]' && python examples/recurrent.py

The T-maze of Bakker (2002): a sign at the start says on which side the prize will be, a corridor follows, and at its
end the agent turns left or right. Every place of the corridor looks alike and the sign is long out of sight, so whoever
sees only the present turns the wrong way half of the time: the best such return is 0, with a memory it is 1.

The recurrent network learns from sequences, as in R2D2 (Kapturowski et al. 2019). Each step is stored with the state
that the network was in before it; a sequence starts from that of its first step, and warms it up over `burn_in` steps,
since the network has changed since then. Both networks learn from the same kind of sequences with the same code.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional as F

import replaybank as rb


@dataclass
class Args:
    """Flags and their defaults."""

    seeds: tuple[int, ...] = (1, 2, 3)
    """both networks learn once for each"""
    corridor: int = 8
    """steps from the sign to the junction"""
    total_steps: int = 16_000
    """steps of all copies of the maze together, for each network"""
    num_envs: int = 8
    """copies of the maze that step together; there is an update each time they do"""
    capacity: int = 8_000
    """transitions remembered"""
    length: int = 12
    """steps of a sequence: some must hold both the sign and the junction"""
    burn_in: int = 3
    """steps at the start of a sequence that only warm up the state"""
    batch_size: int = 32
    """sequences an update"""
    hidden: int = 32
    """size of the recurrent state, and of the twin's layer in its place"""
    learning_rate: float = 2e-3
    """step size of Adam"""
    gamma: float = 0.98
    """discount of one step"""
    exploration_fraction: float = 0.5
    """share of all steps over which random actions fall from all to one in twenty"""
    target_network_frequency: int = 50
    """updates between two copies of the network into the target network"""
    evaluation_episodes: int = 200
    """episodes played at the end, without random actions"""


class TMaze(gym.Env):
    """Observes (sign, junction): -1 or 1 and 0 at the start, 0 and 1 at the end of the corridor, else zeros."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)  # ahead, left, right

    def __init__(self, corridor: int) -> None:
        self.corridor = corridor

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at, self.side = 0, int(self.np_random.integers(1, 3))
        return np.array([2 * self.side - 3, 0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        arrived = self.at == self.corridor
        if arrived and action != 0:
            return np.zeros(2, np.float32), 1.0 if action == self.side else -1.0, True, False, {}
        bumped = arrived or action != 0  # walking on at the junction, turning in the corridor
        self.at += not bumped
        return np.array([0, self.at == self.corridor], np.float32), -0.3 * bumped, False, False, {}


def make_envs(num_envs: int, corridor: int) -> gym.vector.VectorEnv:
    """Mazes with a time limit, in which what has ended starts anew in the same step."""
    limit = 4 * corridor
    makers = [lambda: gym.wrappers.TimeLimit(TMaze(corridor), limit)] * num_envs
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)


class Recurrent(nn.Module):
    """Values of the three actions from what was seen since the state was zeros."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(2, hidden), nn.ReLU())
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.values = nn.Linear(hidden, 3)

    def forward(self, obs: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [n, steps, 3] and the state after them [n, hidden], from obs [n, steps, 2] and the state before."""
        seen, after = self.gru(self.embed(obs), state[None].contiguous())
        return self.values(seen), after[0]


class FeedForward(nn.Module):
    """The twin: a layer in the place of the memory. The state stays what it is, and nobody looks at it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers = [nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)]
        self.values = nn.Sequential(*layers)

    def forward(self, obs: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Recurrent.forward`."""
        return self.values(obs), state


def act(network: nn.Module, obs: np.ndarray, state: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """The best action of each environment, and the state that the network is in after this observation."""
    with torch.no_grad():
        values, after = network(torch.from_numpy(obs)[:, None], state)
    return values[:, 0].argmax(dim=1).numpy(), after


def train(network: nn.Module, args: Args, seed: int) -> rb.ReplayBuffer:
    """Steps the mazes, stores what happened, and teaches the network from sequences of it; gives the buffer."""
    rng = np.random.default_rng(seed)
    envs = make_envs(args.num_envs, args.corridor)
    view = rb.Sequence(args.length, burn_in=args.burn_in, gamma=args.gamma, at_start=("state",))
    buffer = rb.ReplayBuffer(
        args.capacity, streams=args.num_envs, view=view, sampler=rb.Prioritized(0.9, 0.6), seed=seed
    )
    recorder = rb.Recorder(envs, buffer)
    target_network = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate)

    obs, _ = recorder.reset(seed=seed)
    state = torch.zeros(args.num_envs, args.hidden)
    calls = args.total_steps // args.num_envs
    for call in range(calls):
        epsilon = max(1 - 0.95 * call / (args.exploration_fraction * calls), 0.05)
        best, after = act(network, obs, state)
        action = np.where(rng.random(args.num_envs) < epsilon, rng.integers(0, 3, args.num_envs), best)
        obs, _, terminated, truncated, _ = recorder.step(action, state=state.numpy())
        state = torch.where(torch.from_numpy(terminated | truncated)[:, None], 0.0, after)  # a new episode: no memory

        if call % args.target_network_frequency == 0:
            target_network.load_state_dict(network.state_dict())
        if call * args.num_envs >= 500:
            batch = buffer.sample(args.batch_size)
            td_error, learnt = update(network, target_network, optimizer, batch.to_torch())
            buffer.update_priorities(batch.indices, view.priority(td_error, learnt))
    envs.close()
    return buffer


def update(
    network: nn.Module, target_network: nn.Module, optimizer: torch.optim.Optimizer, batch: rb.Batch
) -> tuple[np.ndarray, np.ndarray]:
    """One step of Double DQN over sequences; gives the TD errors [n, length] and which of them were learnt from."""
    # All observations of each sequence, and the one after: the values of every obs and next_obs in one pass. Where a
    # sequence was cut short by an end, the final observation follows its last step, and zeros follow that.
    chain = torch.cat([batch.obs, batch.next_obs[:, -1:]], dim=1)
    # A segment begins without a memory, whatever was stored; within a sequence no segment begins but at its start.
    begins = batch.is_first[:, :1]
    state = torch.where(begins, 0.0, batch.state)
    values, _ = network(chain, state)
    with torch.no_grad():
        best = values[:, 1:].argmax(dim=2, keepdim=True)
        following = target_network(chain, state)[0][:, 1:].gather(2, best).squeeze(2)
        wanted = batch.reward + batch.discount * following
    td_error = values[:, :-1].gather(2, batch.action[..., None]).squeeze(2) - wanted

    # Not from padding, and not from the burn-in, but where the sequence began with its segment: there the state is
    # the true one, and nothing else would ever teach the first steps of an episode.
    learnt = batch.mask | (batch.valid & begins)
    losses = batch.weights[:, None] * F.smooth_l1_loss(td_error, torch.zeros_like(td_error), reduction="none")
    loss = losses[learnt].mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()
    return td_error.detach().numpy(), learnt.numpy()


def evaluate(network: nn.Module, args: Args, seed: int) -> float:
    """The mean return of episodes without random actions."""
    envs = make_envs(1, args.corridor)
    returns = []
    obs, _ = envs.reset(seed=seed)
    for _ in range(args.evaluation_episodes):
        state, total, over = torch.zeros(1, args.hidden), 0.0, False
        while not over:
            action, state = act(network, obs, state)
            obs, reward, terminated, truncated, _ = envs.step(action)
            total += float(reward[0])
            over = bool(terminated[0] or truncated[0])
        returns.append(total)
    envs.close()
    return float(np.mean(returns))


def compare(args: Args) -> dict[str, list[float]]:
    """Trains both networks for each seed; prints and gives the returns of each."""
    returns: dict[str, list[float]] = {"recurrent": [], "feed-forward": []}
    for seed in args.seeds:
        for name, kind in (("recurrent", Recurrent), ("feed-forward", FeedForward)):
            torch.manual_seed(seed)
            started = time.perf_counter()
            network = kind(args.hidden)
            train(network, args, seed)
            returns[name].append(evaluate(network, args, seed=10_000 + seed))
            seconds = time.perf_counter() - started
            print(f"seed {seed}  {name:12}  mean return {returns[name][-1]:5.2f}  ({seconds:.0f} s)", flush=True)
    return returns


def main() -> None:
    """Reads the flags, trains, and prints how it ended."""
    args = tyro.cli(Args)
    torch.set_num_threads(1)  # the tensors are too small to share
    returns = compare(args)
    print(f"best possible: 1.00 with a memory, 0.00 without, over {len(args.seeds)} seeds:")
    for name, values in returns.items():
        print(f"{name:12}  {np.mean(values):5.2f}  (worst {min(values):.2f}, best {max(values):.2f})")


if __name__ == "__main__":
    main()
