"""Residuals that follow Student's t, made normal. Pure; numpy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def normal_equivalent(residual: float, freedom: float) -> float:
    """A residual that follows Student's t, as the standard normal one that is as rare.

    Wallace's approximation, (8v+1)/(8v+3) sqrt(v ln(1 + t^2/v)), within two per cent down to v = 4: "Bounds on normal
    approximations to Student's and the chi-square distributions", Annals of Mathematical Statistics 30 (1959).
    """
    # The logarithm of the square, without the square, which may be too large for a float.
    ratio = abs(residual) / math.sqrt(freedom)
    grown = math.log1p(ratio * ratio) if ratio < 1e100 else 2 * math.log(min(ratio, 1e300))
    shrunk = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * grown)
    return math.copysign(shrunk, residual)


Floats = NDArray[np.float64]


def normal_equivalents(residuals: Floats, freedom: Floats) -> Floats:
    """Residuals that follow Student's t as standard normal ones that are as rare (see `profile.normal_equivalent`)."""
    ratio = np.minimum(np.abs(residuals) / np.sqrt(freedom), 1e100)
    shrunk = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(ratio * ratio))
    found: Floats = np.copysign(shrunk, residuals)
    return found
