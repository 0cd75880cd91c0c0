"""Optimization faults (OD), and values that are not finite: updates lead away from what was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan
from rftfm_ray.signals.scale import safe_exp
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Remedy, StepReport

# An update this many times its usual size is too large; below, the rate is lowered by a fixed share.
ELEVATED = 1.5
UNEXPLAINED_SCALE = 0.3
# The rate in force, or the schedule's factor, is off by more than this, as a difference of logarithms.
TOLERANCE = 0.01


def lower_rate_alone(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Bring updates back to their usual size, and give up no step: no harm is shown so far, or no snapshot is left."""
    scale, why = lower_rate(ctx)
    because = "no independent check shows harm so far"
    if ctx.ground is not None:
        because = f"there is no snapshot from before step {ctx.diagnosis.onset_low}"
    reason = f"{why}; no step is given up, because {because}"
    return Remedy("lower_rate", Levers(lr_scale=scale, kl_coef_scale=2.0)), reason


def rollback_lower_rate(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Undo the explosion, and return to updates of the usual size."""
    scale, why = lower_rate(ctx)
    levers = Levers(lr_scale=scale, kl_coef_scale=2.0)
    return Remedy("rollback_lower_rate", levers, rollback=True), f"{why}; the KL penalty is doubled meanwhile"


def rollback_much_lower_rate(ctx: PolicyContext) -> tuple[Remedy, str]:
    """The same, with a quarter of the rate and the strongest KL penalty."""
    scale, why = lower_rate(ctx)
    levers = Levers(lr_scale=max(0.01, scale / 4), kl_coef_scale=10.0)
    return Remedy("rollback_much_lower_rate", levers, rollback=True), f"{why}, and to a quarter of that for safety"


def lower_rate(ctx: PolicyContext) -> tuple[float, str]:
    """A scale of the learning rate that brings updates back to their usual size, and why it is that one.

    The size of an AdamW update is in proportion to the rate, so the ratio of the update's size now to its size
    before the onset says how much too large the effective rate is, whatever multiplies it.
    """
    rate, excess = ctx.signal("lr")[-1], ctx.signal("lr_excess")[-1]
    declared = rate * safe_exp(-excess) / ctx.nominal.lr
    if abs(excess) > TOLERANCE:
        factor = safe_exp(excess)
        return _bounded(declared), f"the learning rate is {factor:.3g} times the declared one, which is restored"
    pairs = zip(ctx.reports, ctx.signal("update_ratio"), strict=True)
    since = [size for report, size in pairs if report.id.step >= ctx.diagnosis.onset]
    usual, now = _usual_update(ctx), median(since) if since else math.nan
    if usual > 0 and now / usual >= ELEVATED:
        scale = _bounded(declared * usual / now)
        return scale, f"updates are {now / usual:.3g} times their usual size; the learning rate is lowered by as much"
    scale = _bounded(declared * UNEXPLAINED_SCALE)
    if math.isnan(usual):
        return scale, "no step from before the fault shows the usual size of updates; lower learner.lr if this helps"
    return scale, "updates have their usual size and the policy still runs away; the learning rate is lowered"


def _usual_update(ctx: PolicyContext) -> float:
    """Median size of the last ten updates with gradient from before the fault; NaN without one.

    Without gradient AdamW's updates shrink step by step, and the first one with gradient is many times larger.
    """
    earlier = [r for r in ctx.reports if r.id.step < ctx.diagnosis.onset_low and value(r, "grad_norm") != 0]
    sizes = [size for r in earlier[-10:] if math.isfinite(size := value(r, "update_ratio"))]
    return median(sizes) if sizes else math.nan


def _bounded(scale: float) -> float:
    return min(1.0, max(0.01, scale))


def rollback_numerical(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Return to finite numbers, past the batch that broke them, at a lower rate."""
    del ctx
    levers = Levers(lr_scale=UNEXPLAINED_SCALE)
    reason = "values are not finite; the batch that broke them is skipped"
    return Remedy("rollback_skip_batch", levers, rollback=True, skip_batches=1), reason


def updates_too_large(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether something still multiplies updates: the schedule's factor, or the size of updates for their rate."""
    usual = [_gain(r) for r in reference if math.isfinite(_gain(r))]
    excess = any(abs(value(r, "schedule_excess")) > TOLERANCE for r in reports)
    return excess or (bool(usual) and any(_gain(r) > ELEVATED * max(usual) for r in reports))


def _gain(report: StepReport) -> float:
    """How far updates go for the rate that they are given."""
    rate = value(report, "lr")
    return value(report, "update_ratio") / rate if rate > 0 else math.nan


PLANS: Mapping[str, RemedyPlan] = {
    "OD-1": RemedyPlan(
        steps=(rollback_lower_rate, rollback_much_lower_rate),
        gentle=(lower_rate_alone,),
        containing=("lr_scale",),
        source_active=updates_too_large,
        source_reads=("update_ratio", "schedule_excess"),
        needs_reference=True,
        source_signals=("update_gain",),
    ),
    "OD-2": NO_PLAN,
    "OD-3": NO_PLAN,
    "NUMERICAL": RemedyPlan(steps=(rollback_numerical,)),
}
"""By code of the fault."""
