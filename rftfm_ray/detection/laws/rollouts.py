"""Laws of trajectories: the reward as a function of its parts, turns and calls, limits. Pure; numpy."""

from __future__ import annotations

import numpy as np

from rftfm_ray.config.declared import Declared
from rftfm_ray.detection.laws.base import Figures, Floats, Law, Strength, outside


def _reward(figures: Figures, declared: Declared) -> Floats:
    if declared.reward is None:
        return np.full(len(figures.steps), np.nan)
    parts = [weight * figures.value(name) for name, weight in declared.reward.parts]
    return np.asarray(figures.value("reward_mean") - np.sum(parts, axis=0))


def _turns(figures: Figures, declared: Declared) -> Floats:
    """Turns less the calls and the turn that ends an episode.

    An episode that the limit of turns ends has a call in each of them; one that runs out of tokens may have.
    """
    del declared
    last = figures.value("turns_mean") - figures.value("tool_calls_mean")
    return outside(last, 1 - figures.value("truncated_rate"), 1 - figures.value("turn_limit_rate"))


def _masked(figures: Figures, declared: Declared) -> Floats:
    """Trajectories that may train, less those that no failure has ended."""
    del declared
    return np.asarray(figures.value("valid_rate") - (1 - figures.value("failed_rate")))


def _limit(figures: Figures, declared: Declared) -> Floats:
    """Longest answer less the limit where one was cut off, and what is beyond the limit where none was."""
    if declared.token_limit is None:
        return np.full(len(figures.steps), np.nan)
    beyond = figures.value("length_max") - declared.token_limit
    return np.where(figures.value("truncated_rate") > 0, beyond, np.maximum(beyond, 0.0))


REWARD_STRENGTH = Strength("reward that nothing declared pays for, a trajectory", _reward)

ROLLOUT_LAWS: tuple[Law, ...] = (
    Law(
        "reward", "reward_mean", ("correct_rate", "tool_calls_mean"),
        "the mean reward is the declared function of its parts",
        "the mean reward is not the declared function of its parts",
        1e-5,
        "means of float32 rewards; the largest gap of recorded healthy steps is 6e-8",
        lambda declared: declared.reward is not None and not declared.reward_replaced,
        _reward,
        REWARD_STRENGTH,
    ),
    Law(
        "turns", "turns_mean", ("tool_calls_mean", "turn_limit_rate", "truncated_rate"),
        "every turn but the last one of an episode makes a call",
        "there are other turns than those that make a call and the one that ends an episode",
        1e-5,
        "means of whole numbers; equal in recorded healthy steps",
        lambda declared: declared.turn_per_call,
        _turns,
    ),
    Law(
        "masked", "valid_rate", ("failed_rate",),
        "no trajectory that a failure has ended may train",
        "trajectories train that a failure of tools or machines has ended",
        1e-5,
        "both are shares of the same trajectories",
        lambda _: True,
        _masked,
        Strength("share of the trajectories that train and should not", _masked),
        direction=1,
    ),
    Law(
        "limit", "length_max", ("truncated_rate",),
        "no answer is longer than the limit, and the longest of a step with answers cut off is as long as it",
        "answers are cut off at another length than the declared limit",
        0.005,
        "lengths are whole numbers, and relative to a length this is less than a token of 200",
        lambda declared: declared.token_limit is not None,
        _limit,
    ),
)  # fmt: skip
"""Laws of rewards, turns and lengths."""
