"""RLlib's DQN on our buffers, and its own buffers as the oracle for what a sample is."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs RLlib", exc_type=ImportError)

import gymnasium as gym
import torch
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import TD_ERROR_KEY
from ray.rllib.utils.replay_buffers import episode_replay_buffer, prioritized_episode_buffer

from replaybank.adapters.rllib import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer

# Ray forks to start its processes, and JAX, where other tests have imported it, warns of any fork.
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")

PATH = "replaybank.adapters.rllib."
BOTH = pytest.mark.parametrize("cls", [EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer])
GAMMA = 0.5  # with rewards in eighths every sum is exact in float32


# ---- episodes by hand: every observation and every reward is different ----


def episode(length: int, number: int, end: str = "terminated") -> SingleAgentEpisode:
    """An episode of `length` steps; observation t is [number, t], reward t is number + t / 8."""
    made = SingleAgentEpisode(id_=f"episode {number}", observation_space=SPACE, action_space=ACTIONS)
    made.add_env_reset(np.array([number, 0], np.float32))
    for t in range(length):
        last = t == length - 1
        made.add_env_step(
            np.array([number, t + 1], np.float32),
            np.int64(t % 2),
            number + t / 8,
            terminated=last and end == "terminated",
            truncated=last and end == "truncated",
        )
    return made


SPACE = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
ACTIONS = gym.spaces.Discrete(2)
ENDS = ("terminated", "truncated", "open")


def some_episodes() -> list[SingleAgentEpisode]:
    """Short and long ones, of each kind of end."""
    return [episode(length, number, ENDS[number % 3]) for number, length in enumerate([1, 2, 3, 5, 7, 2, 9, 1, 4])]


def in_chunks(whole: SingleAgentEpisode, lengths: list[int]) -> list[SingleAgentEpisode]:
    """The episode as an EnvRunner hands it out: chunks with a lookback of one step; the last takes what is left."""
    chunks = []
    at = 0
    observations, actions, rewards = whole.get_observations(), whole.get_actions(), whole.get_rewards()
    growing = SingleAgentEpisode(id_=whole.id_, observation_space=SPACE, action_space=ACTIONS)
    growing.add_env_reset(observations[0])
    for n in [*lengths, len(whole) - sum(lengths)]:
        for t in range(at, at + n):
            last = t == len(whole) - 1
            growing.add_env_step(
                observations[t + 1],
                actions[t],
                rewards[t],
                terminated=last and whole.is_terminated,
                truncated=last and whole.is_truncated,
            )
        at += n
        chunks.append(growing)
        if not growing.is_done:
            growing = growing.cut(len_lookback_buffer=1)
    return [chunk.to_numpy() for chunk in chunks]


def row(sampled: SingleAgentEpisode) -> tuple[Any, ...]:
    """What the learner reads from a sampled episode of one step, but for n_step and weights."""
    assert len(sampled) == 1
    before, after = sampled.get_observations(slice(0, 2))
    reward = float(sampled.get_rewards(0))
    flags = bool(sampled.is_terminated), bool(sampled.is_truncated)
    return (*map(float, before), int(sampled.get_actions(0)), reward, *map(float, after), *flags, sampled.t_started)


def output(sampled: SingleAgentEpisode, name: str) -> float:
    (value,) = sampled.get_extra_model_outputs(name, slice(0, 1))
    return float(value)


def n_step_row(whole: SingleAgentEpisode, t: int, n: int) -> tuple[tuple[Any, ...], int]:
    """The row that n steps from t on should make, straight from the episode, and how many steps there are."""
    k = min(n, len(whole) - t)
    before, after = whole.get_observations(t), whole.get_observations(t + k)
    reward = sum(GAMMA**i * float(whole.get_rewards(t + i)) for i in range(k))
    at_end = t + k == len(whole)
    flags = at_end and whole.is_terminated, at_end and whole.is_truncated
    return (*map(float, before), int(whole.get_actions(t)), reward, *map(float, after), *flags, t), k


def each_once(buffer: EpisodeReplayBuffer, n: int) -> list[SingleAgentEpisode]:
    """Every transition of a uniform buffer, each exactly once."""
    buffer.buffer.sampler.replace = False
    return buffer.sample(len(buffer), n_step=n, gamma=GAMMA)


class InTurn:
    """In place of the generator of RLlib's buffers: every start in turn."""

    def __init__(self, size: int) -> None:
        self.size, self.next = size, -1

    def integers(self, most: int) -> int:
        assert most == self.size
        self.next = (self.next + 1) % self.size
        return self.next

    def random(self) -> float:
        return (self.integers(self.size) + 0.5) / self.size


