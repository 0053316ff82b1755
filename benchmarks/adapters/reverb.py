"""Reverb: a server and its client in one process, which is another than ours (`reverb_transitions.py`)."""

from __future__ import annotations

import os
import pickle
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from contender import ALPHA, BETA, LOSS_FIELDS, Contender, LeftOutError, Setup
from timing import Inputs, Trial
from transitions import FIELDS, Step, Transitions, priorities_like_td_errors

#: Names the interpreter that has Reverb.
INTERPRETER = "REVERB_PYTHON"
WORKER = Path(__file__).resolve().parents[1] / "reverb_transitions.py"


def interpreter() -> str:
    if INTERPRETER not in os.environ:
        raise LeftOutError(
            "needs TensorFlow 2.15 and NumPy 1, so an interpreter of its own: "
            f"set {INTERPRETER} to one that has dm-reverb"
        )
    return os.environ[INTERPRETER]


class Reverb(Contender):
    """A table with an item a transition; a TrajectoryDataset batches them, and reads ahead in threads of TensorFlow.

    Server and client share one process, so that samples do not pass through gRPC. What is timed is `length` pieces of
    work in a row and one word to that process and back, tens of microseconds in all. An add counts when the server has
    it. In the whole step, the batches are those read ahead, as its users have them. A key is told with a sample
    alone, so updates are timed on the `KNOWN` that were drawn first; the weights are computed from the probabilities.
    """

    name = "Reverb"
    most = 51_200  # a multiple of 64
    #: Pieces of work between two words of the processes.
    length: ClassVar[int] = 20
    KNOWN: ClassVar[int] = 65_536

    @classmethod
    def check(cls, setup: Setup) -> None:
        super().check(setup)
        interpreter()

    def build(self) -> None:
        self._keys: NDArray[np.uint64] | None = None
        self._process = subprocess.Popen(
            [interpreter(), str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        # It ends where its standard input does: with this process, or with this object.
        weakref.finalize(self, self._process.communicate)
        self.versions = self._ask("versions")
        self.add = lambda *step: self._ask("add_one", step)
        self.sample = lambda size: self._ask("draw", size)
        self.update = lambda keys, priorities: self._ask("update", keys[None], priorities[None])

    def _ask(self, *words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(words, self._process.stdin, protocol=4)  # the newest that NumPy 1 and 2 have in common
        self._process.stdin.flush()
        try:
            return pickle.load(self._process.stdout)
        except EOFError as error:
            raise LeftOutError("its process ended before it answered") from error

    def fill(self, data: Transitions) -> None:
        """With a priority each: there is no other way to name all transitions."""
        setup = self.setup
        priorities = priorities_like_td_errors(len(data), np.random.default_rng(setup.seed))
        self._ask("serve", setup.capacity, ALPHA if setup.prioritized else None, BETA, setup.streams)
        self._ask("fill", data.columns(), priorities)

    def set_priorities(self, priorities: NDArray[np.float32]) -> None:
        """Done while filling."""

    def _sends(self, steps: Sequence[Step]) -> None:
        columns = zip(*steps, strict=True)
        self._ask("steps", {name: np.array(values) for name, values in zip(FIELDS, columns, strict=True)})

    def adding(self, steps: Sequence[Step]) -> Trial:
        self._sends(steps)
        return self._trial("add", self.length)

    def sampling(self, size: int) -> Trial:
        return self._trial("sample", size, self.length)

    def _trial(self, *words: Any) -> Trial:
        return Trial(lambda calls: [words] * calls, self._ask, self.length)

    def updating(self, size: int) -> Trial:
        rng = np.random.default_rng(self.setup.seed)

        def prepare(calls: int) -> Inputs:
            shape = self.length, size
            places = rng.integers(0, self.setup.capacity, size=(calls, *shape))
            return [(self.indices_of(some), priorities_like_td_errors(shape, rng)) for some in places]

        return Trial(prepare, lambda keys, priorities: self._ask("update", keys, priorities), self.length)

    def stepping(self, size: int, steps: Sequence[Step]) -> Trial:
        self._sends(steps)
        rng = np.random.default_rng(self.setup.seed)
        return Trial(
            lambda calls: [("step", priorities_like_td_errors((self.length, size), rng)) for _ in range(calls)],
            self._ask,
            self.length,
        )

    def indices(self, batch: Any) -> Any:
        return batch["key"]

    def indices_of(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        if self._keys is None:
            self._keys = np.array(self._ask("keys", min(self.KNOWN, self.setup.capacity)), np.uint64)
        return self._keys[places % len(self._keys)]

    def unpack(self, batch: Any) -> tuple[Any, ...]:
        fields = tuple(batch[name] for name in LOSS_FIELDS)
        return (*fields, batch["weights"]) if self.setup.prioritized else fields

    def columns(self, batch: Any) -> Mapping[str, NDArray[Any]]:
        names = (*FIELDS, "weights") if self.setup.prioritized else FIELDS
        return {name: batch[name] for name in names}
