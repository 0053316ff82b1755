"""`replaybank inspect PATH`: opens what was saved, and shows what is in it."""

from __future__ import annotations

import json as json_text
import sys
import warnings
from pathlib import Path
from typing import Any

from replaybank.buffer import ReplayBuffer
from replaybank.files import CheckpointError
from replaybank.inspection.overview import MOST_TOP, inspect
from replaybank.inspection.report import Inspection
from replaybank.inspection.use import text_of
from replaybank.manifest import BACKUP, MANIFEST, read, refusing
from replaybank.plain import SAMPLERS, lost, rebuilt
from replaybank.samplers.uniform import Uniform
from replaybank.study import SettingError
from replaybank.views.transition import Transition


def inspect_command(
    path: Path, /, html: Path | None = None, json: bool = False, top: int = 10, salvage: bool = False
) -> int:
    """Look inside a saved buffer: fields, episodes, streams, ages, draws and priorities. It changes nothing there.

    Prints tables. Only whole episodes count in lengths and returns; what is not known is called unknown.

    Args:
        path: the folder that `ReplayBuffer.save` wrote, or a buffer's storage.
        html: write a page with interactive plots to this file, which opens without a network. One that is there is
            replaced, once the new one is whole.
        json: print JSON in place of tables.
        top: how many transitions to name, by priority.
        salvage: look at what is whole of a damaged checkpoint.
    """
    if not 0 <= top <= MOST_TOP:
        raise SettingError(f"--top: expected 0 to {MOST_TOP}, given {top}")
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise SettingError(f"--html: expected a file in a folder that is there, given {html}")
    found = load_and_inspect(path, top, salvage)
    if html is not None:
        from replaybank.inspection.page import Page

        try:
            Page(found).save(html)
        except OSError as error:
            raise SettingError(f"--html: cannot write {html}: {error.strerror}") from None
    if json:
        sys.stdout.write(json_text.dumps(found.plain(), allow_nan=False, indent=1) + "\n")
        return 0
    from rich.console import Console

    from replaybank.inspection.terminal import show

    console = Console(highlight=False)
    show(found, console)
    if html is not None:
        console.print(f"The page is in {html}", markup=False, soft_wrap=True)
    return 0


def load_and_inspect(path: Path, top: int = 10, salvage: bool = False) -> Inspection:
    """What is in the checkpoint in a folder. Raises SettingError, in one line, where it cannot be opened.

    A sampler or view that holds functions, which no file does, is told of all the same. Of priorities nothing is known
    only where the functions are not schedules of beta.
    """
    if not path.is_dir():
        raise SettingError(f"{path}: expected a folder that ReplayBuffer.save wrote, found {_kind(path)}")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            values = _values(path, salvage)
            view = Transition() if lost(values.get("view")) else None
            sampler, known = _stand_in(values.get("sampler"))
            buffer = ReplayBuffer.load(path, sampler, view, salvage)
    except CheckpointError as error:
        more = "" if salvage else "; --salvage shows what is whole"
        raise SettingError(f"{path}: {error}{more}") from None
    except FileNotFoundError:
        raise SettingError(f"{path}: no checkpoint is there: {MANIFEST} is missing") from None
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SettingError(f"{path}: cannot be opened: {reason}") from None
    notes = [str(warning.message) for warning in told]
    return inspect(
        buffer,
        top,
        source=str(path),
        salvaged=any(note.startswith("salvaged ") for note in notes),
        unknown_draws=not known,
        sampler=None if sampler is None else text_of(values["sampler"]),
        view=None if view is None else text_of(values["view"]),
        notes=notes,
    )


def _kind(path: Path) -> str:
    return "a file" if path.is_file() else "nothing there"


def _values(path: Path, salvage: bool) -> dict[str, Any]:
    """What the manifest, or where it is damaged and that is allowed its backup, says of a buffer."""
    try:
        values: dict[str, Any] = read(path / MANIFEST)["values"]
    except (CheckpointError, FileNotFoundError):
        if not salvage:
            raise
        values = read(path / BACKUP)["values"]
    return values


def _stand_in(description: Any) -> tuple[Any, bool]:
    """A sampler in place of one that cannot be made again (else None), and whether it knows what that one knew."""
    with refusing():
        if not lost(description):
            return None, True
        usable = _without_schedules(description)
        return (Uniform(), False) if lost(usable) else (rebuilt(usable, SAMPLERS), True)


def _without_schedules(description: Any) -> Any:
    """With 0 for each beta that is a function: importance weights, which it is for, are not looked at."""
    if isinstance(description, list):
        return [_without_schedules(one) for one in description]
    if not isinstance(description, dict) or not isinstance(description.get("settings"), dict):
        return description
    settings = {
        name: 0.0 if name == "beta" and lost(value) else _without_schedules(value)
        for name, value in description["settings"].items()
    }
    return {**description, "settings": settings}
