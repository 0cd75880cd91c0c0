"""Remedies at the reward function: it says something else than the trusted verifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import FaultPlan, PlannedRemedy, RemedyPlan, Setting, above, frozen
from rftfm_ray.policies.playbook.reading import is_measured
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import StepReport

# Share of verdicts in which an honest reward channel may disagree with the verifier.
HONEST_SHARE = 0.005
# What the live channel says, whichever rewards are trained on.
SOURCE = ("golden_mismatch_rate", "regrade_mismatch_rate")
GRADED = ("regrade_mismatch_rate",)


def regrade(ctx: PolicyContext) -> Setting | None:
    """Train on the trusted verifier's rewards; None where a run has no verifier."""
    if not is_measured(ctx, "regrade_count"):
        return None
    reason = (
        "the live reward channel disagrees with the trusted verifier, so every trajectory is graded again and the "
        "verifier's reward is trained on"
    )
    return Levers(regrade_rate=1.0), reason


def regrade_anew(ctx: PolicyContext) -> Setting | None:
    """The same, from a state that has not learned from wrong rewards."""
    setting = regrade(ctx)
    return None if setting is None else (setting[0], f"{setting[1]}; what was learned from wrong rewards is undone")


def channel_disagrees(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the live reward channel still disagrees with the verifier, whichever of the two is trained on."""
    del reference
    graded = [(value(r, "regrade_mismatch_rate"), value(r, "regrade_count")) for r in reports]
    counted = [(rate * count, count) for rate, count in graded if rate * count >= 0]
    wrong, total = math.fsum(w for w, _ in counted), math.fsum(count for _, count in counted)
    return wrong > 1 and wrong > HONEST_SHARE * total


CHANNEL = RemedyPlan(
    remedies=(
        PlannedRemedy("regrade", ("regrade_rate",), regrade),
        PlannedRemedy("regrade_and_rollback", ("regrade_rate",), regrade_anew, rollback=True),
        frozen("the reward cannot be trusted and nothing better is left to train on; repair the reward function"),
    ),
    containing=("regrade_rate", "freeze_policy"),
    source_active=channel_disagrees,
    source_reads=GRADED,
    source_sides=above(*SOURCE),
    ask="repair the reward function",
)
"""What a wrong reward is answered with, whatever it teaches."""

PLANS: Mapping[str, FaultPlan] = {code: FaultPlan(CHANNEL) for code in ("RF-1", "RF-2", "RF-3")}
"""By code of the fault."""
