"""Fixtures of the driver's tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from rftfm_ray.config import GuardConfig
from rftfm_ray.driver.guard import LiveGuard
from rftfm_ray.types import GuardMode
from tests.unit.driver.guarded import LONG_S, Begin, Far, Loop


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start a guard in `act`, with other settings where they are given; ends its thread afterwards."""
    begun: list[Loop] = []

    def make(**how: Any) -> Loop:
        far = Far()
        far.gate.set()
        lost: list[tuple[str, str]] = []
        told: list[tuple[int, str]] = []
        config = GuardConfig(**{"mode": GuardMode.ACT, "verdict_timeout_s": LONG_S, **how})
        guard = LiveGuard(
            config, cast("Any", far),
            lambda why: lost.append((why, threading.current_thread().name)),
            lambda each: told.append((each.seq, threading.current_thread().name)),
        )  # fmt: skip
        begun.append(loop := Loop(guard, far, lost, told))
        return loop

    yield make
    for loop in begun:
        loop.far.gate.set()
        loop.guard._queue.put(None, timeout=LONG_S)
        loop.guard._thread.join(LONG_S)
        assert not loop.guard._thread.is_alive()
