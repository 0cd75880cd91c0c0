"""The reference of a run: a profile of its kind, the shipped priors and its self-baseline, weighted. Pure.

Only `reference_of` decides this, for any number of healthy runs, 0 included. A run is always compared with its
self-baseline, using the correlation of healthy runs of other tasks (the priors). With a profile it is also compared
with that. The correlation is then a mixture of the priors' and the profile's, weighted by the steps behind each, and
levels fall with the number of runs. The larger evidence of both, in thresholds, counts.

A profile of runs of another configuration says nothing about the signals that the difference moves. They are left out
of both of its parts, and what is left is a profile of fewer signals.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.correlation import CorrelationModel
from rftfm_ray.detection.reference.multipliers import shipped_multipliers
from rftfm_ray.detection.reference.priors import KindPriors
from rftfm_ray.detection.reference.profile import Profile
from rftfm_ray.detection.statistics.thresholds import budget_factor
from rftfm_ray.signals.groups import TELEMETRY

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Thresholds grow with the logarithm of time, so that a long run has no more false alarms than a short one.
GROWTH, FIRST = 0.3, 60
# Self-baseline: its first steps say little, and most is learnt in them, so thresholds begin twice as high.
EARLY, SETTLED = 1.0, 20
# Factors of the self-baseline model's levels, which were learnt on other tasks: without a profile, and beside one.
# Beside a profile its false alarms must not cost detections of the profile's model, which itself continues on the
# self-baseline after the profile's last step or a declared change.
WITHOUT_PROFILE, BESIDE_PROFILE = 1.3, 2.3
# Cap of the evidence, in thresholds: an alarm must end soon after its fault.
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


COMPARABLE = 0.5
"""Share of a profile's telemetry from which a run of another configuration has a profile."""


def mode_of(profile: Profile | None, moved: Collection[str] = ()) -> Mode:
    """The mode of a profile, by its number of runs, and by how much of it is left without the signals in `moved`."""
    known = [] if profile is None else [signal.name for signal in profile.signals if signal.name in TELEMETRY]
    left = [name for name in known if name not in moved]
    if profile is None or len(left) < COMPARABLE * len(known):
        return Mode.NONE
    return Mode.FULL if profile.runs >= FULL_RUNS else Mode.SMALL


@dataclass(frozen=True, slots=True)
class JointModel:
    """The correlation model of healthy residuals against one basis.

    Attributes:
        basis: what the residuals are taken against.
        correlation: the contrasts (K) and their levels.
        weight: factor of the levels.
    """

    basis: Basis
    correlation: CorrelationModel
    weight: float = 1.0

    def thresholds(self, false_alarm_steps: float) -> Floats:
        """Evidence (2 K) in nats, first upward and then downward, before the multiplier of the mode.

        All contrasts together exceed it once in `false_alarm_steps` healthy steps.
        """
        levels = self.weight * budget_factor(false_alarm_steps) * self.correlation.levels
        return np.concatenate([levels, levels])

    def threshold_growth(self, counts: Ints) -> Floats:
        """Factor (N) of the thresholds at the given steps of a run, counted from 1."""
        growth: Floats = 1 + GROWTH * np.log(np.maximum(1.0, counts / FIRST))
        if self.basis is Basis.OWN_PAST:
            growth += EARLY * np.maximum(0.0, 1 - counts / SETTLED)
        return growth


@dataclass(frozen=True, slots=True)
class Reference:
    """What one run is compared with. Never changes during a run.

    Attributes:
        profile: healthy runs of its kind; None without.
        models: one per basis, the profile first; empty where neither profile nor priors have a correlation.
        multiplier: of the thresholds of detectors that use the reference.
        moved: signals that the profile says nothing about, because the run has another configuration.
    """

    profile: Profile | None
    models: tuple[JointModel, ...]
    multiplier: float
    moved: frozenset[str] = frozenset()

    @property
    def mode(self) -> Mode:
        """How much is known."""
        return mode_of(self.profile, self.moved)


def reference_of(profile: Profile | None, priors: KindPriors | None, moved: Collection[str] = ()) -> Reference:
    """The reference of a run.

    Args:
        profile: of healthy runs of its kind, two or more; None without.
        priors: from healthy runs of other tasks, for the algorithm's kind (with or without a critic):
            `priors.shipped(kind)`, or those that a benchmark learnt from other tasks. None without any.
        moved: signals that the profile says nothing about (`comparison.Comparison.moved`).

    Raises:
        ProfileError: when the profile or the installed thresholds are damaged.
    """
    models = list[JointModel]()
    if profile is not None and profile.joint is not None:
        left = CorrelationModel.from_profile(profile.joint).without(moved)
        models += [] if left is None else [JointModel(Basis.PROFILE, left)]
    mode = mode_of(profile, moved)
    if priors is not None:
        # Where little of a profile is left, the run's own past must detect what the profile no longer does.
        has_profile = bool(models) and mode is not Mode.NONE
        models.append(JointModel(Basis.OWN_PAST, priors.own_past, BESIDE_PROFILE if has_profile else WITHOUT_PROFILE))
    return Reference(profile, tuple(models), shipped_multipliers()[mode], frozenset(moved))
