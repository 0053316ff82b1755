"""The studies there are. Each is imported when it is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

from replaybank.study import SettingError
from replaybank.study.base import Study

NAMES = ("compare", "cliffwalk", "is-trap", "capacity", "correlation", "minatar", "per", "nstep", "shards")


def study(name: str) -> Study[Any]:
    """The study of that name. Raises SettingError naming those there are."""
    if name not in NAMES:
        guess = "".join(f" (did you mean {known}?)" for known in get_close_matches(name, NAMES, n=1))
        raise SettingError(f"study: {name!r} is none{guess}; expected one of {', '.join(NAMES)}")
    found: Study[Any] = import_module(f"replaybank.study.{name.replace('-', '_')}").STUDY
    return found


def list_studies() -> None:
    """The experiments there are, and what each asks."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name in NAMES:
        found = study(name)
        presets = f" (presets: {', '.join(found.presets)})" if found.presets else ""
        table.add_row(f"[bold]{name}[/]", found.question + presets)
    Console().print(table)
    Console().print("\nRun one: replaybank study run NAME (--help: its flags)")
