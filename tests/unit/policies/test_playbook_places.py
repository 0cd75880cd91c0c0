"""The playbook by place: what each remedy sets and where its value comes from, and what is known of its cause."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from rftfm_ray.detection.detectors.laws import LAW
from rftfm_ray.policies.api import PolicyContext
from rftfm_ray.policies.levers import BOUNDS
from rftfm_ray.policies.playbook import PLANS, Cause, Playbook, plan_of
from rftfm_ray.policies.playbook.plan import NO_PLAN, RemedyPlan
from rftfm_ray.policies.safety import check_decision
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.taxonomy import NUMERICAL, SIXTEEN, TAXONOMY
from rftfm_ray.types import Action, CreditSource, Levers, RunFacts
from rftfm_ray.verdicts import Decision, Evidence, OutcomeKind, Place, Remedy, Symptom, Tried
from tests.unit.policies.test_playbook import GROUND, ONSET, context, report

EVERY = [
    (code, place, plan) for code, fault in PLANS.items() for place, plan in ((None, fault.usual), *fault.at.items())
]
FACTS = RunFacts("ppo", 8, 1.0)


def at(code: str, place: Place | None, tried: tuple[str, ...] = (), **moved: float) -> PolicyContext:
    """Three steps of a fault at a place, after remedies that did not help; nothing allows a costly one."""
    ctx = context(code, moved={"gap_slope": 1.0, "update_gain": 1.0, "changed_rate": 1.0} | moved, ground=None)
    done = tuple(Tried(name, 22, Levers(), OutcomeKind.INEFFECTIVE) for name in tried)
    return replace(ctx, diagnosis=replace(ctx.diagnosis, place=place), tried=done, facts=FACTS)


def measured(ctx: PolicyContext, detector: str, value: float, strength: float | None = None) -> PolicyContext:
    """The same, with a broken check that measures something."""
    signal = detector.rpartition(":")[2]
    broken = Symptom(detector, signal, Evidence.IDENTITY, True, 1, value, 1.0, 2.0, ONSET, ONSET, "", strength)
    return replace(ctx, diagnosis=replace(ctx.diagnosis, symptoms=(broken,)))


def remedy_of(ctx: PolicyContext) -> Remedy:
    """The remedy that the playbook gives, fit to be carried out."""
    decision = check_decision(Playbook().decide(ctx), ctx)
    assert decision.remedy is not None, decision.reason
    return decision.remedy


def test_every_fault_has_a_plan_at_each_of_its_places() -> None:
    assert set(PLANS) == {fault.code for fault in SIXTEEN} | {NUMERICAL}
    for code, fault in PLANS.items():
        assert set(fault.at) <= set(TAXONOMY[code].places[1:]), "the first place is the usual one"
        assert all(fault.of(place).remedies for place in TAXONOMY[code].places), code
        assert fault.of(None) is fault.usual
    assert plan_of("UNKNOWN", None) == plan_of("no such code", Place.TOOL) == NO_PLAN


@pytest.mark.parametrize(("code", "place", "plan"), EVERY)
def test_plans_name_levers_and_signals_that_exist(code: str, place: Place | None, plan: RemedyPlan) -> None:
    del code, place
    remedies = (*plan.gentle, *plan.remedies)
    assert len({remedy.name for remedy in remedies}) == len(remedies)
    moves = {name for remedy in remedies for name in remedy.moves}
    assert moves <= set(BOUNDS)
    assert set(plan.containing) <= moves, "what contains a fault must be moved by one of its own remedies"
    assert {*plan.hidden_by, *plan.inverted_by} <= set(plan.containing)
    assert {*dict(plan.source_sides), *plan.source_reads} <= set(INDEX)
    assert plan.ask or plan is PLANS[NUMERICAL].usual


SET = [
    ("RF-1", Place.REWARD, {}, Levers(regrade_rate=1.0)),
    ("RF-2", Place.REWARD, {}, Levers(regrade_rate=1.0)),
    ("RF-3", Place.REWARD, {}, Levers(regrade_rate=1.0)),
    ("PG-1", Place.REWARD, {"gap_end": 9.0}, Levers(regrade_rate=1.0)),
    ("PG-2", Place.REWARD, {}, Levers(regrade_rate=1.0)),
    ("PG-1", Place.SAMPLER, {"gap_end": 9.25}, Levers(end_bias=-9.25)),
    ("PG-3S", None, {"gap_end": 4.0}, Levers(end_bias=-4.0)),
    ("PG-3L", Place.SAMPLER, {"gap_end": -12.0}, Levers(end_bias=12.0)),
    ("PG-1", Place.SAMPLER, {"gap_end": 90.0}, Levers(end_bias=-40.0)),
    ("PG-1", Place.SAMPLER, {"gap_end": math.nan}, Levers(rollout_path=1)),
    ("PG-1", Place.SERVER, {"gap_end": 9.0}, Levers(rollout_path=1)),
    ("PG-2", Place.SAMPLER, {}, Levers(rollout_path=1)),
    ("PG-3S", Place.SERVER, {}, Levers(rollout_path=1)),
    ("PG-3L", Place.LIMITS, {}, Levers(mask_truncated=1)),
    ("OD-2", Place.SYNC, {}, Levers()),
    ("OD-3", Place.SAMPLER, {"gap_slope": 1.4}, Levers(temperature_scale=1.4)),
    # How much colder samples are drawn is not known any more.
    ("OD-3", Place.SAMPLER, {"gap_slope": 1.8}, Levers(rollout_path=1)),
    ("OD-3", Place.SAMPLER, {"gap_slope": 1.0}, Levers(rollout_path=1)),
    ("CA-1", None, {}, Levers(credit_source=1)),
    ("CA-2", Place.BUFFER, {}, Levers(credit_source=1)),
    ("CA-3", Place.ESTIMATOR, {}, Levers(credit_source=1)),
    ("TE-2", Place.TOOL, {}, Levers(tool_instance=1)),
    ("TE-2", Place.LINK, {}, Levers(mask_undecoded=1, mask_unreplayed=1)),
    ("TE-3", Place.TOOL, {}, Levers(tool_instance=1)),
    ("TE-3", Place.LIMITS, {"limit_excess": -0.62}, Levers(tokens_scale=2.0)),
    ("TE-3", Place.LIMITS, {"limit_excess": -math.log(10)}, Levers(tokens_scale=10.0)),
    ("TE-3", None, {"limit_excess": -9.0}, Levers(tokens_scale=20.0)),
]


@pytest.mark.parametrize(("code", "place", "moved", "levers"), SET)
def test_first_remedy_goes_by_place_and_size(
    code: str, place: Place | None, moved: dict[str, float], levers: Levers
) -> None:
    remedy = remedy_of(at(code, place, (), **moved))
    expected = {item.name: getattr(levers, item.name) for item in fields(Levers)}
    assert {item.name: getattr(remedy.levers, item.name) for item in fields(Levers)} == pytest.approx(expected)
    assert not remedy.rollback


def test_what_is_left_of_a_bias_is_added_to_the_one_in_force() -> None:
    ctx = replace(at("PG-1", None, (), gap_end=2.8), levers=Levers(end_bias=-9.2))
    assert remedy_of(ctx).levers.end_bias == pytest.approx(-12.0)
    cold = replace(at("OD-3", None, (), gap_slope=1.25), levers=Levers(temperature_scale=1.6))
    assert remedy_of(cold).levers.temperature_scale == pytest.approx(2.0)


def test_lost_updates_are_made_up_for_as_far_as_they_are_measured() -> None:
    ctx = measured(at("OD-2", None, update_gain=0.1), "identity:update_gain", 0.1)
    assert remedy_of(ctx).levers == Levers(lr_scale=10.0)
    nothing = measured(at("OD-2", None, update_gain=0.01), "identity:update_gain", 0.01)
    assert remedy_of(nothing).levers == Levers(lr_scale=20.0)
    assert Playbook().decide(at("OD-2", None)).remedy is None, "nothing has measured what is lost"


def test_weights_that_did_not_arrive_are_sent_again_and_then_the_rollout_starts_again() -> None:
    assert remedy_of(at("OD-2", Place.SYNC)).actions == (Action.RESYNC,)
    assert remedy_of(at("OD-2", Place.SYNC, ("send_weights_again",))).actions == (Action.RESTART_ROLLOUT,)
    both = at("OD-2", Place.SYNC, ("send_weights_again", "restart_rollout"))
    assert remedy_of(both).levers == Levers(is_cap=2.0)


def test_no_rate_moves_weights_that_are_left_out_and_a_new_learner_may() -> None:
    ctx = measured(at("OD-2", None, update_gain=0.5, changed_rate=0.5), "identity:update_gain", 0.5)
    remedy = remedy_of(ctx)
    assert (remedy.name, remedy.actions, remedy.rollback) == ("new_learner", (Action.RESTART_LEARNER,), False)
    decision = Playbook().decide(replace(ctx, tried=at("OD-2", None, ("new_learner",)).tried))
    assert decision.remedy is None
    assert "look at what stands between the gradient and the weights" in decision.reason


@pytest.mark.parametrize(("gain", "name"), [(4.0, "rollback_new_learner"), (1.0, None), (math.nan, None)])
def test_learner_is_replaced_for_too_large_updates_only_where_its_optimizer_makes_them(
    gain: float, name: str | None
) -> None:
    tried = ("lower_rate", "rollback_lower_rate", "rollback_much_lower_rate")
    remedy = Playbook().decide(replace(at("OD-1", None, tried, update_gain=gain), ground=GROUND)).remedy
    assert (None if remedy is None else remedy.name) == name


def test_entropy_bonus_is_given_back_as_the_law_measures_it() -> None:
    ctx = measured(at("OD-3", Place.LOSS), f"{LAW}:loss", 0.1, strength=-5.0)
    remedy = remedy_of(ctx)
    assert remedy.levers == Levers(entropy_coef=5.0)
    assert "law:loss" in Playbook().decide(ctx).reason
    anew = remedy_of(replace(ctx, tried=at("OD-3", None, ("entropy_back",)).tried, ground=GROUND))
    assert (anew.levers, anew.rollback) == (Levers(entropy_coef=5.0), True)


def test_without_groups_or_a_comparable_sampler_the_remedies_that_need_them_are_left_out() -> None:
    tried = ("recomputed_credit", "recomputed_credit_and_rollback")
    assert remedy_of(at("CA-2", None, tried)).levers == Levers(credit_source=CreditSource.GROUP.value)
    alone = replace(at("CA-2", None, tried), facts=RunFacts("ppo", 1, 1.0), ground=GROUND)
    assert remedy_of(alone).name == "freeze"
    cut = replace(at("OD-2", Place.SYNC, ("send_weights_again", "restart_rollout")), facts=RunFacts("grpo", 8, 0.9))
    decision = Playbook().decide(replace(cut, ground=GROUND))
    assert decision.remedy is not None
    assert decision.remedy.name == "freeze"


def test_without_a_verifier_nothing_is_learnt_from_a_wrong_reward() -> None:
    ctx = at("RF-2", None)
    blind = tuple(report(r.id.step, regrade_count=math.nan) for r in ctx.reports)
    assert remedy_of(replace(ctx, reports=blind, ground=GROUND)).name == "freeze"


def test_costly_remedies_come_last_while_nothing_allows_them() -> None:
    for code, place, plan in EVERY:
        ctx, names = at(code, place, gap_end=1.0, gap_slope=1.5, limit_excess=-1.0), list[bool]()
        while (remedy := Playbook().decide(ctx).remedy) is not None:
            costly = remedy.rollback or remedy.levers.freeze_policy == 1
            names.append(costly)
            ctx = replace(ctx, tried=(*ctx.tried, Tried(remedy.name, 22, Levers(), OutcomeKind.INEFFECTIVE)))
        assert names == sorted(names), (code, place)
        assert len(names) <= len(plan.remedies) + len(plan.gentle)


def test_what_people_can_do_is_said_at_the_end() -> None:
    ctx = at("TE-3", Place.LIMITS)
    assert Playbook().decide(ctx) == Decision(
        None, f"TE-3: nothing has measured what its remedies go by; {plan_of('TE-3', Place.LIMITS).ask}"
    )


CAUSES = [
    # An opposite bias that meets one leaves no gap; without one it is the gap.
    ("PG-1", Place.SAMPLER, (), {"gap_end": 9.0}, Cause.ACTIVE),
    ("PG-1", Place.SAMPLER, (), {"gap_end": 0.0}, Cause.OVER),
    ("PG-1", Place.SAMPLER, ("end_bias",), {"gap_end": 0.1}, Cause.ACTIVE),
    ("PG-1", Place.SAMPLER, ("end_bias",), {"gap_end": -9.0}, Cause.OVER),
    ("PG-1", Place.SAMPLER, ("is_cap",), {"gap_end": 9.0}, Cause.ACTIVE),
    ("PG-1", Place.SAMPLER, ("is_cap", "rollout_path"), {"gap_end": 9.0}, Cause.HIDDEN),
    ("OD-3", Place.SAMPLER, ("temperature_scale",), {"gap_slope": 1.0}, Cause.ACTIVE),
    ("OD-3", Place.SAMPLER, ("temperature_scale",), {"gap_slope": 0.7}, Cause.OVER),
    # A bonus of 5 that meets a loss which takes as much off.
    ("OD-3", Place.LOSS, (), {"loss": 1.0, "entropy": 0.2}, Cause.ACTIVE),
    ("OD-3", Place.LOSS, (), {"loss": 0.0, "entropy": 0.2}, Cause.OVER),
    ("OD-3", Place.LOSS, ("entropy_coef",), {"loss": 0.0, "entropy": 0.2}, Cause.ACTIVE),
    ("OD-3", Place.LOSS, ("entropy_coef",), {"loss": -1.0, "entropy": 0.2}, Cause.OVER),
    ("OD-2", Place.OPTIMIZER, ("lr_scale",), {"update_gain": 0.1}, Cause.ACTIVE),
    ("OD-2", Place.OPTIMIZER, ("lr_scale",), {"update_gain": 1.0}, Cause.OVER),
    ("OD-2", Place.SYNC, ("is_cap",), {"weights_mismatch": 1.0}, Cause.ACTIVE),
    # What the learner's own path delivers is compared whatever the loss goes by.
    ("CA-2", Place.BUFFER, ("credit_source",), {"credit_error": 0.1}, Cause.ACTIVE),
    ("CA-1", Place.CRITIC, ("credit_source",), {"value_error": 0.1}, Cause.ACTIVE),
    ("CA-1", Place.CRITIC, ("credit_source",), {"value_error": 1e-6}, Cause.OVER),
    ("TE-2", Place.TOOL, ("tool_instance",), {}, Cause.HIDDEN),
    ("TE-2", Place.LINK, ("mask_undecoded",), {"observation_decode_mismatch_rate": 0.1}, Cause.ACTIVE),
    ("TE-3", Place.LIMITS, ("tokens_scale",), {"limit_excess": -0.6}, Cause.ACTIVE),
    ("TE-3", Place.LIMITS, ("tokens_scale",), {"limit_excess": 0.0}, Cause.OVER),
    ("RF-3", Place.REWARD, ("regrade_rate",), {"regrade_mismatch_rate": 0.2, "regrade_count": 64.0}, Cause.ACTIVE),
]


@pytest.mark.parametrize(("code", "place", "levers", "seen", "cause"), CAUSES)
def test_cause_is_looked_at_as_it_shows_under_the_levers(
    code: str, place: Place, levers: tuple[str, ...], seen: dict[str, float], cause: Cause
) -> None:
    healthy = {"gap_slope": 1.0, "update_gain": 1.0}
    window = [report(step, **healthy | seen) for step in range(30, 36)]
    assert plan_of(code, place).cause(levers, window, [report(step) for step in range(1, 9)]) is cause


def test_alarms_of_a_cause_are_expected_only_where_it_goes_on_in_sight() -> None:
    ends = plan_of("PG-1", None)
    assert ("gap_end", 1) in ends.expected_under("is_cap")
    assert not ends.expected_under("end_bias"), "a gap that is left is what the remedy has not mended"
    assert not ends.expected_under("rollout_path")
    assert not ends.expected_under("lr_scale")
    assert ("loss", 1) in plan_of("OD-3", Place.LOSS).expected_under("entropy_coef"), "the law stays broken"
