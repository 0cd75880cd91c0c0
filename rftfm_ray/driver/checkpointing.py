"""When a run writes its durable checkpoints, and which of them is the best."""

from __future__ import annotations

import math
from pathlib import Path

from rftfm_ray.config import CheckpointConfig
from rftfm_ray.driver.session import Session
from rftfm_ray.telemetry.records import RunRecords
from rftfm_ray.types import ProbeResult, StepId


class CheckpointWriter:
    """Writes a checkpoint where one is due, and marks the one with the best accuracy.

    That is the held-out probe's, or with `by_evaluation` that of an evaluation. A result counts for one checkpoint, the
    next one of its attempt; a checkpoint without a result is never the best. Of equally good ones the newest is.
    """

    def __init__(
        self, config: CheckpointConfig, session: Session, records: RunRecords, *, by_evaluation: bool = False
    ) -> None:
        self._config = config
        self._session = session
        self._records = records
        self._accuracy = self._best = math.nan
        self._by_evaluation = by_evaluation
        self._written: tuple[StepId, str] | None = None

    def probed(self, result: ProbeResult) -> None:
        """Take in a result of the held-out probe, NaN where it could not be computed, unless an evaluation decides."""
        if not self._by_evaluation:
            self._accuracy = result.accuracy

    def evaluated(self, accuracy: float) -> None:
        """Take in the accuracy of the evaluation that decides."""
        self._accuracy = accuracy

    def restart(self) -> None:
        """Leave the attempt that a rollback has abandoned: its newest result does not count for later weights.

        Where it has a checkpoint of a later step, the restored state is written too: a run that ends before the next
        cadence is continued from the newest checkpoint, which must not be the abandoned one.
        """
        self._accuracy = math.nan
        if self._written is not None and self._written[0].step > self._session.position.id.step:
            self.write()

    def after_step(self, *, last: bool) -> None:
        """Write a checkpoint if one is due after the step just made."""
        if due(self._session.position.id.step, self._config.every) or (last and self._config.at_end):
            self.write()

    def write(self) -> str:
        """Write a checkpoint of the run's position, unless there is one; its path once it is complete."""
        position = self._session.position.id
        if self._written is not None and self._written[0] == position:
            return self._written[1]
        is_best = self._config.best and self._accuracy >= (-math.inf if math.isnan(self._best) else self._best)
        path = self._session.save(is_best=is_best)
        if is_best:
            self._best = self._accuracy
        self._written = (position, path)
        self._records.event("checkpoint", position, path=Path(path).name, accuracy=self._accuracy, best=is_best)
        # Weights that are written later are others than those that were asked.
        self._accuracy = math.nan
        return path


def due(step: int, every: int) -> bool:
    """Whether something with cadence `every` (0: never) is due after `step`."""
    return every > 0 and step % every == 0
