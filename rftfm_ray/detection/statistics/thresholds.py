"""How high a sum of evidence climbs in healthy runs, and the level that it reaches as seldom as is asked for. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FALSE_ALARM_STEPS = 2000.0
"""Healthy steps to one false alarm that levels are learnt for: 0.5 in 1,000."""
# What a threshold rises by, over its level, for each e-fold of the healthy steps to one false alarm; and the least that
# it falls to. On 120 healthy and long runs of two tasks evidence falls by e with every 0.15 to 0.2 levels between 30
# and 0.5 false alarms in 1,000 steps, whatever it is compared with; theory, for independent normal ones, says 0.06.
PER_FOLD, LEAST = 0.18, 0.3

# Peaks above this quantile of theirs tell how they go on.
TAIL = 0.8
# Peaks of a sum of true log-likelihood ratios fall by e with every nat; none falls faster.
SLOWEST = 1.0
FEWEST = 20
# A level for few peaks, over the largest of them.
SEEN = 2.0


def budget_factor(false_alarm_steps: float) -> float:
    """What levels are multiplied by for one false alarm in so many healthy steps; 1 at `FALSE_ALARM_STEPS`."""
    return max(LEAST, 1 + PER_FOLD * math.log(false_alarm_steps / FALSE_ALARM_STEPS))


def peaks(sums: Floats, block: int) -> Floats:
    """The largest value of each block of steps of a run, (blocks, K), from sums (steps, K); a short rest counts as a
    block when it is at least half of one."""
    steps = len(sums)
    starts = [start for start in range(0, steps, block) if min(block, steps - start) * 2 >= block or start == 0]
    return np.stack([sums[start : start + block].max(0) for start in starts])


def level_for(highest: Floats, block: int, per_step: float) -> float:
    """The level that peaks (N), one a block of so many steps, exceed `per_step` times a step.

    Beyond the quantile `TAIL` their excess is taken for exponential, as that of a CUSUM is (Asmussen, "Applied
    Probability and Queues", on the maximum of a random walk with negative drift); its mean comes from the data, and is
    never taken to be below what theory gives.
    """
    if len(highest) < FEWEST:
        # Little to go by but theory: the maximum of a block exceeds h with block * e^-h at most. What was seen is no
        # rare thing, though.
        return max(math.log(1 / per_step), SEEN * float(highest.max(initial=0.0)))
    start = float(np.quantile(highest, TAIL))
    excess = highest[highest > start] - start
    mean = max(SLOWEST, float(excess.mean()) if len(excess) else 0.0)
    share = max(len(excess), 1) / len(highest)
    return max(start + mean * math.log(share / (per_step * block)), math.log(1 / (per_step * block)))
