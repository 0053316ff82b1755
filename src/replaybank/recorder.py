"""Steps a Gymnasium environment, and stores what really happened."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaybank.buffer import ReplayBuffer

# Gymnasium's own names of the modes: the values of `gymnasium.vector.AutoresetMode`.
NEXT_STEP, SAME_STEP, DISABLED = "NextStep", "SameStep", "Disabled"
# Where an environment that is reset in the same step leaves its final observation; the second name is Gymnasium 0.29's.
FINAL_OBS = ("final_obs", "final_observation")
RECENT = 100  # episodes that `stats` averages over
REUSED = (
    "the final observation of environment {} is, byte for byte, that of the reset after it. Where the environment "
    "writes all its observations into one array, the final one is lost: let it give copies, gymnasium.wrappers."
    "TransformObservation(env, copy.deepcopy, env.observation_space), or use AutoresetMode.NEXT_STEP"
)


class Episode(NamedTuple):
    """An episode that ended: in which `env` (0 … num_envs - 1), its summed reward, its `length` in steps.

    `episodic_return` is undiscounted, of rewards as the environment gave them: a float; of vectors an array.
    """

    env: int
    episodic_return: Any
    length: int


class Recorder:
    """Steps an environment or vector environment and adds every true transition to `buffer`, and nothing else.

    In place of the environment in a loop; it gives back what the environment gives::

        env = gym.make_vec("CartPole-v1", num_envs=8)
        buffer = rb.ReplayBuffer(100_000, rb.schema_of(env), streams=8)
        recorder = rb.Recorder(env, buffer)
        obs, info = recorder.reset(seed=1)
        for step in range(1000):
            obs, reward, terminated, truncated, info = recorder.step(policy(obs))
            for episode in recorder.ended:
                print(episode.env, episode.episodic_return, episode.length)

    What happens after an end depends on the environment's autoreset mode (gymnasium.vector.AutoresetMode):

    - NEXT_STEP: the next step of that environment is its reset (action ignored, reward 0) and is not stored;
    - SAME_STEP: the step returns the observation of the reset; `next_obs` is the one in `infos["final_obs"]`;
    - DISABLED, and a single environment: the caller resets, of a vector environment some with
      `recorder.reset(options={"reset_mask": ended})`; stepping on without it is an error.

    The mode is what `env.unwrapped.autoreset_mode` says, else `env.metadata["autoreset_mode"]`, else the argument (the
    enum or its value). A single environment is DISABLED, or NEXT_STEP with `gymnasium.wrappers.Autoreset`.

    Raises ValueError where the mode cannot be known or the argument contradicts it, and where the buffer has another
    number of streams than there are environments.
    """

    def __init__(self, env: Any, buffer: ReplayBuffer, autoreset_mode: Any = None) -> None:
        if not (callable(getattr(env, "step", None)) and callable(getattr(env, "reset", None))):
            raise TypeError(f"env: expected a gymnasium.Env or gymnasium.vector.VectorEnv, given {env!r}")
        num_envs: int | None = getattr(env, "num_envs", None)
        self._shape = () if num_envs is None else (num_envs,)  # of rewards and flags
        self._n = num_envs or 1
        if buffer.streams != self._n:
            raise ValueError(f"buffer: expected streams={self._n}, one an environment, given streams={buffer.streams}")
        self.env = env
        self.buffer = buffer
        self.autoreset_mode = _mode_of(env, num_envs is not None, autoreset_mode)
        self._keeps_autoreset = self.autoreset_mode == NEXT_STEP and _keeps_autoreset(env)
        self._casts = _same_obs_space(env)
        self._obs: Any = None  # a copy of the current observation; None: unknown, a reset is needed
        self._latest: Any = None  # the same as the environment gave it
        self._over = np.zeros(self._n, bool)  # whose last step was the end of an episode
        self._returns: NDArray[np.float64] = np.zeros(self._n)
        self._lengths = np.zeros(self._n, np.int64)
        self._steps = self._reset_steps = self._episodes = 0
        self._recent: deque[Episode] = deque(maxlen=RECENT)
        self.ended: list[Episode] = []

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Resets all environments, or those of `options["reset_mask"]` (bool [num_envs]); gives what env.reset gives.

        `seed` and `options` are the environment's.

        What is stored next begins a new segment, whether the episodes had ended or not. Raises ValueError where the
        mask is not one, or leaves out an environment that was never reset.
        """
        mask = self._reset_mask(options)
        before, self._obs = self._obs, None  # should anything fail from here on, only a full reset helps
        obs, info = self.env.reset(seed=seed, options=None if options is None else dict(options))
        after = _copied(obs)
        for i in np.flatnonzero(~mask).tolist():
            if not _same(_item(before, i), _item(after, i)):
                raise ValueError(
                    f"reset: environment {i} is not in reset_mask, but its observation has changed: {self.env} does "
                    "not keep to reset_mask. Reset all environments"
                )
        self.buffer.end(mask)
        if not self._keeps_autoreset:
            self._over = self._over & ~mask
        self._forget(mask)
        self.ended = []
        self._obs, self._latest = after, obs
        return obs, info

    def step(self, action: Any, **extras: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Steps the environments with `action` and adds what happened; gives what env.step gives.

        `extras`: further fields of the buffer, [num_envs, ...]; of a single environment without that axis.

        Raises ValueError, before anything is stepped or stored, where an environment has ended and must be reset first.
        Where the step fails, or what it gives cannot be stored, the error says so and the environments must be reset.
        """
        self._require_ready()
        taken = _copied(action)  # environments clip and scale actions in place
        before, self._obs = self._obs, None
        obs, reward, terminated, truncated, info = self.env.step(action)
        ended = self._flags("terminated", terminated) | self._flags("truncated", truncated)
        real = ~self._over if self.autoreset_mode == NEXT_STEP else np.ones(self._n, bool)
        self._over = ended
        after = _copied(obs)
        next_obs = after
        if self.autoreset_mode == SAME_STEP and ended.any():
            next_obs = _copied(after)
            for i in np.flatnonzero(ended).tolist():
                final = _final_obs(info, i)
                _put(f"final_obs of environment {i}", next_obs, i, final, self._casts)
                if _seems_reused(final, _item(next_obs, i), _item(after, i)):
                    warnings.warn(REUSED.format(i), RuntimeWarning, stacklevel=2)

        if real.all():
            self.buffer.add(before, taken, reward, next_obs, terminated, truncated, **extras)
        elif real.any():
            self.buffer.add(before, taken, reward, next_obs, terminated, truncated, mask=real, **extras)
        self._count(real, reward, ended)
        self._obs, self._latest = after, obs
        return obs, reward, terminated, truncated, info

    def run(self, policy: Callable[[Any], Any], steps: int) -> list[Episode]:
        """Steps `steps` times with `policy(obs) -> action`; gives the episodes that ended.

        Before a step it resets what must be: everything at the start, and what has ended in DISABLED mode.
        """
        episodes: list[Episode] = []
        for _ in range(steps):
            if self._obs is None:
                self.reset()
            elif self.autoreset_mode == DISABLED and self._over.any():
                self.reset(options={"reset_mask": self._over.copy()} if self._shape else None)
            self.step(policy(self._latest))
            episodes += self.ended
        return episodes

    def stats(self) -> dict[str, float]:
        """Counts: steps (stored), reset_steps (not stored), episodes; mean_return, mean_length of the last 100.

        The means are NaN before the first episode has ended. `recorder.ended` holds the episodes of the last step.
        """
        recent = self._recent
        return {
            "steps": self._steps,
            "reset_steps": self._reset_steps,
            "episodes": self._episodes,
            "mean_return": _plain(np.mean([one.episodic_return for one in recent], axis=0)) if recent else np.nan,
            "mean_length": float(np.mean([episode.length for episode in recent])) if recent else np.nan,
        }

    # ---- what must be so ----

    def _reset_mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        """Which environments a reset is for."""
        if not self._shape or options is None or "reset_mask" not in options:
            return np.ones(self._n, bool)
        mask = np.asarray(options["reset_mask"])
        if mask.dtype != bool or mask.shape != self._shape:
            raise ValueError(f"reset_mask: expected bool of shape {self._shape}, given {mask.dtype} of {mask.shape}")
        if self._obs is None and not mask.all():
            raise ValueError(
                f"reset_mask: environment {np.argmin(mask)} is left out, but the first reset, and the one after a step "
                "that failed, must be of all environments: recorder.reset()"
            )
        return mask

    def _require_ready(self) -> None:
        if self._obs is None:
            raise ValueError("step: reset first, recorder.reset(): there was no reset yet, or the last step failed")
        if self.autoreset_mode == DISABLED and self._over.any():
            if not self._shape:
                raise ValueError("step: the episode has ended; reset first: recorder.reset()")
            which = ", ".join(str(i) for i in np.flatnonzero(self._over))
            raise ValueError(
                f"step: the episode of environment {which} has ended; reset first: "
                'recorder.reset(options={"reset_mask": terminated | truncated})'
            )

    def _flags(self, name: str, value: Any) -> NDArray[np.bool_]:
        flags = np.asarray(value).astype(bool)
        if flags.shape != self._shape:
            kind = f"a vector environment of {self._n}" if self._shape else "a single environment (no num_envs)"
            raise ValueError(f"{name}: expected shape {self._shape} of {kind}, given {flags.shape}")
        return flags.reshape(self._n)

    # ---- what a loop logs ----

    def _forget(self, mask: NDArray[np.bool_]) -> None:
        """Episodes begin anew in the environments of `mask`."""
        self._lengths[mask] = 0
        self._returns[mask] = 0.0

    def _count(self, real: NDArray[np.bool_], reward: Any, ended: NDArray[np.bool_]) -> None:
        rewards = np.asarray(reward, np.float64)
        rewards = rewards.reshape(self._n, *rewards.shape[len(self._shape) :])
        if self._returns.shape != rewards.shape:  # rewards are vectors
            self._returns = np.zeros_like(rewards)
        self._returns[real] += rewards[real]
        self._lengths[real] += 1
        self._steps += int(real.sum())
        self._reset_steps += int((~real).sum())
        self.ended = []
        if ended.any():
            self.ended = [
                Episode(i, _plain(self._returns[i].copy()), int(self._lengths[i]))
                for i in np.flatnonzero(ended).tolist()
            ]
            self._episodes += len(self.ended)
            self._recent += self.ended
            self._forget(ended)


# ---- modes ----


def _mode_of(env: Any, vector: bool, given: Any) -> str:
    """What the environment says of its autoreset mode, else what the caller says."""
    if vector:
        says = getattr(env.unwrapped, "autoreset_mode", None)
        says = (env.metadata or {}).get("autoreset_mode") if says is None else says
    else:  # its metadata may be a vector environment's: up to Gymnasium 1.3 they were shared
        says = NEXT_STEP if _has_autoreset(env) else DISABLED
    known = None if says is None else _mode(says, f"the autoreset mode of {env}")
    wanted = None if given is None else _mode(given, "autoreset_mode")
    if known is None and wanted is None:
        raise ValueError(
            f"autoreset_mode: {env} does not say what it does after an episode (there is no "
            f"env.unwrapped.autoreset_mode and no env.metadata['autoreset_mode']): give {NEXT_STEP!r}, {SAME_STEP!r} "
            f"or {DISABLED!r}"
        )
    if known is not None and wanted is not None and known != wanted:
        raise ValueError(f"autoreset_mode: given {wanted!r}, but {env} is {known!r}; leave the argument out")
    return known or wanted or ""


def _mode(value: Any, name: str) -> str:
    """Gymnasium's value of a mode that is given as the enum, its name or its value."""
    plain = str(getattr(value, "value", value)).replace("_", "").lower()
    for mode in (NEXT_STEP, SAME_STEP, DISABLED):
        if plain == mode.lower():
            return mode
    raise ValueError(f"{name}: expected {NEXT_STEP!r}, {SAME_STEP!r} or {DISABLED!r}, given {value!r}")


def _has_autoreset(env: Any) -> bool:
    from gymnasium import Wrapper
    from gymnasium.wrappers import Autoreset

    while isinstance(env, Wrapper):
        if isinstance(env, Autoreset):
            return True
        env = env.env
    return False


def _keeps_autoreset(env: Any) -> bool:
    """Whether an environment that ended is reset in its next step although the caller has reset it in between.

    So does an AsyncVectorEnv without shared memory, as of Gymnasium 1.4.0.
    """
    from gymnasium.vector import AsyncVectorEnv

    return isinstance(env.unwrapped, AsyncVectorEnv) and not env.unwrapped.shared_memory


# ---- nested observations ----


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _leaves(value[name])
    elif isinstance(value, tuple):
        for child in value:
            yield from _leaves(child)
    else:
        yield value


def _copied(value: Any) -> Any:
    """A copy as NumPy arrays, nested as `value` is: environments may reuse theirs."""
    if isinstance(value, Mapping):
        return {name: _copied(child) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(_copied(child) for child in value)
    return np.asarray(value).copy()


def _item(value: Any, i: int) -> Any:
    """What is environment i's."""
    if isinstance(value, Mapping):
        return {name: _item(child, i) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(_item(child, i) for child in value)
    return value[i]


def _same(one: Any, other: Any) -> bool:
    """Whether two nested observations of NumPy arrays are equal byte for byte."""
    return [leaf.tobytes() for leaf in _leaves(one)] == [leaf.tobytes() for leaf in _leaves(other)]


# ---- final observations ----


def _same_obs_space(env: Any) -> bool:
    """Whether no wrapper changes the observation space of the vector environment."""
    name = "single_observation_space"
    return bool(getattr(env, name, None) == getattr(env.unwrapped, name, None))


def _final_obs(infos: Any, i: int) -> Any:
    """The final observation of environment i, from infos in a dict or in a list (`DictInfoToList`)."""
    own = infos[i] if isinstance(infos, list | tuple) else _infos_of(infos, i)
    for name in FINAL_OBS:
        if own.get(name) is not None:
            return own[name]
    raise ValueError(
        f"infos: expected {FINAL_OBS[0]} of environment {i}, which ended in SAME_STEP mode, given "
        f"{', '.join(own if own is infos else infos) or 'nothing'}: does a wrapper drop it, or is the mode another one?"
    )


def _infos_of(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The final observation of environment i by its name; a mask beside it says who has one, where there is a mask."""
    return {name: _item(infos[name], i) for name in FINAL_OBS if name in infos and infos.get(f"_{name}", {i: True})[i]}


def _put(name: str, target: Any, i: int, final: Any, casts: bool) -> None:
    """Puts a final observation in place i of `target`, the observations that the step returned.

    Wrappers change the observations that a step returns, and may forget those in infos. So another nesting, shape or
    kind of dtype is an error. So is another width of it, but where no wrapper changes the space (`casts`): there a base
    environment does not keep to its space, and the vector environment casts what it gives.
    """
    forgotten = "does a wrapper change the observations, but not those in infos? Wrap each environment instead"
    if isinstance(target, Mapping):
        if not isinstance(final, Mapping) or final.keys() != target.keys():
            given = ", ".join(final) if isinstance(final, Mapping) else type(final).__name__
            raise ValueError(f"{name}: expected {', '.join(target)}, given {given}; {forgotten}")
        for key, child in target.items():
            _put(f'{name}["{key}"]', child, i, final[key], casts)
    elif isinstance(target, tuple):
        if not isinstance(final, tuple | list) or len(final) != len(target):
            raise ValueError(f"{name}: expected a tuple of {len(target)}, given {type(final).__name__}; {forgotten}")
        for key, (child, part) in enumerate(zip(target, final, strict=True)):
            _put(f"{name}[{key}]", child, i, part, casts)
    else:
        array = np.asarray(final)
        alike = array.dtype == target.dtype or (casts and array.dtype.kind == target.dtype.kind)
        if array.shape != target.shape[1:] or not alike:
            raise ValueError(
                f"{name}: expected {target.dtype} of shape {target.shape[1:]}, as the step returned, "
                f"given {array.dtype} of shape {array.shape}; {forgotten}"
            )
        target[i] = array


def _seems_reused(given: Any, final: Any, reset: Any) -> bool:
    """Whether all arrays in a final observation, as `given`, equal those of the reset (numbers cannot be reused)."""
    pairs = [
        (one.tobytes(), other.tobytes())
        for array, one, other in zip(_leaves(given), _leaves(final), _leaves(reset), strict=True)
        if isinstance(array, np.ndarray) and array.size
    ]
    return bool(pairs) and all(one == other for one, other in pairs)


def _plain(value: NDArray[np.float64]) -> Any:
    """One number as a float, which prints as one and goes into JSON."""
    return float(value) if value.ndim == 0 else value
