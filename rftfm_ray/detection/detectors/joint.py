"""The detector that watches how signals go together, live: against a profile that knows it, or against the run's own
past by the shipped priors. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from rftfm_ray.detection.detectors.base import Detector
from rftfm_ray.detection.reference.correlation import Together, restored
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.reference.residuals import COLUMNS, Residuals, Usual, levels_of
from rftfm_ray.detection.statistics.cusum import RECOVERED
from rftfm_ray.detection.statistics.matched_filters import Direction, Sort
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Evidence, StepReport, Symptom

# Evidence over its level at which an alarm is raised: levels of a profile come from few runs, those of the priors from
# many. A long run must stay as silent as a short one, so the limit grows with the logarithm of time.
LIMIT, LIMIT_ALONE = 2.0, 1.1
GROWTH, FIRST = 0.2, 60
# Steps in a row in which the evidence that stands must fall for an alarm to be over: until it is gone takes far longer.
BACK = 5


class DepartureDetector(Detector):
    """Raised when a signal, or what the others leave of it, departs from healthy runs; over when all of it is back.

    While an alarm stands its one symptom names the direction that has most evidence.

    Args:
        together: what healthy runs have shown.
        profile: what is usual; None to hold a run against its own past.
    """

    name = "departure"

    def __init__(self, together: Together, profile: Profile | None = None) -> None:
        self._together, self._alone = together, profile is None
        self._residuals, self._sums = Residuals(Usual(profile)), together.sums()
        self._zero = np.zeros(len(together.levels), np.int64)
        self._raised, self._falling, self._steps = False, 0, 0

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """Against a profile with `together`."""
        if profile.together is None:
            raise ValueError("the profile does not know how signals go together")
        return cls(restored(profile.together), profile)

    def observe(self, report: StepReport) -> Sequence[Symptom]:
        step = report.id.step
        residuals = self._residuals.add(step, levels_of(report.values))
        before = self._sums.sums
        over = self._sums.add(self._together.adjusted(residuals[None])[0]) / self._together.levels
        self._zero = np.where(over > 0, self._zero, step)
        limit = self._limit()
        standing = over > RECOVERED * limit
        falls = bool(self._sums.sums[standing].sum() < before[standing].sum())
        self._falling = self._falling + 1 if falls else 0
        if self._raised and self._falling >= BACK:
            self._begin_anew()
            return []
        place = int(over.argmax())
        self._raised = self._raised or bool(over[place] >= limit)
        return [self._symptom(report, place, float(residuals[self._column(place)]))] if self._raised else []

    def _limit(self) -> float:
        self._steps += 1
        return (LIMIT_ALONE if self._alone else LIMIT) * growth(self._steps)

    def _begin_anew(self) -> None:
        self._sums.clear()
        self._raised, self._falling = False, 0

    def _column(self, place: int) -> int:
        return COLUMNS.index(self._together.bank.directions[place].name)

    def _symptom(self, report: StepReport, place: int, residual: float) -> Symptom:
        direction = self._together.bank.directions[place]
        # A sum that has just come down to nothing, while others still stand, has no step of its own to name.
        onset = min(int(self._zero[place]) + 1, report.id.step)
        return Symptom(
            self.name, direction.name, Evidence.TELEMETRY, alarm=True, direction=direction.side,
            value=value(report, direction.name), reference=float("nan"), score=float(self._sums.sums[place]),
            onset=onset, onset_low=max(1, onset - 1), reason=_reason(direction, residual, onset, self._alone),
        )  # fmt: skip

    def forget(self, signals: Sequence[str], step: int) -> None:
        del step
        self._residuals.forget(signals)
        self.settle(signals)

    def settle(self, signals: Sequence[str]) -> None:
        if any(name in COLUMNS for name in signals):
            self._begin_anew()


def growth(step: int) -> float:
    """How much more evidence is asked for at a step (from 1) of a run than in its first steps."""
    return 1 + GROWTH * math.log(max(1.0, step / FIRST))


def _reason(direction: Direction, residual: float, onset: int, alone: bool) -> str:
    way = "above" if direction.side > 0 else "below"
    if direction.sort is Sort.RELATION:
        return f"{direction.name} has been {way} what the other signals make one expect since step {onset}"
    usual = "the run's own past" if alone else "healthy runs"
    return f"{direction.name} is {abs(residual):.1f} spreads {way} {usual}, and has been {way} since step {onset}"
