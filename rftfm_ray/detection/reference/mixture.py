"""What a run is compared with: a profile of its kind, shipped priors, its own past, mixed by what each is worth. Pure.

`reference_of` is the only place that decides this, for any number of healthy runs from none on. A run is always
compared with its own past, by how signals go together in healthy runs of other tasks (the priors). With a profile it is
also compared with that, by a correlation that is the priors' and the profile's own, weighted by the runs behind each.
A score is the larger of both over their thresholds, so a small profile is never worse than none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.correlation import FALSE_ALARM_STEPS, Together, restored
from rftfm_ray.detection.reference.profile import Profile

Floats = NDArray[np.float64]


class Basis(StrEnum):
    """What residuals are taken against."""

    PROFILE = "profile"
    OWN_PAST = "own_past"


class Mode(StrEnum):
    """How much is known of healthy runs; each mode has one frozen multiplier of all thresholds."""

    NONE = "none"
    SMALL = "small"
    FULL = "full"


FULL_RUNS = 8
"""Healthy runs from which a profile is full."""
MULTIPLIERS = {Mode.NONE: 1.1, Mode.SMALL: 2.0, Mode.FULL: 2.0}
"""Of the thresholds of the joint detector, as `rftfm faultbench tune` has frozen them."""


@dataclass(frozen=True, slots=True)
class JointModel:
    """How residuals of healthy runs go together against one basis.

    Attributes:
        basis: what the residuals are taken against.
        correlation: the matched-filter bank and the slopes on prompts.
        levels: (K) evidence in nats that all K contrasts together reach once in `FALSE_ALARM_STEPS` healthy steps.
        tails: (K) mean excess in nats beyond the level: evidence reaches level + x with probability exp(-x / tail).
    """

    basis: Basis
    correlation: Together
    levels: Floats
    tails: Floats

    def thresholds(self, false_alarm_steps: float) -> Floats:
        """Evidence (K) in nats that all contrasts together reach once in so many healthy steps."""
        return np.maximum(self.levels + self.tails * math.log(false_alarm_steps / FALSE_ALARM_STEPS), 1.0)


@dataclass(frozen=True, slots=True)
class Reference:
    """What one run is compared with. Never changes during a run.

    Attributes:
        profile: healthy runs of its kind; None without.
        models: one per basis, the profile first; empty where neither profile nor priors say how signals go together.
    """

    profile: Profile | None
    models: tuple[JointModel, ...]

    @property
    def mode(self) -> Mode:
        """How much is known."""
        if self.profile is None:
            return Mode.NONE
        return Mode.FULL if self.profile.runs >= FULL_RUNS else Mode.SMALL


def reference_of(profile: Profile | None, priors: Together | None) -> Reference:
    """The reference of a run.

    Args:
        profile: of healthy runs of its kind, two or more; None without.
        priors: how signals go together in healthy runs of other tasks, for the algorithm's kind (with or without a
            critic): `priors.shipped(kind)`, or what a benchmark learnt from other tasks. None without any.

    Raises:
        ProfileError: when the profile is damaged.
    """
    models = list[JointModel]()
    if profile is not None and profile.together is not None:
        models.append(_model(Basis.PROFILE, restored(profile.together)))
    if priors is not None:
        models.append(_model(Basis.OWN_PAST, priors))
    return Reference(profile, tuple(models))


def _model(basis: Basis, correlation: Together) -> JointModel:
    return JointModel(basis, correlation, correlation.levels, np.ones(len(correlation.levels)))
