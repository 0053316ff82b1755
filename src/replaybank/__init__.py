"""replaybank: the memory of a reinforcement-learning agent."""

from importlib.metadata import version as _version

from replaybank.batch import Batch
from replaybank.buffer import PriorityReport, ReplayBuffer
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.schedule import linear
from replaybank.samplers.uniform import Uniform
from replaybank.schema import Schema, schema_of
from replaybank.views.nstep import NStep
from replaybank.views.transition import Transition

__version__ = _version("replaybank")

__all__ = [
    "Batch",
    "NStep",
    "Prioritized",
    "PriorityReport",
    "ReplayBuffer",
    "Schema",
    "Transition",
    "Uniform",
    "linear",
    "schema_of",
]
