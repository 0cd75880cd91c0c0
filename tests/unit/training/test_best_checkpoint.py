"""The best checkpoint of a run: how it is marked, and that it stays; and the configuration that a checkpoint holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.errors import CheckpointError
from rftfm_ray.training import checkpoints
from rftfm_ray.training.checkpoints import (
    Checkpoint,
    TrainerState,
    best,
    commit,
    mark_best,
    prune,
    read_config,
    stage,
    verify,
    write_config,
    write_model,
    write_rank,
)
from rftfm_ray.types import Levers

Make = Callable[..., Checkpoint]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Commits a checkpoint of a step below `tmp_path / "checkpoints"`, with a configuration or without one."""
    origin = tmp_path / "origin"
    origin.mkdir()

    def make(step: int, text: str | None = None) -> Checkpoint:
        staging = stage(tmp_path / "checkpoints", step)
        write_rank(staging, 0, {"weight": np.ones(2, np.float32)})
        write_model(staging, {"weight": np.ones(2, np.float32)}, origin)
        if text is not None:
            write_config(staging, text)
        return commit(staging, TrainerState(0, step, step, step, 16 * step, 1, 2, Levers(), (), ""))

    return make


def test_best_checkpoint_outlives_newer_ones_until_another_is_best(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    mark_best(make(10).path)
    for step in (20, 30, 40):
        make(step)
        prune(folder, 1)
    assert {path.name for path in folder.iterdir()} == {"step-000010", "step-000040", "best"}
    assert best(folder) == folder / "step-000010"
    assert verify(folder / "best").state.step == 10, "the link can be resumed from"
    mark_best(folder / "step-000040")
    prune(folder, 1)
    assert {path.name for path in folder.iterdir()} == {"step-000040", "best"}
    assert best(folder) == folder / "step-000040"


def test_damaged_checkpoint_does_not_become_the_best(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    mark_best(make(10).path)
    (make(20).path / "rank-0.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"step-000020/rank-0\.safetensors has not the size"):
        mark_best(folder / "step-000020")
    assert best(folder) == folder / "step-000010"


def test_crash_while_marking_leaves_the_earlier_best(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    mark_best(make(10).path)
    second = make(20)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "publish", crash)
    with pytest.raises(KeyboardInterrupt):
        mark_best(second.path)
    monkeypatch.undo()
    assert best(folder) == folder / "step-000010"
    mark_best(second.path)
    assert best(folder) == folder / "step-000020"


def test_there_is_no_best_where_none_was_marked_or_it_is_gone(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert best(folder) is None
    path = make(10).path
    assert best(folder) is None
    mark_best(path)
    shutil.rmtree(path)
    assert best(folder) is None


def test_configuration_comes_back_and_is_verified(make: Make) -> None:
    assert read_config(make(10)) is None, "checkpoints of earlier versions have none"
    path = make(20, "seed: 5\n").path
    assert read_config(verify(path)) == "seed: 5\n"
    (path / "config.yaml").write_text("seed: 6\n")
    with pytest.raises(CheckpointError, match=r"config\.yaml has not the size and hash"):
        verify(path)
