"""Healthy bands: what may be called gone, with and without steps from before the fault, and how a trend counts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from rftfm_ray.incidents.healthy_band import BAND_SPREADS, Harm, beyond_band, unknown_band
from rftfm_ray.incidents.severity import TREND_STEPS, beyond_trend
from rftfm_ray.incidents.verification import Case, Rules
from rftfm_ray.verdicts import Outcome, OutcomeKind, StepReport
from tests.unit.incidents.judged import TIMEOUT, WINDOW, case, kind, report, reports, verdict

KL = Harm(("kl_ref",), {"kl_ref": 4.0})
# What goes on speaking of the cause, past the levers.
SOURCES = {
    "RF-1": {"regrade_mismatch_rate": 0.5, "regrade_count": 32.0},
    "TE-1": {"tool_shadow_error_rate": 0.5},
}
HARMED = {"RF-1": "trained_mismatch_rate", "TE-1": "tool_error_rate"}
every_contained_fault = pytest.mark.parametrize("code", HARMED)


def noisy(first: int, count: int, kl: Callable[[int], float], deviation: float = 0.1) -> tuple[StepReport, ...]:
    """Steps whose KL to the reference is `kl` of the step, give or take."""
    draw = random.Random(first)
    steps = range(first, first + count)
    return tuple(report(step, kl_ref=kl(step) * math.exp(draw.gauss(0, deviation))) for step in steps)


def exploded(times: float, *, under: float = 1000.0) -> Outcome | None:
    """A verdict at the time limit: KL at 0.01 before the fault, at `under` under it, and at `times` 0.01 afterwards."""
    usual, fault = noisy(1, 10, lambda _: 0.01), noisy(11, 3, lambda _: under)
    return verdict("OD-1", Case(usual, fault, noisy(15, 30, lambda _: 0.01 * times), 0.9), rules=Rules(6, 30, 256))


@pytest.mark.parametrize("under", [1.0, 1000.0])
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (1.0, OutcomeKind.RESOLVED),
        (1.5, OutcomeKind.RESOLVED),
        (3.0, OutcomeKind.INEFFECTIVE),
        (5.0, OutcomeKind.INEFFECTIVE),
    ],
)
def test_harm_at_a_multiple_of_its_healthy_level_is_not_resolved_however_large_it_was(
    times: float, expected: OutcomeKind, under: float
) -> None:
    outcome = exploded(times, under=under)
    assert kind(outcome) is expected
    assert outcome is not None
    if expected is OutcomeKind.INEFFECTIVE:
        assert "kl_ref is still" in outcome.reason or outcome.reason.endswith("above its healthy band")


@every_contained_fault
def test_harm_that_goes_on_beside_an_active_cause_is_not_mitigated(code: str) -> None:
    harmed = {HARMED[code]: 0.5, **SOURCES[code]}
    for usual in ((), reports(1, 10)):
        found = Case(usual, reports(11, 4, **harmed), reports(15, TIMEOUT, **harmed), 0.9)
        assert kind(verdict(code, found)) is OutcomeKind.INEFFECTIVE
        early = replace(found, reference=(), after=found.after[:WINDOW])
        assert verdict(code, early) is None, "it has until the time limit"


@every_contained_fault
def test_cause_that_goes_on_is_mitigated_once_the_harm_is_gone(code: str) -> None:
    under = reports(11, 4, **{HARMED[code]: 0.5}, **SOURCES[code])
    after = reports(15, WINDOW, **SOURCES[code])
    compared = verdict(code, Case(reports(1, 10), under, after, 0.9))
    assert kind(compared) is OutcomeKind.MITIGATED
    assert compared is not None
    assert compared.reason.startswith("severity fell from ")
    bounded = verdict(code, Case((), under, after, 0.9))
    assert kind(bounded) is OutcomeKind.MITIGATED
    assert bounded is not None
    assert bounded.reason.startswith(f"{HARMED[code]} fell from 0.5 to 0, at most the healthy 0.0")
    unseen = verdict(code, Case((), (), after, 0.9))
    assert unseen is not None
    assert unseen.reason.startswith(f"{HARMED[code]} is 0, at most the healthy 0.0")


@every_contained_fault
def test_harm_that_is_not_measured_beside_an_active_cause_is_unverified(code: str) -> None:
    unmeasured = {HARMED[code]: math.nan, **SOURCES[code]}
    found = Case(reports(1, 10), reports(11, 4, **{HARMED[code]: 0.5}), reports(15, TIMEOUT, **unmeasured), 0.9)
    outcome = verdict(code, found)
    assert kind(outcome) is OutcomeKind.UNVERIFIED
    assert outcome is not None
    assert outcome.reason == "not verified: the harm was not measured"


def test_no_healthy_band_is_claimed_without_a_step_from_before_the_fault() -> None:
    active = {"schedule_excess": 1.0, "update_ratio": 0.3}
    outcome = verdict("OD-1", Case((), reports(1, 4, **active), reports(5, TIMEOUT, **active), 0.9))
    assert kind(outcome) is OutcomeKind.UNVERIFIED
    assert outcome is not None
    assert outcome.reason == "not verified: no step from before the fault shows a healthy band"


def test_remedy_that_keeps_the_weights_need_not_bring_their_distance_back_while_it_contains_the_cause() -> None:
    """Where one large update has led the policy is seen in held-out accuracy; a rollback does bring the KL back."""
    found = case({"update_ratio": 0.3, "kl_ref": 1.0}, {"kl_ref": 0.1, "lr": 1e-3 / 30}, TIMEOUT)
    kept = verdict("OD-1", found)
    assert kind(kept) is OutcomeKind.MITIGATED
    assert kept is not None
    assert kept.reason.endswith(
        "its cause is still active; kl_ref is still 0.1, 7.3 spreads above its healthy level, because the remedy keeps "
        "the weights"
    )
    assert kind(verdict("OD-1", found, undone=3)) is OutcomeKind.INEFFECTIVE
    large = replace(found, after=reports(15, TIMEOUT, update_ratio=0.02, lr=1e-3 / 30))
    assert kind(verdict("OD-1", large)) is OutcomeKind.INEFFECTIVE, "updates are what it is to bring back"
    unmeasured = replace(found, after=reports(15, TIMEOUT, update_ratio=math.nan, schedule_excess=1.0))
    assert kind(verdict("OD-1", unmeasured)) is OutcomeKind.UNVERIFIED


def test_trend_of_the_steps_before_the_fault_goes_on_in_a_healthy_run() -> None:
    """The KL of a run that learns grows: at its trend it is healthy, and as high without a trend it is not."""
    growing = noisy(1, 10, lambda step: 0.05 * step, 0.02)
    after = noisy(14, 6, lambda step: 0.05 * step, 0.02)
    assert beyond_band(KL, after, growing) == ""
    level = noisy(1, 10, lambda _: 0.3, 0.02)
    assert beyond_band(KL, after, level).endswith("spreads above its healthy level")
    # A signal that falls, or stops moving, is no nearer to harm.
    assert beyond_band(KL, noisy(14, 6, lambda _: 0.5, 0.02), growing) == ""
    assert beyond_band(KL, noisy(14, 6, lambda _: 0.3, 0.02), noisy(1, 10, lambda step: 1 / step, 0.02)) == ""


def test_trend_is_not_continued_for_ever() -> None:
    growing = tuple(report(step, kl_ref=0.05 * math.exp(0.1 * step)) for step in range(1, 11))
    at_limit, later = (
        tuple(report(step, kl_ref=0.05 * math.exp(0.1 * step)) for step in range(first, first + 3))
        for first in (1 + int(TREND_STEPS) + 3, 60)
    )
    assert beyond_trend(at_limit, growing, "kl_ref", 1.0) < BAND_SPREADS < beyond_trend(later, growing, "kl_ref", 1.0)


@pytest.mark.parametrize("side", [1.0, -1.0, 0.0])
def test_side_of_a_harm(side: float) -> None:
    """Only its own side is harmful; without one both are."""
    usual = reports(1, 10, entropy=1.0)
    harm = Harm(("entropy",), {"entropy": side} if side else {})
    high, low = (beyond_band(harm, reports(15, 4, entropy=level), usual) for level in (9.0, 0.01))
    assert (bool(high), bool(low)) == (side >= 0, side <= 0)


def test_band_is_unknown_without_measurements() -> None:
    usual, unmeasured = reports(1, 4), reports(5, 4, kl_ref=math.nan)
    assert unknown_band(KL, usual, usual) == ""
    assert unknown_band(KL, unmeasured, usual) == unknown_band(Harm(), usual, usual) == "the harm was not measured"
    assert unknown_band(KL, usual, ()) == "no step from before the fault shows a healthy band"
    assert math.isnan(beyond_trend(unmeasured, usual, "kl_ref", 1.0))
    assert math.isnan(beyond_trend(usual, (), "kl_ref", 1.0))
