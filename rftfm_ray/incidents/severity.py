"""Severity: the evidence for a shift against the run's own steps from before it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np

from rftfm_ray.detection.statistics.bayes import log_bayes_factor
from rftfm_ray.signals.scale import level_of
from rftfm_ray.signals.schema import INDEX, SIGNALS, Scale, value
from rftfm_ray.verdicts import StepReport

# Residuals are clipped at this: one outlier must not dominate a window.
LARGEST_Z = 20.0


def severity(
    reports: Sequence[StepReport],
    reference: Sequence[StepReport],
    signals: Sequence[str],
    directions: Mapping[str, float] | None = None,
) -> float:
    """Log-mean-exp over `signals` of the evidence that they have shifted from `reference` to `reports`, in nats.

    A signal with an entry in `directions` counts only as far as it has moved in the direction of the entry's sign:
    updates that a remedy has made smaller than usual are not an explosion. NaN when there is nothing to compare.
    """
    factors = []
    for name in signals:
        usual, now = _levels(reference, name), _levels(reports, name)
        if not usual or not now:
            continue
        mean = fmean(usual)
        spread = max(_floor(name, mean), stdev(usual) if len(usual) > 1 else 0.0)
        residuals = [max(-LARGEST_Z, min(LARGEST_Z, (x - mean) / spread)) for x in now]
        side = (directions or {}).get(name, 0.0)
        factors.append(log_bayes_factor([z if z * side > 0 or not side else 0.0 for z in residuals]))
    if not factors:
        return math.nan
    largest = max(factors)
    return largest + math.log(fmean([math.exp(factor - largest) for factor in factors]))


def _levels(reports: Sequence[StepReport], name: str) -> list[float]:
    levels = level_of(SIGNALS[INDEX[name]], np.array([value(report, name) for report in reports], np.float64))
    return [level for level in levels.tolist() if math.isfinite(level)]


def _floor(name: str, level: float) -> float:
    """The larger of 1 % of the level and the signal's own floor."""
    signal = SIGNALS[INDEX[name]]
    return signal.floor if signal.scale is Scale.RATIO else max(0.01 * abs(level), signal.floor, 1e-3)
