"""`replaybank top`: how a cluster does, live in the terminal."""

from __future__ import annotations

import json as json_text
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import ray
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replaybank.ray.config import NAMESPACE
from replaybank.ray.session import Session
from replaybank.study import SettingError

Stats = Mapping[str, Any]

UNKNOWN = "-"
PATIENCE = 5.0  # seconds
WINDOW = 5.0  # seconds over which rates are means
AT_ONCE = 0.05  # seconds; reports closer to each other are the same one
NARROW = 96  # columns; a terminal with fewer has no room for bars
MOST_BAR = 24
STYLES = {"open": "green", "draining": "yellow", "starting": "yellow", "away": "bold red"}
COLUMNS = ("shard", "state", "held", "mass", "in/s", "out/s", "stale", "lost", "unsaved", "saved", "writers", "memory")


def top_command(
    name: str | None = None,
    address: str | None = None,
    once: bool = False,
    every: float = 1.0,
    json: bool = False,
) -> int:
    """Watch a cluster of replay shards: sizes, rates, samples per insert, what is lost. Ctrl-C ends it.

    Args:
        name: the cluster's name; may be left out where there is one.
        address: of Ray (host:port); else that of RAY_ADDRESS, else the Ray of this machine.
        once: look twice, print one table and end.
        every: seconds between two looks.
        json: print the figures as JSON and end.
    """
    if not 0.1 <= every <= 3600:
        raise SettingError(f"--every: expected 0.1 to 3600 seconds, given {every:g}")
    mine = not ray.is_initialized()
    if mine:
        _connect(address or os.environ.get("RAY_ADDRESS") or "auto")
    try:
        look = partial(_stats_of, _chosen(name))
        if json:
            sys.stdout.write(json_text.dumps(_told(look), allow_nan=False, indent=1) + "\n")
        else:
            watch(look, Console(highlight=False), every, once)
    except KeyboardInterrupt:
        if once or json:
            raise
    finally:
        if mine:
            ray.shutdown()
    return 0