# ---- RLlib's own buffers as oracles ----


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_same_transitions_come_out_as_of_rllibs_uniform_buffer(n: int) -> None:
    ours, theirs = EpisodeReplayBuffer(1000), episode_replay_buffer.EpisodeReplayBuffer(1000)
    for chunk in [chunk for whole in some_episodes() for chunk in in_chunks(whole, [1] if len(whole) > 3 else [])]:
        ours.add(chunk)
        theirs.add(chunk)
    theirs.rng = InTurn(len(theirs))
    expected = theirs.sample(len(theirs), n_step=n, gamma=GAMMA, sample_episodes=True)
    found = each_once(ours, n)
    assert len(ours) == len(theirs) == len(expected) == 34

    # Windows that an end cut short differ: theirs are marked as of n steps, and neither terminated nor truncated.
    def as_they_mark_it(one: SingleAgentEpisode) -> tuple[Any, ...]:
        whole = output(one, "n_step") == n
        return (*row(one)[:6], *(row(one)[6:8] if whole else (False, False)), one.t_started, n)

    assert Counter(map(as_they_mark_it, found)) == Counter((*row(one), output(one, "n_step")) for one in expected)
    assert Counter(map(row, found)) == Counter(n_step_row(w, t, n)[0] for w in some_episodes() for t in range(len(w)))
    steps = {row(one): output(one, "n_step") for one in found}
    assert steps == dict(n_step_row(whole, t, n) for whole in some_episodes() for t in range(len(whole)))
    assert {output(one, "weights") for one in found} == {output(one, "weights") for one in expected} == {1.0}


@pytest.mark.parametrize("n", [1, 3])
def test_weights_and_transitions_are_those_of_rllibs_prioritized_buffer(n: int) -> None:
    def priority(of: SingleAgentEpisode) -> float:
        return 0.25 + row(of)[3] % 1.7  # by the reward of the first step, once n is 1

    ours = PrioritizedEpisodeReplayBuffer(64, alpha=0.6, seed=0)
    theirs = prioritized_episode_buffer.PrioritizedEpisodeReplayBuffer(64, alpha=0.6)
    for one in some_episodes():
        ours.add(one)
        theirs.add(one)
    theirs.rng = InTurn(len(theirs))
    first = theirs.sample(len(theirs), gamma=GAMMA, beta=0.0)
    theirs.update_priorities(np.array([priority(one) for one in first]))
    drawn: set[Any] = set()
    while len(drawn) < len(ours):  # until each has had its priority
        sampled = ours.sample(256, gamma=GAMMA)
        ours.update_priorities(np.array([priority(one) for one in sampled]))
        drawn |= set(map(row, sampled))

    theirs.rng = np.random.default_rng(1)
    expected = theirs.sample(3000, n_step=n, gamma=GAMMA, beta=0.7)
    found = [one for _ in range(375) for one in ours.sample(8, n_step=n, gamma=GAMMA, beta=0.7)]
    their_weights = {row(one): output(one, "weights") for one in expected}
    our_weights = {row(one): output(one, "weights") for one in found}
    assert their_weights == {r: pytest.approx(our_weights[r], rel=1e-5) for r in their_weights}
    # They never draw the last n - 1 starts of an episode, we do.
    late = [n_step_row(whole, t, n) for whole in some_episodes() for t in range(len(whole)) if t > len(whole) - n]
    assert our_weights.keys() - their_weights.keys() == {r for r, _ in late}
    assert {row(one): output(one, "n_step") for one in found if row(one) not in their_weights} == dict(late)


# ---- episodes in, transitions out ----


