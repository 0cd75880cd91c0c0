"""Verifiers that fail: answers are masked, neither right nor wrong, and one line says so."""

from __future__ import annotations

import logging
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


def test_verdict_that_never_comes_masks_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    base = trusted_channels(Judge())
    try:
        assert judged(["75", "hang", "76"], Channels(base.tools, base.grader, workers=WorkerPools(1, 0.05))) == [
            1,
            None,
            0,
        ]
    finally:
        GATE.set()
    assert "gave no verdict within 0.05 s" in caplog.text
    assert "verifier.timeout_s" in caplog.text


def test_numbers_of_numpy_are_numbers() -> None:
    verdict = verify(Judge(), SUM, Transcript(("numpy",)))
    assert (verdict, type(verdict.reward), type(verdict.correct)) == (Verdict(0.5, correct=True), float, bool)


def test_one_line_a_step_says_how_many_have_failed(caplog: pytest.LogCaptureFixture) -> None:
    training = trusted_channels(Judge())
    probes = trusted_channels(Judge(), training)
    with caplog.at_level(logging.WARNING):
        judged(["raise"] * 100 + ["75"] * 28, training)
        judged(["raise"] * 100, training)
        judged(["raise"] * 64, probes, step=2)
        judged(["raise"], training, step=4)
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("Step 3: the verifier of task judge failed on 100 of 128 answers")
    assert first.endswith("ConnectionError: refused; it must return a Verdict for every transcript.")
    assert second.startswith("Step 4: the verifier of task judge failed on 1 of 1 answers")
