"""The benchmark of devices, on the processor: everybody hands out what was added, there where it was asked for."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import device
from adapters.device import DEVICE_CONTENDERS, SIZE, DeviceContender, DeviceSetup, ReplaybankMoved
from contender import LeftOutError, Role
from measuring import Settings, build
from transitions import FIELDS, Transitions, trajectories

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own warnings are not ours to mend

CAPACITY = 300
OBS_SIZE = 6
SAMPLING = [kind for kind in DEVICE_CONTENDERS if kind.role is not Role.FLOOR]


def full(kind: type[DeviceContender], prioritized: bool) -> tuple[Any, Transitions]:
    data = trajectories(CAPACITY, np.random.default_rng(1), obs_size=OBS_SIZE)
    setup = DeviceSetup(CAPACITY, prioritized=prioritized, device="cpu", obs_size=OBS_SIZE)
    try:
        return build(kind, setup, data, ()), data
    except (ImportError, LeftOutError) as error:
        if kind.role is Role.OURS:
            raise
        pytest.skip(f"{kind.name}: {error!r}")


@pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("kind", SAMPLING, ids=lambda kind: kind.name)
def test_batches_are_rows_of_what_was_added(kind: type[DeviceContender], prioritized: bool) -> None:
    contender, data = full(kind, prioritized)
    number_of = {obs.tobytes(): number for number, obs in enumerate(data.obs)}
    seen: set[int] = set()
    for _ in range(10):
        columns = contender.columns(contender.sample(SIZE))
        numbers = [number_of[obs.tobytes()] for obs in np.asarray(columns["obs"])]
        for name in FIELDS:
            np.testing.assert_array_equal(columns[name], getattr(data, name)[numbers], err_msg=name)
        seen.update(numbers)
        assert ("weights" in columns) == prioritized
    assert len(seen) > 0.8 * CAPACITY  # batches are not one batch again and again


@pytest.mark.parametrize("kind", DEVICE_CONTENDERS, ids=lambda kind: kind.name)
def test_what_is_timed_waits_for_the_device_once_after_its_batches(
    kind: type[DeviceContender], monkeypatch: pytest.MonkeyPatch
) -> None:
    contender, _ = full(kind, prioritized=False)
    calls: list[str] = []
    sample, settle = contender.sample, contender.settle
    monkeypatch.setattr(contender, "sample", lambda size: calls.append("sample") or sample(size))
    monkeypatch.setattr(contender, "settle", lambda: calls.append("settle") or settle())
    trial = contender.sampling(SIZE)
    (given,) = trial.prepare(1)
    trial.call(*given)
    assert calls == ["sample"] * trial.per_call + ["settle"]


class Elsewhere(ReplaybankMoved):
    name = "elsewhere"

    def build(self) -> None:
        super().build()
        self.sample = lambda size: self._buffer.sample(size).to_torch("meta")


class Broken(ReplaybankMoved):
    name = "broken"

    def build(self) -> None:
        raise RuntimeError("does not start")


def test_a_run_measures_those_whose_batches_are_there_and_names_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DEVICE_CONTENDERS", (ReplaybankMoved, Elsewhere, Broken))
    run = device.run("cpu", CAPACITY, Settings(repeats=2, seconds=0.001))
    keys = ["uniform-4", "prioritized-4", "uniform-1024", "prioritized-1024"]
    assert [row["key"] for row in run["rows"]] == keys
    assert all([result["name"] for result in row["results"]] == [ReplaybankMoved.name] for row in run["rows"])
    assert [(entry["name"], entry["reason"]) for entry in run["left_out"]] == [
        ("elsewhere", "WrongDeviceError: its arrays are on meta, not on cpu"),
        ("broken", "RuntimeError: does not start"),
    ]
    assert all(entry["rows"] == keys for entry in run["left_out"])
    text = device.markdown(run)
    assert text.startswith(f"# Batches of {SIZE} on no GPU: the processor")
    assert f"| {ReplaybankMoved.name} |" in text


def test_without_a_gpu_it_says_so_in_one_line_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "run", lambda *given: pytest.fail("it ran"))
    monkeypatch.setattr(device.machine, "use_one_thread", lambda: None)
    monkeypatch.setattr(sys, "argv", ["device.py"])
    for name in ("JAX_PLATFORMS", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")  # so that what main sets ends with this test
    with pytest.raises(SystemExit) as ended:
        device.main()
    assert str(ended.value) == (
        f"device.py: PyTorch {torch.__version__} finds no GPU; --device cpu does the same on the processor"
    )


def test_only_whole_runs_on_a_gpu_are_kept_unasked() -> None:
    assert device.arguments([]).out == device.RESULTS
    assert device.arguments(["--quick"]).out is None
    assert device.arguments(["--device", "cpu"]).out is None
