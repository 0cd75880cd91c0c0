"""What a run is compared with: a profile of its kind, shipped priors, its own past, mixed by what each is worth. Pure.

`reference_of` is the only place that decides this, for any number of healthy runs from none on. A run is always
compared with its own past, by how signals go together in healthy runs of other tasks (the priors). With a profile it is
also compared with that, by a correlation that is the priors' and the profile's own, weighted by the steps behind each,
and with levels that fall with the number of runs. What counts is the larger evidence of both over its threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.correlation import CorrelationModel
from rftfm_ray.detection.reference.multipliers import shipped_multipliers
from rftfm_ray.detection.reference.priors import KindPriors
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.statistics.thresholds import budget_factor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A long run must stay as silent as a short one: thresholds grow with the logarithm of time.
GROWTH, FIRST = 0.3, 60
# A run's own past says little in its first steps, in which most is learnt: thresholds begin twice as high.
EARLY, SETTLED = 1.0, 20
# Thresholds of the own-past model over its levels, which were learnt on other tasks: with nothing else to go by, and
# beside a profile, where what it finds must not cost what the profile's model finds. That goes on against the run's own
# past where the profile ends or a change has taken it away.
ALONE, BESIDE = 1.3, 2.3
# Evidence grows to so many thresholds at most: a fault that has gone must be seen to go.
MOST = 2.0


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


def mode_of(profile: Profile | None) -> Mode:
    """How much a profile knows of healthy runs."""
    if profile is None:
        return Mode.NONE
    return Mode.FULL if profile.runs >= FULL_RUNS else Mode.SMALL


@dataclass(frozen=True, slots=True)
class JointModel:
    """What departs from how residuals of healthy runs go together, against one basis.

    Attributes:
        basis: what the residuals are taken against.
        correlation: the contrasts (K) and their levels.
        weight: of the levels.
    """

    basis: Basis
    correlation: CorrelationModel
    weight: float = 1.0

    def thresholds(self, false_alarm_steps: float) -> Floats:
        """Evidence (2 K), to above and then to below, in nats that all contrasts together reach once in so many healthy
        steps, up to the multiplier of the mode."""
        levels = self.weight * budget_factor(false_alarm_steps) * self.correlation.levels
        return np.concatenate([levels, levels])

    def asked(self, counts: Ints) -> Floats:
        """By how much (N) thresholds are higher at the given steps of a run, counted from 1."""
        asked: Floats = 1 + GROWTH * np.log(np.maximum(1.0, counts / FIRST))
        if self.basis is Basis.OWN_PAST:
            asked += EARLY * np.maximum(0.0, 1 - counts / SETTLED)
        return asked


@dataclass(frozen=True, slots=True)
class Reference:
    """What one run is compared with. Never changes during a run.

    Attributes:
        profile: healthy runs of its kind; None without.
        models: one per basis, the profile first; empty where neither profile nor priors say how signals go together.
        multiplier: of the thresholds of detectors that compare with it.
    """

    profile: Profile | None
    models: tuple[JointModel, ...]
    multiplier: float

    @property
    def mode(self) -> Mode:
        """How much is known."""
        return mode_of(self.profile)


def reference_of(profile: Profile | None, priors: KindPriors | None) -> Reference:
    """The reference of a run.

    Args:
        profile: of healthy runs of its kind, two or more; None without.
        priors: what healthy runs of other tasks show, for the algorithm's kind (with or without a critic):
            `priors.shipped(kind)`, or what a benchmark learnt from other tasks. None without any.

    Raises:
        ProfileError: when the profile or the installed thresholds are damaged.
    """
    models = list[JointModel]()
    if profile is not None and profile.joint is not None:
        models.append(JointModel(Basis.PROFILE, CorrelationModel.from_profile(profile.joint)))
    if priors is not None:
        models.append(JointModel(Basis.OWN_PAST, priors.own_past, BESIDE if models else ALONE))
    return Reference(profile, tuple(models), shipped_multipliers()[mode_of(profile)])
