"""Remedies of tool and environment faults (TE): what comes back is wrong, and the model has no part in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.levers import BOUNDS
from rftfm_ray.policies.playbook.plan import FaultPlan, PlannedRemedy, RemedyPlan, Setting, above, below, frozen
from rftfm_ray.policies.playbook.reading import beyond, newest
from rftfm_ray.signals.limits import OTHER_LIMIT
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Place, StepReport

# A tool with a larger share of failing calls is broken.
FAILING_RATE = 0.05
# Where only some episodes are cut short, the mean says less than what each of them has lost.
LEAST_TOKENS = 2.0


def retry_and_failover(ctx: PolicyContext) -> Setting:
    """Call the other tool instance first, retry failed calls, and generate again what was lost."""
    other = _other_instance(ctx)
    reason = (
        f"the tool fails, not the model: calls go to instance {other} first, failed calls are retried, and masked "
        "trajectories are generated again"
    )
    return Levers(tool_instance=other, tool_retries=2, refill_rounds=1), reason


def mask_and_refill(ctx: PolicyContext) -> Setting:
    """Every instance fails: failed trajectories stay masked, and are generated again until the groups are full."""
    del ctx
    reason = (
        "every tool instance fails: failed trajectories stay masked, are never scored 0, and are generated again; "
        "repair the tool"
    )
    return Levers(tool_retries=5, refill_rounds=5), reason


def other_instance(ctx: PolicyContext) -> Setting:
    """Call the other tool instance first."""
    other = _other_instance(ctx)
    return Levers(tool_instance=other), f"this tool instance does not answer as it should; calls go to {other} first"


def _other_instance(ctx: PolicyContext) -> int:
    return 0 if ctx.levers.tool_instance == 1 else 1


def mask_altered(ctx: PolicyContext) -> Setting:
    """Keep episodes out of the loss whose observations are not what the tool says."""
    del ctx
    reason = (
        "observations are altered on their way: episodes whose tokens do not decode to their text, or whose replay "
        "differs, stay out of the loss"
    )
    return Levers(mask_undecoded=1, mask_unreplayed=1), reason


def mask_unreplayed(ctx: PolicyContext) -> Setting:
    """Keep episodes out of the loss whose replay differs."""
    del ctx
    return Levers(mask_unreplayed=1), "episodes whose replay differs stay out of the loss"


def tokens_back(ctx: PolicyContext) -> Setting | None:
    """Ask for so many tokens that those that are left are the declared ones; None where no limit is another one."""
    excess = newest(ctx, "limit_excess")
    if not excess < -OTHER_LIMIT:
        return None
    scale = min(BOUNDS["tokens_scale"].high, max(LEAST_TOKENS, math.exp(-excess)))
    reason = f"turns get {math.exp(excess):.3g} of the declared tokens, so {scale:.3g} times as many are asked for"
    return Levers(tokens_scale=scale), reason


def tool_fails(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether calls still fail: known calls to the idle instance, calls that needed a retry, and failed calls."""
    del reference
    names = ("tool_shadow_error_rate", "tool_retry_rate", "tool_error_rate")
    return any(value(r, name) > FAILING_RATE for r in reports for name in names)


def limits_differ(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether turns still get other tokens than declared."""
    del reference
    return any(abs(value(report, "limit_excess")) > OTHER_LIMIT for report in reports)


_OBSERVED = ("observation_mismatch_rate", "replay_observation_mismatch_rate", "observation_decode_mismatch_rate")
_ENDED = ("termination_mismatch_rate", "replay_termination_mismatch_rate")
_FREEZE = frozen("episodes are not what they should be and nothing keeps the wrong ones apart; repair the tool")
_INSTANCE = PlannedRemedy("other_instance", ("tool_instance",), other_instance)
_UNREPLAYED = PlannedRemedy("mask_unreplayed", ("mask_unreplayed",), mask_unreplayed)

FAILING = RemedyPlan(
    remedies=(
        PlannedRemedy("retry_and_failover", ("tool_instance", "tool_retries", "refill_rounds"), retry_and_failover),
        PlannedRemedy("mask_and_refill", ("tool_retries", "refill_rounds"), mask_and_refill),
    ),
    containing=("tool_instance", "tool_retries", "refill_rounds"),
    source_active=tool_fails,
    # Failed calls and retries are those of the instance in use, and may be gone because another one is.
    source_reads=("tool_shadow_error_rate",),
    source_sides=above("known_call_error_rate", "tool_shadow_error_rate", "tool_retry_rate"),
    ask="repair the tool",
)
"""Calls that fail."""
WRONG_TOOL = RemedyPlan(
    remedies=(_INSTANCE, _UNREPLAYED, _FREEZE),
    containing=("tool_instance", "mask_unreplayed", "freeze_policy"),
    hidden_by=("tool_instance",),
    source_active=beyond(dict.fromkeys((*_OBSERVED, *_ENDED), 0.0)),
    source_reads=(*_OBSERVED, *_ENDED),
    source_sides=above(*_OBSERVED, *_ENDED),
    ask="repair the tool instance whose answers differ",
)
"""A tool that answers, and says something else than it should."""
ALTERED = RemedyPlan(
    remedies=(PlannedRemedy("mask_altered", ("mask_undecoded", "mask_unreplayed"), mask_altered), _FREEZE),
    containing=("mask_undecoded", "mask_unreplayed", "freeze_policy"),
    source_active=beyond(dict.fromkeys(_OBSERVED, 0.0)),
    source_reads=_OBSERVED,
    source_sides=above(*_OBSERVED),
    ask="look at how observations are handed to the policy and encoded",
)
"""Observations that are altered between tool and policy."""
OTHER_LIMITS = RemedyPlan(
    remedies=(
        PlannedRemedy("tokens_back", ("tokens_scale",), tokens_back),
        PlannedRemedy("tokens_back_again", ("tokens_scale",), tokens_back),
    ),
    containing=("tokens_scale",),
    source_active=limits_differ,
    source_reads=("limit_excess",),
    source_sides=(*above("limit_excess", *_ENDED), *below("limit_excess")),
    ask="compare the limits of episodes with task.max_new_tokens; an episode that goes on past its end does no harm",
)
"""Episodes whose limits are not the declared ones."""

PLANS: Mapping[str, FaultPlan] = {
    "TE-1": FaultPlan(FAILING),
    "TE-2": FaultPlan(WRONG_TOOL, {Place.LINK: ALTERED}),
    "TE-3": FaultPlan(OTHER_LIMITS, {Place.TOOL: WRONG_TOOL}),
}
"""By code of the fault."""
