"""replaybank: the memory of a reinforcement-learning agent."""

from replaybank.batch import Batch
from replaybank.buffer import PriorityReport, ReplayBuffer, Segment
from replaybank.files import CheckpointError
from replaybank.recorder import Episode, Recorder
from replaybank.samplers.combined import Combined
from replaybank.samplers.mixture import Mixture
from replaybank.samplers.prioritized import Prioritized
from replaybank.samplers.rank_prioritized import RankPrioritized
from replaybank.samplers.recent import Recent
from replaybank.samplers.sample_once import SampleOnce
from replaybank.samplers.schedule import linear
from replaybank.samplers.uniform import Uniform
from replaybank.saving import Saving
from replaybank.schema import Schema, schema_of
from replaybank.views.frames import FrameStack
from replaybank.views.hindsight import Hindsight
from replaybank.views.nstep import NStep
from replaybank.views.sequence import Sequence
from replaybank.views.transition import Transition

__all__ = [
    "Batch",
    "CheckpointError",
    "Combined",
    "Episode",
    "FrameStack",
    "Hindsight",
    "Mixture",
    "NStep",
    "Prioritized",
    "PriorityReport",
    "RankPrioritized",
    "Recent",
    "Recorder",
    "ReplayBuffer",
    "SampleOnce",
    "Saving",
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
