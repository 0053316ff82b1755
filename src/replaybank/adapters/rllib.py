"""Replay buffers for RLlib's DQN on the new API stack, given by their dotted paths. Tested with Ray 2.60.0.

::

    DQNConfig().training(replay_buffer_config={
        "type": "replaybank.adapters.rllib.PrioritizedEpisodeReplayBuffer",
        "capacity": 100_000, "alpha": 0.6, "beta": 0.4,
    })

The type must be that string: a class runs into a TypeError inside RLlib. SAC refuses every buffer but RLlib's own by
name; build it with "EpisodeReplayBuffer" and then set `algo.local_replay_buffer`. RLlib's checkpoints of the new API
stack leave the buffer out: save `algo.local_replay_buffer.get_state()` (it can be pickled) beside them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaybank.arguments import whole_number
from replaybank.batch import Batch
from replaybank.buffer import MOST_DRAWN, ReplayBuffer
from replaybank.rows import MAX_CAPACITY
from replaybank.samplers.base import Sampler
from replaybank.samplers.importance import WeightNorm
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.uniform import Uniform
from replaybank.views.nstep import NStep

try:
    import tree
    from ray.rllib.core import DEFAULT_AGENT_ID, DEFAULT_MODULE_ID
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils import force_list
    from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer as RLlibBuffer
    from ray.rllib.utils.replay_buffers.prioritized_episode_buffer import (
        PrioritizedEpisodeReplayBuffer as RLlibPrioritizedBuffer,
    )
    from ray.rllib.utils.spaces.space_utils import batch as stack
except ImportError as error:
    raise ImportError(
        "replaybank.adapters.rllib needs RLlib's new API stack, as of Ray 2.60 (pip install 'replaybank[rllib]'): "
        f"{error}"
    ) from error


class EpisodeReplayBuffer(RLlibBuffer):
    """RLlib's episode replay buffer, with replaybank underneath: uniform draws of n-step transitions.

    It holds exactly the last `capacity` timesteps; RLlib's own throws whole episodes away. `streams`: how many episodes
    may be under way at once, over all environments. Where more are, the one that waited longest is cut: nothing is
    lost, but n-step windows end there and bootstrap. `batch_size_B`: what `sample` draws if nothing is said.
    `metrics_num_episodes_for_smoothing` is RLlib's. `seed`: same seed and same episodes, same samples.

    Raises TypeError or ValueError where a number is not one, or out of range, or batch_length_T is more than 1.
    """

    _state: tuple[str, ...] = (
        "buffer",
        "rng",
        "_view",
        "_stored",
        "_streams",
        "_episodes_added",
        "_spaces",
        "_drawn",
    )

    def __init__(
        self,
        capacity: int = 10_000,
        *,
        batch_size_B: int = 16,
        batch_length_T: int = 1,
        metrics_num_episodes_for_smoothing: int = 100,
        streams: int = 1024,
        seed: int | None = None,
    ) -> None:
        _require_single_steps(batch_length_T=batch_length_T)
        capacity = whole_number("capacity", capacity, MAX_CAPACITY)
        batch_size_B = whole_number("batch_size_B", batch_size_B, MOST_DRAWN)
        if seed is not None:
            seed = whole_number("seed", seed, 2**63 - 1, least=0)
        # Not super(): the prioritized one of RLlib would reserve trees of Python floats that nobody uses here.
        RLlibBuffer.__init__(
            self,
            capacity,
            batch_size_B=batch_size_B,
            batch_length_T=batch_length_T,
            metrics_num_episodes_for_smoothing=metrics_num_episodes_for_smoothing,
        )
        draws, steps = np.random.SeedSequence(seed).spawn(2)
        self._view = NStep(1, gamma=0.99)
        self.buffer = ReplayBuffer(capacity, streams=streams, sampler=self._sampler(), view=self._view, seed=draws)
        self.rng = np.random.default_rng(steps)
        # Episode ids with timesteps in the buffer, the least recently continued first: number, newest transition.
        self._stored: dict[str, tuple[int, int]] = {}
        # Which episode has which stream: those of ended episodes first, then the least recently continued.
        self._streams: OrderedDict[int | str, int] = OrderedDict((i, i) for i in range(self.buffer.streams))
        self._episodes_added = 0
        self._spaces: tuple[Any, Any] = (None, None)
        self._drawn: NDArray[np.int64] | None = None

    def _sampler(self) -> Sampler:
        return Uniform()

    # ---- adding ----

    def add(self, episodes: list[SingleAgentEpisode] | SingleAgentEpisode) -> None:
        """Adds (chunks of) episodes. A chunk continues the timesteps that came before it under its id.

        Observations and numbers are kept as `ReplayBuffer` keeps them: float64 as float32, which is what RLlib's
        learner makes of it. Raises TypeError for what is no single-agent episode, before anything is added; as
        `ReplayBuffer.extend` does where a chunk does not fit the first one: chunks before it have been added then.
        """
        chunks: list[Any] = [None] if episodes is None else force_list(episodes)
        for chunk in chunks:
            if not isinstance(chunk, SingleAgentEpisode):
                hint = "this buffer is for one agent" if isinstance(chunk, MultiAgentEpisode) else "not transitions"
                raise TypeError(f"add: expected SingleAgentEpisode, given {type(chunk).__name__}; {hint}")
        added, overwritten = self._episodes_added, self.buffer.stats()["overwritten"]
        for chunk in chunks:
            if len(chunk):
                self._extend(chunk)
        evicted = self._forget()
        counts = {
            "num_episodes_added": self._episodes_added - added,
            "num_env_steps_added": sum(map(len, chunks)),
            "num_episodes_evicted": evicted,
            "num_env_steps_evicted": self.buffer.stats()["overwritten"] - overwritten,
        }
        self._update_add_metrics(**_at_all_levels(counts))

    def _extend(self, chunk: SingleAgentEpisode) -> None:
        n, name = len(chunk), chunk.id_
        number = self._stored[name][0] if name in self._stored else self._episodes_added
        owner = name if name in self._streams else next(iter(self._streams))
        stream = self._streams[owner]
        last = np.arange(n) == n - 1
        first = self.buffer.extend(
            _observation(chunk, number, 0),
            _stacked(chunk.get_actions()),
            _stacked(chunk.get_rewards()),
            _observation(chunk, number, 1),
            last & chunk.is_terminated,
            last & chunk.is_truncated,
            stream=stream,
        )
        self._episodes_added += name not in self._stored
        self._stored.pop(name, None)
        self._stored[name] = number, first + n - 1
        del self._streams[owner]
        self._streams[name] = stream
        if chunk.is_done:
            self._streams.move_to_end(name, last=False)
        self._spaces = chunk.observation_space, chunk.action_space

    def _forget(self) -> int:
        """Drops the episodes that have no timestep in the buffer any more; gives how many."""
        stats = self.buffer.stats()
        oldest = stats["added"] - stats["size"]
        gone = 0
        while self._stored and next(iter(self._stored.values()))[1] < oldest:
            del self._stored[next(iter(self._stored))]
            gone += 1
        return gone

    # ---- sampling ----

    def sample(
        self,
        num_items: int | None = None,
        *,
        batch_size_B: int | None = None,
        batch_length_T: int | None = None,
        n_step: int | tuple[int, int] | None = None,
        beta: float | None = None,
        gamma: float = 0.99,
        include_infos: bool = False,
        include_extra_model_outputs: bool = False,
        sample_episodes: bool = True,
        to_numpy: bool = False,
        lookback: int = 0,
        min_batch_length_T: int = 0,
    ) -> list[SingleAgentEpisode]:
        """`num_items` (or `batch_size_B`) transitions, each as an episode of one step.

        Observations are those at t and t + k, the reward the sum of gamma**i * r_(t+i) over the k steps between; in
        `extra_model_outputs` are `n_step`, which is k, and `weights`. k is `n_step` (of a pair (low, high), drawn from
        low … high - 1 for each transition), and less where the episode ends, or what is known of it: no start near an
        end is left out, and gamma**n_step fits every window. RLlib's prioritized buffer draws none of the last
        n_step - 1 starts; its uniform one says n_step of shortened windows too, never marks them as terminated or
        truncated, and gives more than `num_items` from n_step 4 on (Ray 2.60.0).

        Each has an id of its own. `beta` is for the prioritized buffer; `to_numpy`: episodes hold NumPy arrays.

        Raises ValueError where the buffer is empty, n_step or gamma is out of range, num_items and batch_size_B are
        both given, or where sequences
        (`batch_length_T` above 1, `lookback`, `min_batch_length_T`), infos (`include_infos`), model outputs
        (`include_extra_model_outputs`) or a batch dictionary (`sample_episodes` False) are asked for.
        """
        _require_single_steps(batch_length_T, lookback, min_batch_length_T)
        if include_infos or include_extra_model_outputs:
            raise ValueError("sample: infos and model outputs are not kept; RLlib's own EpisodeReplayBuffer does")
        if not sample_episodes:
            raise ValueError(
                "sample: gives episodes; for a dictionary of sequences use RLlib's own EpisodeReplayBuffer"
            )
        if num_items is not None and batch_size_B is not None:
            raise ValueError(f"sample: expected num_items or batch_size_B, given both: {num_items} and {batch_size_B}")
        low, high = _steps_of(n_step)
        size = num_items or batch_size_B or self.batch_size_B
        self._view.gamma = gamma
        self._view.n = high - 1
        drawn = self.buffer.sample(size)
        steps = self.rng.integers(low, high, size)
        covered = np.empty(size, np.int64)
        episodes: list[Any] = [None] * size
        for asked in np.unique(steps).tolist():
            at = np.flatnonzero(steps == asked)
            batch = drawn if high - low == 1 else self.buffer.read(drawn.indices[at], NStep(asked, gamma))
            covered[at] = batch.next_obs["t"] - batch.obs["t"]
            for place, episode in zip(at, self._episodes_of(batch, covered[at], drawn.weights[at]), strict=True):
                episodes[place] = episode
        if to_numpy:
            episodes = [episode.to_numpy() for episode in episodes]
        self._drawn = drawn.indices
        counts = {
            "num_env_steps_sampled": size,
            "num_episodes_per_sample": len(np.unique(drawn.obs["episode"])),
            "num_env_steps_per_sample": len(np.unique(drawn.indices)),
            "sampled_n_step": float(covered.mean()),
            "num_resamples": 0,
        }
        self._update_sample_metrics(**_at_all_levels(counts))
        return episodes

    def _episodes_of(
        self, batch: Batch, steps: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> Iterator[SingleAgentEpisode]:
        """The transitions of a batch as episodes of one step."""
        observation_space, action_space = self._spaces
        for i in range(len(batch)):
            yield SingleAgentEpisode(
                observations=[_row(batch.obs["obs"], i), _row(batch.next_obs["obs"], i)],
                observation_space=observation_space,
                actions=[_row(batch.action, i)],
                action_space=action_space,
                rewards=[float(batch.reward[i])],
                terminated=bool(batch.terminated[i]),
                truncated=bool(batch.truncated[i]),
                extra_model_outputs={"weights": [float(weights[i])], "n_step": [int(steps[i])]},
                t_started=int(batch.obs["t"][i]),
                len_lookback_buffer=0,
            )

    # ---- the rest ----

    def get_num_episodes(self, module_id: str | None = None) -> int:
        """How many episodes have timesteps in the buffer. `module_id` is taken and changes nothing."""
        return len(self._stored)

    def get_num_episodes_evicted(self, module_id: str | None = None) -> int:
        """How many episodes have left the buffer altogether. `module_id` is taken and changes nothing."""
        return self._episodes_added - len(self._stored)

    def get_num_timesteps(self, module_id: str | None = None) -> int:
        """How many timesteps are in the buffer. `module_id` is taken and changes nothing."""
        return len(self.buffer)

    def get_added_timesteps(self, module_id: str | None = None) -> int:
        """How many timesteps were ever added. `module_id` is taken and changes nothing."""
        return int(self.buffer.stats()["added"])

    def get_sampled_timesteps(self, module_id: str | None = None) -> int:
        """How many timesteps were ever drawn. `module_id` is taken and changes nothing."""
        return int(self.buffer.stats()["sampled"])

    def get_state(self) -> dict[str, Any]:
        """Everything that later samples depend on: a copy, which can be pickled."""
        return deepcopy({"made_as": self._made_as(), **{name: getattr(self, name) for name in self._state}})

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up a `state` of `get_state()`, of the same class, capacity and streams; ValueError for others."""
        if not isinstance(state, Mapping) or "made_as" not in state:
            given = f"a mapping of {', '.join(map(str, state))}" if isinstance(state, Mapping) else repr(state)
            raise ValueError(f"set_state: expected what get_state() gave, given {given}")
        if state["made_as"] != self._made_as():
            raise ValueError(f"set_state: expected a state of {self._made_as()}, given one of {state['made_as']}")
        copied = deepcopy(state)  # at once: the buffer and its parts stay those of each other
        for name in self._state:
            setattr(self, name, copied[name])

    def _made_as(self) -> str:
        return f"{type(self).__name__}(capacity={self.buffer.capacity}, streams={self.buffer.streams})"


