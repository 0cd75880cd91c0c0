"""Correlations of residuals that have gaps, from few steps, mixed with what is known beforehand. Pure; numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LARGEST = 8.0
"""A residual beyond this says no more than this: healthy ones are not normal that far out."""
# Share of the steps that a pair was measured at below which it is taken not to vary at all.
_STILL = 1e-9


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over steps of pairs of S signals, over the steps at which both were measured.

    Attributes:
        products: (S, S) of one times the other.
        squares: (S, S) of the first one's squares.
        counts: (S, S) how many steps.
    """

    products: Floats
    squares: Floats
    counts: Floats

    @classmethod
    def of(cls, residuals: Sequence[Floats]) -> Moments:
        """Of runs (steps, S), NaN where nothing was measured."""
        table = np.clip(np.concatenate(residuals), -LARGEST, LARGEST)
        known = np.isfinite(table)
        values, measured = np.where(known, table, 0.0), known.astype(np.float64)
        return cls(values.T @ values, (values**2).T @ measured, measured.T @ measured)

    def correlation(self) -> Floats:
        """(S, S) around 0; 0 where a pair was never measured together or does not vary."""
        scale = np.sqrt(self.squares * self.squares.T)
        moving = scale > _STILL * np.maximum(self.counts, 1)
        correlation: Floats = np.divide(self.products, scale, out=np.zeros_like(scale), where=moving)
        np.fill_diagonal(correlation, 1.0)
        return correlation

    def variances(self) -> Floats:
        """(S) mean squares; 0 for what was never measured."""
        variances: Floats = np.diag(self.squares) / np.maximum(np.diag(self.counts), 1)
        return variances


def mixed(correlation: Floats, counts: Floats, prior: Floats, prior_counts: Floats) -> Floats:
    """Correlation (S, S) as the mean of one and a prior, weighted by the steps (S, S) behind each pair.

    The posterior mean of an inverse Wishart distribution, pair by pair because of gaps.
    """
    weight = counts + prior_counts
    mean = np.divide(
        counts * correlation + prior_counts * prior, weight, out=np.zeros_like(correlation), where=weight > 0
    )
    np.fill_diagonal(mean, 1.0)
    return mean


def shrunken(correlation: Floats, share: float) -> Floats:
    """A correlation (S, S) with a share of the identity, and no variance near nothing in any direction.

    What is left of a signal when all others are given is never nothing, and pairs with gaps of their own may not fit.
    """
    matrix = (1 - share) * (correlation + correlation.T) / 2
    np.fill_diagonal(matrix, 1.0)
    values, vectors = np.linalg.eigh(matrix)
    if values[0] >= share / 2:
        return matrix
    positive = (vectors * np.maximum(values, share / 2)) @ vectors.T
    scale = np.sqrt(np.diag(positive))
    fitting: Floats = positive / np.outer(scale, scale)
    return fitting


def ridge_slopes(explaining: Floats, explained: Floats, prior: Floats, steps: float) -> Floats:
    """Slopes (A, S) of signals on others, each over the steps at which it was measured.

    Args:
        explaining: (N, A), all finite.
        explained: (N, S), NaN where nothing was measured.
        prior: (A, S) slopes to start from.
        steps: that the prior is worth, each with explaining signals of variance 1.
    """
    slopes = prior.copy()
    penalty = steps * np.eye(explaining.shape[1])
    for column in range(explained.shape[1]):
        known = np.isfinite(explained[:, column])
        if known.any():
            x = explaining[known]
            left = np.clip(explained[known, column], -LARGEST, LARGEST) - x @ prior[:, column]
            slopes[:, column] += np.linalg.solve(x.T @ x + penalty, x.T @ left)
    return slopes


def long_run_variances(runs: Sequence[Floats], block: int, prior: Floats, prior_blocks: float) -> Floats:
    """Variance (K) of means over many steps, times their number, from sums over blocks of steps; never below 1.

    Args:
        runs: (steps, K) of what has a variance of about 1 at a step, NaN where nothing was measured.
        block: steps to a sum.
        prior: (K) what is expected beforehand.
        prior_blocks: blocks of steps that this is worth.
    """
    total, count = np.zeros(runs[0].shape[1]), np.zeros(runs[0].shape[1])
    for run in runs:
        used = len(run) // block * block
        pieces = np.clip(run[:used], -LARGEST, LARGEST).reshape(used // block, block, run.shape[1])
        measured = np.isfinite(pieces).sum(1)
        sums = np.where(np.isfinite(pieces), pieces, 0.0).sum(1)
        total += np.where(measured > 0, sums**2 / np.maximum(measured, 1), 0.0).sum(0)
        count += (measured > 0).sum(0)
    variances: Floats = np.maximum(1.0, (prior_blocks * prior + total) / (prior_blocks + count))
    return variances
