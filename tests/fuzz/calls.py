"""What is asked of every call of a random program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from odd import Boom

FAILED = object()
REFUSALS = (TypeError, ValueError, Boom)


class Calls:
    """Makes calls, counts them, tells them where it is asked to, and sees that a refused one has changed nothing."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        self.say, self.calls = say, 0

    def digest(self) -> dict[str, Any]:
        """All that a refused call must leave as it was, by name."""
        raise NotImplementedError

    def describe(self, name: str, *arguments: Any, **named: Any) -> None:
        if self.say is not None:
            given = [repr(a) for a in arguments] + [f"{key}={a!r}" for key, a in named.items()]
            self.say(f"{name}({', '.join(given)})")

    def call(
        self,
        function: Callable[..., Any],
        /,
        *given: Any,
        draws: bool = False,
        or_: tuple[type[Exception], ...] = (),
        **named: Any,
    ) -> Any:
        """What the call gives, or FAILED where it is refused and has changed nothing.

        It may raise TypeError, ValueError, what the caller's own objects raise, and `or_`. `draws`: it may have drawn
        even so (`settled`).
        """
        self.describe(getattr(function, "__qualname__", str(function)), *given, **named)
        self.calls += 1
        before = self.digest()
        try:
            return function(*given, **named)
        except Exception as error:
            refusal = error
        own = "Boolean value of Tensor" in str(refusal)  # raised by an object of the caller's
        if not (isinstance(refusal, (*REFUSALS, *or_)) or own):
            raise refusal
        if self.say is not None:
            self.say(f"    {type(refusal).__name__}: {refusal}"[:300])
        after = self.digest()
        if draws:
            before, after = settled(before), settled(after)
        assert before == after, f"changed: {differing(before, after)} in a call that raised {refusal!r}"
        return FAILED


def settled(digest: dict[str, Any]) -> dict[str, Any]:
    """A digest without what a draw may change even where the rest of `sample` fails.

    That is the generator, the cards of SampleOnce (dealt anew, or in another order), and what the parts of a Mixture
    have counted where the schedule of another part raised.
    """

    def without(state: Any) -> Any:
        if not isinstance(state, dict):
            return state
        return {name: without(child) for name, child in state.items() if name not in ("left", "slots", "parts")}

    return without({name: child for name, child in digest.items() if name != "generator"})


def differing(one: Any, other: Any) -> str:
    """Where two digests differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return ", ".join(f"{name}: {differing(one[name], other[name])}" for name in one if one[name] != other[name])
    return f"{one} to {other}" if len(f"{one}{other}") < 200 else "much"


def frozen(state: Any) -> Any:
    """A sampler's state as something that can be compared."""
    if isinstance(state, dict):
        return {name: frozen(child) for name, child in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state
