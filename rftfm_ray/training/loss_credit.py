"""From trajectories and values to the targets of a loss: estimator, seams, commit gate, and the source in use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rftfm_ray.batch import TrajectoryBatch
from rftfm_ray.training.credit import Credit, CreditErrors, Rule, assign, members
from rftfm_ray.training.credit_check import check_credit, credit_in_loss, value_error
from rftfm_ray.training.credit_source import credit_at_loss, raw_step, recipe_of, rule_at_loss
from rftfm_ray.training.gate import CommitGate
from rftfm_ray.training.objective import Targets, targets_of
from rftfm_ray.training.packing import MicroBatch
from rftfm_ray.training.seams import LearnerSeams
from rftfm_ray.types import CreditSource, RejectedUpdate, Rejection, StepId

MicroBatches = Sequence[Sequence[MicroBatch]]


@dataclass(frozen=True, slots=True)
class CreditRules:
    """Where the loss gets its credit from, the learner's rule in force, and the rule declared past every seam."""

    source: CreditSource
    learner: Rule
    declared: Rule

    @property
    def at_loss(self) -> Rule:
        """The rule of the credit that the loss gets."""
        is_own = self.source is CreditSource.LEARNER
        return self.learner if is_own else rule_at_loss(self.source, self.declared)

    def members(self, batch: TrajectoryBatch) -> NDArray[np.bool_]:
        """(B,) trajectories that take part in the update."""
        return members(batch, self.learner if self.source is CreditSource.LEARNER else self.declared)


@dataclass(frozen=True, slots=True)
class LossCredit:
    """What the loss of a step gets.

    Attributes:
        credit: that it goes by.
        values: (A,) the critic's that go with it; None without a critic.
        targets: of every micro batch.
        errors: of what the learner's own path has delivered, whether the loss goes by that or not: what is wrong there
            must show for as long as it is there.
        rejection: why the update must not be made; None where nothing speaks against it.
    """

    credit: Credit
    values: NDArray[np.float32] | None
    targets: list[list[Targets]]
    errors: CreditErrors
    rejection: RejectedUpdate | None


@dataclass(frozen=True, slots=True)
class CreditPath:
    """The way of credit in a learner. Without `watched` nothing is compared but what the gate compares."""

    seams: LearnerSeams
    gate: CommitGate
    watched: bool

    def credit(
        self,
        step: StepId,
        batch: TrajectoryBatch,
        rules: CreditRules,
        minibatches: MicroBatches,
        own: NDArray[np.float32] | None,
    ) -> LossCredit:
        """The credit of one step; `own` (A,) is the critic's output from before it, None without a critic."""
        values, included = None if own is None else self.seams.values(step, batch, own.copy()), rules.members(batch)
        credit = self.seams.assigned(step, batch, assign(batch, rules.learner, values))
        error, rejection = self.check(batch, included, credit, rules.learner, values)
        credit = self.seams.delivered(step, batch, credit)
        targets = _targets(minibatches, credit, values)
        got = credit_in_loss(minibatches, targets, credit)
        if rules.source is CreditSource.LEARNER:
            errors = self._errors(batch, rules.declared, got, (own, values), error)
            return LossCredit(credit, values, targets, errors, rejection)
        errors = self._errors(batch, rules.declared, credit, (own, values), error)
        trusted = credit_at_loss(rules.source, batch, rules.declared, own)
        _, rejection = self.check(batch, trusted.included, trusted, rules.at_loss, own)
        return LossCredit(trusted, own, _targets(minibatches, trusted, own), errors, rejection)

    def check(
        self,
        batch: TrajectoryBatch,
        included: NDArray[np.bool_],
        credit: Credit,
        rule: Rule,
        values: NDArray[np.float32] | None,
    ) -> tuple[float, RejectedUpdate | None]:
        """The commit gate's check of the advantages of a step.

        `included` (B,) are the trajectories that take part, `values` (A,) a critic's, as the estimator got them.
        """
        counts = batch.action_counts()
        if not included.any():
            filtered = bool((batch.valid & (counts > 0)).any())
            why = "no group holds different rewards" if filtered else "every trajectory of the step is masked"
            return math.nan, RejectedUpdate(0, Rejection.EMPTY_BATCH, why)
        rows = np.split(credit.advantages, np.cumsum(counts)[:-1])
        # Where all tokens of a trajectory share one advantage, checking its minimum and maximum suffices.
        shared = rule.estimator in ("grpo", "rloo")
        shown = [[float(row.min()), float(row.max())] if shared and len(row) else row.tolist() for row in rows]
        return self.gate.check_advantages(shown, included.tolist(), raw_step(batch, values), recipe_of(rule))

    def _errors(
        self,
        batch: TrajectoryBatch,
        declared: Rule,
        got: Credit,
        values: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None],
        gate_error: float,
    ) -> CreditErrors:
        """What is wrong with credit `got`, on values of the critic's own and as the estimator used them.

        With the guard off only what the gate has found.
        """
        if not self.watched:
            return CreditErrors(gate_error)
        (own, used), counts = values, batch.action_counts()
        expected = assign(batch, declared, used)
        errors = dataclasses.replace(check_credit(expected, got, counts), advantage_error=gate_error)
        if own is None or used is None:
            return errors
        return dataclasses.replace(errors, value_error=value_error(used, own, expected.included, counts))


def _targets(minibatches: MicroBatches, credit: Credit, values: NDArray[np.float32] | None) -> list[list[Targets]]:
    return [[targets_of(micro, credit, values) for micro in micros] for micros in minibatches]
