"""The evidence for a shift of a mean, in closed form. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

TAU = 0.3


def log_bayes_factor(residuals: Sequence[float], tau: float = TAU) -> float:
    """Log Bayes factor for a shift of the mean, prior N(0, tau^2), over none, of standard normal residuals, in nats.

    -1/2 log(1 + n tau^2) + (sum z)^2 tau^2 / (2 (1 + n tau^2)); closed form of the normal model with known spread.
    """
    n, total = len(residuals), math.fsum(residuals)
    inflated = 1 + n * tau**2
    return -0.5 * math.log(inflated) + total**2 * tau**2 / (2 * inflated)