class PrioritizedEpisodeReplayBuffer(EpisodeReplayBuffer, RLlibPrioritizedBuffer):
    """The same with proportional prioritization (Schaul et al. 2016): `rb.Prioritized` draws, DQN feeds back TD errors.

    `capacity` and `settings` are those of `EpisodeReplayBuffer`; `alpha`, `beta`, `epsilon` and `weight_norm` those of
    `rb.Prioritized`; the defaults are what RLlib's own buffer does. But new timesteps get the largest priority now in
    the buffer, RLlib's the largest ever.
    """

    _state = (*EpisodeReplayBuffer._state, "_prioritized")

    def __init__(
        self,
        capacity: int = 10_000,
        *,
        alpha: float = 1.0,
        beta: float = 0.4,
        epsilon: float = 1e-12,
        weight_norm: WeightNorm = "buffer",
        **settings: Any,
    ) -> None:
        known = EpisodeReplayBuffer.__init__.__kwdefaults__ or {}
        if unknown := [name for name in settings if name not in known]:
            own = "capacity, alpha, beta, epsilon, weight_norm"
            raise TypeError(f"{unknown[0]}: no setting of {type(self).__name__}: expected {own}, {', '.join(known)}")
        self._prioritized = Prioritized(alpha, beta, epsilon, weight_norm)
        super().__init__(capacity, **settings)

    def _sampler(self) -> Sampler:
        return self._prioritized

    def sample(
        self, num_items: int | None = None, *, beta: float | None = None, **request: Any
    ) -> list[SingleAgentEpisode]:
        """`num_items` transitions by priority, as `EpisodeReplayBuffer.sample`, which has all that `request` may hold.

        `beta`, where given, is the exponent from now on.
        """
        if beta is not None:
            self._prioritized.beta = beta
        return super().sample(num_items, **request)

    def update_priorities(self, priorities: NDArray[np.floating[Any]], module_id: str | None = None) -> None:
        """Sets the priorities of the last sample, in its order, to `priorities` (TD errors, [num_items]).

        `module_id` is taken and changes nothing. Raises ValueError where nothing was sampled since the last time, or
        lengths differ, TypeError where indices are given: those of the last sample are known.
        """
        if module_id is not None and not isinstance(module_id, str):
            raise TypeError(
                "update_priorities: expected the priorities alone, in the order of the last sample, given also "
                f"{type(module_id).__name__} as module_id; no indices are needed"
            )
        if self._drawn is None:
            raise ValueError("update_priorities: no sample since the last update; sample and update take turns")
        self.buffer.update_priorities(self._drawn, priorities)
        self._drawn = None


