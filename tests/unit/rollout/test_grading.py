"""Verifiers that fail: answers are masked, neither right nor wrong, and one line says so."""

from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np
import pytest

from rftfm_ray.errors import RewardError
from rftfm_ray.rollout.channels import EpisodeId
from rftfm_ray.rollout.environment import Channels, trusted_channels
from rftfm_ray.rollout.grading import Answered, grade_all
from rftfm_ray.tasks.addition import Addition, problem
from rftfm_ray.tasks.api import Problem, Transcript, Verdict
from rftfm_ray.tasks.rewards import verify
from rftfm_ray.tasks.workers import WorkerPools
from rftfm_ray.types import StepId

SUM = problem(17, 58)
GATE = threading.Event()


class Judge(Addition):
    """A verifier that does what the answer says."""

    name: ClassVar[str] = "judge"

    def verify(self, problem: Problem, transcript: Transcript) -> Verdict:
        match transcript.turns[-1]:
            case "raise":
                raise ConnectionError("refused")
            case "hang":
                GATE.wait()
            case "exit":
                raise SystemExit(1)
            case "none":
                return None  # type: ignore[return-value]
            case "nan":
                return Verdict(float("nan"), correct=True)
            case "text":
                return Verdict("1", correct=True)  # type: ignore[arg-type]
            case "maybe":
                return Verdict(1.0, correct="yes")  # type: ignore[arg-type]
            case "large":
                return Verdict(10**400, correct=True)
            case "numpy":
                return Verdict(np.float32(0.5), correct=np.True_)  # type: ignore[arg-type]
        return super().verify(problem, transcript)


def answered(text: str, step: int = 3) -> Answered:
    """An answer to the sum."""
    return Answered(EpisodeId(StepId(0, step, step), SUM.key, 0), SUM, Transcript((text,)))


def judged(texts: list[str], channels: Channels, step: int = 3) -> list[float | None]:
    """Rewards of answers; None where they are masked."""
    grades = grade_all(channels, Judge(), StepId(0, step, step), [answered(text, step) for text in texts])
    return [None if grade is None else grade.reward for grade in grades]


@pytest.mark.parametrize("failure", ["raise", "exit", "none", "nan", "text", "maybe", "large"])
def test_failing_verdict_masks_its_answer_and_no_other(failure: str) -> None:
    assert judged(["75", failure, "76"], trusted_channels(Judge())) == [1.0, None, 0.0]
    with pytest.raises(RewardError, match="The verifier of task judge"):
        verify(Judge(), SUM, Transcript((failure,)))


def test_verdict_that_never_comes_masks_its_answer() -> None:
    base = trusted_channels(Judge())
    channels = Channels(base.tools, base.grader, workers=WorkerPools(1, 0.05))
    try:
        assert judged(["75", "hang", "76"], channels) == [1, None, 0]
    finally:
        GATE.set()
    assert channels.failures.reason(StepId(0, 3, 3)) == (
        "gave no verdict within 0.05 s; let it end by itself, or raise verifier.timeout_s"
    )


def test_numbers_of_numpy_are_numbers() -> None:
    verdict = verify(Judge(), SUM, Transcript(("numpy",)))
    assert (verdict, type(verdict.reward), type(verdict.correct)) == (Verdict(0.5, correct=True), float, bool)


def test_reason_of_the_newest_step_is_kept_for_the_driver() -> None:
    training = trusted_channels(Judge())
    probes = trusted_channels(Judge(), training)
    third, fourth = StepId(0, 3, 3), StepId(0, 4, 4)
    assert training.failures.reason(third) == ""
    judged(["75", "none", "raise"], training)
    judged(["raise"], training)
    judged(["raise"], probes, step=2)
    assert training.failures.reason(third).startswith("returned None; it must return a Verdict")
    judged(["raise"], training, step=4)
    assert training.failures.reason(fourth) == "ConnectionError: refused"
    assert training.failures.reason(third) == "", "only the newest step is asked for"
