"""The law of rewards that a run shows by itself: the mean reward as an exact linear function of logged parts. Pure.

Nobody declares the reward of a task of the user's. Where its mean is linear in a few logged figures, the first steps
show that to the last digit, which no chance does; where it is not, the law says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rftfm_ray.detection.laws.base import Floats, Mask

ROWS = 8
"""Steps that the law is learnt from: three more than the largest number of weights."""
SPARE = 3
"""Steps beyond the number of weights that must fit as well: three exact coincidences are no chance."""
EXACT = 2e-6
"""Largest gap of an exact fit, relative to rewards above 1: means of float32 numbers differ from theirs by less."""
TOLERANCE = 1e-4
"""Largest gap that is no break: rounding of the learnt weights grows with the way that a part has gone since."""
CONSTANT = 1e-6
"""Parts that vary by less have shown no weight: the law is silent once such a part moves."""
LEAST_SPREAD = 1e-3
"""Parts that vary by less, but vary, would get a weight from rounding alone: the law is not learnt from them."""
LEAST_SINGULAR = 1e-2
"""Smallest singular value of the standardised parts: below, two of them go together, and weights are not known."""
LARGEST = 1e12
"""Figures beyond this are no means of rewards and their parts; their squares would overflow."""
PARTS = ("correct_rate", "tool_calls_mean", "length_mean", "truncated_rate")
"""Logged figures that a reward may be made of."""


@dataclass(frozen=True, slots=True)
class OwnRewardLaw:
    """A learnt law of K parts.

    Attributes:
        weights: (K) 0 for parts that did not vary.
        constant: of the reward.
        fixed: (K) whether a part did not vary.
        values: (K) of the parts that did not vary; NaN for those that were not logged.
    """

    weights: Floats
    constant: float
    fixed: Mask
    values: Floats

    def residuals(self, reward: Floats, parts: Floats) -> Floats:
        """(N) rewards less what the law gives for parts (N, K); NaN where a part has moved that never did."""
        absent = np.isnan(self.values)
        stays = np.where(absent, np.isnan(parts), np.abs(parts - self.values) <= CONSTANT)
        # Not a matrix product, whose rounding depends on the number of rows.
        gap = reward - (np.where(self.fixed, 0.0, parts) * self.weights).sum(axis=1) - self.constant
        return np.where((stays | ~self.fixed).all(axis=1), gap, np.nan)


def learn_own_reward(reward: Floats, parts: Floats) -> OwnRewardLaw | None:
    """The law that rewards (N) show in parts (N, K), or None where they show none exactly.

    A part that is NaN in all rows is not logged, and has no weight.
    """
    absent = np.isnan(parts).all(axis=0)
    if not (np.abs(reward) <= LARGEST).all() or not (absent | (np.abs(parts) <= LARGEST).all(axis=0)).all():
        return None
    spread = np.where(absent, 0.0, np.ptp(parts, axis=0))
    fixed = spread <= CONSTANT
    varying = np.flatnonzero(~fixed)
    if len(reward) < len(varying) + 1 + SPARE or (spread[varying] < LEAST_SPREAD).any() or np.ptp(reward) <= CONSTANT:
        return None
    centred = parts[:, varying] - parts[:, varying].mean(axis=0)
    scale = centred.std(axis=0)
    standard = centred / scale
    if np.linalg.svd(standard, compute_uv=False)[-1:].min(initial=1.0) < LEAST_SINGULAR * np.sqrt(len(reward)):
        return None
    slopes = np.linalg.lstsq(standard, reward - reward.mean(), rcond=None)[0] / scale
    weights = np.zeros(parts.shape[1])
    weights[varying] = slopes
    constant = float(reward.mean() - parts[:, varying].mean(axis=0) @ slopes)
    law = OwnRewardLaw(weights, constant, fixed, np.where(fixed, parts[0], 0.0))
    size = np.maximum(1.0, np.abs(reward))
    return law if (np.abs(law.residuals(reward, parts)) <= EXACT * size).all() else None


def described(law: OwnRewardLaw, names: Sequence[str]) -> str:
    """A law in words, for example `1 correct_rate - 0.2 tool_calls_mean`."""
    terms = [
        f"{weight:+.3g} {name}" for name, weight in zip(names, law.weights.tolist(), strict=True) if abs(weight) > EXACT
    ]
    constant = [f"{law.constant:+.3g}"] if abs(law.constant) > TOLERANCE else []
    return " ".join((*terms, *constant)) or "0"
