"""The parts of the suite, in the order in which they run and stand on the page."""

from __future__ import annotations

import calls
import capacity
import durability
import frames
import memory
import sequences
import threads
import writers
from measuring import Part

PARTS: dict[str, Part] = {
    module.PART.key: module.PART
    for module in (calls, capacity, frames, memory, sequences, durability, threads, writers)
}
