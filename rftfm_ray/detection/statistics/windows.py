"""Extremes of windows of values. Pure; numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def of_windows(extreme: np.ufunc, values: Floats, size: int) -> Floats:
    """The smallest or largest (N - size + 1, S) of each window of values (N, S): NaN where one of them is.

    Windows of twice the length are made of two, so that their number of steps is the logarithm of the size.
    """
    length, found = 1, values
    while length < size:
        more = min(length, size - length)
        found = extreme(found[:-more], found[more:])
        length += more
    return found
