"""The shipped policy: a plan of remedies per fault, the gentlest first, and what else is known about each fault."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.policies.api import MOST_TIMES, PolicyContext, place_of
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
    """The default: goes through the plan of remedies that ships for a fault, the gentlest first.

    Gentle remedies come first where nothing allows more, and in place of a rollback without a snapshot to go back to.
    """

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next remedy of the plan that was not tried in this incident, nor twice at its step in earlier ones."""
        code, plan = ctx.diagnosis.code, plan_of(ctx.diagnosis.code)
        if not plan.steps:
            return Decision(None, f"the playbook has no remedy for {code}")
        done = {tried.remedy for tried in ctx.tried}
        steps = plan.steps if ctx.ground is not None else (*plan.gentle, *plan.steps)
        made = [step(ctx) for step in steps]
        left = [(remedy, reason) for remedy, reason in made if remedy.name not in done]
        if not left:
            return Decision(None, f"all {len(made)} remedies for {code} have been tried")
        lacking = next((remedy.name for remedy, _ in left if place_of(remedy, ctx) is None), None)
        if lacking is not None and ctx.ground is not None:
            left += [(remedy, why) for remedy, why in (step(ctx) for step in plan.gentle) if remedy.name not in done]
        for remedy, reason in left:
            place = place_of(remedy, ctx)
            if place is not None and ctx.times_given(remedy.name, place) < MOST_TIMES:
                return Decision(remedy, reason)
        if lacking is not None:
            return Decision(None, f"{lacking} needs a snapshot from before step {ctx.diagnosis.onset_low}")
        return Decision(None, f"every remedy left for {code} was applied {MOST_TIMES} times at the same step")
