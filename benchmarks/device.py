"""Batches of 256 on a GPU: brought there, pinned and prefetched, or sampled from a buffer that is there.

    python benchmarks/device.py [--device cuda|cpu] [--quick] [--out FILE]

All libraries in turn in one run. Prints a report and keeps it as JSON. `--device cpu` does the same on the processor:
that it works, not how fast it is.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import contest
import machine
from adapters.device import DEVICE_CONTENDERS, SIZE, DeviceContender, DeviceSetup
from measuring import Entrant, LeftOut, Settings, build, measure_rows
from transitions import Transitions, trajectories
from work import Row, sample

RESULTS = Path(__file__).with_name("device.json")
COUNT, QUICK = 100_000, 2_000  # transitions in every buffer
OBS_SIZES = (4, 1_024)


class WrongDeviceError(Exception):
    """A batch that is not where it should be."""


def row_of(setup: DeviceSetup) -> Row:
    kind = "prioritized" if setup.prioritized else "uniform"
    return Row(f"{kind}-{setup.obs_size}", f"{kind}, {setup.obs_size:,} numbers", sample(SIZE))


def entrants(setup: DeviceSetup, data: Transitions, left_out: LeftOut) -> Iterator[Entrant]:
    for kind in DEVICE_CONTENDERS:
        machine.say(f"filling: {kind.name}")
        try:
            contender = build(kind, setup, data, ())
            look(contender)
        except Exception as error:  # whatever a peer fails with, the others go on and the report names it
            left_out.note(kind.name, error, [row_of(setup).key])
        else:
            yield Entrant(kind.name, kind.role, contender, ())


def look(contender: Any) -> None:
    """Raise WrongDeviceError unless every array of a batch is where it should be."""
    assert isinstance(contender, DeviceContender)
    places = {contender.where(array) for array in contender.unpack(contender.sample(SIZE))}
    if places != {contender.setup.device}:
        raise WrongDeviceError(f"its arrays are on {' and '.join(sorted(places))}, not on {contender.setup.device}")


def run(device: str, count: int, settings: Settings) -> dict[str, Any]:
    left_out = LeftOut()
    rows: list[dict[str, Any]] = []
    for obs_size in OBS_SIZES:
        data = trajectories(count, np.random.default_rng(0), obs_size=obs_size)
        for prioritized in (False, True):
            setup = DeviceSetup(count, prioritized=prioritized, device=device, obs_size=obs_size)
            there = list(entrants(setup, data, left_out))
            rows.extend(measure_rows([row_of(setup)], there, settings, left_out))
            del there
            gc.collect()
    return contest.document(
        DEVICE_CONTENDERS,
        {**asdict(settings), "device": device, "transitions": count, "batch": SIZE},
        device=name_of(device),
        rows=rows,
        left_out=left_out.as_list(),
    )


def name_of(device: str) -> str:
    if device == "cpu":
        return "no GPU: the processor"
    import torch

    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def missing(device: str) -> str | None:
    """Why this device cannot be had; None where it can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    if device == "cuda" and not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU; --device cpu does the same on the processor"
    return None


def markdown(run: contest.Document) -> str:
    parts = [
        contest.heading(f"Batches of {SIZE} on {run['device']}", run),
        contest.rates(run["rows"], {}),
        contest.absent(run["left_out"]),
        f"## How\n\n{notes(run)}",
    ]
    return "\n\n".join(parts)


def notes(run: contest.Document) -> str:
    settings = run["settings"]
    return f"""Batches of {settings["batch"]}; {settings["transitions"]:,} transitions in every buffer, with two
observations of so many float32. Medians of {settings["repeats"]} repeats of about {settings["seconds"] * 1e3:g} ms, in
turn. Batches follow each other without waiting; the clock stops when the last is on the device. Ready: obs, action,
reward, next_obs, terminated, and where prioritized the weights. The best peer is in bold. Memory is pinned for a GPU
alone."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} transitions, few and short repeats")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} beside this file, for whole runs on a GPU")
    options = parser.parse_args(given)
    if options.out is None and options.device == "cuda" and not options.quick:
        options.out = RESULTS
    return options


def main() -> None:
    options = arguments()
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if options.device == "cuda" else "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes most of the GPU's memory from the others
    machine.use_one_thread()
    reason = missing(options.device)
    if reason:
        sys.exit(f"device.py: {reason}")
    warnings.simplefilter("ignore")  # the peers' own
    measured = run(options.device, QUICK if options.quick else COUNT, Settings.of(options.quick))
    contest.finish(measured, markdown(measured), options.out)


if __name__ == "__main__":
    main()
