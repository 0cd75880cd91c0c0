"""The latch that turns scores into alarms: raised, open, recovered. Pure; numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.detectors.base import Reading
from rftfm_ray.detection.reference.views import Floats
from rftfm_ray.detection.state import State
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.errors import StateError

Mask = NDArray[np.bool_]
_STEP, _ONSET = 0, 4


class Latch(Stateful):
    """Alarms of K outputs. An alarm is raised at a score of 1, and ends when the score falls to `RECOVERED`.

    A score of NaN changes nothing: an open alarm stays open, with the reading of the last step that was scored.

    Args:
        outputs: K.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_open": Kind.ARRAY, "_readings": Kind.ANY_ARRAY}

    def __init__(self, outputs: int) -> None:
        self._open = np.zeros(outputs, bool)
        # Of each output: step, value, reference, score and onset of its last scored step while its alarm was open.
        self._readings = np.full((outputs, 5), np.nan)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, score: Floats) -> Mask:
        """Whether each alarm is open after each step, (N, K), by scores (N, K)."""
        is_open = np.repeat(self._open[None], len(score), axis=0)
        with np.errstate(invalid="ignore"):
            raised, over = score >= 1.0, score <= RECOVERED
        for column in np.flatnonzero(raised.any(0) | self._open).tolist():
            # The newest step that raised or ended the alarm decides the state.
            decided = np.where(raised[:, column], 1, np.where(over[:, column], 0, -1))
            newest = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(score)), -1))
            is_open[:, column] = np.where(newest >= 0, decided[newest] == 1, self._open[column])
        if len(score):
            self._open = is_open[-1].copy()
        return is_open

    def reading(self, output: int, now: Reading) -> Reading:
        """The reading of an open alarm: `now`, or the last scored one where `now` has no score."""
        if not np.isnan(now.score):
            self._readings[output] = now.step, now.value, now.reference, now.score, now.onset
            return now
        step, value, reference, score, onset = self._readings[output].tolist()
        return now if np.isnan(step) else Reading(int(step), value, reference, score, int(onset))

    def close(self, outputs: Iterable[int]) -> None:
        """Close the alarms of these outputs."""
        self._open[list(outputs)] = False

    def load_state_dict(self, state: State) -> None:
        """Continue from a state.

        Raises:
            StateError: when it has other outputs, or readings of steps that are not numbers.
        """
        super().load_state_dict(state)
        if np.isinf(self._readings[:, [_STEP, _ONSET]]).any():
            raise StateError("Latch.readings of the saved state has steps that are not finite.")
