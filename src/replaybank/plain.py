"""Samplers, views and schedules as plain values, for files that are safe to open.

A description is what JSON can hold: `{"kind": "Prioritized", "settings": {"alpha": 0.6, …}}`. Only the kinds in the
table below are ever made from one: a file names none of its own, and nothing is imported or looked up by its word.
"""

from __future__ import annotations

import math
import reprlib
from types import NoneType
from typing import Any

from replaybank.samplers.combined import Combined
from replaybank.samplers.mixture import Mixture
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.rank_prioritized import RankPrioritized
from replaybank.samplers.recent import Recent
from replaybank.samplers.sample_once import SampleOnce
from replaybank.samplers.schedule import linear
from replaybank.samplers.uniform import Uniform
from replaybank.views.frames import FrameStack
from replaybank.views.hindsight import Hindsight
from replaybank.views.nstep import NStep
from replaybank.views.sequence import Sequence
from replaybank.views.transition import Transition

SAMPLERS = (Uniform, Prioritized, RankPrioritized, Recent, Combined, Mixture, SampleOnce)
VIEWS = (Transition, NStep, FrameStack, Sequence, Hindsight)
NUMBER = (int, float)
VARYING = (*NUMBER, linear)
# Of each kind every setting, and what it can be; what a constructor checks by itself is not told again.
SETTINGS: dict[type, dict[str, tuple[type, ...]]] = {
    linear: {"start": NUMBER, "end": NUMBER, "steps": NUMBER},
    Uniform: {"replace": (bool,)},
    Prioritized: {
        "alpha": NUMBER,
        "beta": VARYING,
        "epsilon": NUMBER,
        "weight_norm": (str, NoneType),
        "min_priority": NUMBER,
    },
    RankPrioritized: {"alpha": NUMBER, "beta": VARYING, "weight_norm": (str, NoneType)},
    Recent: {"eta": VARYING, "updates": (int,), "minimum": (int,)},
    Combined: {"sampler": SAMPLERS, "newest": (int,)},
    Mixture: {"parts": (list,), "beta": VARYING, "weight_norm": (str, NoneType)},
    SampleOnce: {},
    Transition: {"gamma": NUMBER},
    NStep: {"n": (int,), "gamma": NUMBER},
    FrameStack: {"k": (int,), "axis": (int,), "padding": (str,), "adds": (str,), "view": (Transition, NStep)},
    Sequence: {
        "length": (int,),
        "burn_in": (int,),
        "stride": (int,),
        "pad": (bool,),
        "gamma": NUMBER,
        "eta": NUMBER,
        "across_episodes": (bool,),
        "at_start": (list,),
    },
    # Never made from a description: its reward is a function. Told of so that an error can say so.
    Hindsight: {
        "reward_fn": (),
        "strategy": (str,),
        "k": NUMBER,
        "gamma": NUMBER,
        "terminated_fn": (NoneType,),
        "achieved": (str,),
        "desired": (str,),
    },
}
KINDS = {kind.__name__: kind for kind in SETTINGS}
MOST_LEVELS = 32  # of parts and lists in one another
MOST = 2**62
SHORT = reprlib.Repr()  # what was found, for an error, at a length that can be read
SHORT.maxstring = SHORT.maxother = 100


def described(part: Any) -> dict[str, Any]:
    """A sampler, view or schedule as values that JSON can hold; see `lost`."""
    description: dict[str, Any] = _plain(part, MOST_LEVELS)
    return description


def lost(description: Any) -> list[str]:
    """What `described` could not put into this description: functions, and parts of kinds that are not the library's.

    Where there is any, `rebuilt` refuses it.
    """
    if isinstance(description, list):
        return [what for value in description for what in lost(value)]
    if not isinstance(description, dict):
        return []
    if description.get("kind") is None:
        return [str(description.get("what"))]
    settings = description.get("settings")
    return lost(list(settings.values())) if isinstance(settings, dict) else []  # `rebuilt` says what is wrong with it


def kind_of(description: Any) -> tuple[Any, Any]:
    """What tells kinds of parts apart, of the library's or not."""
    return (description.get("kind"), description.get("what")) if isinstance(description, dict) else (None, None)


def rebuilt(description: Any, kinds: tuple[type, ...] = tuple(SETTINGS)) -> Any:
    """A new part, of one of these kinds, with the settings of a description that `described` gave.

    Raises ValueError, naming what was found, for anything else; nothing that a description holds can do worse.
    """
    return _made(description, kinds, "sampler or view", MOST_LEVELS)


def _plain(value: Any, levels: int) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if levels and isinstance(value, list | tuple):
        return [_plain(one, levels - 1) for one in value]
    if levels and type(value) in SETTINGS:
        settings = {name: _plain(setting, levels - 1) for name, setting in value.settings().items()}
        return {"kind": type(value).__name__, "settings": settings}
    named = value if hasattr(value, "__qualname__") else type(value)
    return {"kind": None, "what": f"{named.__module__}.{named.__qualname__}"}


def _made(description: Any, kinds: tuple[type, ...], where: str, levels: int) -> Any:
    if not levels:
        raise ValueError(f"{where}: expected at most {MOST_LEVELS} parts in one another, found more")
    if not isinstance(description, dict) or "kind" not in description:
        raise ValueError(f"{where}: expected a description, found {SHORT.repr(description)}")
    name = description["kind"]
    if name is None:
        raise ValueError(f"{where}: {SHORT.repr(description.get('what'))} cannot be made from a file; give it again")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or kind not in kinds:
        expected = ", ".join(sorted(one.__name__ for one in kinds))
        raise ValueError(f"{where}: expected one of {expected}; found {SHORT.repr(name)}")
    settings, wanted = description.get("settings"), SETTINGS[kind]
    if description.keys() != {"kind", "settings"} or not isinstance(settings, dict) or settings.keys() != wanted.keys():
        expected = ", ".join(wanted) or "none"
        found = sorted(settings) if isinstance(settings, dict) else settings
        raise ValueError(f"{name}: expected the settings {expected}; found {SHORT.repr(found)}")
    made = {}
    for setting, types in wanted.items():
        made[setting] = value = _value(settings[setting], f"{name}: {setting}", levels - 1)
        if type(value) not in types:
            expected = " or ".join(one.__name__ for one in types)
            raise ValueError(f"{name}: {setting} must be {expected}, found {SHORT.repr(value)}")
    try:
        return kind(**made)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} cannot be made from this: {str(error)[:500]}") from error


def _value(value: Any, where: str, levels: int) -> Any:
    if isinstance(value, dict):
        return _made(value, tuple(SETTINGS), where, levels)
    if isinstance(value, list):
        if not levels:
            raise ValueError(f"{where}: expected at most {MOST_LEVELS} parts in one another, found more")
        return [_value(one, where, levels - 1) for one in value]
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) > MOST):
        raise ValueError(f"{where}: expected a finite number, found {SHORT.repr(value)}")
    return value
