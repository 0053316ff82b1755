"""Every library's way to sample sequences of steps."""

from __future__ import annotations

import json
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adapters.flashbax import Flashbax
from adapters.replaybank import Replaybank
from adapters.reverb import interpreter
from adapters.tianshou import NAMES
from adapters.torchrl import TorchRL
from contender import Contender, LeftOutError, Role, Setup
from floor import FrameFloor, compiled
from timing import Trial
from transitions import Transitions

LENGTH = 80
OBS = 64


def episodes(data: Transitions) -> Iterator[Transitions]:
    """One after the other; the last may be without an end."""
    begin = 0
    for end in [*np.flatnonzero(data.terminated | data.truncated).tolist(), len(data) - 1]:
        if end >= begin:
            yield Transitions(*(values[begin : end + 1] for values in data.columns().values()))
        begin = end + 1


def with_last(episode: Transitions) -> NDArray[np.float32]:
    """The observations of an episode of T transitions, [T + 1, ...]."""
    return np.concatenate((episode.obs, episode.next_obs[-1:]))


class SequenceContender(Contender):
    """A buffer that gives sequences of 80 steps.

    `unpack` gives obs, action, reward and terminated, [n, 80, ...]. `columns` has `obs` and `real`: which steps are not
    padding.
    """

    #: What it does where an episode ends inside a sequence.
    at_ends: ClassVar[str]


class ReplaybankSequence(SequenceContender, Replaybank):
    at_ends = "pads"

    def view(self) -> Any:
        import replaybank as rb

        return rb.Sequence(LENGTH)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch.obs, batch.action, batch.reward, batch.terminated

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {"obs": batch.obs, "real": batch.mask}


class D3rlpy(SequenceContender):
    """`sample_trajectory_batch`: ends at a step drawn at random, padded before the first of the episode."""

    name = "d3rlpy"
    distribution = "d3rlpy"
    at_ends = "pads"

    def build(self) -> None:
        from d3rlpy import ActionSpace
        from d3rlpy.dataset import FIFOBuffer, ReplayBuffer, Signature

        def signature(dtype: Any, *shape: int) -> Signature:
            return Signature(dtype=[np.dtype(dtype)], shape=[shape])

        self._buffer = ReplayBuffer(
            FIFOBuffer(self.setup.capacity),
            observation_signature=signature(np.float32, OBS),
            action_signature=signature(np.int64, 1),
            reward_signature=signature(np.float32, 1),
            action_space=ActionSpace.DISCRETE,
            action_size=2,
        )
        self.sample = lambda size: self._buffer.sample_trajectory_batch(size, LENGTH)

    def fill(self, data: Transitions) -> None:
        from d3rlpy.dataset import Episode

        for episode in episodes(data):
            action, reward = episode.action[:, None], episode.reward[:, None]
            self._buffer.append_episode(Episode(episode.obs, action, reward, bool(episode.terminated[-1])))

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch.observations, batch.actions, batch.rewards, batch.terminals

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {"obs": batch.observations, "real": batch.masks > 0}


class TorchRLSlices(SequenceContender, TorchRL):
    """SliceSampler, as a growing buffer has to use it: it looks for the episodes in every sample."""

    name = "TorchRL, SliceSampler"
    at_ends = "starts earlier"
    cache: ClassVar[bool] = False

    def build(self) -> None:
        from tensordict import TensorDict
        from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

        self._tensordict = TensorDict
        self._buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(self.setup.capacity),
            sampler=SliceSampler(slice_len=LENGTH, end_key=("next", "done"), cache_values=self.cache),
            batch_size=LENGTH,
        )
        self.sample = lambda size: self._buffer.sample(size * LENGTH).reshape(size, LENGTH)

    def fill(self, data: Transitions) -> None:
        import torch

        tensors = {name: torch.from_numpy(values) for name, values in data.columns().items()}
        ends = {name: tensors[name][:, None] for name in ("terminated", "truncated")}
        following = {**ends, "done": ends["terminated"] | ends["truncated"], "reward": tensors["reward"][:, None]}
        fields = {"obs": tensors["obs"], "action": tensors["action"], "next": {**following, "obs": tensors["next_obs"]}}
        self._buffer.extend(self._tensordict(fields, batch_size=[len(data)]))

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        following = batch["next"]
        return batch["obs"], batch["action"], following["reward"], following["terminated"]

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        obs = batch["obs"].numpy()
        return {"obs": obs, "real": np.ones(obs.shape[:2], bool)}


