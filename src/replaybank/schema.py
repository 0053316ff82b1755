"""Field names, shapes and dtypes; from Gymnasium spaces, an explicit mapping, or the first transition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from replaybank.convert import NUMERIC, as_field, as_numeric, require_finite, returned_whole

# The fields that every transition has, in the order of `add`; extras follow.
STANDARD = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
# Names of what batches hold besides fields and of what they can do, and arguments of `add` and `extend`.
TAKEN = frozenset(
    {
        *("block", "done", "draw", "items", "keys", "to_torch"),
        *("discount", "indices", "is_first", "probabilities", "relabeled", "valid", "weights"),
        *("mask", "stream"),
    }
)
# Of a transition: NumPy does not see where the offsets of a larger dtype wrap around.
MOST_NBYTES = 2**30
MOST_NESTED = 32  # levels of a schema from outside


@dataclass(frozen=True)
class Leaf:
    """One array of every transition: `path` names it, e.g. ("obs", "camera"); `shape` is that of one transition."""

    path: tuple[str, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As a user would write it: `obs["camera"]`."""
        return self.path[0] + "".join(f'["{part}"]' for part in self.path[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of one item."""
        return self.dtype.itemsize * math.prod(self.shape)


# One array, or fields by name (as a Dict space), or fields in order (as a Tuple space).
Node: TypeAlias = "Leaf | dict[str, Node] | tuple[Node, ...]"


def leaves_of(node: Node) -> Iterator[Leaf]:
    """The leaves of a node, in order."""
    if isinstance(node, Leaf):
        yield node
    else:
        for child in children_of(node).values():
            yield from leaves_of(child)


def children_of(node: dict[str, Node] | tuple[Node, ...]) -> dict[str, Node]:
    """The fields of a nested node by name; those of a tuple are called "0", "1", …"""
    return node if isinstance(node, dict) else {str(i): child for i, child in enumerate(node)}


def mapped(node: Node, change: Callable[[Leaf], Leaf]) -> Node:
    """The node with each leaf changed."""
    if isinstance(node, Leaf):
        return change(node)
    if isinstance(node, dict):
        return {name: mapped(child, change) for name, child in node.items()}
    return tuple(mapped(child, change) for child in node)


def dtype_of(node: Node) -> np.dtype[Any]:
    """The node as a NumPy dtype, nested and aligned as a C compiler would."""
    if isinstance(node, Leaf):
        return np.dtype((node.dtype, node.shape))
    return np.dtype([(name, dtype_of(child)) for name, child in children_of(node).items()], align=True)


class Schema:
    """What a transition is made of: `fields` maps names to nodes, `dtype` is the NumPy structured dtype of them.

    Made by `Schema.of` (an explicit mapping), `Schema.inferred` (the first transition) or `schema_of` (Gymnasium).
    `next_obs` has the nodes of `obs` and no place in `dtype`: it is stored once, as the next observation.
    """

    def __init__(self, fields: Mapping[str, Node]) -> None:
        for name in ("obs", "action"):
            if name not in fields:
                raise ValueError(f"schema: missing field {name!r}; given {', '.join(fields) or 'no fields'}")
        for name in fields:
            if name in TAKEN or name.startswith(("_", "link_")):
                raise ValueError(f"schema: {name!r} cannot name a field: batches and rows use that name themselves")
        obs = fields["obs"]
        if "next_obs" in fields and _shape_of(fields["next_obs"]) != _shape_of(obs):
            raise ValueError("schema: next_obs must be what obs is; leave it out")
        reward = fields.get("reward", Leaf(("reward",), np.dtype(np.float32), ()))
        if not isinstance(reward, Leaf) or reward.dtype not in (np.float32, np.float64):
            raise ValueError(f"schema: reward must be one array of float32 or float64, given {reward}")
        for name in ("terminated", "truncated"):
            if name in fields and fields[name] != Leaf((name,), np.dtype(bool), ()):
                raise ValueError(f"schema: {name} must be bool of shape (), given {fields[name]}")
        self.extras = tuple(name for name in fields if name not in STANDARD)
        self.fields: dict[str, Node] = {
            "obs": obs,
            "action": fields["action"],
            "reward": reward,
            "next_obs": _rename(obs, "next_obs"),
            "terminated": Leaf(("terminated",), np.dtype(bool), ()),
            "truncated": Leaf(("truncated",), np.dtype(bool), ()),
            **{name: fields[name] for name in self.extras},
        }
        self.leaves = tuple(leaf for node in self.fields.values() for leaf in leaves_of(node))
        nbytes = sum(leaf.nbytes for leaf in self.leaves if leaf.path[0] != "next_obs")
        if nbytes > MOST_NBYTES:
            raise ValueError(f"schema: a transition of {nbytes / 2**30:.1f} GiB; the most is 1 GiB")
        self.flat = all(isinstance(node, Leaf) for node in self.fields.values())

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Schema:
        """From an explicit mapping of names to specs, for example::

            {"obs": {"camera": ("uint8", (64, 64, 3)), "speed": "float32"}, "action": "int64", "log_prob": "float32"}

        A spec is a dtype (a scalar), a pair (dtype, shape), a mapping (nested by name) or a list (nested in order).
        dtypes are kept as given. reward (float32), next_obs, terminated and truncated need not be named.
        """
        if not isinstance(spec, Mapping):
            raise TypeError(f"schema: expected a mapping of field names to dtypes, given {type(spec).__name__}")
        return cls({name: _parse((_field_name(name),), value) for name, value in spec.items()})

    @classmethod
    def inferred(cls, values: Mapping[str, Any], lead: int) -> Schema:
        """From the `values` of the first transition(s): float64, Python float → float32, int → int64, bool → bool.

        Other dtypes stay as they are; the reward is always a float. Mappings nest by name; tuples that hold arrays nest
        in order. `lead` is the length of the leading axis, -1 where there is none. Raises TypeError where obs or
        next_obs is all that `env.reset()` or `env.step()` returned: it ends with an empty info, or the other is no such
        tuple. A Tuple space whose last one is a Dict looks the same, in both.
        """
        _require_unpacked(values)
        fields = {name: _infer((_field_name(name),), value, lead) for name, value in values.items()}
        reward = fields["reward"]
        if isinstance(reward, Leaf) and reward.dtype.kind in "biuf":
            fields["reward"] = Leaf(reward.path, np.dtype(np.float32), reward.shape)
        for name in ("terminated", "truncated"):
            fields[name] = Leaf((name,), np.dtype(bool), ())
        fields.pop("next_obs", None)
        return cls(fields)

    def with_fields(self, **extras: Any) -> Schema:
        """A schema with further fields: `extras`, names and specs as in `Schema.of`, which raises what this raises."""
        return Schema(self.fields | {name: _parse((name,), spec) for name, spec in extras.items()})

    def plain(self) -> list[Any]:
        """The schema as lists, texts and numbers, which `of_plain` takes."""
        return [[name, _plain(node)] for name, node in self.fields.items() if name != "next_obs"]

    @classmethod
    def of_plain(cls, plain: Any) -> Schema:
        """A schema from what `plain` gave; raises ValueError for anything else."""
        try:
            return cls({_field_name(name): _of_plain((name,), node, MOST_NESTED) for name, node in plain})
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a schema: {error}") from None

    @property
    def stored(self) -> dict[str, Node]:
        """The fields of one stored transition: all but next_obs, the observation first."""
        names = ("obs", "action", "reward", *self.extras, "terminated", "truncated")
        return {name: self.fields[name] for name in names}

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """One stored transition."""
        return dtype_of(self.stored)

    def values(self, values: Mapping[str, Any]) -> list[Any]:
        """The leaf values of nested `values`, in the order of `leaves`, as they come.

        Raises ValueError or TypeError where a field is missing, unknown, or not nested as it should be.
        """
        unknown = [name for name in values if name not in self.fields]
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}: this buffer holds {', '.join(self.fields)}")
        found: list[Any] = []
        for name, node in self.fields.items():
            if name not in values:
                raise ValueError(f"missing field {name!r}: this buffer holds {', '.join(self.fields)}")
            _flatten(name, node, values[name], found)
        return found

    def arrays(self, values: Sequence[Any], lead: int) -> tuple[NDArray[Any], ...]:
        """Leaf values (as `values` gives them) as arrays of exactly each leaf's dtype and shape.

        `lead` is the length of the leading axis, -1 where there is none. Raises where that would lose anything, and
        where the reward is not finite.
        """
        found = tuple(
            as_field(leaf.name, value, leaf.dtype, leaf.shape, lead)
            for leaf, value in zip(self.leaves, values, strict=True)
        )
        for leaf, array in zip(self.leaves, found, strict=True):
            if leaf.path == ("reward",):
                require_finite("reward", array)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.leaves)

    def __repr__(self) -> str:
        return "Schema(" + ", ".join(f"{leaf.name}: {leaf.dtype}{list(leaf.shape) or ''}" for leaf in self.leaves) + ")"


def schema_of(env_or_spaces: Any, **extras: Any) -> Schema:
    """The schema of a Gymnasium environment, a vector environment (its *single* spaces), or a pair (obs, action space).

    One of these is `env_or_spaces`. Of spaces:
    Box (float64 → float32), Discrete (int64; values as the environment gives them, from `start` on), MultiDiscrete,
    MultiBinary, Dict and Tuple, nested. Raises TypeError for a space without a fixed shape (Text, Graph, Sequence,
    OneOf), naming the space and its place. `extras` are further fields, as in `Schema.of`.
    """
    if isinstance(env_or_spaces, tuple | list) and len(env_or_spaces) == 2:
        obs, action = env_or_spaces
    else:
        prefix = "single_" if hasattr(env_or_spaces, "single_observation_space") else ""
        obs = getattr(env_or_spaces, f"{prefix}observation_space", None)
        action = getattr(env_or_spaces, f"{prefix}action_space", None)
        if obs is None or action is None:
            raise TypeError(
                "schema_of: expected a Gymnasium environment, vector environment or pair (observation space, action "
                f"space), given {type(env_or_spaces).__name__}"
            )
    return Schema({"obs": _of_space(("obs",), obs), "action": _of_space(("action",), action)}).with_fields(**extras)


def _of_space(path: tuple[str, ...], space: Any) -> Node:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {str(name): _of_space((*path, str(name)), child) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_of_space((*path, str(i)), child) for i, child in enumerate(space.spaces))
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return Leaf(path, _compact(np.dtype(space.dtype)), tuple(space.shape or ()))
    place = Leaf(path, np.dtype(bool), ()).name
    raise TypeError(
        f"schema_of: {place} is {space!r}; expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple: "
        f"a {type(space).__name__} has no fixed shape. Wrap the environment so that it gives arrays of one shape"
    )


def _field_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"schema: field names are strings, given {name!r}")
    if not name:
        raise ValueError("schema: a field name is empty")
    return name


def _compact(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that is stored where the caller did not choose one."""
    if dtype.kind == "f" and dtype.itemsize > 4:
        return np.dtype(np.float32)
    return _native(dtype)


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in this machine's byte order; of several names for one (long, long long) always the same."""
    return np.dtype(dtype.newbyteorder("=").str)


def _parse(path: tuple[str, ...], spec: Any) -> Node:
    name = Leaf(path, np.dtype(bool), ()).name
    if isinstance(spec, Leaf):
        return Leaf(path, spec.dtype, spec.shape)
    if isinstance(spec, Mapping):
        return {_field_name(key): _parse((*path, _field_name(key)), child) for key, child in spec.items()}
    if isinstance(spec, list):
        return tuple(_parse((*path, str(i)), child) for i, child in enumerate(spec))
    try:
        dtype = np.dtype(spec if spec is not None else "")  # np.dtype(None) would be float64
    except (TypeError, ValueError) as error:
        raise TypeError(f"schema: {name}: expected a dtype, (dtype, shape), mapping or list, given {spec!r}") from error
    if dtype.base.kind not in NUMERIC:
        raise TypeError(f"schema: {name}: expected a dtype of numbers or booleans, given {dtype.base}")
    return Leaf(path, _native(dtype.base), tuple(dtype.shape))


def _plain(node: Node) -> list[Any]:
    if isinstance(node, Leaf):
        return ["leaf", node.dtype.str, list(node.shape)]
    children = [[name, _plain(child)] for name, child in children_of(node).items()]
    return ["dict" if isinstance(node, dict) else "tuple", children]


def _of_plain(path: tuple[str, ...], plain: Any, depth: int) -> Node:
    kind, *rest = plain
    if kind == "leaf":
        text, shape = rest
        dtype = np.dtype(str(text))
        if dtype.kind not in NUMERIC or dtype.subdtype is not None or dtype != _native(dtype):
            raise TypeError(f"{dtype} is no dtype of a field")
        if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape) or len(shape) > MOST_NESTED:
            raise TypeError(f"{shape!r:.99} is no shape")
        if dtype.itemsize * math.prod(shape) > MOST_NBYTES:
            raise ValueError(f"items of shape {shape} are too large")
        return Leaf(path, _native(dtype), tuple(shape))
    if kind not in ("dict", "tuple") or depth == 0:
        raise TypeError(f"{kind!r:.99} is no kind of field")
    (fields,) = rest
    children = {_field_name(name): _of_plain((*path, name), child, depth - 1) for name, child in fields}
    return children if kind == "dict" else tuple(children.values())


def _require_unpacked(values: Mapping[str, Any]) -> None:
    """Before what is inferred of the one makes the other look wrong."""
    for name, other in (("obs", "next_obs"), ("next_obs", "obs")):
        value: Any = values.get(name)
        if (hint := returned_whole(value)) and not (value[-1] and returned_whole(values.get(other))):
            raise TypeError(f"{name}: expected an observation, given a tuple{hint}")


def _infer(path: tuple[str, ...], value: Any, lead: int) -> Node:
    if isinstance(value, Mapping):
        return {_field_name(key): _infer((*path, _field_name(key)), child, lead) for key, child in value.items()}
    if isinstance(value, tuple) and any(isinstance(child, Mapping | tuple) or np.ndim(child) > 0 for child in value):
        return tuple(_infer((*path, str(i)), child, lead) for i, child in enumerate(value))
    name = Leaf(path, np.dtype(bool), ()).name
    array = as_numeric(name, value)
    if lead >= 0 and array.shape[:1] != (lead,):
        raise ValueError(f"{name}: expected a leading axis of {lead}, given shape {array.shape}")
    return Leaf(path, _compact(array.dtype), array.shape if lead < 0 else array.shape[1:])


def _rename(node: Node, root: str) -> Node:
    return mapped(node, lambda leaf: Leaf((root, *leaf.path[1:]), leaf.dtype, leaf.shape))


def _shape_of(node: Node) -> Node:
    return _rename(node, "")


def _flatten(name: str, node: Node, value: Any, found: list[Any]) -> None:
    if isinstance(node, Leaf):
        found.append(value)
        return
    children = children_of(node)
    if isinstance(node, dict):
        if not isinstance(value, Mapping):
            given = f"{type(value).__name__}{returned_whole(value)}"
            raise TypeError(f"{name}: expected a mapping with {', '.join(children)}, given {given}")
        get: Callable[[str], Any] = value.__getitem__
        missing = [key for key in children if key not in value]
        unknown = [key for key in value if key not in children]
        if missing or unknown:
            wrong = f"missing {missing[0]!r}" if missing else f"unknown {unknown[0]!r}"
            raise ValueError(f"{name}: {wrong}: expected {', '.join(children)}")
    else:
        if not isinstance(value, tuple | list) or len(value) != len(children):
            given = f"{len(value)}" if isinstance(value, tuple | list) else type(value).__name__
            raise TypeError(f"{name}: expected a tuple of {len(children)}, given {given}")
        items = value
        get = lambda key: items[int(key)]  # noqa: E731
    for key, child in children.items():
        _flatten(f'{name}["{key}"]', child, get(key), found)
