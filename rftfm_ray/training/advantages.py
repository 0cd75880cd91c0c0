"""Advantages from rewards. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STD_EPSILON = 1e-4


def group_advantages(
    reward: NDArray[np.float32], group: NDArray[np.int32], valid: NDArray[np.bool_], *, normalize_std: bool
) -> NDArray[np.float32]:
    """Group-relative advantages of GRPO (arXiv 2402.03300, section 4.1.2): reward less the mean of its group.

    Args:
        reward: (B,) rewards; ignored where `valid` is False.
        group: (B,) group of every trajectory, 0 <= group.
        valid: (B,) members that count. A masked member has no share in mean or deviation.
        normalize_std: divide by the group's sample standard deviation plus 1e-4.

    Returns:
        (B,) advantages; 0 for masked members and for groups with fewer than two members.
    """
    size = int(group.max()) + 1 if len(group) else 0
    kept = np.where(valid, reward, 0.0).astype(np.float64)
    count = np.bincount(group, weights=valid, minlength=size)
    mean = np.bincount(group, weights=kept, minlength=size) / np.maximum(count, 1)
    centred = np.where(valid, kept - mean[group], 0.0)
    if normalize_std:
        variance = np.bincount(group, weights=centred**2, minlength=size) / np.maximum(count - 1, 1)
        centred = centred / (np.sqrt(variance) + STD_EPSILON)[group]
    return np.where(valid & (count[group] >= 2), centred, 0.0).astype(np.float32)
