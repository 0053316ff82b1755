"""Frames and sequences: every library gives back what it was given, and where it does not, the benchmark counts it."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frames
import frames_data
import memory
import sequences
from adapters.frames import BUFFERS as FRAME_BUFFERS
from adapters.frames import FRAME_CONTENDERS, FrameFloorFresh, FrameFloorReused, ready
from adapters.sequences import LENGTH, SEQUENCE_CONTENDERS, Gather, SequenceContender, SequenceFloor, episodes
from bars import Bar
from contender import Contender, LeftOutError, Role, Setup
from floor import FrameFloor
from frames_data import FRAME_BYTES, SIDE, STACK, Frames, random_frames
from measuring import Settings

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend

CAPACITY = 256
BEYOND = 64
#: Their own mistakes, which the benchmark is there to count.
MISTAKEN = {
    "Tianshou, ignore_obs_next and stack_num",
    "cpprb, next_of and stack_compress",
    "SB3, optimize_memory_usage",
    "Flashbax trajectories",
}


@cache
def experience() -> Frames:
    return random_frames(CAPACITY + BEYOND, np.random.default_rng(1))


@pytest.fixture
def data() -> Frames:
    return experience()


@cache
def built(kind: type[Contender], prioritized: bool) -> Contender | ImportError | LeftOutError:
    try:
        return ready(kind, Setup(CAPACITY, prioritized=prioritized), experience())
    except (ImportError, LeftOutError) as error:
        return error


def full(kind: type[Contender], prioritized: bool) -> Contender:
    """A buffer that has wrapped around; skips, with the reason, where there is none. Our own is never skipped."""
    contender = built(kind, prioritized)
    if isinstance(contender, Contender):
        return contender
    if kind.role is Role.OURS:
        raise contender
    pytest.skip(f"{kind.name}: {contender!r}")


def stack_by_hand(data: Frames, number: int, after: int) -> np.ndarray[Any, Any]:
    """What Gymnasium's FrameStackObservation shows before (after=0) or after (1) a transition: from a plain list."""
    starts = [0] + [index + 1 for index in range(len(data)) if data.terminated[index] or data.truncated[index]]
    start = max(index for index in starts if index <= number)
    first = start + starts.index(start)  # an episode has one frame more than transitions
    seen = [data.frames[first]] * STACK + [data.frames[first + 1 + step] for step in range(number - start + after)]
    return np.stack(seen[-STACK:])


def test_steps_are_stacked_as_gymnasium_does(data: Frames) -> None:
    for number, (obs, action, reward, next_obs, terminated, truncated) in enumerate(data.steps()):
        np.testing.assert_array_equal(obs, stack_by_hand(data, number, 0))
        np.testing.assert_array_equal(next_obs, stack_by_hand(data, number, 1))
        assert (action, reward) == (data.action[number], number)
        assert (terminated, truncated) == (data.terminated[number], data.truncated[number])


def test_a_part_is_the_beginning(data: Frames) -> None:
    part = data.part(100)
    for (obs, *_), (expected, *_) in zip(part.steps(), data.steps(), strict=False):
        np.testing.assert_array_equal(obs, expected)
    assert len(part) == 100
    assert len(part.frames) == part.newest[-1] + 2


@pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("kind", FRAME_BUFFERS, ids=lambda kind: kind.name)
def test_stacks_come_back_as_they_were_added(kind: type[Contender], prioritized: bool, data: Frames) -> None:
    contender = full(kind, prioritized)
    columns = contender.columns(contender.sample(128))
    numbers = np.asarray(columns["reward"]).astype(np.int64)
    assert numbers.min() >= BEYOND
    obs, next_obs = (np.asarray(columns[name]) for name in ("obs", "next_obs"))
    assert obs.shape == next_obs.shape == (128, STACK, SIDE, SIDE)
    np.testing.assert_array_equal(np.asarray(columns["action"]), data.action[numbers])
    # Inside an episode nobody is mistaken: the stack has its own frames, and the next one is of the episode too.
    inside = (data.newest - data.first >= STACK - 1) & ~(data.terminated | data.truncated)
    held = numbers < len(data) - 1  # what follows the newest transition is not in the buffer yet
    looked_at = (inside[numbers] & (numbers >= BEYOND + STACK) & held) if kind.name in MISTAKEN else slice(None)
    np.testing.assert_array_equal(obs[looked_at], data.obs(numbers[looked_at]))
    np.testing.assert_array_equal(next_obs[looked_at], data.next_obs(numbers[looked_at]))


