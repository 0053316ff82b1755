"""replaybank: the memory of a reinforcement-learning agent."""

from replaybank.batch import Batch
from replaybank.buffer import PriorityReport, ReplayBuffer, Segment
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.schedule import linear
from replaybank.samplers.uniform import Uniform
from replaybank.schema import Schema, schema_of
from replaybank.views.frames import FrameStack
from replaybank.views.hindsight import Hindsight
from replaybank.views.nstep import NStep
from replaybank.views.sequence import Sequence
from replaybank.views.transition import Transition

__all__ = [
    "Batch",
    "FrameStack",
    "Hindsight",
    "NStep",
    "Prioritized",
    "PriorityReport",
    "ReplayBuffer",
    "Schema",
    "Segment",
    "Sequence",
    "Transition",
    "Uniform",
    "linear",
    "schema_of",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # a quarter of the time of importing NumPy, and seldom asked for

        return version("replaybank")
    raise AttributeError(f"module 'replaybank' has no attribute {name!r}")
