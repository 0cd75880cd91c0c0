"""Held-out accuracy against the best of the run. Pure; numpy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import ClassVar

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores, measured
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.signals.held_out import probe_drop
from rftfm_ray.verdicts import Evidence


class ProbeDetector(Detector):
    """Held-out accuracy against the best of the lineage: two binomial shares of the same problems.

    Args:
        size: problems of a probe.
    """

    name = "probe"
    outputs = (Output("probe_accuracy", -1, Evidence.CHANNEL),)
    SIGMAS = 4.0
    STATE: ClassVar[Mapping[str, Kind]] = {"_best": Kind.FLOAT, "_best_step": Kind.INT}

    def __init__(self, size: int) -> None:
        self._size = size
        self._best, self._best_step = -1.0, 0

    def observe(self, view: StepView) -> Scores:
        """Standard errors below the best, in units of the threshold; NaN between probes."""
        scores, accuracies = Scores.quiet(view, 1), view.value("probe_accuracy")
        scores.score[:] = math.nan
        for row in measured(accuracies).tolist():
            accuracy = float(accuracies[row])
            drop = probe_drop(self._best, accuracy, self._size) if self._best >= 0 else 0.0
            over = max(0.0, drop / self.SIGMAS)
            # An alarm ends with the next probe that is not far below: there is no evidence between probes.
            scores.score[row, 0] = over if over > 1 else 0.0
            scores.onset[row, 0], scores.reference[row, 0] = self._best_step + 1, self._best
            if over <= 1 and accuracy >= self._best:
                self._best, self._best_step = accuracy, int(view.steps[row])
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """Gives the best accuracy, and the step after which it was measured: the one before its report's."""
        del output
        after = max(0, reading.onset - 2)
        return f"held-out accuracy is {reading.value:.3f}, and was {reading.reference:.3f} after step {after}"

    def earliest(self, onset: int) -> int:
        """A probe measures the weights from before its step."""
        return onset - 1

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Clear the best accuracy."""
        del step
        if "probe_accuracy" not in signals:
            return ()
        self._best = -1.0
        return (0,)
