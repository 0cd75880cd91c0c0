"""The evidence for a shift of a mean, in closed form. Pure; numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAU = 0.3
"""Standard deviation of the shift that is looked for, in those of one residual."""


def log_bayes_factor(residuals: Sequence[float], tau: float = TAU) -> float:
    """Log Bayes factor for a shift of the mean over none, of standard normal residuals; see `shift_factors`."""
    return float(shift_factors(np.float64(math.fsum(residuals)), np.float64(len(residuals)), tau))


def shift_factors(totals: Floats | np.float64, counts: Floats | np.float64, tau: float = TAU) -> Floats:
    """Log Bayes factors, in nats, for a shift of the mean with prior N(0, tau^2) over none.

    -1/2 log(1 + n tau^2) + (sum z)^2 tau^2 / (2 (1 + n tau^2)); closed form of the normal model with known spread.

    Args:
        totals: sums of standard normal residuals, of any shape.
        counts: how many residuals are in each, of a shape that fits.
        tau: standard deviation of the shift, before any residual is seen.
    """
    inflated = 1 + np.asarray(counts) * tau**2
    factors: Floats = -0.5 * np.log(inflated) + np.square(totals) * tau**2 / (2 * inflated)
    return factors