def _require_single_steps(
    batch_length_T: int | None = None, lookback: int | None = None, min_batch_length_T: int | None = None
) -> None:
    if batch_length_T not in (None, 0, 1) or lookback or min_batch_length_T:
        raise ValueError(
            "this buffer gives single transitions, not the sequences of a stateful RLModule: expected batch_length_T 0 "
            f"or 1, lookback 0 and min_batch_length_T 0, given {batch_length_T}, {lookback} and {min_batch_length_T}; "
            "use RLlib's own EpisodeReplayBuffer"
        )


def _steps_of(n_step: int | tuple[int, int] | None) -> tuple[int, int]:
    """The half-open range of window lengths that RLlib means by an `n_step`."""
    if n_step is None:
        n_step = 1
    alone = not isinstance(n_step, tuple | list)
    pair: Any = (n_step, n_step) if alone else n_step
    if len(pair) != 2 or not all(isinstance(n, int | np.integer) for n in pair):
        raise TypeError(f"sample: n_step must be an integer, or a pair of them (low, high), given {n_step!r}")
    low, high = pair[0], pair[1] + alone
    if not 1 <= low < high:
        raise ValueError(
            f"sample: n_step must be at least 1, or a pair (low, high) with 1 <= low < high, given {n_step}"
        )
    return low, high


