"""Every library's ways to keep stacks of frames: whole stacks, or each frame once and the stacks put together.

Each is the library's adapter with other options. What a library cannot tell apart (the first frames of an episode, the
observation after an end) it gives back as it does; `frames.py` counts that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adapters.cpprb import Cpprb
from adapters.flashbax import Flashbax
from adapters.replaybank import Replaybank
from adapters.sb3 import StableBaselines3
from adapters.tianshou import Tianshou
from adapters.torchrl import TorchRL
from contender import ALPHA, BETA, Contender, LeftOutError, Role, Setup
from floor import FrameFloor, compiled
from frames_data import ACTIONS, SIDE, STACK, Frames
from timing import Trial
from transitions import Step, priorities_like_td_errors

STACKED = (STACK, SIDE, SIDE)
LAST = (SIDE, SIDE, STACK)  # frames along the last axis


class FrameContender(Contender):
    """A buffer of stacks of frames, filled as a training loop does: one `add` a transition."""

    #: How many frames are kept for a transition.
    frames_each: ClassVar[int] = 2 * STACK

    def fill(self, data: Frames) -> None:
        add, form = self.add, self.add_form
        for step in data.steps():
            add(*form(step))


class ReplaybankStack(FrameContender, Replaybank):
    """FrameStack over plain transitions."""

    frames_each = 1

    def view(self) -> Any:
        import replaybank as rb

        return rb.FrameStack(STACK, view=rb.Transition(gamma=0.99))


class Sb3Stacks(FrameContender, StableBaselines3):
    name = "SB3"
    obs_space: ClassVar[Mapping[str, Any]] = {"low": 0, "high": 255, "shape": STACKED, "dtype": np.uint8}
    actions = ACTIONS


class Sb3Optimized(Sb3Stacks):
    """Whole stacks, but `next_obs` is the following `obs`. Time-outs come back as terminations."""

    name = "SB3, optimize_memory_usage"
    frames_each = STACK
    options: ClassVar[Mapping[str, Any]] = {"optimize_memory_usage": True, "handle_timeout_termination": False}


class CpprbStacks(FrameContender, Cpprb):
    name = "cpprb"
    fields: ClassVar[Mapping[str, Any]] = {
        **Cpprb.fields,
        "obs": {"shape": STACKED, "dtype": np.uint8},
        "next_obs": {"shape": STACKED, "dtype": np.uint8},
    }


class CpprbCompressed(CpprbStacks):
    """Stacks along the last axis, which is where it compresses; it wants to be told when an episode ends."""

    name = "cpprb, next_of and stack_compress"
    frames_each = 1
    fields: ClassVar[Mapping[str, Any]] = {
        name: {"shape": LAST, "dtype": np.uint8} if name == "obs" else field
        for name, field in Cpprb.fields.items()
        if name != "next_obs"
    }
    options: ClassVar[Mapping[str, Any]] = {"next_of": "obs", "stack_compress": "obs"}

    def build(self) -> None:
        super().build()
        self.add = self._add

    def _add(self, fields: dict[str, Any]) -> None:
        self._buffer.add(**fields)
        if fields["terminated"] or fields["truncated"]:
            self._buffer.on_episode_end()

    def add_form(self, step: Step) -> tuple[dict[str, Any]]:
        (fields,) = super().add_form(step)
        return ({**fields, "obs": np.moveaxis(step[0], 0, -1), "next_obs": np.moveaxis(step[3], 0, -1)},)

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        columns = dict(super().columns(batch))
        return columns | {name: np.moveaxis(columns[name], -1, 1) for name in ("obs", "next_obs")}


class TianshouStacks(FrameContender, Tianshou):
    name = "Tianshou"


class TianshouFrames(TianshouStacks):
    name = "Tianshou, ignore_obs_next and stack_num"
    frames_each = 1
    options: ClassVar[Mapping[str, Any]] = {"stack_num": STACK, "ignore_obs_next": True, "save_only_last_obs": True}


class FlashbaxStacks(FrameContender, Flashbax):
    name = "Flashbax"
    fields: ClassVar[Mapping[str, tuple[tuple[int, ...], Any]]] = {
        **Flashbax.fields,
        "obs": (STACKED, np.uint8),
        "next_obs": (STACKED, np.uint8),
    }


class FlashbaxTrajectories(FrameContender, Flashbax):
    """Single frames; a pick is five in a row, whatever episodes they are of. It has no room for a final observation."""

    name = "Flashbax trajectories"
    frames_each = 1
    fields: ClassVar[Mapping[str, tuple[tuple[int, ...], Any]]] = {
        "frame": ((SIDE, SIDE), np.uint8),
        "action": ((), np.int32),
        "reward": ((), np.float32),
        "terminated": ((), np.bool_),
    }

    def _functions(self, size: int, **how: bool) -> Any:
        import flashbax

        lengths = {"sample_sequence_length": STACK + 1, "period": 1, "min_length_time_axis": STACK + 1}
        if self.setup.prioritized:
            return flashbax.make_prioritised_trajectory_buffer(
                1, size, max_size=self.setup.capacity, priority_exponent=ALPHA, device="cpu", **lengths
            )
        return flashbax.make_trajectory_buffer(1, size, max_size=self.setup.capacity, **lengths)

    def add_form(self, step: Step) -> tuple[dict[str, Any]]:
        obs, action, reward, _, terminated, _ = step
        (item,) = super().add_form((obs[-1], action, reward, terminated))
        return ({name: value[None, None] for name, value in item.items()},)

    def draw(self, size: int) -> Any:
        """A pure function to ({"frames": [size, 5, 84, 84], …}, indices): both stacks are windows of the five."""
        sample, capacity, prioritized = self._functions(size).sample, self.setup.capacity, self.setup.prioritized

        def drawn(state: Any, key: Any) -> tuple[dict[str, Any], Any]:
            batch = sample(state, key)
            columns = {name: values[:, STACK - 1] for name, values in batch.experience.items() if name != "frame"}
            columns["frames"] = batch.experience["frame"]
            if not prioritized:
                return columns, None
            weights = (capacity * batch.probabilities) ** -BETA
            return {**columns, "weights": weights / weights.max()}, batch.indices

        return drawn

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        """All but those of the last four places: no five frames begin there."""
        places = np.arange(self.setup.capacity - STACK)
        self.update(self.indices_of(places), self.priority_form(priorities[places]))

    def indices_of(self, places: NDArray[np.int64]) -> Any:
        """Places count from the oldest frame."""
        return super().indices_of((int(self._state.current_index) + places) % self.setup.capacity)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        data = batch[0]
        fields = data["frames"], data["action"], data["reward"], data["terminated"]
        return (*fields, data["weights"]) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        columns = dict(super().columns(batch))
        frames = columns.pop("frames")
        return {**columns, "obs": frames[:, :-1], "next_obs": frames[:, 1:]}


class TorchRLStacks(FrameContender, TorchRL):
    name = "TorchRL"


class TorchRLCatFrames(FrameContender, TorchRL):
    """Single frames, each kept as `pixels` and as the next `pixels`; stacked by CatFrames when sampling."""

    name = "TorchRL, CatFrames"
    frames_each = 2
    prioritizes = False  # CatFrames brings its own sampler, of slices

    def build(self) -> None:
        import torch
        from tensordict import TensorDict
        from torchrl.data import LazyTensorStorage, ReplayBuffer
        from torchrl.envs import CatFrames

        self._torch, self._tensordict = torch, TensorDict
        frames = CatFrames(
            STACK, dim=-3, in_keys=["pixels"], out_keys=["obs"], padding="same", done_key="done", reset_key="_reset"
        )
        transform, sampler = frames.make_rb_transform_and_sampler(1, end_key=("next", "done"), cache_values=True)
        self._buffer = ReplayBuffer(
            storage=LazyTensorStorage(self.setup.capacity), sampler=sampler, transform=transform, batch_size=1
        )
        self.add = self._buffer.add
        self.sample = self._buffer.sample

    def add_form(self, step: Step) -> tuple[Any]:
        obs, action, reward, next_obs, terminated, truncated = step
        tensor = self._torch.as_tensor
        following = {
            "pixels": tensor(next_obs[-1:]),
            "reward": tensor([reward]),
            "terminated": tensor([terminated]),
            "truncated": tensor([truncated]),
            "done": tensor([terminated or truncated]),
        }
        current = {"pixels": tensor(obs[-1:]), "action": tensor(action), "done": tensor([False]), "next": following}
        return (self._tensordict(current, batch_size=[]),)

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        following = batch["next"]
        return batch["obs"], batch["action"], following["reward"], following["obs"], following["terminated"]

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        following = batch["next"]
        return {
            "obs": batch["obs"].numpy(),
            "action": batch["action"].numpy(),
            "reward": following["reward"].numpy()[:, 0],
            "next_obs": following["obs"].numpy(),
            "terminated": following["terminated"].numpy()[:, 0],
            "truncated": following["truncated"].numpy()[:, 0],
        }


class FrameFloorReused(Contender):
    """Five frames in a row a pick, copied into memory that is there. No columns, no tree, no random numbers."""

    name = "C floor"
    role = Role.FLOOR
    fresh: ClassVar[bool] = False
    #: Batches in a row inside C, so that the way there costs nothing.
    length: ClassVar[int] = 10
    #: The largest batch.
    most: ClassVar[int] = 256

    @classmethod
    def check(cls, setup: Setup) -> None:
        compiled()

    def build(self) -> None:
        self._rng = np.random.default_rng(self.setup.seed)

    def fill(self, data: Frames) -> None:
        self._frames = np.array(data.frames)
        self.floor = FrameFloor(self._frames, STACK + 1, self.most)

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        """It draws none by priority."""

    def sampling(self, size: int) -> Trial:
        if size > self.most:
            raise LeftOutError(f"has room for batches of {self.most}")
        starts = len(self._frames) - STACK

        def prepare(calls: int) -> list[tuple[NDArray[np.int64]]]:
            return [(self._rng.integers(0, starts, size=(self.length, size)),) for _ in range(calls)]

        return Trial(prepare, lambda picks: self.floor.copy(picks, self.fresh), self.length)


class FrameFloorFresh(FrameFloorReused):
    """Every batch goes into memory fresh from the system, page faults included."""

    name = "C floor, fresh memory"
    fresh = True


BUFFERS: tuple[type[FrameContender], ...] = (
    ReplaybankStack,
    CpprbStacks,
    TianshouStacks,
    FlashbaxStacks,
    Sb3Stacks,
    TorchRLStacks,
    TianshouFrames,
    CpprbCompressed,
    Sb3Optimized,
    FlashbaxTrajectories,
    TorchRLCatFrames,
)
FRAME_CONTENDERS: tuple[type[Contender], ...] = (*BUFFERS, FrameFloorReused, FrameFloorFresh)


def ready(kind: type[Contender], setup: Setup, data: Frames) -> Contender:
    """Build and fill; where prioritized, give every transition its own priority."""
    kind.check(setup)
    contender = kind(setup)
    contender.fill(data)
    if setup.prioritized:
        contender.set_priorities(priorities_like_td_errors(setup.capacity, np.random.default_rng(setup.seed)))
    return contender
