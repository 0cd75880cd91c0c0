"""A bank of matched filters: CUSUMs of many contrasts between a run and healthy runs. Pure; numpy.

A step is a vector of residuals against what is usual. A contrast is a weighted sum of them with a standard deviation of
about 1 in healthy runs, and a CUSUM looks for a shift of it to either side:

- `signal`: one residual;
- `conditional`: one residual given all others that were measured at the step. Where rewards rise and the share of
  right answers does not, it leaves its range long before the reward leaves its own.

Each CUSUM has its own level, so that all have the same false-alarm rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.correlations import LARGEST
from rftfm_ray.detection.statistics.kinds import kinds_of
from rftfm_ray.detection.statistics.recursions import BLOCK, MANY, decayed_sums, lagged
from rftfm_ray.detection.statistics.student import normal_equivalents

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Steps that a run's variance is taken from; residuals are clipped at this many standard deviations.
MEMORY, WILD = 60, 3.0
# Cap of the correlation of neighbours: above it no shift could ever raise an alarm. Guard against division by 0.
MOST_ALIKE, TINY = 0.8, 1e-9
# Change of a block's clipped residuals at which they have settled.
SETTLED = 1e-14
# Sets of measured signals whose weights are remembered.
REMEMBERED_SETS = 64


class ContrastKind(StrEnum):
    """What a contrast compares."""

    SIGNAL = "signal"
    CONDITIONAL = "conditional"


@dataclass(frozen=True, slots=True)
class Contrast:
    """One contrast: its kind, the signal that it speaks of, and its side."""

    kind: ContrastKind
    signal: str
    side: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.signal}{'+' if self.side > 0 else '-'}"


@dataclass(frozen=True, slots=True, eq=False)
class FilterBank:
    """Contrasts of S signals: first those of the signals by themselves, then the conditional ones (K = 2 S).

    Attributes:
        signals: S names.
        covariance: (S, S) of healthy residuals.
        variances: (K) long-run variance of each contrast in healthy runs, where their own is taken for 1.
    """

    signals: tuple[str, ...]
    covariance: Floats
    variances: Floats
    _weights: dict[bytes, Floats] = field(default_factory=dict, repr=False)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        # Immutable but for a cache: a copy is not needed.
        del memo
        return self

    def contrasts(self) -> tuple[Contrast, ...]:
        """The contrasts (2 K) as `Cusums` has them: all to above, and then all to below."""
        return tuple(Contrast(kind, name, side) for side in (1, -1) for kind in ContrastKind for name in self.signals)

    def along(self, residuals: Floats) -> Floats:
        """Contrasts (N, K) of steps' residuals (N, S), over their long-run standard deviation; NaN where the signal
        was not measured (NaN).

        A gap is not a zero: a conditional contrast is conditional on the signals that were measured at the step.
        """
        known = np.isfinite(residuals)
        bounded = np.where(known, np.minimum(np.maximum(residuals, -LARGEST), LARGEST), 0.0)
        contrasts = np.full((len(residuals), len(self.variances)), np.nan)
        for rows, mask in _groups(known):
            both = np.concatenate([mask, mask])
            weights, scale = self._weights_of(mask), np.sqrt(self.variances[both])
            # Step by step: the rounding of a matrix product would depend on the number of steps.
            for row in rows.tolist():
                contrasts[row, both] = (weights @ bounded[row, mask]) / scale
        return contrasts

    def _weights_of(self, mask: Mask) -> Floats:
        """Weights (2 M, M) of the M signals that were measured."""
        key = mask.tobytes()
        if key not in self._weights:
            if len(self._weights) >= REMEMBERED_SETS:
                self._weights.clear()
            inverse = np.linalg.inv(self.covariance[np.ix_(mask, mask)])
            conditional = inverse / np.sqrt(np.diag(inverse))[:, None]
            self._weights[key] = np.concatenate([np.eye(len(inverse)), conditional])
        return self._weights[key]


def _groups(known: Mask) -> list[tuple[NDArray[np.intp], Mask]]:
    """Rows grouped by the set of measured signals, with that set; rows without any are left out."""
    if len(known) == 1 or bool((known == known[:1]).all()):
        groups = [(np.arange(len(known)), known[0])] if len(known) else []
    else:
        kinds = kinds_of(known)
        parts = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1)]
        groups = [(rows, known[rows[0]]) for rows in parts]
    return [(rows, mask) for rows, mask in groups if mask.any()]


class LongRun(Stateful):
    """Scales contrasts (K) by the run's own long-run variance, where the bank's is too small.

    A bank from runs of another kind knows neither the variance of this run nor how long its contrasts stay on one side.
    So a contrast is judged by its variance times (1 + r) / (1 - r), with r the correlation of neighbours, where that is
    above 1.

    Args:
        contrasts: K.
        prior_weight: steps of the run that the bank's variances are worth; infinity for runs of the bank's own kind.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {
        "_count": Kind.ARRAY, "_variance": Kind.ARRAY, "_lagged": Kind.ARRAY, "_last": Kind.ARRAY,
    }  # fmt: skip

    def __init__(self, contrasts: int, prior_weight: float) -> None:
        self._prior_weight = prior_weight
        self._variance = np.ones(contrasts)
        self._count, self._lagged, self._last = (np.zeros(contrasts) for _ in range(3))

    def scaled(self, contrasts: Floats) -> Floats:
        """Contrasts (N, K) over the standard deviations that were known before each step; NaN stays."""
        if math.isinf(self._prior_weight):
            return contrasts
        scaled = np.empty(contrasts.shape)
        known = np.isfinite(contrasts)
        row, columns = 0, np.flatnonzero(known.any(0))
        blocks = len(contrasts) >= MANY and len(columns) > 0 and bool(known[:, columns].all())
        while row < len(contrasts):
            if blocks and self._count[columns].min() >= MEMORY:
                part = slice(row, row + BLOCK)
                scaled[part] = contrasts[part]
                scaled[part, columns] = self._block(contrasts[part, columns], columns)
                row += BLOCK
            else:
                scaled[row] = self._step(contrasts[row], known[row])
                row += 1
        return scaled

    def _step(self, contrast: Floats, known: Mask) -> Floats:
        scaled: Floats = contrast / np.sqrt(_long_run(self._variance, self._lagged))
        limit = WILD * np.sqrt(self._variance)
        residual = np.minimum(np.maximum(np.where(known, contrast, 0.0), -limit), limit)
        self._count = np.minimum(self._count + known, MEMORY)
        share = np.where(known, 1 / (self._prior_weight + np.maximum(self._count, 1)), 0.0)
        self._variance = self._variance + share * (residual * residual - self._variance)
        self._lagged = self._lagged + share * (residual * self._last - self._lagged)
        self._last = np.where(known, residual, self._last)
        return scaled

    def _block(self, contrasts: Floats, columns: NDArray[np.intp]) -> Floats:
        """`_step` for all steps of a block, of contrasts that have long been measured and are so at every step.

        Clipping at a step depends only on earlier steps, so the iteration settles by one step a round or faster.
        """
        variance, lag, last = self._variance[columns], self._lagged[columns], self._last[columns]
        share = 1 / (self._prior_weight + MEMORY)
        residual = contrasts
        for _ in range(len(contrasts) + 1):
            variances = decayed_sums(share * residual**2, variance, 1 - share)
            limit = WILD * np.sqrt(lagged(variances, variance))
            clipped = np.clip(contrasts, -limit, limit)
            moved = bool((np.abs(clipped - residual) > SETTLED * limit).any())
            residual = clipped
            if not moved:
                break
        lags = decayed_sums(share * residual * lagged(residual, last), lag, 1 - share)
        self._variance[columns], self._lagged[columns], self._last[columns] = variances[-1], lags[-1], residual[-1]
        scaled: Floats = contrasts / np.sqrt(_long_run(lagged(variances, variance), lagged(lags, lag)))
        return scaled


