"""What a recorder stores is what each environment itself says has happened, in every autoreset mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import vector as wrappers

import replaybank as rb
from recorder_envs import LENGTHS, LIMIT, Bandit, Older, Steps, Truth, one, three, truth_of
from replaybank.recorder import Recorder

MODES = ("NextStep", "SameStep", "Disabled")
VECTORS = ("sync", "async", "async, no shared memory")
KINDS = ("box", "dict", "tuple")


def flat(value: Any) -> list[tuple[Any, ...]]:
    """The leaves of a nested value as (dtype kind, shape, values): what must come back."""
    if isinstance(value, Mapping):
        return [leaf for name in sorted(value) for leaf in flat(value[name])]
    if isinstance(value, tuple):
        return [leaf for child in value for leaf in flat(child)]
    array = np.asarray(value)
    return [(array.dtype.kind, array.shape, array.tolist())]


def item(value: Any, i: int) -> Any:
    if isinstance(value, Mapping):
        return {name: item(child, i) for name, child in value.items()}
    return tuple(item(child, i) for child in value) if isinstance(value, tuple) else value[i]


def stored(buffer: rb.ReplayBuffer) -> list[list[tuple[Any, ...]]]:
    """The live transitions by segment of each stream, flattened to compare."""
    batch = buffer.read(np.arange(buffer.stats()["added"] - len(buffer), buffer.stats()["added"]))
    fields = (batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminated, batch.truncated)
    return [flat(tuple(item(field, i) for field in fields)) for i in range(len(batch))]


def index_of(transition: list[tuple[Any, ...]], kind: str) -> int:
    """The environment that a stored transition says it is from: where its observation encodes it."""
    place = {"box": 0, "dict": 2, "tuple": 0}[kind]
    return int(transition[place][2][0])


def by_env(buffer: rb.ReplayBuffer, kind: str) -> list[list[Any]]:
    streams: list[list[Any]] = [[], [], []]
    for transition in stored(buffer):
        streams[index_of(transition, kind)].append(transition)
    return streams


def told(env: Any) -> list[list[Any]]:
    return [[flat(transition) for transition in truth] for truth in truth_of(env)]


def actions_of(env: Any, seed: int = 0) -> Iterator[Any]:
    env.action_space.seed(seed)
    while True:
        yield env.action_space.sample()


def drive(recorder: Recorder, calls: int, seed: int = 0) -> None:
    """Steps with random actions; in DISABLED mode resets what has ended, each with its own call."""
    actions = actions_of(recorder.env, seed)
    recorder.reset(seed=seed)
    for _ in range(calls):
        *_, terminated, truncated, _ = recorder.step(next(actions))
        ended = terminated | truncated
        if recorder.autoreset_mode == "Disabled":
            for i in np.flatnonzero(ended):
                recorder.reset(options={"reset_mask": np.arange(len(ended)) == i})


def recorded(env: Any, **settings: Any) -> Recorder:
    return Recorder(env, rb.ReplayBuffer(1000, streams=env.num_envs, **settings))


# ---- everything that happened, and nothing else ----


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vector", VECTORS)
def test_the_buffer_holds_exactly_what_happened(vector: str, kind: str, mode: str) -> None:
    with closing(three(vector, kind, mode)) as env:
        recorder = recorded(env)
        drive(recorder, calls=25)
        truth = told(env)
        assert by_env(recorder.buffer, kind) == truth
    assert recorder.autoreset_mode == mode
    # No end is missing, of either sort, and the truth is what the encoding says: every episode, step by step.
    for index, transitions in enumerate(truth):
        lengths = [min(LENGTHS[index][e % len(LENGTHS[index])], LIMIT) for e in range(25)]
        steps = [(episode, at) for episode, length in enumerate(lengths) for at in range(length)]
        found = [(transition[0 if kind != "dict" else 2][2][1:]) for transition in transitions]
        assert found == [list(step) for step in steps[: len(found)]]
        ends = [(transition[-2][2], transition[-1][2]) for transition in transitions]
        naturals = [LENGTHS[index][e % len(LENGTHS[index])] for e, _ in steps]
        assert (
            ends
            == [(at + 1 == length, at + 1 == LIMIT) for (_, at), length in zip(steps, naturals, strict=True)][
                : len(ends)
            ]
        )
    # Steps that only reset: one after each end but the last call's, in NEXT_STEP mode alone.
    stats = recorder.stats()
    assert stats["steps"] == sum(len(transitions) for transitions in truth)
    assert stats["steps"] + stats["reset_steps"] == 25 * 3
    assert (stats["reset_steps"] > 0) == (mode == "NextStep")


@pytest.mark.parametrize(("vector", "mode"), [*(("sync", mode) for mode in MODES), ("async", "NextStep")])
@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_environments_may_reuse_their_arrays(vector: str, mode: str, copies: bool, kind: str) -> None:
    reuse = mode != "SameStep"  # there the final observation is lost before anyone sees it: next test
    with closing(three(vector, kind, mode, reuse)) as env:
        env.copy = copies  # False: the vector environment gives the same array at every step
        recorder = recorded(env)
        drive(recorder, calls=25)
        assert by_env(recorder.buffer, kind) == told(env)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_final_observation_that_the_reset_has_overwritten_is_reported(vector: str, kind: str) -> None:
    with closing(three(vector, kind, "SameStep", reuse=True)) as env:
        recorder = recorded(env)
        recorder.reset()
        with pytest.raises(RuntimeWarning, match=r"final observation of environment 2 is.*one array"):
            recorder.step(env.action_space.sample())  # environment 2 ends after one step
        assert len(recorder.buffer) == 0


def test_a_part_of_the_observation_may_stay_the_same() -> None:
    class Goal(Steps):
        def _obs(self) -> Any:
            return {**super()._obs(), "eyes": {"left": np.zeros((2, 2), np.uint8)}}

    env = SyncVectorEnv([lambda: Truth(Goal("dict", 0, (3,)))], autoreset_mode="SameStep")
    recorder = recorded(env)
    drive(recorder, calls=7)
    assert stored(recorder.buffer) == told(env)[0]


@pytest.mark.parametrize("mode", MODES)
def test_windows_end_with_their_episode(mode: str) -> None:
    n, gamma = 3, 0.5
    with closing(three("sync", "box", mode)) as env:
        recorder = recorded(env, view=rb.NStep(n, gamma))
        drive(recorder, calls=25)
        truth = told(env)
        streams = by_env(recorder.buffer, "box")
    for transitions, windows in zip(truth, streams, strict=True):
        assert len(windows) == len(transitions) > 10
        for start, window in enumerate(windows):
            end, total = start, transitions[start][2][2]
            while end + 1 < min(start + n, len(transitions)) and not any(leaf[2] for leaf in transitions[end][-2:]):
                end += 1
                total += gamma ** (end - start) * transitions[end][2][2]
            assert window == [*transitions[start][:2], ("f", (), total), *transitions[end][3:]]
    lengths = {len(segment.ids) for segment in recorder.buffer.segments() if segment.ended}
    assert lengths == {1, 2, 3, 4}


# ---- resets by hand ----


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vector", VECTORS)
def test_resets_by_hand_lose_and_invent_nothing(vector: str, mode: str) -> None:
    rng = np.random.default_rng(5)
    with closing(three(vector, "box", mode)) as env:
        recorder = recorded(env)
        recorder.reset()
        ended = np.zeros(3, bool)
        for call in range(60):
            mask = rng.random(3) < 0.3  # of running episodes, and of ended ones before they reset themselves
            if mode == "Disabled":
                mask |= ended
            if call % 7 == 6:
                recorder.reset()
            elif mask.any():
                options = {"reset_mask": mask}
                recorder.reset(options=options)
                assert list(options) == ["reset_mask"], "the caller's options were changed"
            *_, terminated, truncated, _ = recorder.step(env.action_space.sample())
            ended = terminated | truncated
        truth = told(env)
        assert by_env(recorder.buffer, "box") == truth
    segments = [len(segment.ids) for segment in recorder.buffer.segments()]
    episodes = [{transition[0][2][1] for transition in transitions} for transitions in truth]
    assert len(segments) == sum(len(of_one) for of_one in episodes)


def test_after_a_reset_by_hand_a_new_segment_begins_whatever_it_looks_like() -> None:
    env = SyncVectorEnv([Bandit, Bandit])
    recorder = recorded(env, view=rb.NStep(5, 1.0))
    recorder.reset()
    recorder.run(lambda obs: np.zeros((2, 2), np.float32), 3)
    recorder.reset(options={"reset_mask": np.array([False, True])})
    recorder.run(lambda obs: np.zeros((2, 2), np.float32), 2)
    assert recorder.buffer.read(np.arange(10)).reward.reshape(5, 2).tolist() == [[5, 3], [4, 2], [3, 1], [2, 2], [1, 1]]
    # ... and so does another recorder of the same buffer.
    recorder = Recorder(env, recorder.buffer)
    recorder.run(lambda obs: np.zeros((2, 2), np.float32), 1)
    assert recorder.buffer.read(np.arange(12)).reward.reshape(6, 2)[-2:].tolist() == [[1, 1], [1, 1]]


def test_an_environment_that_does_not_keep_to_the_mask_is_found_out() -> None:
    with closing(gymnasium.make_vec("CartPole-v1", 3, "vector_entry_point")) as env:
        recorder = recorded(env)
        recorder.reset(seed=0)
        with pytest.raises(ValueError, match="environment 0 is not in reset_mask, but its observation has changed"):
            recorder.reset(options={"reset_mask": np.array([False, True, True])})
        with pytest.raises(ValueError, match="reset first"):
            recorder.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (np.array([1, 0, 0]), r"expected bool of shape \(3,\), given int64 of \(3,\)"),
        (np.array([True, False]), r"expected bool of shape \(3,\), given bool of \(2,\)"),
        (np.array([True, False, True]), "environment 1 is left out, but the first reset"),
    ],
)
def test_reset_masks_that_cannot_be(mask: Any, error: str) -> None:
    env = three("sync", "box", "Disabled")
    recorder = recorded(env)
    with pytest.raises(ValueError, match=error):
        recorder.reset(options={"reset_mask": mask})
    assert [sub.get_wrapper_attr("episode") for sub in env.envs] == [-1, -1, -1], "an environment was reset"


# ---- what must be reset first ----


@pytest.mark.parametrize("vector", VECTORS)
def test_stepping_on_after_an_end_is_an_error_before_anything_happens(vector: str) -> None:
    with closing(three(vector, "box", "Disabled")) as env:
        recorder = recorded(env)
        recorder.reset()
        recorder.step(env.action_space.sample())  # environment 2 has episodes of one step
        for _ in range(2):
            with pytest.raises(ValueError, match=r"environment 2 has ended; reset first: .*reset_mask"):
                recorder.step(env.action_space.sample())
        recorder.reset(options={"reset_mask": np.array([True, False, False])})
        with pytest.raises(ValueError, match="environment 2 has ended"):
            recorder.step(env.action_space.sample())
        recorder.reset(options={"reset_mask": np.array([False, False, True])})
        recorder.step(env.action_space.sample())
        assert by_env(recorder.buffer, "box") == told(env)
        assert recorder.stats()["steps"] == 6


def test_a_single_environment_must_be_reset_first() -> None:
    env = one("box", 2)
    recorder = Recorder(env, rb.ReplayBuffer(100))
    with pytest.raises(ValueError, match=r"reset first, recorder\.reset\(\): there was no reset yet"):
        recorder.step(3)
    recorder.reset()
    recorder.step(3)
    with pytest.raises(ValueError, match=r"the episode has ended; reset first: recorder\.reset\(\)"):
        recorder.step(3)
    recorder.reset()
    recorder.step(4)
    assert stored(recorder.buffer) == [flat(transition) for transition in env.truth]
    assert len(env.truth) == 2


def test_after_a_step_that_failed_only_a_reset_helps() -> None:
    class Broken(Steps):
        def step(self, action: Any) -> Any:
            obs, reward, *ends = super().step(action)
            return obs, np.nan if self.at == 3 else reward, *ends

    recorder = Recorder(Broken("box", 0, (9,)), rb.ReplayBuffer(100, view=rb.NStep(9, 1.0)))
    recorder.reset()
    recorder.step(3)
    recorder.step(3)
    with pytest.raises(ValueError, match="reward: expected finite numbers"):
        recorder.step(3)
    assert len(recorder.buffer) == 2
    with pytest.raises(ValueError, match="reset first"):
        recorder.step(3)
    recorder.reset()
    recorder.step(3)
    assert [len(segment.ids) for segment in recorder.buffer.segments()] == [2, 1]


def test_an_end_that_could_not_be_stored_is_known_all_the_same() -> None:
    """An AsyncVectorEnv without shared memory resets an environment that ended once more, after a reset by hand too."""
    with closing(three("async, no shared memory", "box", "NextStep")) as env:
        recorder = recorded(env)
        recorder.reset()
        recorder.step(np.full(3, 3))
        recorder.reset()
        with pytest.raises(ValueError, match="unknown field 'note'"):
            recorder.step(np.full(3, 3), note=np.ones(3))
        recorder.reset()
        for _ in range(9):
            recorder.step(np.full(3, 3))
        truth = [
            transitions[:1] + transitions[1 + lost :] for transitions, lost in zip(told(env), (1, 1, 0), strict=True)
        ]
        assert by_env(recorder.buffer, "box") == truth


# ---- single environments ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reuse", [False, True])
def test_single_environments(kind: str, reuse: bool) -> None:
    env = one(kind, 0, reuse)
    actions = actions_of(env)
    recorder = Recorder(env, rb.ReplayBuffer(100))
    episodes = recorder.run(lambda obs: next(actions), 20)
    assert stored(recorder.buffer) == [flat(transition) for transition in env.truth]
    assert len(env.truth) == 20
    assert [episode.length for episode in episodes] == [3, 4, 1, 4, 3, 4, 1]


@pytest.mark.parametrize("argument", [None, AutoresetMode.NEXT_STEP])
def test_a_single_environment_that_resets_itself(argument: Any) -> None:
    inner = one("box", 0)
    env = gymnasium.wrappers.OrderEnforcing(gymnasium.wrappers.Autoreset(inner))
    recorder = Recorder(env, rb.ReplayBuffer(100), argument)
    recorder.run(lambda obs: 3, 20)
    assert stored(recorder.buffer) == [flat(transition) for transition in inner.truth]
    assert recorder.stats()["reset_steps"] == 20 - len(inner.truth) == 5


def test_a_vector_environment_of_one_keeps_its_leading_axis() -> None:
    env = SyncVectorEnv([lambda: one("dict", 1)])
    recorder = recorded(env)
    drive(recorder, calls=20)
    assert stored(recorder.buffer) == told(env)[0]


# ---- wrappers ----


def negated(obs: Any) -> Any:
    return -obs


GYMNASIUM = tuple(map(int, gymnasium.__version__.split(".")[:2]))
WRAPPED: dict[str, Callable[[Any], Any]] = {
    "statistics": wrappers.RecordEpisodeStatistics,
    "list of infos": wrappers.DictInfoToList,
}
if GYMNASIUM >= (1, 3):  # before, the one does not take what the other gives
    WRAPPED["statistics in a list"] = lambda env: wrappers.DictInfoToList(wrappers.RecordEpisodeStatistics(env))
OBSERVING: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "transform": (lambda env: wrappers.TransformObservation(env, negated), negated),
    "one by one": (
        lambda env: wrappers.VectorizeTransformObservation(
            env, gymnasium.wrappers.TransformObservation, func=negated, observation_space=env.single_observation_space
        ),
        negated,
    ),
    "dtype": (lambda env: wrappers.DtypeObservation(env, np.int16), lambda obs: obs.astype(np.int16)),
    "reshape": (lambda env: wrappers.ReshapeObservation(env, (3, 1)), lambda obs: obs.reshape(3, 1)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_that_leave_observations_alone(name: str, mode: str) -> None:
    env = WRAPPED[name](three("sync", "tuple", mode))
    recorder = recorded(env)
    drive(recorder, calls=25)
    assert by_env(recorder.buffer, "tuple") == told(env)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])  # Gymnasium refuses these in SAME_STEP mode
@pytest.mark.parametrize("name", OBSERVING)
def test_wrappers_that_change_observations(name: str, mode: str) -> None:
    wrap, change = OBSERVING[name]
    env = wrap(three("sync", "box", mode))
    recorder = recorded(env)
    drive(recorder, calls=25)
    truth = [(change(t[0]), t[1], t[2], change(t[3]), *t[4:]) for transitions in truth_of(env) for t in transitions]
    assert sorted(stored(recorder.buffer)) == sorted(flat(transition) for transition in truth)


def test_observations_that_a_wrapper_normalizes_are_stored_as_the_policy_saw_them() -> None:
    env = wrappers.NormalizeObservation(three("sync", "box", "NextStep"))
    recorder = recorded(env)
    seen: list[Any] = []

    def policy(obs: Any) -> Any:
        seen.append(obs.copy())
        return np.full(3, 3)

    recorder.run(policy, 25)
    lengths = [len(transitions) for transitions in truth_of(env)]
    assert len(recorder.buffer) == sum(lengths)
    assert {obs.tobytes() for obs in recorder.buffer.read(np.arange(sum(lengths))).obs} <= {
        row.tobytes() for obs in seen for row in obs
    }
    ended = [len(segment.ids) for segment in recorder.buffer.segments() if segment.ended]
    assert len(ended) == recorder.stats()["episodes"] > 10, "a segment was cut in two"


class Changing(VectorWrapper):
    """Changes what a step returns; and the final observations too, or not."""

    def __init__(self, env: Any, func: Any, func_of_final: Any) -> None:
        super().__init__(env)
        self.func, self.func_of_final = func, func_of_final

    def reset(self, **kwargs: Any) -> Any:
        obs, infos = self.env.reset(**kwargs)
        return self.func(obs), infos

    def step(self, actions: Any) -> Any:
        obs, *rest, infos = self.env.step(actions)
        for i in np.flatnonzero(infos.get("_final_obs", [])):
            infos["final_obs"][i] = self.func_of_final(infos["final_obs"][i])
        return self.func(obs), *rest, infos


def scaled(obs: Any) -> Any:
    return (obs / 8).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "func", "error"),
    [
        ("box", lambda obs: obs.astype(np.int64), r"expected int64 of shape \(3,\).*given float32 of shape \(3,\)"),
        ("box", lambda obs: obs[..., :2], r"expected float32 of shape \(2,\).*given float32 of shape \(3,\)"),
        ("box", lambda obs: {"a": obs}, "expected a, given ndarray"),
        ("box", lambda obs: (obs, obs), "expected a tuple of 2, given ndarray"),
        ("dict", lambda obs: {"where": obs["where"]}, "expected where, given where, eyes, step"),
        (
            "dict",
            lambda obs: {**obs, "step": obs["step"] / 2},
            r'"step"\]: expected float64 of shape \(\).*given int64',
        ),
        ("tuple", lambda obs: obs[:1], "expected a tuple of 1, given tuple"),
    ],
)
def test_final_observations_that_a_wrapper_forgot_are_not_stored(kind: str, func: Any, error: str) -> None:
    recorder = recorded(Changing(three("sync", kind, "SameStep"), func, lambda obs: obs))
    recorder.reset()
    with pytest.raises(ValueError, match=f"final_obs of environment 2.*{error}.*does a wrapper change"):
        recorder.step(recorder.env.action_space.sample())
    assert len(recorder.buffer) == 0
    with pytest.raises(ValueError, match="reset first"):
        recorder.step(recorder.env.action_space.sample())


def test_a_wider_final_observation_is_a_mistake_where_a_wrapper_changes_the_space() -> None:
    class Double(Steps):  # does not keep to its space, which is float32: the vector environment casts
        def _obs(self) -> Any:
            return super()._obs().astype(np.float64)

    def envs() -> Any:
        return SyncVectorEnv([lambda: Truth(Double("box", 0, (2,)))], autoreset_mode="SameStep")

    recorder = recorded(envs())
    drive(recorder, calls=6)
    assert stored(recorder.buffer) == told(recorder.env)[0]

    recorder = recorded(Changing(envs(), scaled, lambda obs: obs))
    recorder.env.single_observation_space = spaces.Box(-1, 1, (3,), np.float32)
    recorder = Recorder(recorder.env, recorder.buffer)
    with pytest.raises(ValueError, match=r"expected float32 of shape \(3,\).*given float64"):
        drive(recorder, calls=6)
    assert len(recorder.buffer) == 1


def test_a_wrapper_that_changes_final_observations_too() -> None:
    env = Changing(three("sync", "box", "SameStep"), scaled, scaled)
    recorder = recorded(env)
    drive(recorder, calls=25)
    truth = [(scaled(t[0]), t[1], t[2], scaled(t[3]), *t[4:]) for transitions in truth_of(env) for t in transitions]
    assert sorted(stored(recorder.buffer)) == sorted(flat(transition) for transition in truth)


@pytest.mark.parametrize("mode", MODES)
def test_environments_that_speak_in_tensors(mode: str) -> None:
    torch = pytest.importorskip("torch")

    class Tensors(Changing):
        def step(self, actions: Any) -> Any:
            obs, *numbers, infos = super().step(actions.numpy())
            return obs, *(torch.from_numpy(number) for number in numbers), infos

    env = Tensors(three("sync", "box", mode), torch.from_numpy, lambda obs: torch.from_numpy(obs.copy()))
    recorder = recorded(env)
    recorder.reset()
    recorder.run(lambda obs: obs[:, 0].long() + 3, 25)
    assert by_env(recorder.buffer, "box") == told(env)


# ---- infos ----


def in_objects(final: Any, ended: Any) -> Any:
    array = np.full(len(ended), None, object)
    for i in np.flatnonzero(ended):
        array[i] = final[i]
    return array


INFOS: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "gymnasium 0.29": lambda final, ended: {"final_observation": in_objects(final, ended), "_final_observation": ended},
    "without a mask": lambda final, ended: {"final_obs": in_objects(final, ended)},
    "as one array, without a mask": lambda final, ended: {"final_obs": final},
    "both names": lambda final, ended: {
        "final_obs": in_objects(final, ended),
        "final_observation": in_objects(-final, ended),
    },
}


@pytest.mark.parametrize("name", INFOS)
def test_final_observations_by_all_their_names(name: str) -> None:
    recorder = Recorder(Older(INFOS[name]), rb.ReplayBuffer(100, streams=2), autoreset_mode="SameStep")
    recorder.reset()
    for _ in range(6):
        recorder.step(np.zeros(2, int))
    batch = recorder.buffer.read(np.arange(12))
    assert batch.obs[::2, 0].tolist() == [0, 1] * 3
    assert batch.next_obs[::2, 0].tolist() == [1, 2] * 3
    assert batch.obs[1::2, 0].tolist() == [100, 101, 102] * 2
    assert batch.next_obs[1::2, 0].tolist() == [101, 102, 103] * 2
    assert batch.terminated.tolist() == [False, False, True, False, False, True, True, False, False, False, True, True]


@pytest.mark.parametrize(
    "infos_of",
    [
        lambda final, ended: {},
        lambda final, ended: {"final_info": {}},
        lambda final, ended: {"final_obs": in_objects(final, ~ended)},
        lambda final, ended: {"final_obs": in_objects(final, ended), "_final_obs": ~ended},
    ],
)
def test_a_missing_final_observation_is_an_error(infos_of: Any) -> None:
    recorder = Recorder(Older(infos_of), rb.ReplayBuffer(100, streams=2), autoreset_mode="SameStep")
    recorder.reset()
    recorder.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="expected final_obs of environment 0, which ended in SAME_STEP mode, given "):
        recorder.step(np.zeros(2, int))
    assert len(recorder.buffer) == 2


# ---- modes ----


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_mode_is_found_from_the_environment_then_its_metadata_then_the_argument(mode: AutoresetMode) -> None:
    other = AutoresetMode.DISABLED if mode != AutoresetMode.DISABLED else AutoresetMode.NEXT_STEP
    buffer = rb.ReplayBuffer(10, streams=2)
    env = Older(None)
    env.autoreset_mode, env.metadata = mode, {"autoreset_mode": other}
    assert Recorder(env, buffer).autoreset_mode == mode.value
    assert Recorder(VectorWrapper(env), buffer).autoreset_mode == mode.value

    env = Older(None)
    env.metadata = {"autoreset_mode": mode}
    assert Recorder(VectorWrapper(env), buffer).autoreset_mode == mode.value
    env.metadata = {"autoreset_mode": mode.value}
    assert Recorder(env, buffer).autoreset_mode == mode.value

    for argument in (mode, mode.value, mode.name, mode.name.lower()):
        assert Recorder(Older(None), buffer, argument).autoreset_mode == mode.value
        assert Recorder(env, buffer, argument).autoreset_mode == mode.value
    with pytest.raises(ValueError, match=f"given '{other.value}', but .* is '{mode.value}'"):
        Recorder(env, buffer, other)


def test_a_mode_that_nobody_knows_is_an_error() -> None:
    env, buffer = Older(None), rb.ReplayBuffer(10, streams=2)
    with pytest.raises(
        ValueError, match=r"autoreset_mode: .*Older.* does not say .* 'NextStep', 'SameStep' or 'Disabled'"
    ):
        Recorder(env, buffer)
    with pytest.raises(ValueError, match=r"autoreset_mode: expected 'NextStep', .* given 'SomeStep'"):
        Recorder(env, buffer, "SomeStep")
    env.metadata = {"autoreset_mode": True}
    with pytest.raises(ValueError, match=r"the autoreset mode of .* given True"):
        Recorder(env, buffer)


def test_a_single_environment_does_not_reset_itself_whatever_its_metadata_say() -> None:
    env, buffer = one("box", 0), rb.ReplayBuffer(10)
    env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # up to Gymnasium 1.3 a vector environment put it there
    assert Recorder(env, buffer).autoreset_mode == "Disabled"
    with pytest.raises(ValueError, match=r"given 'SameStep', but .* is 'Disabled'"):
        Recorder(env, buffer, AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=r"given 'Disabled', but .* is 'NextStep'"):
        Recorder(gymnasium.wrappers.Autoreset(env), buffer, "Disabled")


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected streams=3, one an environment, given streams=2"):
        Recorder(three("sync", "box", "NextStep"), rb.ReplayBuffer(10, streams=2))
    with pytest.raises(ValueError, match="expected streams=1, one an environment, given streams=3"):
        Recorder(one("box", 0), rb.ReplayBuffer(10, streams=3))
    with pytest.raises(
        TypeError, match=r"expected a gymnasium\.Env or gymnasium\.vector\.VectorEnv, given 'CartPole-v1'"
    ):
        Recorder("CartPole-v1", rb.ReplayBuffer(10))

    class Secret(Steps):  # a vector environment that does not say so
        def step(self, action: Any) -> Any:
            obs, *_, info = super().step(action)
            return obs, np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), info

    recorder = Recorder(Secret("box", 0, (3,)), rb.ReplayBuffer(10))
    recorder.reset()
    with pytest.raises(ValueError, match=r"terminated: expected shape \(\) of a single environment .* given \(2,\)"):
        recorder.step(3)


# ---- copies ----


def test_nothing_that_changes_later_changes_what_is_stored() -> None:
    env = SyncVectorEnv([Bandit, Bandit])
    recorder = recorded(env, schema=rb.schema_of(env, note="float32"))
    obs, _ = recorder.reset()
    obs += 7
    action, note = np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32)
    obs, reward, *_ = recorder.step(action, note=note)
    obs += 7
    action += 7
    note += 7
    recorder.step(action, note=note)
    batch = recorder.buffer.read(np.arange(4))
    assert not batch.obs.any()
    assert not batch.next_obs.any()
    assert batch.action[:2].tolist() == [[0.5, 0.5]] * 2, "the action is what was taken, not what the environment left"
    assert batch.note.tolist() == [1, 1, 8, 8]


# ---- what a loop logs ----


@pytest.mark.parametrize("mode", MODES)
def test_run_and_stats(mode: str) -> None:
    env = three("sync", "box", mode)
    recorder = recorded(env)
    assert recorder.stats()["episodes"] == 0
    assert np.isnan(recorder.stats()["mean_return"])
    episodes = [episode for calls in (1, 9, 10) for episode in recorder.run(lambda obs: np.full(3, 3), calls)]
    truth = truth_of(env)
    assert by_env(recorder.buffer, "box") == told(env)
    for index in range(3):
        expected, total, length = [], 0.0, 0
        for _, _, reward, _, terminated, truncated in truth[index]:
            total, length = total + reward, length + 1
            if terminated or truncated:
                expected.append((index, total, length))
                total, length = 0.0, 0
        assert [episode for episode in episodes if episode.env == index] == expected
    stats = recorder.stats()
    assert stats["episodes"] == len(episodes)
    assert stats["mean_return"] == pytest.approx(np.mean([episode.episodic_return for episode in episodes]))
    assert stats["mean_length"] == pytest.approx(np.mean([episode.length for episode in episodes]))


def test_an_episode_that_was_reset_by_hand_is_not_counted() -> None:
    recorder = recorded(three("sync", "box", "NextStep"))
    recorder.reset()
    recorder.step(np.full(3, 3))
    recorder.reset(options={"reset_mask": np.array([True, True, False])})
    assert recorder.ended == []
    recorder.step(np.full(3, 3))
    recorder.step(np.full(3, 3))
    assert {(episode.env, episode.length) for episode in recorder.ended} == {(1, 2), (2, 1)}


def test_returns_are_those_of_the_steps_that_are_stored() -> None:
    recorder = recorded(wrappers.TransformReward(three("sync", "box", "NextStep"), lambda reward: reward * 0 + 1))
    episodes = recorder.run(lambda obs: np.full(3, 3), 25)  # a reset step, too, has reward 1 now
    assert len(episodes) > 10
    assert all(episode.episodic_return == episode.length for episode in episodes)


def test_rewards_may_be_vectors() -> None:
    class Two(Steps):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            return obs, np.array([reward, 1], np.float32), *rest

    recorder = Recorder(Two("box", 0, (3,)), rb.ReplayBuffer(10))
    (episode,) = recorder.run(lambda obs: 3, 5)
    assert episode.episodic_return.tolist() == [0.75, 3]
    assert recorder.stats()["mean_return"].tolist() == [0.75, 3]


# ---- real environments ----


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("mode", [None, *MODES])
def test_time_limits_bootstrap(mode: str | None, n: int) -> None:
    """With reward 1 and V = 1 / (1 - gamma) the target is V again, but for the last steps before a failure.

    There it is the sum of what is left: (1 - gamma ** k) / (1 - gamma) for k steps.
    """
    gamma = 0.9
    value = 1 / (1 - gamma)
    if mode is None:
        env = gymnasium.make("CartPole-v1", max_episode_steps=12)
        policy: Any = lambda obs: int(obs[0] * 1e6) % 2  # noqa: E731
    else:
        env = gymnasium.make_vec("CartPole-v1", 3, "sync", vector_kwargs={"autoreset_mode": mode}, max_episode_steps=12)
        policy = lambda obs: (obs[:, 0] * 1e6).astype(int) % 2  # noqa: E731
    buffer = rb.ReplayBuffer(2000, rb.schema_of(env), streams=1 if mode is None else 3, view=rb.NStep(n, gamma))
    recorder = Recorder(env, buffer)
    recorder.reset(seed=3)
    recorder.run(policy, 600)

    ends = {"terminated": 0, "truncated": 0}
    for segment in buffer.segments():
        batch = buffer.read(segment.ids)
        target = batch.reward + batch.discount * value
        left = np.arange(len(segment.ids), 0, -1)
        if segment.ended and batch.terminated[-1]:
            ends["terminated"] += 1
            failing = left <= n
            expected = np.where(failing, (1 - gamma**left) / (1 - gamma), value)
        else:
            ends["truncated"] += bool(segment.ended)
            assert len(segment.ids) <= 12
            expected = np.full(len(left), value)
        np.testing.assert_allclose(target, expected, rtol=1e-6)
    assert min(ends.values()) > 10, ends


def test_a_vector_environment_of_its_own_make() -> None:
    with closing(gymnasium.make_vec("CartPole-v1", 4, "vector_entry_point")) as env:
        recorder = recorded(env)
        recorder.reset(seed=0)
        recorder.run(lambda obs: np.zeros(4, int), 200)
        segments = list(recorder.buffer.segments())
        batch = recorder.buffer.read(np.arange(len(recorder.buffer)))
    assert recorder.autoreset_mode == "NextStep"
    assert (batch.reward == 1).all(), "a reset, whose reward is 0, was stored"
    assert batch.terminated.sum() == recorder.stats()["episodes"] == sum(segment.ended for segment in segments) > 40
    assert (np.abs(batch.next_obs[:, 2][batch.terminated]) > 12 * np.pi / 180).all(), "not the final observation"


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])  # the two it has
def test_atari_frames_follow_one_another(mode: str) -> None:
    """Each observation is two frames: the older one of next_obs is the newer one of obs, if it really followed it."""
    ale = pytest.importorskip("ale_py.vector_env")
    env = ale.AtariVectorEnv(
        "breakout", 3, autoreset_mode=mode, img_height=20, img_width=20, stack_num=2, episodic_life=True
    )
    with closing(env):
        recorder = recorded(env)
        recorder.reset(seed=1)
        actions = actions_of(env)
        for _ in range(4):
            recorder.run(lambda obs: next(actions), 51)
            recorder.reset(options={"reset_mask": np.array([True, False, True])})
    batch = recorder.buffer.read(np.arange(len(recorder.buffer)))
    assert recorder.stats()["episodes"] > 10
    assert len(batch) == 3 * 204 - recorder.stats()["reset_steps"]
    assert (batch.obs[:, 1] == batch.next_obs[:, 0]).all()
