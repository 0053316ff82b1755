"""The state of a training in the middle: written to a folder, whole or not at all, and taken up again.

A checkpoint is a folder `step-N`: `state.json` with the environments and what was asked for, `tensors.pt` with the
networks and the optimizer, and a folder for each seed's replay buffer. Nothing in it is pickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Generic, Protocol, TypeVar

import torch

import replaybank as rb
from replaybank.study import SettingError
from replaybank.study.environments import Environment


class Stateful(Protocol):
    """What has a state of tensors and plain values."""

    def state(self) -> dict[str, Any]:
        """All that it depends on to go on."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from that state."""


L = TypeVar("L", bound=Stateful)


@dataclass
class Training(Generic[L]):
    """Seeds in lock step: an environment and a buffer for each, and the learner of all; `step` of the steps are done.

    asked: plain values; a checkpoint of a training that was asked for other things is not taken up.
    """

    asked: dict[str, Any]
    environments: Sequence[Environment]
    learner: L
    buffers: list[rb.ReplayBuffer]
    step: int = 0

    @property
    def can_be_kept(self) -> bool:
        """Whether there can be a checkpoint: not with environments whose state cannot be told."""
        return all(environment.can_be_kept for environment in self.environments)

    def save(self, folder: Path) -> None:
        """Write a checkpoint into the folder, in the place of those before."""
        begun = folder / "begun"
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        states = [environment.state() for environment in self.environments]
        content = {"asked": self.asked, "step": self.step, "environments": states}
        (begun / "state.json").write_text(json.dumps(content))
        torch.save(self.learner.state(), begun / "tensors.pt")
        for environment, buffer in zip(self.environments, self.buffers, strict=True):
            buffer.save(begun / f"buffer{environment.seed}")
        written = folder / f"step-{self.step}"
        shutil.rmtree(written, ignore_errors=True)  # one of other settings, which `load` passed over
        begun.replace(written)
        for earlier in _checkpoints(folder):
            if earlier != written:
                shutil.rmtree(earlier)

    def load(self, folder: Path) -> bool:
        """Take up the latest checkpoint in the folder, if there is one of the same training; whether there was.

        Raises SettingError where it is broken.
        """
        for checkpoint in reversed(_checkpoints(folder)):
            try:
                content = json.loads((checkpoint / "state.json").read_text())
                if content["asked"] == self.asked:
                    self._take(checkpoint, content)
                    return True
            except (OSError, ValueError, LookupError, RuntimeError, EOFError, UnpicklingError) as error:
                message = f"--resume: {checkpoint} is broken: {error}; remove it, and the job begins anew"
                raise SettingError(message) from error
        return False

    def _take(self, checkpoint: Path, content: dict[str, Any]) -> None:
        self.step = content["step"]
        for environment, state in zip(self.environments, content["environments"], strict=True):
            environment.load(state)
        self.learner.load(torch.load(checkpoint / "tensors.pt", weights_only=True))
        names = [f"buffer{environment.seed}" for environment in self.environments]
        self.buffers[:] = [rb.ReplayBuffer.load(checkpoint / name) for name in names]


def _checkpoints(folder: Path) -> list[Path]:
    """Those in the folder, the latest last."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
