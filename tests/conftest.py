"""What all tests share: hypothesis without chance, and how long is long."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from scale import LONG

# Derandomized and without a database: the same examples in every run, on every machine.
settings.register_profile(
    "replaybank",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=600 if LONG else 60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("replaybank")


@pytest.fixture(scope="session")
def effort() -> int:
    """By how much a test marked `slow` multiplies its work: 1, or 10 with REPLAYBANK_LONG=1."""
    return 10 if LONG else 1
