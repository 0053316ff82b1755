"""RLlib: episodes as lists of steps, segment trees in Python; a batch is a list of episodes of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, LOSS_FIELDS, Contender, LeftOutError
from transitions import FIELDS, Step, Transitions

#: Where episodes are shorter, there are as many of them as transitions.
SHORTEST = 2


class RLlib(Contender):
    """The episode buffers as its DQN uses them: a step is added as a piece of its episode.

    Its learner makes arrays of the episodes of a batch; `unpack` makes them with one NumPy call a field, which takes a
    part of the time. An update is about the batch drawn last, which the buffer keeps; where the update alone is timed,
    that is told beforehand.
    """

    name = "RLlib"
    distribution = "ray"
    whole_episodes = True

    def build(self) -> None:
        from ray.rllib.env.single_agent_episode import SingleAgentEpisode
        from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer

        self._episode = SingleAgentEpisode
        #: By stream: identity, steps so far and last observation of an episode that goes on.
        self._open: dict[int, tuple[str, int, NDArray[np.float32]]] = {}
        if self.setup.prioritized:
            self._buffer = PrioritizedEpisodeReplayBuffer(self.setup.capacity, alpha=ALPHA)
            self.sample = lambda size: self._buffer.sample(size, n_step=1, beta=BETA)
            self.update = self._update
        else:
            self._buffer = EpisodeReplayBuffer(self.setup.capacity)
            self.sample = lambda size: self._buffer.sample(size, n_step=1, sample_episodes=True)
        self._buffer.rng = np.random.default_rng(self.setup.seed)
        self.add = self._buffer.add

    def fill(self, data: Transitions) -> None:
        ends = np.flatnonzero(data.terminated | data.truncated)
        if len(data) < SHORTEST * len(ends) or (data.next_obs[:-1] != data.obs[1:]).any(axis=1).mean() > 1 / SHORTEST:
            raise LeftOutError("keeps episodes: where no two steps belong together, each is one of its own")
        length = len(data) // self.setup.streams
        for stream in range(self.setup.streams):
            self._fill_stream(stream, data.part(stream * length, (stream + 1) * length))

    def _fill_stream(self, stream: int, data: Transitions) -> None:
        begin = 0
        for end in [*(np.flatnonzero(data.terminated | data.truncated) + 1).tolist(), len(data)]:
            if end > begin:
                self.add(self._piece(stream, data.part(begin, end)))
            begin = end

    def _piece(self, stream: int, data: Transitions) -> Any:
        """Steps in a row, as a piece of the stream's episode where they go on with it, else of a new one."""
        identity, before, last = self._open.pop(stream, (None, 0, None))
        if identity is None or not np.array_equal(last, data.obs[0]):
            identity, before = uuid4().hex, 0
        terminated, truncated = bool(data.terminated[-1]), bool(data.truncated[-1])
        if not (terminated or truncated):
            self._open[stream] = identity, before + len(data), data.next_obs[-1]
        return self._episode(
            identity,
            observations=[*data.obs, data.next_obs[-1]],
            actions=data.action.tolist(),
            rewards=data.reward.tolist(),
            terminated=terminated,
            truncated=truncated,
            t_started=before,
            len_lookback_buffer=0,
        )

    def add_form(self, step: Step) -> tuple[list[Any]]:
        rows = Transitions(*(np.asarray(values) if self.setup.streams > 1 else np.array([values]) for values in step))
        return ([self._piece(stream, rows.part(stream, stream + 1)) for stream in range(self.setup.streams)],)

    def source(self, steps: Sequence[Step]) -> Callable[[int], list[tuple[Any, ...]]]:
        """Pieces made anew each time: one can be added once only."""
        endless = cycle(steps)
        return lambda count: [self.add_form(step) for step in islice(endless, count)]

    def _update(self, indices: Sequence[int], priorities: NDArray[np.float32]) -> None:
        self._buffer._last_sampled_indices = list(indices)  # it empties the list that it keeps
        self._buffer.update_priorities(priorities)

    def indices(self, batch: Any) -> Any:
        return self._buffer._last_sampled_indices

    def indices_of(self, places: NDArray[np.int64]) -> list[int]:
        """Places in its trees. What it holds less than `capacity` is the last transition again."""
        held = self._buffer._indices
        return [held[place][2] for place in np.minimum(places, len(held) - 1).tolist()]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        observations = np.array([episode.observations.data for episode in batch])
        fields = (
            observations[:, 0],
            np.array([episode.actions.data[0] for episode in batch]),
            np.array([episode.rewards.data[0] for episode in batch], np.float32),
            observations[:, 1],
            np.array([episode.is_terminated for episode in batch]),
        )
        if not self.setup.prioritized:
            return fields
        return (*fields, np.array([episode.extra_model_outputs["weights"].data[0] for episode in batch]))

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        names = (*LOSS_FIELDS, "weights") if self.setup.prioritized else LOSS_FIELDS
        found = dict(zip(names, self.unpack(batch), strict=True))
        return found | {FIELDS[5]: np.array([episode.is_truncated for episode in batch])}
