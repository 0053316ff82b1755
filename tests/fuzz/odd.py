"""Values that nobody should hand over, and right values in forms that nobody expects."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

try:
    import torch
except ImportError:  # replaybank needs NumPy only; so does the fuzzing of it
    torch = None  # type: ignore[assignment]


class Boom(Exception):
    """What a caller's own object or function raises: it may pass through."""


def boom(*_: Any, **__: Any) -> Any:
    raise Boom("the caller's own")


class Subclass(np.ndarray):
    """An array that is not exactly an array."""


class Raises:
    """Answers every question with an exception."""

    __array__ = __index__ = __len__ = __bool__ = __float__ = __int__ = __iter__ = __getitem__ = __eq__ = boom
    __hash__ = None  # type: ignore[assignment]


class Index:
    """An integer of one's own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __index__(self) -> Any:
        return self.value


class Arrays:
    """Gives another array each time it is asked; `before` is done first."""

    def __init__(self, *values: Any, before: Callable[[], Any] = int) -> None:
        self.values, self.asked, self.before = values, 0, before

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.before()
        self.asked += 1
        return self.values[min(self.asked, len(self.values)) - 1]


class Liar(list):
    """A list that says it is of another length."""

    def __len__(self) -> int:
        return super().__len__() + 1


class LiarTuple(tuple):
    """A tuple that says it is of another length."""

    def __len__(self) -> int:
        return super().__len__() + 1


class LiarDict(dict):
    """A mapping that holds what it does not give."""

    def __contains__(self, key: object) -> bool:
        return True


class Evil(float):
    """A number whose comparisons raise."""

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = boom
    __hash__ = float.__hash__


def _unaligned(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"x" + values.tobytes(), values.dtype, offset=1).reshape(values.shape)


def _strided(values: np.ndarray) -> np.ndarray:
    return np.repeat(values, 2, axis=-1)[..., ::2] if values.ndim else values


def _list(values: np.ndarray) -> Any:
    return values if values.dtype.kind == "c" or values.dtype.char in "gG" else values.tolist()


def _tensor(values: np.ndarray) -> Any:
    known = torch is not None and values.dtype.char in "?bBhilqefdFD" and values.dtype.isnative
    return torch.from_numpy(values.copy()) if known else values


def _wider(values: np.ndarray) -> np.ndarray:
    return values.astype({"f": "f8", "i": "i8", "u": "u8"}.get(values.dtype.kind, values.dtype))


def _readonly(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


# The same values otherwise: whatever is made of them must hold what the array held.
FORMS: tuple[Callable[[np.ndarray], Any], ...] = (
    _list,
    _strided,
    _unaligned,
    _tensor,
    _wider,
    _readonly,
    lambda values: values[()],
    lambda values: values.view(Subclass),
    lambda values: values.astype(values.dtype.newbyteorder()),
    lambda values: values.astype(values.dtype.newbyteorder()).view(Subclass),
    lambda values: _unaligned(values).view(Subclass),
    lambda values: np.asfortranarray(values) if values.ndim else values,
    lambda values: np.ma.array(values),
    lambda values: Arrays(values),
    lambda values: np.flip(np.flip(values).copy()) if values.ndim else values,
    lambda values: np.moveaxis(np.moveaxis(values, 0, -1).copy(), -1, 0) if values.ndim > 1 else values,
)

NUMBERS: tuple[Callable[[], Any], ...] = tuple(
    (lambda value=value: value)
    for value in (
        *(0, -1, 1, 2, 3, 7, 2**31 - 2, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400),
        *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-320, 1e38, 1e39, 1e300, float("nan"), float("inf"), float("-inf")),
        *(True, False, None, 1j, complex("nan"), "1", "", "obs", b"1", bytearray(b"12"), Ellipsis, NotImplemented),
        *(np.float16(1), np.float32("nan"), np.float64(0.3), np.longdouble(1), np.clongdouble(1), np.bool_(True)),
        *(np.int8(3), np.uint64(2**64 - 1), np.int64(-1), np.str_("1"), np.bytes_(b"1"), np.void(b"1234")),
        *(np.datetime64("2020-01-01"), np.datetime64("NaT"), np.timedelta64(1), np.ma.masked, slice(None), int, np),
        *(decimal.Decimal(1), fractions.Fraction(1, 2), datetime.datetime(2020, 1, 1), range(3), np.dtype("f4")),
    )
)

ARRAYS: tuple[Callable[[], Any], ...] = (
    list,
    tuple,
    dict,
    set,
    object,
    Raises,
    lambda: [Raises()],
    lambda: Evil(0.5),
    lambda: Index(2),
    lambda: Index(-1),
    lambda: Index(2**70),
    lambda: Index("1"),
    lambda: (i for i in range(3)),
    lambda: iter([1, 2]),
    lambda: [[1], [1, 2]],
    lambda: [1, "2"],
    lambda: [None],
    lambda: Liar([1.0, 2.0]),
    lambda: LiarTuple((1.0, 2.0)),
    lambda: LiarDict(x=1),
    lambda: {"x": np.zeros(3)},
    lambda: {1: 2},
    lambda: {"": 1.0},
    lambda: (np.zeros(2), {"x": 1}),
    lambda: Arrays(np.zeros(3), np.zeros(4)),
    lambda: Arrays(np.zeros(()), np.zeros(2), np.full(3, np.nan)),
    lambda: Arrays([1, 2]),
    lambda: np.zeros(0),
    lambda: np.zeros((0, 3)),
    lambda: np.zeros((3, 0)),
    lambda: np.zeros((1,) * (40 if np.__version__ >= "2" else 32)),
    lambda: np.ones(3),
    lambda: np.ones((3, 3), np.float32),
    lambda: np.ones(1000),
    lambda: np.broadcast_to(np.float32(1), (2**33,)),
    lambda: np.broadcast_to(np.int64(1), (2, 2**40)),
    lambda: np.broadcast_to(np.float32(1), (0, 2**40)),
    lambda: np.lib.stride_tricks.as_strided(np.zeros(1), (2**20,), (0,)),
    lambda: np.full(3, np.nan),
    lambda: np.array([1.0, np.inf, 3.0], np.float32),
    lambda: np.array([1, None, 2]),
    lambda: np.zeros(3, [("x", "f4"), ("y", "i8")]),
    lambda: np.zeros((), [("x", "f4")]),
    lambda: np.zeros(3, [("x", "f4", (2,))])["x"],
    lambda: np.array(["a", "b"]),
    lambda: np.zeros(3, "M8[s]"),
    lambda: np.zeros(3, "S5"),
    lambda: np.zeros(3, ">f4"),
    lambda: np.zeros(3, "g"),
    lambda: np.zeros(3, complex),
    lambda: np.zeros(3, np.float16),
    lambda: np.array(5, object),
    lambda: np.zeros((2, 2)).view(np.matrix),
    lambda: np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
    lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
    lambda: np.frombuffer(b"\x02\x03\x04", bool),
    lambda: np.frombuffer(b"\x02", bool)[0],
    lambda: memoryview(b"123"),
    lambda: array.array("d", [1.0, 2.0]),
    lambda: np.array([2**63], np.uint64),
    lambda: np.array([-1, 2**62]),
    lambda: np.array([0, 1]),
    lambda: np.zeros(3, bool),
    lambda: np.ones(2, np.uint8),
    *(
        ()
        if torch is None
        else (
            lambda: torch.zeros(3),
            lambda: torch.zeros(3, requires_grad=True),
            lambda: torch.zeros(3, dtype=torch.bfloat16),
            lambda: torch.zeros(3).to_sparse(),
            lambda: torch.zeros(3, device="meta"),
            lambda: torch.tensor(1),
            lambda: torch.zeros(0, dtype=torch.int64),
        )
    ),
)

# What `Schema.of` may meet as a spec.
SPECS: tuple[Callable[[], Any], ...] = (
    *(
        (lambda spec=spec: spec)
        for spec in (
            *(
                "float32",
                ">i4",
                "?",
                "g",
                "G",
                "e",
                "u1",
                "O",
                "U3",
                "S2",
                "V8",
                "M8[s]",
                "m8",
                "nonsense",
                "",
                "f4,i8",
            ),
            *(None, int, float, bool, object, str, np.float32, np.generic, np.dtype(("f4", (2, 2))), 3, -1, 1.5),
            *(("f4", ()), ("f4", (0,)), ("f4", (3, 0, 2)), ("f4", -1), ("f4", (-1,)), ("f4", 3), ("f4", (2**31,))),
            *(("f4", (2**40, 2**40)), ("f4", (0, 2**40)), ("u1", (2**30,)), ("f4", (1.5,)), ("f4", "x"), ("f4",)),
            *(("f4", (2,), 1), ("f4", (1,) * 70), ((("f4", (2,)), (3,))), [], {}, [[]], {"a": {}}, {"a": []}),
            *({"x": "f4"}, {"x": {"y": ["f4", ("u1", (2,))]}}, {1: "f4"}, {"": "f4"}, {"a b": "f4"}, {'"]': "f4"}),
            *([("x", "f4")], [["f4", "f4"], {"z": "?"}], np.dtype([("x", "f4")]), {"x": "f4", "names": "i4"}),
        )
    ),
    Raises,
)


def value(r: Random) -> Any:
    """Some value: a fresh one, so that nothing that is done to it lasts."""
    return r.choice(NUMBERS)() if r.random() < 0.5 else r.choice(ARRAYS)()


def small(r: Random) -> Any:
    """Some value that is no array of billions: NumPy makes a seed of one, item by item, as long as that takes."""
    found = value(r)
    return found if not isinstance(found, np.ndarray) or found.size < 10_000 else 5
