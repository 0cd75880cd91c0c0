"""The shipped policy: a table of remedies per fault, the gentlest first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Decision, Remedy

Step = Callable[[PolicyContext], tuple[Remedy, str]]

# An update this many times its usual size is too large; below, the rate is lowered by a fixed share.
ELEVATED = 1.5
UNEXPLAINED_SCALE = 0.3


def regrade(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Train on the trusted verifier's rewards."""
    del ctx
    reason = (
        "the live reward channel disagrees with the trusted verifier, so every trajectory is graded again and the "
        "verifier's reward trains"
    )
    return Remedy("regrade", Levers(regrade_rate=1.0)), reason


def regrade_and_rollback(ctx: PolicyContext) -> tuple[Remedy, str]:
    """The same, from a state that has not learned from spiked rewards."""
    remedy, reason = regrade(ctx)
    return Remedy("regrade_and_rollback", remedy.levers, rollback=True), f"{reason}; what was learned from it goes"


def rollback_lower_rate(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Undo the explosion, and come back to updates of the usual size."""
    scale, why = lower_rate(ctx)
    levers = Levers(lr_scale=scale, kl_coef_scale=2.0)
    return Remedy("rollback_lower_rate", levers, rollback=True), f"{why}; KL is held twice as strongly meanwhile"


def rollback_much_lower_rate(ctx: PolicyContext) -> tuple[Remedy, str]:
    """As before, with a quarter of the rate and the strongest hold."""
    scale, why = lower_rate(ctx)
    levers = Levers(lr_scale=max(0.01, scale / 4), kl_coef_scale=10.0)
    return Remedy("rollback_much_lower_rate", levers, rollback=True), f"{why}, and to a quarter of that for safety"


def lower_rate(ctx: PolicyContext) -> tuple[float, str]:
    """A scale of the learning rate that brings updates back to their usual size, and why it is that one.

    The size of an AdamW update is in proportion to the rate, so the ratio of the update's size now to its size
    before the onset says how much too large the effective rate is, whatever multiplies it.
    """
    rate, excess = ctx.signal("lr")[-1], ctx.signal("lr_excess")[-1]
    declared = rate * math.exp(-excess) / ctx.nominal.lr
    if abs(excess) > 0.01:
        return _bounded(declared), f"the rate in force is {math.exp(excess):.3g} times the one called for; fixed there"
    since = [
        u for r, u in zip(ctx.reports, ctx.signal("update_ratio"), strict=True) if r.id.step >= ctx.diagnosis.onset
    ]
    usual, now = ctx.before_onset("update_ratio"), median(since) if since else math.nan
    if usual > 0 and now / usual >= ELEVATED:
        return _bounded(
            declared * usual / now
        ), f"updates are {now / usual:.3g} times their usual size; the rate follows"
    return _bounded(
        declared * UNEXPLAINED_SCALE
    ), "updates have their usual size and still lead away; the rate is lowered"


def _bounded(scale: float) -> float:
    return min(1.0, max(0.01, scale))


def retry_and_failover(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Ask the other tool instance, more than once, and draw anew what was lost."""
    other = 0 if ctx.levers.tool_instance == 1 else 1
    reason = (
        f"the tool fails, not the model: calls go to instance {other} first, failed ones are tried again, and "
        "trajectories that were masked are drawn anew"
    )
    return Remedy("retry_and_failover", Levers(tool_instance=other, tool_retries=2, refill_rounds=1)), reason


def mask_and_refill(ctx: PolicyContext) -> tuple[Remedy, str]:
    """No instance is well: whatever fails stays masked, and is drawn anew until the groups are whole."""
    del ctx
    reason = (
        "every tool instance fails: failed trajectories stay masked, are never scored 0, and are drawn anew; "
        "somebody has to mend the tool"
    )
    return Remedy("mask_and_refill", Levers(tool_retries=5, refill_rounds=5)), reason


def rollback_numerical(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Back to finite numbers, past the batch that broke them, at a lower rate."""
    del ctx
    levers = Levers(lr_scale=UNEXPLAINED_SCALE)
    reason = "values are no longer finite; the same batch is not tried again"
    return Remedy("rollback_skip_batch", levers, rollback=True, skip_batches=1), reason


PLANS: Mapping[str, Sequence[Step]] = {
    "RF-1": (regrade, regrade_and_rollback),
    "OD-1": (rollback_lower_rate, rollback_much_lower_rate),
    "TE-1": (retry_and_failover, mask_and_refill),
    "NUMERICAL": (rollback_numerical,),
}
"""Remedies of a fault in the order in which they are tried. Codes that are not here are for people."""


class Playbook:
    """Goes through a fault's plan, one remedy after the other."""

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next remedy of the plan that has not been tried."""
        code = ctx.diagnosis.code
        plan, done = PLANS.get(code, ()), len(ctx.tried)
        if not plan:
            return Decision(None, f"the playbook has no remedy for {code}")
        if done >= len(plan):
            return Decision(None, f"all {len(plan)} remedies for {code} have been tried")
        remedy, reason = plan[done](ctx)
        if remedy.rollback and not any(step < ctx.diagnosis.onset_low for step in ctx.snapshots):
            return Decision(None, f"{remedy.name} needs a snapshot from before step {ctx.diagnosis.onset_low}")
        return Decision(remedy, reason)
