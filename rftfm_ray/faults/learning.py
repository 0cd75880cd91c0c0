"""A faulty learner: OD-1 to OD-3 and CA-1 to CA-3, in its schedule, optimizer, loss, critic and estimator. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.faults.catalogue import FaultSpec, mechanism_of, of_code
from rftfm_ray.faults.credit import (
    balanced,
    misplaced,
    noisy,
    permuted,
    rotated,
    shifted,
    shuffled,
    struck,
    taken_from,
)
from rftfm_ray.training.credit import Credit
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import Settings, StepId
from rftfm_ray.verdicts import Place


def _product(factor: float, specs: Sequence[FaultSpec], step: StepId) -> float:
    for spec in specs:
        factor *= spec.level(step.paid_step)
    return factor


class FaultyLearner(LearnerSeams):
    """Seams with the faults of `specs` in them."""

    def __init__(self, specs: Sequence[FaultSpec], seed: int) -> None:
        self._specs = specs
        self._seed = seed

    def _on(self, step: StepId, code: str, *mechanisms: str) -> tuple[FaultSpec, ...]:
        return tuple(spec for spec in of_code(self._specs, code, *mechanisms) if spec.active(step.paid_step))

    def factor(self, step: StepId, factor: float) -> float:
        """Too large by OD-1."""
        return _product(factor, of_code(self._specs, "OD-1", "schedule"), step)

    def gain(self, step: StepId) -> float:
        """Above 1 by OD-1, below by OD-2."""
        factor = _product(1.0, self._on(step, "OD-1", "gain"), step)
        for spec in self._on(step, "OD-2", "small_steps"):
            factor *= 1 - spec.level(step.paid_step)
        return factor

    def epsilon(self, step: StepId) -> float:
        """The strength of OD-2 by epsilon."""
        return math.fsum(spec.level(step.paid_step) for spec in self._on(step, "OD-2", "epsilon"))

    def forgotten_share(self, step: StepId) -> float:
        """The strength of OD-1 by lost moments."""
        return max((spec.level(step.paid_step) for spec in self._on(step, "OD-1", "lost_moments")), default=0.0)

    def frozen_share(self, step: StepId) -> float:
        """The strength of OD-2."""
        return max((spec.level(step.paid_step) for spec in self._on(step, "OD-2", "held_weights")), default=0.0)

    def settings(self, step: StepId, settings: Settings) -> Settings:
        """A worse entropy coefficient by OD-3, a smaller discount by CA-3; levers have been moved before."""
        for spec in self._on(step, "OD-3", "negative_entropy"):
            coefficient = settings.entropy_coef - spec.level(step.paid_step)
            settings = dataclasses.replace(settings, entropy_coef=coefficient)
        for spec in self._on(step, "CA-3", "discount"):
            settings = dataclasses.replace(settings, gamma=settings.gamma * (1 - spec.level(step.paid_step)))
        return settings

    def temperature(self, step: StepId, temperature: float) -> float:
        """Lower by OD-3, as the sampler's is."""
        for spec in self._on(step, "OD-3", "colder"):
            temperature *= 1 - spec.level(step.paid_step)
        return temperature

    def values(self, step: StepId, batch: TrajectoryBatch, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """With a bias, or in another order, by CA-1."""
        for spec in self._on(step, "CA-1", "crossed_values"):
            rows = shuffled(spec, self._seed, step, struck(spec, self._seed, step, range(len(batch))))
            values = taken_from(values, batch.action_counts(), dict(zip(rows, rotated(rows), strict=True)))
        for spec in self._on(step, "CA-1", "biased_values"):
            values = values + np.float32(spec.level(step.paid_step))
        return values

    def assigned(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Change credit before the commit gate checks it."""
        for spec in self._on(step, "CA-2", "noise"):
            credit = noisy(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-3", "shifted"):
            credit = shifted(spec, self._seed, step, batch, credit)
        return credit

    def delivered(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Change credit after the commit gate has checked it."""
        for spec in self._on(step, "CA-2", "late_noise"):
            credit = noisy(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-2", "balanced_noise"):
            credit = balanced(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-3", "permuted"):
            credit = permuted(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-3", "misplaced"):
            credit = misplaced(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-1", "wrong_targets"):
            credit = dataclasses.replace(credit, returns=credit.returns + np.float32(spec.level(step.paid_step)))
        return credit


def _is_in_process(spec: FaultSpec) -> bool:
    return mechanism_of(spec).acts_in is Place.OPTIMIZER


def faulty_learner(specs: Sequence[FaultSpec], seed: int, instance: int = 0) -> LearnerSeams:
    """Seams of a learner with the faults of `specs`; the default seams without any.

    An optimizer that does not do what it should is that of one process: one that has taken its place, of an `instance`
    above 0, has the fault only where it sits in all of them. Faults of schedule, loss and credit are in the code.
    """
    specs = [spec for spec in specs if not instance or spec.all_instances or not _is_in_process(spec)]
    wanted = (
        *of_code(specs, "OD-1", "gain", "schedule", "lost_moments"),
        *of_code(specs, "OD-2", "small_steps", "held_weights", "epsilon"),
        *of_code(specs, "OD-3", "negative_entropy", "colder"),
        *(spec for spec in specs if spec.code.startswith("CA")),
    )
    return FaultyLearner(wanted, seed) if wanted else LearnerSeams()
