"""A wire between two network namespaces that delays and loses packets, both ways alike.

usage: python link.py PID_A ADDRESS_A PID_B ADDRESS_B        (as root; ADDRESS as 10.77.0.1/24)

In the network namespace of each process appears a device `wire` with its address. What the kernel of one side sends
through it is read here, packet by packet, and after `delay` seconds written to the other side's; or it is lost, with
probability `loss`. So TCP on both sides sees what it would see on a real line: round trips, gaps, retransmissions.
(Linux's own netem does the same, but is a part of the kernel that many are built without; this needs /dev/net/tun.)

It reads lines of JSON, {"delay": 0.01, "loss": 0.01}, each answered by one: the counts so far. loss 1 is a cut cable:
no error anywhere, only silence. It ends at the end of its input, and the devices vanish with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque

DEVICE = "wire"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
#: Packets on their way in one direction; what comes beyond is lost, as in a full router.
ROOM = 20_000
#: Packets taken from one side before the other has its turn.
TURN = 64


def plugged(pid: int, address: str) -> int:
    """The file of a new device in that process's network namespace: a read is a packet sent there, a write arrives."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"rb{os.getpid()}n{file}"
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", str(pid)], check=True)
    quiet = f"link set {DEVICE} addrgenmode none"  # else IPv6 looks for routers, and its packets are counted
    for command in (
        f"link set {name} name {DEVICE}",
        quiet,
        f"addr add {address} dev {DEVICE}",
        f"link set {DEVICE} up",
    ):
        subprocess.run(["nsenter", "-t", str(pid), "--net", "ip", *command.split()], check=True)
    return file


class Direction:
    """Packets from one file to another."""

    def __init__(self, source: int, sink: int, seed: int) -> None:
        self.source, self.sink = source, sink
        self.packets, self.bytes, self.lost = 0, 0, 0
        self._chance = random.Random(seed)
        self._under_way: deque[tuple[float, bytes]] = deque()

    def take_in(self, delay: float, loss: float) -> None:
        now = time.monotonic()
        for _ in range(TURN):
            try:
                packet = os.read(self.source, 65536)
            except OSError:  # nothing more there, or the device is down
                break
            self.packets += 1
            self.bytes += len(packet)
            if self._chance.random() < loss or len(self._under_way) >= ROOM:
                self.lost += 1
            else:
                self._under_way.append((now + delay, packet))

    def hand_over(self) -> float:
        """What is due. Returns the seconds until something is again."""
        while self._under_way:
            wait = self._under_way[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, packet = self._under_way.popleft()
            try:
                os.write(self.sink, packet)
            except OSError:  # the other side's device is down
                self.lost += 1
        return 1.0

    def counts(self) -> dict[str, int]:
        return {"packets": self.packets, "bytes": self.bytes, "lost": self.lost}


def main() -> None:
    (pid_a, at_a), (pid_b, at_b) = sys.argv[1:3], sys.argv[3:5]
    a, b = plugged(int(pid_a), at_a), plugged(int(pid_b), at_b)
    directions = (Direction(a, b, 1), Direction(b, a, 2))
    os.nice(-10)  # a wire does not wait for what its ends compute
    orders, delay, loss = sys.stdin.fileno(), 0.0, 0.0
    with contextlib.suppress(BrokenPipeError):
        while True:
            wait = min(direction.hand_over() for direction in directions)
            ready, _, _ = select.select([a, b, orders], [], [], wait)
            for direction in directions:
                if direction.source in ready:
                    direction.take_in(delay, loss)
            if orders in ready:
                line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]  # unbuffered, as `select` sees it
                if not line:
                    return
                order = json.loads(line)
                delay, loss = order["delay"], order["loss"]
                print(json.dumps([direction.counts() for direction in directions]), flush=True)


if __name__ == "__main__":
    main()
