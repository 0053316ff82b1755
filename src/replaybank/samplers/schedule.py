"""Values that change while the agent learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replaybank.convert import is_finite

# The value at a position: how many times `sample` was called before. It is asked in the middle of a call of the buffer,
# and cannot call that in turn (RuntimeError).
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class linear:
    """From `start` to `end` in a straight line over `steps` calls of `sample`, and `end` from then on.

    The first call sees `start`, call number steps + 1 sees `end`. Schaul et al. 2016 anneal beta so, from 0.4 or 0.5 to
    1 at the end of training. Raises ValueError where steps < 1, or one of the three is not a finite number.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        for name in ("start", "end", "steps"):
            value = getattr(self, name)
            if not is_finite(value):
                raise ValueError(f"linear: {name} must be a finite number, given {value!r}")
            if name != "steps":
                object.__setattr__(self, name, float(value))
        if self.steps < 1:
            raise ValueError(f"linear: steps must be at least 1, given {self.steps}")

    def __call__(self, position: int) -> float:
        done = min(max(position, 0) / self.steps, 1.0)
        return self.start + (self.end - self.start) * done if done < 1.0 else self.end

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make such a schedule again."""
        return {
            "start": self.start,
            "end": self.end,
            "steps": self.steps if isinstance(self.steps, int) else float(self.steps),
        }


def value_at(value: float | Schedule, position: int) -> float:
    """The value at a position: a number is the same at all of them."""
    return value(position) if callable(value) else value