class TorchRLCachedSlices(TorchRLSlices):
    """Where nothing is added between samples, it may remember the episodes."""

    name = "TorchRL, SliceSampler, nothing added"
    cache = True


class RLlib(SequenceContender):
    """After an end, the row goes on with the beginning of another episode, and says so."""

    name = "RLlib"
    distribution = "ray"
    at_ends = "goes on with another, flagged"

    def build(self) -> None:
        from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer

        self._buffer = EpisodeReplayBuffer(self.setup.capacity, batch_length_T=LENGTH)
        self.sample = lambda size: self._buffer.sample(batch_size_B=size)

    def fill(self, data: Transitions) -> None:
        from ray.rllib.env.single_agent_episode import SingleAgentEpisode

        for episode in episodes(data):
            self._buffer.add(
                SingleAgentEpisode(
                    observations=list(with_last(episode)),
                    actions=list(episode.action),
                    rewards=episode.reward.tolist(),
                    terminated=bool(episode.terminated[-1]),
                    truncated=bool(episode.truncated[-1]),
                    len_lookback_buffer=0,
                )
            )

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return batch["obs"], batch["actions"], batch["rewards"], batch["is_terminated"]

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        """The steps up to the first end are one sequence; the test looks at these."""
        later = np.cumsum(np.asarray(batch["is_first"]), axis=1) > 1
        return {"obs": np.asarray(batch["obs"]), "real": ~later}


class TianshouSequences(SequenceContender):
    """It has no sequences: 79 times `prev`, and a gather. Before the first step of an episode, that step again."""

    name = "Tianshou"
    distribution = "tianshou"
    at_ends = "repeats the first step"

    def build(self) -> None:
        from tianshou.data import Batch, ReplayBuffer

        self._batch = Batch
        self._buffer = ReplayBuffer(self.setup.capacity, ignore_obs_next=True)
        self.sample = self._sample

    def fill(self, data: Transitions) -> None:
        for step in data.steps():
            self._buffer.add(self._batch(**dict(zip(NAMES.values(), step, strict=True))))

    def _sample(self, size: int) -> tuple[NDArray[Any], ...]:
        buffer = self._buffer
        path = [buffer.sample_indices(size)]
        for _ in range(LENGTH - 1):
            path.append(buffer.prev(path[-1]))
        places = np.stack(path[::-1], axis=1)
        return buffer.obs[places], buffer.act[places], buffer.rew[places], buffer.terminated[places]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return tuple(batch)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        obs = batch[0]
        real = np.ones(obs.shape[:2], bool)
        real[:, :-1] = (obs[:, 1:] != obs[:, :-1]).any(axis=2)
        return {"obs": obs, "real": real}


