"""Jobs in worker processes, with live progress and a clean end on Ctrl-C."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from replaybank.study import dqn
from replaybank.study.arms import ARMS
from replaybank.study.dqn import DQNConfig, Episode
from replaybank.study.runs import CompareConfig, Job, Results

_RECENT_EPISODES = 10


class Stopped(Exception):
    """Ends a training in a worker when the parent asks for it."""


# ---- in the worker -------------------------------------------------------------------

_news: Any = None
_stop: Any = None


def start_worker(news: Any, stop: Any) -> None:
    """Prepare a worker process: one thread each, and Ctrl-C is the parent's to handle."""
    global _news, _stop
    _news, _stop = news, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    news.cancel_join_thread()  # else a worker would wait at its end until the parent has read all its news
    torch.set_num_threads(1)


def run_job(job: Job, env: str, steps: int, config: DQNConfig, tensorboard: Path | None) -> list[Episode]:
    """Train one job; news about it go to the parent."""
    track = Tracker(tensorboard, job) if tensorboard else None

    def report(progress: dqn.Progress) -> None:
        if _stop.is_set():
            raise Stopped
        _news.put((job.arm, job.name, progress.step, [e.episode_return for e in progress.episodes]))
        if track:
            track.write(progress)

    try:
        return dqn.train(ARMS[job.arm], env, job.seeds, steps, config, report)
    finally:
        if track:
            track.close()


class Tracker:
    """TensorBoard events of one job, a run per seed; those of an earlier attempt are removed."""

    def __init__(self, folder: Path, job: Job) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError("--tensorboard needs the package tensorboard", name="tensorboard") from error
        self.writers: dict[int, Any] = {}
        for seed in job.seeds:
            run = folder / f"{job.arm}-lr{job.learning_rate:g}" / f"seed{seed}"
            shutil.rmtree(run, ignore_errors=True)
            self.writers[seed] = SummaryWriter(str(run))

    def write(self, progress: dqn.Progress) -> None:
        """What is new since the last call."""
        for episode in progress.episodes:
            writer = self.writers[episode.seed]
            writer.add_scalar("charts/episodic_return", episode.episode_return, episode.step)
            writer.add_scalar("charts/episodic_length", episode.length, episode.step)
        if progress.losses:
            for writer, loss in zip(self.writers.values(), progress.losses, strict=True):
                writer.add_scalar("losses/td_loss", loss, progress.step)

    def close(self) -> None:
        """Write what is pending."""
        for writer in self.writers.values():
            writer.close()


# ---- in the parent -------------------------------------------------------------------


class Board:
    """The live display: a bar per arm with environment steps per second and the current return."""

    def __init__(self, console: Console, jobs: Sequence[Job], steps: int) -> None:
        self.progress = Progress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            StepsPerSecond(),
            TextColumn("return {task.fields[current]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.bars = {}
        self.weight = {job.name: len(job.seeds) for job in jobs}
        for arm in dict.fromkeys(job.arm for job in jobs):
            total = steps * sum(len(job.seeds) for job in jobs if job.arm == arm)
            self.bars[arm] = self.progress.add_task(arm, total=total, current="  -  ", start=False)
        self.done: dict[str, int] = defaultdict(int)
        self.returns: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT_EPISODES))

    def show(self, arm: str, job: str, step: int, returns: Sequence[float]) -> None:
        """Take in one piece of news from a worker."""
        bar = self.bars[arm]
        self.progress.start_task(bar)
        self.returns[arm].extend(returns)
        current = f"{np.mean(self.returns[arm]):5.1f}" if self.returns[arm] else "  -  "
        self.progress.update(bar, advance=(step - self.done[job]) * self.weight[job], current=current)
        self.done[job] = step


class StepsPerSecond(ProgressColumn):
    """Environment steps per second over all seeds of an arm."""

    def render(self, task: Task) -> Text:
        """Empty before the first news."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:>7,.0f} steps/s" if speed else "")


def train_jobs(config: CompareConfig, jobs: Sequence[Job], results: Results, console: Console) -> bool:
    """Train those jobs that have no result yet, each saved when it ends. False if Ctrl-C came before all had ended."""
    waiting = [job for job in jobs if not results.has(job)]
    if not waiting:
        return True
    context = multiprocessing.get_context("spawn")
    news, stop = context.Queue(), context.Event()
    workers = min(config.workers, len(waiting))
    tensorboard = results.folder / "tensorboard" if config.tensorboard else None
    board = Board(console, waiting, config.steps)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(news, stop)) as pool:
        futures: dict[Future[list[Episode]], Job] = {}
        with _ignoring_interrupts():
            for job in waiting:
                settings = config.at(job.learning_rate)
                futures[pool.submit(run_job, job, config.env, config.steps, settings, tensorboard)] = job
        try:
            with board.progress:
                _collect(futures, results, board, news)
            return True
        except KeyboardInterrupt:
            console.print("Stopping; what has finished is kept.")
            return False
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for future, job in futures.items():
                if not future.cancelled() and future.exception() is None:
                    results.save(job, future.result())


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


def _collect(futures: dict[Future[list[Episode]], Job], results: Results, board: Board, news: Any) -> None:
    running = set(futures)
    while running:
        finished, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                results.save(futures[future], future.result())
            except BrokenProcessPool as error:
                raise RuntimeError(
                    "a worker process died (out of memory?); what has finished is kept, --resume goes on"
                ) from error
        try:
            while True:
                board.show(*news.get_nowait())
        except Empty:
            pass