@BOTH
@pytest.mark.parametrize("end", ENDS)
def test_no_start_near_an_end_is_lost_and_truncation_bootstraps_from_the_final_observation(cls: Any, end: str) -> None:
    buffer = cls(100, seed=0)
    whole = episode(6, 3, end)
    buffer.add(whole)
    found = {row(one): output(one, "n_step") for one in buffer.sample(200, n_step=4, gamma=GAMMA)}
    assert found == dict(n_step_row(whole, t, 4) for t in range(6))
    last = max(found, key=lambda r: r[-1])
    assert last[4:] == (3.0, 6.0, end == "terminated", end == "truncated", 5)
    assert found[last] == 1


@BOTH
def test_chunks_of_an_episode_are_one_episode(cls: Any) -> None:
    episodes = [episode(12, number, ENDS[number % 3]) for number in range(4)]
    streams = [in_chunks(whole, [3, 1, 5]) for whole in episodes]
    buffer = cls(100, seed=0)
    for turn in zip(*streams, strict=True):  # all under way at once, as from a vector environment
        buffer.add(list(turn))
    found = {row(one): output(one, "n_step") for one in buffer.sample(2000, n_step=5, gamma=GAMMA)}
    assert found == dict(n_step_row(whole, t, 5) for whole in episodes for t in range(12))
    assert buffer.get_num_episodes() == 4
    assert buffer.buffer.stats()["tails"] == 4


def test_more_episodes_under_way_than_streams_shortens_windows_and_loses_nothing() -> None:
    episodes = [episode(12, number) for number in range(4)]
    streams = [in_chunks(whole, [3, 1, 5]) for whole in episodes]
    buffer = EpisodeReplayBuffer(100, streams=2, seed=0)
    for turn in zip(*streams, strict=True):
        buffer.add(list(turn))
    assert Counter(map(row, each_once(buffer, 1))) == Counter(
        n_step_row(whole, t, 1)[0] for whole in episodes for t in range(12)
    )
    shortened = 0
    for one in each_once(buffer, 5):
        k = int(output(one, "n_step"))
        whole = episodes[int(row(one)[0])]
        assert row(one) == n_step_row(whole, one.t_started, k)[0]
        chunk_end = next(end for end in (3, 4, 9, 12) if end > one.t_started)
        assert k >= min(5, chunk_end - one.t_started)
        shortened += k < n_step_row(whole, one.t_started, 5)[1]
    assert shortened > 20


def test_an_episode_that_ended_makes_room_before_one_that_goes_on() -> None:
    whole = episode(12, 0)
    buffer = EpisodeReplayBuffer(100, streams=2, seed=0)
    for number, chunk in enumerate(in_chunks(whole, [3, 3, 3])):
        buffer.add(chunk)
        buffer.add([episode(2, 10 * number + other) for other in (1, 2, 3)])
    found = {row(one): output(one, "n_step") for one in each_once(buffer, 12) if row(one)[0] == 0}
    assert found == dict(n_step_row(whole, t, 12) for t in range(12))


def test_episodes_that_look_alike_are_never_joined() -> None:
    def still(number: int) -> list[SingleAgentEpisode]:
        made = SingleAgentEpisode(id_=str(number))
        made.add_env_reset(np.zeros(2, np.float32))
        chunks = []
        for t in range(6):
            made.add_env_step(np.zeros(2, np.float32), 0, 10.0**number)
            if t % 3 == 2:
                chunks.append(made)
                made = made.cut()
        return chunks

    first, second, third = still(0), still(1), still(2)
    buffer = EpisodeReplayBuffer(100, streams=1, seed=0)  # each chunk takes the stream of another, still open episode
    for chunk in (first[0], second[0], first[1], third[0], second[1], third[1]):
        buffer.add(chunk)
    sums = {one.get_rewards(0) for one in buffer.sample(600, n_step=3, gamma=1.0)}
    assert sums == {k * 10.0**number for k in (1, 2, 3) for number in range(3)}


def test_a_missing_chunk_ends_the_windows_before_it() -> None:
    first, _, third = in_chunks(episode(12, 0), [4, 4])
    buffer = EpisodeReplayBuffer(100, seed=0)
    buffer.add([first, third])
    found = {one.t_started: (output(one, "n_step"), row(one)[4:6]) for one in each_once(buffer, 9)}
    assert [found[t] for t in range(4)] == [(4 - t, (0.0, 4.0)) for t in range(4)]


