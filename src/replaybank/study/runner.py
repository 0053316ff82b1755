"""Runs studies: jobs in worker processes, resumable, with live progress and a clean end on Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from replaybank.study import SettingError, catalog, plots
from replaybank.study.base import C, Findings, Job, Record, Runs, Stopped, Study, Track
from replaybank.study.configs import check_at_least_one, rebuilt
from replaybank.study.folder import Folder, cores, write_csv, write_json
from replaybank.study.tracking import JsonLines, Sink, TensorBoard, Tracker, WeightsAndBiases

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MOST_SEEDS = 1_000_000
"""Seeds stay below this: those above are for choosing settings, never for judging them."""


@dataclass(frozen=True)
class RunSettings:
    """How a study is run, whatever it is about."""

    seeds: int
    """paired seeds of every condition"""
    first_seed: int = 0
    """the seeds are first-seed, first-seed + 1, ..."""
    out: Path | None = None
    """folder of the results; left out: runs/NAME"""
    resume: bool = False
    """go on where an interrupted study stopped; finished runs are kept"""
    workers: int = field(default_factory=cores)
    """processes that work at the same time"""
    tensorboard: bool = False
    """write TensorBoard events, too, beside the JSON lines in log/"""
    wandb: bool = False
    """tell Weights & Biases, too"""

    def check_valid(self) -> None:
        """Raise SettingError naming the flag, what was given and what is expected."""
        check_at_least_one(seeds=self.seeds, workers=self.workers)
        if not 0 <= self.first_seed <= MOST_SEEDS - self.seeds:
            raise SettingError(f"--first-seed: expected from 0 to {MOST_SEEDS - self.seeds}, given {self.first_seed}")
        for name in ("tensorboard", "wandb"):
            if getattr(self, name):
                import_module(name)  # now, rather than in a worker after hours


def run_study(study: Study[C], config: C, settings: RunSettings, console: Console | None = None) -> int:
    """Run the study and report it. Returns the exit status: 0, or 130 if Ctrl-C ended it early.

    config: the study's settings. console: where it is reported (None: the terminal).

    Raises SettingError for settings that cannot work, and ModuleNotFoundError for a package that tracking lacks, before
    anything is written.
    """
    console = console or Console()
    settings.check_valid()
    config.check_valid()
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    jobs = study.jobs(config, seeds)
    folder = Folder(settings.out or Path("runs") / study.name)
    content = {"settings": asdict(config), "seeds": list(seeds)}
    folder.open(study.name, content, jobs, settings.resume)
    console.print(f"[bold]{study.name}[/]: {study.question}", highlight=False)
    if folder.set_aside:
        console.print(f"The earlier results are now in {folder.set_aside}.", highlight=False)
    began = time.monotonic()
    finished = _work(study, jobs, folder, settings, console)
    if finished and study.then and (more := study.then(config, seeds, folder.load(jobs))):
        folder.load(more)  # refuses what an earlier attempt left there before anything is trained
        finished = _work(study, more, folder, settings, console)
        jobs = [*jobs, *more]
    runs = folder.load(jobs)
    if runs:
        _report(study, config, runs, folder, console)
    else:
        console.print("No run has finished, so there is nothing to report.")
    console.print(f"\nResults: {folder.path}  ({time.monotonic() - began:.0f} s)", highlight=False)
    if not finished:
        console.print("Not all runs have finished. The same command with --resume goes on.")
    return 0 if finished else 130


def plot_study(path: Path, console: Console | None = None) -> int:
    """Judge and draw a study again from the files of its runs. Returns the exit status, 0.

    console: where it is reported (None: the terminal).

    Raises SettingError where `path` is no folder of a study, or one of its files is broken.
    """
    console = console or Console()
    folder = Folder(path)
    content = folder.config()
    study = catalog.study(content["study"])
    try:
        config = rebuilt(study.config, content["settings"])
        config.check_valid()
    except ValueError as error:
        raise SettingError(f"{path}/config.json was made by another version of {study.name}: {error}") from error
    jobs = study.jobs(config, content["seeds"])
    if study.then and not folder.missing(jobs):
        jobs = [*jobs, *study.then(config, content["seeds"], folder.load(jobs))]
    runs = folder.load(jobs)
    if not runs:
        raise SettingError(f"{path} holds no finished run")
    _report(study, config, runs, folder, console)
    return 0


def _report(study: Study[C], config: C, runs: Runs, folder: Folder, console: Console) -> None:
    found = study.judge(config, runs)
    verdicts = [{**asdict(v.claim), "outcome": v.outcome, "evidence": v.evidence} for v in found.verdicts]
    summary = {"study": study.name, "question": study.question, **found.summary, "verdicts": verdicts}
    write_json(folder.path / "summary.json", {**summary, "notes": list(found.notes)})
    if found.rows:
        write_csv(folder.path / "results.csv", list(found.rows[0]), [list(row.values()) for row in found.rows])
    for stem, figure in study.draw(config, runs).items():
        plots.save(figure, folder.path, stem)
    _tell(found, console)


_COLOURS = {"reproduced": "green", "not reproduced": "red", "undecided": "yellow"}


def _tell(found: Findings, console: Console) -> None:
    for table in found.tables:
        console.print()
        console.print(table.title, style="bold", highlight=False, markup=False)
        shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for place, column in enumerate(table.columns):
            words = any(row[place][:1].isalpha() for row in table.rows)
            shown.add_column(column, justify="left" if words else "right", style="bold" if place == 0 else None)
            shown.columns[-1].no_wrap = place == 0  # a narrow terminal folds figures; it must not cut them
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
    if found.verdicts:
        console.print("\n[bold]What the literature says, and what was found[/]")
    for verdict in found.verdicts:
        outcome = Text(f"{verdict.outcome}: ", style=f"bold {_COLOURS[verdict.outcome]}")
        console.print(outcome + Text(f"{verdict.claim.text} ({verdict.claim.source})", style="not bold default"))
        console.print(Text(f"  {verdict.evidence}"))
    console.print()
    for note in found.notes:
        console.print(note, style="dim", highlight=False, markup=False)


# ---- in the worker -------------------------------------------------------------------

_news: Any = None
_stop: Any = None


def start_worker(news: Any, stop: Any) -> None:
    """Prepare a worker process: one thread each, and Ctrl-C is the parent's to handle."""
    global _news, _stop
    _news, _stop = news, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    news.cancel_join_thread()  # else a worker would wait at its end until the parent has read all its news


