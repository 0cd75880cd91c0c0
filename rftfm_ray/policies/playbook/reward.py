"""Reward faults (RF): the reward channel says something else than the trusted verifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Remedy, StepReport

# Share of verdicts in which an honest reward channel may disagree with the verifier.
HONEST_SHARE = 0.005
# What the live channel says, whichever rewards are trained on.
SOURCE = ("golden_mismatch_rate", "regrade_mismatch_rate")
GRADED = ("regrade_mismatch_rate",)


def regrade(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Train on the trusted verifier's rewards."""
    del ctx
    reason = (
        "the live reward channel disagrees with the trusted verifier, so every trajectory is graded again and the "
        "verifier's reward is trained on"
    )
    return Remedy("regrade", Levers(regrade_rate=1.0)), reason


def regrade_and_rollback(ctx: PolicyContext) -> tuple[Remedy, str]:
    """The same, from a state that has not learned from wrong rewards."""
    remedy, reason = regrade(ctx)
    rollback = Remedy("regrade_and_rollback", remedy.levers, rollback=True)
    return rollback, f"{reason}; what was learned from wrong rewards is undone"


def channel_disagrees(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the live reward channel still disagrees with the verifier, whichever of the two is trained on."""
    del reference
    graded = [(value(r, "regrade_mismatch_rate"), value(r, "regrade_count")) for r in reports]
    counted = [(rate * count, count) for rate, count in graded if rate * count >= 0]
    wrong, total = math.fsum(w for w, _ in counted), math.fsum(count for _, count in counted)
    return wrong > 1 and wrong > HONEST_SHARE * total


PLANS: Mapping[str, RemedyPlan] = {
    "RF-1": RemedyPlan(
        steps=(regrade, regrade_and_rollback),
        containing=("regrade_rate",),
        source_active=channel_disagrees,
        source_reads=GRADED,
        source_signals=SOURCE,
    ),
    "RF-2": RemedyPlan(source_active=channel_disagrees, source_reads=GRADED, source_signals=SOURCE),
    "RF-3": NO_PLAN,
}
"""By code of the fault."""
