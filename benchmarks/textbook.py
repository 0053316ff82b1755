"""Replay buffers as textbooks and tutorials show them: a deque of tuples, and priorities beside it."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = tuple[NDArray[Any], ...]


class DequeBuffer:
    """Uniform replay. It keeps what it is given, and copies nothing."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.memory: deque[tuple[Any, ...]] = deque(maxlen=capacity)
        self._random = random.Random(seed)

    def push(self, *transition: Any) -> None:
        self.memory.append(transition)

    def sample(self, size: int) -> Columns:
        return _columns(self._random.sample(self.memory, size))


class PrioritizedDequeBuffer:
    """Proportional prioritized replay without a tree: all probabilities are computed again for every batch."""

    def __init__(self, capacity: int, alpha: float, epsilon: float, seed: int = 0) -> None:
        self.memory: deque[tuple[Any, ...]] = deque(maxlen=capacity)
        self.priorities: deque[float] = deque(maxlen=capacity)
        self._alpha = alpha
        self._epsilon = epsilon
        self._random = random.Random(seed)

    def push(self, *transition: Any) -> None:
        self.priorities.append(max(self.priorities, default=1.0))
        self.memory.append(transition)

    def sample(self, size: int, beta: float) -> tuple[Columns, list[int], NDArray[np.float64]]:
        scaled = np.array(self.priorities) ** self._alpha
        probabilities = scaled / scaled.sum()
        indices = self._random.choices(range(len(self.memory)), weights=probabilities, k=size)
        weights = (len(self.memory) * probabilities[indices]) ** -beta
        return _columns([self.memory[index] for index in indices]), indices, weights / weights.max()

    def update_priorities(self, indices: list[int], td_errors: NDArray[np.float32]) -> None:
        for index, error in zip(indices, td_errors, strict=True):
            self.priorities[index] = abs(float(error)) + self._epsilon


def _columns(transitions: list[tuple[Any, ...]]) -> Columns:
    return tuple(np.array(values) for values in zip(*transitions, strict=True))
