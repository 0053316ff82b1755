from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES: int

class Lock:
    """One call of a buffer at a time: `with lock:`.

    Threads in tight loops get turns of many calls each. `owed`: calls without arguments that whoever enters next makes
    first, in order; what one raises, that one gets. Change it only while you hold the lock. Entering it twice from one
    thread is a RuntimeError. A copy or pickle is an open lock that owes nothing.
    """

    def __enter__(self) -> None: ...
    def __exit__(self, kind: object, error: object, traceback: object) -> None: ...
    @property
    def owed(self) -> list[Callable[[], object]]: ...
    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""

def append(
    store: tuple[NDArray[Any], ...],
    plan: NDArray[Any],
    values: tuple[Any, ...],
    lead: int,
    owners: NDArray[Any] | None,
    item_a_stream: bool,
) -> int: ...
def channel_drain(
    store: tuple[NDArray[Any], ...],
    plan: NDArray[Any],
    channel: tuple[NDArray[Any], int, NDArray[Any]],
    streams: NDArray[Any],
    most: int,
) -> int: ...
def channel_end(channel: tuple[NDArray[Any], int, NDArray[Any]], streams: NDArray[Any], drop: bool) -> int: ...
def channel_push(
    channel: tuple[NDArray[Any], int, NDArray[Any]],
    plan: NDArray[Any],
    values: tuple[Any, ...],
    lead: int,
    owners: NDArray[Any] | None,
    stream: int,
    item_a_stream: bool,
    drop: bool,
) -> int: ...
def lock_holder(fd: int) -> int: ...
def block(dtype: np.dtype[Any]) -> NDArray[Any]: ...
def columns(block: NDArray[Any], places: dict[str, Any]) -> dict[str, Any]: ...
def read(
    store: tuple[NDArray[Any], ...],
    first: NDArray[Any],
    last: NDArray[Any],
    plan: NDArray[Any],
    factors: NDArray[Any],
    out: NDArray[Any],
    threads: int = 1,
    /,
) -> None: ...
def read_stacks(
    store: tuple[NDArray[Any], ...],
    first: NDArray[Any],
    last: NDArray[Any],
    frames: int,
    zero: bool,
    plan: NDArray[Any],
    out: NDArray[Any],
    threads: int = 1,
    /,
) -> bool: ...
def stacks_complete(
    store: tuple[NDArray[Any], ...], ids: NDArray[Any], frames: int, complete: NDArray[Any]
) -> None: ...
def relink(store: tuple[NDArray[Any], ...]) -> int: ...
def walk(
    store: tuple[NDArray[Any], ...],
    ids: NDArray[Any],
    steps: int,
    forward: bool,
    path: NDArray[Any],
    lengths: NDArray[Any],
) -> None: ...
def drop(store: tuple[NDArray[Any], ...], oldest: int) -> None: ...
def compact(store: tuple[NDArray[Any], ...]) -> None: ...
def release(array: NDArray[Any], begin: int, end: int) -> int: ...
def follow(
    store: tuple[NDArray[Any], ...],
    ids: NDArray[Any],
    steps: NDArray[Any],
    forward: bool,
    to: NDArray[Any],
    taken: NDArray[Any],
) -> None: ...
def sequences(
    store: tuple[NDArray[Any], ...],
    starts: NDArray[Any],
    length: int,
    burn_in: int,
    across: bool,
    gamma: float,
    plan: NDArray[Any],
    out: NDArray[Any],
    threads: int = 1,
    /,
) -> None: ...
def returns(
    store: tuple[NDArray[Any], ...],
    path: NDArray[Any],
    lengths: NDArray[Any],
    gamma: float,
    at: int,
    dtype: int,
    totals: NDArray[Any],
) -> None: ...
def tree_update(
    tree: tuple[NDArray[Any], ...],
    combine: int,
    capacity: int,
    oldest: int,
    added: int,
    ids: NDArray[Any],
    values: NDArray[Any],
) -> int: ...
def tree_fill(
    tree: tuple[NDArray[Any], ...], combine: int, capacity: int, first_id: int, n: int, value: float
) -> None: ...
def tree_build(tree: tuple[NDArray[Any], ...], combine: int) -> None: ...
def tree_find(
    tree: tuple[NDArray[Any], ...],
    capacity: int,
    oldest: int,
    added: int,
    uniforms: NDArray[Any],
    ids: NDArray[Any],
    probabilities: NDArray[Any],
    lanes: int,
) -> None: ...
def deck_add(deck: tuple[NDArray[Any], ...], first_id: int, n: int) -> None: ...
def deck_deal(deck: tuple[NDArray[Any], ...], kept: int, uniforms: NDArray[Any], slots: NDArray[Any]) -> None: ...
def deck_drop(deck: tuple[NDArray[Any], ...], first_id: int, n: int) -> None: ...
def order_add(order: tuple[NDArray[Any], ...], oldest: int, added: int, values: NDArray[Any]) -> None: ...
def order_drop(order: tuple[NDArray[Any], ...], oldest: int, added: int, n: int) -> None: ...
def order_update(
    order: tuple[NDArray[Any], ...], oldest: int, added: int, ids: NDArray[Any], values: NDArray[Any]
) -> int: ...
def order_find(
    order: tuple[NDArray[Any], ...], oldest: int, added: int, ranks: NDArray[Any], ids: NDArray[Any]
) -> None: ...
def order_ranks(
    order: tuple[NDArray[Any], ...], oldest: int, added: int, ids: NDArray[Any], ranks: NDArray[Any]
) -> None: ...
def mark_drawn(
    cursor: NDArray[Any], capacity: int, bits: NDArray[Any], seen: NDArray[Any], ids: NDArray[Any]
) -> int: ...
def paired(ids: Any, values: Any) -> bool: ...
def count_live(ids: NDArray[Any], oldest: int, added: int) -> int: ...
def importance_weights(probabilities: NDArray[Any], scale: float, beta: float, out: NDArray[Any]) -> None: ...
def magnitudes(values: NDArray[Any], epsilon: float, out: NDArray[Any]) -> float: ...
def spread(uniforms: NDArray[Any], oldest: int, size: int, ids: NDArray[Any]) -> None: ...