def _long_run(variance: Floats, lag: Floats) -> Floats:
    alike = np.minimum(np.maximum(lag / np.maximum(variance, TINY), 0.0), MOST_ALIKE)
    long_run: Floats = np.maximum(1.0, variance) * (1 + alike) / (1 - alike)
    return long_run


class Cusums(Stateful):
    """The CUSUMs of a bank over one run, to both sides (2 K), in nats: O(1) memory.

    A contrast that was not measured at a step holds its sums.

    Args:
        bank: its contrasts.
        size: the shift of the CUSUM, in standard deviations.
        prior_weight: see `LongRun`.
        freedom: degrees of freedom of the standard deviations that residuals were divided by; infinity when they are
            exact.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_long_run": Kind.PART, "sums": Kind.ARRAY}

    def __init__(
        self, bank: FilterBank, size: float, prior_weight: float = math.inf, freedom: float = math.inf
    ) -> None:
        self._bank, self._size, self._freedom = bank, size, freedom
        self._long_run = LongRun(len(bank.variances), prior_weight)
        self.sums = np.zeros(2 * len(bank.variances))

    def over(self, residuals: Floats, most: Floats | float = math.inf) -> Floats:
        """The sums (N, 2 K) after each of the next steps, from their residuals (N, S).

        Args:
            residuals: NaN where nothing was measured.
            most: cap of the sums, so that an alarm ends soon after its fault; of a shape that fits (N, 2 K).
        """
        shift = self._long_run.scaled(self._bank.along(residuals))
        if math.isfinite(self._freedom):
            shift = normal_equivalents(shift, self._freedom)
        shift = np.where(np.isfinite(shift), np.minimum(np.maximum(shift, -LARGEST), LARGEST), np.nan)
        both = np.concatenate([shift, -shift], axis=1)
        sums = np.where(np.isnan(both), 0.0, self._size * (both - self._size / 2))
        limits = np.broadcast_to(most, sums.shape)
        now = self.sums
        for row in range(len(sums)):
            now = np.minimum(np.maximum(now + sums[row], 0.0), limits[row])
            sums[row] = now
        self.sums = now
        return sums

    def clear(self) -> None:
        """Forget the evidence; the run's variance stays known."""
        self.sums = np.zeros(len(self.sums))
