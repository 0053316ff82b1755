"""Environments as an agent meets them: with its exploration, its finished episodes, and their state as plain values."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import replaybank as rb
from replaybank.study import SettingError

Array = npt.NDArray[Any]
MINATAR = "MinAtar"


def make_env(env_id: str) -> gym.Env[Array, np.int64]:
    """The Gymnasium environment; SettingError unless its actions are Discrete and its observations a Box."""
    try:
        if env_id.startswith(MINATAR + "/"):
            _register_minatar()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date")  # an older version is asked for on purpose
            env = gym.make(env_id, disable_env_checker=True)
    except (gym.error.Error, ImportError) as error:
        raise SettingError(f"--env: Gymnasium cannot make {env_id!r}: {error}") from error
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise SettingError(f"--env: expected an environment with Discrete actions, {env_id} has {env.action_space}")
    if not isinstance(env.observation_space, gym.spaces.Box):
        raise SettingError(
            f"--env: expected an environment with Box observations, {env_id} has {env.observation_space}"
        )
    return env


def _register_minatar() -> None:
    """MinAtar's games are in Gymnasium's registry only after this."""
    if any(name.startswith(MINATAR + "/") for name in gym.registry) or find_spec("minatar") is None:
        return
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns that it cannot draw where seaborn is missing
    try:
        from minatar.gym import register_envs
    finally:
        logging.disable(before)
    register_envs()


class Environment:
    """One seed's environment with its exploration and its finished episodes.

    The random numbers of exploration are drawn ahead, two per step, so that step t has the same ones with every memory
    and however many steps there are. `episodes` holds of each that has ended its last `step` (of this run, counted
    from 1), its undiscounted `return` and its `length`.

    Observations keep their shape, and their dtype unless they are floats: those become float32.
    """

    def __init__(self, env_id: str, seed: int, steps: int) -> None:
        self.env = make_env(env_id)
        self.seed = seed
        space = self.env.action_space
        assert isinstance(space, gym.spaces.Discrete)
        self.actions, self.first_action = int(space.n), int(space.start)
        self.dice = np.random.default_rng([seed, 1]).random((steps, 2))
        self.obs = _as_kept(self.env.reset(seed=seed)[0])
        self.episodes: dict[str, list[float]] = {"step": [], "return": [], "length": []}
        self.steps = self.length = 0
        self.episode_return = 0.0

    def step(self, greedy_action: int, epsilon: float, buffer: rb.ReplayBuffer) -> None:
        """Take the greedy action, or with probability epsilon a random one, and remember what came of it."""
        explore, which = self.dice[self.steps]
        action = int(which * self.actions) if explore < epsilon else greedy_action
        seen, reward, terminated, truncated, _ = self.env.step(np.int64(action + self.first_action))
        next_obs = _as_kept(seen)
        buffer.add(self.obs, action, float(reward), next_obs, terminated, truncated)
        self.obs = next_obs
        self.steps += 1
        self.length += 1
        self.episode_return += float(reward)
        if terminated or truncated:
            self.episodes["step"].append(self.steps)
            self.episodes["return"].append(self.episode_return)
            self.episodes["length"].append(self.length)
            self.obs, self.length, self.episode_return = _as_kept(self.env.reset()[0]), 0, 0.0

    @property
    def can_be_kept(self) -> bool:
        """Whether `state` can tell all of the environment: so far that of MinAtar's games alone."""
        return self.env.spec is not None and self.env.spec.namespace == MINATAR

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on, as plain values that JSON can hold."""
        names = ("seed", "steps", "length", "episode_return", "episodes")
        return {"game": game_state(self.env), **{name: getattr(self, name) for name in names}}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of an environment that was made with the same arguments."""
        game_load(self.env, state["game"])
        self.obs = self.env.unwrapped.game.state()  # type: ignore[attr-defined]
        for name in ("steps", "length", "episode_return", "episodes"):
            setattr(self, name, state[name])


def _as_kept(obs: object) -> Array:
    array = np.asarray(obs)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


# ---- MinAtar -------------------------------------------------------------------------

_CONSTANT = ("random", "channels", "action_map")


def game_state(env: gym.Env[Array, np.int64]) -> dict[str, Any]:
    """The variables of a MinAtar game, its last action (which may stick) and its random numbers, as plain values."""
    game = env.unwrapped.game  # type: ignore[attr-defined]
    kind, keys, *rest = game.random.get_state()
    variables = {name: _plain(value) for name, value in vars(game.env).items() if name not in _CONSTANT}
    return {"random": [kind, keys.tolist(), *rest], "last_action": int(game.last_action), "variables": variables}


def game_load(env: gym.Env[Array, np.int64], state: dict[str, Any]) -> None:
    """Put a game of the same kind, already reset with a seed, into that state."""
    game = env.unwrapped.game  # type: ignore[attr-defined]
    kind, keys, *rest = state["random"]
    game.random.set_state((kind, np.array(keys, np.uint32), *rest))
    game.last_action = state["last_action"]
    for name, value in state["variables"].items():
        now = getattr(game.env, name)
        setattr(game.env, name, np.array(value, now.dtype) if isinstance(now, np.ndarray) else value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value
