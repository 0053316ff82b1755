"""The sweep behind the preset of `replaybank compare`: arm `uniform`, CartPole-v1, one setting changed at a time.

    python studies/compare/sweep.py [WORKERS]

Rows are appended to sweep.csv next to this file; what is already there is not run again. The seeds of the comparison
itself (0 to 9) have no part in it (README.md tells of one exception): the sweep has seeds 1000 to 1009, and the preset
is confirmed on 2000 to 2019.
"""

from __future__ import annotations

import csv
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from replaybank.study.dqn import DQNConfig, train
from replaybank.study.memories import MEMORIES
from replaybank.study.stats import final_return

STEPS, SEEDS = 20_000, 10
SWEEP, CONFIRM, CONFIRM_MORE = 1_000, 2_000, 2_010
RESULTS = Path(__file__).with_name("sweep.csv")
COLUMNS = ("change", "first_seed", "seeds", "median", "mean", "min", "ended_475", "final_returns")

CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"learning_rate": 1e-3},
    {"learning_rate": 4e-3},
    {"final_learning_rate": 2e-3},
    {"target_period": 50},
    {"target_period": 200},
    {"target_period": 1, "tau": 0.01},
    {"hidden": (128, 128)},
    {"hidden": (256, 256)},
    {"hidden": (512, 64)},
    {"batch_size": 32},
    {"batch_size": 128},
    {"epsilon_end": 0.02},
    {"exploration_fraction": 0.2},
    {"double": False},
    {"gamma": 0.98},
    {"train_period": 2},
)
RUNS = [({}, CONFIRM), ({}, CONFIRM_MORE), *((change, SWEEP) for change in CHANGES)]


def run(change: dict[str, Any], first_seed: int) -> list[float]:
    """The final return of each seed."""
    torch.set_num_threads(1)
    seeds = range(first_seed, first_seed + SEEDS)
    runs = train(MEMORIES["uniform"], "CartPole-v1", seeds, STEPS, replace(DQNConfig(), **change))
    episodes = [runs[seed]["episodes"] for seed in seeds]
    return [final_return(each["step"], each["return"], STEPS) for each in episodes]


def label(change: dict[str, Any]) -> str:
    """The change in words."""
    return ", ".join(f"{name} {value}" for name, value in change.items()) or "preset"


def main(workers: int) -> None:
    """Run what is missing."""
    if not RESULTS.exists():
        RESULTS.write_text(",".join(COLUMNS) + "\n")
    with RESULTS.open(newline="") as file:
        done = {(row["change"], int(row["first_seed"])) for row in csv.DictReader(file)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(run, *each): each for each in RUNS if (label(each[0]), each[1]) not in done}
        for future in as_completed(futures):
            change, first_seed = futures[future]
            finals = np.array(future.result())
            figures = [f"{value:.1f}" for value in (np.median(finals), finals.mean(), finals.min())]
            returns = " ".join(f"{value:.1f}" for value in finals)
            row = (label(change), first_seed, SEEDS, *figures, int((finals >= 475).sum()), returns)
            with RESULTS.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row[:-1], sep="\t", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
