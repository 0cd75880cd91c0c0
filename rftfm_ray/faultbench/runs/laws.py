"""How far recorded steps are from the laws and floors that a mechanism is said to break or to keep. Pure.

The relations are those of `detection.laws`; here each has the name by which the catalogue of faults declares it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rftfm_ray.config import RunConfig
from rftfm_ray.config.declared import declared_at
from rftfm_ray.detection.laws.base import Law as Relation
from rftfm_ray.detection.laws.declaring import declared_course
from rftfm_ray.detection.laws.table import FLOOR_TABLE, LAWS
from rftfm_ray.detection.reference.views import StepView
from rftfm_ray.faults.kinds import Law
from rftfm_ray.metrics import StepRow
from rftfm_ray.signals.schema import report_of


@dataclass(frozen=True, slots=True)
class LawCheck:
    """One law: the relation of figures, None for a figure that is 0 itself, its tolerance, and what is said by it."""

    relation: Relation | None
    tolerance: float
    meaning: str


def _check(relation: Relation) -> LawCheck:
    return LawCheck(relation, relation.tolerance, relation.states)


CHECKS: Mapping[Law, LawCheck] = {
    Law.ADVANTAGE_MEAN: _check(LAWS["advantage_mean"]),
    Law.ADVANTAGE_SPREAD: _check(LAWS["advantage_spread"]),
    Law.RETURNS: _check(LAWS["returns"]),
    Law.LOSS: _check(LAWS["loss"]),
    Law.REWARD: _check(LAWS["reward"]),
    Law.ROLLOUT: _check(FLOOR_TABLE["rollout"].law),
    Law.WEIGHTS: _check(FLOOR_TABLE["weights"].law),
    Law.TOOL_ERRORS: LawCheck(None, 0.0, "tools do not fail"),
    Law.TURNS: _check(LAWS["turns"]),
}
"""Every law of the catalogue. In the runs of a mechanism there is no noise, so that floors are laws as well."""


def is_broken(law: Law, residual: float) -> bool:
    """Whether a residual is more than rounding; NaN is not."""
    return abs(residual) > CHECKS[law].tolerance


def largest(rows: Sequence[StepRow], config: RunConfig) -> dict[Law, float]:
    """By law, the residual of largest magnitude over steps; NaN where no step has one.

    Residuals are relative to figures above 1.
    """
    return {law: _largest([_residual(check, row, config) for row in rows]) for law, check in CHECKS.items()}


def _residual(check: LawCheck, row: StepRow, config: RunConfig) -> float:
    """How far one step is from a law; NaN where it says nothing of it."""
    if check.relation is None:
        return row.batch.tool_error_rate
    declared = declared_at(declared_course(config), row.id.step)
    if declared is None or not check.relation.applies(declared):
        return math.nan
    view = StepView.without_residuals(np.array([row.id.step]), np.array([report_of(row).values]))
    residual = check.relation.residuals(view, declared)
    return float(check.relation.excess(residual, view)[0]) * check.tolerance


def _largest(residuals: Sequence[float]) -> float:
    known = [residual for residual in residuals if not math.isnan(residual)]
    return max(known, key=abs) if known else math.nan
