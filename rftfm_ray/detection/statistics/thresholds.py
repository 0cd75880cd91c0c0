"""How high a sum of evidence climbs in healthy runs, and the level that it reaches as seldom as is asked for. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Peaks above this quantile of theirs tell how they go on.
TAIL = 0.8
# Peaks of a sum of true log-likelihood ratios fall by e with every nat; none falls faster.
SLOWEST = 1.0
FEWEST = 20
# A level that few peaks are held against, over the largest of them.
SEEN = 2.0


def peaks(sums: Floats, block: int) -> Floats:
    """The largest value of each block of steps of a run, (blocks, K), from sums (steps, K); a short rest counts as a
    block when it is at least half of one."""
    steps = len(sums)
    starts = [start for start in range(0, steps, block) if min(block, steps - start) * 2 >= block or start == 0]
    return np.stack([sums[start : start + block].max(0) for start in starts])


def level_for(found: Floats, block: int, per_step: float) -> float:
    """The level that peaks (N), one a block of so many steps, exceed `per_step` times a step.

    Beyond the quantile `TAIL` their excess is taken for exponential, as that of a CUSUM is (Asmussen, "Applied
    Probability and Queues", on the maximum of a random walk with negative drift); its mean comes from the data, and is
    never taken to be below what theory gives.
    """
    if len(found) < FEWEST:
        # Little to go by but theory: the maximum of a block exceeds h with block * e^-h at most. What was seen is no
        # rare thing, though.
        return max(math.log(1 / per_step), SEEN * float(found.max(initial=0.0)))
    start = float(np.quantile(found, TAIL))
    excess = found[found > start] - start
    mean = max(SLOWEST, float(excess.mean()) if len(excess) else 0.0)
    share = max(len(excess), 1) / len(found)
    return max(start + mean * math.log(share / (per_step * block)), math.log(1 / (per_step * block)))


def levels_for(runs: Sequence[Floats], block: int, per_step: float) -> Floats:
    """Levels (K) of all sums of healthy runs (steps, K), each exceeded `per_step` times a step."""
    found = np.concatenate([peaks(run, block) for run in runs])
    return np.array([level_for(found[:, place], block, per_step) for place in range(found.shape[1])])
