"""Tool and environment faults (TE): calls fail, and the model has no part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Remedy, StepReport

# A tool with a larger share of failing calls is broken.
FAILING_RATE = 0.05


def retry_and_failover(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Call the other tool instance first, retry failed calls, and generate again what was lost."""
    other = 0 if ctx.levers.tool_instance == 1 else 1
    reason = (
        f"the tool fails, not the model: calls go to instance {other} first, failed calls are retried, and masked "
        "trajectories are generated again"
    )
    return Remedy("retry_and_failover", Levers(tool_instance=other, tool_retries=2, refill_rounds=1)), reason


def mask_and_refill(ctx: PolicyContext) -> tuple[Remedy, str]:
    """Every instance fails: failed trajectories stay masked, and are generated again until the groups are full."""
    del ctx
    reason = (
        "every tool instance fails: failed trajectories stay masked, are never scored 0, and are generated again; "
        "repair the tool"
    )
    return Remedy("mask_and_refill", Levers(tool_retries=5, refill_rounds=5)), reason


def tool_fails(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether calls still fail: known calls to the idle instance, calls that needed a retry, and failed calls."""
    del reference
    names = ("tool_shadow_error_rate", "tool_retry_rate", "tool_error_rate")
    return any(value(r, name) > FAILING_RATE for r in reports for name in names)


PLANS: Mapping[str, RemedyPlan] = {
    "TE-1": RemedyPlan(
        steps=(retry_and_failover, mask_and_refill),
        containing=("tool_instance", "tool_retries", "refill_rounds"),
        source_active=tool_fails,
        # Failed calls alone are those of the instance in use, and may be gone because another one is.
        source_reads=("tool_shadow_error_rate", "tool_retry_rate"),
        source_signals=("known_call_error_rate", "tool_shadow_error_rate", "tool_retry_rate"),
    ),
    "TE-2": NO_PLAN,
    "TE-3": NO_PLAN,
}
"""By code of the fault."""
