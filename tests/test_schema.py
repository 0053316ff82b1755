"""Schemas from first transitions, mappings and Gymnasium spaces; what cannot be stored is named with its place."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import replaybank as rb
from replaybank.schema import Leaf, Schema


def leaf(schema, *path):
    return next(leaf for leaf in schema.leaves if leaf.path == path)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (0.5, "float32"),
        (1, "int64"),
        (True, "bool"),
        (np.float64(1), "float32"),
        (np.float16(1), "float16"),
        (np.int32(1), "int32"),
        (np.uint8(1), "uint8"),
        (np.bool_(1), "bool"),
        (np.ones(3), "float32"),
        (np.ones(3, ">f4"), "float32"),
        ([1, 2], "int64"),
        ([1.0, 2], "float32"),
        (1j, "complex128"),
    ],
    ids=repr,
)
def test_dtypes_of_the_first_transition(given, dtype):
    buffer = rb.ReplayBuffer(4)
    buffer.add([0.0], given, 0.0, [0.0], False, False)
    assert leaf(buffer.schema, "action") == Leaf(("action",), np.dtype(dtype), np.shape(given))
    assert buffer.sample(1).action.dtype == dtype


@pytest.mark.parametrize(
    ("reward", "dtype"), [(1, "float32"), (True, "float32"), (np.float64(1), "float32"), (np.ones(2, int), "float32")]
)
def test_the_reward_is_a_float_whatever_the_first_one_is(reward, dtype):
    buffer = rb.ReplayBuffer(4)
    buffer.add([0.0], 0, reward, [0.0], 0, 1.0)
    buffer.add([0.0], 0, np.asarray(reward) * 0.5, [0.0], 0, 1.0)
    batch = buffer.sample(1)
    assert batch.reward.dtype == dtype
    assert batch.truncated.dtype == batch.terminated.dtype == bool
    assert batch.truncated.all()


def test_nesting_of_the_first_transition_comes_back():
    buffer = rb.ReplayBuffer(4)
    obs = {"camera": np.zeros((2, 2, 3), np.uint8), "pose": (np.zeros(3), {"speed": 0.5}), "plain": (1.0, 2.0)}
    buffer.add(obs, {"move": 1}, 0.0, obs, False, False, hidden=(np.ones(2), np.ones(3)))
    batch = buffer.sample(3)
    assert batch.obs["camera"].shape == (3, 2, 2, 3)
    assert batch.next_obs["pose"][1]["speed"].shape == (3,)
    assert batch.obs["plain"].shape == (3, 2)
    assert batch.action["move"].dtype == np.int64
    assert [part.shape for part in batch.hidden] == [(3, 2), (3, 3)]
    assert buffer.schema.dtype["obs"]["camera"] == np.dtype(("u1", (2, 2, 3)))


def test_explicit_dtypes_are_kept():
    schema = Schema.of(
        {"obs": ("float64", (2,)), "action": [np.int8, {"x": "f2"}], "reward": ("f8", (3,)), "legal": bool}
    )
    buffer = rb.ReplayBuffer(3, schema=schema)
    buffer.add([1e300, 0], (1, {"x": 0.5}), [1, 2, 3], [0, 0], False, False, legal=True)
    batch = buffer.sample(1)
    assert batch.obs.dtype == batch.reward.dtype == np.float64
    assert batch.obs[0, 0] == 1e300
    assert batch.action[1]["x"].dtype == np.float16
    assert batch.legal.tolist() == [True]
    assert schema == Schema.of(
        {"obs": ("float64", 2), "action": ["i1", {"x": "f2"}], "reward": ("f8", 3), "legal": "?"}
    )


def test_names_with_slashes_do_not_collide():
    buffer = rb.ReplayBuffer(3)
    obs = {"walker/joints": 1.0, "walker": {"joints": 2.0}}
    buffer.add(obs, 0, 0.0, obs, False, False)
    assert buffer.sample(1).obs == {"walker/joints": [1.0], "walker": {"joints": [2.0]}}


SPACES = [
    (spaces.Box(-1, 1, (3,)), "float32", (3,)),
    (spaces.Box(-1, 1, (3,), np.float64), "float32", (3,)),
    (spaces.Box(0, 255, (8, 8, 1), np.uint8), "uint8", (8, 8, 1)),
    (spaces.Discrete(4), "int64", ()),
    (spaces.Discrete(4, start=-2), "int64", ()),
    (spaces.MultiDiscrete([3, 4]), "int64", (2,)),
    (spaces.MultiDiscrete(np.array([[3, 4], [5, 6]])), "int64", (2, 2)),
    (spaces.MultiBinary(5), "int8", (5,)),
    (spaces.MultiBinary([2, 3]), "int8", (2, 3)),
]


@pytest.mark.parametrize(("space", "dtype", "shape"), SPACES, ids=repr)
def test_spaces(space, dtype, shape):
    schema = rb.schema_of((space, spaces.Discrete(2)))
    assert leaf(schema, "obs") == Leaf(("obs",), np.dtype(dtype), shape)
    buffer = rb.ReplayBuffer(5, schema=schema, seed=0)
    space.seed(0)
    samples = [space.sample() for _ in range(6)]
    for here, after in itertools.pairwise(samples):
        buffer.add(here, 1, 0.0, after, False, False)
    batch = buffer.sample(20)
    np.testing.assert_array_equal(batch.obs, np.array(samples, dtype)[batch.indices])
    np.testing.assert_array_equal(batch.next_obs, np.array(samples, dtype)[batch.indices + 1])


def test_nested_spaces_of_an_environment_and_of_its_vector():
    space = spaces.Dict(
        {"camera": spaces.Box(0, 255, (2, 2), np.uint8), "parts": spaces.Tuple([s for s, *_ in SPACES])}
    )

    class Env(gym.Env):
        observation_space = space
        action_space = spaces.Dict({"go": spaces.Discrete(3, start=1)})

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, False, False, {}

    vector = gym.vector.SyncVectorEnv([Env] * 3)
    assert rb.schema_of(Env()) == rb.schema_of(vector)
    buffer = rb.ReplayBuffer(30, schema=rb.schema_of(vector), streams=3, seed=0)
    obs, _ = vector.reset(seed=0)
    seen = []
    for _ in range(10):
        action = vector.action_space.sample()
        after, reward, terminated, truncated, _ = vector.step(action)
        buffer.add(obs, action, reward, after, terminated, truncated)
        seen.append((obs, action, after))
        obs = after
    batch = buffer.sample(50)
    for i, id_ in enumerate(batch.indices):
        here, action, after = seen[id_ // 3]
        np.testing.assert_array_equal(batch.obs["camera"][i], here["camera"][id_ % 3])
        np.testing.assert_array_equal(batch.action["go"][i], action["go"][id_ % 3])
        for part, whole in zip(batch.next_obs["parts"], after["parts"], strict=True):
            np.testing.assert_array_equal(part[i], np.asarray(whole[id_ % 3], part.dtype))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]),
    ],
    ids=lambda space: type(space).__name__,
)
def test_spaces_without_a_fixed_shape_are_named_with_their_place(space):
    nested = spaces.Dict({"inner": spaces.Tuple([spaces.Discrete(2), space])})
    with pytest.raises(TypeError, match=rf'obs\["inner"\]\["1"\] is {type(space).__name__}\(.*no fixed shape'):
        rb.schema_of((nested, spaces.Discrete(2)))
    with pytest.raises(TypeError, match=rf"action is {type(space).__name__}\("):
        rb.schema_of((spaces.Discrete(2), space))


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ({"obs": "float32"}, ValueError, "missing field 'action'"),
        ({"obs": "float32", "action": "int64", "weights": "f4"}, ValueError, "'weights' cannot name a field"),
        ({"obs": "float32", "action": "int64", "link_next": "u4"}, ValueError, "'link_next' cannot name a field"),
        ({"obs": "nonsense", "action": "int64"}, TypeError, "obs: expected a dtype.*'nonsense'"),
        ({"obs": {"a": "U3"}, "action": "int64"}, TypeError, r'obs\["a"\]: expected a dtype of numbers'),
        ({"obs": None, "action": "int64"}, TypeError, "obs: expected a dtype"),
        ({"obs": "f4", "action": "i8", "reward": "i8"}, ValueError, "reward must be one array of float32"),
        ({"obs": "f4", "action": "i8", "terminated": "i8"}, ValueError, "terminated must be bool"),
        ({"obs": "f4", "action": "i8", "next_obs": "f8"}, ValueError, "next_obs must be what obs is"),
        ({"obs": "f4", 3: "i8"}, TypeError, "field names are strings, given 3"),
        ([("obs", "f4")], TypeError, "expected a mapping"),
    ],
)
def test_schemas_that_cannot_be(spec, error, text):
    with pytest.raises(error, match=text):
        rb.ReplayBuffer(4, schema=spec)


def test_schema_of_refuses_what_is_no_environment():
    with pytest.raises(TypeError, match="expected a Gymnasium environment"):
        rb.schema_of(object())


def test_extra_fields_on_top_of_an_environment():
    schema = rb.schema_of(gym.make("CartPole-v1"), log_prob="float32", hidden=("float32", (2, 8)))
    buffer = rb.ReplayBuffer(4, schema=schema)
    buffer.add(np.zeros(4), 1, 1.0, np.ones(4), False, False, log_prob=-0.5, hidden=np.ones((2, 8)))
    assert buffer.sample(1).log_prob.tolist() == [-0.5]
    assert schema.with_fields(more="i8").extras == ("log_prob", "hidden", "more")


def test_a_vector_of_one_environment_needs_no_streams():
    env = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")])
    for schema in (None, rb.schema_of(env)):
        buffer = rb.ReplayBuffer(10, schema=schema)
        obs, _ = env.reset(seed=0)
        for _ in range(5):
            after, reward, terminated, truncated, _ = env.step(np.array([1]))
            buffer.add(obs, np.array([1]), reward, after, terminated, truncated)
            obs = after
        assert len(buffer) == 5
        assert buffer.sample(2).obs.shape == (2, 4)
        assert buffer.stats()["tails"] == 1
