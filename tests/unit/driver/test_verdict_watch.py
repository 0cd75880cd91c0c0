"""A run whose verifier fails on everything ends; one whose verifier fails now and then goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.driver.session import Session
from rftfm_ray.driver.verdict_watch import VerdictWatch
from rftfm_ray.errors import VerifierError
from rftfm_ray.types import StepId, Termination, TrainingCursor

MakeBatch = Callable[..., TrajectoryBatch]
EOS, FAILED = int(Termination.EOS), int(Termination.FAILED)


class Saving:
    """A session that notes checkpoints."""

    def __init__(self) -> None:
        self.saved = 0

    @property
    def position(self) -> TrainingCursor:
        return TrainingCursor(StepId(0, 3, 3), 3, 0)

    def verifier_error(self, step: StepId) -> str:
        return "RuntimeError: judge is down" if step.step == 3 else ""

    def save(self) -> str:
        self.saved += 1
        return "runs/x/checkpoints/step-3"


def ended(batch: TrajectoryBatch, *terminations: int) -> TrajectoryBatch:
    """The batch with other endings."""
    return dataclasses.replace(batch, termination=np.array(terminations, np.int8))


def test_run_ends_with_a_checkpoint_after_steps_without_a_verdict(make_batch: MakeBatch) -> None:
    watch, session = VerdictWatch("judge", 3), Saving()
    none = ended(make_batch([0.0, 0.0], valid=[False, False]), EOS, EOS)
    some = ended(make_batch([0.0, 1.0], valid=[False, True]), EOS, EOS)
    for batch in (none, none, some, none, none):
        watch.check(batch, cast("Session", session))
    assert session.saved == 0
    with pytest.raises(VerifierError, match=r"task judge has failed on every answer for 3 steps") as caught:
        watch.check(none, cast("Session", session))
    assert (session.saved, caught.value.exit_code) == (1, 1)
    assert caught.value.checkpoint == "runs/x/checkpoints/step-3"


def test_step_in_which_all_tools_failed_says_nothing_of_the_verifier(make_batch: MakeBatch) -> None:
    watch, session = VerdictWatch("judge", 2), Saving()
    tools = ended(make_batch([0.0, 0.0], valid=[False, False]), FAILED, FAILED)
    none = ended(make_batch([0.0, 0.0], valid=[False, False]), EOS, FAILED)
    for batch in (tools, tools, none, tools):
        watch.check(batch, cast("Session", session))
    with pytest.raises(VerifierError):
        watch.check(none, cast("Session", session))


def test_answers_that_a_mask_keeps_out_have_a_verdict(make_batch: MakeBatch, caplog: pytest.LogCaptureFixture) -> None:
    watch, session = VerdictWatch("judge", 1), Saving()
    left_out = make_batch([0.0, 0.0], valid=[False, False], masked=[True, True])
    one_failed = make_batch([0.0, 0.0], valid=[False, False], masked=[True, False])
    watch.check(left_out, cast("Session", session))
    assert caplog.messages == []
    watch.check(one_failed, cast("Session", session))
    assert caplog.messages == ["step 3: the verifier failed on 1 of 2 answers (RuntimeError: judge is down)"]


def test_one_short_line_a_step_says_how_many_have_failed_and_why(
    make_batch: MakeBatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch, session = VerdictWatch("judge", 5), cast("Session", Saving())
    fine = ended(make_batch([0.0, 1.0], valid=[True, True]), EOS, EOS)
    some = ended(make_batch([0.0, 1.0, 0.0], valid=[False, True, False]), EOS, EOS, FAILED)
    for batch in (fine, some):
        watch.check(batch, session)
    assert caplog.messages == ["step 3: the verifier failed on 1 of 2 answers (RuntimeError: judge is down)"]
