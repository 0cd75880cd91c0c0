"""One Ray for all integration tests of a session, in this process; one set of actors, and one directory of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rftfm_ray.actors.warm import WarmActors


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray with eight logical CPUs; `train` uses it instead of starting its own."""
    # As in `rftfm_ray.driver.cluster.connect`.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", namespace="tests")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs of the session leave their records."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def warm(cluster: None) -> Iterator[WarmActors]:
    """Actors that runs share, one run after the other: starting some takes ten times as long as a short run.

    A run on them is, bit for bit, the run that new ones make (`test_warm`, `test_run`).
    """
    with WarmActors() as actors:
        yield actors