@BOTH
def test_n_step_is_drawn_for_each_transition_from_a_half_open_range(cls: Any) -> None:
    whole = episode(500, 0)
    buffer = cls(1000, seed=0)
    buffer.add(whole)
    sampled = buffer.sample(3000, n_step=(2, 5), gamma=GAMMA)
    counts = Counter(int(output(one, "n_step")) for one in sampled if one.t_started < 496)
    assert counts.keys() == {2, 3, 4}
    # 1000 of each expected, standard deviation 26: a share off by a sixth would show with a probability above 0.99.
    assert all(abs(count - 1000) < 110 for count in counts.values())
    for one in sampled:
        k = int(output(one, "n_step"))
        assert (row(one), k) == n_step_row(whole, one.t_started, k)


def test_episodes_of_lists_nested_observations_and_discrete_ones_are_understood() -> None:
    def nested(numpy: bool) -> SingleAgentEpisode:
        made = SingleAgentEpisode(id_=str(numpy))
        made.add_env_reset({"a": np.zeros(2), "b": (np.int64(0), np.full(1, 5, np.uint8))})
        for t in range(1, 4):
            made.add_env_step({"a": np.full(2, t), "b": (np.int64(t), np.full(1, 5 + t, np.uint8))}, 0, t)
        return made.to_numpy() if numpy else made

    buffer = EpisodeReplayBuffer(100, seed=0)
    buffer.add([nested(numpy=False), nested(numpy=True)])
    for one in each_once(buffer, 2):
        before, after = one.get_observations(0), one.get_observations(1)
        t, k = one.t_started, output(one, "n_step")
        assert (before["a"].tolist(), before["b"][0], before["b"][1].tolist()) == ([t, t], t, [5 + t])
        assert (after["a"].tolist(), after["b"][0], after["b"][1].tolist()) == ([t + k] * 2, t + k, [5 + t + k])
    places = EpisodeReplayBuffer(100, seed=0)
    places.add(SingleAgentEpisode(observations=[3, 1, 2], actions=[0, 1], rewards=[0, 1], len_lookback_buffer=0))
    assert {(one.get_observations(0), one.get_observations(1)) for one in places.sample(50)} == {(3, 1), (1, 2)}


def test_samples_can_be_made_numpy_and_have_ids_of_their_own() -> None:
    buffer = EpisodeReplayBuffer(100, seed=0)
    buffer.add(episode(3, 1))
    sampled = buffer.sample(64, n_step=(1, 3), to_numpy=True)
    assert all(one.is_numpy for one in sampled)
    assert len({one.id_ for one in sampled}) == 64
    assert all((one.observation_space, one.action_space) == (SPACE, ACTIONS) for one in sampled)


@BOTH
def test_exactly_the_last_timesteps_are_held_and_counted(cls: Any) -> None:
    buffer = cls(20, seed=0, batch_size_B=7)
    added: list[tuple[Any, ...]] = []
    for number, length in enumerate([8, 3, 25, 6, 9]):
        whole = episode(length, number, "open")
        buffer.add(whole)
        added += [n_step_row(whole, t, 1)[0] for t in range(length)]
        buffer.buffer.check_valid()
        assert len(buffer) == buffer.get_num_timesteps() == min(20, len(added))
        assert buffer.get_num_episodes() == len({r[0] for r in added[-20:]})
        assert set(map(row, buffer.sample(500, gamma=GAMMA))) == set(added[-20:])
    assert len(buffer.sample()) == 7
    assert buffer.get_added_timesteps() == 51
    assert buffer.get_sampled_timesteps() == 2507
    assert buffer.get_num_episodes_evicted() == 2
    metrics = buffer.get_metrics()
    counted = {
        "num_env_steps_added_lifetime": 51,
        "num_env_steps_evicted_lifetime": 31,
        "num_env_steps_sampled_lifetime": 2507,
        "num_episodes_added_lifetime": 5,
        "num_episodes_evicted_lifetime": 2,
    }
    assert {name: metrics[name].peek() for name in counted} == counted


