"""What Tianshou's buffers know of episodes: where they ended, which are open, and what the running ones add up to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replaybank.buffer import ReplayBuffer
from replaybank.samplers.base import Ids


class Episodes:
    """The episodes of the environments whose transitions `bank` holds; slots are ids modulo its capacity.

    `done` (bool [slots]): whether a slot's transition was the last of its episode; in one piece, since Tianshou copies
    it for every batch. `open` (bool [slots]): whether it is neither done nor followed by another one.
    """

    def __init__(self, slots: int, environments: int) -> None:
        self.done = np.zeros(slots, bool)
        self.open = np.zeros(slots, bool)
        self._newest = np.full(environments, -1, np.int64)  # ids
        self._start = np.full(environments, -1, np.int64)  # ids; -1: the next transition
        self._return = np.zeros(environments)
        self._length = np.zeros(environments, np.int64)

    def note(
        self,
        bank: ReplayBuffer,
        ids: Ids,
        streams: NDArray[np.int64],
        reward: NDArray[np.float64],
        done: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Writes down what transitions that were just added to `bank`, one of each of `streams`, end and continue.

        Gives, each [n]: episode return, episode length (both 0 unless done), and the slot where the episode began, -1
        where that has been overwritten.
        """
        slots, oldest = len(self.done), ids.max() + 1 - len(bank)
        before = self._newest[streams]
        self._newest[streams] = ids
        self.done[ids % slots] = done
        self.open[ids % slots] = ~done
        # Where the transition before was not done and yet is not followed by this one, the environment was reset.
        left = np.flatnonzero((before >= oldest) & self.open[before % slots])
        followed = np.zeros(len(ids), bool)
        if len(left):
            followed[left] = bank.walk(before[left], 1)[1] > 1
        self.open[before[followed] % slots] = False
        start, total, length = self._start[streams], self._return[streams], self._length[streams]
        was_reset = left[~followed[left]]
        start[was_reset], total[was_reset], length[was_reset] = -1, 0.0, 0
        start = np.where(start < 0, ids, start)
        total, length = total + reward, length + 1
        self._start[streams] = np.where(done, -1, start)
        self._return[streams] = np.where(done, 0.0, total)
        self._length[streams] = np.where(done, 0, length)
        start = np.where(start < oldest, -1, start % slots)
        return np.where(done, total, 0.0), np.where(done, length, 0), start

    def clear(self, keep_statistics: bool) -> None:
        """Forgets all; with `keep_statistics` the returns and lengths of running episodes go on."""
        self.done[:] = self.open[:] = False
        self._newest[:] = self._start[:] = -1
        if not keep_statistics:
            self._return[:] = 0.0
            self._length[:] = 0
