"""The typed door to the C++ extension.

The kernels are stateless: they work on NumPy arrays that Python owns, and release the GIL where the work is worth it.
Beside them it has what threads need: `Lock`, which each buffer has one of (native/lock.hpp).
What each does, in a few readable lines, is its twin in `reference.py`; where the arrays come from, `rows.py` and
`samplers/sum_tree.py`.
"""

from replaybank._native import (
    LANES,
    Lock,
    append,
    block,
    count_live,
    deck_add,
    deck_deal,
    follow,
    importance_weights,
    magnitudes,
    order_add,
    order_find,
    order_ranks,
    order_update,
    read,
    read_stacks,
    returns,
    sequences,
    spread,
    stacks_complete,
    tree_build,
    tree_fill,
    tree_find,
    tree_update,
    walk,
)

__all__ = [
    "LANES",
    "MAX",
    "MIN_POSITIVE",
    "SUM",
    "Lock",
    "append",
    "block",
    "count_live",
    "deck_add",
    "deck_deal",
    "follow",
    "importance_weights",
    "magnitudes",
    "order_add",
    "order_find",
    "order_ranks",
    "order_update",
    "read",
    "read_stacks",
    "returns",
    "sequences",
    "spread",
    "stacks_complete",
    "tree_build",
    "tree_fill",
    "tree_find",
    "tree_update",
    "walk",
]

# How a node of a tree follows from its children.
SUM, MAX, MIN_POSITIVE = 0, 1, 2
