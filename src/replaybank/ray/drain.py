"""A shard hands over what it holds, and goes."""

from __future__ import annotations

import time
from functools import partial

import ray

from replaybank.ray.calls import answer
from replaybank.ray.directory import Directory
from replaybank.samplers.share import Share


def drained(directory: Directory, shard: int, timeout: float | None) -> int:
    """Moves a shard's transitions to the others, and removes it: see `ReplayCluster.drain`."""
    members = directory.members_with(shard)
    others = {number: actor for number, (actor, state) in members.items() if number != shard and state == "open"}
    if not others:
        raise ValueError(f"drain: shard {shard} is the last one, and there is none to take what it holds")
    seconds = directory.config.options.timeout if timeout is None else timeout
    deadline = time.monotonic() + seconds
    source, state = members[shard]

    def size_of(number: int) -> int:
        share = members[number][0].share.remote()
        return Share(*answer(share, deadline - time.monotonic(), f"drain: shard {number}")).size

    def rooms() -> dict[int, int]:
        return {number: directory.config.capacity - size_of(number) for number in others}

    size, room = size_of(shard), rooms()
    if state == "open" and sum(room.values()) < size:
        raise ValueError(
            f"drain: shard {shard} holds {size} transitions, and the others have room for {sum(room.values())}; "
            "add a shard first"
        )
    directory.ask(lambda: directory.coordinator.set_state.remote(shard, "draining"), "drain")
    left = deadline - time.monotonic()
    directory.session.ask(source.drain.remote, left, f"drain: shard {shard}", directory.require_open)
    moved = 0
    more = True
    while more:
        after = directory.ask(lambda: directory.coordinator.unloaded.remote(shard), "drain")
        room = rooms()  # writers go on meanwhile
        target = max(room, key=lambda number: room[number])
        if room[target] < 1:
            raise ValueError(
                f"drain: {moved} transitions were moved, and the others are full now; add a shard, and go on"
            )
        # The load goes from one shard to the other, and not through here.
        load, told = source.unload.remote(after, room[target])
        last, n, more = answer(told, deadline - time.monotonic(), f"drain: shard {shard}")
        taken = answer(others[target].take_in.remote(load), deadline - time.monotonic(), f"drain: shard {target}")
        assert taken == n, "all of a load is taken in"
        directory.ask(partial(directory.coordinator.unloaded.remote, shard, last), "drain")
        moved += n
    if directory.config.checkpoint is not None:
        for number, actor in others.items():
            answer(actor.save.remote(), max(deadline - time.monotonic(), 1.0), f"drain: shard {number} saves")
    stats = answer(source.stats.remote(), max(deadline - time.monotonic(), 1.0), f"drain: shard {shard}")
    answer(source.close.remote(True), max(deadline - time.monotonic(), 1.0), f"drain: shard {shard}")
    directory.ask(lambda: directory.coordinator.remove.remote(shard, stats), "drain")
    ray.kill(source, no_restart=True)
    directory.look()
    return moved
