"""What a study is made of. A study is one small file: what is run, what the literature expects, what was found.

The runner (runner.py) knows these names and nothing of what any study means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from replaybank.study.claims import Claim, Verdict

Record = dict[str, Any]
"""What one run leaves: plain values that JSON can hold, lists of numbers rather than lists of mappings."""
Runs = Mapping[str, Mapping[int, Record]]
"""The finished runs: condition, then seed."""


class Stopped(Exception):
    """Ends a job in a worker process when the parent asks for it."""


@dataclass(frozen=True)
class Job:
    """Runs of one condition that go together in one process, in lock step where that pays.

    condition: its name, fit for a file's. seeds: one for each run. steps: units of work of each run (environment steps,
    say), for the progress bar. settings: plain values; all that a run depends on beside its seed. A run that was made
    with other settings is refused.
    """

    condition: str
    seeds: tuple[int, ...]
    steps: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The condition and its seeds."""
        return f"{self.condition}-seeds{self.seeds[0]}-{self.seeds[-1]}"


class Track(Protocol):
    """What a job in a worker process tells while it goes on."""

    folder: Path
    """for the job's unfinished work; removed once the job has finished"""

    def begin(self, step: int) -> None:
        """The job goes on from `step` of an earlier attempt: what was told of later steps is dropped."""

    def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
        """A value of the run of `seed` at its `step`, under a `tag` of CleanRL's (`charts/episodic_return`)."""

    def progress(self, step: int, text: str = "") -> None:
        """`step` of the job's steps are done; `text` stands beside. Raises Stopped when the parent wants an end."""


@dataclass(frozen=True)
class Table:
    """A table as it is shown, under its title: every one of rows has a text for every one of columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Findings:
    """What a study found.

    tables, notes (sentences): as shown. verdicts: of claims. summary: plain values for summary.json. rows: one mapping
    of plain values a run or a measure, for results.csv, all with the same names.
    """

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    summary: dict[str, Any]
    rows: tuple[Mapping[str, Any], ...] = ()


class Config(Protocol):
    """A study's own settings: a frozen dataclass of which every field has a default. It is the command line."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Study(Generic[C]):
    """A study.

    name: of the command and its folder. question: a sentence. claims: what it judges. config: the class of its
    settings. seeds: how many, if nothing else is said.

    - jobs(config, seeds): what is run, the longest first, the same seeds in every condition: those are pairs.
    - then(config, seeds, runs): what is run after that, where it depends on what was found.
    - run(job, track): makes a job's runs, in a worker process; the same job gives the same records.
    - judge(config, runs): what the finished runs say; some may be missing. A pure function.
    - draw(config, runs): figures by file stem.
    - presets: other sets of settings by name, beside the default one.
    """

    name: str
    question: str
    claims: tuple[Claim, ...]
    config: type[C]
    seeds: int
    jobs: Callable[[C, Sequence[int]], list[Job]]
    run: Callable[[Job, Track], Mapping[int, Record]]
    judge: Callable[[C, Runs], Findings]
    draw: Callable[[C, Runs], Mapping[str, Figure]]
    then: Callable[[C, Sequence[int], Runs], list[Job]] | None = None
    presets: Mapping[str, C] = field(default_factory=dict)
