"""Shares of counted events against a share that is known beforehand. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.statistics.cusum import Cusum, bernoulli_ratio
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

# Trajectories of one prompt fail together; half of the calls count (a Rao-Scott design effect of 2).
CLUSTERED = 2.0


class RateDetector(Detector):
    """A share of counted events that should be near `usual`: a binomial CUSUM against `faulty`."""

    def __init__(
        self, signal: str, count: str, evidence: Evidence, usual: float, faulty: float, threshold: float,
        clustered: float = CLUSTERED, companion: str | None = None, *, alarm: bool = True,
    ) -> None:  # fmt: skip
        self.name = f"rate:{signal}"
        self._signal = signal
        self._count = count
        self._evidence = evidence
        self._usual = usual
        self._faulty = faulty
        self._clustered = clustered
        self._companion = companion
        self._alarm = alarm
        self._cusum = Cusum(threshold)

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        rate, count = value(report, self._signal), value(report, self._count)
        # Without an event nothing was learnt; the sum stays as it is.
        if count > 0 and math.isfinite(rate):
            self._cusum.add(bernoulli_ratio(rate, count / self._clustered, self._usual, self._faulty), report.id.step)
        if not self._cusum.alarm:
            return ()
        reason = f"{self._signal} is {rate:.3g} of {count:g}, where {self._usual:g} is usual"
        symptoms = [self._symptom(self._signal, 1, rate, self._usual, alarm=self._alarm, reason=reason)]
        beside = value(report, self._companion) if self._companion else math.nan
        if self._companion and beside != 0 and math.isfinite(beside):
            reason = f"{self._companion} is {beside:+.3g}"
            direction = 1 if beside > 0 else -1
            symptoms.append(self._symptom(self._companion, direction, beside, 0.0, alarm=False, reason=reason))
        return symptoms

    def _symptom(self, signal: str, direction: int, found: float, usual: float, *, alarm: bool, reason: str) -> Symptom:
        onset = self._cusum.onset
        return Symptom(
            self.name, signal, self._evidence, alarm, direction, found, usual, self._cusum.sum, onset, onset, reason
        )

    def forget(self, signals: Sequence[str], step: int) -> None:
        """Rates are judged against a fixed share, which no declared change moves."""
        del signals, step

    def settle(self, signals: Sequence[str]) -> None:
        if self._signal in signals:
            self._cusum.clear()
