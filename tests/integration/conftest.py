"""One Ray for all integration tests of a session, in this process, with a directory of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray


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
