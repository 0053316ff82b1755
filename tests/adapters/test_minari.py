"""Minari: what a dataset holds is what the buffer holds, and back, byte for byte."""

from __future__ import annotations

import runpy
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from oracle import item, same_bytes, stacked

gymnasium = pytest.importorskip("gymnasium")
minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
pytest.importorskip("PIL")

from gymnasium import spaces  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402

from replaybank.adapters.minari import from_minari, to_minari  # noqa: E402

# Minari warns of every missing word about a dataset; what cannot be silenced with a word is its own to say.
METADATA = {
    "algorithm_name": "random",
    "author": "A. Tester",
    "author_email": "tester@example.org",
    "code_permalink": "https://example.org/code",
    "description": "made by a test",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:`eval_env` is set to None:UserWarning"),
    pytest.mark.filterwarnings("ignore:env_spec is None:UserWarning"),
]
# Minari's collector leaves its temporary folders to the garbage collector.
COLLECTS = pytest.mark.filterwarnings("ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning")

KINDS: dict[str, dict[str, Any]] = {
    "flat": {
        "schema": {"obs": ("float32", (3,)), "action": "int64"},
        "spaces": (spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(5, start=3)),
        "obs": lambda rng: rng.normal(size=3).astype(np.float32),
        "action": lambda rng: np.int64(rng.integers(3, 8)),
        "extras": lambda rng: {},
    },
    "image": {
        "schema": {"obs": ("uint8", (32, 40, 3)), "action": ("float32", (2,)), "reward": "float64"},
        "spaces": (spaces.Box(0, 255, (32, 40, 3), np.uint8), spaces.Box(-1, 1, (2,), np.float32)),
        "obs": lambda rng: rng.integers(0, 256, (32, 40, 3), np.uint8),
        "action": lambda rng: rng.uniform(-1, 1, 2).astype(np.float32),
        "extras": lambda rng: {},
    },
    "nested": {
        "schema": {
            "obs": {"camera": ("uint8", (36, 32)), "pair": [("float64", (2,)), {"deep": "int8"}]},
            "action": {"move": ("float32", (2,)), "jump": "int64"},
            "log_prob": "float32",
            "memory": {"h": ("float16", (3,)), "c": ["bool", ("complex64", (1, 2))]},
        },
        "spaces": (
            spaces.Dict(
                camera=spaces.Box(0, 255, (36, 32), np.uint8),
                pair=spaces.Tuple(
                    [spaces.Box(-9, 9, (2,), np.float64), spaces.Dict(deep=spaces.Box(-9, 9, (), np.int8))]
                ),
            ),
            spaces.Dict(move=spaces.Box(-9, 9, (2,), np.float32), jump=spaces.Discrete(2)),
        ),
        "obs": lambda rng: {
            "camera": rng.integers(0, 256, (36, 32), np.uint8),
            "pair": (rng.normal(size=2), {"deep": np.int8(rng.integers(-9, 9))}),
        },
        "action": lambda rng: {"move": rng.normal(size=2).astype(np.float32), "jump": np.int64(rng.integers(2))},
        "extras": lambda rng: {
            "log_prob": np.float32(rng.normal()),
            "memory": {
                "h": rng.normal(size=3).astype(np.float16),
                "c": (np.bool_(rng.integers(2)), rng.normal(size=(1, 2)).astype(np.complex64)),
            },
        },
    },
}


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def episode_of(kind: str, rng: np.random.Generator, steps: int, end: str = "terminated") -> list[dict[str, Any]]:
    """The transitions of one episode; `end`: the flags of its last step, "" for none."""
    make = KINDS[kind]
    reward = np.dtype(make["schema"].get("reward", "float32"))
    observations = [make["obs"](rng) for _ in range(steps + 1)]
    return [
        {
            "obs": observations[t],
            "action": make["action"](rng),
            "reward": rng.normal(size=()).astype(reward),
            "next_obs": observations[t + 1],
            "terminated": np.bool_(t == steps - 1 and "terminated" in end),
            "truncated": np.bool_(t == steps - 1 and "truncated" in end),
            **make["extras"](rng),
        }
        for t in range(steps)
    ]


def add_all(buffer: rb.ReplayBuffer, transitions: list[dict[str, Any]], stream: int = 0) -> None:
    buffer.extend(**{name: stacked([step[name] for step in transitions]) for name in transitions[0]}, stream=stream)


def held(buffer: rb.ReplayBuffer) -> list[dict[str, Any]]:
    """All transitions of a buffer that nothing has left, in order."""
    batch = buffer.read(np.arange(len(buffer)), view=rb.Transition())
    names = buffer.schema.fields if buffer.schema else {}
    return [{name: item(batch[name], i) for name in names} for i in range(len(buffer))]


