"""Rows of a mask that are alike, without sorting it. Pure; numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kinds_of(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The kind (N) of each row of a mask (N, K): equal rows have the same one; numbered from 0.

    The order is that of `numpy.unique(mask, axis=0)`: by the first column, then by the second, and so on.
    """
    rows = [row.tobytes() for row in np.packbits(mask, axis=1)]
    number = {row: kind for kind, row in enumerate(sorted(set(rows)))}
    return np.array([number[row] for row in rows], np.intp)
