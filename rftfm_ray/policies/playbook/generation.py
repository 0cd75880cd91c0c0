"""Remedies of generation faults (PG): what is sampled, or what comes back of it, is not what the policy says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.playbook.plan import FaultPlan, PlannedRemedy, RemedyPlan, Setting, above, below, frozen
from rftfm_ray.policies.playbook.reading import beyond, newest
from rftfm_ray.policies.playbook.reward import CHANNEL
from rftfm_ray.signals.groups import GAPS
from rftfm_ray.signals.limits import BIASED
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Place, StepReport

# Largest weight of a token that was sampled by something else than the policy: twice as likely as it was.
CAP = 2.0
# Largest bias that is asked for, in nats: beyond it an end is as good as certain, or impossible.
MOST_BIAS = 40.0
# Divergence of what is sampled from what the policy says, in nats a token, from which another sampler is at work; that
# of two engines in bfloat16 is some 1e-5.
PLAIN_KL = 1e-3
# Turns that are cut off come back with half of their tokens or more, so that twice as many are whole.
TWICE = 2.0


def opposite_bias(ctx: PolicyContext) -> Setting | None:
    """A bias on end tokens that takes away what the sampler adds to them; None where that is not known."""
    added = newest(ctx, "gap_end")
    if not abs(added) > BIASED:
        return None
    bias = max(-MOST_BIAS, min(MOST_BIAS, (ctx.levers.end_bias or 0.0) - added))
    done = "adds to" if added > 0 else "takes from"
    reason = f"the sampler {done} the logit of ends {abs(added):.3g} nats, and the opposite is asked for"
    return Levers(end_bias=bias), reason


def ends_biased(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether ends are sampled otherwise than the policy says, where nothing makes up for it."""
    del reference
    return any(abs(value(report, "gap_end")) > BIASED for report in reports)


def ends_still_biased(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the opposite bias still meets one: without it the lever itself would show as a gap at the ends."""
    del reference
    return any(abs(value(report, "gap_end")) <= BIASED for report in reports)


def clean_path(ctx: PolicyContext) -> Setting:
    """Turns go to the engine by the path of held-out probes."""
    del ctx
    reason = (
        "what is sampled is not what the policy says, so turns go to the engine by the path of held-out probes, with "
        "the declared terms of sampling"
    )
    return Levers(rollout_path=1), reason


def clean_prompts(ctx: PolicyContext) -> Setting:
    """Prompts come from the problems themselves, as those of held-out probes do."""
    del ctx
    return Levers(rollout_path=1), "prompts hold what is to be said, so they are taken from the problems themselves"


def weighted(ctx: PolicyContext) -> Setting | None:
    """The loss corrects for who has sampled; None where it cannot be known, under top_p."""
    if ctx.facts is not None and ctx.facts.top_p < 1:
        return None
    reason = "tokens are weighted by how much likelier the policy finds them than the sampler, at most twice"
    return Levers(is_cap=CAP), reason


def more_tokens(ctx: PolicyContext) -> Setting:
    """Ask for so many tokens that those that are left are enough."""
    del ctx
    return Levers(tokens_scale=TWICE), "turns come back cut off, so twice the tokens are asked for"


def mask_truncated(ctx: PolicyContext) -> Setting:
    """Keep what a limit has cut off out of the loss."""
    del ctx
    return Levers(mask_truncated=1), "what a limit has cut off says nothing of the policy and stays out of the loss"


CLEAN_PATH = PlannedRemedy("clean_path", ("rollout_path",), clean_path)
WEIGHTED = PlannedRemedy("importance_weights", ("is_cap",), weighted)
_FREEZE = frozen("answers are not those of the policy and no other way to sample is left; repair the inference server")
SAMPLED_OTHERWISE = (*above("rollout_kl", "rollout_gap_max", *GAPS), *below("rollout_ratio_mean", *GAPS))
"""What another sampler than the declared one moves whatever the loss makes of it."""
_ASK_SAMPLER = "compare the sampling terms of the engine with the configuration"

ENDS = RemedyPlan(
    remedies=(
        PlannedRemedy("opposite_end_bias", ("end_bias",), opposite_bias),
        CLEAN_PATH, WEIGHTED, _FREEZE,
    ),
    containing=("end_bias", "rollout_path", "is_cap", "freeze_policy"),
    hidden_by=("rollout_path",),
    inverted_by={"end_bias": ends_still_biased},
    source_active=ends_biased,
    source_reads=("gap_end",),
    source_sides=SAMPLED_OTHERWISE,
    ask=_ASK_SAMPLER,
)  # fmt: skip
"""A sampler that adds to end tokens, or takes from them."""
ANY_SAMPLER = RemedyPlan(
    remedies=(CLEAN_PATH, WEIGHTED, _FREEZE),
    containing=("rollout_path", "is_cap", "freeze_policy"),
    hidden_by=("rollout_path",),
    source_active=beyond({"rollout_kl": PLAIN_KL}),
    source_reads=("rollout_kl",),
    source_sides=SAMPLED_OTHERWISE,
    ask=_ASK_SAMPLER,
)
"""A sampler or server that puts other tokens in the place of the policy's."""
CUT_OFF = RemedyPlan(
    remedies=(
        CLEAN_PATH, PlannedRemedy("more_tokens", ("tokens_scale",), more_tokens),
        PlannedRemedy("mask_truncated", ("mask_truncated",), mask_truncated), _FREEZE,
    ),
    containing=("rollout_path", "tokens_scale", "mask_truncated", "freeze_policy"),
    hidden_by=("rollout_path",),
    source_active=beyond({"cut_short_rate": 0.0}),
    source_reads=("cut_short_rate",),
    source_sides=above("termination_mismatch_rate", "cut_short_rate"),
    ask="compare the limits of the inference server with task.max_new_tokens",
)  # fmt: skip
"""A server that cuts turns off."""
ENDLESS = RemedyPlan(
    remedies=(PlannedRemedy("mask_truncated", ("mask_truncated",), mask_truncated), _FREEZE),
    containing=("mask_truncated", "freeze_policy"),
    hidden_by=("mask_truncated", "freeze_policy"),
    ask="compare the end tokens of the generation configuration with those of the model",
)
"""Episodes that do not know their end."""
PROMPTS = RemedyPlan(
    remedies=(
        PlannedRemedy("clean_prompts", ("rollout_path",), clean_prompts),
        frozen("prompts hold what is to be said; look at how they are rendered"),
    ),
    containing=("rollout_path", "freeze_policy"),
    hidden_by=("rollout_path", "freeze_policy"),
    ask="look at how prompts are rendered",
)
"""Prompts that hold their answers, or parts of them."""

PLANS: Mapping[str, FaultPlan] = {
    "PG-1": FaultPlan(ENDS, {Place.REWARD: CHANNEL, Place.SERVER: ANY_SAMPLER, Place.DATA: PROMPTS}),
    "PG-2": FaultPlan(ANY_SAMPLER, {Place.REWARD: CHANNEL}),
    "PG-3S": FaultPlan(ENDS, {Place.REWARD: CHANNEL, Place.SERVER: CUT_OFF, Place.DATA: PROMPTS}),
    "PG-3L": FaultPlan(ENDS, {Place.REWARD: CHANNEL, Place.SERVER: ANY_SAMPLER, Place.LIMITS: ENDLESS}),
}
"""By code of the fault."""
