"""Evidence that signals, or what the others leave of them, depart from the reference: all CUSUMs of a run. Pure; numpy.

The state of the joint detector without its alarms: one matched-filter bank per basis of the reference, followed chunk
by chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.mixture import MULTIPLIERS, Basis, Reference
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.state import State
from rftfm_ray.detection.statistics.matched_filters import Direction

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JointContrast:
    """One of the K contrasts that are followed: what it is taken against, and the contrast of that basis' bank (its
    sort, signal and side)."""

    basis: Basis
    contrast: Direction


class JointCusums:
    """The CUSUMs of all contrasts of a reference over one run.

    Args:
        reference: what the run is compared with.
        false_alarm_steps: healthy steps to one false alarm of all contrasts together.
    """

    def __init__(self, reference: Reference, false_alarm_steps: float) -> None:
        self._models = reference.models
        multiplier = MULTIPLIERS[reference.mode]
        self._thresholds = [multiplier * model.thresholds(false_alarm_steps) for model in self._models]
        self._sums = [model.correlation.sums() for model in self._models]
        self.contrasts = tuple(
            JointContrast(model.basis, contrast)
            for model in self._models
            for contrast in model.correlation.bank.directions
        )

    @property
    def thresholds(self) -> Floats:
        """(K) in nats."""
        return np.concatenate([*self._thresholds, np.zeros(0)])

    def observe(self, view: StepView) -> Floats:
        """Evidence (N, K) over its threshold after each step of a view: 1 is an alarm."""
        parts = [np.zeros((len(view), 0))]
        for model, sums, thresholds in zip(self._models, self._sums, self._thresholds, strict=True):
            residuals = view.residuals if model.basis is Basis.PROFILE else view.own
            parts.append(sums.over(model.correlation.adjusted(residuals)) / thresholds)
        return np.concatenate(parts, axis=1)

    def clear(self) -> None:
        """Forget the evidence; how widely the run varies stays known. After a declared change or a remedy."""
        for sums in self._sums:
            sums.clear()

    def state_dict(self) -> State:
        """All that it remembers, as arrays and plain scalars."""
        raise NotImplementedError

    def load_state_dict(self, state: State) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            StateError: for anything that `state_dict` with the same reference would not have given.
        """
        raise NotImplementedError
