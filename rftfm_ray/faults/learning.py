"""A faulty learner: OD-1 to OD-3 and CA-1 to CA-3, in its schedule, optimizer, loss, critic and estimator. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.faults.catalogue import FaultSpec, of_code
from rftfm_ray.faults.draws import draw, heavy_tailed, strikes
from rftfm_ray.training.credit import Credit
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import Settings, StepId


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

    def values(self, step: StepId, batch: TrajectoryBatch, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """With a bias by CA-1."""
        del batch
        for spec in self._on(step, "CA-1", "biased_values"):
            values = values + np.float32(spec.level(step.paid_step))
        return values

    def assigned(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Change credit before the commit gate checks it."""
        for spec in self._on(step, "CA-2", "noise"):
            credit = _noisy(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-3", "shifted"):
            credit = _shifted(spec, self._seed, step, batch, credit)
        return credit

    def delivered(self, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
        """Change credit after the commit gate has checked it."""
        for spec in self._on(step, "CA-2", "late_noise"):
            credit = _noisy(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-3", "misplaced"):
            credit = _misplaced(spec, self._seed, step, batch, credit)
        for spec in self._on(step, "CA-1", "wrong_targets"):
            credit = dataclasses.replace(credit, returns=credit.returns + np.float32(spec.level(step.paid_step)))
        return credit


def _noisy(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """One factor a trajectory, as advantages of a group have one value a trajectory."""
    factors = 1 + spec.level(step.paid_step) * np.array(heavy_tailed(spec, seed, step.paid_step, len(batch)))
    scaled = credit.advantages * np.repeat(factors, batch.action_counts())
    return dataclasses.replace(credit, advantages=scaled.astype(np.float32))


def _struck(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> NDArray[np.int64]:
    rows = [
        row
        for row in range(len(batch))
        if credit.included[row] and strikes(spec, seed, step.paid_step, step.paid_step, row)
    ]
    return np.array(rows, np.int64)


def _misplaced(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """Give a struck trajectory the advantages of a random member of the step, sometimes its own."""
    counts = batch.action_counts()
    starts = np.cumsum(counts) - counts
    members = np.flatnonzero(credit.included)
    advantages = credit.advantages.copy()
    for row in _struck(spec, seed, step, batch, credit):
        other = members[int(draw(spec, seed, "other", step.paid_step, row) * len(members))]
        tokens = np.minimum(np.arange(counts[row]), counts[other] - 1)
        advantages[starts[row] : starts[row] + counts[row]] = credit.advantages[starts[other] + tokens]
    return dataclasses.replace(credit, advantages=advantages)


def _shifted(spec: FaultSpec, seed: int, step: StepId, batch: TrajectoryBatch, credit: Credit) -> Credit:
    """The tokens of a struck trajectory have their followers' advantages, the last one that of the next trajectory."""
    moved = np.roll(credit.advantages, -1)
    rows = np.zeros(len(batch), np.bool_)
    rows[_struck(spec, seed, step, batch, credit)] = True
    advantages = np.where(np.repeat(rows, batch.action_counts()), moved, credit.advantages)
    return dataclasses.replace(credit, advantages=advantages)


def faulty_learner(specs: Sequence[FaultSpec], seed: int) -> LearnerSeams:
    """Seams of a learner with the faults of `specs`; the default seams without any."""
    wanted = (
        *of_code(specs, "OD-1", "gain", "schedule"),
        *of_code(specs, "OD-2", "small_steps", "held_weights"),
        *of_code(specs, "OD-3", "negative_entropy"),
        *(spec for spec in specs if spec.code.startswith("CA")),
    )
    return FaultyLearner(wanted, seed) if wanted else LearnerSeams()
