"""docs/benchmarks.md, made of a run that was kept and of nothing else."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import contest
import device
import figures
from bars import OURS
from measuring import NEAR, floor_of, times_floor
from parts import PARTS
from report import ABSENT, factor, rounded, table

README = Path(__file__).resolve().parents[1] / "README.md"
DOCS = README.parent / "docs"
PAGE = DOCS / "benchmarks.md"
IMAGES = DOCS / "images" / "benchmarks"
DEQUE = "textbook deque"
Results = Mapping[str, Any]

START = """# Benchmarks

replaybank and other libraries at the same work: every one of them in one run, in turn within each repeat, medians ±
half the distance between the quartiles, and beside each the floor: what plain C takes to move the same bytes. This page
is made by `python -m benchmarks --page` of `benchmarks/results.json`, which has every figure; nothing on it is written
by hand.

## Run it

From the root of the repository, on Linux, with nothing else running:

```bash
pip install -c constraints.txt '.[bench]'
python -m benchmarks --quick                      # small buffers, about five minutes: runs/benchmarks.json
python -m benchmarks --full                       # about half an hour: benchmarks/results.json
python -m benchmarks --full --only frames writers # these parts again, the others stay
python -m benchmarks --page                       # this page and its figures
```

Each part is a process of its own, and is kept when it is done. A library that is not installed, or that fails, is left
out and named. Reverb needs an environment of its own: `REVERB_PYTHON` names its interpreter. Dopamine goes without the
TensorFlow that its buffer does not use: `pip install --no-deps dopamine-rl gin-config python-snappy cramjam`. That
every adapter does the same work is tested: the bytes that come out are those that went in (`tests/benchmarks`).

A GPU has a command of its own, `python benchmarks/device.py`; clusters are measured in [Ray](ray.md) and
[scale](scale.md).
"""


def write(results: Results) -> None:
    figures.draw(results, IMAGES)
    PAGE.write_text(written(results, on_a_gpu()), encoding="utf-8")
    README.write_text(with_glance(README.read_text(encoding="utf-8"), results), encoding="utf-8")


def with_glance(readme: str, results: Results) -> str:
    """The README with the table of this run between its two marks."""
    marked = re.compile(r"(?<=<!-- glance: python -m benchmarks --page -->\n).*?(?=<!-- /glance -->)", re.S)
    assert marked.search(readme), "README.md: the marks of the table are gone"
    return marked.sub(lambda _: f"\n{glance_table(results)}\n\n", readme)


def on_a_gpu() -> Results | None:
    """The run of `device.py` that was kept, if one was."""
    if not device.RESULTS.exists():
        return None
    run: Results = json.loads(device.RESULTS.read_text(encoding="utf-8"))
    return run


def written(results: Results, gpu: Results | None = None) -> str:
    """The page."""
    parts = [START.strip(), _runs(results), _glance(results), _far(results)]
    for key, run in results["parts"].items():
        lines = [f"## {PARTS[key].title}", *_images(results, key), PARTS[key].section(run)]
        parts.append("\n\n".join(lines))
    parts += [_gpu(gpu)] if gpu else []
    parts += [_bars(results), _left_out(results)]
    return "\n\n".join(map(_filled, "\n\n".join(parts).split("\n\n"))) + "\n"


def _filled(block: str) -> str:
    """Prose in lines of at most 120 letters; tables, lists, titles, images and commands as they are."""
    as_it_is = block.startswith(("|", "-", "#", "!", "```")) or len(block.splitlines()) == 0
    return block if as_it_is else textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def _runs(results: Results) -> str:
    """Where, when and with what."""
    runs = list(results["parts"].values())
    machines = {}
    for run in runs:
        hardware = run["hardware"]
        words = (
            f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {hardware['system']}"
        )
        machines[f"{words}; {run['python']}"] = None
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run["versions"].items():
            versions.setdefault(name, set()).add(version)
    told = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))
    lines = [
        (
            PARTS[key].title,
            f"`{key}`",
            run["run"],
            run["date"].replace("T", " ").removesuffix("+00:00"),
            run["commit"] or "unknown",
            f"{run['seconds']:,.0f}",
            f"{run['load']['before'][0]:.1f}" if run["load"]["before"] else ABSENT,
        )
        for key, run in results["parts"].items()
    ]
    header = ("part", "", "run", "UTC", "commit", "seconds", "load average before")
    failed = "".join(f"\n\nThe last try of `{key}` failed: {reason}." for key, reason in results["failed"].items())
    return f"""## This run

{"; ".join(machines)}. {told}.

{table(header, lines)}{failed}"""


def rows(results: Results) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row that has times, with the key of its part."""
    for key, run in results["parts"].items():
        for row in run.get("rows", ()):
            if all("median" in result for result in row["results"]):
                yield key, row


def _glance(results: Results) -> str:
    return "\n\n".join(["## At a glance", *_images(results, "glance"), glance_table(results)])


