"""Residuals that follow Student's t, made normal. Pure; numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Squares of larger ratios overflow.
LARGEST = 1e100


def normal_equivalents(residuals: Floats, freedom: Floats | float) -> Floats:
    """Residuals that follow Student's t, as the standard normal ones that are as rare.

    Wallace's approximation, (8v+1)/(8v+3) sqrt(v ln(1 + t^2/v)), within two per cent down to v = 4: "Bounds on normal
    approximations to Student's and the chi-square distributions", Annals of Mathematical Statistics 30 (1959).

    Args:
        residuals: of any shape; NaN stays NaN.
        freedom: degrees of freedom, above 0, of a shape that fits.
    """
    ratio = np.minimum(np.abs(residuals) / np.sqrt(freedom), LARGEST)
    shrunk = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(ratio * ratio))
    normal: Floats = np.copysign(shrunk, residuals)
    return normal
