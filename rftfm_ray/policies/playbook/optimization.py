"""Optimization faults (OD), and values that are not finite: updates lead away from what was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rftfm_ray.policies.api import PolicyContext, restore_step
from rftfm_ray.policies.levers import BOUNDS
from rftfm_ray.policies.measured import MEASURES, inverse_of
from rftfm_ray.policies.playbook.generation import CLEAN_PATH, SAMPLED_OTHERWISE, WEIGHTED
from rftfm_ray.policies.playbook.plan import FaultPlan, PlannedRemedy, RemedyPlan, Setting, above, below, frozen
from rftfm_ray.policies.playbook.reading import beyond, newest
from rftfm_ray.signals.arithmetic import safe_exp
from rftfm_ray.signals.limits import SHARPER
from rftfm_ray.signals.schema import value
from rftfm_ray.types import Action, Levers
from rftfm_ray.verdicts import Place, StepReport

# An update this many times its usual size is too large; below, the rate is lowered by a fixed share.
ELEVATED = 1.5
UNEXPLAINED_SCALE = 0.3
# The rate in force, or the schedule's factor, is off by more than this, as a difference of logarithms.
TOLERANCE = 0.01
# Exponent of sharpening from which it is no longer known how much colder samples are drawn.
FAR = 1.5
# Share of the weights that an update moves at least where none is left out.
MOVED = 0.95


def lower_rate_alone(ctx: PolicyContext) -> Setting:
    """Bring updates back to their usual size, and give up no step: no harm is shown so far, or no snapshot is left."""
    lowered = lower_rate(ctx)
    because = "no independent check shows harm so far"
    if ctx.ground is not None:
        because = f"there is no snapshot from before step {ctx.diagnosis.onset_low}"
    return lowered.levers(), f"{lowered.reason}; no step is given up, because {because}"


def lower_rate_anew(ctx: PolicyContext) -> Setting | None:
    """Undo the explosion, and return to updates of the usual size; None where no rate does that."""
    if _is_broken(ctx):
        return None
    lowered = lower_rate(ctx)
    meanwhile = "" if lowered.is_exact else "; the KL penalty is doubled meanwhile"
    return lowered.levers(), f"{lowered.reason}{meanwhile}"


def much_lower_rate(ctx: PolicyContext) -> Setting | None:
    """The same, with a quarter of the rate and the strongest KL penalty."""
    if _is_broken(ctx):
        return None
    lowered = lower_rate(ctx)
    reason = f"{lowered.reason}, and to a quarter of that for safety"
    return Levers(lr_scale=max(0.01, lowered.scale / 4), kl_coef_scale=10.0), reason


def _is_broken(ctx: PolicyContext) -> bool:
    """Whether a step does not do what the optimizer should, and updates are larger than that explains.

    What a step loses each time adds up over the steps: the factor of one of them is then no factor of the rate.
    """
    measured, observed = inverse_of("lr_scale", ctx), _update_growth(ctx)
    return measured is not None and 0 < measured[0] < 1 and observed > ELEVATED / measured[0]


def _update_growth(ctx: PolicyContext) -> float:
    """Size of updates since the onset over the usual one; NaN where one of them is not known."""
    pairs = zip(ctx.reports, ctx.signal("update_ratio"), strict=True)
    since = [size for report, size in pairs if report.id.step >= ctx.diagnosis.onset]
    usual = _usual_update(ctx)
    return median(since) / usual if since and usual > 0 else math.nan


@dataclass(frozen=True, slots=True)
class LoweredRate:
    """A scale of the learning rate, and why it is that one.

    Attributes:
        scale: of the nominal rate.
        reason: in words.
        is_exact: whether what multiplies the rate was measured, so that nothing is left of it to hold back.
    """

    scale: float
    reason: str
    is_exact: bool = False

    def levers(self) -> Levers:
        """The rate, and a stronger KL penalty where the rate may not be all: one that is not needed slows learning."""
        return Levers(lr_scale=self.scale) if self.is_exact else Levers(lr_scale=self.scale, kl_coef_scale=2.0)


def lower_rate(ctx: PolicyContext) -> LoweredRate:
    """A scale of the learning rate that brings updates back to their usual size, and why it is that one.

    The size of an AdamW update is in proportion to the rate, so the ratio of the update's size now to its size
    before the onset says how much too large the effective rate is, whatever multiplies it.
    """
    rate, excess = ctx.signal("lr")[-1], ctx.signal("lr_excess")[-1]
    declared = rate * safe_exp(-excess) / ctx.nominal.lr
    if abs(excess) > TOLERANCE:
        factor = safe_exp(excess)
        restored = f"the learning rate is {factor:.3g} times the declared one, which is restored"
        return LoweredRate(_bounded(declared), restored, is_exact=True)
    measured = inverse_of("lr_scale", ctx)
    if measured is not None and 0 < measured[0] < 1:
        gain = 1 / measured[0]
        less = f"updates go {gain:.3g} times as far as they should, and the rate less"
        return LoweredRate(_bounded(declared * measured[0]), less, is_exact=True)
    growth = _update_growth(ctx)
    if growth >= ELEVATED:
        as_much = f"updates are {growth:.3g} times their usual size; the learning rate is lowered by as much"
        return LoweredRate(_bounded(declared / growth), as_much)
    scale = _bounded(declared * UNEXPLAINED_SCALE)
    if math.isnan(_usual_update(ctx)):
        unknown = "no step from before the fault shows the usual size of updates; lower learner.lr if this helps"
        return LoweredRate(scale, unknown)
    return LoweredRate(
        scale, "updates have their usual size and the policy still runs away; the learning rate is lowered"
    )


def _usual_update(ctx: PolicyContext) -> float:
    """Median size of the last ten updates with gradient from before the fault; NaN without one.

    Without gradient AdamW's updates shrink step by step, and the first one with gradient is many times larger.
    """
    earlier = [report for report in ctx.before_fault() if value(report, "grad_norm") != 0]
    sizes = [size for r in earlier[-10:] if math.isfinite(size := value(r, "update_ratio"))]
    return median(sizes) if sizes else math.nan


def _bounded(scale: float) -> float:
    return min(1.0, max(0.01, scale))


def skip_batch(ctx: PolicyContext) -> Setting | None:
    """Return to finite numbers, past the batch that broke them, at a lower rate; not where others lie before it."""
    restored = restore_step(ctx)
    if restored is not None and restored < ctx.diagnosis.onset - 1:
        return None
    return Levers(lr_scale=_carefully(ctx)), "values are not finite; the batch that broke them is skipped"


def _carefully(ctx: PolicyContext) -> float:
    """A lower rate; one that another fault has called for stays where it is lower still."""
    return min(UNEXPLAINED_SCALE, ctx.levers.lr_scale or 1.0)


def quarantine(ctx: PolicyContext) -> Setting:
    """Return to finite numbers, and keep the prompts since the onset out, as far as half of the pool is left."""
    reason = "values are not finite; the prompts of these steps are kept out, the newest first, up to half of the pool"
    return Levers(lr_scale=_carefully(ctx)), reason


def raised_rate(ctx: PolicyContext) -> Setting | None:
    """Make up for the share of every update that is lost; None where nothing has measured it, or nothing is left.

    No rate moves weights that are left out of every step, and a higher one only moves the others too far.
    """
    if newest(ctx, "changed_rate") < MOVED:
        return None
    measured = inverse_of("lr_scale", ctx)
    if measured is None or measured[0] <= 1:
        return None
    scale = min(BOUNDS["lr_scale"].high, measured[0])
    reason = f"updates move the weights by {1 / measured[0]:.3g} of what the optimizer should, and the rate makes it up"
    return Levers(lr_scale=scale), reason


def new_learner(ctx: PolicyContext) -> Setting | None:
    """Start the learner again from its own state; not where its optimizer does what it should at the rate it is given.

    Unlike a rate that makes up for what one step does wrong, it also mends what adds up over the steps.
    """
    gain, excess = newest(ctx, "update_gain"), newest(ctx, "lr_excess")
    if not abs(gain - 1) > TOLERANCE or abs(excess) > TOLERANCE:
        return None
    return Levers(), f"updates go {gain:.3g} times as far as the optimizer computes, and a new learner takes over"


def updates_lost(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether updates still fall short of what the optimizer should move the weights by."""
    del reference
    return any(value(r, "update_gain") < 1 - TOLERANCE for r in reports)


