"""What a sampler or a view must be able to do, asked once, where it is handed over; and how one is shown."""

from __future__ import annotations

from typing import Any


def as_part(name: str, part: Any, protocol: type, example: str) -> Any:
    """`part` if it has every verb of the protocol, else TypeError: of `name`, such as `example`."""
    verbs = [verb for verb in vars(protocol) if not verb.startswith("_")]
    missing = [verb for verb in verbs if not (hasattr(type(part), verb) or hasattr(part, verb))]
    if isinstance(part, type) or len(missing) >= len(verbs) - 1:  # parts of all kinds have `settings`
        raise TypeError(f"{name}: expected a {protocol.__name__.lower()} such as {example}, given {part!r}")
    if missing:
        where = f"{protocol.__module__}.{protocol.__name__}"
        raise TypeError(f"{name}: {part!r} cannot {', '.join(missing)}; {where} says what it must do")
    return part


def shown(part: Any) -> str:
    """A sampler, view or schedule as the call that makes such a one, with the settings that it has now."""
    return f"{type(part).__name__}({', '.join(f'{name}={value!r}' for name, value in part.settings().items())})"
