"""The built-in policies beside the playbook: what each decides, and what it leaves to people."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rftfm_ray.policies.adaptive_kl import MOST_MOVES, AdaptiveKL
from rftfm_ray.policies.contract.cases import DAMAGE, LAST, ONSET, context
from rftfm_ray.policies.hold_and_ask import HOLD, HoldAndAsk
from rftfm_ray.policies.playbook import Playbook
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Tried

STEPS = LAST - ONSET + 1
# The KL before the fault in the suite's contexts.
BEFORE = 0.02


def scale(policy: AdaptiveKL, kl: float, steps: int = STEPS) -> float:
    """The scale that a policy gives where the KL is at a value since the onset."""
    ctx = context("OD-1", 0, {"kl_ref": kl})
    reports = ctx.reports[: ONSET - 1 + steps]
    decision = policy.decide(replace(ctx, reports=reports))
    assert decision.remedy is not None
    assert decision.remedy.name == "scale_kl"
    moved = decision.remedy.levers.kl_coef_scale
    assert decision.remedy.levers == Levers(kl_coef_scale=moved)
    assert moved is not None
    return moved


@pytest.mark.parametrize(("kl", "error"), [(10 * BEFORE, 0.2), (1.1 * BEFORE, 0.1), (0.9 * BEFORE, -0.1), (0.0, -0.2)])
def test_every_step_since_the_onset_moves_the_scale_by_the_clipped_error(kl: float, error: float) -> None:
    assert scale(AdaptiveKL(), kl) == pytest.approx((1 + error) ** STEPS)
    assert scale(AdaptiveKL(), kl, 2) == pytest.approx((1 + error) ** 2)
    assert scale(AdaptiveKL(gain=0.5), kl) == pytest.approx((1 + error / 2) ** STEPS)


def test_target_may_be_given() -> None:
    assert scale(AdaptiveKL(target=0.2), 0.3) == pytest.approx(1.2**STEPS)
    assert scale(AdaptiveKL(target=1.0), 0.3) == pytest.approx(0.8**STEPS)


@pytest.mark.parametrize(("gain", "kl", "bound"), [(50.0, 1.0, 10.0), (4.9, 0.0, 0.1)])
def test_scale_stays_within_the_bounds_of_its_lever(gain: float, kl: float, bound: float) -> None:
    assert scale(AdaptiveKL(gain=gain), kl) == bound


def test_reason_names_kl_and_target_and_metrics_are_the_same() -> None:
    policy = AdaptiveKL()
    assert policy.metrics() == {}
    decision = policy.decide(context("OD-1", 0, {"kl_ref": 0.3}))
    assert decision.reason.startswith("the KL to the reference policy is 15 times its target of 0.02 nats a token")
    assert policy.metrics() == {"kl_over_target": pytest.approx(15.0), "kl_coef_scale": pytest.approx(1.2**STEPS)}


@pytest.mark.parametrize(
    ("code", "tried", "kl", "why"),
    [
        ("RF-1", 0, 0.3, "no remedy for RF-1"),
        ("OD-1", 0, math.nan, "is not known before the fault or since"),
        ("OD-1", MOST_MOVES, 0.3, "was scaled 3 times and that has not helped"),
        ("OD-1", 0, BEFORE, "kl_coef is where it has to be"),
    ],
)
def test_what_it_leaves_to_a_person(code: str, tried: int, kl: float, why: str) -> None:
    decision = AdaptiveKL().decide(context(code, tried, {"kl_ref": kl}))
    assert decision.remedy is None
    assert why in decision.reason


def test_without_a_kl_penalty_there_is_nothing_to_scale() -> None:
    ctx = context("OD-1")
    decision = AdaptiveKL().decide(replace(ctx, nominal=replace(ctx.nominal, kl_coef=0.0)))
    assert decision.remedy is None
    assert "algorithm.kl_coef is 0" in decision.reason


@pytest.mark.parametrize("code", ["TE-1", "RF-1", "OD-1", "NUMERICAL"])
def test_a_person_is_asked_for_the_remedy_of_the_playbook(code: str) -> None:
    ctx = context(code, ground=DAMAGE)
    asked, planned = HoldAndAsk().decide(ctx), Playbook().decide(ctx)
    assert planned.remedy is not None
    assert (asked.remedy, asked.ask) == (planned.remedy, True)
    assert asked.reason == f"for a person to approve: {planned.reason}"


def test_where_the_playbook_has_nothing_a_person_is_asked_to_freeze_the_policy() -> None:
    ctx = context("SYNC")
    asked = HoldAndAsk().decide(ctx)
    assert asked.remedy is not None
    assert (asked.remedy.name, asked.remedy.levers, asked.ask) == (HOLD, Levers(freeze_policy=1), True)
    after = HoldAndAsk().decide(replace(ctx, tried=(Tried(HOLD, 12, Levers()),)))
    assert (after.remedy, after.ask) == (None, False)
    assert "holding has not ended it" in after.reason
