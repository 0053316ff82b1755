"""What an inspection found: plain values, which are shown and saved as they are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Number = int | float | bool
Kind = Literal["transition", "final observation", "older frame"]


@dataclass(frozen=True)
class Histogram:
    """`counts` [k]: how many values lie from each of `edges` [k + 1] to the next; the last bin has both."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Distribution:
    """Of `count` values that are all known: `low` to `high`, `mean`, `median`.

    `histogram` is of those that are finite; None where there are none.
    """

    count: int
    low: float
    mean: float
    median: float
    high: float
    histogram: Histogram | None


@dataclass(frozen=True)
class Field:
    """An array of every item: of each transition, or of what some transitions hold beside (`kind`).

    `name`: of the field; `dtype`: NumPy's name; `bytes_each`: of one item; `nan`, `infinite`: how many values are.
    `shape`: that of one item as it is stored; a stack of frames is stored as one frame. `low`, `mean` and `high` are
    over all finite values, None where there are none. `first_bad`: the id of the first transition that has a NaN or an
    infinity. `constant`: how many of the `components` (values of one item) are the same in all items; `constant_at`:
    the first of them, as indices into an item, where some are and others not. `histograms`: one a component, where
    there are few; None for a constant one. Complex numbers are looked at as pairs: a last axis of 2.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    items: int
    bytes_each: int
    low: Number | None
    mean: float | None
    high: Number | None
    nan: int
    infinite: int
    first_bad: int | None
    components: int
    constant: int
    constant_at: tuple[tuple[int, ...], ...]
    histograms: tuple[Histogram | None, ...]

    @property
    def bytes_total(self) -> int:
        """Bytes of all items."""
        return self.items * self.bytes_each


@dataclass(frozen=True)
class Memory:
    """Bytes held, by what they are for. `transitions` are the fields, and `links`: what leads from one to the next.

    `links_each`: of that, bytes a transition for links. `final_observations`: those beside the rows (tails).
    `older_frames`: frames put aside. `streams`, `sampler`: what is known of each stream, and by the sampler. `usage`:
    what `stats` needs. Also what is idle now counts, as in `ReplayBuffer.nbytes`, which is their sum.
    """

    transitions: int
    links_each: int
    final_observations: int
    older_frames: int
    streams: int
    sampler: int
    usage: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        parts = (self.transitions, self.final_observations, self.older_frames, self.streams, self.sampler, self.usage)
        return sum(parts)


@dataclass(frozen=True)
class Count:
    """So many runs of transitions, and so many transitions in them."""

    runs: int
    transitions: int


@dataclass(frozen=True)
class Episodes:
    """Runs of transitions of one stream, each going on where the one before it led to.

    Exactly one is true of each: `whole` (from its first step to its end), `beginning_left` (it has ended, its first
    steps were overwritten), `open` (its stream goes on with it), `broken_off` (the stream went on elsewhere, with no
    end). `lengths` (in steps) and `returns` (sums of rewards, undiscounted; one a component of the reward) are of whole
    ones only, None where there are none; of those `terminated` and `truncated` count how many ended so.
    """

    whole: Count
    beginning_left: Count
    open: Count
    broken_off: Count
    terminated: int
    truncated: int
    lengths: Distribution | None
    returns: tuple[Distribution, ...]


@dataclass(frozen=True)
class Streams:
    """Environment copies: `count` of them, `never_added` without anything ever, and of each one what is here.

    `transitions` and `episodes` (whole ones) are by stream; None where it is not known whose some transitions are.
    """

    count: int
    never_added: int
    transitions: tuple[int, ...] | None
    episodes: tuple[int, ...] | None


@dataclass(frozen=True)
class Age:
    """Of the transition `id`: `added`, how many came in since.

    It came at most `samples` calls of `sample` and `seconds` ago.
    """

    id: int
    added: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Use:
    """What became of transitions. `calls`: of `sample`, ever; `sampled`: transitions that were drawn, with repeats.

    `never_sampled`: the share of what is here, from 0 to 1.
    `oldest`, `middle`, `newest`: in the order in which they came. `slices`: the first ids of equal parts of what is
    here, oldest first, and `never_sampled_by_slice` the share in each.
    """

    calls: int
    sampled: int
    never_sampled: float
    oldest: Age
    middle: Age
    newest: Age
    slices: tuple[int, ...]
    never_sampled_by_slice: tuple[float, ...]


@dataclass(frozen=True)
class Transition:
    """One of the top by priority. `likely`: how many times as likely as with uniform draws. `sampled`: ever.

    `id`, `step` (of its segment), `reward`, `terminated`, `truncated` are its own, `priority` is raw and `probability`
    that of one draw. `age` and `sampled` are None where that is not known, `action` where it is more than a few
    numbers.
    """

    id: int
    priority: float
    probability: float
    likely: float
    age: Age | None
    sampled: bool | None
    step: int
    action: Any
    reward: Any
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Priorities:
    """Raw priorities of one sampler (its class), before its alpha: `low`, `mean`, `high`. `zeros`: those that are 0.

    `effective_size`: of this sampler, as in `Inspection`.
    `histogram` is of those above 0 (edges in equal ratios), `draws` the share of draws that falls to each bin.
    `mean_by_slice`: of the slices of `Use`. `top`: the largest first, of equal ones the newest.
    """

    sampler: str
    low: float
    mean: float
    high: float
    zeros: int
    histogram: Histogram | None
    draws: tuple[float, ...]
    effective_size: float
    mean_by_slice: tuple[float, ...]
    top: tuple[Transition, ...]


@dataclass(frozen=True)
class Inspection:
    """All that is known of a buffer at one instant. None stands for what is not known, also inside.

    `capacity`, `max_bytes`, `size`: the buffer's; `added`, `overwritten`, `cleared`: transitions, ever. `storage`: the
    folder of its rows; `sampler`, `view`: as text; `memory`, `fields`, `streams`, `episodes`, `use`: see their classes.
    `effective_size`: 1 / sum of P(i)^2, from 1 to size (Kish 1965); None in an empty buffer. `priorities`: one for each
    sampler that has any. `notes`: what is worth a look, in sentences. `source`: the folder it was loaded from.
    """

    source: str | None
    size: int
    capacity: int
    max_bytes: int | None
    added: int
    overwritten: int
    cleared: int
    storage: str | None
    sampler: str
    view: str
    memory: Memory
    fields: tuple[Field, ...]
    streams: Streams
    episodes: Episodes
    use: Use | None
    effective_size: float | None
    priorities: tuple[Priorities, ...] | None
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it: numbers that are not finite become None."""
        told: dict[str, Any] = _finite(asdict(self))
        told["memory"]["total"] = self.memory.total
        for field, plain in zip(self.fields, told["fields"], strict=True):
            plain["bytes_total"] = field.bytes_total
        return told


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
