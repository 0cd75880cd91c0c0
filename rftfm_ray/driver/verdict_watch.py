"""Ends a run whose verifier fails on everything: without a verdict nothing can be learnt."""

from __future__ import annotations

import logging

import numpy as np

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import VerifierError
from rftfm_ray.types import Termination

logger = logging.getLogger(__name__)


class VerdictWatch:
    """Says in which steps the verifier failed, and counts those in a row in which no verdict could be had.

    Args:
        task: name of the task, for the message.
        limit: such steps after which the run stops.
    """

    def __init__(self, task: str, limit: int) -> None:
        self._task = task
        self._limit = limit
        self._failing = 0

    def check(self, batch: TrajectoryBatch, session: Session) -> None:
        """Look at the trajectories of a step that has ended; one without anything to grade does not count.

        Raises:
            VerifierError: when the limit is reached; a checkpoint has been written.
        """
        asked, graded = batch.termination != Termination.FAILED, batch.valid | batch.masked
        if not np.any(asked):
            return
        failed = int(np.count_nonzero(asked & ~graded))
        if failed:
            step = session.position.id
            why = session.verifier_error(step) or "no reason is known"
            logger.warning(
                "step %d: the verifier failed on %d of %d answers (%s)", step.step, failed, np.count_nonzero(asked), why
            )
        self._failing = 0 if graded.any() else self._failing + 1
        if self._failing < self._limit:
            return
        checkpoint = session.save()
        raise VerifierError(
            f"The verifier of task {self._task} has failed on every answer for {self._failing} steps in a row, so "
            "nothing can be learnt; make it work before the run goes on.",
            checkpoint,
        )
