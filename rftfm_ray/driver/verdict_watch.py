"""Ends a run whose verifier fails on everything: without a verdict nothing can be learnt."""

from __future__ import annotations

import numpy as np

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.driver.session import Session
from rftfm_ray.errors import VerifierError
from rftfm_ray.types import Termination


class VerdictWatch:
    """Counts steps in a row in which no verdict could be had.

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
        if not np.any(batch.termination != Termination.FAILED):
            return
        self._failing = 0 if batch.valid.any() else self._failing + 1
        if self._failing < self._limit:
            return
        checkpoint = session.save()
        raise VerifierError(
            f"The verifier of task {self._task} has failed on every answer for {self._failing} steps in a row, so "
            "nothing can be learnt; make it work before the run goes on.",
            checkpoint,
        )
