"""The shipped policy: a plan of remedies per fault and place, the gentlest first, and what else is known about each."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.policies.api import MOST_TIMES, PolicyContext, place_of
from rftfm_ray.policies.playbook import credit, environment, generation, optimization, reward
from rftfm_ray.policies.playbook.plan import NO_PLAN, Cause, FaultPlan, PlannedRemedy, RemedyPlan
from rftfm_ray.verdicts import Decision, Place

__all__ = ["PLANS", "Cause", "FaultPlan", "PlannedRemedy", "Playbook", "RemedyPlan", "plan_of"]

PLANS: Mapping[str, FaultPlan] = {
    **reward.PLANS, **generation.PLANS, **optimization.PLANS, **credit.PLANS, **environment.PLANS,
}  # fmt: skip
"""What is known about remedying each fault of the taxonomy. A plan without remedies leaves the fault to people."""


def plan_of(code: str, place: Place | None) -> RemedyPlan:
    """The plan of a fault at a place; an empty one where nothing is known.

    Args:
        code: of the fault.
        place: where its source sits; None where nothing tells, and it is taken to sit where it does most often.
    """
    return PLANS[code].of(place) if code in PLANS else NO_PLAN


class Playbook:
    """The default: goes through the plan of remedies that ships for a fault, the gentlest first.

    Gentle remedies come first where nothing allows more, and in place of a rollback without a snapshot to go back to.
    """

    def decide(self, ctx: PolicyContext) -> Decision:
        """The next remedy of the plan that was not tried in this incident, nor twice at its step in earlier ones."""
        code, plan = ctx.diagnosis.code, plan_of(ctx.diagnosis.code, ctx.diagnosis.place)
        if not plan.remedies:
            return Decision(None, f"the playbook has no remedy for {code}")
        done = {tried.remedy for tried in ctx.tried}
        planned = plan.remedies if ctx.ground is not None else (*plan.gentle, *plan.remedies)
        if ctx.ground is None:
            planned = tuple(sorted(planned, key=lambda remedy: remedy.is_costly))
        left = [made for remedy in planned if remedy.name not in done and (made := remedy.made(ctx)) is not None]
        asked = f"; {plan.ask}" if plan.ask else ""
        if not left:
            known = [remedy for remedy in planned if remedy.name not in done]
            why = "nothing has measured what its remedies go by" if known else "all its remedies have been tried"
            return Decision(None, f"{code}: {why}{asked}")
        lacking = next((remedy.name for remedy, _ in left if place_of(remedy, ctx) is None), None)
        if lacking is not None and ctx.ground is not None:
            gentle = (remedy.made(ctx) for remedy in plan.gentle if remedy.name not in done)
            left += [made for made in gentle if made is not None]
        for remedy, reason in left:
            place = place_of(remedy, ctx)
            if place is not None and ctx.times_given(remedy.name, place) < MOST_TIMES:
                return Decision(remedy, reason)
        if lacking is not None:
            return Decision(None, f"{lacking} needs a snapshot from before step {ctx.diagnosis.onset_low}{asked}")
        return Decision(None, f"every remedy left for {code} was applied {MOST_TIMES} times at the same step{asked}")
