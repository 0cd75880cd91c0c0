"""Residuals of a run against its own past, for who has no healthy runs to compare with. Pure; numpy, O(1) a step.

Every signal is followed by several filters at once, from one that takes it for level to one that follows its trend
closely. Each says what it expects and how surely; a residual is what all of them leave, weighted by how well each has
foretold the steps before. So what never moves is held against all of its past, and what a policy learns against its
trend, whatever the scale (Raftery, Karny and Ettler, Technometrics 52, 2010, on averaging models that take turns).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.statistics.student import normal_equivalents

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WARMUP = 5
# Shares of a surprise that the level and the trend of each filter take up; one that takes up nothing has a plain mean.
LEVELS, TRENDS = np.array([0.0, 0.1, 0.2, 0.4])[:, None], np.array([0.0, 0.0, 0.02, 0.1])[:, None]
# Share of the slope of the first steps that is believed to go on.
GOES_ON = 0.5
UNSURE = np.where(TRENDS > 0, 2.25, 1.0)
# A surprise beyond so many spreads moves level and spread no further.
WILD = 3.0
# Steps that a spread remembers, and the fewest and most degrees of freedom that it is given.
MEMORY, FEWEST, MOST = 60, 3, 40
# Share of a filter's merits that is left a step later.
REMEMBERED = 0.95
# Squares of larger surprises are no numbers any more.
LARGEST = 1e50


class OwnPast:
    """One run's signals (S).

    Args:
        floors: (S) the smallest spread that each is judged against, on its own scale.
    """

    def __init__(self, floors: Floats) -> None:
        size = len(floors)
        self._floors = floors
        self._level, self._trend, self._variance, self._merits = (np.zeros((len(LEVELS), size)) for _ in range(4))
        self._count, self._newest = np.zeros(size), np.full(size, np.nan)
        self._sum, self._moment, self._differences = (np.zeros(size) for _ in range(3))

    def add(self, levels: Floats) -> Floats:
        """Residuals (S) of a step as standard normal ones; NaN where nothing was measured or the warm-up is not over.

        Args:
            levels: (S) values on the scale that each signal is compared on; NaN says nothing.
        """
        known = np.isfinite(levels)
        ready = known & (self._count >= WARMUP)
        freedom = np.clip(self._count - 1, FEWEST, MOST)
        spread = np.sqrt(np.maximum(self._variance, self._floors**2))
        surprise = np.clip(np.where(known, levels, 0.0) - self._level - self._trend, -LARGEST, LARGEST)
        # What is expected is off itself: by as much as a mean of so few steps is, or the end of a line through them.
        inflated = 1 + np.maximum(LEVELS / (2 - LEVELS), UNSURE / np.maximum(self._count, 1))
        scale = spread * np.sqrt(inflated)
        weights = np.exp(self._merits - self._merits.max(0))
        residuals = (weights * normal_equivalents(surprise / scale, freedom)).sum(0) / weights.sum(0)
        self._judge(ready, surprise / scale, scale, freedom)
        self._learn(ready, np.clip(surprise, -WILD * spread, WILD * spread), inflated)
        self._warm_up(known & ~ready, levels)
        found: Floats = np.where(ready, residuals, np.nan)
        return found

    def _judge(self, which: Mask, surprise: Floats, scale: Floats, freedom: Floats) -> None:
        """Give each filter its merits: the logarithm of Student's density of what it was surprised by."""
        density = -np.log(scale) - (freedom + 1) / 2 * np.log1p(surprise**2 / freedom)
        self._merits = np.where(which, REMEMBERED * self._merits + density, self._merits)

    def _learn(self, which: Mask, surprise: Floats, inflated: Floats) -> None:
        share = np.maximum(LEVELS, 1 / (self._count + 1))
        self._level += np.where(which, self._trend + share * surprise, 0.0)
        self._trend += np.where(which, TRENDS * surprise, 0.0)
        share = 1 / np.clip(self._count, WARMUP, MEMORY)
        self._variance += np.where(which, share * (surprise**2 / inflated - self._variance), 0.0)
        self._count += which

    def _warm_up(self, which: Mask, levels: Floats) -> None:
        """A straight line, and a spread from differences of neighbours, which a trend hardly touches."""
        if not which.any():
            return
        there = np.clip(np.where(which, levels, 0.0), -LARGEST, LARGEST)
        apart = np.where(which & np.isfinite(self._newest), there - np.nan_to_num(self._newest), 0.0)
        self._differences += apart**2
        self._sum += there
        self._moment += there * self._count
        self._newest = np.where(which, there, self._newest)
        self._count += which
        done = which & (self._count >= WARMUP)
        mean, middle = self._sum / WARMUP, (WARMUP - 1) / 2
        # The squares of 0 to n - 1 around their mean sum to n (n^2 - 1) / 12.
        slope = (self._moment - middle * self._sum) / (WARMUP * (WARMUP**2 - 1) / 12)
        trends = TRENDS > 0
        self._level = np.where(done, mean + np.where(trends, slope * middle, 0.0), self._level)
        self._trend = np.where(done, np.where(trends, GOES_ON * slope, 0.0), self._trend)
        self._variance = np.where(done, self._differences / (2 * (WARMUP - 1)), self._variance)

    def restart(self, which: Mask) -> None:
        """Forget some signals: a change that was made on purpose has taken their past away."""
        for state in (self._count, self._sum, self._moment, self._differences):
            state[which] = 0.0
        for filters in (self._level, self._trend, self._variance, self._merits):
            filters[:, which] = 0.0
        self._newest[which] = np.nan
