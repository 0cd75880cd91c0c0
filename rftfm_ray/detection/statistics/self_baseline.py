"""The self-baseline: residuals of a run against its own past, when there are no healthy runs to compare with. Pure.

Several filters follow every signal, from one that assumes a constant level to one that follows the trend closely. Each
gives a prediction and its uncertainty; a residual is the average over the filters, weighted by how well each has
predicted so far. So a constant signal is compared with all of its past, and a learning one with its trend, on any scale
(dynamic model averaging: Raftery, Karny and Ettler, Technometrics 52, 2010).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.kinds import kinds_of
from rftfm_ray.detection.statistics.recursions import BLOCK, MANY, decayed_sums, lagged
from rftfm_ray.detection.statistics.student import normal_equivalents

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

WARMUP = 5
# Gains of the level and the trend of each filter; the filter with gain 0 is a plain mean.
LEVELS, TRENDS = np.array([0.0, 0.1, 0.2, 0.4])[:, None], np.array([0.0, 0.0, 0.02, 0.1])[:, None]
# Share of the slope of the first steps that is assumed to continue.
GOES_ON = 0.5
UNSURE = np.where(TRENDS > 0, 2.25, 1.0)
# Variance of a level with a constant gain, relative to that of a residual.
_LAGGING = LEVELS / (2 - LEVELS)
# Residuals are clipped at this many standard deviations before the filters learn from them.
WILD = 3.0
# Steps of a variance's memory, and bounds of its degrees of freedom.
MEMORY, FEWEST, MOST = 60, 3, 40
# Decay of a filter's log weight per step.
REMEMBERED = 0.95
# Squares of larger residuals overflow. Values up to `CALM` are safe to compute in blocks.
LARGEST, CALM = 1e50, 1e30
# Change of a block's clipped residuals, against the spread, at which they have settled.
SETTLED = 1e-14


class SelfBaseline(Stateful):
    """The self-baseline of one run's signals (S).

    Args:
        floors: (S) lower bound of each standard deviation, on the signal's scale.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_level": Kind.ARRAY, "_trend": Kind.ARRAY, "_variance": Kind.ARRAY, "_log_weights": Kind.ARRAY,
        "_count": Kind.ARRAY, "_newest": Kind.ANY_ARRAY, "_sum": Kind.ARRAY, "_moment": Kind.ARRAY,
        "_differences": Kind.ARRAY,
    }  # fmt: skip

    def __init__(self, floors: Floats) -> None:
        size = len(floors)
        self._floors = floors
        self._level, self._trend, self._variance, self._log_weights = (np.zeros((len(LEVELS), size)) for _ in range(4))
        self._count, self._newest = np.zeros(size), np.full(size, np.nan)
        self._sum, self._moment, self._differences = (np.zeros(size) for _ in range(3))

    def over(self, levels: Floats) -> Floats:
        """Residuals (N, S) of many steps, equal to those of `add`; for `MANY` steps or more to about 1e-13.

        Args:
            levels: (N, S) values on the scale that each signal is compared on; NaN says nothing.
        """
        residuals = np.full(levels.shape, np.nan)
        if len(levels) < MANY:
            for row, step in enumerate(levels):
                residuals[row] = self.add(step)
            return residuals
        known = np.isfinite(levels)
        kinds = kinds_of(known.T)
        for kind in range(int(kinds.max(initial=-1)) + 1):
            columns = np.flatnonzero(kinds == kind)
            rows = np.flatnonzero(known[:, columns[0]])
            if len(rows):
                part = self.select(columns)
                residuals[np.ix_(rows, columns)] = part._measured(levels[np.ix_(rows, columns)])
                self._take(columns, part)
        return residuals

    def _measured(self, levels: Floats) -> Floats:
        """The residuals of signals that were all measured at all steps."""
        residuals, row = np.empty(levels.shape), 0
        while row < len(levels):
            block = levels[row : row + BLOCK]
            if self._count.min() >= MEMORY and np.abs(block).max() < CALM:
                residuals[row : row + len(block)] = self._block(block)
                row += len(block)
            else:
                residuals[row] = self.add(levels[row])
                row += 1
        return residuals

    def add(self, levels: Floats) -> Floats:
        """Residuals (S) of a step as standard normal values; NaN where nothing was measured and during the warm-up.

        Args:
            levels: (S) values on the scale that each signal is compared on; NaN says nothing.
        """
        known = np.isfinite(levels)
        ready = known & (self._count >= WARMUP)
        residuals = np.full(len(levels), np.nan)
        if ready.any():
            residual = np.where(known, levels, 0.0) - self._level - self._trend
            residual = np.minimum(np.maximum(residual, -LARGEST), LARGEST)
            spread = np.sqrt(np.maximum(self._variance, self._floors**2))
            # The prediction has an error of its own: that of a mean of few steps, or of the end of a line.
            inflated = 1 + np.maximum(_LAGGING, UNSURE / np.maximum(self._count, 1))
            scale = spread * np.sqrt(inflated)
            ratio, freedom = residual / scale, np.minimum(np.maximum(self._count - 1, FEWEST), MOST)
            residuals[ready] = _mixed(ratio, self._log_weights, freedom)[ready]
            density = _log_density(ratio, scale, freedom)
            self._log_weights = np.where(ready, REMEMBERED * self._log_weights + density, self._log_weights)
            limit = WILD * spread
            self._learn(ready, np.minimum(np.maximum(residual, -limit), limit), inflated)
        warming = known & ~ready
        if warming.any():
            self._warm_up(warming, levels)
        return residuals

    def _learn(self, which: Mask, residual: Floats, inflated: Floats) -> None:
        share = np.maximum(LEVELS, 1 / (self._count + 1))
        self._level += np.where(which, self._trend + share * residual, 0.0)
        self._trend += np.where(which, TRENDS * residual, 0.0)
        share = 1 / np.minimum(np.maximum(self._count, WARMUP), MEMORY)
        self._variance += np.where(which, share * (residual * residual / inflated - self._variance), 0.0)
        self._count += which

    def _warm_up(self, which: Mask, levels: Floats) -> None:
        """Fit a straight line, and a variance from differences of neighbours, which a trend hardly changes."""
        values = np.clip(np.where(which, levels, 0.0), -LARGEST, LARGEST)
        step = np.where(which & np.isfinite(self._newest), values - np.nan_to_num(self._newest), 0.0)
        self._differences += step**2
        self._sum += values
        self._moment += values * self._count
        self._newest = np.where(which, values, self._newest)
        self._count += which
        done = which & (self._count >= WARMUP)
        mean, middle = self._sum / WARMUP, (WARMUP - 1) / 2
        # The squares of 0 to n - 1 around their mean sum to n (n^2 - 1) / 12.
        slope = (self._moment - middle * self._sum) / (WARMUP * (WARMUP**2 - 1) / 12)
        trends = TRENDS > 0
        self._level = np.where(done, mean + np.where(trends, slope * middle, 0.0), self._level)
        self._trend = np.where(done, np.where(trends, GOES_ON * slope, 0.0), self._trend)
        self._variance = np.where(done, self._differences / (2 * (WARMUP - 1)), self._variance)

    def _block(self, levels: Floats) -> Floats:
        """`add` for all steps of a block at once, for signals past the warm-up that are measured at every step.

        All gains but that of the plain mean are then constant, and the filters are linear except for clipped residuals.
        Clipping at a step depends only on earlier steps, so the iteration settles by one step a round or faster.
        """
        steps = len(levels)
        solve, shares, slopes, inflated = _matrices(steps, self._count)
        steps_since = np.arange(1, steps + 1)[:, None, None]
        open_loop = levels[:, None, :] - self._level - steps_since * self._trend
        clipped, spread = np.zeros(open_loop.shape), np.zeros(open_loop.shape)
        for _ in range(steps + 1):
            taken = _apply(solve, open_loop - clipped)
            variance = decayed_sums(taken**2 / inflated / MEMORY, self._variance, 1 - 1 / MEMORY)
            spread = np.sqrt(np.maximum(lagged(variance, self._variance), self._floors**2))
            beyond = taken + clipped
            beyond = beyond - np.clip(beyond, -WILD * spread, WILD * spread)
            moved = bool((np.abs(beyond - clipped) > SETTLED * spread).any())
            clipped = beyond
            if not moved:
                break
        residual = taken + clipped
        scale = spread * np.sqrt(inflated)
        ratio, freedom = residual / scale, np.full(levels.shape[1], float(MOST))
        weights = decayed_sums(_log_density(ratio, scale, freedom), self._log_weights, REMEMBERED)
        residuals = _mixed(ratio, lagged(weights, self._log_weights), freedom)
        left = np.arange(steps - 1, -1, -1)[:, None, None]
        self._level = self._level + steps * self._trend + ((shares + slopes * left) * taken).sum(0)
        self._trend = self._trend + (slopes * taken).sum(0)
        self._variance, self._log_weights = variance[-1].copy(), weights[-1].copy()
        self._count = self._count + steps
        return residuals

    def select(self, columns: NDArray[np.intp]) -> SelfBaseline:
        """A copy of some of the signals, with their past."""
        part = SelfBaseline(self._floors[columns])
        for name in self.STATE:
            setattr(part, name, getattr(self, name)[..., columns])
        return part

    def _take(self, columns: NDArray[np.intp], part: SelfBaseline) -> None:
        for name in self.STATE:
            getattr(self, name)[..., columns] = getattr(part, name)

    def restart(self, which: Mask) -> None:
        """Forget some signals (S), after a declared change."""
        for state in (self._count, self._sum, self._moment, self._differences):
            state[which] = 0.0
        for filters in (self._level, self._trend, self._variance, self._log_weights):
            filters[:, which] = 0.0
        self._newest[which] = np.nan


