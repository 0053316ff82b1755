"""Configurations: frozen dataclasses that are the command line, checked in one manner and made again from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from replaybank.study import SettingError

T = TypeVar("T")


def check_at_least_one(**settings: int) -> None:
    """Raise SettingError naming the first flag whose value is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise SettingError(f"--{name.replace('_', '-')}: expected at least 1, given {value}")


def check_names(flag: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise SettingError, naming given and expected, unless `names` are known ones, at least one and none twice."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingError(f"--{flag}: {unknown[0]!r} is unknown; expected some of {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise SettingError(f"--{flag}: expected each at most once and at least one, given {list(names)}")


def rebuilt(config: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass of which `asdict`, through JSON, gave `values`; tuples and dataclasses within are made again.

    Raises ValueError where the names are not those of the dataclass.
    """
    names = {field.name for field in fields(config)}  # type: ignore[arg-type]
    if names != set(values):
        raise ValueError(f"expected settings {sorted(names)}, given {sorted(values)}")
    hints = get_type_hints(config)
    return config(**{name: _value(hints[name], values[name]) for name in names})


def _value(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        _require(isinstance(value, Mapping), "settings of its own", value)
        return rebuilt(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        _require(isinstance(value, list), "a list", value)
        return tuple(_value(get_args(hint)[0], each) for each in value)
    if hint is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), "a number", value)
    elif hint in (int, str, bool):
        _require(type(value) is hint, hint.__name__, value)
    return value


def _require(holds: bool, expected: str, given: object) -> None:
    if not holds:
        raise ValueError(f"expected {expected}, given {given!r}")
