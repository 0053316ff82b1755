"""The two hosts that other tests stand on: the wire delays and loses, the hosts see their own, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from hosts import CUT, PERFECT, Host, Line, TwoHosts, available  # noqa: E402  after its folder is known

ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
    echo.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
    echo.bind((sys.argv[1], 5000))
    print("ready", flush=True)
    while True:
        echo.sendto(*echo.recvfrom(100))
"""
#: Sends so many datagrams, one a millisecond; says the round trips, in seconds, of those that came back.
ASK = """
import json, socket, sys, threading, time
to, count = (sys.argv[1], 5000), int(sys.argv[2])
trips = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.bind(("0.0.0.0", 0))
    asker.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE: what waits here is not lost
    asker.settimeout(1.0)
    def listen():
        try:
            while len(trips) < count:
                sent = float(asker.recv(100))
                trips.append(time.monotonic() - sent)
        except TimeoutError:
            pass
    listener = threading.Thread(target=listen)
    listener.start()
    for _ in range(count):
        asker.sendto(repr(time.monotonic()).encode(), to)
        time.sleep(0.001)
    listener.join()
print(json.dumps(trips))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if reason := available():
        pytest.skip(reason)
    with TwoHosts() as two:
        yield two


@contextlib.contextmanager
def echoing(host: Host) -> Iterator[None]:
    with host.start([sys.executable, "-c", ECHO, host.address], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


def round_trips(asker: Host, to: Host, count: int) -> list[float]:
    """Seconds, of those that came back."""
    return json.loads(asker.run([sys.executable, "-c", ASK, to.address, str(count)]))


def test_a_round_trip_takes_twice_the_delay(hosts: TwoHosts) -> None:
    with echoing(hosts.b):
        hosts.set_line(PERFECT)
        quick = round_trips(hosts.a, hosts.b, 100)
        hosts.set_line(Line(delay=0.05))
        slow = round_trips(hosts.a, hosts.b, 100)
    assert len(quick) == len(slow) == 100
    assert min(slow) >= 0.1
    assert min(quick) < 0.1


def test_as_many_packets_are_lost_as_was_said(hosts: TwoHosts) -> None:
    hosts.set_line(Line(loss=0.1))
    before = hosts.traffic()
    with echoing(hosts.b):
        back = len(round_trips(hosts.a, hosts.b, 2000))
    seen = hosts.traffic().since(before)
    # 2000 · 0.9 · 0.9 = 1620 come back; its standard deviation is 17.5. The wire's chances are seeded.
    assert abs(back - 1620) < 5 * 17.5
    assert seen.a_to_b.packets == 2000
    assert back == seen.b_to_a.packets - seen.b_to_a.lost  # what left the wire arrived
    assert seen.a_to_b.bytes >= 2000 * 28  # IP's and UDP's headers at least


def test_a_cut_wire_is_silence_and_it_can_be_mended(hosts: TwoHosts) -> None:
    with echoing(hosts.b):
        hosts.set_line(CUT)
        assert round_trips(hosts.a, hosts.b, 20) == []
        hosts.set_line(PERFECT)
        assert len(round_trips(hosts.a, hosts.b, 20)) == 20


def test_a_host_sees_nothing_of_the_other_but_through_the_wire(hosts: TwoHosts) -> None:
    hosts.a.run(["touch", "/dev/shm/mine", f"{hosts.a.scratch}/mine"])
    assert "mine" not in hosts.b.run(["ls", "/dev/shm", str(hosts.b.scratch)])
    assert not Path("/dev/shm/mine").exists()
    with hosts.a.start(["sleep", "600"]):
        assert comes(lambda: "sleep 600" in hosts.a.run(["ps", "-e", "-o", "args"]))
        assert "sleep 600" not in hosts.b.run(["ps", "-e", "-o", "args"])
    assert hosts.a.run(["hostname"]) != hosts.b.run(["hostname"])
    with pytest.raises(RuntimeError, match=r"on host host-b, 'ls /nowhere' failed:\n.*No such file"):
        hosts.b.run(["ls", "/nowhere"])


def test_a_host_that_is_killed_takes_its_processes_along(hosts: TwoHosts) -> None:
    with TwoHosts() as two:
        # the daemon has left its session and its parent, as Ray's have
        two.b.run(["sh", "-c", "setsid sleep 601 >/dev/null 2>&1 &"])
        with two.b.start(["sleep", "602"]) as child:
            assert comes(lambda: running("sleep 601") and running("sleep 602"))
            two.b.kill()
            assert child.wait(10) != 0
        assert not running("sleep 601")
        assert not running("sleep 602")
        two.a.run(["true"])


MAKER = f"""
import sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
from hosts import TwoHosts
hosts = TwoHosts().__enter__()
hosts.b.run(["sh", "-c", "setsid sleep 603 >/dev/null 2>&1 &"])
sleep = hosts.a.start(["sleep", "604"])
sleep.__enter__()
print("ready", flush=True)
time.sleep(600)
"""


def test_whoever_made_the_hosts_may_be_killed_and_no_process_stays(hosts: TwoHosts, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, env=environment) as maker:
        assert maker.stdout is not None
        maker.stdout.readline()
        assert comes(lambda: running("sleep 603"))
        family = [pid for pid in processes() if descends(pid, maker.pid)]
        family += [pid for pid, command in processes().items() if command == "sleep 603"]
        assert len(family) >= 8  # of each host two that hold it; the wire; what runs in them
        maker.kill()
    assert comes(lambda: not set(family) & processes().keys())


@pytest.mark.slow
def test_ray_places_an_actor_on_the_other_host_and_its_calls_take_a_round_trip() -> None:
    if reason := available():
        pytest.skip(reason)
    with TwoHosts(Line(delay=0.02, loss=0.01)) as two:
        two.start_ray()
        with pytest.raises(RuntimeError, match="InvalidAuthToken"):  # who does not know the secret is not let in
            two.b.run(["env", "RAY_AUTH_TOKEN=guessed", "RAY_NUM_REDIS_GET_RETRIES=1", sys.executable, "-c", PING])
        here, there = json.loads(two.a.run([sys.executable, "-c", PING]).splitlines()[-1])
    assert here["name"] == "host-a"
    assert there["name"] == "host-b"
    assert there["fastest"] >= 0.04
    assert here["fastest"] < 0.04


PING = """
import json, socket, time
import ray

class Echo:
    def name(self):
        return socket.gethostname()

def measured(resource):
    echo = ray.remote(Echo).options(resources={resource: 1}, num_cpus=0).remote()
    name, seconds = ray.get(echo.name.remote(), timeout=60), []
    for _ in range(20):
        begin = time.monotonic()
        ray.get(echo.name.remote(), timeout=60)
        seconds.append(time.monotonic() - begin)
    return {"name": name, "fastest": min(seconds)}

ray.init(log_to_driver=False)
print(json.dumps([measured("host_a"), measured("host_b")]))
"""


def processes() -> dict[int, str]:
    """Ids and command lines of all that live."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[int(entry.parent.name)] = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return {pid: command for pid, command in found.items() if command}


def descends(pid: int, ancestor: int) -> bool:
    """Whether `ancestor` is the parent of `pid`, or the parent's parent, and so on."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if pid == ancestor:
            return True
    return False


def running(command: str) -> bool:
    return command in processes().values()


def comes(true: Callable[[], bool]) -> bool:
    """Whether it becomes true, within a time that is long enough."""
    end = time.monotonic() + 20
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
