"""When checkpoints are written, and which of them is the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from rftfm_ray.config import CheckpointConfig
from rftfm_ray.driver.checkpointing import CheckpointWriter, due
from rftfm_ray.types import ProbeResult, StepId, TrainingCursor


@dataclass
class Stage:
    """A session and the records of a run: checkpoints by step, with whether each was marked as the best."""

    position: TrainingCursor
    saved: list[tuple[int, bool]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def save(self, *, is_best: bool) -> str:
        """A checkpoint."""
        self.saved.append((self.position.id.step, is_best))
        return f"/run/checkpoints/step-{self.position.id.step:06d}"

    def event(self, kind: str, step: StepId, **fields: Any) -> None:
        """A line of the records."""
        self.events.append({"kind": kind, "step": step.step, **fields})


def at(step: int, attempt: int = 0) -> TrainingCursor:
    """The cursor after a step."""
    return TrainingCursor(StepId(attempt, step, step), step, step)


def probe(accuracy: float) -> ProbeResult:
    """A result of the held-out probe."""
    return ProbeResult(1, 1, accuracy, 256, math.nan, 0, 0.1)


def make(**config: Any) -> tuple[Stage, CheckpointWriter]:
    """A writer on a stage."""
    stage = Stage(at(0))
    parts = cast("Any", stage)
    return stage, CheckpointWriter(CheckpointConfig(**config), parts, parts)


def played(accuracies: list[float], **config: Any) -> list[tuple[int, bool]]:
    """The checkpoints of a run with one result of the probe before each of them."""
    stage, writer = make(every=1, **config)
    for step, accuracy in enumerate(accuracies, start=1):
        stage.position = at(step)
        writer.probed(probe(accuracy))
        writer.after_step(last=False)
    return stage.saved


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.2, 0.6, 0.4, 0.5], [1, 2]),
        ([0.2, 0.6, 0.6, 0.5], [1, 2, 3]),
        ([math.nan, 0.1, math.nan, 0.0], [2]),
        ([math.nan, math.nan], []),
    ],
    ids=["falls", "of equal ones the newest", "unknown is not better", "nothing known"],
)
def test_best_is_the_one_with_the_highest_held_out_accuracy(accuracies: list[float], best: list[int]) -> None:
    assert [step for step, is_best in played(accuracies) if is_best] == best
    assert not [step for step, is_best in played(accuracies, best=False) if is_best]


def test_result_of_a_probe_counts_for_one_checkpoint() -> None:
    stage, writer = make(every=5)
    stage.position = at(5)
    writer.probed(probe(0.9))
    writer.after_step(last=False)
    stage.position = at(8)
    writer.write()
    assert stage.saved == [(5, True), (8, False)], "nobody has asked the weights of a signal three steps later"
    assert math.isnan(stage.events[-1]["accuracy"])


def test_state_that_a_rollback_restores_is_written_where_a_later_one_was() -> None:
    stage, writer = make(every=5)
    stage.position = at(10)
    writer.probed(probe(0.9))
    writer.after_step(last=False)
    stage.position = at(8, attempt=1)
    writer.probed(probe(0.1))
    writer.restart()
    assert stage.saved == [(10, True), (8, False)], "a run that ends now goes on from here"
    stage.position = at(10, attempt=1)
    writer.after_step(last=False)
    stage.position = at(12, attempt=1)
    stage.position = at(11, attempt=2)
    writer.restart()
    assert [step for step, _ in stage.saved] == [10, 8, 10], "the newest checkpoint is no later one"


def test_accuracy_of_an_abandoned_attempt_does_not_count() -> None:
    stage, writer = make(every=1)
    stage.position = at(1)
    writer.probed(probe(0.9))
    writer.restart()
    writer.after_step(last=False)
    stage.position = at(2, attempt=1)
    writer.probed(probe(0.3))
    writer.after_step(last=False)
    assert stage.saved == [(1, False), (2, True)]


def test_checkpoints_are_written_at_the_cadence_and_at_the_end() -> None:
    for config, expected in (
        ({"every": 2}, [2, 4, 5]),
        ({"every": 2, "at_end": False}, [2, 4]),
        ({"every": 0}, [5]),
        ({"every": 0, "at_end": False}, []),
    ):
        stage, writer = make(**config)
        for step in range(1, 6):
            stage.position = at(step)
            writer.after_step(last=step == 5)
        assert [step for step, _ in stage.saved] == expected, config


def test_a_position_has_one_checkpoint() -> None:
    stage, writer = make(every=5)
    stage.position = at(5)
    writer.after_step(last=False)
    assert writer.write() == "/run/checkpoints/step-000005", "a signal just after it"
    assert stage.saved == [(5, False)]
    stage.position = at(5, attempt=1)
    writer.write()
    assert stage.saved == [(5, False), (5, False)], "the same step of another attempt is another state"
    assert [event["path"] for event in stage.events] == ["step-000005"] * 2


def test_cadence_of_zero_is_never_due() -> None:
    assert [step for step in range(1, 7) if due(step, 3)] == [3, 6]
    assert not any(due(step, 0) for step in range(7))
