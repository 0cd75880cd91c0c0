"""The size of updates against that of earlier ones. Pure; numpy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.views import Floats, StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.detection.statistics.cusum import Cusum, shift_ratio
from rftfm_ray.verdicts import Evidence

# Shift of the CUSUM, in standard deviations: smaller shifts take longer.
SHIFT = 3.0
# Floor of a denominator.
LEAST = 1e-300


def declared_factors(view: StepView) -> Floats:
    """(N) the declared schedule factor at each step; NaN where it is 0.

    An update divided by it does not show a declared change of the schedule; it shows one by a lever or a fault.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        declared = view.value("schedule_factor") * np.exp(-view.value("schedule_excess"))
        return np.where(declared > 0, declared, math.nan)


class UpdateSizeDetector(Detector):
    """Updates more than twice as large as any of the last hundred: a CUSUM of the logarithm of the ratio.

    AdamW's updates shrink when gradient signal grows rare and recover when it returns, threefold in a converged run; a
    mean would call that a fault. The maximum is stable, and healthy runs stay near it, because AdamW rarely moves a
    weight by more than the learning rate. The factor is 2 because a run that is resumed after convergence may have only
    small updates to compare with.

    Args:
        threshold: evidence for an alarm, in nats.
        warmup: steps before anything is judged.
    """

    name = "update_size"
    outputs = (Output("update_ratio", 1, Evidence.TELEMETRY),)
    WINDOW = 100
    SPREAD = 0.1
    FACTOR = 2.0
    STATE: ClassVar[Mapping[str, Kind]] = {"_seen": Kind.INT, "_sizes": Kind.FLOATS, "_cusum": Kind.PART}

    def __init__(self, threshold: float, warmup: int) -> None:
        self._threshold = threshold
        self._warmup = warmup
        self._seen = 0
        self._sizes: deque[float] = deque(maxlen=self.WINDOW)
        self._cusum = Cusum(threshold)

    def observe(self, view: StepView) -> Scores:
        """The evidence after each step with an update."""
        scores, declared = Scores.quiet(view, 1), declared_factors(view)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            sizes = view.value("update_ratio") / declared
        scores.score[:] = math.nan
        for row in np.flatnonzero(sizes > 0).tolist():
            size, step = float(sizes[row]), int(view.steps[row])
            self._seen += 1
            largest = max(self._sizes, default=math.nan)
            if len(self._sizes) >= self._warmup:
                # Not capped: one update of this size was made, and one suffices for an alarm.
                beyond = math.log(size) - math.log(largest) - math.log(self.FACTOR)
                self._cusum.add(shift_ratio(beyond / self.SPREAD, SHIFT), step)
            # The first updates are the largest, before the optimizer's moments settle.
            if self._seen > self._warmup and self._cusum.sum < self._threshold / 2 and math.isfinite(size):
                self._sizes.append(size)
            scores.score[row, 0] = self._cusum.sum / self._threshold
            scores.onset[row, 0], scores.reference[row, 0] = self._cusum.onset, largest * float(declared[row])
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the ratio to the largest earlier update."""
        del output
        times = reading.value / max(reading.reference, LEAST)
        return f"updates are {times:.3g} times as large as the largest before step {reading.onset}"

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Clear the largest updates."""
        del step
        if "update_ratio" not in signals:
            return ()
        self._sizes.clear()
        self._seen = 0
        self._cusum.clear()
        return (0,)

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart the evidence."""
        if "update_ratio" not in signals:
            return ()
        self._cusum.clear()
        return (0,)
