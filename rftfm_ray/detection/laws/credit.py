"""Laws of credit: mean and spread of advantages, returns at both ends of an episode. Pure; numpy."""

from __future__ import annotations

import numpy as np

from rftfm_ray.config.declared import Declared, Normalization
from rftfm_ray.detection.laws.base import Figures, Floats, Law, outside

# Added to a group's deviation before it divides, as GRPO's implementations do.
GROUP_EPSILON = 1e-4
# Spread of rewards from which the advantages of a critic have one that the 1e-8 below its root does not touch.
LEAST_REWARD_STD = 0.05
# Fewest members of a group with different rewards.
FEWEST_MEMBERS = 2


def _mean(figures: Figures, declared: Declared) -> Floats:
    del declared
    return figures.value("advantage_mean")


def _spread(figures: Figures, declared: Declared) -> Floats:
    """Deviation less the nearest one that normalisation can give: that of a sample divided by its own deviation."""
    low, high = _batch_bounds(figures) if declared.normalization is Normalization.BATCH else _bounds(figures, declared)
    return outside(figures.value("advantage_std"), np.sqrt(low), np.sqrt(high))


def _batch_bounds(figures: Figures) -> tuple[Floats, Floats]:
    """Variance (N - 1) / N over N tokens that were divided by their sample deviation."""
    tokens = figures.value("trajectory_count") * figures.value("valid_rate") * figures.value("length_mean")
    variance = np.where(tokens > 1, (tokens - 1) / tokens, np.nan)
    known = figures.value("reward_std") >= LEAST_REWARD_STD
    return np.where(known, variance, 0.0), variance


def _bounds(figures: Figures, declared: Declared) -> tuple[Floats, Floats]:
    """Least and largest variance where each mixed group was divided by its own sample deviation.

    n members of a group with different rewards then have a sum of squares of n - 1, and equal rewards have one of 0.
    Where all trajectories are valid every group has the declared size, and both bounds are (n - 1) / n times the share
    of mixed groups. Else members are spread over groups in an unknown way: the bounds hold for any.
    """
    size, mixed = float(declared.group_size), 1 - figures.value("zero_variance_group_rate")
    count = figures.value("trajectory_count")
    valid = count * figures.value("valid_rate")
    fewest, most = valid / size, count / size
    lows, highs = list[Floats](), list[Floats]()
    turning = (valid / (size * mixed + 1 - mixed), valid / (FEWEST_MEMBERS * mixed + size * (1 - mixed)))
    for groups in (fewest, most, *(np.clip(each, fewest, most) for each in turning)):
        among, flat = mixed * groups, (1 - mixed) * groups
        least = np.maximum(FEWEST_MEMBERS * among, valid - size * flat)
        largest = np.minimum(size * among, valid - flat)
        # With the filter only members of mixed groups count.
        lows.append((least - among) / (least if declared.group_filter else valid))
        highs.append((largest - among) / (largest if declared.group_filter else valid))
    low, high = np.minimum.reduce(lows), np.maximum.reduce(highs)
    step = 0.0 if declared.reward is None else declared.reward.least_difference / np.sqrt(size)
    low = np.where(mixed > 0, low * (step / (step + GROUP_EPSILON)) ** 2, 0.0)
    high = np.where(mixed > 0, high, 0.0)
    if declared.estimator == "rloo":
        inflation = (size / (size - 1)) ** 2
        whole = figures.value("valid_rate") == 1
        return np.where(whole, low * inflation, np.nan), np.where(whole, high * inflation, np.nan)
    return low, high


def _returns(figures: Figures, declared: Declared) -> Floats:
    """Return after the first token less the one that discounting over the length of an episode gives."""
    early, late = figures.value("return_early"), figures.value("return_late")
    if declared.gamma == 1:
        return early - late
    # Each reward is discounted over the tokens of its answer, at least none and at most those of the longest.
    least = declared.gamma ** np.maximum(figures.value("length_max") - 1, 0.0)
    positive = figures.value("reward_min") >= 0
    return np.where(positive, outside(early, least * late, late), np.nan)


CREDIT_LAWS: tuple[Law, ...] = (
    Law(
        "advantage_mean", "advantage_mean", (),
        "advantages have the mean 0",
        "the mean of the advantages is not 0, which subtracting a baseline of the same rewards makes it",
        1e-5,
        "float32: the largest mean of recorded healthy steps is 3e-8, and the commit gate accepts 1e-5 of a single one",
        lambda declared: declared.estimator in ("grpo", "rloo", "ppo") and declared.advantage_clip is None,
        _mean,
    ),
    Law(
        "advantage_spread", "advantage_std",
        ("zero_variance_group_rate", "valid_rate", "trajectory_count", "length_mean", "reward_std"),
        "advantages have the standard deviation that their normalisation gives them",
        "the standard deviation of the advantages is not the one that their normalisation gives them",
        5e-3,
        "the 1e-4 that is added to a group's deviation takes 0.3 % off where one of eight rewards differs by 0.2",
        lambda declared: (
            declared.normalization is not Normalization.NONE
            and declared.estimator in ("grpo", "rloo", "ppo")
            and declared.advantage_clip is None
            and declared.group_size > 1
        ),
        _spread,
    ),
    Law(
        "returns", "return_early", ("return_late", "reward_min", "length_max"),
        "the return after the first token is that after the last one, discounted over the tokens between them",
        "rewards are discounted otherwise than declared between the last token and the first one",
        1e-5,
        "sums of float32 rewards; the two are equal in recorded healthy steps",
        lambda _: True,
        _returns,
    ),
)  # fmt: skip
"""Laws of advantages and returns."""