def sent_again(ctx: PolicyContext) -> Setting:
    """Send the weights again, and compare by hash what is served."""
    del ctx
    return Levers(), "the rollout samples with weights that are not the learner's, which are sent again and verified"


def started_again(ctx: PolicyContext) -> Setting:
    """Start the rollout actors again, which get their weights whole."""
    del ctx
    return Levers(), "weights that were sent again do not arrive either, so the rollout actors are started again"


def warmer(ctx: PolicyContext) -> Setting | None:
    """The temperature at which the sampler draws as it is declared; None where it does not draw colder, or far colder.

    The exponent is read off to first order: what is far away looks nearer than it is, and cannot be taken back by it.
    """
    slope = newest(ctx, "gap_slope")
    if not SHARPER < slope < FAR:
        return None
    scale = min(BOUNDS["temperature_scale"].high, (ctx.levers.temperature_scale or 1.0) * slope)
    reason = f"samples are drawn about {slope:.3g} times as cold as declared, and a higher temperature is asked for"
    return Levers(temperature_scale=scale), reason


def still_cold(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the higher temperature still meets a lower one: without it the samples would be too hot."""
    del reference
    return any(value(report, "gap_slope") > 1 / SHARPER for report in reports)


def entropy_back(ctx: PolicyContext) -> Setting | None:
    """Give back the entropy bonus that the loss was found to lack; None where no law has measured it."""
    measured = inverse_of("entropy_coef", ctx)
    if measured is None or measured[0] <= 0:
        return None
    coefficient, law = min(BOUNDS["entropy_coef"].high, measured[0]), measured[1]
    reason = f"the loss punishes entropy, as {law} measures, and entropy_coef={coefficient:.3g} gives it back"
    return Levers(entropy_coef=coefficient), reason


def shown_bonus(report: StepReport) -> float:
    """The coefficient of an entropy bonus that the loss shows, where it has no other parts than those of the policy."""
    rest = value(report, "loss") - value(report, "policy_loss") - value(report, "kl_coef") * value(report, "kl_ref")
    entropy = value(report, "entropy")
    return -rest / entropy if entropy > 0 else math.nan


def entropy_punished(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the loss punishes entropy, where nothing makes up for it."""
    del reference
    return any(shown_bonus(report) < -TOLERANCE for report in reports)


def bonus_taken_back(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the bonus that was given back still meets what takes it: without that the loss would show all of it."""
    del reference
    most = BOUNDS["entropy_coef"].usual_high or math.inf
    return any(shown_bonus(report) <= most for report in reports)


def updates_too_large(reports: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether something still multiplies updates: a step's own factor, the schedule's, or their size for their rate."""
    usual = [_gain(r) for r in reference if math.isfinite(_gain(r))]
    excess = any(abs(value(r, "schedule_excess")) > TOLERANCE for r in reports)
    excess = excess or any(value(r, "update_gain") > 1 + TOLERANCE for r in reports)
    return excess or (bool(usual) and any(_gain(r) > ELEVATED * max(usual) for r in reports))


def _gain(report: StepReport) -> float:
    """How far updates go for the rate that they are given."""
    rate = value(report, "lr")
    return value(report, "update_ratio") / rate if rate > 0 else math.nan


_RATE = ("lr_scale", "kl_coef_scale")
_STALE = frozen("the rollout samples with weights that are not the learner's; start its actors again")
_NEW_LEARNER = PlannedRemedy("new_learner", (), new_learner, actions=(Action.RESTART_LEARNER,))
_COLLAPSED = frozen("the policy explores no more and no other way to sample is left; look at sampler and loss")
TOO_LARGE = RemedyPlan(
    remedies=(
        PlannedRemedy("rollback_lower_rate", _RATE, lower_rate_anew, rollback=True),
        PlannedRemedy("rollback_much_lower_rate", _RATE, much_lower_rate, rollback=True),
        PlannedRemedy("rollback_new_learner", (), new_learner, rollback=True, actions=(Action.RESTART_LEARNER,)),
    ),
    gentle=(_NEW_LEARNER, PlannedRemedy("lower_rate", _RATE, lower_rate_alone)),
    containing=("lr_scale",),
    source_active=updates_too_large,
    source_reads=("update_ratio", "schedule_excess", "update_gain"),
    needs_reference=True,
    source_sides=above("update_gain"),
    ask="look at what multiplies the learning rate",
)
"""Updates that go too far."""
LOST = RemedyPlan(
    remedies=(
        PlannedRemedy("raised_rate", ("lr_scale",), raised_rate, measured_by=("identity:update_gain",)),
        _NEW_LEARNER,
    ),
    containing=("lr_scale",),
    source_active=updates_lost,
    source_reads=("update_gain",),
    source_sides=below("update_gain"),
    ask="look at what stands between the gradient and the weights",
)
"""Updates that fall short, or reach a part of the weights alone."""
UNSYNCED = RemedyPlan(
    remedies=(
        PlannedRemedy("send_weights_again", (), sent_again, actions=(Action.RESYNC,)),
        PlannedRemedy("restart_rollout", (), started_again, actions=(Action.RESTART_ROLLOUT,)),
        WEIGHTED, _STALE,
    ),
    containing=("is_cap", "freeze_policy"),
    source_active=beyond({"weights_mismatch": 0.0}),
    source_reads=("weights_mismatch",),
    source_sides=(*above("weights_mismatch"), *SAMPLED_OTHERWISE),
    ask="look at what stands between learner and rollout",
)  # fmt: skip
"""New weights that do not reach the rollout."""
COLD = RemedyPlan(
    remedies=(
        PlannedRemedy("higher_temperature", ("temperature_scale",), warmer),
        CLEAN_PATH, WEIGHTED, _COLLAPSED,
    ),
    containing=("temperature_scale", "rollout_path", "is_cap", "freeze_policy"),
    hidden_by=("rollout_path",),
    inverted_by={"temperature_scale": still_cold},
    source_active=beyond({"gap_slope": SHARPER}),
    source_reads=("gap_slope",),
    source_sides=SAMPLED_OTHERWISE,
    ask="compare the temperature of the engine with rollout.temperature",
)  # fmt: skip
"""A sampler that draws colder than declared."""
PUNISHED = RemedyPlan(
    remedies=(
        PlannedRemedy("entropy_back", ("entropy_coef",), entropy_back, measured_by=MEASURES["entropy_coef"].detectors),
        PlannedRemedy(
            "entropy_back_and_rollback", ("entropy_coef",), entropy_back, rollback=True,
            measured_by=MEASURES["entropy_coef"].detectors,
        ),
        _COLLAPSED,
    ),
    containing=("entropy_coef", "freeze_policy"),
    inverted_by={"entropy_coef": bonus_taken_back},
    breaks_under=("entropy_coef",),
    source_active=entropy_punished,
    source_reads=("loss", "policy_loss", "entropy"),
    source_sides=(*above("loss"), *below("loss")),
    ask="look at the terms of the loss",
)  # fmt: skip
"""A loss that punishes entropy."""

PLANS: Mapping[str, FaultPlan] = {
    "OD-1": FaultPlan(TOO_LARGE),
    "OD-2": FaultPlan(LOST, {Place.SYNC: UNSYNCED}),
    "OD-3": FaultPlan(COLD, {Place.LOSS: PUNISHED}),
    "NUMERICAL": FaultPlan(
        RemedyPlan(
            (
                PlannedRemedy("rollback_skip_batch", ("lr_scale",), skip_batch, rollback=True, skip_batches=1),
                PlannedRemedy("rollback_quarantine", ("lr_scale",), quarantine, rollback=True, quarantine=True),
            )
        )
    ),
}  # fmt: skip
"""By code of the fault."""
