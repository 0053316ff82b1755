"""Looks at a buffer, and changes nothing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

from replaybank.inspection.episodes import episodes_of
from replaybank.inspection.fields import fields_of
from replaybank.inspection.report import Count, Episodes, Field, Inspection, Memory, Priorities, Streams, Use
from replaybank.inspection.use import priorities_of, rankings, text_of, use_of
from replaybank.plain import described
from replaybank.rows import Rows

if TYPE_CHECKING:
    from replaybank.buffer import ReplayBuffer

NONE = Count(0, 0)
NOTHING = Episodes(NONE, NONE, NONE, NONE, 0, 0, None, ())
MOST_TOP = 10_000


def inspect(
    buffer: ReplayBuffer,
    top: int = 10,
    *,
    source: str | None = None,
    salvaged: bool = False,
    unknown_draws: bool = False,
    sampler: str | None = None,
    view: str | None = None,
    notes: Sequence[str] = (),
) -> Inspection:
    """What is in a buffer: all figures are exact, and of one instant, for which it stands still.

    It takes some ten MiB of memory, and 16 bytes for each whole episode; a pass over all fields, and one over those of
    a few numbers. `top`: how many transitions to name, by priority (0 … 10,000).

    Of a buffer that was loaded: `source`, where it was; `salvaged`: something was damaged, so nothing is known of draws
    and priorities; `unknown_draws`: another sampler is there than was saved, of which nothing is told; `sampler` and
    `view`: what the saved ones were, where they are others. `notes` come before those of what was found.

    Raises TypeError or ValueError where top is no such number.
    """
    if not 0 <= operator.index(top) <= MOST_TOP:
        raise ValueError(f"top: expected 0 to {MOST_TOP}, given {top}")
    with buffer._lock:
        rows, drawn_by = buffer._rows, buffer._sampler
        added = 0 if rows is None else rows.added
        size = 0 if rows is None else len(rows)
        fields: tuple[Field, ...] = ()
        nobody = (0,) * buffer.streams
        episodes, streams = NOTHING, Streams(buffer.streams, buffer.streams, nobody, nobody)
        use: Use | None = None
        ranked: list[Priorities] | None = None
        effective = None
        if rows is not None:
            fields = fields_of(rows)
            episodes, streams = episodes_of(rows)
            # A buffer that was salvaged has no usage: but for the count of what was sampled all looks new.
            known = not salvaged and (buffer._usage.calls > 0 or buffer._sampled == 0)
            usage = buffer._usage if known else None
            if size and usage is not None:
                use = use_of(rows, usage, buffer._sampled)
            if not (salvaged or unknown_draws):
                drawn_by.added(added, 0)  # an interrupt may have kept it from it
                ranked = [priorities_of(rows, ranking, usage, top) for ranking in rankings(drawn_by) if size]
                effective = drawn_by.effective_size() if size else None
        elif not unknown_draws:
            ranked = []
        return Inspection(
            source=source,
            size=size,
            capacity=buffer.capacity,
            max_bytes=buffer.max_bytes,
            added=added,
            overwritten=added - size - buffer._cleared,
            cleared=buffer._cleared,
            storage=None if buffer._storage is None else str(buffer._storage),
            sampler=text_of(described(drawn_by)) if sampler is None else sampler,
            view=text_of(described(buffer.view)) if view is None else view,
            memory=_memory(buffer, rows, fields),
            fields=fields,
            streams=streams,
            episodes=episodes,
            use=use,
            effective_size=effective,
            priorities=None if ranked is None else tuple(ranked),
            notes=(*notes, *_notes(size, fields, streams, episodes, use, ranked)),
        )


def _memory(buffer: ReplayBuffer, rows: Rows | None, fields: Sequence[Field]) -> Memory:
    """What the buffer's `nbytes` is made of."""
    sampler = buffer._sampler.nbytes
    if rows is None:
        return Memory(0, 0, 0, 0, 0, sampler, 0)
    tails, older = (n * cost for n, cost in zip(rows.used, (rows.costs.tail, rows.costs.aside), strict=True))
    links = rows.dtype.itemsize - sum(field.bytes_each for field in fields if field.kind == "transition")
    transitions = rows.nbytes - tails - older - rows.costs.streams
    return Memory(transitions, links, tails, older, rows.costs.streams, sampler, buffer._usage.nbytes)


def _places(field: Field) -> str:
    """Where the first of the constant components are."""
    shown = [str(list(index)) for index in field.constant_at[:3]]
    return ", ".join(shown + ["…"] * (field.constant > len(shown)))


def _notes(
    size: int,
    fields: Sequence[Field],
    streams: Streams,
    episodes: Episodes,
    use: Use | None,
    priorities: Sequence[Priorities] | None,
) -> list[str]:
    """What is worth a look, in sentences."""
    said = [] if size else ["the buffer holds nothing"]
    for field in fields:
        where = field.name if field.kind != "older frame" else f"{field.name} (older frames)"
        if field.nan or field.infinite:
            bad = [f"{field.nan} NaN"] * (field.nan > 0) + [f"{field.infinite} infinite values"] * (field.infinite > 0)
            said.append(f"{where} holds {' and '.join(bad)}, first in transition {field.first_bad}")
        if field.kind == "transition" and size > 1 and field.constant and field.name not in ("terminated", "truncated"):
            all_of = field.constant == field.components
            said.append(
                f"{where} never changes"
                if all_of
                else f"{where}: {field.constant} of {field.components} components never change: {_places(field)}"
            )
    if size and not episodes.whole.runs:
        said.append("no episode is whole, from its first step to its end: nothing is known of lengths and returns")
    if episodes.broken_off.runs:
        said.append(
            f"{episodes.broken_off.runs} runs of transitions break off: what came next began elsewhere, and neither "
            "terminated nor truncated says that the episode had ended; lengths and returns may be those of parts"
        )
    if size and streams.never_added and streams.count > 1:
        said.append(f"{streams.never_added} of {streams.count} streams never added anything")
    if size and streams.transitions is None:
        said.append("not every transition can be told which stream it is from")
    if size and use is None:
        said.append("ages, and what was ever drawn, are not known: they did not come through the damage")
    if size and priorities is None:
        said.append("nothing is known of priorities: what the sampler knew could not be taken up")
    for one in priorities or ():
        if one.zeros:
            said.append(f"{one.zeros} transitions have priority 0")
        if size > 1 and one.low == one.high:
            said.append(f"all priorities are {one.high:g}: as if none had been updated")
    return said