@pytest.mark.parametrize("kind", FRAME_BUFFERS, ids=lambda kind: kind.name)
def test_mistakes_are_counted(kind: type[Contender], data: Frames) -> None:
    found = frames.mistakes(full(kind, prioritized=False), data, enough=1_024, seconds=0.5)
    assert found.drawn > 0
    assert found.bootstrapped <= found.next_obs
    if kind.name not in MISTAKEN:
        assert found.obs == found.next_obs == 0
    elif "cpprb" not in kind.name:  # a twelfth of the transitions are at an end; cpprb's is one place of the ring
        assert 0.02 * found.drawn < found.next_obs < 0.5 * found.drawn


@pytest.mark.parametrize("kind", FRAME_CONTENDERS, ids=lambda kind: kind.name)
def test_what_is_timed_can_be_repeated(kind: type[Contender]) -> None:
    trial = full(kind, prioritized=False).sampling(16)
    for given in trial.prepare(2):
        trial.call(*given)


def test_the_floor_copies_five_frames_in_a_row(data: Frames) -> None:
    try:
        floor = FrameFloor(np.array(data.frames), STACK + 1, 32)
    except LeftOutError as error:
        pytest.skip(str(error))
    picks = np.random.default_rng(0).integers(0, len(data.frames) - STACK, size=(2, 32))
    floor.copy(picks, fresh=False)
    np.testing.assert_array_equal(floor.out, data.frames[picks[-1][:, None] + np.arange(STACK + 1)])
    floor.out[:] = 0
    floor.copy(picks, fresh=True)
    assert not floor.out.any()


GROWTH = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import memory
from contender import Contender
from frames_data import random_frames

class Stacks(Contender):
    name = "stacks"

    def build(self):
        self.kept = np.zeros((self.setup.capacity, 4, 84, 84), np.uint8)
        self.sample = lambda size: self.kept[:size]

    def fill(self, data):
        for number, (obs, *_) in enumerate(data.steps()):
            self.kept[number % len(self.kept)] = obs

