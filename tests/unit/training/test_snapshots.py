"""The snapshot ring: what it holds, what goes first, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from rftfm_ray.errors import LearnerError
from rftfm_ray.training.snapshots import Snapshot, SnapshotRing
from rftfm_ray.types import Levers, StepId

PLENTY = 1 << 20


def _snapshot(step: int, *, floats: int = 4, attempt: int = 0) -> Snapshot:
    return Snapshot(
        id=StepId(attempt, step, step),
        model_version=step,
        cursor=16 * step,
        tensors={"master.0": torch.zeros(floats), "rng.torch": torch.zeros(8, dtype=torch.uint8)},
        grad_norms=(1.0,),
        levers=Levers(),
    )


def _ring(*steps: int, keep: int = 3, max_bytes: int = PLENTY) -> SnapshotRing:
    ring = SnapshotRing(keep, max_bytes)
    for step in steps:
        ring.add(_snapshot(step))
    return ring


def test_size_is_the_memory_of_the_tensors() -> None:
    assert _snapshot(0, floats=10).nbytes() == 10 * 4 + 8


def test_newest_are_kept() -> None:
    assert _ring(0, 5, 10, 15, keep=3).steps() == (5, 10, 15)


def test_oldest_go_when_memory_is_short() -> None:
    ring = _ring(0, 5, 10, keep=9, max_bytes=72)
    assert ring.steps() == (0, 5, 10)
    ring.add(_snapshot(15, floats=10))
    assert ring.steps() == (10, 15)


def test_get_returns_what_was_added() -> None:
    ring, added = _ring(5), _snapshot(10)
    ring.add(added)
    assert ring.get(10) is added


def test_same_step_is_replaced() -> None:
    ring = _ring(5, 10, keep=2)
    ring.add(_snapshot(10, attempt=1))
    assert ring.steps() == (5, 10)
    assert ring.get(10).id.attempt == 1


def test_replaced_step_counts_as_the_newest() -> None:
    ring = _ring(5, 10, keep=2)
    ring.add(_snapshot(5, attempt=1))
    ring.add(_snapshot(15, attempt=1))
    assert ring.steps() == (5, 15)


def test_missing_step_names_those_held() -> None:
    with pytest.raises(LearnerError, match=r"no snapshot of step 7; the ring holds steps \[5, 10\]"):
        _ring(5, 10).get(7)


def test_drop_after_forgets_the_later_steps_only() -> None:
    ring = _ring(5, 10, 15)
    ring.drop_after(10)
    assert ring.steps() == (5, 10)


def test_snapshot_larger_than_the_ring_is_refused_and_nothing_lost() -> None:
    ring = _ring(5, 10, max_bytes=48)
    before = ring.get(10)
    with pytest.raises(LearnerError, match=r"takes 52 bytes, more than snapshots\.max_bytes=48"):
        ring.add(_snapshot(10, floats=11))
    assert ring.steps() == (5, 10)
    assert ring.get(10) is before


def test_snapshot_as_large_as_the_ring_is_kept_alone() -> None:
    ring = _ring(5, max_bytes=48)
    ring.add(_snapshot(10, floats=10))
    assert ring.steps() == (10,)