def _log_density(ratio: Floats, scale: Floats, freedom: Floats) -> Floats:
    """Logarithm of Student's density of residuals over their scale, up to a constant."""
    density: Floats = -np.log(scale) - (freedom + 1) / 2 * np.log1p(ratio * ratio / freedom)
    return density


def _mixed(ratio: Floats, log_weights: Floats, freedom: Floats) -> Floats:
    """The weighted average (..., S) of the filters' residuals (..., filters, S)."""
    weights = np.exp(log_weights - log_weights.max(-2, keepdims=True))
    mixed: Floats = (weights * normal_equivalents(ratio, freedom)).sum(-2) / weights.sum(-2)
    return mixed


def _matrices(steps: int, count: Floats) -> tuple[list[Floats], Floats, Floats, Floats]:
    """Matrices that turn a block of open-loop residuals into those of the filters.

    A residual u_i at step i raises a filter's prediction at a later step t by F_ti u_i: the gain of the level, plus
    that of the trend for each step since. So open-loop residuals r give u = (I + F)^-1 r.

    Returns:
        the inverse of each filter, (steps, steps); for the plain mean, whose gain falls, one for each count (S, steps,
        steps); gains of levels (steps, filters, S); gains of trends (filters, 1); the inflation (steps, filters, S).
    """
    counts = count + np.arange(steps)[:, None]
    inflated = 1 + np.maximum(_LAGGING, UNSURE / counts[:, None, :])
    shares = np.maximum(LEVELS, 1 / (counts[:, None, :] + 1))
    same = np.unique(count)
    means = np.stack([_plain_mean(steps, float(first)) for first in same])[np.searchsorted(same, count)]
    solve = [means[0] if len(same) == 1 else means]
    solve += [_constant_gain(steps, float(a), float(b)) for a, b in zip(LEVELS[1:, 0], TRENDS[1:, 0], strict=True)]
    return solve, shares, TRENDS, inflated


@lru_cache(maxsize=256)
def _constant_gain(steps: int, share: float, slope: float) -> Floats:
    since = np.arange(steps)[:, None] - np.arange(steps)
    inverse: Floats = np.linalg.inv(np.eye(steps) + np.where(since > 0, share + slope * since, 0.0))
    return inverse


@lru_cache(maxsize=8)
def _plain_mean(steps: int, count: float) -> Floats:
    # A value less the mean of all before it: of those before the block, which the open loop is about, and the others.
    before = np.tri(steps, k=-1) / np.maximum(count + np.arange(steps), 1.0)[:, None]
    inverse: Floats = np.eye(steps) - before
    return inverse


def _apply(solve: list[Floats], residuals: Floats) -> Floats:
    """Each filter's inverse on its open-loop residuals (steps, filters, S)."""
    taken = np.empty(residuals.shape)
    for number, inverse in enumerate(solve):
        if inverse.ndim == 2:
            taken[:, number] = inverse @ residuals[:, number]
        else:
            taken[:, number] = np.einsum("sij,js->is", inverse, residuals[:, number])
    return taken
