"""Tests of joining or starting Ray: what a user reads when there is no cluster."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from rftfm_ray.config import RunConfig
from rftfm_ray.driver.cluster import ADDRESS, connect
from rftfm_ray.errors import PlacementError

SLOW = (
    "The current node timed out during startup. This could happen because some of the raylet failed to startup or the "
    "GCS has become overloaded."
)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        # Ray raises a bare Exception where a node does not start in time.
        (None, Exception(SLOW), r"^Ray did not start within \d+ s; the machine is busy .* full: try again\.$"),
        (None, ValueError("no\nport"), r"^Ray cannot be started on this machine: no port\.$"),
        (None, OSError(), r"^Ray cannot be started on this machine: OSError\.$"),
        (
            "10.0.0.1:1",
            ConnectionError("no token"),
            r"^Cannot reach .* RAY_ADDRESS=10\.0\.0\.1:1: no token \(with token .*=token\)\.$",
        ),
    ],
)
def test_no_cluster_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, address: str | None, error: Exception, message: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv(ADDRESS, raising=False)
    if address is not None:
        monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(PlacementError, match=message):
        connect(RunConfig())
