"""Tianshou (2.0): buffers for its collectors and off-policy algorithms, in the place of its `VectorReplayBuffer`.

    buffer = TianshouReplayBuffer(100_000, len(envs))
    buffer = TianshouPrioritizedReplayBuffer(100_000, len(envs), alpha=0.6, beta=0.4)
    collector = Collector(algorithm, envs, buffer)

n-step returns and targets are the algorithm's, as ever: Tianshou computes them from `next`, `rew` and `done`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaybank.adapters.tianshou_episodes import Episodes
from replaybank.batch import Batch as Transitions
from replaybank.buffer import PriorityReport
from replaybank.buffer import ReplayBuffer as Bank
from replaybank.extras import of_extra
from replaybank.samplers.base import Ids, Sampler
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.uniform import Uniform
from replaybank.schema import Leaf, Node, Schema, children_of, leaves_of
from replaybank.views.base import View
from replaybank.views.frames import FrameStack

with of_extra("tianshou"):
    import h5py
    from tianshou.data import Batch, ReplayBuffer, ReplayBufferManager, to_numpy
    from tianshou.data.utils.converter import from_hdf5, to_hdf5

# Tianshou's names of what lies in rows, and ours.
STORED = {"obs": "obs", "act": "action", "rew": "reward", "terminated": "terminated", "truncated": "truncated"}
REQUIRED = (*STORED, "obs_next")
OPTIONAL = ("info", "policy")
KNOWN = (*REQUIRED, *OPTIONAL, "done")


class TianshouReplayBuffer(ReplayBufferManager):
    """Tianshou's `VectorReplayBuffer`, kept in a `replaybank.ReplayBuffer`: `bank`.

    One memory, first in first out: the last `total_size` transitions of all `buffer_num` environments, not
    total_size / buffer_num of each. An index is a slot, 0 … total_size - 1, as Tianshou's algorithms expect. The
    episodes of several environments lie interleaved, so an episode is no range of indices: `next`, `prev` and
    `get_buffer_indices` know what follows what.

    An episode ends where it is done, and where the environment was reset before (the next `obs` is not the last
    `obs_next`): n-step windows stop there, and episode returns start anew. Tianshou's go on across such a reset.

    What the keywords mean:

    - `stack_num`: obs and obs_next are stacks of the last `stack_num` frames, [n, stack_num, ...]. The environment
      gives single frames, or with `save_only_last_obs` stacks of that many, frames first, which come back bit by bit.
      Before an episode's first frame that frame is repeated. A stack is never drawn once a frame of it has been
      overwritten, and raises ValueError where it is asked for. `sample_avail` is refused: it would leave out how
      episodes begin.
    - `ignore_obs_next` changes nothing: every observation is stored once anyway, and `obs_next` is the true one, at a
      time limit too, where Tianshou's option gives `obs` in its place.
    - `random_seed` of the draws.
    - `info`, `policy`: which of their entries are kept, {name: spec}, specs as in `Schema.of`: `info={"lives": int}`,
      `policy={"hidden_state": {"hidden": ("float32", (1, 64))}}`. A step without the entry gets zeros, as in Tianshou.
      By default none is kept. What came in and was not kept is counted by name in `left_out`: such entries, and fields
      that a step hook made.

    Other fields have the dtypes of the first `add`; rewards are float64. Raises ValueError or TypeError for sizes out
    of range. What Tianshou does by writing into the arrays of its own buffers cannot work here, and says so: rewards
    of several agents, `CachedReplayBuffer`, `CQL(calibrated=True)`.
    """

    def __init__(
        self,
        total_size: int,
        buffer_num: int,
        *,
        stack_num: int = 1,
        ignore_obs_next: bool = False,
        save_only_last_obs: bool = False,
        sample_avail: bool = False,
        random_seed: int = 42,
        info: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        if sample_avail:
            raise NotImplementedError("sample_avail: the first transitions of an episode are never left out here")
        if save_only_last_obs and stack_num == 1:
            raise ValueError("save_only_last_obs: expected stack_num, how many frames the environment stacks")
        # Not the constructor of ReplayBufferManager: that one is about the buffers it manages.
        self.bank = Bank(total_size, streams=buffer_num)
        if total_size < buffer_num:
            raise ValueError(f"total_size: expected at least buffer_num, {buffer_num}, given {total_size}")
        self.maxsize = total_size
        self.buffer_num = buffer_num
        self.stack_num = stack_num
        self._stacked = save_only_last_obs
        self._view: View | None = None
        if stack_num != 1:
            self._view = FrameStack(stack_num, adds="stacks" if save_only_last_obs else "frames")
        self.left_out: Counter[str] = Counter()
        self._sampler: Sampler = Uniform()
        self._seed = random_seed
        self._random = np.random.default_rng(random_seed)
        wanted = {name: spec for name, spec in (("info", info), ("policy", policy)) if spec}
        nodes = Schema.of({"obs": bool, "action": bool, **wanted}).fields
        self._kept: dict[str, dict[str, Node]] = {name: children_of(nodes[name]) for name in wanted}  # type: ignore[arg-type]
        self._added = 0  # the id that comes next
        self._episodes = Episodes(total_size, buffer_num)
        self._null = np.zeros(total_size, bool)  # by slot: whether it holds a NaN
        self._late: dict[str, tuple[NDArray[Any], Any]] = {}  # by slot: what came after `add`, and its default

    # ---- adding ----

    def add(
        self, batch: Any, buffer_ids: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """One transition of each environment in `buffer_ids` ([n], different; None: all): fields of `batch` [n, ...].

        Gives, each [n]: index, episode return, episode length (both 0 unless done), and the index where the episode
        began, -1 where that has been overwritten.

        Raises TypeError or ValueError, and changes nothing, where a field is missing or does not fit, or a reward is
        not finite.
        """
        streams = self._streams(buffer_ids)
        values = self._values(batch, len(streams))
        if self.bank.schema is None:
            self.bank = self._laid_out(values, len(streams))
        mask = np.zeros(self.buffer_num, bool)
        mask[streams] = True
        if len(streams) == self.buffer_num and (streams[1:] > streams[:-1]).all():
            first = self.bank.add(**values)
        else:
            rows = {name: _spread(name, value, streams, self.buffer_num) for name, value in values.items()}
            first = self.bank.add(**rows, mask=mask)
        self._count_left_out(batch, len(streams))
        ids = first + np.cumsum(mask)[streams] - 1
        self._added = first + len(streams)
        slots = ids % self.maxsize
        self._null[slots] = np.logical_or.reduce([_null(value, len(ids)) for value in values.values()])
        for array, default in self._late.values():
            array[slots] = default
        done = np.logical_or(values["terminated"], values["truncated"])
        return slots, *self._episodes.note(self.bank, ids, streams, values["reward"], done)

    def _streams(self, buffer_ids: ArrayLike | None) -> NDArray[np.int64]:
        if buffer_ids is None:
            return np.arange(self.buffer_num)
        streams = np.asarray(buffer_ids)
        fits = streams.ndim == 1 and streams.size and streams.dtype.kind in "iu"
        if not fits or streams.min() < 0 or streams.max() >= self.buffer_num or np.bincount(streams).max() > 1:
            raise ValueError(f"buffer_ids: expected different ones of 0 to {self.buffer_num - 1}, given {buffer_ids}")
        return streams

    def _values(self, batch: Any, n: int) -> dict[str, Any]:
        """The arguments of `bank.add`, with `n` rows, in the order of `buffer_ids`."""
        for name in REQUIRED:
            if name not in batch:
                raise ValueError(
                    f"add: missing {name!r}: expected {', '.join(REQUIRED)}, given {', '.join(batch.get_keys())}"
                )
        if (shape := np.shape(batch.rew)) != (n,):
            hint = (
                "; rewards of several agents cannot be kept: Tianshou would write into them" if len(shape) > 1 else ""
            )
            raise ValueError(f"rew: expected shape ({n},), one an environment, given {shape}{hint}")
        values = {ours: _plain(batch[theirs]) for theirs, ours in STORED.items()}
        values["next_obs"] = _plain(batch.obs_next)
        for name, nodes in self._kept.items():
            given = _entries(batch, name)
            values[name] = {
                entry: _plain(given[entry]) if entry in given else _zeros(node, n) for entry, node in nodes.items()
            }
        return values

    def _laid_out(self, values: dict[str, Any], n: int) -> Bank:
        """A bank with the dtypes and shapes of the first values, if they fit together."""
        spec = {"obs": _spec(values["obs"]), "action": _spec(values["action"]), "reward": np.float64, **self._kept}
        schema = Schema.of(spec)
        schema.arrays(schema.values(values), n)
        for leaf in leaves_of(schema.fields["obs"]) if self._stacked else ():
            if leaf.shape[:1] != (self.stack_num,):
                raise ValueError(
                    f"{leaf.name}: expected stacks of stack_num {self.stack_num}, given shape {leaf.shape}"
                )
        return Bank(self.maxsize, schema, self.buffer_num, self._sampler, self._view, self._seed)

    def _count_left_out(self, batch: Any, n: int) -> None:
        left_out = [name for name in batch.get_keys() if name not in KNOWN]
        for name in OPTIONAL:
            left_out += [f"{name}.{entry}" for entry in _entries(batch, name) if entry not in self._kept.get(name, ())]
        self.left_out.update(dict.fromkeys(left_out, n))

    def reset(self, keep_statistics: bool = False) -> None:
        """Forgets all transitions; with `keep_statistics` the returns and lengths of running episodes go on."""
        self.bank.clear()
        self._episodes.clear(keep_statistics)
        self._null[:] = False
        for array, default in self._late.values():
            array[:] = default

    def set_array_at_key(self, seq: Any, key: str, index: Any = None, default_value: Any = None) -> None:
        """Gives transitions a further field, `key`, as the hooks of a collector do at the end of an episode.

        `seq` [n, ...]: values for `index` ([n]; None: all slots, [maxsize, ...]). Other transitions have
        `default_value`, or NaN. Raises ValueError for a field that is there since `add`.
        """
        if key in KNOWN:
            raise ValueError(f"set_array_at_key: {key!r} is stored when it is added, and not changed afterwards")
        values = np.asarray(seq)
        slots = np.arange(self.maxsize) if index is None else np.asarray(index)
        if len(values) != len(slots):
            raise ValueError(f"set_array_at_key: {key}: expected {len(slots)} values, given {len(values)}")
        if key not in self._late:
            default = np.nan if default_value is None else default_value
            if default_value is None and values.dtype.kind not in "fc":
                raise TypeError(f"set_array_at_key: {key}: {values.dtype} has no NaN; give a default_value")
            self._late[key] = np.full((self.maxsize, *values.shape[1:]), default, values.dtype), default
        self._late[key][0][slots] = values

    # ---- sampling ----

    def sample_indices(self, batch_size: int | None) -> NDArray[np.int64]:
        """`batch_size` drawn indices; all for 0, episode after episode; all in a random order for None; none below.

        All but those whose stack of frames has been overwritten in part.
        """
        if batch_size is None:
            return self._random.permutation(self.sample_indices(0))
        if batch_size > 0:
            return self.sample(batch_size)[1]
        segments = self.bank.segments() if batch_size == 0 else ()
        runs = [segment.ids[0 if segment.whole else self.stack_num - 1 :] for segment in segments]
        return np.concatenate([np.empty(0, np.int64), *runs]) % self.maxsize

    def sample(self, batch_size: int | None) -> tuple[Any, NDArray[np.int64]]:
        """A batch of `batch_size`, as `__getitem__` gives it, and its indices; for None and 0 see `sample_indices`.

        Raises ValueError where the buffer is empty.
        """
        if batch_size is None or batch_size <= 0:
            indices = self.sample_indices(batch_size)
            return self[indices], indices
        drawn = self.bank.sample(batch_size)
        return self._batch(drawn), drawn.indices % self.maxsize

    def __getitem__(self, index: Any) -> Any:
        """A Tianshou `Batch` of obs, act, rew, terminated, truncated, done, obs_next, info, policy; fields [n, ...].

        `index`: an integer (fields without the leading axis), integers [n], a mask [maxsize], or a slice of
        `sample_indices(0)`. Raises IndexError where nothing is at an index.
        """
        at = self.sample_indices(0)[index] if isinstance(index, slice) else np.asarray(index)
        if at.dtype == bool:
            at = np.flatnonzero(at)
        batch = self._batch(self._read(self._ids(np.atleast_1d(at))))
        return batch if at.ndim else batch[0]

    def get(self, index: Any, key: str, default_value: Any = None, stack_num: int | None = None) -> Any:
        """The field `key` of `self[index]`; `default_value` where there is none.

        `stack_num`: frames of a stack (None: the buffer's).
        """
        if stack_num not in (None, self.stack_num):
            raise NotImplementedError(f"get: stack_num is {self.stack_num}, as the buffer was made, given {stack_num}")
        batch = self[index]
        if key not in batch and default_value is None:
            raise KeyError(f"no field {key!r}: expected one of {', '.join(batch.get_keys())}")
        return batch.get(key, default_value)

    def _read(self, ids: Ids) -> Transitions:
        return self.bank.read(ids)

    def _batch(self, read: Transitions) -> Any:
        slots = read.indices % self.maxsize
        fields = {
            "obs": read.obs,
            "act": read.action,
            "rew": read.reward,
            "terminated": read.terminated,
            "truncated": read.truncated,
            "done": read.terminated | read.truncated,
            "obs_next": read.next_obs,
        }
        fields |= {name: read[name] if name in self._kept else Batch() for name in OPTIONAL}
        fields |= {name: array[slots] for name, (array, _) in self._late.items()}
        return Batch(fields)

    # ---- indices ----

    def _ids(self, slots: NDArray[Any]) -> Ids:
        """The ids of the transitions that are in these slots now."""
        if slots.dtype.kind not in "iu" and slots.size:
            raise IndexError(f"index: expected integers, given {slots.dtype}")
        slots = slots.astype(np.int64)
        newest = self._added - 1
        ids: Ids = newest - (newest - slots) % self.maxsize
        wrong = (slots < -self.maxsize) | (slots >= self.maxsize) | (ids < self._oldest)
        if wrong.any():
            raise IndexError(f"index {slots[wrong][0]}: nothing is there; {self!r}")
        return ids

    @property
    def _oldest(self) -> int:
        return self._added - len(self.bank)

    def next(self, index: Any) -> Any:
        """What follows in the episode; the same index at its end, and where nothing follows yet."""
        return self._neighbour(index, forward=True)

    def prev(self, index: Any) -> Any:
        """What comes before in the episode; the same index at its beginning, or where that has been overwritten."""
        return self._neighbour(index, forward=False)

    def _neighbour(self, index: Any, forward: bool) -> Any:
        at = np.asarray(index)
        path, _ = self.bank.walk(self._ids(at.reshape(-1)), 1, forward)
        return (path[:, 1] % self.maxsize).reshape(at.shape)[()]

    def unfinished_index(self) -> NDArray[np.int64]:
        """Where an episode is not done and nothing follows: the newest of each, and the last before a reset."""
        return np.flatnonzero(self._episodes.open)

    def get_buffer_indices(self, start: int, stop: int) -> NDArray[np.int64]:
        """The episode from index `start` to index stop - 1, in order; `start` -1: what is left of it, with a warning.

        Raises ValueError where `start` is not before stop - 1 in one episode, IndexError where nothing is at an index.
        """
        last = int(self._ids(np.array([stop - 1]))[0])
        first = int(self._ids(np.array([start]))[0]) if start >= 0 else self._oldest
        path, lengths = self.bank.walk([last], max(last - first, 1), forward=False)
        ids = path[0, : lengths[0]][::-1]
        if start < 0:
            ids = ids[self.stack_num - 1 :]
            warnings.warn(
                "an episode's first transitions have been overwritten before it ended: what is computed from its "
                "transitions, such as a collector's episode lengths, knows only the rest; use a larger total_size",
                stacklevel=2,
            )
            return ids % self.maxsize
        at = int(np.searchsorted(ids, first))
        if at == len(ids) or ids[at] != first:
            raise ValueError(f"get_buffer_indices: {start} and {stop - 1} are not, in this order, in one episode")
        return ids[at:] % self.maxsize

    @property
    def subbuffer_edges(self) -> NDArray[np.int64]:
        """0 and maxsize: one memory."""
        return np.array([0, self.maxsize])

    # ---- the rest ----

    def __len__(self) -> int:
        return len(self.bank)

    def __getattr__(self, key: str) -> Any:
        """Fields by slot, read-only: obs, act, rew, terminated, truncated, done, info, policy, and those of hooks.

        Stacks are kept, and seen here, as their newest frames. What is at a slot that holds nothing has no meaning.
        Other attributes of Tianshou's buffers do not exist.
        """
        if key.startswith("__") or "_late" not in self.__dict__:  # while it is being copied
            raise AttributeError(key)
        if key in self._late:
            return _readonly(self._late[key][0])
        if key == "done":
            return _readonly(self._episodes.done)
        if key in OPTIONAL and key not in self._kept:
            return Batch()
        if (key in STORED or key in self._kept) and self.bank.schema is not None:
            field = self.bank.field(STORED.get(key, key))
            return Batch(field) if isinstance(field, dict) else field
        raise AttributeError(
            f"{type(self).__name__} has no {key!r}: its memory is not Tianshou's arrays. Fields are read by "
            "`buffer[indices]`, among them obs_next; nothing can be written into them"
        )

    def hasnull(self) -> bool:
        """Whether anything in the buffer is NaN; known since `add`, so that a trainer may ask after every step."""
        live = np.arange(self._oldest, self._added) % self.maxsize
        return bool(self._null.any()) or any(_null(array[live], len(live)).any() for array, _ in self._late.values())

    def save_hdf5(self, path: str, compression: str | None = None) -> None:
        """Writes the buffer, pickled, as one data set to the file `path`; `compression` is h5py's."""
        with h5py.File(path, "w") as file:
            to_hdf5({"buffer": self}, file, compression=compression)

    @classmethod
    def load_hdf5(cls, path: str, device: str | None = None) -> Self:
        """Reads what `save_hdf5` of this class wrote to `path`; a pickle, so only from where you trust.

        `device` is Tianshou's, and changes nothing: arrays are NumPy's.
        """
        with h5py.File(path, "r") as file:
            found: Any = from_hdf5(file)
        buffer = found["buffer"]
        if not isinstance(buffer, cls):
            raise TypeError(f"load_hdf5: expected a {cls.__name__}, found a {type(buffer).__name__}")
        return buffer

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def update(self, buffer: ReplayBuffer) -> NoReturn:
        """Tianshou's managers take over no buffer either."""
        raise NotImplementedError("update: cannot take over another buffer; `add` its transitions, in their order")

    @classmethod
    def from_data(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Tianshou's vector buffers cannot be made of arrays either."""
        raise NotImplementedError("from_data: make a buffer and `add` the transitions, in their order")

    def set_batch(self, batch: Any) -> NoReturn:
        """There is no batch behind this buffer."""
        raise NotImplementedError("set_batch: this buffer keeps a memory of its own; `add` the transitions")

    def dropnull(self) -> NoReturn:
        """Transitions leave in the order in which they came."""
        raise NotImplementedError("dropnull: single transitions cannot be taken out; `reset`, or `add` without NaN")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} of {self.maxsize} transitions, {self.buffer_num} environments)"


