"""Frame stacks. The oracle is the plain list of what was added: every stack comes back bit by bit.

For single frames it is Gymnasium's own FrameStackObservation, and a list of the frames of each segment.
"""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

import replaybank as rb
from oracle import Oracle, item, same_bytes, stacked

K = 4
SHAPES = {
    "first": ((K, 5, 3), 0),
    "last": ((5, 3, K), -1),
    "12 first": ((3 * K, 5, 3), 0),
    "12 last": ((5, 3, 3 * K), -1),
}


def stack_of(frames, shape, axis):
    """k numbers as a stack of this shape: the frame filled with each number."""
    width = shape[axis] // K
    parts = [np.full([width if i == axis % 3 else n for i, n in enumerate(shape)], f, np.uint8) for f in frames]
    return np.concatenate(parts, axis=axis)


class Life:
    """One stream of stacks as numbers. `manner` says what a caller does with them."""

    def __init__(self, manner, rng, padding):
        self.manner, self.rng, self.padding = manner, rng, padding
        self.stack = None

    def fresh(self):
        newest = int(self.rng.integers(1, 5))
        if self.manner == "mid-episode" or self.rng.random() < 0.1:
            return [*self.rng.integers(1, 5, K - 1).tolist(), newest]
        return [0 if self.padding == "zero" else newest] * (K - 1) + [newest]

    def step(self):
        """obs, next_obs, terminated, truncated."""
        obs = self.fresh() if self.stack is None or self.manner == "shuffled" else self.stack
        after = [*obs[1:], int(self.rng.integers(1, 5))]
        end = self.rng.random() < 0.15
        terminated = end and self.rng.random() < 0.5
        self.stack = None if end else after
        if self.manner == "dilated" or (self.manner == "reset observation as next" and end):
            after = self.fresh()
            self.stack = None if end else after
        if self.manner == "forgetful" and self.rng.random() < 0.1:
            self.stack = None
        return obs, after, terminated, end and not terminated


MANNERS = ["plain", "mid-episode", "shuffled", "dilated", "reset observation as next", "forgetful"]


def lived(manner, capacity, streams, view, shape, axis, padding, calls=90, seed=0, **parts):
    rng = np.random.default_rng(seed)
    buffer = rb.ReplayBuffer(capacity, streams=streams, view=view, seed=seed, **parts)
    oracle = Oracle(capacity, streams)
    lives = [Life(manner, rng, padding) for _ in range(streams)]
    for _ in range(calls):
        steps, transitions = [life.step() for life in lives], []
        for s, (obs, after, terminated, truncated) in enumerate(steps):
            fields = {
                "obs": stack_of(obs, shape, axis),
                "action": np.int64(s),
                "reward": np.float32(rng.normal()),
                "next_obs": stack_of(after, shape, axis),
                "terminated": np.bool_(terminated),
                "truncated": np.bool_(truncated),
            }
            transitions.append((s, fields))
        values = {name: np.stack([fields[name] for _, fields in transitions]) for name in transitions[0][1]}
        buffer.add(**(values if streams > 1 else {name: value[0] for name, value in values.items()}))
        oracle.add(transitions)
    buffer.check_valid()
    return buffer, oracle


def usable_ids(buffer):
    ids = np.arange(buffer._rows.oldest, buffer._rows.added)
    mask = buffer.view.usable(buffer._rows, ids)
    return ids if mask is None else ids[mask]


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("padding", ["reset", "zero"])
@pytest.mark.parametrize(("capacity", "streams"), [(1000, 1), (1000, 3), (60, 2), (37, 1), (3, 2), (1, 1)])
def test_what_was_added_comes_back_bit_by_bit(manner, padding, capacity, streams):
    for kind, (shape, axis) in SHAPES.items():
        view = rb.FrameStack(K, axis=axis, padding=padding)
        buffer, oracle = lived(manner, capacity, streams, view, shape, axis, padding, seed=len(kind))
        ids = usable_ids(buffer)
        batch = buffer.read(ids)
        for i, id_ in enumerate(ids.tolist()):
            expected = oracle.step(id_).fields
            for name, value in expected.items():
                assert same_bytes(batch[name][i], value), (name, kind, id_)
        assert batch.obs.shape == (len(ids), *shape)
        # What is refused has lost a frame: it is among the first k - 1 of a segment whose start has left.
        refused = set(oracle.ids()) - set(ids.tolist())
        lost = {id_ for run in buffer.segments() if not run.whole for id_ in run.ids[: K - 1].tolist()}
        assert refused <= lost
        if capacity == 1000:
            assert not refused