def run_job(
    run: Callable[[Job, Track], Mapping[int, Record]], study: str, job: Job, path: Path, tensorboard: bool, wandb: bool
) -> Mapping[int, Record]:
    """Make a job's runs; news about it go to the parent."""
    track = JobTrack(study, job, Folder(path), tensorboard, wandb)
    try:
        return run(job, track)
    finally:
        track.close()


class JobTrack:
    """A job's `Track`."""

    def __init__(self, study: str, job: Job, folder: Folder, tensorboard: bool, wandb: bool) -> None:
        self.folder = folder.unfinished(job)
        self._study, self._job, self._place = study, job, folder
        self._tensorboard, self._wandb = tensorboard, wandb
        self._tracker: Tracker | None = None

    def begin(self, step: int) -> None:
        """The job goes on from `step` of an earlier attempt."""
        self._tracker = Tracker({seed: self._sinks(seed, step) for seed in self._job.seeds})

    def _sinks(self, seed: int, begin: int) -> list[Sink]:
        condition, place = self._job.condition, self._place
        sinks: list[Sink] = [JsonLines(place.log(condition, seed), begin)]
        if self._tensorboard:
            sinks.append(TensorBoard(place.path / "tensorboard" / condition / f"seed{seed}", begin))
        if self._wandb:
            sinks.append(WeightsAndBiases(self._study, condition, seed, self._job.settings, place.path))
        return sinks

    def scalar(self, seed: int, tag: str, value: float, step: int) -> None:
        """A value of one run at one of its steps."""
        if self._tracker is None:
            self.begin(0)
        assert self._tracker is not None
        self._tracker.write(seed, tag, value, step)

    def progress(self, step: int, text: str = "") -> None:
        """`step` of the job's steps are done; raises Stopped when the parent wants an end."""
        if self._tracker is not None:
            self._tracker.flush()
        if _news is not None:
            _news.put((self._job.name, step, text))
        if _stop is not None and _stop.is_set():
            raise Stopped

    def close(self) -> None:
        """The job has ended, or its attempt."""
        if self._tracker is not None:
            self._tracker.close()