# ---- priorities ----


def test_priorities_are_those_of_the_last_sample_in_its_order() -> None:
    buffer = PrioritizedEpisodeReplayBuffer(100, alpha=1.0, seed=0)
    buffer.add(episode(10, 0))
    sampled = buffer.sample(400)
    buffer.update_priorities(np.array([one.t_started == 7 for one in sampled], np.float32), DEFAULT_MODULE_ID)
    assert {one.t_started for one in buffer.sample(400)} == {7}


@pytest.mark.parametrize(
    ("priorities", "message"), [(np.ones(3), "shape"), (np.full(4, np.nan), "finite"), (np.ones((4, 1)), "shape")]
)
def test_wrong_priorities_are_refused_and_change_nothing(priorities: Any, message: str) -> None:
    buffer = PrioritizedEpisodeReplayBuffer(100, seed=0)
    buffer.add(episode(10, 0))
    buffer.sample(4)
    with pytest.raises(ValueError, match=message):
        buffer.update_priorities(priorities)
    buffer.update_priorities(np.ones(4))
    with pytest.raises(ValueError, match="take turns"):
        buffer.update_priorities(np.ones(4))


# ---- state ----


@BOTH
def test_a_restored_buffer_goes_on_with_the_same_samples(cls: Any) -> None:
    def rows_of(buffer: Any) -> list[Any]:
        sampled = buffer.sample(128, n_step=(1, 4), gamma=GAMMA)
        return [(row(one), output(one, "n_step"), output(one, "weights")) for one in sampled]

    early, late = in_chunks(episode(12, 5), [7])
    buffer = cls(30, streams=3, seed=0)
    buffer.add([episode(25, 0), early])
    rows_of(buffer)
    state = pickle.loads(pickle.dumps(buffer.get_state()))
    other = cls(30, streams=3, seed=1)
    other.add(episode(4, 9, "open"))
    other.set_state(state)
    for one in (buffer, other):  # the state holds the sample that was under way
        if cls is PrioritizedEpisodeReplayBuffer:
            one.update_priorities(np.linspace(0.1, 3, 128))
    expected = rows_of(buffer)
    assert rows_of(other) == expected
    buffer.add(late)
    other.add(late)
    expected = rows_of(buffer)
    assert rows_of(other) == expected
    third = cls(30, streams=3)
    third.set_state(state)  # what was restored from it went on; the state did not
    assert (third.get_num_episodes(), third.get_added_timesteps(), third.get_sampled_timesteps()) == (2, 32, 128)


def test_the_state_of_another_kind_of_buffer_is_refused() -> None:
    state = EpisodeReplayBuffer(30).get_state()
    for other in (EpisodeReplayBuffer(31), PrioritizedEpisodeReplayBuffer(30), EpisodeReplayBuffer(30, streams=1)):
        with pytest.raises(ValueError, match="expected a state of"):
            other.set_state(state)


# ---- what it cannot do ----


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"batch_length_T": 20}, "sequences"),
        ({"lookback": 1}, "sequences"),
        ({"min_batch_length_T": 4}, "sequences"),
        ({"include_infos": True}, "infos"),
        ({"include_extra_model_outputs": True}, "model outputs"),
        ({"sample_episodes": False}, "gives episodes"),
        ({"num_items": 4, "batch_size_B": 4}, "both"),
        ({"n_step": 0}, "n_step"),
        ({"n_step": (3, 3)}, "n_step"),
        ({"n_step": (0, 3)}, "n_step"),
        ({"gamma": 1.5}, "gamma"),
    ],
)
@BOTH
def test_what_it_does_not_give_is_refused(cls: Any, request_: dict[str, Any], message: str) -> None:
    buffer = cls(100, seed=0)
    buffer.add(episode(10, 0))
    with pytest.raises(ValueError, match=message):
        buffer.sample(**request_)
    assert buffer.get_sampled_timesteps() == 0


