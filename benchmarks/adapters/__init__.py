"""One module a library. A module imports its library only when it is built, so that a missing one stays out quietly."""

from __future__ import annotations

from adapters.cpprb import Cpprb
from adapters.dopamine import Dopamine
from adapters.flashbax import Flashbax, FlashbaxCompiled
from adapters.floor import FloorContender, FloorWalk
from adapters.records import Records
from adapters.replaybank import Replaybank
from adapters.reverb import Reverb
from adapters.rllib import RLlib
from adapters.sb3 import StableBaselines3
from adapters.textbook import Textbook
from adapters.tianshou import Tianshou
from adapters.torchrl import TorchRL
from contender import Contender

CONTENDERS: tuple[type[Contender], ...] = (
    Replaybank,
    Cpprb,
    StableBaselines3,
    Tianshou,
    TorchRL,
    RLlib,
    Dopamine,
    Reverb,
    Flashbax,
    FlashbaxCompiled,
    Textbook,
    Records,
    FloorContender,
    FloorWalk,
)