class TianshouPrioritizedReplayBuffer(TianshouReplayBuffer):
    """Tianshou's `PrioritizedVectorReplayBuffer`, kept in a `replaybank.ReplayBuffer` with a `Prioritized` sampler.

    `total_size` and `buffer_num` are those of `TianshouReplayBuffer`, `alpha` and `beta` those of `Prioritized`.
    Batches have a `weight` (float32 [n]), and an algorithm calls `update_weight` with its TD errors. `weight_norm`:
    weights are divided by the largest in the batch (True), or by the largest that any transition in the buffer would
    have (False), where Tianshou's depend on the smallest priority that there ever was.

    Other keyword arguments (`kwargs`) are those of `TianshouReplayBuffer`; draws follow `random_seed`. New transitions
    get the largest priority now in the buffer.
    """

    def __init__(
        self, total_size: int, buffer_num: int, alpha: float, beta: float, weight_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(total_size, buffer_num, **kwargs)
        epsilon = float(np.finfo(np.float32).eps)  # Tianshou's
        self._prioritized = Prioritized(alpha, beta, epsilon, "batch" if weight_norm else "buffer")
        self._sampler = self._prioritized
        self._drawn = (np.empty(0, np.int64), np.empty(0, np.int64))  # the indices of the last sample, and their ids

    def sample(self, batch_size: int | None) -> tuple[Any, NDArray[np.int64]]:
        """`batch_size` transitions, as `TianshouReplayBuffer.sample`, drawn by priority, with `weight`."""
        batch, indices = super().sample(batch_size)
        self._drawn = (indices.copy(), self._ids(indices))
        return batch, indices

    def update_weight(self, index: Any, new_weight: Any) -> PriorityReport:
        """Sets the priorities at indices [n] to |new_weight| ([n], an array or tensor) + epsilon.

        The indices of the last sample mean what was drawn then: what has been overwritten since is skipped and counted.
        Others mean what is there now. Raises ValueError, and changes nothing, where a weight is not finite, IndexError
        where nothing is at an index.
        """
        at = np.atleast_1d(index)
        indices, ids = self._drawn
        if not np.array_equal(at, indices):
            ids = self._ids(at)
        return self.bank.update_priorities(ids, np.atleast_1d(to_numpy(new_weight)))

    def get_weight(self, index: Any) -> NDArray[np.float32]:
        """The importance weights (float32 [n]) of the transitions at the indices `index` [n]."""
        return self._weights(self._ids(np.atleast_1d(index)))

    def set_beta(self, beta: float) -> None:
        """How far weights correct for the priorities, from now on: `beta` 0 not at all, 1 fully."""
        self._prioritized.beta = beta

    def _read(self, ids: Ids) -> Transitions:
        read = super()._read(ids)
        read.weights = self._weights(ids)
        return read

    def _weights(self, ids: Ids) -> NDArray[np.float32]:
        return self._prioritized.weights(self._prioritized.probability_of(ids))

    def _batch(self, read: Transitions) -> Any:
        batch = super()._batch(read)
        batch.weight = read.weights
        return batch


def _entries(batch: Any, name: str) -> dict[str, Any]:
    """The entries of `info` or `policy`; none where it is missing or a plain value."""
    given = batch.get(name)
    return dict(given.items()) if isinstance(given, Batch) else {}


def _plain(value: Any) -> Any:
    """Arrays, nested by name as a Tianshou batch is."""
    if isinstance(value, Batch):
        return {name: _plain(child) for name, child in value.items()}
    return to_numpy(value)


def _spec(value: Any) -> Any:
    """What `Schema.of` takes, for arrays with a leading axis."""
    if isinstance(value, dict):
        return {name: _spec(child) for name, child in value.items()}
    return (value.dtype, value.shape[1:])


def _zeros(node: Node, n: int) -> Any:
    if isinstance(node, Leaf):
        return np.zeros((n, *node.shape), node.dtype)
    return {name: _zeros(child, n) for name, child in children_of(node).items()}


def _spread(name: str, value: Any, streams: NDArray[np.int64], total: int) -> Any:
    """`value`, one row for each of `streams`, as one row for each of all streams; zeros elsewhere."""
    if isinstance(value, dict):
        return {key: _spread(f"{name}[{key!r}]", child, streams, total) for key, child in value.items()}
    if value.shape[:1] != streams.shape:
        raise ValueError(f"{name}: expected a leading axis of {len(streams)}, given shape {value.shape}")
    spread = np.zeros((total, *value.shape[1:]), value.dtype)
    spread[streams] = value
    return spread


def _readonly(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _null(value: Any, n: int) -> NDArray[np.bool_]:
    """Which of `n` rows hold a NaN."""
    if isinstance(value, dict):
        found: NDArray[np.bool_] = np.any([_null(child, n) for child in value.values()], axis=0)
    elif value.dtype.kind in "fc":
        found = np.isnan(value).reshape(n, -1).any(axis=1)
    else:
        found = np.zeros(n, bool)
    return found
