"""Healthy bands of the signals that show a fault's harm. Pure functions of reports.

A signal is back in its healthy band when its mean over a window is no farther from what the steps before the fault lead
to than healthy runs go by themselves, or when it is a share of failures no larger than a healthy run may have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.incidents.severity import beyond_trend
from rftfm_ray.signals.schema import value
from rftfm_ray.verdicts import Diagnosis, StepReport

# Spreads by which the mean of a window may lie beyond the trend of the steps before the fault. Of windows of 6 steps up
# to 20 steps after it, in 256 recorded healthy runs, at most 6 % lie farther above it in kl_ref and update_ratio, and
# 3 % on either side of it in entropy and length_mean. A share of the severity under the fault is no such bound: there
# residuals are clipped, so that it allows the same distance whatever the size of the fault.
BAND_SPREADS = 1.5
# Largest healthy values of signals that need no reference: shares of calls, verdicts or comparisons that go wrong.
HEALTHY_AT_MOST: Mapping[str, float] = {
    "trained_mismatch_rate": 0.005,
    "tool_error_rate": 0.05,
    "observation_mismatch_rate": 0.0,
    "replay_observation_mismatch_rate": 0.0,
    "replay_termination_mismatch_rate": 0.0,
    "termination_mismatch_rate": 0.0,
    "vetoes": 0.0,
}


@dataclass(frozen=True, slots=True)
class Harm:
    """Signals that show a fault's harm, with the directions in which they show it."""

    signals: tuple[str, ...] = ()
    directions: Mapping[str, float] = field(default_factory=dict)

    def without(self, *names: str) -> Harm:
        """The harm without some of its signals."""
        return Harm(tuple(name for name in self.signals if name not in names), self.directions)


def harm_of(code: str, diagnosis: Diagnosis | None) -> Harm:
    """The signals that a fault harms: those of its fingerprint, else those in alarm."""
    fingerprint = FINGERPRINTS.get(code)
    if fingerprint is not None and fingerprint.harm:
        return Harm(fingerprint.harm, fingerprint.weights)
    alarms = [symptom for symptom in diagnosis.symptoms if symptom.alarm] if diagnosis is not None else []
    sides = {symptom.signal: float(symptom.direction) for symptom in alarms}
    return Harm(tuple(sides), sides)


def unknown_band(harm: Harm, window: Sequence[StepReport], reference: Sequence[StepReport]) -> str:
    """Why it cannot be computed whether harm is in its healthy band; empty where it can.

    One signal that is measured before the fault and now is enough; without any, each needs a bound of its own.
    """
    if any(measured_values(reference, name) and measured_values(window, name) for name in harm.signals):
        return ""
    bounded = [name for name in harm.signals if name in HEALTHY_AT_MOST and measured_values(window, name)]
    if not harm.signals or len(bounded) < len(harm.signals):
        return "the harm was not measured" if reference else "no step from before the fault shows a healthy band"
    return ""


def beyond_band(harm: Harm, window: Sequence[StepReport], reference: Sequence[StepReport]) -> str:
    """The first signal of a harm that a window shows outside of its healthy band; empty when none is.

    Signals that cannot be compared are left out (`unknown_band`).
    """
    for name in harm.signals:
        now, bound = measured_values(window, name), HEALTHY_AT_MOST.get(name, math.nan)
        mean = fmean(now) if now else math.nan
        if mean <= bound:
            continue
        if mean > bound and not measured_values(reference, name):
            return f"{name} is still {mean:.3g}, above its healthy {bound:.3g}"
        side = harm.directions.get(name, 0.0)
        spreads = beyond_trend(window, reference, name, side)
        if spreads > BAND_SPREADS:
            where = "below" if side < 0 else "above" if side > 0 else "outside of"
            return f"{name} is still {mean:.3g}, {spreads:.1f} spreads {where} its healthy level"
    return ""


def measured_values(reports: Sequence[StepReport], name: str) -> list[float]:
    """The values of a signal that were measured, in the order of the reports."""
    return [v for report in reports if not math.isnan(v := value(report, name))]
