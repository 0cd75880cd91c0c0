"""The shipped policy: a plan of remedies per fault, the gentlest first, and what else is known about each fault."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook import credit, environment, generation, optimization, reward
from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan, Step
from rftfm_ray.verdicts import Decision

__all__ = ["PLANS", "Playbook", "RemedyPlan", "Step", "plan_of"]

PLANS: Mapping[str, RemedyPlan] = {
    **reward.PLANS, **generation.PLANS, **optimization.PLANS, **credit.PLANS, **environment.PLANS,
}  # fmt: skip
"""What is known about remedying each fault of the taxonomy. A plan without steps leaves the fault to people."""


def plan_of(code: str) -> RemedyPlan:
    """The plan of a fault; an empty one where nothing is known."""
    return PLANS.get(code, NO_PLAN)


class Playbook:
    """Goes through a fault's plan, one remedy after the other."""

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next remedy of the plan that has not been tried."""
        code = ctx.diagnosis.code
        steps, done = plan_of(code).steps, len(ctx.tried)
        if not steps:
            return Decision(None, f"the playbook has no remedy for {code}")
        if done >= len(steps):
            return Decision(None, f"all {len(steps)} remedies for {code} have been tried")
        remedy, reason = steps[done](ctx)
        if remedy.rollback and not any(step < ctx.diagnosis.onset_low for step in ctx.snapshots):
            return Decision(None, f"{remedy.name} needs a snapshot from before step {ctx.diagnosis.onset_low}")
        return Decision(remedy, reason)
