"""replaybank: the memory of a reinforcement-learning agent.

The public names load on first use, so that a program that only might use one pays little for the import.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replaybank.batch import Batch
    from replaybank.buffer import PriorityReport, ReplayBuffer
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
    from replaybank.segments import Segment
    from replaybank.views.frames import FrameStack
    from replaybank.views.hindsight import Hindsight
    from replaybank.views.nstep import NStep
    from replaybank.views.sequence import Sequence
    from replaybank.views.transition import Transition

    __version__: str

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

if not TYPE_CHECKING:  # a checker that saw __getattr__ would let every misspelt name pass
    _HOMES = {  # the same as above
        "Batch": "batch",
        "CheckpointError": "files",
        "Combined": "samplers.combined",
        "Episode": "recorder",
        "FrameStack": "views.frames",
        "Hindsight": "views.hindsight",
        "Mixture": "samplers.mixture",
        "NStep": "views.nstep",
        "Prioritized": "samplers.prioritized",
        "PriorityReport": "buffer",
        "RankPrioritized": "samplers.rank_prioritized",
        "Recent": "samplers.recent",
        "Recorder": "recorder",
        "ReplayBuffer": "buffer",
        "SampleOnce": "samplers.sample_once",
        "Saving": "saving",
        "Schema": "schema",
        "Segment": "segments",
        "Sequence": "views.sequence",
        "Transition": "views.transition",
        "Uniform": "samplers.uniform",
        "linear": "samplers.schedule",
        "schema_of": "schema",
    }

    def __getattr__(name):
        if name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(f"replaybank.{_HOMES[name]}"), name)
        elif name == "__version__":
            from importlib.metadata import version

            value = version("replaybank")
        else:
            raise AttributeError(f"module 'replaybank' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__, "__version__"})
