"""What is asked of the machine: a warning before, an error that says how much, and nothing half made."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import replaybank as rb
from replaybank import buffer as buffer_module
from replaybank import memory
from replaybank.memory import machine_bytes

SCHEMA = {"obs": ("float32", (250,)), "action": "int64"}


def test_the_machine_has_what_the_system_says(tmp_path: Path) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine_bytes(tmp_path / "none", tmp_path) == whole
    assert 0 < machine_bytes() <= whole


def group(folder: Path, files: dict[str, str]) -> int | None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return machine_bytes(folder / "cgroup", folder / "fs")


def test_a_control_groups_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    whole = machine_bytes(tmp_path / "none", tmp_path)
    # Version 2: the least of a group's own and those above.
    two = {"cgroup": "0::/a/b\n", "fs/a/b/memory.max": "max\n", "fs/a/memory.max": "5000\n", "fs/memory.max": "9000\n"}
    assert group(tmp_path / "two", two) == 5000
    assert group(tmp_path / "max", {"cgroup": "0::/a\n", "fs/a/memory.max": "max\n"}) == whole
    # Inside a container the group's own path is not there, and the root is its own.
    assert group(tmp_path / "inside", {"cgroup": "0::/\n", "fs/memory.max": "7000\n"}) == 7000
    assert group(tmp_path / "hidden", {"cgroup": "0::/../x\n", "fs/memory.max": "7100\n"}) == 7100
    # Version 1: a huge number stands for no limit; other controllers do not count.
    one = {"cgroup": "12:cpu:/c\n4:hugetlb,memory:/d\n", "fs/memory/d/memory.limit_in_bytes": "6000\n"}
    assert group(tmp_path / "one", one | {"fs/cpu/c/memory.limit_in_bytes": "1\n"}) == 6000
    assert group(tmp_path / "no", one | {"fs/memory/d/memory.limit_in_bytes": f"{2**63 - 4096}\n"}) == whole


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "machine_bytes", lambda: 2**30)


@pytest.mark.usefixtures("small")
def test_more_than_the_machine_has_is_warned_of_once_with_both_sizes() -> None:
    with pytest.warns(RuntimeWarning, match="the machine has 1 GiB") as caught:
        buffer = rb.ReplayBuffer(2_000_000, SCHEMA, sampler=rb.Prioritized())
    assert len(caught) == 1
    assert caught[0].filename == __file__
    asked = int(re.search(r"\((\d+) bytes\)", str(caught[0].message)).group(1))
    row = 1000 + 8 + 4 + 2 + 2 + 16
    trees = 2 * 8 * 2_000_000 * 8 / 7
    assert abs(asked - 2_000_000 * (row + 1 / 8) - trees) < 20_000
    obs = [0.0] * 250
    for _ in range(3):
        buffer.add(obs, 0, 1.0, obs, False, False)
    late = rb.ReplayBuffer(2_000_000)  # it is known with the first transition
    with pytest.warns(RuntimeWarning, match="once it is full"):
        late.add(obs, 0, 1.0, obs, False, False)
    late.add(obs, 0, 1.0, obs, False, False)


@pytest.mark.usefixtures("small")
def test_what_the_machine_has_is_not_warned_of() -> None:
    rb.ReplayBuffer(1_000_000, SCHEMA)
    rb.ReplayBuffer(max_bytes=2**30, schema=SCHEMA, sampler=rb.Prioritized())


@pytest.mark.usefixtures("small")
def test_a_warning_that_is_an_error_comes_before_anything_is_made() -> None:
    sampler = rb.Prioritized()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="machine has"):
            rb.ReplayBuffer(2_000_000, SCHEMA, sampler=sampler)
        late = rb.ReplayBuffer(2_000_000)
        with pytest.raises(RuntimeWarning, match="machine has"):
            late.add([0.0] * 250, 0, 1.0, [0.0] * 250, False, False)
    assert len(late) == 0
    assert late.schema is None
    rb.ReplayBuffer(10, SCHEMA, sampler=sampler).check_valid()


HUGE = {"obs": ("float64", (2**27 - 8,)), "action": "int64"}  # a transition is as large as one can be, a GiB


@pytest.mark.filterwarnings("ignore:this buffer needs")
@pytest.mark.parametrize("capacity", [2**22, 2**31 - 1])
def test_memory_that_is_not_there_is_an_error_with_the_size_and_leaves_nothing(capacity: int) -> None:
    """Beyond what a process can address."""
    sampler = rb.SampleOnce()
    with pytest.raises(MemoryError, match=rf"a buffer of {capacity} transitions needs .* \(\d+ bytes\)"):
        rb.ReplayBuffer(capacity, HUGE, sampler=sampler)
    buffer = rb.ReplayBuffer(10, SCHEMA, sampler=sampler)
    buffer.add([0.0] * 250, 0, 1.0, [0.0] * 250, False, False)
    buffer.check_valid()


@pytest.mark.parametrize("make", [rb.Prioritized, rb.RankPrioritized, rb.SampleOnce])
def test_a_sampler_whose_memory_is_not_there_belongs_to_no_buffer(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from replaybank.samplers import order, sample_once, sum_tree

    def fails(*_: Any) -> None:
        raise MemoryError

    sampler = make()
    buffer = rb.ReplayBuffer(10, SCHEMA)
    kept = buffer.sampler
    with monkeypatch.context() as patch:
        patch.setattr(sum_tree, "aligned_zeros", fails)
        patch.setattr(order, "aligned_zeros", fails)
        patch.setattr(sample_once, "np", SimpleNamespace(zeros=fails, int64=int, uint32=int))
        with pytest.raises(MemoryError, match=r"for 10 transitions needs .* \(\d+ bytes\)"):
            rb.ReplayBuffer(10, sampler=sampler)
        with pytest.raises(MemoryError, match="for 10 transitions needs"):
            buffer.sampler = sampler
    assert buffer.sampler is kept
    buffer.sampler = sampler
    buffer.check_valid()


@pytest.mark.parametrize(("nbytes", "words"), [(3, "3 B"), (2048, "2 KiB"), (5 * 2**40, "5 TiB"), (2**70, "1024 EiB")])
def test_sizes_are_readable(nbytes: int, words: str) -> None:
    assert memory._readable(nbytes) == words
