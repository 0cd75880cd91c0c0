"""Shares and rates with honest limits: exact intervals for counts, and a bootstrap over seeds where runs share them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Share:
    """`found` of `total`, with a 95 % interval; NaN where there is nothing to count."""

    found: int
    total: int
    low95: float
    high95: float

    @property
    def rate(self) -> float:
        """The share as a fraction."""
        return self.found / self.total if self.total else math.nan


def clopper_pearson(found: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a binomial share (Clopper and Pearson, Biometrika 26, 1934)."""
    if total == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low = 0.0 if found == 0 else float(stats.beta.ppf(tail, found, total - found + 1))
    high = 1.0 if found == total else float(stats.beta.ppf(1 - tail, found + 1, total - found))
    return low, high


def exact(found: int, total: int) -> Share:
    """A share with exact limits."""
    return Share(found, total, *clopper_pearson(found, total))


def rate_upper(events: int, exposure: float, level: float = 0.95) -> float:
    """One-sided upper limit of the rate of independent events (Garwood, Biometrika 28, 1936)."""
    return float(stats.chi2.ppf(level, 2 * (events + 1))) / 2 / exposure if exposure > 0 else math.nan


def by_seed(outcomes: Sequence[tuple[int, bool]], seed: int = 0) -> Share:
    """A share over runs whose seeds are drawn anew: runs of a seed come or stay away together. `outcomes` are pairs of
    a seed and whether its run counts.

    Where all runs agree a bootstrap knows no doubt; the limits are then the exact ones for as many seeds.
    """
    found, total = sum(hit for _, hit in outcomes), len(outcomes)
    groups: dict[int, list[bool]] = {}
    for number, hit in outcomes:
        groups.setdefault(number, []).append(hit)
    if found in (0, total):
        low, high = clopper_pearson(len(groups) if found else 0, len(groups))
        return Share(found, total, low, high)
    hits = np.array([sum(group) for group in groups.values()], np.float64)
    counts = np.array([len(group) for group in groups.values()], np.float64)
    drawn = np.random.default_rng(seed).integers(len(groups), size=(DRAWS, len(groups)))
    low, high = np.quantile(hits[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return Share(found, total, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Delay:
    """Steps from an effect to its alarm: quantiles over all runs, those without an alarm at the end of the order.

    `median` and `p90` are infinite where so many runs have had no alarm; `censored` is how many.
    """

    median: float
    p90: float
    censored: int
    total: int


def delays(found: Sequence[float | None]) -> Delay:
    """Delays of runs, None for one without an alarm."""
    steps = np.sort([math.inf if delay is None else float(delay) for delay in found])
    if not len(steps):
        return Delay(math.nan, math.nan, 0, 0)
    # The value that half of the runs, or nine in ten, do not exceed: none is made up between two of them.
    places = [max(0, math.ceil(share * len(steps)) - 1) for share in (0.5, 0.9)]
    return Delay(float(steps[places[0]]), float(steps[places[1]]), int(np.isinf(steps).sum()), len(steps))


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def precision_recall(flagged: Sequence[bool], faulty: Sequence[bool]) -> Mapping[str, float]:
    """Precision, recall and F1 of flags on runs; precision is 0 where nothing is flagged."""
    hits = sum(flag and fault for flag, fault in zip(flagged, faulty, strict=True))
    precision = hits / sum(flagged) if any(flagged) else 0.0
    recall = hits / sum(faulty) if any(faulty) else math.nan
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall)}
