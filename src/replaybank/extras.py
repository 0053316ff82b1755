"""What a user is told where an optional package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def of_extra(name: str) -> Iterator[None]:
    """Around imports: a ModuleNotFoundError from there goes on, with a note which extra installs what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        error.add_note(f"pip install 'replaybank[{name}]'")
        raise
