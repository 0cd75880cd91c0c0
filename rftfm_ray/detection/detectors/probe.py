"""Held-out accuracy against the best that the run has had. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom


class ProbeDetector(Detector):
    """Held-out accuracy against the best of the lineage: two binomial shares of the same problems."""

    name = "probe"
    SIGMAS = 4.0

    def __init__(self, size: int) -> None:
        self._size = size
        self._best, self._best_step = -1.0, 0
        self._standing: tuple[Symptom, ...] = ()

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        accuracy, step = value(report, "probe_accuracy"), report.id.step
        if math.isnan(accuracy):
            return self._standing
        drop = probe_drop(self._best, accuracy, self._size)
        self._standing = ()
        if self._best >= 0 and drop > self.SIGMAS:
            reason = f"held-out accuracy is {accuracy:.3f}, and was {self._best:.3f} at step {self._best_step}"
            self._standing = (
                Symptom(
                    self.name, "probe_accuracy", Evidence.CHANNEL, alarm=True, direction=-1, value=accuracy,
                    reference=self._best, score=drop**2 / 2, onset=self._best_step + 1, onset_low=self._best_step,
                    reason=reason,
                ),
            )  # fmt: skip
        elif accuracy >= self._best:
            self._best, self._best_step = accuracy, step
        return self._standing

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        if "probe_accuracy" in signals:
            self._best, self._standing = -1.0, ()


def probe_drop(before: float, after: float, size: int) -> float:
    """How many standard errors `after` lies below `before`, both shares of `size` problems; negative for a rise."""
    pooled = (before + after) / 2
    # One problem is the least that a share can be wrong by.
    error = math.sqrt(max(2 * pooled * (1 - pooled) / size, (1 / size) ** 2))
    return (before - after) / error
