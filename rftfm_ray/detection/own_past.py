"""Residuals of a run against its own past, for who has no healthy runs to compare with. Pure; numpy, O(1) a step.

Every signal has a level with a trend that follow it slowly, and a spread from what they failed to foresee. A shift is
seen against what was before it for as long as its evidence grows: then the signal is held, and learns nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.jumps import normal_equivalents

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WARMUP = 8
# Shares of a surprise that the level and the trend take up.
LEVEL, TREND = 0.2, 0.02
# A surprise beyond so many spreads moves level and spread no further.
WILD = 3.0
# Steps that a spread remembers, and the fewest and most degrees of freedom that it is given.
MEMORY, FEWEST, MOST = 60, 3, 40


class OwnPast:
    """One run's signals (S).

    Args:
        floors: (S) the smallest spread that each is judged against, on its own scale.
    """

    def __init__(self, floors: Floats) -> None:
        size = len(floors)
        self._floors = floors
        self._level, self._trend, self._variance = np.zeros(size), np.zeros(size), np.zeros(size)
        self._count, self._newest = np.zeros(size), np.full(size, np.nan)
        self._differences = np.zeros(size)

    def add(self, levels: Floats, held: Mask) -> Floats:
        """Residuals (S) of a step as standard normal ones; NaN where nothing was measured or the warm-up is not over.

        Args:
            levels: (S) values on the scale that each signal is compared on; NaN says nothing.
            held: (S) signals that learn nothing from this step.
        """
        known = np.isfinite(levels)
        ready = known & (self._count >= WARMUP)
        spread = np.sqrt(np.maximum(self._variance, self._floors**2))
        surprise = np.where(known, levels, 0.0) - self._level - self._trend
        # The level itself is off by as much as an exponential mean of noise is.
        inflated = 1 + LEVEL / (2 - LEVEL)
        residuals = np.where(
            ready, normal_equivalents(surprise / (spread * np.sqrt(inflated)), self._freedom()), np.nan
        )
        self._learn(ready & ~held, np.clip(surprise, -WILD * spread, WILD * spread), inflated)
        self._warm_up(known & ~ready, levels)
        return residuals

    def _freedom(self) -> Floats:
        found: Floats = np.clip(self._count - 1, FEWEST, MOST)
        return found

    def _learn(self, which: Mask, surprise: Floats, inflated: float) -> None:
        self._level += np.where(which, self._trend + LEVEL * surprise, 0.0)
        self._trend += np.where(which, TREND * surprise, 0.0)
        share = 1 / np.clip(self._count, WARMUP, MEMORY)
        self._variance += np.where(which, share * (surprise**2 / inflated - self._variance), 0.0)
        self._count += which

    def _warm_up(self, which: Mask, levels: Floats) -> None:
        """A plain mean, and a spread from differences of neighbours, which a trend hardly touches."""
        there = np.where(which, levels, 0.0)
        apart = np.where(which & np.isfinite(self._newest), there - np.nan_to_num(self._newest), 0.0)
        self._differences += apart**2
        self._count += which
        self._level += np.where(which, (there - self._level) / np.maximum(self._count, 1), 0.0)
        done = which & (self._count >= WARMUP)
        self._variance = np.where(done, self._differences / (2 * (WARMUP - 1)), self._variance)
        self._newest = np.where(which, levels, self._newest)

    def restart(self, which: Mask) -> None:
        """Forget some signals: a change that was made on purpose has taken their past away."""
        for state in (self._level, self._trend, self._variance, self._count, self._differences):
            state[which] = 0.0
        self._newest[which] = np.nan