many = random_frames(2_048, np.random.default_rng(0))
memory.breakout = many.part
print(memory.fill(Stacks, 2_048))
"""


def test_growth_is_what_the_buffer_takes() -> None:
    """Stacks in one NumPy array, in a process of their own, against the size of that array."""
    command = [sys.executable, "-c", GROWTH, str(Path(memory.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 2_048 == pytest.approx(STACK * FRAME_BYTES, rel=0.02)


def test_a_run_over_frames_is_kept_and_reported(monkeypatch: pytest.MonkeyPatch, data: Frames) -> None:
    monkeypatch.setattr(frames, "breakout", lambda count: random_frames(count, np.random.default_rng(0)))
    monkeypatch.setattr(frames, "FRAME_CONTENDERS", (FRAME_CONTENDERS[0], FrameFloorReused, FrameFloorFresh))
    finished = frames.run(CAPACITY, Settings(repeats=2, seconds=1e-3))
    assert [row["key"] for row in finished["rows"]] == [bar.row for bar in frames.BARS[1:]]
    (ours,) = finished["mistakes"]
    assert ours["next_obs"] == 0
    text = frames.section(finished)
    assert "| replaybank " in text
    assert "C floor, fresh memory" in text


def test_a_run_over_memory_names_who_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"replaybank": 7_100, "cpprb": 56_800}

    def grown(kind: type[Contender], count: int) -> int:
        return sizes[kind.name] * count

    monkeypatch.setattr(memory, "breakout", lambda count: None)
    monkeypatch.setattr(memory, "_in_a_process_of_its_own", grown)
    finished = memory.run(10, ["replaybank", "cpprb", "SB3"])
    assert [bar["met"] for bar in finished["bars"]] == [True]
    assert "56,800" in memory.section(finished)
    (missing,) = finished["left_out"]
    assert (missing["name"], missing["rows"]) == ("SB3", ["memory"])
    assert missing["reason"].startswith("KeyError")


def test_memory_above_the_bar_is_not_met() -> None:
    assert memory.judged([{"name": "replaybank", "bytes": memory.MOST_BYTES + 1}])["met"] is False
    assert memory.judged([])["met"] is None


@cache
def built_of_episodes(kind: type[SequenceContender]) -> SequenceContender | ImportError | LeftOutError:
    data = sequences.experience(1_000, lengths=(90, 130))
    try:
        kind.check(Setup(len(data)))
        contender = kind(Setup(len(data)))
        contender.fill(data)
    except (ImportError, LeftOutError) as error:
        return error
    return contender


def of_episodes(kind: type[SequenceContender]) -> SequenceContender:
    contender = built_of_episodes(kind)
    if isinstance(contender, SequenceContender):
        return contender
    if kind.role is Role.OURS:
        raise contender
    pytest.skip(f"{kind.name}: {contender!r}")


@pytest.mark.parametrize("kind", SEQUENCE_CONTENDERS, ids=lambda kind: kind.name)
def test_sequences_are_steps_in_a_row_of_one_episode(kind: type[SequenceContender]) -> None:
    contender = of_episodes(kind)
    where: dict[bytes, tuple[int, int]] = {}
    for number, episode in enumerate(episodes(sequences.experience(1_000, lengths=(90, 130)))):
        for time, obs in enumerate([*episode.obs, episode.next_obs[-1]]):
            where[obs.tobytes()] = number, time
    crossed = 0
    for _ in range(8):
        columns = contender.columns(contender.sample(16))
        assert columns["obs"].shape == (16, LENGTH, sequences.OBS)
        assert columns["real"].any(axis=1).all()
        for obs, real in zip(columns["obs"], columns["real"], strict=True):
            steps = [where[step.tobytes()] for step in obs[real]]
            for (episode, time), (later, following) in pairwise(steps):
                crossed += later != episode
                assert (later, following) in ((episode, time + 1), (episode + 1, 0))
    assert (crossed > 0) == (kind.at_ends == "goes on with another")


@pytest.mark.parametrize("kind", SEQUENCE_CONTENDERS, ids=lambda kind: kind.name)
def test_sequences_are_timed_until_the_arrays_of_a_loss_are_there(kind: type[SequenceContender]) -> None:
    trial = of_episodes(kind).sampling(16)
    (given,) = trial.prepare(1)
    fields: Any = trial.call(*given)
    if fields is not None and kind not in (Gather, SequenceFloor):  # what Reverb's process draws stays there
        for values, size in zip(fields, (sequences.OBS, 1, 1, 1), strict=True):
            assert np.asarray(values).size == 16 * LENGTH * size


@pytest.mark.parametrize("bars", [frames.BARS, sequences.BARS], ids=["frames", "sequences"])
def test_bars_are_about_rows_that_are_measured(bars: tuple[Bar, ...]) -> None:
    rows = {f"{kind}-{size}" for kind in frames.PRIORITIZED.values() for size in frames.SIZES} | {sequences.ROW.key}
    assert {bar.row for bar in bars} <= rows


@pytest.mark.slow
def test_breakout_is_collected_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    monkeypatch.setattr(frames_data, "KEPT", tmp_path)
    first = frames_data.breakout(300)
    assert (first.terminated | first.truncated).any()
    monkeypatch.setattr(frames_data, "_play", None)
    again = frames_data.breakout(200)
    np.testing.assert_array_equal(again.obs(np.arange(200)), first.obs(np.arange(200)))
