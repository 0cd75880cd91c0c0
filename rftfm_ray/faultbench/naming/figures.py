"""Figures of names: macro-F1 with bootstrap limits over seeds, and the calibration of stated probabilities. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS, SEED = 1000, 0
"""Of every bootstrap and simulation."""
BINS = 10
"""Of equal width, of the stated probability."""
LIMITS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Answer:
    """One run: its seed, the class that it is of, and the class that it was named as."""

    seed: int
    truth: str
    named: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over `count` runs with its 95 % interval; NaN without runs."""

    value: float
    low95: float
    high95: float
    count: int


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True, slots=True)
class _Counts:
    """By class (K), or by seed and class (G, K): runs named as what they are, runs so named, and runs of the class."""

    right: Floats
    named: Floats
    actual: Floats

    def macro(self) -> Floats:
        """Mean F1 over the classes that have runs."""
        has_runs = self.actual > 0
        # 2 tp + fp + fn: every run so named and every run of the class.
        f1 = np.where(has_runs, 2 * self.right / np.maximum(self.named + self.actual, 1), 0.0)
        macro: Floats = f1.sum(-1) / np.maximum(has_runs.sum(-1), 1)
        return macro


def f1_by_class(answers: Sequence[Answer]) -> dict[str, float]:
    """F1 = 2 tp / (2 tp + fp + fn) of every class that has runs."""
    scores = dict[str, float]()
    for name in sorted({answer.truth for answer in answers}):
        actual = sum(answer.truth == name for answer in answers)
        named = sum(answer.named == name for answer in answers)
        right = sum(answer.truth == answer.named == name for answer in answers)
        scores[name] = 2 * right / (named + actual)
    return scores


def macro_f1(answers: Sequence[Answer], classes: Sequence[str] | None = None) -> Estimate:
    """Mean F1 over classes, with limits by resampling seeds: runs of a seed are drawn together or not at all.

    Args:
        answers: all runs; what is named as none of the classes is wrong and nothing else.
        classes: over which the mean is; None for all that have runs. A class without runs does not count.
    """
    if not answers:
        return NOTHING
    wanted = sorted({answer.truth for answer in answers}) if classes is None else list(classes)
    seeds = sorted({answer.seed for answer in answers})
    row, column = ({key: index for index, key in enumerate(keys)} for keys in (seeds, wanted))
    right, named, actual = (np.zeros((len(seeds), len(wanted))) for _ in range(3))
    for answer in answers:
        at = row[answer.seed]
        if answer.truth in column:
            actual[at, column[answer.truth]] += 1
            right[at, column[answer.truth]] += answer.named == answer.truth
        if answer.named in column:
            named[at, column[answer.named]] += 1
    if not actual.any():
        return NOTHING
    value = float(_Counts(right.sum(0), named.sum(0), actual.sum(0)).macro())
    drawn = np.random.default_rng(SEED).multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), DRAWS)
    draws = _Counts(drawn @ right, drawn @ named, drawn @ actual).macro()
    low, high = np.quantile(draws, LIMITS).tolist()
    return Estimate(value, low, high, int(actual.sum()))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of stated probabilities.

    Attributes:
        error: expected calibration error.
        perfect: mean error of a perfectly calibrated classifier with the same probabilities, which is not 0 because
            runs are few.
        perfect95: the error that such a classifier exceeds in one of twenty samples.
        count: names that were stated.
    """

    error: float
    perfect: float
    perfect95: float
    count: int


def calibration_error(probabilities: Floats, right: NDArray[np.bool_]) -> Floats:
    """Expected calibration error over `BINS`: the gap of stated and true share in each, weighted by its names.

    Args:
        probabilities: (N) as stated.
        right: (N) or (D, N) whether the name was right.

    Returns:
        One error, or (D).
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    belongs = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    error: Floats = np.abs((right - probabilities) @ belongs).sum(-1) / len(probabilities)
    return error


def calibration_of(probabilities: Sequence[float], right: Sequence[bool]) -> Calibration:
    """Calibration of some names, beside that of a perfectly calibrated classifier (simulated)."""
    if not probabilities:
        return Calibration(math.nan, math.nan, math.nan, 0)
    stated = np.array(probabilities)
    drawn = np.random.default_rng(SEED).random((DRAWS, len(stated))) < stated
    simulated = calibration_error(stated, drawn)
    error = float(calibration_error(stated, np.array(right)))
    return Calibration(error, float(simulated.mean()), float(np.quantile(simulated, 0.95)), len(stated))