def _observation(chunk: SingleAgentEpisode, number: int, shift: int) -> dict[str, Any]:
    """What is stored as the observations at 0 … n - 1 of a chunk (`shift` 0), or at 1 … n (`shift` 1).

    With each goes its episode's number and its time. The buffer joins two transitions where the one's next observation
    is, byte for byte, the other's observation: so only true neighbours are joined, whichever stream an episode is given
    and however alike two episodes look. And the length of a window is the difference of its times.
    """
    n = len(chunk)
    return {
        "episode": np.full(n, number),
        "t": chunk.t_started + shift + np.arange(n),
        "obs": _stacked(chunk.get_observations(slice(shift, n + shift))),
    }


def _stacked(values: Any) -> Any:
    """Values as arrays with a leading axis; an episode that was not made NumPy holds lists of single ones."""
    return stack(values) if isinstance(values, list) else values


def _row(field: Any, i: int) -> Any:
    return tree.map_structure(lambda column: column[i], field)


def _at_all_levels(counts: Mapping[str, float]) -> dict[str, Any]:
    """RLlib's counts for the whole buffer, and again for its one agent and its one module."""
    found: dict[str, Any] = dict(counts)
    for name, value in counts.items():
        short = name.replace("env_steps", "steps")
        found[f"agent_to_{short}"] = {DEFAULT_AGENT_ID: value}
        found[f"module_to_{short}"] = {DEFAULT_MODULE_ID: value}
    return found
