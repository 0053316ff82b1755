"""What a stranger's mistakes are answered with: the hint fits the mistake, and what is printed can be read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import replaybank as rb

OBS = np.zeros(4, np.float32)
GOOD = {"obs": OBS, "action": 0, "reward": 0.0, "next_obs": OBS, "terminated": False, "truncated": False}


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("action", np.array([1]), "; of one stream there is no leading axis: give action[0]"),
        ("reward", np.array([1.0]), "; of one stream there is no leading axis: give reward[0]"),
        ("obs", OBS[None], "; of one stream there is no leading axis: give obs[0]"),
        ("obs", np.zeros((8, 4), np.float32), "; a leading axis of 8 looks like 8 streams (streams=8)"),
        ("action", OBS, ""),  # the places of two arguments were mixed up: nothing looks like streams
        ("reward", OBS, ""),
    ],
)
def test_a_leading_axis_is_called_streams_only_where_it_may_be(name: str, value: Any, hint: str) -> None:
    buffer = rb.ReplayBuffer(10)
    buffer.add(**GOOD)
    expected = f"{name}: expected shape {OBS.shape if name == 'obs' else ()}, given {value.shape}{hint}"
    with pytest.raises(ValueError, match="^" + re.escape(expected) + ("" if "looks" in hint else "$")):
        buffer.add(**{**GOOD, name: value})


IMAGES = {"image": np.zeros((2, 2), np.uint8)}
RESET = r"as env\.reset\(\) returns it, \(obs, info\): unpack it, obs, info = env\.reset\(\)$"
STEP = r"as env\.step\(action\) returns it, \(obs, reward, terminated, truncated, info\): unpack it$"


@pytest.mark.parametrize("known", [False, True], ids=["first add", "with a schema"])
@pytest.mark.parametrize("info", [{}, {"prob": 1.0}], ids=["no info", "info"])
@pytest.mark.parametrize("obs", [OBS, np.int64(3), IMAGES], ids=["Box", "Discrete", "Dict"])
def test_what_reset_and_step_return_is_told_from_an_observation(obs: Any, info: dict[str, Any], known: bool) -> None:
    """The argument that is wrong is named, not the other one, which does not look as it does."""
    buffer = rb.ReplayBuffer(10)
    good = GOOD | {"obs": obs, "next_obs": obs}
    if known:
        buffer.add(**good)
    for name in ("obs", "next_obs"):
        for returned, why in (((obs, info), RESET), ((obs, 0.0, False, False, info), STEP)):
            with pytest.raises(TypeError, match=f"^{name}: expected .*, given (a )?tuple {why}"):
                buffer.add(**good | {name: returned})
    assert len(buffer) == known


def test_observations_of_a_tuple_space_that_look_as_reset_returns_are_taken() -> None:
    buffer = rb.ReplayBuffer(10)
    obs = (OBS, {"speed": np.float32(2.0)})
    buffer.add(**GOOD | {"obs": obs, "next_obs": obs})
    assert buffer.sample(1).obs[1]["speed"].tolist() == [2.0]


def test_td_errors_of_steps_are_answered_with_what_makes_priorities_of_them() -> None:
    buffer = rb.ReplayBuffer(100, view=rb.Sequence(5), sampler=rb.Prioritized(), seed=0)
    for _ in range(20):
        buffer.add(**GOOD)
    batch = buffer.sample(4)
    with pytest.raises(
        ValueError, match=r"given \(4, 5\); of a sequence's steps view\.priority\(td_error, batch\.mask\)"
    ):
        buffer.update_priorities(batch.indices, np.ones((4, 5)))
    with pytest.raises(ValueError, match=r"given \(4, 1\)$"):
        buffer.update_priorities(batch.indices, np.ones((4, 1)))


@pytest.mark.parametrize(
    "part",
    [
        rb.Uniform(replace=False),
        rb.Prioritized(alpha=0.7, beta=rb.linear(0.4, 1.0, steps=10)),
        rb.RankPrioritized(),
        rb.Recent(eta=0.99, updates=10, minimum=5),
        rb.Combined(rb.Prioritized()),
        rb.Mixture([(0.7, rb.Prioritized()), (0.3, rb.Uniform())]),
        rb.SampleOnce(),
        rb.Transition(gamma=0.9),
        rb.NStep(3, gamma=0.9),
        rb.Sequence(20, burn_in=5),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_part_is_shown_as_the_call_that_makes_it(part: Any) -> None:
    again = eval(repr(part), vars(rb))
    assert type(again) is type(part)
    assert repr(again) == repr(part)
    assert repr(again.settings()) == repr(part.settings())


def test_a_buffer_is_shown_with_its_parts_and_their_settings() -> None:
    buffer = rb.ReplayBuffer(10, view=rb.NStep(3, gamma=0.9))
    assert repr(buffer) == "ReplayBuffer(0 of 10 transitions, 1 stream, Uniform(replace=True), NStep(n=3, gamma=0.9))"


def test_what_the_recorder_tells_of_scalar_rewards_goes_into_json() -> None:
    with closing(gymnasium.make("CartPole-v1")) as env:
        recorder = rb.Recorder(env, rb.ReplayBuffer(100, rb.schema_of(env)))
        episodes = recorder.run(lambda obs: 0, 30)
    assert json.loads(json.dumps(recorder.stats())) == recorder.stats()
    assert json.loads(json.dumps(episodes[0])) == list(episodes[0])


def test_a_file_where_the_checkpoint_should_be_is_named_and_stays(tmp_path: Path) -> None:
    buffer = rb.ReplayBuffer(10)
    buffer.add(**GOOD)
    path = tmp_path / "replay"
    path.write_text("mine")
    with pytest.raises(
        NotADirectoryError, match=re.escape(f"{path}: expected a folder, or nothing yet; a file is there")
    ):
        buffer.save(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("shape", "axis", "advice"),
    [
        ((84, 84, 4), 0, "last axis need axis=-1"),
        ((4, 84, 84), -1, "first axis need axis=0"),
        ((84, 84, 3), 0, "single"),
    ],
)
def test_rows_of_pixels_taken_for_frames_are_warned_of(shape: tuple[int, ...], axis: Any, advice: str) -> None:
    buffer = rb.ReplayBuffer(10, view=rb.FrameStack(4, axis=axis))
    image = np.zeros(shape, np.uint8)
    with pytest.warns(UserWarning, match=f"obs: shape .* is taken for 4 frames .*{advice}"):
        buffer.add(image, 0, 0.0, image, False, False)


@pytest.mark.parametrize(("shape", "axis"), [((4, 84, 84), 0), ((12, 84, 84), 0), ((84, 84, 4), -1), ((4 * 17,), 0)])
def test_stacks_as_environments_give_them_are_not_warned_of(shape: tuple[int, ...], axis: Any) -> None:
    buffer = rb.ReplayBuffer(10, view=rb.FrameStack(4, axis=axis))
    stack = np.zeros(shape, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.add(stack, 0, 0.0, stack, False, False)


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("torch", "import replaybank.torch", "torch"),
        ("jax", "import replaybank.jax", "jax"),
        ("stable_baselines3", "import replaybank.adapters.sb3", "sb3"),
        ("tianshou", "import replaybank.adapters.tianshou", "tianshou"),
        ("h5py", "import replaybank.adapters.tianshou", "tianshou"),
        ("minari", "import replaybank.adapters.minari", "minari"),
        ("torch", "import replaybank.adapters.cleanrl", "torch,gym"),
        ("ray", "import replaybank.ray", "ray"),
        ("plotly", "import replaybank.inspection.page", "inspect"),
    ],
)
def test_where_a_package_is_missing_the_extra_that_has_it_is_named(missing: str, code: str, extra: str) -> None:
    without = f"""
import sys
import replaybank as rb
sys.modules[{missing!r}] = None
{code}
"""
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"pip install 'replaybank[{extra}]'"