class Reverb(SequenceContender):
    """A table of every sequence, in a process of its own (`reverb_worker.py`). TensorFlow reads ahead, in threads."""

    name = "Reverb"
    at_ends = "starts earlier"
    #: Batches in a row between two words of the processes, so that the way there costs nothing.
    length: ClassVar[int] = 20

    @classmethod
    def check(cls, setup: Setup) -> None:
        super().check(setup)
        interpreter()

    def build(self) -> None:
        self.sample = self._sample

    def fill(self, data: Transitions) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "experience.npz"
            np.savez(path, **data.columns())
            worker = Path(__file__).resolve().parents[1] / "reverb_worker.py"
            self._process = subprocess.Popen(
                [interpreter(), str(worker), str(path), str(LENGTH)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            # It ends where its standard input does: with this process, or with this object.
            weakref.finalize(self, self._process.communicate)
            self.versions = json.loads(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LeftOutError("its process ended before it answered")
        return line

    def _ask(self, *words: object) -> None:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        self._answer()

    def sampling(self, size: int) -> Trial:
        return Trial(lambda calls: [(size, self.length)] * calls, self._ask, self.length)

    def _sample(self, size: int) -> dict[str, NDArray[Any]]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "batch.npz"
            self._ask(size, 1, path)
            with np.load(path) as batch:
                return dict(batch)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {"obs": batch["obs"], "real": np.ones(batch["obs"].shape[:2], bool)}


class FlashbaxSequences(SequenceContender, Flashbax):
    """Whatever lies side by side; no peer of the bar, which is about sequences of one episode."""

    name = "Flashbax, across episodes"
    role = Role.REFERENCE
    at_ends = "goes on with another"
    fields: ClassVar[Mapping[str, tuple[tuple[int, ...], Any]]] = {
        name: ((OBS,), np.float32) if name == "obs" else field
        for name, field in Flashbax.fields.items()
        if name in ("obs", "action", "reward", "terminated")
    }

    def _functions(self, size: int, **how: bool) -> Any:
        import flashbax

        return flashbax.make_trajectory_buffer(
            1, size, LENGTH, period=1, min_length_time_axis=LENGTH, max_size=self.setup.capacity
        )

    def fill(self, data: Transitions) -> None:
        columns = data.columns()
        self._add_one({name: columns[name].astype(dtype)[None] for name, (_, dtype) in self.fields.items()})

    def draw(self, size: int) -> Any:
        sample = self._functions(size).sample
        return lambda state, key: (sample(state, key).experience, None)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        return tuple(batch[0][name] for name in self.fields)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        obs = np.asarray(batch[0]["obs"])
        return {"obs": obs, "real": np.ones(obs.shape[:2], bool)}


class Gather(SequenceContender):
    """`obs[starts[:, None] + arange(80)]`: the observations alone, from random starts made beforehand."""

    name = "one NumPy gather"
    role = Role.REFERENCE
    at_ends = "goes on with another"

    def build(self) -> None:
        self._rng = np.random.default_rng(self.setup.seed)
        self.sample = lambda size: self._take(*self._starts(size))

    def fill(self, data: Transitions) -> None:
        self._obs = data.obs

    def _starts(self, size: int) -> tuple[NDArray[np.int64]]:
        return (self._rng.integers(0, len(self._obs) - LENGTH, size=size),)

    def _take(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._obs[starts[:, None] + np.arange(LENGTH)]

    def sampling(self, size: int) -> Trial:
        return Trial(lambda calls: [self._starts(size) for _ in range(calls)], self._take)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {"obs": batch, "real": np.ones(batch.shape[:2], bool)}


class SequenceFloor(SequenceContender):
    """The bytes of obs, action, reward and terminated of 80 steps in a row, copied in C into memory that is there.

    From random starts made beforehand, whatever episodes they are of; no padding.
    """

    name = "C floor"
    role = Role.FLOOR
    at_ends = "goes on with another"
    #: Batches in a row inside C, so that the way there costs nothing.
    length: ClassVar[int] = 20
    #: The largest batch.
    most: ClassVar[int] = 256

    @classmethod
    def check(cls, setup: Setup) -> None:
        compiled()

    def build(self) -> None:
        self._rng = np.random.default_rng(self.setup.seed)
        self.sample = self._one

    def fill(self, data: Transitions) -> None:
        columns = (data.obs, data.action, data.reward, data.terminated)
        self._floors = [FrameFloor(np.ascontiguousarray(column), LENGTH, self.most) for column in columns]

    def sampling(self, size: int) -> Trial:
        if size > self.most:
            raise LeftOutError(f"has room for batches of {self.most}")
        return Trial(lambda calls: [(self._starts(self.length, size),) for _ in range(calls)], self._copy, self.length)

    def _starts(self, calls: int, size: int) -> NDArray[np.int64]:
        return self._rng.integers(0, self.setup.capacity - LENGTH, size=(calls, size))

    def _copy(self, starts: NDArray[np.int64]) -> None:
        for floor in self._floors:
            floor.copy(starts, fresh=False)

    def _one(self, size: int) -> NDArray[np.float32]:
        self._copy(self._starts(1, size))
        obs: NDArray[np.float32] = self._floors[0].out[:size]
        return obs

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        return {"obs": batch, "real": np.ones(batch.shape[:2], bool)}


SEQUENCE_CONTENDERS: tuple[type[SequenceContender], ...] = (
    ReplaybankSequence,
    D3rlpy,
    TorchRLSlices,
    TorchRLCachedSlices,
    Reverb,
    RLlib,
    TianshouSequences,
    FlashbaxSequences,
    Gather,
    SequenceFloor,
)
