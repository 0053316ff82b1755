"""`replaybank top`: what it computes and prints of a cluster's stats, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("tyro")

import ray
from rich.console import Console

import replaybank as rb
from replaybank.cli import main
from replaybank.ray import Checkpoint, ClusterOptions, ReplayCluster, top
from replaybank.ray.top import Line, _connect, age, lines, percent, render, short, watch
from replaybank.study import SettingError

SUMS = ("size", "capacity", "inserted", "sampled", "updated", "stale", "lost", "writers", "writers_died")


def shard(number: int, **changed: Any) -> dict[str, Any]:
    """What a shard tells: half full, all saved."""
    told = {"shard": number, "state": "open", "pid": 1, "node": "n", "epoch": 0, "size": 500, "capacity": 1000}
    told |= {"mass": 250.0, "inserted": 600, "sampled": 4000, "updated": 900, "stale": 100, "overwritten": 100}
    told |= {"lost": 0, "repeated": 0, "refused": 0, "writers": 2, "writers_died": 0, "nbytes": 50_000, "moved_in": 0}
    return told | {"saved": 600, "save_seconds": 0.1, "save_age": 12.0, "beat_age": 0.4, "save_failed": ""} | changed


def stats_of(*shards: dict[str, Any], **changed: Any) -> dict[str, Any]:
    sums = {name: sum(one.get(name, 0) for one in shards) for name in SUMS}
    return {"name": "replay", "shards": list(shards), **sums, "rate_limit": None} | changed


def printed(stats: Any, before: Any = None, seconds: float = 1.0, width: int = 80, unicode: bool = True) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(render(stats, before, seconds, width, unicode))
    return out.getvalue().splitlines()


def row(text: list[str], shard: str) -> list[str]:
    """The cells of a row of a narrow table."""
    (found,) = (line.split() for line in text if line.split()[:1] == [shard])
    return found


def test_rates_and_shares_are_what_two_looks_tell() -> None:
    before = stats_of(shard(0), shard(1, mass=750.0))
    now = stats_of(
        shard(0, inserted=1100, sampled=4600, updated=990, stale=110, size=900, saved=700, lost=5, moved_in=30),
        shard(1, mass=750.0),
    )
    first, second = lines(now, before, 2.0)
    assert first == Line(
        shard=0,
        state="open",
        size=900,
        capacity=1000,
        mass=0.25,
        inflow=250.0,  # 500 in 2 s
        outflow=300.0,  # 600 in 2 s
        stale=0.1,  # 10 of 100 updates
        lost=5,
        unsaved=425,  # 1100 + 30 - 5 were there to save, 700 of them are
        save_age=12.0,
        writers=2,
        nbytes=50_000,
    )
    assert (second.inflow, second.outflow, second.stale, second.mass, second.unsaved) == (0.0, 0.0, None, 0.75, 0)


def test_rates_are_those_between_two_reports_not_two_looks() -> None:
    before = stats_of(shard(0, beat_age=0.9), shard(1, beat_age=3.0), shard(2))
    now = stats_of(shard(0, beat_age=0.1, inserted=880), shard(1, beat_age=5.0), shard(2, inserted=620))
    assert [line.inflow for line in lines(now, before, 2.0)] == [280 / (2.0 + 0.9 - 0.1), None, 10.0]
    assert printed(now, before, 2.0)[0].endswith("in 110/s, out 0/s")


def test_what_is_not_known_is_not_made_up() -> None:
    only = {"shard": 3, "state": "open", "beat_age": 0.0}  # it has not reported yet
    (alone,) = lines(stats_of(shard(0)), None, 0.0)
    assert (alone.inflow, alone.outflow, alone.stale) == (None, None, 0.1)  # of all updates so far
    newcomer = lines(stats_of(shard(0), only), stats_of(shard(0)), 1.0)[1]
    assert (newcomer.state, newcomer.inflow, newcomer.mass, newcomer.stale) == ("starting", None, 0.0, None)
    assert row(printed(stats_of(only)), "3") == ["3", "starting", "0%", "-", "-", "-", "-", "0", "0", "-", "0", "0B"]


def test_counts_that_fell_with_a_process_are_no_negative_rate() -> None:
    (line,) = lines(stats_of(shard(0, sampled=10, updated=5, stale=0)), stats_of(shard(0)), 1.0)
    assert (line.outflow, line.stale) == (0.0, None)


def test_no_more_can_be_lost_than_is_held() -> None:
    (line,) = lines(stats_of(shard(0, inserted=10_000, saved=0)), None, 0.0)
    assert line.unsaved == 500


def test_the_table_tells_of_each_shard_and_of_all() -> None:
    before = stats_of(shard(0), shard(1, state="draining"))
    now = stats_of(shard(0, inserted=13_000, sampled=104_000), shard(1, state="draining", lost=77, inserted=677))
    text = printed(now, before, 1.0)
    assert text[0] == "replay: 2 shards; 1,000 of 2,000 held; in 12.5k/s, out 100k/s"
    assert row(text, "0") == ["0", "open", "50%", "50%", "12.4k", "100k", "-", "0", "500", "12s", "2", "50kB"]
    assert row(text, "1") == ["1", "draining", "50%", "50%", "77", "0", "-", "77", "0", "12s", "2", "50kB"]
    assert row(text, "all") == ["all", "50%", "100%", "12.5k", "100k", "-", "77", "500", "12s", "4", "100kB"]


@pytest.mark.parametrize(
    ("ahead", "waiting", "expected"),
    [
        (1234.0, (3, 0), "samples/insert: 7.93, wanted 8; inserts ahead by 1.23k of 16k; 3 wait to insert"),
        (-500.0, (0, 2), "samples/insert: 7.93, wanted 8; samples ahead by 500 of 16k; 2 wait to sample"),
        (0.0, (0, 0), "samples/insert: 7.93, wanted 8; inserts ahead by 0 of 16k; nobody waits"),
        (
            0.0,
            (10, 1),
            "samples/insert: 7.93, wanted 8; inserts ahead by 0 of 16k; 10 wait to insert, 1 wait to sample",
        ),
    ],
)
def test_the_rate_limit_says_who_is_ahead_and_who_waits(ahead: float, waiting: tuple[int, int], expected: str) -> None:
    limit = {"samples_per_insert": 8.0, "measured": 7.93, "min_size": 1000, "ahead": ahead, "tolerance": 16000.0}
    limit |= {"waiting_to_insert": waiting[0], "waiting_to_sample": waiting[1]}
    assert printed(stats_of(shard(0), rate_limit=limit), width=120)[1] == expected


def test_what_is_amiss_is_told() -> None:
    away = shard(1, state="away", beat_age=65.0)
    failed = shard(2, save_failed="OSError: no space", refused=3)
    text = printed(stats_of(shard(0), away, failed, writers_died=4), width=120)
    assert text[0].startswith("replay: 3 shards, 1 away; ")
    assert text[1:5] == [
        "shard 1 is away: no report for 1m",
        "shard 2 could not be saved: OSError: no space",
        "shard 2 refused 3 messages that were not what its schema says",
        "writers that died: 4",
    ]


LARGE = {
    "state": "draining",
    "size": 999_999_999,
    "capacity": 1_000_000_000,
    "mass": 1e12,
    "inserted": 2_000_000_000,
    "sampled": 900_000_000_000,
    "lost": 999_444_000,
    "saved": 0,
    "save_age": 5e5,
    "writers": 1000,
    "nbytes": 999_400_000_000,
}


@pytest.mark.parametrize("width", [80, 95, 96, 100, 130, 250])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_table_fits_the_terminal_and_nothing_is_cut_off(width: int, unicode: bool) -> None:
    before = stats_of(shard(4095), shard(1))
    now = stats_of(shard(4095, **LARGE), shard(1, updated=10_900, stale=101))
    text = printed(now, before, 1.0, width, unicode)
    assert max(map(len, text)) <= width
    assert not any("…" in line for line in text)
    cells = row([line.replace("|", " ") for line in text], "4095")
    assert cells[-9:] == ["100%", "2G", "900G", "-", "999M", "1G", "6d", "1000", "999GB"]
    assert unicode or all(line.isascii() for line in text)
    assert any("█" in line or "##" in line for line in text) == (width >= 96)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(None, "-"), (0, "0"), (0.25, "0.25"), (999.4, "999"), (999.5, "1k"), (1234, "1.23k"), (12_345, "12.3k")],
        *[(999_600, "1M"), (5e9, "5G"), (2e12, "2T")],
    ],
)
def test_numbers_are_short(value: float | None, expected: str) -> None:
    assert short(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0.0, "0%"), (1e-9, "<0.1%"), (0.0123, "1.2%"), (0.0996, "10%"), (0.5, "50%"), (1.0, "100%")],
)
def test_a_little_is_not_nothing(value: float | None, expected: str) -> None:
    assert percent(value) == expected


def test_ages_are_short() -> None:
    assert [age(seconds) for seconds in (None, 0.2, 59, 60, 7200, 200_000)] == ["-", "0s", "59s", "1m", "2h", "2d"]


def looks(*given: Any) -> Callable[[], Any]:
    """Gives, or raises, one after the other; then Ctrl-C."""
    left: Iterator[Any] = iter(given)

    def look() -> Any:
        found = next(left, KeyboardInterrupt())
        if isinstance(found, BaseException):
            raise found
        return found

    return look


def watched(look: Callable[[], Any], **how: Any) -> str:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        watch(look, Console(file=out, width=100, **how), 0.001)
    return out.getvalue()


def test_it_goes_on_where_the_cluster_is_silent_for_a_while() -> None:
    told = watched(looks(stats_of(shard(0)), TimeoutError("cluster 'a': no answer"), stats_of(shard(0, size=990))))
    heads = re.findall(r"replay: .* held|cluster 'a'.*", told)
    once = "replay: 1 shards; 500 of 1,000 held"
    assert heads == [once, "cluster 'a': no answer", once, "replay: 1 shards; 990 of 1,000 held"]


def test_rates_are_means_of_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 2.0

    monkeypatch.setattr(top, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    told = watched(looks(*(stats_of(shard(0, inserted=600 + n)) for n in (0, 10, 30, 60, 200))))
    # of 10 in 2 s, 30 in 4 s; then of the last look that is less than five seconds old: 50 in 4 s, 170 in 4 s
    assert re.findall(r"held; in (\S+)/s", told) == ["-", "5", "7.5", "12.5", "42.5"]


def test_a_terminal_is_given_back_as_it_was() -> None:
    told = watched(looks(stats_of(shard(0)), stats_of(shard(0))), force_terminal=True, color_system=None)
    assert told.index("\x1b[?1049h") < told.index("replay") < told.rindex("\x1b[?1049l")  # the other screen, and back


def test_a_first_look_that_fails_is_an_error() -> None:
    with pytest.raises(SettingError, match=r"^cluster 'a' is gone$"):
        watch(looks(TimeoutError("cluster 'a' is gone")), Console(file=io.StringIO()), 0.001)


# ---- with Ray ----


@pytest.fixture(scope="module")
def clusters(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayCluster]:
    """Two clusters, of which one holds 300 transitions in two shards."""
    schema = {"obs": ("float32", (2,)), "action": "int64"}
    checkpoint = Checkpoint(tmp_path_factory.mktemp("watched") / "replay", every=0.2)
    pong, other = ({"options": ClusterOptions(name=name)} for name in ("watched-pong", "watched-other"))
    with (
        ReplayCluster(2, 1000, schema, rb.Prioritized(), checkpoint=checkpoint, seed=0, **pong) as cluster,
        ReplayCluster(1, 10, schema, **other),
    ):
        with cluster.writer() as first, cluster.writer() as second:  # each goes to another shard
            for t in range(150):
                for writer in (first, second):
                    writer.add(np.full(2, t, np.float32), 0, 1.0, np.full(2, t + 1, np.float32), False, False)
        deadline = time.monotonic() + 30
        while [one.get("saved") for one in cluster.stats()["shards"]] != [150, 150]:  # what is told may be a second old
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield cluster


def told(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, str, str]:
    code = main(["top", *given])
    return code, *capsys.readouterr()


def test_a_cluster_is_looked_at_once(clusters: ReplayCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "--once", "--name", "watched-pong", "--every", "0.2")
    assert (code, err) == (0, "")
    # A dash: no shard has reported between the two looks.
    assert re.match(r"watched-pong: 2 shards; 300 of 1,000 held; in [0-]/s, out [0-]/s\n", out)
    cells = [line.split() for line in out.splitlines()]
    (all_,) = (line for line in cells if line[:1] == ["all"])
    assert all_[1:3] == ["30%", "100%"]
    assert all_[6:8] == ["0", "0"]  # nothing lost, all saved
    assert sorted(line[0] for line in cells if len(line) == 12 and line[1] == "open") == ["0", "1"]


def test_its_figures_are_told_as_json(clusters: ReplayCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "--json", "--name", "watched-pong")
    assert (code, err) == (0, "")
    found, expected = json.loads(out), clusters.stats()
    assert found.keys() == expected.keys()
    for name in ("name", "size", "capacity", "inserted", "lost", "rate_limit"):
        assert found[name] == expected[name]
    assert found["inserted"] == 300


def test_which_cluster_is_asked_where_there_are_several(
    clusters: ReplayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(capsys, "--once")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"replaybank: --name: which cluster\? there are .*watched-other, watched-pong.*\n", err)
    code, out, err = told(capsys, "--once", "--name", "poong")
    assert re.fullmatch(r"replaybank: --name: no cluster is called poong; there are .*watched-pong.*\n", err)
    assert (code, out) == (1, "")


def test_another_process_joins_by_the_address(clusters: ReplayCluster) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "replaybank.cli", "top", "--json", "--address", address, "--name", clusters.name]
    plain = {**os.environ, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == 300


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("here", r"--address: expected host:port, given here"),
        ("127.0.0.1:1", r"--address: nothing answers at 127\.0\.0\.1:1: .*refused"),
    ],
)
def test_where_no_ray_is_it_says_so_at_once(address: str, expected: str) -> None:
    with pytest.raises(SettingError, match=f"^{expected}$"):
        _connect(address)


def test_seconds_out_of_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "replaybank: --every: expected 0.1 to 3600 seconds, given 0\n"
    assert told(capsys, "--every", "0") == (1, "", expected)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "replaybank.ray.top")
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = "replaybank: this command needs the package ray: pip install 'replaybank[ray]'\n"
    assert told(capsys) == (1, "", expected)
