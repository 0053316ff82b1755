"""What all tests share: hypothesis without chance, and how long is long."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where Ray leaves its files; ends the Ray that is left when all tests are done."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def ray_session(ray_home: None) -> None:
    """One Ray on this machine for all tests of a worker that need one: its start takes seconds.

    Started again where a test has ended it: commands and examples do that in their own process.
    """
    import ray

    if not ray.is_initialized():
        ray.init(
            num_cpus=4,
            object_store_memory=200_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
