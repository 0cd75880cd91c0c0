"""Threshold calibration: the level that a sum of evidence exceeds in healthy runs at a given rate. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FALSE_ALARM_STEPS = 2000.0
"""Healthy steps to one false alarm that levels are learnt for: 0.5 in 1,000."""
# Rise of a threshold, in levels, for each e-fold of the healthy steps to one false alarm; and its lower bound. On
# 120 healthy and long runs of two tasks false alarms fall by e with every 0.15 to 0.2 levels between 30 and 0.5 in
# 1,000 steps, for every reference; theory, for independent normal contrasts, says 0.06.
PER_FOLD, LEAST = 0.18, 0.3

# The tail is fitted to the peaks above this quantile.
TAIL = 0.8
# Peaks of a sum of true log-likelihood ratios fall by e with every nat; none falls faster.
SLOWEST = 1.0
FEWEST = 20
# Level for few peaks, as a multiple of the largest.
SEEN = 2.0


def budget_factor(false_alarm_steps: float) -> float:
    """Factor of all levels for one false alarm in this many healthy steps; 1 at `FALSE_ALARM_STEPS`."""
    return max(LEAST, 1 + PER_FOLD * math.log(false_alarm_steps / FALSE_ALARM_STEPS))


def peaks(sums: Floats, block: int) -> Floats:
    """The largest value of each block of steps of a run, (blocks, K), from sums (steps, K); a short rest counts as a
    block when it is at least half of one."""
    steps = len(sums)
    starts = [start for start in range(0, steps, block) if min(block, steps - start) * 2 >= block or start == 0]
    return np.stack([sums[start : start + block].max(0) for start in starts])


def level_for(highest: Floats, block: int, per_step: float) -> float:
    """The level that peaks (N), one per block of `block` steps, exceed `per_step` times a step.

    Beyond the quantile `TAIL` their excess is taken for exponential, as that of a CUSUM is (Asmussen, "Applied
    Probability and Queues", on the maximum of a random walk with negative drift); its mean comes from the data, and is
    never below what theory gives.
    """
    if len(highest) < FEWEST:
        # Too few peaks to fit: by theory the maximum of a block exceeds h with block * e^-h at most. The level also
        # stays above the largest peak, which is not rare.
        return max(math.log(1 / per_step), SEEN * float(highest.max(initial=0.0)))
    start = float(np.quantile(highest, TAIL))
    excess = highest[highest > start] - start
    mean = max(SLOWEST, float(excess.mean()) if len(excess) else 0.0)
    share = max(len(excess), 1) / len(highest)
    return max(start + mean * math.log(share / (per_step * block)), math.log(1 / (per_step * block)))