@pytest.mark.parametrize("sampler", [rb.Uniform, rb.Prioritized, lambda: rb.Uniform(replace=False)])
@pytest.mark.parametrize("manner", ["plain", "shuffled"])
def test_every_sampler_gives_whole_stacks_of_a_wrapped_buffer(sampler, manner):
    view = rb.FrameStack(K)
    buffer, oracle = lived(manner, 64, 2, view, (K, 5, 3), 0, "reset", sampler=sampler())
    seen = set()
    for _ in range(60):
        batch = buffer.sample(8)
        for i, id_ in enumerate(batch.indices.tolist()):
            assert same_bytes(batch.obs[i], oracle.step(id_).fields["obs"])
            assert same_bytes(batch.next_obs[i], oracle.step(id_).fields["next_obs"])
            seen.add(id_)
        buffer.update_priorities(batch.indices, batch.reward)
    assert seen == set(usable_ids(buffer).tolist())


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("manner", ["plain", "dilated", "forgetful"])
def test_it_composes_with_n_steps(n, manner):
    view = rb.FrameStack(K, view=rb.NStep(n, gamma=0.9))
    for capacity, streams in ((1000, 2), (40, 1)):
        buffer, oracle = lived(manner, capacity, streams, view, (K, 5, 3), 0, "reset", seed=n)
        ids = usable_ids(buffer)
        batch = buffer.read(ids)
        for i, id_ in enumerate(ids.tolist()):
            fields, discount = oracle.n_step(id_, n, 0.9)
            # A segment goes on in the oracle wherever the whole stacks fit, and so it does in the buffer, but where the
            # rows that could tell have left.
            assert same_bytes(batch.obs[i], fields["obs"])
            assert same_bytes(batch.next_obs[i], fields["next_obs"])
            assert batch.discount[i] == np.float32(discount)
            np.testing.assert_allclose(batch.reward[i], fields["reward"], rtol=1e-6)
            assert batch.terminated[i] == fields["terminated"]
            assert batch.truncated[i] == fields["truncated"]