def test_only_episodes_of_one_agent_are_taken() -> None:
    buffer = EpisodeReplayBuffer(100)
    with pytest.raises(TypeError, match="MultiAgentEpisode"):
        buffer.add([episode(3, 0), MultiAgentEpisode()])
    assert len(buffer) == 0
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1)
    with pytest.raises(ValueError, match="sequences"):
        EpisodeReplayBuffer(100, batch_length_T=64)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"capacity": None}, "^capacity: expected an integer, given None$"),
    ({"capacity": "100"}, "^capacity: expected an integer, given '100'$"),
    ({"batch_size_B": "32"}, "^batch_size_B: expected an integer, given '32'$"),
    ({"seed": "0"}, "^seed: expected an integer, given '0'$"),
    ({"batch_length_T": "4"}, "^this buffer gives single transitions.*given 4, "),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
@BOTH
def test_settings_that_are_no_numbers_are_named(cls: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        cls(**{"capacity": 100} | given)


def test_a_setting_that_is_not_there_is_refused_with_those_that_are() -> None:
    """A config is a dictionary: a wrong name is no editor's to find."""
    expected = (
        "^buffer_size: no setting of PrioritizedEpisodeReplayBuffer: expected capacity, alpha, .*, streams, seed$"
    )
    with pytest.raises(TypeError, match=expected):
        PrioritizedEpisodeReplayBuffer(buffer_size=100)


@pytest.mark.parametrize("given", [None, {"obs": 1}, [{"obs": 1}], [1.0]], ids=["None", "dict", "dicts", "numbers"])
def test_what_is_no_episode_is_refused(given: Any) -> None:
    buffer = EpisodeReplayBuffer(100)
    with pytest.raises(TypeError, match=r"^add: expected SingleAgentEpisode, given .*; not transitions$"):
        buffer.add(given)
    assert len(buffer) == 0


@pytest.mark.parametrize("n_step", ["3", 1.5, (1,), (1, 2, 3), (1, 2.5)])
def test_a_window_that_is_no_number_or_pair_is_refused(n_step: Any) -> None:
    buffer = EpisodeReplayBuffer(100)
    buffer.add(episode(10, 0))
    with pytest.raises(TypeError, match=r"^sample: n_step must be an integer, or a pair of them"):
        buffer.sample(2, n_step=n_step)


def test_priorities_given_after_indices_are_refused() -> None:
    """`update_priorities(indices, priorities)`, as of most buffers, would set the priorities to the indices."""
    buffer = PrioritizedEpisodeReplayBuffer(100, seed=0)
    buffer.add(episode(10, 0))
    buffer.sample(4)
    sampler = buffer.buffer.sampler
    before = sampler.state()["priorities"].copy()
    with pytest.raises(TypeError, match=r"^update_priorities: expected the priorities alone.*no indices are needed$"):
        buffer.update_priorities(np.arange(4), np.ones(4))  # type: ignore[arg-type]
    np.testing.assert_array_equal(sampler.state()["priorities"], before)
    buffer.update_priorities(np.full(4, 7.0))
    assert sampler.state()["priorities"].max() == pytest.approx(7.0)


@pytest.mark.parametrize("state", [None, {}, {"_num_timesteps": 3}])
def test_a_state_of_something_else_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"^set_state: expected what get_state"):
        EpisodeReplayBuffer(100).set_state(state)


# ---- RLlib trains on it ----


@pytest.fixture(scope="module")
def running_ray(ray_session: None) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dqn(kind: str, n_step: Any = 1, envs: int = 1, **settings: Any) -> DQNConfig:
    return (
        DQNConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
        .learners(num_learners=0)
        .training(
            train_batch_size=32,
            n_step=n_step,
            num_steps_sampled_before_learning_starts=100,
            replay_buffer_config={"type": PATH + kind, "capacity": 1000, "seed": 0, **settings},
        )
        .reporting(min_sample_timesteps_per_iteration=200, min_time_s_per_iteration=0)
        .debugging(seed=0, log_level="ERROR")
    )


