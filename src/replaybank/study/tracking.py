"""What runs tell while they go on: JSON lines always, TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Sink(Protocol):
    """Where the values of one run go."""

    def write(self, tag: str, value: float, step: int) -> None:
        """Take a value."""

    def flush(self) -> None:
        """Bring what was taken to where others see it."""

    def close(self) -> None:
        """The run has ended, or its attempt."""


class JsonLines:
    """One object a line: step, tag, value. An attempt that goes on keeps the lines up to the step it begins at."""

    def __init__(self, path: Path, begin: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _lines_until(path, begin) if begin else []
        path.write_text("".join(kept))
        self.file = path.open("a")

    def write(self, tag: str, value: float, step: int) -> None:
        """Take a value."""
        self.file.write(json.dumps({"step": step, "tag": tag, "value": value}) + "\n")

    def flush(self) -> None:
        """Write what waits."""
        self.file.flush()

    def close(self) -> None:
        """Write what waits and close the file."""
        self.file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """The whole lines of an earlier attempt up to `step`; a kill may have left the last one cut."""
    if not path.exists():
        return []
    whole = (line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n"))
    return [line for line in whole if json.loads(line)["step"] <= step]


class TensorBoard:
    """Events for TensorBoard."""

    def __init__(self, folder: Path, begin: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError("--tensorboard needs the package tensorboard", name="tensorboard") from error
        if begin == 0 and folder.exists():
            for events in folder.glob("events.*"):
                events.unlink()
        self.writer = SummaryWriter(str(folder), purge_step=begin + 1 if begin else None)

    def write(self, tag: str, value: float, step: int) -> None:
        """Take a value."""
        self.writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Write what waits."""
        self.writer.flush()

    def close(self) -> None:
        """Write what waits and close the file."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in the mode that its own settings say (`WANDB_MODE=offline`)."""

    def __init__(self, study: str, condition: str, seed: int, settings: dict[str, Any], folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=f"replaybank-{study}",
            group=condition,
            name=f"{condition}-seed{seed}",
            config={**settings, "seed": seed},
            dir=str(folder),
            reinit="create_new",
        )

    def write(self, tag: str, value: float, step: int) -> None:
        """Take a value; the step goes along as `global_step`, as CleanRL has it."""
        self.run.log({tag: value, "global_step": step})

    def flush(self) -> None:
        """Weights & Biases sends by itself."""

    def close(self) -> None:
        """End the run."""
        self.run.finish()


class Tracker:
    """The sinks of each run of a job."""

    def __init__(self, sinks: dict[int, Sequence[Sink]]) -> None:
        self.sinks = sinks

    def write(self, seed: int, tag: str, value: float, step: int) -> None:
        """A value of one run."""
        for sink in self.sinks[seed]:
            sink.write(tag, value, step)

    def flush(self) -> None:
        """Bring what was told to where others see it."""
        for sinks in self.sinks.values():
            for sink in sinks:
                sink.flush()

    def close(self) -> None:
        """The job has ended, or its attempt."""
        for sinks in self.sinks.values():
            for sink in sinks:
                sink.close()