def assert_same(given: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert same_bytes(one[name], other[name]), name


def flat_spaces() -> dict[str, Any]:
    return dict(zip(("observation_space", "action_space"), KINDS["flat"]["spaces"], strict=True))


def data_of(transitions: list[dict[str, Any]], id_: int = 0) -> Any:
    """An episode as Minari hands it out, made without the adapter."""
    observations = [step["obs"] for step in transitions] + [transitions[-1]["next_obs"]]
    return minari.EpisodeData(
        id=id_,
        observations=stacked(observations),
        actions=stacked([step["action"] for step in transitions]),
        rewards=np.array([step["reward"] for step in transitions]),
        terminations=np.array([step["terminated"] for step in transitions]),
        truncations=np.array([step["truncated"] for step in transitions]),
        infos={},
    )


def dataset_of(episodes: list[list[dict[str, Any]]], **kwargs: Any) -> Any:
    """A dataset on disk, made without the adapter."""
    buffers = []
    for transitions in episodes:
        data = data_of(transitions)
        buffers.append(
            EpisodeBuffer(
                observations=data.observations,
                actions=data.actions,
                rewards=list(data.rewards),
                terminations=list(data.terminations),
                truncations=list(data.truncations),
            )
        )
    return minari.create_dataset_from_buffers("tests/plain-v0", buffers, **{**flat_spaces(), **METADATA, **kwargs})


# ---- there and back ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", [rb.Transition(), rb.NStep(3, gamma=0.9)], ids=["one step", "three steps"])
def test_whole_episodes_of_interleaved_streams_survive_the_way_there_and_back(kind: str, view: Any) -> None:
    """A wrapped buffer of three streams; expected is found in the plain list of what was added."""
    rng = np.random.default_rng(1)
    streams, capacity, calls = 3, 60, 40
    make = KINDS[kind]
    buffer = rb.ReplayBuffer(capacity, make["schema"], streams=streams, view=view)
    added: deque[tuple[int, int, int, dict[str, Any]]] = deque(maxlen=capacity)  # stream, episode, step, transition

    def lives(stream: int) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
        for episode in range(calls):
            end = ("terminated", "truncated", "terminated, truncated")[int(rng.integers(3))]
            for step, transition in enumerate(episode_of(kind, rng, int(rng.integers(1, 12)), end)):
                yield stream, episode, step, transition

    going = [lives(stream) for stream in range(streams)]
    for _ in range(calls):
        now = [next(life) for life in going]
        added.extend(now)
        buffer.add(**{name: stacked([one[3][name] for one in now]) for name in now[0][3]})

    episodes: dict[tuple[int, int], list[Any]] = {}
    for stream, episode, step, transition in added:
        episodes.setdefault((stream, episode), []).append((step, transition))
    has_head = {key: steps[0][0] == 0 for key, steps in episodes.items()}
    has_end = {key: bool(s[-1][1]["terminated"] or s[-1][1]["truncated"]) for key, s in episodes.items()}
    whole = [key for key in episodes if has_head[key] and has_end[key]]
    expected = [transition for key in whole for _, transition in episodes[key]]
    obs, action = make["spaces"]

    report = to_minari(buffer, "tests/round-v0", observation_space=obs, action_space=action, **METADATA)
    assert report.episodes == len(whole) == report.dataset.total_episodes
    assert report.steps == len(expected) == report.dataset.total_steps
    assert report.dropped_heads == sum(not head for head in has_head.values()) > 0
    assert report.dropped_unfinished == sum(has_head[key] and not has_end[key] for key in episodes) > 0
    assert report.dropped_steps == capacity - len(expected)

    again = from_minari(minari.load_dataset("tests/round-v0"), schema=buffer.schema)
    assert_same(held(again), expected)
    assert [segment.ended for segment in again.segments()] == [True] * len(whole)


def test_images_come_back_as_they_were_and_not_as_jpeg() -> None:
    """By default Minari turns these very images into JPEG, and gives back others."""
    transitions = episode_of("image", np.random.default_rng(0), 3)
    obs, action = KINDS["image"]["spaces"]
    lossy = dataset_of([transitions], observation_space=obs, action_space=action)
    assert not np.array_equal(lossy[0].observations[0], transitions[0]["obs"])
    buffer = rb.ReplayBuffer(9, KINDS["image"]["schema"])
    add_all(buffer, transitions)
    report = to_minari(buffer, "tests/images-v0", observation_space=obs, action_space=action, **METADATA)
    assert_same(held(from_minari(report.dataset, schema=buffer.schema)), transitions)


def test_the_dataset_holds_each_observation_once_and_the_final_one_with_the_buffers_dtypes() -> None:
    buffer = rb.ReplayBuffer(20, KINDS["flat"]["schema"])
    episodes = [episode_of("flat", np.random.default_rng(i), 4 + i) for i in range(2)]
    for transitions in episodes:
        add_all(buffer, transitions)
    dataset = to_minari(buffer, "plain-v3", **flat_spaces(), **METADATA).dataset
    for given, transitions in zip(dataset, episodes, strict=True):
        expected = data_of(transitions)
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            one, other = getattr(given, name), getattr(expected, name)
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()


def test_extra_fields_become_infos_of_their_steps() -> None:
    """Minari's infos have T + 1 entries: the first belongs to the reset, entry t + 1 to step t."""
    transitions = episode_of("nested", np.random.default_rng(0), 5)
    buffer = rb.ReplayBuffer(9, KINDS["nested"]["schema"])
    add_all(buffer, transitions)
    obs, action = KINDS["nested"]["spaces"]
    infos = to_minari(buffer, "extras-v0", observation_space=obs, action_space=action, **METADATA).dataset[0].infos
    assert set(infos) == {"log_prob", "memory"}
    assert infos["log_prob"].tolist() == [0.0, *(float(step["log_prob"]) for step in transitions)]
    assert infos["memory"]["h"].shape == (6, 3)


def test_unfinished_episodes_can_be_written_as_truncated_where_their_data_end() -> None:
    rng = np.random.default_rng(0)
    buffer = rb.ReplayBuffer(20, KINDS["flat"]["schema"])
    ended, running = episode_of("flat", rng, 3), episode_of("flat", rng, 4, end="")
    add_all(buffer, ended)
    add_all(buffer, running)
    report = to_minari(buffer, "cut-v0", **flat_spaces(), **METADATA, truncate_unfinished=True)
    assert report[1:] == (2, 7, 0, 0, 0)
    assert [episode.truncations[-1] for episode in report.dataset] == [False, True]
    running[-1]["truncated"] = np.bool_(True)
    assert_same(held(from_minari(report.dataset, schema=buffer.schema)), ended + running)


@pytest.mark.parametrize("env", ["CartPole-v1", gymnasium.spec("CartPole-v1"), gymnasium.make("CartPole-v1")])
def test_spaces_are_those_of_the_environment_which_the_dataset_can_make_again(env: Any) -> None:
    buffer = rb.ReplayBuffer(9, rb.schema_of(gymnasium.make("CartPole-v1")))
    buffer.add(np.ones(4), 1, 1.0, np.zeros(4), True, False)
    dataset = to_minari(buffer, "cartpole/one-v0", env=env, **METADATA).dataset
    assert dataset.recover_environment().spec.id == "CartPole-v1"
    assert dataset.action_space == spaces.Discrete(2)


def test_a_given_space_goes_before_that_of_the_environment() -> None:
    buffer = rb.ReplayBuffer(9, rb.schema_of(gymnasium.make("CartPole-v1")))
    buffer.add(np.ones(4), 4, 1.0, np.zeros(4), True, False)
    dataset = to_minari(buffer, "four-v0", env="CartPole-v1", action_space=spaces.Discrete(5), **METADATA).dataset
    assert dataset.action_space == spaces.Discrete(5)
    with pytest.raises(ValueError, match="action: the buffer holds int64"):
        to_minari(buffer, "none-v0", env="CartPole-v1", action_space=spaces.Tuple([]), **METADATA)
    with pytest.raises(ValueError, match="obs: the buffer holds float32"):
        to_minari(buffer, "none-v0", env="CartPole-v1", observation_space=spaces.Dict(), **METADATA)


# ---- from a dataset ----


@COLLECTS
def test_what_minaris_own_collector_recorded_is_what_the_buffer_holds() -> None:
    """Every step of every episode, with the true final observation; the last episode was stopped on its way."""
    pytest.importorskip("jax")  # the collector needs it
    env = minari.DataCollector(gymnasium.make("CartPole-v1", max_episode_steps=20))
    rng = np.random.default_rng(0)
    expected: list[dict[str, Any]] = []
    for episode in range(5):
        obs, _ = env.reset(seed=episode)
        over = False
        while not over:
            action = int(rng.integers(2)) if episode < 3 else int(obs[2] + obs[3] > 0)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated or (episode == 4 and len(expected) > 60)
            values = (obs, np.int64(action), np.float32(reward), next_obs, np.bool_(terminated), np.bool_(truncated))
            names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
            expected.append(dict(zip(names, values, strict=True)))
            obs = next_obs
    expected[-1]["truncated"] = np.bool_(True)
    dataset = env.create_dataset("cartpole/collected-v0", **METADATA)
    env.close()
    buffer = from_minari(dataset)
    assert buffer.capacity == len(expected) == dataset.total_steps
    assert sum(bool(step["truncated"]) for step in expected) >= 2
    assert_same(held(buffer), expected)


def test_an_episode_that_ends_with_neither_flag_is_truncated_where_its_data_end() -> None:
    transitions = episode_of("flat", np.random.default_rng(0), 4, end="")
    batch = from_minari(dataset_of([transitions])).read(np.arange(4))
    assert batch.truncated.tolist() == [False, False, False, True]
    assert not batch.terminated.any()
    assert batch.discount.tolist() == [1.0] * 4


def test_episodes_are_never_joined_not_even_where_one_begins_as_the_other_ended() -> None:
    rng = np.random.default_rng(0)
    first, second = episode_of("flat", rng, 3, end=""), episode_of("flat", rng, 3, end="")
    second[0]["obs"] = first[-1]["next_obs"]
    buffer = from_minari(dataset_of([first, second]), view=rb.NStep(10, gamma=1.0))
    assert [segment.ids.tolist() for segment in buffer.segments()] == [[0, 1, 2], [3, 4, 5]]
    batch = buffer.read([1, 2, 3])
    assert same_bytes(batch.next_obs, stacked([first[-1]["next_obs"]] * 2 + [second[-1]["next_obs"]]))


def test_float64_becomes_float32_unless_the_schema_says_otherwise() -> None:
    transitions = episode_of("flat", np.random.default_rng(0), 4)
    for step in transitions:
        step["obs"], step["next_obs"] = step["obs"].astype(float) / 3, step["next_obs"].astype(float) / 3
        step["reward"] = np.float64(0.1)
    wide = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    dataset = dataset_of([transitions], observation_space=wide)
    assert from_minari(dataset).read([0]).obs.dtype == np.float32
    schema = {"obs": ("float64", (3,)), "action": "int64", "reward": "float64"}
    assert_same(held(from_minari(dataset, schema=schema)), transitions)


def test_a_smaller_capacity_keeps_the_last_steps() -> None:
    rng = np.random.default_rng(0)
    episodes = [episode_of("flat", rng, 5) for _ in range(4)]
    buffer = from_minari(dataset_of(episodes), capacity=7)
    kept = buffer.read(np.arange(13, 20)).action.tolist()
    assert kept == [step["action"] for episode in episodes for step in episode][-7:]


def test_episodes_may_be_chosen_by_the_dataset_or_come_from_any_iterable() -> None:
    rng = np.random.default_rng(0)
    episodes = [episode_of("flat", rng, steps) for steps in (3, 8, 2, 9)]
    long = episodes[1] + episodes[3]
    chosen = dataset_of(episodes).filter_episodes(lambda episode: len(episode) > 5)
    buffer = from_minari(chosen)
    assert buffer.capacity == 17
    assert_same(held(buffer), long)
    given = (data_of(transitions) for transitions in episodes if len(transitions) > 5)
    assert_same(held(from_minari(given)), long)
    given = (data_of(transitions) for transitions in episodes if len(transitions) > 5)
    assert_same(held(from_minari(given, capacity=100)), long)


def test_settings_are_those_of_the_buffer() -> None:
    episodes = [episode_of("flat", np.random.default_rng(0), 5)]
    buffer = from_minari(dataset_of(episodes), sampler=rb.Prioritized(alpha=0.5), streams=4, seed=3)
    assert (buffer.streams, buffer.seed) == (4, 3)
    assert buffer.sample(8).weights.tolist() == [1.0] * 8


def test_an_id_is_no_dataset() -> None:
    with pytest.raises(TypeError, match=r"expected a dataset, minari\.load_dataset\('once-v0'\), given its id"):
        from_minari("once-v0")  # type: ignore[arg-type]


def test_an_episode_without_steps_adds_nothing() -> None:
    transitions = episode_of("flat", np.random.default_rng(0), 2)
    none = data_of(transitions)
    none = minari.EpisodeData(0, none.observations[:1], *(np.empty(0),) * 4, infos={})
    assert len(from_minari([none, data_of(transitions)])) == 2
    with pytest.raises(ValueError, match="no steps"):
        from_minari([none])


def test_an_episode_without_its_final_observation_is_refused_by_name() -> None:
    data = data_of(episode_of("flat", np.random.default_rng(0), 4))
    cut = minari.EpisodeData(7, data.observations[:-1], data.actions, data.rewards, *(np.zeros(4, bool),) * 2, {})
    with pytest.raises(ValueError, match=r"episode 7: expected 5 observations for 4 steps, given 4"):
        from_minari([cut])


def test_a_space_without_a_fixed_shape_is_refused() -> None:
    words = EpisodeBuffer(observations=["a", "b"], actions=[3], rewards=[0.0], terminations=[True], truncations=[False])
    dataset = minari.create_dataset_from_buffers(
        "words-v0", [words], **{**flat_spaces(), "observation_space": spaces.Text(1)}, **METADATA
    )
    with pytest.raises(TypeError, match="Text has no fixed shape"):
        from_minari(dataset)


# ---- errors write nothing ----


def buffer_of_one() -> rb.ReplayBuffer:
    buffer = rb.ReplayBuffer(20, KINDS["flat"]["schema"])
    add_all(buffer, episode_of("flat", np.random.default_rng(0), 3))
    return buffer


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset_id": "a/one-v0"}, "namespace of at least two letters, given 'a/one-v0'"),
        ({"dataset_id": "noversion"}, "name-v0"),
        ({"observation_space": None}, "both observation_space and action_space"),
        ({"observation_space": spaces.Box(0, 1, (4,))}, r"obs: the buffer holds float32 of shape \(3,\), the space"),
        ({"observation_space": spaces.Box(0, 9, (3,), np.uint8)}, "obs: the buffer holds float32.*the space uint8"),
        ({"action_space": spaces.Dict(a=spaces.Discrete(2))}, "action: the buffer holds int64.*the space nothing"),
        ({"action_space": spaces.Tuple([])}, "action: the buffer holds int64.*the space nothing"),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing_behind(
    wrong: dict[str, Any], message: str, datasets: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        to_minari(buffer_of_one(), **{"dataset_id": "ok-v0", **flat_spaces(), **METADATA, **wrong})
    assert not list(datasets.iterdir())


def test_a_dataset_is_never_written_over() -> None:
    buffer = buffer_of_one()
    before = to_minari(buffer, "once-v0", **flat_spaces(), **METADATA).dataset[0].rewards
    add_all(buffer, episode_of("flat", np.random.default_rng(1), 4))
    with pytest.raises(ValueError, match="'once-v0' already"):
        to_minari(buffer, "once-v0", **flat_spaces(), **METADATA)
    assert np.array_equal(minari.load_dataset("once-v0")[0].rewards, before)


def test_a_failure_on_the_way_leaves_no_half_dataset(datasets: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        to_minari(buffer_of_one(), "half-v0", **flat_spaces(), **METADATA, colour="red")
    buffer = buffer_of_one()
    add_all(buffer, episode_of("flat", np.random.default_rng(1), 3))
    read = buffer.read
    buffer.read = lambda ids, view: read(ids if ids[0] == 0 else [99], view)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="99 is not in the buffer"):
        to_minari(buffer, "half-v0", **flat_spaces(), **METADATA)
    assert not list(datasets.iterdir())


def test_a_buffer_without_a_whole_episode_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no whole episode in the buffer: 0 lack their head, 0 their end"):
        to_minari(rb.ReplayBuffer(4), "none-v0", **flat_spaces(), **METADATA)
    buffer = rb.ReplayBuffer(4, KINDS["flat"]["schema"])
    add_all(buffer, episode_of("flat", np.random.default_rng(0), 6))
    add_all(buffer, episode_of("flat", np.random.default_rng(1), 2, end=""))
    with pytest.raises(ValueError, match="no whole episode in the buffer: 1 lack their head, 1 their end"):
        to_minari(buffer, "none-v0", **flat_spaces(), **METADATA)


def test_a_name_that_minari_could_write_but_not_read_is_refused() -> None:
    buffer = rb.ReplayBuffer(4, {"obs": {"a/b": "float32"}, "action": "int64"})
    buffer.add({"a/b": 1.0}, 0, 0.0, {"a/b": 2.0}, True, False)
    with pytest.raises(ValueError, match=r"a/b.*rename"):
        to_minari(
            buffer,
            "slash-v0",
            observation_space=spaces.Dict({"a/b": spaces.Box(0, 1, ())}),
            action_space=spaces.Discrete(2),
            **METADATA,
        )


# ---- the example ----


@COLLECTS
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax")  # Minari's collector needs it
    pytest.importorskip("torch")
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "offline_minari.py"))
    example["main"](episodes=5, updates=20, evaluations=1)
    printed = capsys.readouterr().out
    assert "5 episodes" in printed
    assert "learned" in printed
