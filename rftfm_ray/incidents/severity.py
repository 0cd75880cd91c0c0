"""Severity: the evidence for a shift against the run's own steps from before it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, linear_regression, stdev

import numpy as np

from rftfm_ray.detection.statistics.bayes import log_bayes_factor
from rftfm_ray.signals.scale import level_of
from rftfm_ray.signals.schema import INDEX, SIGNALS, Scale, value
from rftfm_ray.verdicts import StepReport

# Residuals are clipped at this: one outlier must not dominate a window.
LARGEST_Z = 20.0
# Fewest steps that show a trend, and steps that it is continued for: no signal of a run that learns rises for ever.
FEWEST_OF_TREND, TREND_STEPS = 5, 15.0


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


def beyond_trend(reports: Sequence[StepReport], reference: Sequence[StepReport], name: str, side: float) -> float:
    """Mean residual of a signal in the direction of `side`, beyond the trend of the reference, in spreads.

    A run that learns moves its signals: the KL to the reference policy grows, and the entropy falls. The trend is the
    least-squares line through the levels of the reference. It is taken off only where it leads to the side asked about:
    a signal that has stopped moving is no farther from health. NaN when there is nothing to compare.

    Args:
        reports: of the window.
        reference: from before the fault.
        name: of the signal.
        side: positive where high is harmful, negative where low is, 0 where both are.
    """
    usual, now = _dated_levels(reference, name), _dated_levels(reports, name)
    if not usual or not now:
        return math.nan
    levels = [level for _, level in usual]
    mean = fmean(levels)
    spread = max(_floor(name, mean), stdev(levels) if len(levels) > 1 else 0.0)
    residual = fmean([max(-LARGEST_Z, min(LARGEST_Z, (level - mean) / spread)) for _, level in now])
    sign = math.copysign(1.0, side if side else residual)
    slope = linear_regression(*zip(*usual, strict=True)).slope if len(usual) >= FEWEST_OF_TREND else 0.0
    ahead = fmean([step for step, _ in now]) - fmean([step for step, _ in usual])
    return residual * sign - max(0.0, slope * sign) * max(0.0, min(TREND_STEPS, ahead)) / spread


def _dated_levels(reports: Sequence[StepReport], name: str) -> list[tuple[float, float]]:
    """Steps of the lineage with the finite levels of a signal."""
    pairs = ((report.id.step, _levels([report], name)) for report in reports)
    return [(float(step), levels[0]) for step, levels in pairs if levels]


def _levels(reports: Sequence[StepReport], name: str) -> list[float]:
    levels = level_of(SIGNALS[INDEX[name]], np.array([value(report, name) for report in reports], np.float64))
    return [level for level in levels.tolist() if math.isfinite(level)]


def _floor(name: str, level: float) -> float:
    """The larger of 1 % of the level and the signal's own floor."""
    signal = SIGNALS[INDEX[name]]
    return signal.floor if signal.scale is Scale.RATIO else max(0.01 * abs(level), signal.floor, 1e-3)