def _connect(address: str) -> None:
    """Joins a Ray as one more driver; SettingError where there is none."""
    if address != "auto":
        _require_open(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        # Ray looks for its token by itself only where it found the address by itself.
        tokens = "" if "RAY_AUTH_MODE" in os.environ else "; one that asks for a token needs RAY_AUTH_MODE=token here"
        raise SettingError(f"--address: no Ray can be joined {where}: {_first_line(error)}{tokens}") from None


def _require_open(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise SettingError(f"--address: expected host:port, given {address}")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise SettingError(f"--address: nothing answers at {address}: {error}") from None


def _chosen(name: str | None) -> str:
    """The cluster of that name, or the only one."""
    named = ray.util.list_named_actors(all_namespaces=True)
    known = sorted(str(one["name"]) for one in named if one["namespace"] == NAMESPACE and "/shard-" not in one["name"])
    there = f"there are {', '.join(known)}" if known else "there is none on this Ray"
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        raise SettingError(f"--name: which cluster? {there}")
    if name not in known:
        raise SettingError(f"--name: no cluster is called {name}; {there}")
    return name


def _stats_of(name: str) -> Stats:
    """What the coordinator says now: it is found anew, and only numbers and texts are unpickled here.

    Raises TimeoutError where it says nothing.
    """
    try:
        coordinator = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise TimeoutError(f"cluster {name!r} is gone") from None
    found: Stats = Session().ask(coordinator.stats.remote, PATIENCE, f"cluster {name!r}")
    return found


def _told(look: Callable[[], Stats]) -> Stats:
    try:
        return look()
    except TimeoutError as error:
        raise SettingError(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def watch(look: Callable[[], Stats], console: Console, every: float, once: bool = False) -> None:
    """Shows what `look` gives, every so many seconds, until Ctrl-C; `once`: one table, after two looks.

    Rates are means of the last WINDOW seconds, or since the look before.

    A look that ends in a TimeoutError is told of, and made again; with `once`, or at the first, it is a SettingError.
    """
    unicode = console.encoding.startswith("utf")
    before, then = _told(look), time.monotonic()
    if once:
        time.sleep(every)
        stats, now = _told(look), time.monotonic()
        console.print(render(stats, before, now - then, console.width, unicode))
        return
    live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
    show = console.print if live is None else partial(live.update, refresh=True)
    with live or nullcontext():
        shown = render(before, None, 0.0, console.width, unicode)
        show(shown)
        looks = deque([(before, then)])
        while True:
            time.sleep(every)
            try:
                stats, now = look(), time.monotonic()
            except TimeoutError as error:
                show(Group(Text(_first_line(error), style="bold red"), shown))
                continue
            while len(looks) > 1 and now - looks[0][1] > WINDOW:
                looks.popleft()
            before, then = looks[0]
            shown = render(stats, before, now - then, console.width, unicode)
            show(shown)
            looks.append((stats, now))


@dataclass(frozen=True)
class Line:
    """A shard's figures. `inflow`, `outflow`: transitions a second; `stale`: share of updates; None: not known.

    `mass`: its share of all shards'. `unsaved`: transitions that would be lost if it died now.
    """

    shard: int
    state: str
    size: int
    capacity: int
    mass: float | None
    inflow: float | None
    outflow: float | None
    stale: float | None
    lost: int
    unsaved: int
    save_age: float | None
    writers: int
    nbytes: int


def lines(stats: Stats, before: Stats | None, seconds: float) -> list[Line]:
    """What is told of each shard, with rates since `before`, so many seconds ago."""
    earlier = {} if before is None else {shard["shard"]: shard for shard in before["shards"]}
    mass = sum(shard.get("mass", 0.0) for shard in stats["shards"])
    return [_line_of(shard, earlier.get(shard["shard"]), seconds, mass) for shard in stats["shards"]]


def _line_of(shard: Stats, before: Stats | None, seconds: float, mass: float) -> Line:
    silent = "size" not in shard  # it has not reported yet
    if before is not None:  # between its reports, which are a second old at most while it lives
        seconds += before.get("beat_age", 0.0) - shard.get("beat_age", 0.0)
    taken = shard.get("inserted", 0) + shard.get("moved_in", 0) - shard.get("lost", 0)
    return Line(
        shard=shard["shard"],
        state="starting" if silent else shard["state"],
        size=shard.get("size", 0),
        capacity=shard.get("capacity", 0),
        mass=shard.get("mass", 0.0) / mass if mass > 0 else None,
        inflow=_rate(shard, before, "inserted", seconds),
        outflow=_rate(shard, before, "sampled", seconds),
        stale=_stale(shard, before),
        lost=shard.get("lost", 0),
        unsaved=min(shard.get("size", 0), max(0, taken - shard.get("saved", 0))),
        save_age=shard.get("save_age"),
        writers=shard.get("writers", 0),
        nbytes=shard.get("nbytes", 0),
    )


def _rate(stats: Stats, before: Stats | None, key: str, seconds: float) -> float | None:
    if before is None or seconds < AT_ONCE or key not in stats or key not in before:
        return None
    more: int = stats[key] - before[key]
    return max(0, more) / seconds  # it falls where a process that died took its counts along


def _stale(stats: Stats, before: Stats | None) -> float | None:
    """Of the updates since `before`, or without it of all, the share that came too late; None where there are none."""
    stale, updated = (stats.get(key, 0) - (0 if before is None else before.get(key, 0)) for key in ("stale", "updated"))
    return stale / (stale + updated) if stale >= 0 and updated >= 0 and stale + updated > 0 else None


def render(stats: Stats, before: Stats | None, seconds: float, width: int = 80, unicode: bool = True) -> RenderableType:
    """What `replaybank top` shows of `ReplayCluster.stats()`: a head, a table with a row a shard, and what is amiss.

    Rates are since `before` (another one's stats, `seconds` ago; None: not known yet).
    """
    table = Table(
        box=box.SIMPLE_HEAD if unicode else box.ASCII_DOUBLE_HEAD,
        padding=(0, 0 if width < NARROW else 1, 0, 0),  # and one column between two is the box's
        pad_edge=False,
        show_edge=False,
    )
    bar = min(MOST_BAR, width - NARROW + 6) if width >= NARROW else 0
    for at, column in enumerate(COLUMNS):
        justify: Literal["left", "right"] = "left" if at == 1 or (at == 2 and bar) else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    shards = lines(stats, before, seconds)
    whole = _whole(stats, before, shards)
    table.add_row("all", *_cells(whole, bar, unicode)[1:], end_section=True)
    for line in shards:
        cells = [Text(cell) for cell in _cells(line, bar, unicode)]
        cells[1].stylize(STYLES.get(line.state, ""))
        if line.lost:
            cells[COLUMNS.index("lost")].stylize("red")
        table.add_row(*cells)
    amiss = [Text(note, style="red") for note in _amiss(stats)]
    return Group(_head(stats, whole), *_limit(stats), *amiss, Text(), table)


def _whole(stats: Stats, before: Stats | None, shards: list[Line]) -> Line:
    ages = [line.save_age for line in shards if line.save_age is not None]
    return Line(
        shard=-1,
        state="",
        size=stats["size"],
        capacity=stats["capacity"],
        mass=None if all(line.mass is None for line in shards) else 1.0,
        inflow=_sum([line.inflow for line in shards]),
        outflow=_sum([line.outflow for line in shards]),
        stale=_stale(stats, before),
        lost=stats["lost"],
        unsaved=sum(line.unsaved for line in shards),
        save_age=max(ages, default=None),
        writers=stats["writers"],
        nbytes=sum(line.nbytes for line in shards),
    )


def _sum(rates: list[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _cells(line: Line, bar: int, unicode: bool) -> tuple[str, ...]:
    held = line.size / line.capacity if line.capacity else 0.0
    full, empty = ("█", "░") if unicode else ("#", ".")
    filled = round(held * bar)
    return (
        str(line.shard),
        line.state,
        f"{full * filled}{empty * (bar - filled)} {percent(held):>4}" if bar else percent(held),
        percent(line.mass),
        short(line.inflow),
        short(line.outflow),
        percent(line.stale),
        short(line.lost),
        short(line.unsaved),
        age(line.save_age),
        str(line.writers),
        short(line.nbytes) + "B",
    )


def _head(stats: Stats, whole: Line) -> Text:
    away = sum(shard["state"] == "away" for shard in stats["shards"])
    held = f"{stats['size']:,} of {stats['capacity']:,} held"
    told = [
        f"{len(stats['shards'])} shards" + f", {away} away" * (away > 0),
        held,
        f"in {short(whole.inflow)}/s, out {short(whole.outflow)}/s",
    ]
    return Text.assemble((stats["name"], "bold"), ": ", "; ".join(told))


def _limit(stats: Stats) -> list[Text]:
    limit = stats["rate_limit"]
    if limit is None:
        return []
    who = "inserts" if limit["ahead"] >= 0 else "samples"
    band = f"{who} ahead by {short(abs(limit['ahead']))} of {short(limit['tolerance'])}"
    waiting = [f"{limit[key]} wait {key[8:].replace('_', ' ')}" for key in ("waiting_to_insert", "waiting_to_sample")]
    waits = [told for told in waiting if not told.startswith("0 ")] or ["nobody waits"]
    text = f"samples/insert: {limit['measured']:.3g}, wanted {limit['samples_per_insert']:g}; {band}; "
    return [Text(text + ", ".join(waits), style="" if waits == ["nobody waits"] else "yellow")]


def _amiss(stats: Stats) -> list[str]:
    told = []
    for shard in stats["shards"]:
        which = f"shard {shard['shard']}"
        if shard["state"] == "away":
            told.append(f"{which} is away: no report for {age(shard['beat_age'])}")
        if shard.get("save_failed"):
            told.append(f"{which} could not be saved: {shard['save_failed']}")
        if shard.get("refused"):
            told.append(f"{which} refused {shard['refused']:,} messages that were not what its schema says")
    if stats["writers_died"]:
        told.append(f"writers that died: {stats['writers_died']:,}")
    return told


def short(value: float | None) -> str:
    """A number >= 0 in at most five characters: 999, 1.23k, 12.3M."""
    if value is None:
        return UNKNOWN
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}T"


def percent(share: float | None) -> str:
    """A share from 0 to 1 in at most five characters; little is not told as nothing."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{100 * share:.1f}%" if 0 < share < 0.0995 else f"{100 * share:.0f}%"


def age(seconds: float | None) -> str:
    """Seconds in at most four characters."""
    if seconds is None:
        return UNKNOWN
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