@pytest.mark.usefixtures("running_ray")
def test_dqn_trains_on_uniform_samples_of_a_vector_environment() -> None:
    algorithm = dqn("EpisodeReplayBuffer", n_step=3, envs=2).build_algo()
    results = [algorithm.train() for _ in range(2)]
    buffer = algorithm.local_replay_buffer
    assert type(buffer) is EpisodeReplayBuffer
    buffer.buffer.check_valid()
    assert buffer.get_added_timesteps() == results[-1]["num_env_steps_sampled_lifetime"]
    assert buffer.get_sampled_timesteps() == results[-1]["replay_buffer"]["num_env_steps_sampled_lifetime"] > 1000
    assert np.isfinite(results[-1]["learners"][DEFAULT_MODULE_ID]["qf_loss"])
    runs = list(buffer.buffer.segments())  # of two environments, each episode in one piece
    assert len(runs) == buffer.get_num_episodes() > 3
    assert sum(not run.ended for run in runs) <= 2
    algorithm.stop()


@pytest.mark.usefixtures("running_ray")
def test_dqn_trains_on_prioritized_samples_and_goes_on_from_a_checkpoint(tmp_path: Any) -> None:
    algorithm = dqn("PrioritizedEpisodeReplayBuffer", n_step=(1, 4), alpha=0.6, beta=0.4).build_algo()
    algorithm.train()
    buffer = algorithm.local_replay_buffer
    assert type(buffer) is PrioritizedEpisodeReplayBuffer
    stats = buffer.buffer.stats()
    assert stats["updated"] == stats["sampled"] > 500
    priorities = buffer.buffer.sampler.priority_of(np.arange(stats["added"]))
    assert len(np.unique(priorities)) > 50
    checkpoint, state = algorithm.save_to_path(str(tmp_path)), pickle.dumps(buffer.get_state())
    algorithm.stop()

    algorithm = DQN.from_checkpoint(checkpoint)
    assert len(algorithm.local_replay_buffer) == 0, "RLlib saves the buffer itself now: say so in the docstring"
    algorithm.local_replay_buffer.set_state(pickle.loads(state))
    algorithm.train()
    after = algorithm.local_replay_buffer.buffer.stats()
    assert after["added"] >= stats["added"] + 200
    assert after["updated"] == after["sampled"] > stats["sampled"]
    algorithm.stop()


@pytest.mark.usefixtures("running_ray")
def test_td_errors_come_back_in_the_order_of_the_sample() -> None:
    """Rewards of thousands beside Q-values near 0: each TD error is its transition's reward, nearly."""
    algorithm = dqn("PrioritizedEpisodeReplayBuffer").build_algo()
    buffer = algorithm.local_replay_buffer
    made = SingleAgentEpisode(observation_space=algorithm.env_runner.env.single_observation_space)
    made.add_env_reset(np.zeros(4, np.float32))
    for t in range(20):
        made.add_env_step(np.full(4, t / 20, np.float32), t % 2, 1000.0 * t, terminated=t == 19)
    buffer.add(made)
    drawn = buffer.sample(64, n_step=1, gamma=GAMMA, beta=0.4)  # stratified: from the oldest to the newest
    sampled = [drawn[i] for i in np.random.default_rng(0).permutation(64)]
    (results,) = algorithm.learner_group.update(episodes=sampled, timesteps={"num_env_steps_sampled_lifetime": 20})
    td_errors = np.concatenate([np.atleast_1d(part) for part in results[DEFAULT_MODULE_ID][TD_ERROR_KEY].peek()])
    assert np.round(td_errors / 1000).tolist() == [one.t_started for one in sampled]
    algorithm.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
def test_sac_trains_where_its_buffer_is_set_after_building() -> None:
    from ray.rllib.algorithms.sac import SACConfig

    algorithm = (
        SACConfig()
        .environment("Pendulum-v1")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(
            train_batch_size_per_learner=32,
            num_steps_sampled_before_learning_starts=100,
            replay_buffer_config={"type": "EpisodeReplayBuffer"},
        )
        .reporting(min_sample_timesteps_per_iteration=200, min_time_s_per_iteration=0)
        .debugging(seed=0, log_level="ERROR")
    ).build_algo()
    algorithm.local_replay_buffer = PrioritizedEpisodeReplayBuffer(1000, alpha=0.6, seed=0)
    algorithm.train()
    stats = algorithm.local_replay_buffer.buffer.stats()
    assert stats["updated"] == stats["sampled"] > 500
    algorithm.stop()
