"""The shipped policy: which remedy comes first, which next, and what a lowered rate is reckoned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.grounds import Ground, GroundKind
from rftfm_ray.policies.playbook import Playbook, plan_of
from rftfm_ray.policies.playbook.optimization import UNEXPLAINED_SCALE
from rftfm_ray.policies.safety import check_decision
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.taxonomy import family_of
from rftfm_ray.types import Action, Levers, Settings, StepId
from rftfm_ray.verdicts import (
    Decision,
    Diagnosis,
    Evidence,
    OutcomeKind,
    Place,
    Remedy,
    StepReport,
    Symptom,
    Tried,
)

NOMINAL = Settings(
    lr=1e-3, kl_coef=0.02, clip_low=0.2, clip_high=0.2, entropy_coef=0.0, max_grad_norm=1.0, minibatches=1,
    advantage_clip=None, group_filter=False, gamma=1.0, gae_lambda=0.95, critic_lr=1e-3, freeze_policy=False,
)  # fmt: skip
ONSET = 21
USUAL = {"lr": 1e-3, "update_ratio": 0.01, "grad_norm": 1.0, "update_gain": 1.0}
GROUND = Ground(GroundKind.IDENTITY, "the rate is not the declared one")
NAMES = {
    "RF-1": ("regrade", "regrade_and_rollback", "freeze"),
    "TE-1": ("retry_and_failover", "mask_and_refill"),
    "OD-1": ("rollback_lower_rate", "rollback_much_lower_rate", "rollback_new_learner"),
    "NUMERICAL": ("rollback_skip_batch", "rollback_quarantine"),
}


def report(step: int, **signals: float) -> StepReport:
    """A step without a finding, but for the signals that are given."""
    values = dict.fromkeys(INDEX, 0.0) | USUAL | signals
    assert len(values) == len(SIGNALS), "no such signal"
    return StepReport(StepId(0, step, step), step, tuple(values[signal.name] for signal in SIGNALS))


def context(
    code: str,
    tried: int = 0,
    moved: Mapping[str, float] | None = None,
    levers: Levers | None = None,
    snapshots: tuple[int, ...] = (15, 20),
    ground: Ground | None = GROUND,
) -> PolicyContext:
    """Twenty usual steps and three of a fault, with signals that it has moved, and remedies that did not help."""
    done = tuple(Tried(name, 22, Levers(), OutcomeKind.INEFFECTIVE) for name in NAMES.get(code, ())[:tried])
    seen = [report(step) for step in range(1, ONSET)] + [
        report(step, **(moved or {})) for step in range(ONSET, ONSET + 3)
    ]
    diagnosis = Diagnosis(code, family_of(code), 0.9, (), (), ONSET, ONSET, "")
    return PolicyContext(
        step=seen[-1].id,
        diagnosis=diagnosis,
        tried=done,
        levers=levers if levers is not None else Levers(),
        nominal=NOMINAL,
        snapshots=snapshots,
        budget_left=4,
        reports=tuple(seen),
        ground=ground,
    )


def remedy_for(ctx: PolicyContext) -> Remedy:
    """The remedy that the playbook names, fit to be carried out."""
    decision = check_decision(Playbook().decide(ctx), ctx)
    assert decision.remedy is not None, decision.reason
    assert decision.reason
    return decision.remedy


def reason_for(ctx: PolicyContext) -> str:
    """Why that one."""
    return Playbook().decide(ctx).reason


def test_spiked_rewards_are_graded_again_and_then_unlearned() -> None:
    assert remedy_for(context("RF-1")) == Remedy("regrade", Levers(regrade_rate=1.0))
    second = remedy_for(context("RF-1", tried=1))
    assert second == Remedy("regrade_and_rollback", Levers(regrade_rate=1.0), rollback=True)


def test_numbers_that_are_not_finite_go_with_their_batch() -> None:
    remedy = remedy_for(context("NUMERICAL", moved={"loss": math.nan}))
    assert remedy == Remedy("rollback_skip_batch", Levers(lr_scale=UNEXPLAINED_SCALE), rollback=True, skip_batches=1)


@pytest.mark.parametrize(("now", "other"), [(None, 1), (0, 1), (1, 0)])
def test_failing_tool_is_left_for_the_other_instance(now: int | None, other: int) -> None:
    remedy = remedy_for(context("TE-1", levers=Levers(tool_instance=now)))
    assert remedy.levers == Levers(tool_instance=other, tool_retries=2, refill_rounds=1)
    assert not remedy.rollback


def test_where_every_instance_fails_trajectories_are_masked_and_generated_again() -> None:
    assert remedy_for(context("TE-1", tried=1)) == Remedy("mask_and_refill", Levers(tool_retries=5, refill_rounds=5))


@pytest.mark.parametrize("factor", [30.0, 0.1])
def test_rate_that_nobody_called_for_is_fixed_at_the_declared_one(factor: float) -> None:
    ctx = context("OD-1", moved={"lr": 0.5e-3 * factor, "lr_excess": math.log(factor), "update_ratio": 0.01 * factor})
    remedy = remedy_for(ctx)
    assert remedy.rollback
    # The schedule calls for half of the nominal rate.
    assert remedy.levers.lr_scale == pytest.approx(0.5)
    # Nothing is left to hold back, and a stronger KL penalty slows learning.
    assert remedy.levers.kl_coef_scale is None
    assert f"{factor:.3g} times the declared one" in reason_for(ctx)


def test_hidden_gain_is_taken_out_of_the_rate() -> None:
    ctx = context("OD-1", moved={"update_ratio": 0.3})
    assert remedy_for(ctx).levers.lr_scale == pytest.approx(1 / 30)
    assert "30 times their usual size" in reason_for(ctx)


def test_hidden_gain_is_reckoned_from_the_rate_in_force() -> None:
    # A lever holds the rate at a half, and updates are ten times too large beside it.
    ctx = context("OD-1", moved={"lr": 0.5e-3, "update_ratio": 0.1}, levers=Levers(lr_scale=0.5))
    assert remedy_for(ctx).levers.lr_scale == pytest.approx(0.05)


@pytest.mark.parametrize(("ratio", "scale"), [(0.0151, 1 / 1.51), (0.0149, UNEXPLAINED_SCALE)])
def test_updates_of_their_usual_size_lower_the_rate_by_a_fixed_share(ratio: float, scale: float) -> None:
    assert remedy_for(context("OD-1", moved={"update_ratio": ratio})).levers.lr_scale == pytest.approx(scale)


def test_steps_that_were_made_again_under_the_fault_are_not_what_is_usual() -> None:
    ctx = context("OD-1", moved={"update_ratio": 0.3})
    first = [replace(r, id=StepId(1, r.id.step, r.id.paid_step)) for r in ctx.reports if r.id.step < ONSET - 3]
    again = [replace(report(step, update_ratio=0.3), id=StepId(1, step, step + 20)) for step in range(ONSET - 3, ONSET)]
    back = replace(ctx, reports=(*first, *again), tried=(Tried("rollback_lower_rate", ONSET + 3, Levers()),))
    assert back.before_onset("update_ratio") == 0.01
    assert back.before_fault() == tuple(first)


def test_updates_from_before_the_onset_are_what_is_usual() -> None:
    ctx = context("OD-1", moved={"update_ratio": 0.3})
    assert ctx.before_onset("update_ratio") == 0.01
    unknown = replace(ctx, reports=tuple(r for r in ctx.reports if r.id.step >= ONSET))
    assert math.isnan(unknown.before_onset("update_ratio"))
    assert remedy_for(unknown).levers.lr_scale == pytest.approx(UNEXPLAINED_SCALE)
    assert "lower learner.lr" in reason_for(unknown)


@pytest.mark.parametrize("tried", [0, 1])
@pytest.mark.parametrize(
    "signals",
    [
        {"update_ratio": 1e6},
        {"update_ratio": math.nan},
        {"lr": 1.0},
        {"lr": 0.0, "lr_excess": -math.inf},
        {"lr": math.nan, "lr_excess": math.nan},
        {"lr_excess": 20.0},
        {},
    ],
)
def test_rate_stays_within_its_bounds_whatever_is_measured(tried: int, signals: dict[str, float]) -> None:
    scale = remedy_for(context("OD-1", tried, signals)).levers.lr_scale
    assert scale is not None
    assert 0.01 <= scale <= 1.0


def test_second_remedy_takes_a_quarter_and_the_strongest_hold() -> None:
    remedy = remedy_for(context("OD-1", 1, {"update_ratio": 0.1}))
    assert remedy.levers.lr_scale == pytest.approx(0.025)
    assert remedy.levers.kl_coef_scale == 10.0
    assert remedy.rollback
    assert remedy_for(context("OD-1", 1, {"update_ratio": 10.0})).levers.lr_scale == 0.01


@pytest.mark.parametrize("gradient", [1.0, math.nan])
def test_updates_without_gradient_do_not_show_the_usual_size(gradient: float) -> None:
    ctx = context("OD-1", moved={"update_ratio": 0.3, "grad_norm": gradient})
    shrunk = [report(step, update_ratio=1e-5, grad_norm=0.0) for step in range(ONSET - 12, ONSET)]
    with_plateau = replace(ctx, reports=(*ctx.reports[: ONSET - 13], *shrunk, *ctx.reports[ONSET - 1 :]))
    assert "updates are 30 times their usual size" in reason_for(with_plateau)
    resumed = replace(ctx, reports=(*shrunk, *ctx.reports[ONSET - 1 :]))
    assert reason_for(resumed).startswith("no step from before the fault shows the usual size of updates")
    assert remedy_for(resumed).levers.lr_scale == UNEXPLAINED_SCALE


def test_explosion_that_only_telemetry_shows_is_slowed_down_and_costs_no_step() -> None:
    ctx = context("OD-1", moved={"update_ratio": 0.03}, ground=None)
    gentle = remedy_for(ctx)
    assert gentle == Remedy("lower_rate", replace(gentle.levers, kl_coef_scale=2.0))
    assert gentle.levers.lr_scale == pytest.approx(1 / 3)
    assert "no independent check shows harm so far" in reason_for(ctx)
    assert remedy_for(context("OD-1", snapshots=(), ground=None)) == Remedy(
        "lower_rate", Levers(lr_scale=UNEXPLAINED_SCALE, kl_coef_scale=2.0)
    ), "it needs no snapshot"


def measured(ctx: PolicyContext, gain: float) -> PolicyContext:
    """The same with a step that was made again, and its factor as what the alarm is about."""
    name, at = "update_gain", ONSET
    alarm = Symptom(f"identity:{name}", name, Evidence.IDENTITY, True, 1, gain, 1.0, math.inf, at, at, "")
    return replace(ctx, diagnosis=replace(ctx.diagnosis, symptoms=(alarm,), place=Place.OPTIMIZER))


def test_an_optimizer_that_does_not_do_what_it_should_gives_way_to_a_new_learner_where_that_costs_nothing() -> None:
    ctx = measured(context("OD-1", moved={"update_gain": 1.3, "update_ratio": 0.015}, ground=None), 1.3)
    remedy = remedy_for(ctx)
    assert (remedy.name, remedy.actions, remedy.rollback) == ("new_learner", (Action.RESTART_LEARNER,), False)
    assert "updates go 1.3 times as far as the optimizer computes" in reason_for(ctx)
    rate = context("OD-1", moved={"update_gain": 1.3, "lr_excess": math.log(1.3)}, ground=None)
    assert remedy_for(measured(rate, 1.3)).name == "lower_rate", "the optimizer does what it should at its rate"


def test_no_rate_makes_up_for_what_adds_up_over_the_steps() -> None:
    steady = measured(context("OD-1", moved={"update_gain": 4.0, "update_ratio": 0.04}), 4.0)
    assert remedy_for(steady).name == "rollback_lower_rate"
    assert remedy_for(steady).levers == Levers(lr_scale=0.25)
    growing = measured(context("OD-1", moved={"update_gain": 1.3, "update_ratio": 0.05}), 1.3)
    remedy = remedy_for(growing)
    assert (remedy.name, remedy.rollback) == ("rollback_new_learner", True)


def test_the_cause_of_large_updates_is_active_while_a_step_made_again_shows_it() -> None:
    plan = plan_of("OD-1", Place.OPTIMIZER)
    usual = [report(step) for step in range(1, 9)]
    # Updates have their usual size for their rate, because a run that learns makes smaller ones by now.
    shown = [report(step, update_gain=4.0 if step % 5 == 0 else math.nan) for step in range(9, 15)]
    assert plan.source_active(shown, usual)
    assert not plan.source_active([report(step) for step in range(9, 15)], usual)


def test_rollback_is_asked_for_once_the_gentle_remedy_has_not_helped() -> None:
    slowed = Tried("lower_rate", 22, Levers(), OutcomeKind.INEFFECTIVE)
    for ground in (None, GROUND):
        assert remedy_for(replace(context("OD-1", ground=ground), tried=(slowed,))).name == "rollback_lower_rate"


def test_remedy_that_was_applied_twice_at_a_step_makes_way_for_the_next() -> None:
    twice = 2 * (Tried("rollback_lower_rate", 9, Levers(), OutcomeKind.RESOLVED, step=20),)
    ctx = replace(context("OD-1"), given=twice)
    assert remedy_for(ctx).name == "rollback_much_lower_rate"
    assert remedy_for(replace(ctx, snapshots=(15,))).name == "rollback_lower_rate", "at another step it may help"
    every = tuple(replace(tried, remedy=name) for name in NAMES["OD-1"] for tried in twice)
    decision = Playbook().decide(replace(ctx, given=every))
    reason = (
        "every remedy left for OD-1 was applied 2 times at the same step; look at what multiplies the learning rate"
    )
    assert decision == Decision(None, reason)


@pytest.mark.parametrize("code", sorted(NAMES))
def test_plan_comes_to_its_end(code: str) -> None:
    ctx = context(code, tried=len(NAMES[code]))
    asked = f"; {plan_of(code, None).ask}" if plan_of(code, None).ask else ""
    assert Playbook().decide(ctx) == Decision(None, f"{code}: all its remedies have been tried{asked}")
    assert tuple(remedy.name for remedy in plan_of(code, None).remedies) == NAMES[code]


@pytest.mark.parametrize("code", ["UNKNOWN", "SYNC", "VERIFIER", "no such code"])
def test_fault_without_remedies_is_left_to_people(code: str) -> None:
    assert Playbook().decide(context(code)) == Decision(None, f"the playbook has no remedy for {code}")


no_snapshot = pytest.mark.parametrize("snapshots", [(), (ONSET,), (ONSET, ONSET + 2)])


@no_snapshot
def test_gentle_remedy_takes_the_place_of_a_rollback_without_a_snapshot(snapshots: tuple[int, ...]) -> None:
    ctx = context("OD-1", snapshots=snapshots)
    assert ctx.ground is not None
    decision = Playbook().decide(ctx)
    assert decision.remedy is not None
    assert (decision.remedy.name, decision.remedy.rollback) == ("lower_rate", False)
    assert decision.reason.endswith(f"because there is no snapshot from before step {ONSET}")


@pytest.mark.parametrize(("code", "tried"), [("OD-1", ("lower_rate",)), ("NUMERICAL", ())])
@no_snapshot
def test_no_rollback_into_the_fault(code: str, tried: tuple[str, ...], snapshots: tuple[int, ...]) -> None:
    done = tuple(Tried(name, 22, Levers(), OutcomeKind.INEFFECTIVE) for name in tried)
    decision = Playbook().decide(replace(context(code, snapshots=snapshots), tried=done))
    assert decision.remedy is None
    assert f"needs a snapshot from before step {ONSET}" in decision.reason


def test_without_a_snapshot_a_reward_that_regrading_does_not_mend_is_not_learnt_from() -> None:
    ctx = replace(
        context("RF-1", snapshots=()), tried=(Tried("regrade", 22, Levers(), OutcomeKind.INEFFECTIVE),)
    )  # fmt: skip
    assert remedy_for(ctx) == Remedy("freeze", Levers(freeze_policy=1))


def test_snapshot_of_the_last_step_before_the_fault_will_do() -> None:
    assert remedy_for(context("OD-1", snapshots=(ONSET - 1, ONSET))).rollback


def test_remedies_without_a_rollback_need_no_snapshot() -> None:
    assert remedy_for(context("RF-1", snapshots=())).name == "regrade"
    assert remedy_for(context("TE-1", snapshots=())).name == "retry_and_failover"
