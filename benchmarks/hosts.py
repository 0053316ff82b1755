"""Two hosts on one machine: a network namespace each, and between them a wire that delays and loses packets.

    with TwoHosts(Line(delay=0.01, loss=0.01)) as hosts:
        hosts.start_ray()
        hosts.a.run([sys.executable, "driver.py"])

A host has its own network, process ids, /dev/shm, name and scratch folder; it ends, with every process in it, when it
is closed, when `kill` says so, and when the process that made it dies in whatever way. Needs Linux, root and
/dev/net/tun: `available` says what is missing.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

LINK = Path(__file__).with_name("link.py")
NETWORK, PORT = "10.77.0", 6379
#: Seconds for a host, a wire or Ray to start.
PATIENCE = 120.0
#: What a host's first process does: its own /dev/shm and scratch folder, and then it waits for the end of its input.
#: What is left over in the host becomes its child; ignoring SIGCHLD lets that go without a trace.
FIRST = """
import os, signal, socket, subprocess, sys
name, scratch = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_IGN)
for folder in ("/dev/shm", scratch):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", folder], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
socket.sethostname(name)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


def available() -> str | None:
    """Why there can be no two hosts here; None where there can."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's; this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces and their devices need root"
    try:
        with TwoHosts() as hosts:
            hosts.a.run(["true"])
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"no two hosts here: {error}"
    return None


class Line(NamedTuple):
    """What the wire does to packets, in each direction."""

    delay: float = 0.0  # seconds
    loss: float = 0.0  # probability


PERFECT = Line()
CUT = Line(loss=1.0)


class Counts(NamedTuple):
    """What went into one end of the wire."""

    packets: int
    bytes: int  # of IP packets, with their headers
    lost: int  # packets that did not come out

    def since(self, earlier: Counts) -> Counts:
        return Counts(*(now - then for now, then in zip(self, earlier, strict=True)))


class Traffic(NamedTuple):
    """Both ways."""

    a_to_b: Counts
    b_to_a: Counts

    def since(self, earlier: Traffic) -> Traffic:
        return Traffic(*(now.since(then) for now, then in zip(self, earlier, strict=True)))


class Host:
    """A machine, as far as its processes can see."""

    def __init__(self, name: str, address: str, scratch: Path, environment: Mapping[str, str]) -> None:
        self.name, self.address, self.scratch = name, address, scratch
        self.environment = dict(environment)
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        first = [sys.executable, "-c", FIRST, name, str(scratch)]
        self._first = _process(["unshare", *spaces, *first])
        try:
            _answer(self._first, f"host {name}")
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Of a process in its network namespace, as seen from outside."""
        return self._first.pid

    @contextmanager
    def start(self, command: Sequence[str], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
        """`command` in this host; killed at the end of the context, if it has not ended by itself."""
        spaces = ["-t", str(self.pid), "--net", "--mount", "--uts", "--ipc"]
        inside = ["nsenter", *spaces, f"--pid=/proc/{self.pid}/ns/pid_for_children", "setpriv", "--pdeathsig", "KILL"]
        environment = {**os.environ, **self.environment}
        whole = [*inside, *command]
        with subprocess.Popen(whole, env=environment, text=True, start_new_session=True, bufsize=1, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, command: Sequence[str], timeout: float = PATIENCE) -> str:
        """What `command` printed. Raises RuntimeError, with what it said, where it failed; or took too long."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(command, **pipes) as process:
            try:
                said, complained = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                said, complained = process.communicate()
                complained += f"it was killed after {timeout:g} s"
        if process.returncode:
            raise RuntimeError(f"on host {self.name}, {' '.join(command)!r} failed:\n{said}{complained}")
        return said

    def kill(self) -> None:
        """As if its power failed: every process at once, nothing said to anybody."""
        _end(self._first)


class TwoHosts:
    """Hosts `a` (10.77.0.1) and `b` (10.77.0.2), joined by a wire; a Ray cluster over both where it is asked for.

    `a` is the head. Each Ray node has the resource `host_a` or `host_b`, to place actors by, and one `seat`.
    Raises OSError, RuntimeError or subprocess.SubprocessError where the machine does not allow it; see `available`.
    """

    def __init__(self, line: Line = PERFECT, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {
            "RAY_AUTH_MODE": "token",  # Ray's own: every node and driver shows the same secret
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        self._line = line
        self._open = ExitStack()

    def __enter__(self) -> TwoHosts:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb")))
            self.a = Host("host-a", f"{NETWORK}.1", scratch, self._environment)
            stack.callback(self.a.kill)
            self.b = Host("host-b", f"{NETWORK}.2", scratch, self._environment)
            stack.callback(self.b.kill)
            ends = [end for host in (self.a, self.b) for end in (str(host.pid), f"{host.address}/24")]
            self._wire = _process([sys.executable, str(LINK), *ends])
            stack.callback(_end, self._wire)
            self.set_line(self._line)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def set_line(self, line: Line) -> None:
        """From now on; `loss` 1 cuts the wire."""
        self._line = line
        self.traffic()

    def traffic(self) -> Traffic:
        """Since the beginning."""
        counts = json.loads(_answer(self._wire, "the wire", json.dumps(self._line._asdict())))
        return Traffic(*(Counts(**direction) for direction in counts))

    def start_ray(self, cpus: int = 4, store: int = 100_000_000) -> None:
        """A node on each host. Drivers on either find the cluster by RAY_ADDRESS."""
        common = ["--num-cpus", str(cpus), "--object-store-memory", str(store), "--disable-usage-stats"]
        address = f"{self.a.address}:{PORT}"
        for host, role in (
            (self.a, ["--head", "--port", str(PORT), "--include-dashboard", "false"]),
            (self.b, ["--address", address]),
        ):
            where = ["--node-ip-address", host.address, "--temp-dir", str(host.scratch)]
            resources = ["--resources", json.dumps({host.name.replace("-", "_"): 1000, "seat": 1})]
            host.run([sys.executable, "-m", "ray.scripts.scripts", "start", *role, *where, *resources, *common])
        for host in (self.a, self.b):
            host.environment["RAY_ADDRESS"] = address


def _process(command: Sequence[str]) -> subprocess.Popen[str]:
    """One that answers line by line, and ends at the end of its input: so with this process."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, start_new_session=True, bufsize=1, **pipes)


def _answer(process: subprocess.Popen[str], who: str, order: str | None = None) -> str:
    """Its next line, after it got `order`. Raises RuntimeError where it has ended, OSError where it is silent."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if order is not None:
        print(order, file=process.stdin, flush=True)
    if not select.select([process.stdout], [], [], PATIENCE)[0]:
        raise TimeoutError(f"{who} said nothing for {PATIENCE:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{who} ended: {process.stderr.read().strip()}")
    return line


def _end(process: subprocess.Popen[str]) -> None:
    """By the end of its input. A host's ends when all in it have: the kernel kills them as their first process goes."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
