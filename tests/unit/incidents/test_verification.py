"""Verification: what came of a remedy, what a verdict must know, and whether a fault's source is active."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rftfm_ray.incidents.severity import severity
from rftfm_ray.incidents.verification import HARMFUL_DROP, Case, awaited, figures_out
from rftfm_ray.policies.playbook import Cause, plan_of
from rftfm_ray.signals.held_out import LEAST_LOSS, last_probe, probe_drop, tolerated_loss
from rftfm_ray.verdicts import Diagnosis, Evidence, Family, OutcomeKind, StepReport, Symptom
from tests.unit.incidents.judged import (
    NO_PROBE,
    RULES,
    SIZE,
    TIMEOUT,
    WINDOW,
    case,
    kind,
    remedied,
    report,
    reports,
    verdict,
)


def test_harm_and_cause_gone_is_resolved() -> None:
    outcome = verdict("TE-1", case({"tool_error_rate": 0.5}, {}))
    assert kind(outcome) is OutcomeKind.RESOLVED
    assert outcome is not None
    assert outcome.severity_before > 100 > 0 > outcome.severity_after
    assert outcome.reason.endswith("and its cause is no longer active")


def test_harm_gone_while_its_cause_is_active_is_mitigated() -> None:
    outcome = verdict("TE-1", case({"tool_error_rate": 0.5}, {"tool_shadow_error_rate": 0.5}))
    assert kind(outcome) is OutcomeKind.MITIGATED
    assert outcome is not None
    assert outcome.reason.endswith("; its cause is still active")
    moved = replace(
        case({"tool_error_rate": 0.5}, {"tool_shadow_error_rate": 0.5}), moved=("lr_scale", "tool_instance")
    )
    outcome = verdict("TE-1", moved)
    assert outcome is not None
    assert outcome.reason.endswith("; tool_instance stays, because the cause is still active"), "lr_scale returns"


def test_source_is_looked_at_in_the_window_only() -> None:
    found = case({"tool_error_rate": 0.5}, {})
    early = replace(found, after=(report(15, tool_shadow_error_rate=1.0), *reports(16, WINDOW)))
    assert kind(verdict("TE-1", early)) is OutcomeKind.RESOLVED


def test_nothing_is_said_before_the_window_is_full() -> None:
    under, after = {"tool_error_rate": 0.5}, {"tool_error_rate": 0.5}
    assert verdict("TE-1", case(under, after, WINDOW - 1), active=True) is None
    assert verdict("TE-1", case(under, after, WINDOW), active=True) is not None


def test_active_alarm_means_that_it_did_not_help() -> None:
    outcome = verdict("TE-1", case({"tool_error_rate": 0.5}, {}), active=True)
    assert kind(outcome) is OutcomeKind.INEFFECTIVE
    assert outcome is not None
    assert outcome.reason == f"the alarm is still active after {WINDOW} steps"


@pytest.mark.parametrize(("rate", "expected"), [(0.5, OutcomeKind.INEFFECTIVE), (0.02, OutcomeKind.RESOLVED)])
def test_severity_must_have_fallen(rate: float, expected: OutcomeKind) -> None:
    assert kind(verdict("TE-1", case({"tool_error_rate": 0.5}, {"tool_error_rate": rate}))) is expected


def test_severity_that_rounds_to_nothing_has_no_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    severities = iter((15.8, -0.0179))
    monkeypatch.setattr("rftfm_ray.incidents.verification.severity", lambda *_: next(severities))
    outcome = verdict("TE-1", case({"tool_error_rate": 0.5}, {}))
    assert outcome is not None
    assert outcome.severity_after == -0.0179
    assert outcome.reason.startswith("severity fell from 15.8 to 0.0 nats")


@pytest.mark.parametrize("after", [{}, {"tool_error_rate": 0.013}])
def test_severity_within_the_healthy_band_cannot_fall_and_proves_nothing(after: dict[str, float]) -> None:
    slight = {"tool_error_rate": 0.013}
    assert 0 < severity(reports(11, 4, **slight), reports(1, 10), ["tool_error_rate"]) < 1
    assert kind(verdict("TE-1", case(slight, after))) is OutcomeKind.UNVERIFIED


def test_severities_and_probes_of_the_outcome_are_those_of_the_case() -> None:
    under = (report(11, update_ratio=0.3, kl_ref=1.0, probe_accuracy=0.5), *reports(12, 3, update_ratio=0.3))
    after = (report(15, probe_accuracy=0.6), *reports(16, 2, probe_accuracy=0.7), report(18, **NO_PROBE))
    found = Case((report(1), *reports(2, 9, probe_accuracy=0.7)), under, after, 0.65)
    outcome = verdict("OD-1", found)
    assert outcome is not None
    harm = ("update_ratio", "kl_ref")
    assert outcome.severity_before == severity(under, found.reference, harm)
    assert outcome.severity_after == severity(after, found.reference, harm)
    assert (outcome.probe_before, outcome.probe_after) == (0.7, 0.7)


def fell(accuracy: float, steps: int = 2) -> Case:
    """A remedy under which the probe goes from 0.9 to `accuracy`."""
    between = reports(16, steps - 2, **NO_PROBE)
    after = (report(15, probe_accuracy=0.9), *between, report(14 + steps, probe_accuracy=accuracy))
    return Case(reports(1, 10), reports(11, 4, tool_error_rate=0.5), after, 0.9)


def test_probe_that_falls_under_a_remedy_makes_it_harmful_at_once() -> None:
    outcome = verdict("TE-1", fell(0.7))
    assert kind(outcome) is OutcomeKind.HARMFUL
    assert outcome is not None
    assert outcome.reason == "held-out accuracy fell from 0.900 to 0.700 under the remedy"


def test_probe_wins_over_a_fallen_severity() -> None:
    assert kind(verdict("TE-1", fell(0.7, WINDOW))) is OutcomeKind.HARMFUL
    assert kind(verdict("TE-1", fell(0.88, WINDOW))) is OutcomeKind.RESOLVED


def test_fall_within_the_noise_of_a_probe_is_none() -> None:
    known = [(wrong / 1000, probe_drop(0.9, wrong / 1000, SIZE)) for wrong in range(900, 600, -1)]
    last = next(accuracy for accuracy, drop in reversed(known) if drop <= HARMFUL_DROP)
    first = next(accuracy for accuracy, drop in known if drop > HARMFUL_DROP)
    assert verdict("TE-1", fell(last)) is None
    assert kind(verdict("TE-1", fell(first))) is OutcomeKind.HARMFUL


def test_first_probe_under_a_remedy_shows_the_fault_and_is_not_held_against_it() -> None:
    after = (report(15, probe_accuracy=0.3), *reports(16, WINDOW - 1))
    found = Case(reports(1, 10), reports(11, 4, tool_error_rate=0.5), after, 0.9)
    assert kind(verdict("TE-1", found)) is OutcomeKind.RESOLVED


def lost(now: float, steps: int = WINDOW) -> Case:
    """A remedy that ends the harm, under which held-out accuracy stays at `now`, from 0.9 before the alarm."""
    return case({"tool_error_rate": 0.5}, {"probe_accuracy": now}, steps)


@pytest.mark.parametrize("source", [0.0, 0.5])
def test_lost_accuracy_is_not_resolved_however_well_the_harm_has_gone(source: float) -> None:
    after = {"probe_accuracy": 0.7, "tool_shadow_error_rate": source}
    outcome = verdict("TE-1", case({"tool_error_rate": 0.5}, after))
    assert kind(outcome) is OutcomeKind.INEFFECTIVE
    assert outcome is not None
    assert outcome.reason == "held-out accuracy is 0.700 and was 0.900 before the alarm"


def test_loss_within_the_bound_is_tolerated_and_beyond_it_is_not() -> None:
    for now in (0.9 - n / 1000 for n in range(200)):
        within = 0.9 - now <= tolerated_loss(0.9, now, SIZE)
        assert kind(verdict("TE-1", lost(now))) is (OutcomeKind.RESOLVED if within else OutcomeKind.INEFFECTIVE)


def test_bound_is_two_standard_errors_and_at_least_three_hundredths() -> None:
    assert tolerated_loss(1.0, 1.0, 256) == LEAST_LOSS == 0.03
    assert tolerated_loss(0.5, 0.5, 200) == pytest.approx(0.1)
    # A small probe knows less.
    assert tolerated_loss(0.5, 0.4, 16) > tolerated_loss(0.5, 0.4, 256) > tolerated_loss(0.5, 0.4, 10**6)


def rising(steps: int) -> Case:
    """A remedy under which held-out accuracy comes back slowly, from 0.3."""
    after = tuple(report(14 + n, probe_accuracy=0.3 + 0.01 * n) for n in range(1, steps + 1))
    return Case(reports(1, 10), reports(11, 4, tool_error_rate=0.5), after, 0.9)


def test_accuracy_that_recovers_has_until_the_time_limit() -> None:
    assert verdict("TE-1", rising(TIMEOUT - 1)) is None
    assert kind(verdict("TE-1", rising(TIMEOUT))) is OutcomeKind.INEFFECTIVE


def test_accuracy_is_held_against_the_better_of_alarm_and_onset() -> None:
    """A slow fault lowers it before its alarm: to have gone back to before the harm cures nothing."""
    found = case({"tool_error_rate": 0.5}, {"probe_accuracy": 0.6}, before=0.6)
    assert kind(verdict("TE-1", found)) is OutcomeKind.INEFFECTIVE


def test_verdict_that_is_due_says_what_it_waits_for() -> None:
    under = reports(11, 4, tool_error_rate=0.5)
    told = [
        awaited(remedied("TE-1"), Case(reports(1, 10), under, reports(15, steps, **NO_PROBE), 0.9), RULES)
        for steps in (WINDOW - 1, WINDOW, TIMEOUT)
    ]
    waits = "no probe was answered wholly by weights trained under the remedy"
    assert told == ["", waits, ""], "too early, due, and over"
    assert figures_out("severity is still 3.5 nats") == figures_out("severity is still 12 nats")
    assert figures_out("only 3 of the 5 steps") != figures_out("severity is still 3 nats")


@pytest.mark.parametrize(("steps", "expected"), [(TIMEOUT - 1, None), (TIMEOUT, OutcomeKind.UNVERIFIED)])
@pytest.mark.parametrize("unknown", ["before", "after"])
def test_unknown_accuracy_is_never_resolved(steps: int, expected: OutcomeKind | None, unknown: str) -> None:
    usual = reports(1, 10, **NO_PROBE)
    under = reports(11, 4, tool_error_rate=0.5)
    before = math.nan if unknown == "before" else 0.9
    after = reports(15, steps, **(NO_PROBE if unknown == "after" else {}))
    outcome = verdict("TE-1", Case(usual, under, after, before))
    assert kind(outcome) is expected
    why = {"before": "held-out accuracy was not measured before the alarm", "after": "no probe was answered wholly"}
    assert outcome is None or outcome.reason.startswith(f"not verified: {why[unknown]}")


def test_probe_of_weights_from_before_the_remedy_does_not_count() -> None:
    """The answers of step 19 are spread over steps 15 to 19, and the first of them are of the weights of step 14."""
    spread = replace(RULES, probe_steps=5)
    quiet = reports(15, 4, **NO_PROBE)
    usual, under = reports(1, 10), reports(11, 4, tool_error_rate=0.5)
    early = Case(usual, under, (*quiet, report(19)), 0.9)
    assert verdict("TE-1", early, rules=spread) is None
    assert kind(verdict("TE-1", early)) is OutcomeKind.RESOLVED
    later = replace(early, after=(*early.after, *reports(20, 1)))
    assert kind(verdict("TE-1", later, rules=spread)) is OutcomeKind.RESOLVED


def test_fault_from_the_first_step_on_is_not_verified_where_its_healthy_band_is_not_known() -> None:
    found = Case((), reports(1, 4, update_ratio=0.5), reports(5, TIMEOUT), 0.9)
    outcome = verdict("OD-1", found)
    assert kind(outcome) is OutcomeKind.UNVERIFIED
    assert outcome is not None
    assert outcome.reason == "not verified: no step from before the fault shows a healthy band"
    assert verdict("OD-1", replace(found, after=reports(5, TIMEOUT - 1))) is None


@pytest.mark.parametrize(("code", "signal"), [("TE-1", "tool_error_rate"), ("RF-1", "trained_mismatch_rate")])
def test_share_of_failures_has_a_healthy_band_without_a_reference(code: str, signal: str) -> None:
    found = Case((), reports(1, 4, **{signal: 0.5}), reports(5, TIMEOUT), 0.9)
    assert kind(verdict(code, found)) is OutcomeKind.RESOLVED
    still = replace(found, after=reports(5, TIMEOUT, **{signal: 0.051}))
    assert kind(verdict(code, still)) is OutcomeKind.INEFFECTIVE


def test_unknown_fault_is_judged_by_what_was_in_alarm() -> None:
    symptom = Symptom("test", "entropy", Evidence.TELEMETRY, True, 1, 9.0, 1.0, 2.0, 11, 11, "")
    diagnosis = Diagnosis("UNKNOWN", Family.UNKNOWN, 0.9, (), (symptom,), 11, 11, "")
    found = replace(case({"entropy": 9.0}, {}), diagnosis=diagnosis)
    assert kind(verdict("UNKNOWN", found)) is OutcomeKind.RESOLVED
    still = replace(found, after=reports(15, WINDOW, entropy=9.0))
    assert kind(verdict("UNKNOWN", still)) is OutcomeKind.INEFFECTIVE
    nothing = replace(case({"entropy": 9.0}, {}, TIMEOUT))
    assert kind(verdict("UNKNOWN", nothing)) is OutcomeKind.UNVERIFIED


def test_harm_that_can_no_longer_be_measured_is_not_verified() -> None:
    found = case({"tool_error_rate": 0.5}, {"tool_error_rate": math.nan}, TIMEOUT)
    assert kind(verdict("TE-1", found)) is OutcomeKind.UNVERIFIED
    assert verdict("TE-1", replace(found, after=found.after[1:])) is None


def test_harm_that_has_only_become_smaller_is_not_resolved() -> None:
    """From 200 nats to 23 is a fall, and no healthy band."""
    found = case({"kl_ref": 9.0, "update_ratio": 0.3}, {"kl_ref": 0.1, "update_ratio": 0.013}, TIMEOUT)
    outcome = verdict("OD-1", found)
    assert outcome is not None
    assert 1 < outcome.severity_after < outcome.severity_before - 1
    assert kind(outcome) is OutcomeKind.INEFFECTIVE
    assert outcome.reason.endswith("above its healthy level")


def test_evidence_is_compared_step_for_step() -> None:
    """One step of a fault shows less than a window of a signal that drifts while the run learns."""
    # 1.4 spreads above the healthy level, which is within its band at every step.
    found = case({"kl_ref": 9.0, "update_ratio": 0.3}, {"update_ratio": 0.0115}, TIMEOUT)
    short = replace(found, under_fault=found.under_fault[:1])
    outcomes = [verdict("OD-1", each, rules=replace(RULES, window=TIMEOUT)) for each in (found, short)]
    assert [kind(outcome) for outcome in outcomes] == [OutcomeKind.RESOLVED, OutcomeKind.RESOLVED]
    assert all(outcome is not None and outcome.severity_after > 1 for outcome in outcomes)


def rolled_back(update: float, steps: int) -> Case:
    """A rollback under which updates have some size, and all else is usual."""
    return case({"update_ratio": 0.3}, {"update_ratio": update}, steps)


def test_rollback_is_judged_once_the_steps_that_it_gave_up_were_trained_again() -> None:
    assert verdict("OD-1", rolled_back(0.01, 7), undone=8) is None
    assert kind(verdict("OD-1", rolled_back(0.01, 8), undone=8)) is OutcomeKind.RESOLVED
    # At half the size of updates it takes twice as many steps.
    assert verdict("OD-1", rolled_back(0.005, 9), undone=5) is None
    assert kind(verdict("OD-1", rolled_back(0.005, 10), undone=5)) is OutcomeKind.RESOLVED


def test_run_that_only_creeps_after_a_rollback_has_cured_nothing() -> None:
    outcome = verdict("OD-1", rolled_back(0.0005, TIMEOUT), undone=5)
    assert kind(outcome) is OutcomeKind.UNVERIFIED
    assert outcome is not None
    assert outcome.reason == "not verified: only 1 of the 5 steps given up were trained again"


def test_fault_that_is_back_after_a_rollback_is_not_waited_for() -> None:
    found = rolled_back(0.01, 1)
    outcome = verdict("OD-1", found, undone=5, active=True)
    assert kind(outcome) is OutcomeKind.INEFFECTIVE
    assert outcome is not None
    assert outcome.reason == "the fault came back at step 15, after the rollback"
    assert verdict("OD-1", found, active=True) is None, "without a rollback the alarm may take the window to clear"


def test_probe_is_the_newest_that_there_is() -> None:
    seen = [report(1, probe_accuracy=0.5), report(2, probe_accuracy=0.8), report(3, probe_accuracy=0.6)]
    seen.append(report(4, **NO_PROBE))
    assert last_probe(seen) == 0.6
    assert math.isnan(last_probe(reports(1, 3, **NO_PROBE)))


SOURCES: list[tuple[str, dict[str, Any], bool]] = [
    ("RF-1", {"regrade_mismatch_rate": 0.1, "regrade_count": 128.0, "trained_mismatch_rate": 0.0}, True),
    ("RF-1", {"trained_mismatch_rate": 0.1}, False),
    ("RF-2", {"regrade_mismatch_rate": 0.1, "regrade_count": 128.0}, True),
    ("RF-2", {}, False),
    ("TE-1", {"tool_shadow_error_rate": 0.06}, True),
    ("TE-1", {"tool_retry_rate": 0.06}, True),
    ("TE-1", {"tool_error_rate": 0.06}, True),
    ("TE-1", {"tool_error_rate": 0.05, "tool_retry_rate": 0.05, "tool_shadow_error_rate": 0.05}, False),
    ("TE-1", {"tool_shadow_error_rate": math.nan}, False),
    # The lever fixes the rate; the schedule beneath it is wrong still.
    ("OD-1", {"schedule_excess": math.log(30)}, True),
    ("OD-1", {"schedule_excess": -math.log(30)}, True),
    ("OD-1", {"schedule_excess": 0.009}, False),
    # A thirtieth of the rate, and updates of the usual size: what multiplies them is there still.
    ("OD-1", {"lr": 1e-3 / 30}, True),
    ("OD-1", {"lr": 1e-3 / 30, "update_ratio": 0.01 / 30}, False),
    ("OD-1", {"lr": 0.0, "update_ratio": 0.0}, False),
    ("NUMERICAL", {"loss": math.nan}, False),
    ("", {"tool_error_rate": 1.0}, False),
]


def source_active(code: str, window: Sequence[StepReport], reference: Sequence[StepReport]) -> bool:
    """Whether the cause of a fault is active, without any lever that contains it."""
    return plan_of(code, None).cause((), window, reference) is Cause.ACTIVE


@pytest.mark.parametrize(("code", "signals", "active"), SOURCES)
def test_source_is_looked_at_past_the_levers(code: str, signals: dict[str, float], active: bool) -> None:
    # One step is enough: a source that comes and goes is active.
    window = (*reports(20, 3), report(23, **signals), report(24))
    assert source_active(code, window, reports(1, 10)) is active


@pytest.mark.parametrize(("ratio", "active"), [(0.0149, False), (0.0151, True)])
def test_gain_is_compared_with_the_largest_usual_one(ratio: float, active: bool) -> None:
    usual = (*reports(1, 9, update_ratio=0.002), report(10))
    assert source_active("OD-1", [report(20, update_ratio=ratio)], usual) is active


def test_without_a_usual_gain_only_the_schedule_speaks() -> None:
    assert not source_active("OD-1", [report(20, update_ratio=9.0)], ())
    assert source_active("OD-1", [report(20, schedule_excess=1.0)], ())


def test_honest_disagreement_is_no_source() -> None:
    # One in 1280 graded trajectories, at the shipped guard.regrade_noise of 0.001.
    seen = (*reports(20, 9), report(29, regrade_mismatch_rate=1 / 128, regrade_count=128.0))
    assert not source_active("RF-1", seen, reports(1, 10))