class Frames(gymnasium.Env):
    """Frames that say episode and step; ends after a while, by termination and truncation in turn."""

    observation_space = gymnasium.spaces.Box(0, 255, (2, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3, start=3)

    def __init__(self):
        self.episode = -1

    def frame(self):
        return np.full((2, 3), [[self.episode], [self.t]], np.uint8)

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self.frame(), {}

    def step(self, action):
        self.t += 1
        end = self.t >= self.episode % 7 + 1
        return self.frame(), float(self.t), end and self.episode % 2 == 0, end and self.episode % 2 == 1, {}


@pytest.mark.parametrize("padding", ["reset", "zero"])
@pytest.mark.parametrize("capacity", [1000, 60])
@pytest.mark.parametrize("adds", ["frames", "stacks"])
def test_stacks_are_gymnasiums_own(padding, capacity, adds):
    """The peer's answer: what FrameStackObservation gave, whether it is added or only its newest frame."""
    env = gymnasium.wrappers.FrameStackObservation(Frames(), K, padding_type=padding)
    buffer = rb.ReplayBuffer(capacity, view=rb.FrameStack(K, padding=padding, adds=adds), seed=0)
    truth = []
    obs, _ = env.reset()
    for _ in range(200):
        after, reward, terminated, truncated, _ = env.step(4)
        given = (obs[-1], after[-1]) if adds == "frames" else (obs, after)
        buffer.add(given[0], 4, reward, given[1], terminated, truncated)
        truth.append((obs, after))
        obs = env.reset()[0] if terminated or truncated else after
    ids = usable_ids(buffer)
    assert len(ids) >= min(capacity, 200) - (K - 1)
    batch = buffer.read(ids)
    np.testing.assert_array_equal(batch.obs, np.stack([truth[i][0] for i in ids]))
    np.testing.assert_array_equal(batch.next_obs, np.stack([truth[i][1] for i in ids]))
    assert buffer._rows._cursor[4] == 0, "nothing had to be put aside"


def test_a_new_axis_last_for_single_frames():
    for shape in ((2, 3), (2, 3, 3), ()):
        buffer = rb.ReplayBuffer(10, view=rb.FrameStack(3, axis=-1, adds="frames", padding="zero"))
        for t in range(1, 5):
            buffer.add(np.full(shape, t, np.uint8), 0, 0.0, np.full(shape, t + 1, np.uint8), False, False)
        batch = buffer.read([0, 1, 3])
        assert batch.obs.shape == (3, *shape, 3)
        assert batch.obs[0].reshape(-1, 3)[0].tolist() == [0, 0, 1]
        assert batch.next_obs[0].reshape(-1, 3)[0].tolist() == [0, 1, 2]
        assert batch.obs[2].reshape(-1, 3)[-1].tolist() == [2, 3, 4]


def test_a_stack_of_one_frame_is_the_frame():
    for adds, shape in (("stacks", (1, 2)), ("frames", (2,))):
        buffer = rb.ReplayBuffer(5, view=rb.FrameStack(1, adds=adds))
        for t in range(20):
            buffer.add(np.full(shape, t), 0, 0.0, np.full(shape, t + 1), False, t % 7 == 0)
        buffer.check_valid()
        batch = buffer.read([15, 19])
        assert batch.obs.tolist() == [[[15, 15]], [[19, 19]]]
        assert batch.next_obs.tolist() == [[[16, 16]], [[20, 20]]]


def test_nested_observations_are_stacked_leaf_by_leaf():
    rng = np.random.default_rng(0)

    def make():
        camera = rng.integers(0, 9, (K, 4, 4)).astype(np.uint8)
        return {"camera": camera, "arm": (rng.random((K, 2)), rng.random(K))}

    schema = {
        "obs": {"camera": ("uint8", (K, 4, 4)), "arm": [("float64", (K, 2)), ("float64", (K,))]},
        "action": "int64",
    }
    buffer = rb.ReplayBuffer(100, schema, view=rb.FrameStack(K))
    told = [(make(), make()) for _ in range(30)]
    for obs, after in told:
        buffer.add(obs, 0, 0.0, after, False, False)
    batch = buffer.read(np.arange(30))
    assert same_bytes(batch.obs, stacked([obs for obs, _ in told]))
    assert same_bytes(batch.next_obs, stacked([after for _, after in told]))
    assert same_bytes(item(batch.obs, 3), told[3][0])
    buffer.check_valid()


# ---- memory ----


@pytest.mark.parametrize("axis", [0, -1])
def test_obs_and_next_obs_are_windows_of_one_block(axis):
    shape = (K, 8, 8) if axis == 0 else (8, 8, K)
    buffer, _ = lived("plain", 1000, 1, rb.FrameStack(K, axis=axis), shape, axis, "reset")
    batch = buffer.sample(16)
    assert np.shares_memory(batch.obs, batch.next_obs)
    first = np.moveaxis(batch.obs, 1 + axis % 3, 1)
    second = np.moveaxis(batch.next_obs, 1 + axis % 3, 1)
    assert second[0, 0].ctypes.data == first[0, 1].ctypes.data
    apart, _ = lived("dilated", 1000, 1, rb.FrameStack(K, axis=axis), shape, axis, "reset")
    batch = apart.sample(64)
    assert not np.shares_memory(batch.obs, batch.next_obs)


def test_a_linked_stream_keeps_one_frame_a_transition():
    """84 x 84 uint8, stack 4: 7,096 bytes a transition; one tail, nothing put aside."""
    n = 600
    buffer = rb.ReplayBuffer(n, {"obs": ("uint8", (K, 84, 84)), "action": "int64"}, view=rb.FrameStack(K))
    frames = np.random.default_rng(0).integers(0, 255, (n + K, 84, 84)).astype(np.uint8)
    frames[: K - 1] = frames[K - 1]
    for t in range(n):
        buffer.add(frames[t : t + K], 0, 0.0, frames[t + 1 : t + 1 + K], False, False)
    assert buffer.stats()["tails"] == 1
    assert buffer._rows._cursor[4] == 0
    assert buffer.nbytes < 7_200 * n
    assert buffer._rows.dtype.itemsize == 7_096


def test_frames_put_aside_are_given_back_when_their_row_leaves():
    buffer, _ = lived("shuffled", 50, 1, rb.FrameStack(K), (K, 2, 2), 0, "reset", calls=1000)
    used, free = buffer._rows._cursor[4:].tolist()
    assert used - free <= 50
    assert used <= 51
    assert len(buffer._rows.older) < 250
    buffer.clear()
    buffer.check_valid()


# ---- mistakes others made ----


def test_a_stack_does_not_mix_episodes():
    """dopamine#213: frames of the episode before in the first stacks of the next."""
    buffer = rb.ReplayBuffer(100, view=rb.FrameStack(K, adds="frames"))
    for episode in range(5):
        for t in range(3):
            frame = np.full((2, 2), 10 * episode + t, np.uint8)
            buffer.add(frame, 0, 0.0, frame + 1, False, t == 2)
    batch = buffer.read(np.arange(15))
    assert (batch.obs // 10 == np.repeat(np.arange(5), 3)[:, None, None, None]).all()


def test_the_next_observation_of_a_truncated_step_is_the_final_one():
    """Stable-Baselines3's and Tianshou's memory savers pair it with the next episode's reset, or with obs itself."""
    buffer = rb.ReplayBuffer(100, view=rb.FrameStack(2, adds="frames"))
    for t in range(6):
        buffer.add(np.uint8([t]), 0, 0.0, np.uint8([t + 1 if t % 3 < 2 else 100 + t]), False, t % 3 == 2)
    batch = buffer.read([2, 5])
    assert batch.next_obs[:, :, 0].tolist() == [[2, 102], [5, 105]]
    assert batch.truncated.all()
    assert not batch.terminated.any()


# ---- the rest ----


def test_batches_move_to_torch_and_through_pickle():
    torch = pytest.importorskip("torch")
    for shape, axis in SHAPES.values():
        for manner in ("plain", "dilated"):
            buffer, _ = lived(manner, 100, 1, rb.FrameStack(K, axis=axis), shape, axis, "reset")
            batch = buffer.sample(16)
            tensors = batch.to_torch()
            assert torch.equal(tensors.obs, torch.from_numpy(np.ascontiguousarray(batch.obs)))
            assert torch.equal(tensors.next_obs, torch.from_numpy(np.ascontiguousarray(batch.next_obs)))
            again = pickle.loads(pickle.dumps(batch))
            for name in list(batch.keys()):
                assert same_bytes(again[name], batch[name])


@pytest.mark.parametrize("manner", ["plain", "dilated", "shuffled"])
def test_a_pickled_buffer_goes_on(manner):
    buffer, oracle = lived(manner, 50, 2, rb.FrameStack(K), (K, 5, 3), 0, "reset")
    twin = pickle.loads(pickle.dumps(buffer))
    twin.check_valid()
    for one in (twin, copy.deepcopy(buffer)):
        ids = usable_ids(one)
        batch = one.read(ids)
        for i, id_ in enumerate(ids.tolist()):
            assert same_bytes(batch.obs[i], oracle.step(id_).fields["obs"])
        obs = np.zeros((2, K, 5, 3), np.uint8)
        for _ in range(40):
            one.add(obs, np.zeros(2, int), np.zeros(2), obs, np.zeros(2, bool), np.zeros(2, bool))
        one.check_valid()


def test_other_views_read_a_buffer_of_stacks_whole():
    buffer, oracle = lived("plain", 30, 1, rb.FrameStack(K), (K, 5, 3), 0, "reset")
    id_ = usable_ids(buffer)[-5]
    for view in (rb.Transition(), rb.NStep(1, 0.9)):
        assert same_bytes(buffer.read([id_], view=view).obs[0], oracle.step(id_).fields["obs"])
    lost = sorted(set(oracle.ids()) - set(usable_ids(buffer).tolist()))
    assert lost
    with pytest.raises(ValueError, match=f"indices: the view .* cannot use {lost[0]}"):
        buffer.read([id_, lost[0]], view=rb.Transition())


def test_a_view_set_later_reads_rows_as_they_are():
    buffer = rb.ReplayBuffer(10)
    obs = np.arange(K * 4, dtype=np.uint8).reshape(K, 4)
    buffer.add(obs, 0, 0.0, obs + 1, False, False)
    buffer.view = rb.FrameStack(K)
    assert same_bytes(buffer.sample(1).obs[0], obs)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"k": 0}, r"k must be an integer of at least 1 \(at most 2147483647\), given 0"),
        ({"k": 2.5}, "k must be an integer"),
        ({"k": 2**62}, "k must be an integer"),
        ({"k": 4, "axis": 1}, r"axis must be 0 \(first\) or -1 \(last\), given 1"),
        ({"k": 4, "padding": "same"}, 'padding must be "reset" or "zero", given \'same\''),
        ({"k": 4, "adds": "both"}, 'adds must be "stacks" or "frames"'),
        ({"k": 4, "view": rb.Uniform()}, "view must be Transition or NStep"),
    ],
)
def test_bad_arguments_are_named(arguments, error):
    with pytest.raises((ValueError, TypeError), match=error):
        rb.FrameStack(**arguments)


