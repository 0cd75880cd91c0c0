"""The snapshot ring: what it holds, what goes first, and what it refuses."""

from __future__ import annotations

from pathlib import Path

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


def _values(snapshot: Snapshot) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in snapshot.tensors.items()}


def _filled(step: int) -> Snapshot:
    whole = _snapshot(step)
    whole.tensors["master.0"].fill_(step + 0.5)
    return whole


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_older_ones_go_to_files_where_memory_is_short_and_come_back_whole(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    ring = SnapshotRing(3, 48, folder)
    for step in (5, 10, 15, 20):
        ring.add(_filled(step))
    assert ring.steps() == (10, 15, 20)
    assert _files(folder) == ["step-000010.safetensors"], "two of 24 bytes stay in memory, and the oldest is gone"
    for step in ring.steps():
        assert _values(ring.get(step)) == _values(_filled(step))
        assert ring.get(step).levers == Levers()
    ring.drop_after(5)
    assert (ring.steps(), _files(folder)) == ((), [])


def test_one_that_is_larger_than_memory_goes_to_a_file_at_once(tmp_path: Path) -> None:
    ring = SnapshotRing(2, 1, tmp_path / "snapshots")
    ring.add(_filled(5))
    ring.add(_filled(5))
    assert (ring.steps(), _files(tmp_path / "snapshots")) == ((5,), ["step-000005.safetensors"])
    assert _values(ring.get(5)) == _values(_filled(5))
    ring.close()
    assert (ring.steps(), (tmp_path / "snapshots").exists()) == ((), False)


def test_disk_without_room_costs_a_snapshot_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "snapshots").write_text("a file where the folder should be")
    ring = SnapshotRing(3, 24, tmp_path / "snapshots")
    ring.add(_filled(5))
    ring.add(_filled(10))
    assert ring.steps() == (10,)
    assert "The snapshot of step 5 cannot be written" in caplog.text
    assert "make room" in caplog.text


def test_file_that_is_gone_is_named(tmp_path: Path) -> None:
    ring = SnapshotRing(1, 1, tmp_path / "snapshots")
    ring.add(_filled(5))
    (tmp_path / "snapshots" / "step-000005.safetensors").write_bytes(b"no")
    with pytest.raises(LearnerError, match=r"The snapshot .*step-000005\.safetensors cannot be read"):
        ring.get(5)
