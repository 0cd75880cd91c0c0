"""The joint CUSUMs: evidence of shifts in all contrasts of a reference over one run. Pure; numpy.

This is the state of the joint detector without its alarms: the contrasts of each basis, followed chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.detection.reference.mixture import MOST, Basis, Reference
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.detection.stateful import Kind, Stateful
from rftfm_ray.detection.statistics.matched_filters import Contrast

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JointContrast:
    """One of the K contrasts: its basis, and the contrast of that basis' bank (kind, signal and side)."""

    basis: Basis
    contrast: Contrast


@dataclass(frozen=True, slots=True)
class JointEvidence:
    """The evidence of N steps.

    Attributes:
        over: (N, K) evidence of each contrast over its threshold at the step: 1 is an alarm.
        nats: (N, K) the same in nats.
    """

    over: Floats
    nats: Floats


class JointCusums(Stateful):
    """The CUSUMs of all contrasts of a reference over one run.

    Args:
        reference: what the run is compared with.
        false_alarm_steps: healthy steps to one false alarm of all contrasts together.
    """

    STATE: ClassVar[Mapping[str, Kind]] = {"_cusums": Kind.PARTS, "_count": Kind.INT}

    def __init__(self, reference: Reference, false_alarm_steps: float) -> None:
        self._models = {str(model.basis): model for model in reference.models}
        self._multiplier = reference.multiplier
        self._thresholds = {name: model.thresholds(false_alarm_steps) for name, model in self._models.items()}
        self._cusums = {name: model.correlation.cusums() for name, model in self._models.items()}
        self._count = 0
        self.contrasts = tuple(
            JointContrast(model.basis, contrast)
            for model in reference.models
            for contrast in model.correlation.bank.contrasts()
        )

    def observe(self, view: StepView) -> JointEvidence:
        """Take the next steps (N)."""
        counts = self._count + np.arange(1, len(view) + 1)
        over, nats = ([np.zeros((len(view), 0))] for _ in range(2))
        for name, model in self._models.items():
            residuals = view.residuals if model.basis is Basis.PROFILE else view.own
            thresholds = self._thresholds[name] * model.threshold_growth(counts)[:, None]
            # The evidence does not depend on the multiplier, so one recording of it serves to tune multipliers.
            sums = self._cusums[name].over(model.correlation.adjusted(residuals), MOST * thresholds)
            over.append(sums / (self._multiplier * thresholds))
            nats.append(sums)
        self._count += len(view)
        return JointEvidence(np.concatenate(over, axis=1), np.concatenate(nats, axis=1))

    def clear(self) -> None:
        """Forget the evidence after a declared change or a remedy; the run's variance stays known."""
        for cusums in self._cusums.values():
            cusums.clear()