# ---- in the parent -------------------------------------------------------------------


class Board:
    """The live display: a bar for all of it, and one for each job at work."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self.jobs = {job.name: job for job in jobs}
        self.runs, self.runs_done = sum(len(job.seeds) for job in jobs), 0
        total = sum(job.steps * len(job.seeds) for job in jobs)
        self.all = self.progress.add_task("", total=total, text="")
        self.bars: dict[str, TaskID] = {}
        self.done = dict.fromkeys(self.jobs, 0)
        self._describe()

    def _describe(self) -> None:
        self.progress.update(self.all, description=f"all: {self.runs_done} of {self.runs} runs")

    def show(self, name: str, step: int, text: str) -> None:
        """Take in one piece of news from a worker."""
        job = self.jobs[name]
        if self.done[name] == job.steps:
            return  # it has finished, and this came late
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(f"  {name}", total=job.steps * len(job.seeds), text="")
        advance = max(0, step - self.done[name]) * len(job.seeds)
        self.done[name] = max(step, self.done[name])
        self.progress.update(self.bars[name], advance=advance, text=text)
        self.progress.update(self.all, advance=advance)

    def finish(self, job: Job) -> None:
        """Take a finished job's bar away."""
        self.show(job.name, job.steps, "")
        if job.name in self.bars:
            self.progress.remove_task(self.bars.pop(job.name))
        self.runs_done += len(job.seeds)
        self._describe()


class Speed(ProgressColumn):
    """Steps per second over all seeds of a job."""

    def render(self, task: Task) -> Text:
        """Empty before the first news."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:>9,.0f} steps/s" if speed else "")


def _work(study: Study[C], jobs: Sequence[Job], folder: Folder, settings: RunSettings, console: Console) -> bool:
    """Do those jobs that have no result yet, each saved when it ends. False if Ctrl-C came before all had ended."""
    waiting = folder.missing(jobs)
    runs, left = (sum(len(job.seeds) for job in some) for some in (jobs, waiting))
    if left < runs:
        console.print(f"{runs - left} finished runs are kept.")
    if not waiting:
        return True
    context = multiprocessing.get_context("spawn")
    news, stop = context.Queue(), context.Event()
    workers = min(settings.workers, len(waiting))
    board = Board(console, waiting)
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(news, stop)) as pool,
    ):
        futures: dict[Future[Mapping[int, Record]], Job] = {}
        with _ignoring_interrupts():
            for job in waiting:
                asked = (study.run, study.name, job, folder.path, settings.tensorboard, settings.wandb)
                futures[pool.submit(run_job, *asked)] = job
        try:
            with board.progress:
                _collect(futures, folder, board, news)
            return True
        except KeyboardInterrupt:
            console.print("Stopping; what has finished is kept.")
            return False
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for future, job in futures.items():
                ended = future.done() and not future.cancelled() and future.exception() is None
                if ended and folder.missing([job]):
                    folder.save(job, future.result())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers that start in here compute with one thread each, in whichever library: the processes are parallel."""
    kept = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Workers that start in here are deaf to Ctrl-C from their first moment on; the parent stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _collect(futures: Mapping[Future[Mapping[int, Record]], Job], folder: Folder, board: Board, news: Any) -> None:
    running = set(futures)
    while running:
        finished, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                folder.save(futures[future], future.result())
            except BrokenProcessPool as error:
                raise SettingError(
                    "a worker process died (out of memory?); what has finished is kept, --resume goes on"
                ) from error
            board.finish(futures[future])
        try:
            while True:
                board.show(*news.get_nowait())
        except Empty:
            pass