@pytest.mark.parametrize(("shape", "axis"), [((83, 3), 0), ((), 0), ((5, 84, 84), 0), ((4, 84, 83), -1)])
def test_an_observation_that_is_no_stack_is_refused(shape, axis):
    with pytest.raises(ValueError, match=r"obs: expected a stack of 5 frames|obs: expected a stack of 4 frames"):
        rb.ReplayBuffer(10, {"obs": ("uint8", shape), "action": "int64"}, view=rb.FrameStack(4, axis=axis))


@pytest.mark.parametrize("axis", [0, -1])
def test_a_stack_of_another_shape_is_refused_and_changes_nothing(axis):
    shape, wrong = ((K, 6, 2), (6, 2, K)) if axis == 0 else ((6, 2, K), (K, 6, 2))
    buffer = rb.ReplayBuffer(10, {"obs": ("uint8", shape), "action": "int64"}, view=rb.FrameStack(K, axis=axis))
    good = np.zeros(shape, np.uint8)
    for obs, after in ((np.zeros(wrong, np.uint8), good), (good, np.zeros(wrong, np.uint8))):
        with pytest.raises(ValueError, match="obs: expected shape"):
            buffer.add(obs, 0, 0.0, after, False, False)
    assert len(buffer) == 0
    buffer.add(good.astype(np.int64), 0, 0.0, good.tolist(), False, False)
    assert len(buffer) == 1


