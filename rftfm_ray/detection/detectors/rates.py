"""Rates of counted events against a rate that is known beforehand. Pure; numpy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rftfm_ray.detection.detectors.base import Detector, Output, Reading, Scores
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind
from rftfm_ray.detection.statistics.cusum import Cusum, bernoulli_ratio
from rftfm_ray.verdicts import Evidence

# Trajectories of one prompt fail together; half of the calls count (a Rao-Scott design effect of 2).
CLUSTERED = 2.0


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate of events, with its healthy and its faulty value.

    Attributes:
        signal: the share.
        count: signal that counts the events of a step.
        evidence: kind of the evidence.
        usual: the healthy rate.
        faulty: the rate of a fault.
        clustered: events that count as one.
        companion: signal whose sign gives the side on which the events are wrong; empty without one.
    """

    signal: str
    count: str
    evidence: Evidence
    usual: float
    faulty: float
    clustered: float = 1.0
    companion: str = ""


LEARNT_ROWS = 8
"""Steps with events that a learnt rate is taken from."""
UPPER = 2.33
"""Standard errors above the learnt rate that are usual still: a rate of few events is known badly, and one in a hundred
runs begins with fewer than its own."""
FAULTY_FACTOR = 3.0
"""Times the usual rate that a fault of a learnt rate is looked for at."""


class RateDetector(Detector):
    """A binomial CUSUM of the faulty rate against the usual one.

    Args:
        rate: what is counted.
        threshold: evidence for an alarm, in nats.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_cusum": Kind.PART}

    def __init__(self, rate: Rate, threshold: float) -> None:
        self.name = f"rate:{rate.signal}"
        beside = [Output(rate.companion, side, rate.evidence, alarm=False) for side in (1, -1) if rate.companion]
        self.outputs = (Output(rate.signal, 1, rate.evidence), *beside)
        self._rate = rate
        self._threshold = threshold
        self._cusum = Cusum(threshold)

    def observe(self, view: StepView) -> Scores:
        """The evidence after each step; a step without events does not change it."""
        rate, shares, counts = self._rate, view.value(self._rate.signal), view.value(self._rate.count)
        scores = Scores.quiet(view, len(self.outputs))
        scores.score[:] = math.nan
        for row in np.flatnonzero((counts > 0) & np.isfinite(shares)).tolist():
            effective = float(counts[row]) / rate.clustered
            ratio = bernoulli_ratio(float(shares[row]), effective, rate.usual, rate.faulty)
            self._cusum.add(ratio, int(view.steps[row]))
            scores.score[row] = self._cusum.sum / self._threshold
            scores.onset[row] = self._cusum.onset
        if rate.companion:
            beside = view.value(rate.companion)
            for column, side in ((1, 1), (2, -1)):
                scores.score[~(side * beside > 0), column] = 0.0
        scores.reference[:, 0], scores.reference[:, 1:] = rate.usual, 0.0
        return scores

    def reason(self, output: int, reading: Reading) -> str:
        """The rate and its usual value, or the companion with its side."""
        if output:
            return f"{self._rate.companion} is {reading.value:+.3g}"
        return f"{self._rate.signal} is {reading.value:.3g}, where {reading.reference:.3g} is usual"

    def settle(self, signals: Collection[str]) -> Collection[int]:
        """Restart the evidence; a declared change does not move the usual rate, so `forget` does nothing."""
        if self._rate.signal not in signals:
            return ()
        self._cusum.clear()
        return range(len(self.outputs))


class LearntRateDetector(RateDetector):
    """The floor of a rate: the same CUSUM against the rate that the first steps show, with its uncertainty.

    A rate is 0 where nothing around a run fails, and small where something does.

    Args:
        rate: what is counted; its healthy and faulty rates are learnt.
        name: of the floor.
        threshold: evidence for an alarm, in nats.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        **RateDetector.STATE, "_steps": Kind.INT, "_hits": Kind.FLOAT, "_events": Kind.FLOAT,
    }  # fmt: skip

    def __init__(self, rate: Rate, name: str, threshold: float) -> None:
        super().__init__(rate, threshold)
        self.name = name
        self._steps, self._hits, self._events = 0, 0.0, 0.0

    def observe(self, view: StepView) -> Scores:
        """The evidence after each step, once the rate is learnt; a step without events does not change it."""
        rate, shares, counts = self._rate, view.value(self._rate.signal), view.value(self._rate.count)
        scores = Scores.quiet(view, 1)
        scores.score[:] = math.nan
        for row in np.flatnonzero((counts > 0) & np.isfinite(counts) & np.isfinite(shares)).tolist():
            events = float(counts[row]) / rate.clustered
            if self._steps < LEARNT_ROWS:
                self._steps += 1
                # A share is between 0 and 1, whatever a log holds.
                share = min(max(float(shares[row]), 0.0), 1.0)
                self._hits, self._events = self._hits + share * events, self._events + events
                continue
            usual = self._usual()
            if FAULTY_FACTOR * usual >= 1:
                continue
            ratio = bernoulli_ratio(float(shares[row]), events, usual, FAULTY_FACTOR * usual)
            self._cusum.add(ratio, int(view.steps[row]))
            scores.score[row] = self._cusum.sum / self._threshold
            scores.onset[row], scores.reference[row] = self._cusum.onset, usual
        return scores

    def _usual(self) -> float:
        """The largest rate that the first steps allow: the upper end of Wilson's interval for a rare event."""
        half = UPPER**2 / 2
        return (self._hits + half + UPPER * math.sqrt(self._hits + half / 2)) / self._events

    def forget(self, signals: Collection[str], step: int) -> Collection[int]:
        """Learn the rate again."""
        del step
        if self._rate.signal not in signals:
            return ()
        self._cusum.clear()
        self._steps, self._hits, self._events = 0, 0.0, 0.0
        return range(len(self.outputs))
