"""Remedies of credit faults (CA): the loss goes by the commit gate's recomputation, past what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import FaultPlan, PlannedRemedy, RemedyPlan, Setting, above, frozen
from rftfm_ray.policies.playbook.reading import beyond
from rftfm_ray.signals.limits import ADVANTAGE_LIMIT, CREDIT_LIMIT
from rftfm_ray.types import CreditSource, Levers

# What the learner's own path delivers is compared whichever credit the loss goes by.
ERRORS: dict[str, float] = {
    "advantage_error": ADVANTAGE_LIMIT, "credit_error": CREDIT_LIMIT, "return_error": CREDIT_LIMIT,
    "value_error": CREDIT_LIMIT, "sample_mismatch_rate": 0.0,
}  # fmt: skip


def recomputed(ctx: PolicyContext) -> Setting:
    """The independent recomputation at the loss, by declared settings, of advantages and of a critic's targets."""
    del ctx
    reason = "credit is not what rewards and values give, so the loss takes it from the independent recomputation"
    return Levers(credit_source=CreditSource.RECOMPUTED.value), reason


def relative(ctx: PolicyContext) -> Setting | None:
    """Rewards relative to their group, past a critic; None where there are no groups."""
    if ctx.facts is not None and ctx.facts.group_size < 2:
        return None
    reason = "rewards relative to their group need no critic, and its loss no longer reaches the policy"
    return Levers(credit_source=CreditSource.GROUP.value), reason


_LEVER = ("credit_source",)
_FREEZE = frozen("no source of credit helps; look at what stands between rewards and the loss")

RECOMPUTED = RemedyPlan(
    remedies=(
        PlannedRemedy("recomputed_credit", _LEVER, recomputed),
        PlannedRemedy("recomputed_credit_and_rollback", _LEVER, recomputed, rollback=True),
        PlannedRemedy("relative_credit", _LEVER, relative), _FREEZE,
    ),
    containing=("credit_source", "freeze_policy"),
    source_active=beyond(ERRORS),
    source_reads=tuple(ERRORS),
    source_sides=above(*ERRORS),
    ask="look at what stands between rewards and the loss",
)  # fmt: skip
"""What wrong credit is answered with, wherever it comes from."""

PLANS: Mapping[str, FaultPlan] = {code: FaultPlan(RECOMPUTED) for code in ("CA-1", "CA-2", "CA-3")}
"""By code of the fault."""
