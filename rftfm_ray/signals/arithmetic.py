"""Arithmetic of single values that never raises. Pure, without numpy."""

from __future__ import annotations

import math


def safe_exp(exponent: float) -> float:
    """The exponential, and infinity where it would overflow."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf
