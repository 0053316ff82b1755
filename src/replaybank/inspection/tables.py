"""An inspection in words: tables of text, the same in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replaybank.inspection.report import Age, Distribution, Field, Inspection, Priorities

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Table:
    """`numeric`: how many columns from the last on are numbers, and stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int
    note: str = ""


def tables_of(found: Inspection) -> list[Table]:
    """All tables, of what there is."""
    tables = [_overview(found), _memory(found)]
    if found.fields:
        tables.append(_sizes(found))
    if found.size:
        tables += [_values(found.fields), _episodes(found), *_whole(found), *_streams(found), *_use(found)]
    for one in (found.priorities or ()) if found.size else ():
        tables += [_priorities(one, found.size, len(found.priorities or ())), *_top(one)]
    return tables


def number(value: float | None, digits: int = 4) -> str:
    """A number at a length that can be read; whole ones in full."""
    if value is None:
        return UNKNOWN
    if isinstance(value, int):
        return str(value) if isinstance(value, bool) else f"{value:,}"
    return f"{value:,.0f}" if value == int_or_none(value) and abs(value) < 1e15 else f"{value:.{digits}g}"


def int_or_none(value: float) -> int | None:
    """The whole number that a float is, if it is one."""
    return int(value) if value.is_integer() else None


def share(value: float) -> str:
    """A share from 0 to 1 in per cent; never rounded to all or nothing."""
    percent = 100 * value
    if 0 < percent < 0.1 or 99.9 < percent < 100:
        return f"{percent:.2g}%" if percent < 1 else "> 99.9%"
    return f"{percent:.3g}%"


def size_of(nbytes: int) -> str:
    """Bytes, in the unit that suits them."""
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"


