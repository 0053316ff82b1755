"""A schema as plain data, for writers to read: JSON, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaybank.schema import Leaf, Node, Schema
from replaybank.stacking import Stacking


def plain_schema(schema: Schema) -> dict[str, Any]:
    """The stored fields as nested lists and dicts of dtypes and shapes."""
    return {name: _plain(node) for name, node in schema.fields.items() if name != "next_obs"}


def schema_from(plain: Mapping[str, Any]) -> Schema:
    """What `plain_schema` was given."""
    return Schema({name: _node((name,), node) for name, node in plain.items()})


def plain_stack(stack: Stacking | None) -> dict[str, Any] | None:
    """How observations are stacked, as a dict."""
    return None if stack is None else vars(stack)


def stack_from(plain: Mapping[str, Any] | None) -> Stacking | None:
    """What `plain_stack` was given."""
    return None if plain is None else Stacking(**plain)


def _plain(node: Node) -> Any:
    if isinstance(node, Leaf):
        return {"dtype": node.dtype.str, "shape": list(node.shape)}
    if isinstance(node, dict):
        return {"fields": {name: _plain(child) for name, child in node.items()}}
    return {"items": [_plain(child) for child in node]}


def _node(path: tuple[str, ...], plain: Mapping[str, Any]) -> Node:
    if "dtype" in plain:
        return Leaf(path, np.dtype(plain["dtype"]), tuple(plain["shape"]))
    if "fields" in plain:
        return {name: _node((*path, name), child) for name, child in plain["fields"].items()}
    return tuple(_node((*path, str(i)), child) for i, child in enumerate(plain["items"]))
