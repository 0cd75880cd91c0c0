"""The one latch that makes alarms of scores: raised, open, recovered. Pure; numpy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.base import Reading
from rftfm_ray.detection.reference.views import Floats
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.cusum import RECOVERED

Mask = NDArray[np.bool_]


class Latch(Stateful):
    """Alarms of K outputs. An alarm is raised at a score of 1, and is over when the score has fallen to `RECOVERED`.

    A score that is NaN says nothing: what stood stands, with the reading of the step that was scored last.

    Args:
        outputs: K.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_open": Kind.ARRAY, "_readings": Kind.ARRAY}

    def __init__(self, outputs: int) -> None:
        self._open = np.zeros(outputs, bool)
        # Of each output: step, value, reference, score and onset, as they were scored last while its alarm stood.
        self._readings = np.full((outputs, 5), np.nan)

    def add(self, score: Floats) -> Mask:
        """Whether each alarm stands after each step, (N, K), by scores (N, K)."""
        found = np.repeat(self._open[None], len(score), axis=0)
        with np.errstate(invalid="ignore"):
            raised, over = score >= 1.0, score <= RECOVERED
        for column in np.flatnonzero(raised.any(0) | self._open).tolist():
            # The state after a step is that of the newest step that raised or ended the alarm.
            decided = np.where(raised[:, column], 1, np.where(over[:, column], 0, -1))
            newest = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(score)), -1))
            found[:, column] = np.where(newest >= 0, decided[newest] == 1, self._open[column])
        if len(score):
            self._open = found[-1].copy()
        return found

    def reading(self, output: int, now: Reading) -> Reading:
        """The reading of an alarm that stands: `now`, or the last one that was scored where `now` was not."""
        if not np.isnan(now.score):
            self._readings[output] = now.step, now.value, now.reference, now.score, now.onset
            return now
        step, value, reference, score, onset = self._readings[output].tolist()
        return Reading(int(step), value, reference, score, int(onset)) if step == step else now

    def close(self, outputs: Collection[int]) -> None:
        """These outputs begin anew."""
        self._open[list(outputs)] = False
