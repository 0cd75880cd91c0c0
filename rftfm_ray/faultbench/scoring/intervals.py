"""Shares and rates with intervals: exact ones for counts, and a bootstrap over seeds where runs share them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `total`, with a 95 % interval; NaN where there is nothing to count. A mean count over several draws of
    a reference may have a fraction."""

    count: float
    total: float
    low95: float
    high95: float

    @property
    def rate(self) -> float:
        """The share as a fraction."""
        return self.count / self.total if self.total else math.nan


def clopper_pearson(count: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a binomial share (Clopper and Pearson, Biometrika 26, 1934)."""
    if total == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(stats.beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(stats.beta.ppf(1 - tail, count + 1, total - count))
    return low, high


def exact_share(count: float, total: float) -> Share:
    """A share with exact limits."""
    return Share(count, total, *clopper_pearson(count, total))


def rate_upper(events: float, exposure: float, level: float = 0.95) -> float:
    """One-sided upper limit of the rate of independent events (Garwood, Biometrika 28, 1936)."""
    return float(stats.chi2.ppf(level, 2 * (events + 1))) / 2 / exposure if exposure > 0 else math.nan


def by_seed(outcomes: Sequence[tuple[int, bool]], draws: int = 1) -> Share:
    """A share over runs whose seeds are resampled: runs of a seed are drawn together or not at all.

    Where all runs agree a bootstrap sees no variance; the limits are then the exact ones for as many seeds.

    Args:
        outcomes: pairs of a seed and whether its run counts.
        draws: how often each run occurs, once for every draw of its reference; counts are means over draws.
    """
    count, total = sum(hit for _, hit in outcomes), len(outcomes)
    groups: dict[int, list[bool]] = {}
    for seed, hit in outcomes:
        groups.setdefault(seed, []).append(hit)
    if count in (0, total):
        low, high = clopper_pearson(len(groups) if count else 0, len(groups))
        return Share(count / draws, total / draws, low, high)
    hits = np.array([sum(group) for group in groups.values()], np.float64)
    counts = np.array([len(group) for group in groups.values()], np.float64)
    drawn = np.random.default_rng(0).integers(len(groups), size=(DRAWS, len(groups)))
    low, high = np.quantile(hits[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return Share(count / draws, total / draws, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Delay:
    """Steps from an effect to its alarm: quantiles over all runs, those without an alarm at the end of the order.

    `median` and `p90` are infinite where so many runs have had no alarm; `censored` is their number.
    """

    median: float
    p90: float
    censored: float
    total: float


def delays(steps: Sequence[float | None], draws: int = 1) -> Delay:
    """Delays of runs, None for one without an alarm; each run occurs `draws` times."""
    ordered = np.sort([math.inf if delay is None else float(delay) for delay in steps])
    if not len(ordered):
        return Delay(math.nan, math.nan, 0, 0)
    # The value that half of the runs, or nine in ten, do not exceed: nothing is interpolated between two of them.
    ranks = [max(0, math.ceil(share * len(ordered)) - 1) for share in (0.5, 0.9)]
    median, p90 = (float(ordered[rank]) for rank in ranks)
    return Delay(median, p90, float(np.isinf(ordered).sum()) / draws, len(ordered) / draws)


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def precision_recall(flagged: Sequence[bool], faulty: Sequence[bool]) -> Mapping[str, float]:
    """Precision, recall and F1 of flags on runs; precision is 0 where nothing is flagged."""
    hits = sum(flag and fault for flag, fault in zip(flagged, faulty, strict=True))
    precision = hits / sum(flagged) if any(flagged) else 0.0
    recall = hits / sum(faulty) if any(faulty) else math.nan
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall)}
