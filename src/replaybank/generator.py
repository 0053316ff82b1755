"""Random generators as plain values, whose state is checked before it is taken up."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaybank.files import CheckpointError
from replaybank.manifest import refusing

GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
POSITIONS = {"pos": 624, "buffer_pos": 4}  # in what generators keep: they would read on from anywhere


def generator_state(rng: np.random.Generator) -> Any:
    """The state of a generator, as far as `generator` can make it again: else TypeError."""
    state = rng.bit_generator.state
    if state["bit_generator"] not in GENERATORS:
        raise TypeError(f"save: the generator must be one of {', '.join(GENERATORS)}, given {rng.bit_generator!r}")
    return state


def generator(state: Any) -> np.random.Generator:
    """A generator in a state that was saved."""
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if name not in GENERATORS:
        raise CheckpointError(f"generator: expected one of {', '.join(GENERATORS)}, found {name!r:.99}")
    bits = getattr(np.random, name)(0)
    _require_like(bits.state, state, "generator")
    with refusing():
        bits.state = state
    return np.random.Generator(bits)


def _require_like(known: Any, found: Any, where: str, key: str = "") -> None:
    """Raises CheckpointError where a generator's state is not built as a known one: NumPy itself checks little."""
    if isinstance(known, np.ndarray):
        like = isinstance(found, np.ndarray) and (found.dtype, found.shape) == (known.dtype, known.shape)
    elif isinstance(known, dict):
        like = isinstance(found, dict) and found.keys() == known.keys()
    else:
        like = type(found) is type(known) and (key not in POSITIONS or 0 <= found <= POSITIONS[key])
    if not like:
        raise CheckpointError(f"{where}: expected something like {known!r:.99}, found {found!r:.99}")
    if isinstance(known, dict):
        for name, value in known.items():
            _require_like(value, found[name], f"{where}: {name}", name)
