"""RLlib's prioritized buffers as replay actors: what its Ape-X, which Ray no longer has, was made of."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any, ClassVar, NamedTuple

import numpy as np
import ray
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID, SampleBatch
from ray.rllib.utils.replay_buffers.multi_agent_prioritized_replay_buffer import MultiAgentPrioritizedReplayBuffer
from ray.rllib.utils.replay_buffers.multi_agent_replay_buffer import MultiAgentReplayBuffer

from adapters.scaling import PATIENCE, Contestant, Scale
from hands import ALPHA, AT_A_TIME, BATCH, BETA, EPSILON, PREFETCH, Reading, Step, Writing
from ray_hands import RayProcess, nbytes, own_processes

NAMES = ("obs", "actions", "rewards", "new_obs", "terminateds", "truncateds")
DTYPES = (None, np.int64, np.float32, None, np.bool_, np.bool_)
OURS = {"obs": "obs", "action": "actions", "reward": "rewards", "next_obs": "new_obs", "terminated": "terminateds"}
IN_FLIGHT = 2  # messages of a writer that no shard has taken yet


class Inlet:
    """Sends each AT_A_TIME transitions to a shard drawn at random."""

    def __init__(self, shards: Sequence[Any], prioritized: bool, seed: int) -> None:
        self._shards, self._prioritized = shards, prioritized
        self._rng = random.Random(seed)
        self._rows: list[Step] = []
        self._sent: deque[tuple[Any, int]] = deque()
        self._taken = 0

    def add(self, *step: Any) -> None:
        self._rows.append(step)
        if len(self._rows) == AT_A_TIME:
            self._send()

    def _send(self) -> None:
        batch = sample_batch(self._rows, self._prioritized)
        self._sent.append((self._rng.choice(self._shards).add.remote(batch), len(self._rows)))
        self._rows = []
        self._wait(IN_FLIGHT)

    def _wait(self, most: int) -> None:
        while len(self._sent) > most:
            ref, count = self._sent.popleft()
            ray.get(ref)
            self._taken += count

    def flush(self) -> None:
        if self._rows:
            self._send()
        self._wait(0)

    def taken(self) -> int:
        return self._taken

    def close(self) -> None:
        self.flush()


def sample_batch(rows: Sequence[Step], prioritized: bool) -> SampleBatch:
    *columns, errors = zip(*rows, strict=True)
    batch = {name: np.array(values, dtype) for name, values, dtype in zip(NAMES, columns, DTYPES, strict=True)}
    if prioritized:
        batch["weights"] = np.abs(np.array(errors)) + EPSILON
    return SampleBatch(batch)


class Drawn(NamedTuple):
    """A batch, and the shard that it is from."""

    shard: Any
    columns: Mapping[str, Any]


class Outlet:
    """Draws each batch from one shard, the shards in turn."""

    def __init__(self, shards: Sequence[Any]) -> None:
        self._turn = cycle(shards)

    def _ask(self) -> tuple[Any, Any]:
        shard = next(self._turn)
        return shard, shard.sample.remote(BATCH)

    def _answer(self, shard: Any, ref: Any) -> Drawn:
        return Drawn(shard, ray.get(ref).policy_batches[DEFAULT_POLICY_ID])

    def sample(self) -> Drawn:
        return self._answer(*self._ask())

    def batches(self) -> Iterator[Drawn]:
        asked = deque(self._ask() for _ in range(PREFETCH))
        while True:
            found = self._answer(*asked.popleft())
            asked.append(self._ask())
            yield found

    def update(self, batch: Drawn, td_error: Any, wait: bool) -> None:
        call = batch.shard.update_priorities.remote({DEFAULT_POLICY_ID: (batch.columns["batch_indexes"], td_error)})
        if wait:
            ray.get(call)

    def unpack(self, batch: Drawn) -> dict[str, Any]:
        found = {name: batch.columns[theirs] for name, theirs in OURS.items()}
        if "batch_indexes" in batch.columns:  # else its "weights" are what was added
            found["weights"] = batch.columns["weights"]
        return found

    def close(self) -> None:
        pass


def _writing(shards: Sequence[Any], scale: Scale, number: int) -> Writing:
    return Writing(Inlet(shards, scale.prioritized, number), scale.size.steps(number))


def _reading(shards: Sequence[Any], prioritized: bool) -> Reading:
    return Reading(Outlet(shards), prioritized)


class RLlibShards(Contestant):
    """Made as Ape-X made them: the buffer's class as an actor; a learner's batch is of one shard."""

    name = "RLlib"
    distribution = "ray"
    how: ClassVar[str] = (
        "Ray 2.60 has no ready replay actor. As its former Ape-X did: ray.remote(num_cpus=0) around "
        "MultiAgentPrioritizedReplayBuffer (uniform: MultiAgentReplayBuffer), storage_unit timesteps; a writer sends "
        "each SampleBatch of 64 to a shard drawn at random, with its priorities in the column weights; the reader "
        "takes each batch whole from one shard, the shards in turn, and sends its priorities back there. A writer "
        "waits when 2 messages have not been taken (Ape-X did not wait). lz4, which would compress observations, is "
        "not used. This version gives all transitions of a message the first one's priority."
    )

    def build(self) -> None:
        size, prioritized, shards, writers = self.scale
        options: dict[str, Any] = {"capacity": size.capacity // shards}
        if prioritized:
            kind = MultiAgentPrioritizedReplayBuffer
            options |= {
                "prioritized_replay_alpha": ALPHA,
                "prioritized_replay_beta": BETA,
                "prioritized_replay_eps": EPSILON,
            }
        else:
            kind = MultiAgentReplayBuffer
        self._shards = [ray.remote(num_cpus=0)(kind).remote(**options) for _ in range(shards)]
        self.writers = [RayProcess(partial(_writing, self._shards, self.scale, number)) for number in range(writers)]
        self.reader = RayProcess(partial(_reading, self._shards, prioritized))
        calls = [shard.apply.remote(lambda actor: os.getpid()) for shard in self._shards]
        self._pids = ray.get(calls, timeout=PATIENCE)

    def shards(self) -> Sequence[int]:
        return list(self._pids)

    def others(self) -> Mapping[str, Sequence[int]]:
        return {"ray": own_processes()}

    def nbytes(self) -> Mapping[str, float]:
        rows = self.scale.size.steps(0)[:AT_A_TIME]
        drawn = ray.get(self._shards[0].sample.remote(BATCH), timeout=PATIENCE)
        found = {"transitions": nbytes(sample_batch(rows, self.scale.prioritized)), "batch": nbytes(drawn)}
        if self.scale.prioritized:
            indices = drawn.policy_batches[DEFAULT_POLICY_ID]["batch_indexes"]
            found["update"] = nbytes({DEFAULT_POLICY_ID: (indices, np.zeros(BATCH, np.float32))})
        return found

    def close(self) -> None:
        for process in (*self.writers, self.reader):
            process.end()
        for shard in self._shards:
            ray.kill(shard)
