"""Advantages from rewards. Pure numpy.

B trajectories with A chosen tokens in all: those of trajectory i follow those of trajectory i - 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STD_EPSILON = 1e-4
# Added below the root, so that nearly equal tokens are not amplified.
WHITEN_EPSILON = 1e-8


def group_advantages(
    reward: NDArray[np.float32], group: NDArray[np.int32], valid: NDArray[np.bool_], *, normalize_std: bool
) -> NDArray[np.float32]:
    """Group-relative advantages of GRPO (arXiv 2402.03300, section 4.1.2): reward less the mean of its group.

    Args:
        reward: (B,) rewards; ignored where `valid` is False.
        group: (B,) group of every trajectory, 0 <= group.
        valid: (B,) members that count. Masked members are not part of mean or deviation.
        normalize_std: divide by the group's sample standard deviation plus 1e-4.

    Returns:
        (B,) advantages; 0 for masked members and for groups with fewer than two members.
    """
    centred, count = _centred(reward, group, valid)
    if normalize_std:
        variance = np.bincount(group, weights=centred**2) / np.maximum(count - 1, 1)
        centred = centred / (np.sqrt(variance) + STD_EPSILON)[group]
    return np.where(valid & (count[group] >= 2), centred, 0.0).astype(np.float32)


def leave_one_out_advantages(
    reward: NDArray[np.float32], group: NDArray[np.int32], valid: NDArray[np.bool_], *, normalize_std: bool
) -> NDArray[np.float32]:
    """Advantages of RLOO (arXiv 2402.14740, equation 8): reward less the mean of the other members of its group.

    Arguments and result as in `group_advantages`.
    """
    centred, count = _centred(reward, group, valid)
    # r - (n m - r) / (n - 1) = (r - m) n / (n - 1)
    inflated = centred * (count / np.maximum(count - 1, 1))[group]
    if normalize_std:
        variance = np.bincount(group, weights=centred**2) / np.maximum(count - 1, 1)
        inflated = inflated / (np.sqrt(variance) + STD_EPSILON)[group]
    return np.where(valid & (count[group] >= 2), inflated, 0.0).astype(np.float32)


def _centred(
    reward: NDArray[np.float32], group: NDArray[np.int32], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B,) rewards less the mean of their group, 0 where masked; and members that count, by group."""
    unmasked = np.where(valid, reward, 0.0).astype(np.float64)
    count = np.bincount(group, weights=valid).astype(np.float64)
    mean = np.bincount(group, weights=unmasked) / np.maximum(count, 1)
    centred: NDArray[np.float64] = np.where(valid, unmasked - mean[group], 0.0)
    return centred, count


def mixed_groups(reward: NDArray[np.float32], group: NDArray[np.int32], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(B,) whether a trajectory's group has different rewards: only such groups have nonzero advantages.

    The filter of DAPO's dynamic sampling (arXiv 2503.14476, section 3.2), without drawing replacements.
    """
    size = int(group.max(initial=-1)) + 1
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, group[valid], reward[valid])
    np.maximum.at(high, group[valid], reward[valid])
    mixed: NDArray[np.bool_] = (high > low)[group]
    return mixed


def gae(
    reward: NDArray[np.float32], values: NDArray[np.float32], counts: NDArray[np.int64], gamma: float, lam: float
) -> NDArray[np.float64]:
    """Generalised advantage estimates (arXiv 1506.02438, equation 16) over chosen tokens.

    The reward comes with the last token, and the value after it is 0, also for truncated episodes: they are graded as
    they are.

    Args:
        reward: (B,) one reward a trajectory.
        values: (A,) the critic's values of the states before every chosen token.
        counts: (B,) chosen tokens of every trajectory.
        gamma: discount per token.
        lam: weight of longer returns.

    Returns:
        (A,) advantages; advantages plus `values` are the lambda-returns that the critic learns.
    """
    advantages = np.zeros(len(values), np.float64)
    ends = np.cumsum(counts)
    next_advantage, next_value = np.zeros(len(counts)), np.zeros(len(counts))
    for back in range(int(counts.max(initial=0))):
        # The token `back` positions before the end, of every trajectory that is long enough.
        rows = np.flatnonzero(counts > back)
        positions = ends[rows] - 1 - back
        now = values[positions].astype(np.float64)
        earned = reward[rows].astype(np.float64) if back == 0 else 0.0
        next_advantage[rows] = earned + gamma * next_value[rows] - now + gamma * lam * next_advantage[rows]
        next_value[rows] = now
        advantages[positions] = next_advantage[rows]
    return advantages


def returns_to_go(reward: NDArray[np.float32], counts: NDArray[np.int64], gamma: float) -> NDArray[np.float64]:
    """(A,) discounted reward after every chosen token: the target of its value."""
    total = int(counts.sum())
    remaining = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(total)
    discounted: NDArray[np.float64] = np.repeat(reward.astype(np.float64), counts) * gamma**remaining
    return discounted


def whiten(values: NDArray[np.float64], included: NDArray[np.bool_], *, normalize_std: bool) -> NDArray[np.float64]:
    """(A,) `values` minus their mean, over their deviation, for those that are `included`; 0 elsewhere.

    Over all tokens of a step, as PPO's implementations and REINFORCE++ (arXiv 2501.03262, equation 9) do. Sample
    variance plus 1e-8 below the root.
    """
    chosen = values[included]
    if not len(chosen):
        return np.zeros_like(values)
    centred = np.where(included, values - chosen.mean(), 0.0)
    if normalize_std:
        centred = centred / np.sqrt(chosen.var(ddof=1 if len(chosen) > 1 else 0) + WHITEN_EPSILON)
    return centred