def test_single_frames_cannot_be_read_from_rows_that_keep_stacks():
    """A frame is larger there than what a row keeps of one: what lies behind the row would be read."""
    buffer, _ = lived("plain", 30, 1, rb.FrameStack(K), (K, 5, 3), 0, "reset")
    view = rb.FrameStack(K, adds="frames")
    id_ = usable_ids(buffer)[-1]
    with pytest.raises(ValueError, match=f'adds="frames", but this buffer keeps stacks of {K} frames'):
        buffer.read([id_], view=view)
    buffer.view = view
    with pytest.raises(ValueError, match='adds="frames"'):
        buffer.sample(1)


def test_room_for_frames_that_are_put_aside_is_at_most_two_stacks_a_row():
    """However many come at once; stacks that fit nothing, so that every row needs both."""
    capacity, n = 5, 1000
    buffer = rb.ReplayBuffer(capacity, {"obs": ("uint8", (K, 2)), "action": "int64"}, view=rb.FrameStack(K))
    rng = np.random.default_rng(0)
    obs, after = rng.integers(0, 256, (2, n, K, 2), np.uint8)
    for _ in range(3):
        buffer.extend(obs, np.zeros(n, int), np.zeros(n), after, np.zeros(n, bool), np.zeros(n, bool))
        buffer.check_valid()
    assert len(buffer._rows.older) == 2 * capacity
    batch = buffer.read(np.arange(3 * n - capacity, 3 * n))
    assert same_bytes(batch.obs, obs[-capacity:])
    assert same_bytes(batch.next_obs, after[-capacity:])