def span(seconds: float) -> str:
    """Seconds, in the unit that suits them."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _overview(found: Inspection) -> Table:
    gone = [f"{number(found.overwritten)} overwritten"] + [f"{number(found.cleared)} cleared"] * (found.cleared > 0)
    rows = [("folder", found.source)] if found.source is not None else []
    rows += [
        ("transitions", f"{number(found.size)} of {number(found.capacity)}"),
        ("added", f"{number(found.added)}, of which {', '.join(gone)}"),
        ("streams", number(found.streams.count)),
        ("sampler", found.sampler),
        ("view", found.view),
    ]
    if found.storage is not None:
        rows.append(("storage", found.storage))
    if found.max_bytes is not None:
        rows.append(("max_bytes", f"{size_of(found.max_bytes)} ({number(found.max_bytes)})"))
    return Table("Buffer", ("", ""), tuple(rows), 0)


def _memory(found: Inspection) -> Table:
    memory = found.memory
    parts = [
        ("transitions", memory.transitions),
        ("final observations beside them", memory.final_observations),
        ("older frames beside them", memory.older_frames),
        ("streams", memory.streams),
        ("sampler", memory.sampler),
        ("what was drawn", memory.usage),
    ]
    told = [(name, size_of(nbytes), number(nbytes)) for name, nbytes in parts if nbytes]
    where = "Memory" if found.storage is None else "Memory, of which transitions and what is beside them in files"
    return Table(where, ("", "size", "bytes"), (*told, ("all", size_of(memory.total), number(memory.total))), 2)


def _sizes(found: Inspection) -> Table:
    rows = [
        (label(field), field.dtype, _shape(field.shape), number(field.bytes_each), size_of(field.bytes_total))
        for field in found.fields
    ]
    links = found.memory.links_each
    rows.append(("links and padding", "", "", number(links), size_of(links * found.size)))
    return Table(
        "Fields: what they are",
        ("field", "dtype", "shape", "bytes each", "in all"),
        tuple(rows),
        2,
        "next_obs is stored where no other transition's obs is the same; a stack of frames, as its newest one.",
    )


def _values(fields: Sequence[Field]) -> Table:
    rows = [
        (
            label(field),
            *("none" if value is None else number(value) for value in (field.low, field.mean, field.high)),
            number(field.nan),
            number(field.infinite),
            _constant(field),
        )
        for field in fields
        if field.items
    ]
    columns = ("field", "min", "mean", "max", "NaN", "infinite", "constant")
    return Table("Fields: what they hold", columns, tuple(rows), 6, "Of finite values. Constant: the same throughout.")


def label(field: Field) -> str:
    """What a field is called among others."""
    return f"{field.name} ({field.kind}s)" if field.kind == "older frame" else field.name


def _constant(field: Field) -> str:
    if field.constant in (0, field.components):
        return "all" if field.constant else "no"
    return f"{number(field.constant)} of {number(field.components)}"


def _episodes(found: Inspection) -> Table:
    episodes = found.episodes
    kinds = (
        ("whole", episodes.whole),
        ("ended, beginning has left", episodes.beginning_left),
        ("open", episodes.open),
        ("broken off", episodes.broken_off),
    )
    rows = tuple((name, number(count.runs), number(count.transitions)) for name, count in kinds)
    note = f"Of the whole ones {number(episodes.terminated)} terminated, {number(episodes.truncated)} were truncated."
    return Table("Episodes", ("", "number", "transitions"), rows, 2, note)


def _whole(found: Inspection) -> list[Table]:
    told = [(name, *_figures(one)) for name, one in distributions(found)]
    columns = ("", "min", "mean", "median", "max")
    note = "Lengths in steps; a return is the sum of an episode's rewards, undiscounted."
    return [Table("Whole episodes", columns, tuple(told), 4, note)] if told else []


def distributions(found: Inspection) -> list[tuple[str, Distribution]]:
    """Lengths and returns of whole episodes by name, as far as there are any."""
    returns, lengths = found.episodes.returns, found.episodes.lengths
    names = ["return"] if len(returns) == 1 else [f"return[{at}]" for at in range(len(returns))]
    return ([] if lengths is None else [("length", lengths)]) + list(zip(names, returns, strict=True))


def _figures(one: Distribution) -> tuple[str, ...]:
    return tuple(map(number, (one.low, one.mean, one.median, one.high)))


def _streams(found: Inspection) -> list[Table]:
    streams = found.streams
    if streams.count == 1:
        return []
    rows = []
    for name, by_stream in (("transitions in each", streams.transitions), ("whole episodes in each", streams.episodes)):
        known = by_stream is not None
        low, high = (number(min(by_stream)), number(max(by_stream))) if by_stream and known else (UNKNOWN, UNKNOWN)
        rows.append((name, low, high))
    never = f"{number(streams.never_added)} of {number(streams.count)} never added anything."
    return [Table("Streams", ("", "fewest", "most"), tuple(rows), 2, never)]


def _use(found: Inspection) -> list[Table]:
    use, effective = found.use, found.effective_size
    size = UNKNOWN if effective is None else f"{number(effective)} ({share(effective / found.size)})"
    rows = [
        ("calls of sample", UNKNOWN if use is None else number(use.calls)),
        ("transitions drawn", UNKNOWN if use is None else number(use.sampled)),
        ("never sampled", UNKNOWN if use is None else share(use.never_sampled)),
        ("effective sample size", size),
    ]
    draws = Table("Draws", ("", ""), tuple(rows), 1, "Effective sample size: 1 / sum of P(i)², as of the next draw.")
    if use is None:
        return [draws]
    names = ("oldest", "middle", "newest")
    ages = tuple((name, *_age(age)) for name, age in zip(names, (use.oldest, use.middle, use.newest), strict=True))
    columns = ("transition", "id", "added since", "calls of sample since", "time since")
    note = "Calls and time are upper bounds; time runs until now, on the disk, too."
    return [draws, Table("Age", columns, ages, 4, note)]


def _age(age: Age) -> tuple[str, ...]:
    return (number(age.id), number(age.added), number(age.samples), span(age.seconds))


def _priorities(one: Priorities, size: int, among: int) -> Table:
    title = "Priorities" if among == 1 else f"Priorities of {one.sampler}"
    rows = (
        ("min", number(one.low)),
        ("mean", number(one.mean)),
        ("max", number(one.high)),
        ("priority 0", f"{number(one.zeros)} ({share(one.zeros / size)})"),
        ("effective sample size", f"{number(one.effective_size)} ({share(one.effective_size / size)})"),
    )
    note = "Raw, before alpha. Until it is updated, a new transition has the largest that was there when it came."
    return Table(title, ("", ""), rows, 1, note)


def _top(one: Priorities) -> list[Table]:
    if not one.top:
        return []
    rows = tuple(
        (
            str(of.id),
            number(of.priority),
            f"{of.likely:.3g}×",
            UNKNOWN if of.age is None else number(of.age.added),
            UNKNOWN if of.sampled is None else "yes" if of.sampled else "no",
            number(of.step),
            _plain(of.action),
            _plain(of.reward),
            " ".join(["terminated"] * of.terminated + ["truncated"] * of.truncated),
        )
        for of in one.top
    )
    columns = ("id", "priority", "uniform", "added since", "drawn", "step", "action", "reward", "end")
    note = "uniform: how many times as likely as with uniform draws; step: in its episode, from 0 on."
    return [Table(f"The top {len(rows)} transitions by priority", columns, rows, 9, note)]


def _plain(value: Any) -> str:
    if value is None:
        return "…"
    return "[" + " ".join(map(_plain, value)) + "]" if isinstance(value, list) else number(value)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
