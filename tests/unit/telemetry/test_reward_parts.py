"""Parts of a reward: their means in a step, and the rows that keep them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.metrics import RewardPart
from rftfm_ray.runs.reader import _reward_parts
from rftfm_ray.telemetry.features import part_figures
from rftfm_ray.telemetry.parts import BackgroundWriter
from rftfm_ray.telemetry.recorder import StepRecorder, read_reward_parts
from rftfm_ray.types import StepId
from tests.unit.doubles import step_row

MakeBatch = Callable[..., TrajectoryBatch]


@pytest.fixture
def writer() -> Iterator[BackgroundWriter]:
    """A thread that writes."""
    made = BackgroundWriter()
    yield made
    made.close()


def test_parts_of_the_reward_are_means_over_the_valid_rows_that_they_apply_to(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0, 2.0, 3.0, 4.0], valid=[True, True, True, False])
    parts = np.array([[1, np.nan], [0, 4], [0.5, 2], [9, 9]], np.float32)
    right, short = part_figures(dataclasses.replace(batch, reward_parts=parts), ("right", "short"))
    assert (right.name, right.mean, right.share) == ("right", 0.5, 1.0)
    assert (short.name, short.mean) == ("short", 3.0)
    assert short.share == pytest.approx(2 / 3)
    assert part_figures(batch, ()) == ()


def test_a_part_that_applies_to_nothing_has_no_mean(make_batch: MakeBatch) -> None:
    batch = make_batch([1.0], valid=[True])
    (none,) = part_figures(dataclasses.replace(batch, reward_parts=np.full((1, 1), np.nan, np.float32)), ("none",))
    assert (math.isnan(none.mean), none.share) == (True, 0.0)
    masked = make_batch([1.0], valid=[False])
    (none,) = part_figures(dataclasses.replace(masked, reward_parts=np.ones((1, 1), np.float32)), ("none",))
    assert (math.isnan(none.mean), math.isnan(none.share)) == (True, True)


def test_parts_of_rewards_have_rows_of_their_own(tmp_path: Path, writer: BackgroundWriter) -> None:
    recorder = StepRecorder(tmp_path, 2, writer)
    for paid_step in (5, 6, 7):
        parts = (RewardPart("right", paid_step / 10, 1.0), RewardPart("short", math.nan, 0.0))
        recorder.add(dataclasses.replace(step_row(paid_step), parts=parts))
    recorder.close()
    writer.wait()
    rows = read_reward_parts(tmp_path).to_pylist()
    assert [(row["paid_step"], row["part"], row["share"]) for row in rows] == [
        (step, name, share) for step in (5, 6, 7) for name, share in (("right", 1.0), ("short", 0.0))
    ]
    assert [row["mean"] for row in rows[::2]] == [0.5, 0.6, 0.7]
    columns = _reward_parts(tmp_path, [StepId(0, step, step) for step in (4, 5, 6, 7)])
    np.testing.assert_equal(columns["part/right"], (math.nan, 0.5, 0.6, 0.7))
    assert sorted(columns) == ["part/right", "part/short"]


def test_a_reward_without_parts_has_no_such_folder(tmp_path: Path, writer: BackgroundWriter) -> None:
    recorder = StepRecorder(tmp_path, 1, writer)
    recorder.add(step_row(5))
    writer.wait()
    assert [folder.name for folder in tmp_path.iterdir()] == ["steps"]
    assert len(read_reward_parts(tmp_path)) == 0