def glance_table(results: Results) -> str:
    """replaybank, the best peer and the floor at the works that stand for the others."""
    lines = []
    there = {(key, row["key"]): row for key, row in rows(results)}
    for place, title in figures.GLANCE.items():
        row = there.get(place)
        ours = next((result for result in row["results"] if result["name"] == OURS), None) if row else None
        if row and ours:
            best = next((result for result in row["results"] if result["name"] == row["best_peer"]), None)
            floor = floor_of(row)
            lines.append(
                (
                    title,
                    _time(ours["median"], row),
                    f"{best['name']}: {_time(best['median'], row)}" if best else ABSENT,
                    factor(best["median"] / ours["median"] if best else None),
                    f"{floor['name']}: {_time(floor['median'], row)}" if floor else ABSENT,
                    factor(times_floor(row)),
                )
            )
    header = ("", OURS, "best peer", "times replaybank", "floor", "replaybank, times floor")
    return table(header, lines)


def _time(median: float, row: Mapping[str, Any]) -> str:
    """With its unit: rows of writers have µs for one transition or batch."""
    seconds = median if row.get("unit") == "seconds" else median / 1e6
    return f"{rounded(1e6 * seconds)} µs" if seconds < 1e-3 else f"{rounded(1e3 * seconds)} ms"


def far(results: Results) -> list[tuple[str, Mapping[str, Any], float]]:
    """Part, row and ratio of all rows that are not within NEAR times their floor, the farthest first."""
    ratios = [(key, row, times_floor(row)) for key, row in rows(results)]
    found = [(key, row, ratio) for key, row, ratio in ratios if ratio is not None and ratio > NEAR]
    return sorted(found, key=lambda entry: -entry[2])


def _far(results: Results) -> str:
    measured = sum(times_floor(row) is not None for _, row in rows(results))
    lines = []
    for key, row, ratio in far(results):
        floor, ours = floor_of(row), next(result for result in row["results"] if result["name"] == OURS)
        assert floor is not None
        title = row["title"] if key != "capacity" else f"{row['key'].rpartition('-')[0]}, of {row['title']}"
        lines.append((key, title, _time(ours["median"], row), _time(floor["median"], row), factor(ratio)))
    header = ("part", "row", OURS, "floor", "times floor")
    return f"""## Not within {NEAR:g} times its floor

{len(lines)} of the {measured} rows that have a floor. The floor checks nothing, draws no random numbers, weighs nothing
and allocates nothing; [where the time goes](why-fast.md#where-the-time-goes) says what of that costs how much. It
is called from Python once for many calls, so that the way from Python into C, which every library has to go, is not in
it{_way(results)}. Threads and writers have no floor: they are rates of two things at once on cores that both share.

{table(header, lines) if lines else ""}""".rstrip()


def _way(results: Results) -> str:
    """What a call costs that does next to nothing: the textbook deque keeps what it is handed."""
    calls = results["parts"].get("calls", {}).get("rows", ())
    found = [result for row in calls if row["key"] == "add" for result in row["results"] if result["name"] == DEQUE]
    return f": where one transition is added, {rounded(found[0]['median'])} µs for the {DEQUE}" if found else ""


def _gpu(run: Results) -> str:
    """A run of its own, since the suite needs no GPU."""
    about = f"`python benchmarks/device.py`, {run['date'][:10]}, commit {run['commit'] or 'unknown'}: {run['device']}"
    hardware = f"{run['hardware']['processor']}, {run['hardware']['cores']} cores; {run['python']}"
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    parts = ["## On a GPU", f"{about}; {hardware}. {versions}.", contest.rates(run["rows"], {}), device.notes(run)]
    left_out = [f"- {one['name']} ({', '.join(one['rows'])}): {one['reason']}" for one in run["left_out"]]
    return "\n\n".join([*parts, *(["Left out:", "\n".join(left_out)] if left_out else [])])


def _images(results: Results, key: str) -> list[str]:
    return [
        f"![{figure.alt}](images/benchmarks/{stem}.png)"
        for stem, figure in figures.FIGURES.items()
        if figure.section == key and figure.parts <= set(results["parts"])
    ]


def _bars(results: Results) -> str:
    words = {True: "met", False: "NOT met", None: "not measured"}
    lines = [
        (key, bar["row"], bar["text"], bar["against"], factor(bar["measured"]), words[bar["met"]])
        for key, run in results["parts"].items()
        for bar in run["bars"]
    ]
    said = "What we set out to reach, and whether this run did."
    return f"## Bars\n\n{said}\n\n{table(('part', 'row', 'bar', 'against', 'measured', ''), lines)}"


def _left_out(results: Results) -> str:
    """By part and reason; rows of which all sizes are meant have one name."""
    found: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for key, run in results["parts"].items():
        for entry in run["left_out"]:
            names, kinds = found.setdefault((key, entry["reason"]), ([], []))
            names += [entry["name"]] if entry["name"] not in names else []
            kinds += [kind for kind in _kinds(entry["rows"]) if kind not in kinds]
    lines = [
        f"- {'; '.join(names)} (`{key}`: {', '.join(kinds)}): {textwrap.shorten(reason, 200)}"
        for (key, reason), (names, kinds) in found.items()
    ]
    return "## Left out\n\n" + ("\n".join(lines) or "Nobody.")


def _kinds(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(re.sub(r"-\d+\b", "", key) for key in keys))
