"""Verification: what came of a remedy, what confirms something costly, and whether a fault's source is active."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rftfm_ray.detection.detectors.probe import probe_drop
from rftfm_ray.incidents.severity import severity
from rftfm_ray.incidents.state import Incident
from rftfm_ray.incidents.verification import (
    CERTAIN,
    CONFIRMING_DROP,
    HARMFUL_DROP,
    Case,
    confirmed,
    judge,
    last_probe,
    source_active,
)
from rftfm_ray.signals.schema import INDEX, SIGNALS
from rftfm_ray.types import Levers, StepId
from rftfm_ray.verdicts import Diagnosis, Family, IncidentState, Outcome, OutcomeKind, StepReport, Tried

WINDOW, SIZE = 4, 256
USUAL = {"probe_accuracy": math.nan, "lr": 1e-3, "update_ratio": 0.01}


def report(step: int, **signals: float) -> StepReport:
    """A step without a finding, but for the signals that are given."""
    values = dict.fromkeys(INDEX, 0.0) | USUAL | signals
    assert len(values) == len(SIGNALS), "no such signal"
    return StepReport(StepId(0, step, step), step, tuple(values[signal.name] for signal in SIGNALS))


def reports(first: int, count: int, **signals: float) -> tuple[StepReport, ...]:
    """Several equal steps."""
    return tuple(report(step, **signals) for step in range(first, first + count))


def remedied(code: str) -> Incident:
    """An incident whose first remedy is in force."""
    tried = (Tried("remedy", 15, Levers()),)
    return Incident(1, IncidentState.VERIFYING, code, Family.TE, StepId(0, 11, 11), 11, 11, tried)


def case(under: dict[str, float], after: dict[str, float], window: int = WINDOW) -> Case:
    """Ten usual steps, four of the fault, and some under the remedy."""
    return Case(reports(1, 10), reports(11, 4, **under), reports(15, window, **after))


def verdict(code: str, found: Case, *, active: bool = False) -> Outcome | None:
    """What `judge` says."""
    return judge(remedied(code), found, alarm_active=active, probe_size=SIZE, window=WINDOW)


def kind(outcome: Outcome | None) -> OutcomeKind | None:
    """Its kind."""
    return outcome.kind if outcome else None


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
    assert "the levers stay" in outcome.reason


def test_source_is_looked_at_in_the_window_only() -> None:
    found = case({"tool_error_rate": 0.5}, {})
    early = Case(found.reference, found.under_fault, (report(15, tool_shadow_error_rate=1.0), *reports(16, WINDOW)))
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


def test_severity_below_one_nat_must_go_altogether() -> None:
    slight = {"tool_error_rate": 0.013}
    assert 0 < severity(reports(11, 4, **slight), reports(1, 10), ["tool_error_rate"]) < 1
    assert kind(verdict("TE-1", case(slight, slight))) is OutcomeKind.INEFFECTIVE
    assert kind(verdict("TE-1", case(slight, {}))) is OutcomeKind.RESOLVED


def test_severities_and_probes_of_the_outcome_are_those_of_the_case() -> None:
    under = (report(11, update_ratio=0.3, kl_ref=1.0, probe_accuracy=0.5), *reports(12, 3, update_ratio=0.3))
    after = (report(15, probe_accuracy=0.6), *reports(16, 3))
    found = Case((report(1, probe_accuracy=0.9), *reports(2, 9)), under, after)
    outcome = verdict("OD-1", found)
    assert outcome is not None
    harm = ("update_ratio", "kl_ref")
    assert outcome.severity_before == severity(under, found.reference, harm)
    assert outcome.severity_after == severity(after, found.reference, harm)
    assert (outcome.probe_before, outcome.probe_after) == (0.5, 0.6)


def fell(accuracy: float, steps: int = 2) -> Case:
    """A remedy under which the probe goes from 0.9 to `accuracy`."""
    after = (report(15, probe_accuracy=0.9), *reports(16, steps - 2), report(14 + steps, probe_accuracy=accuracy))
    return Case(reports(1, 10), reports(11, 4, tool_error_rate=0.5), after)


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
    reference = (report(1, probe_accuracy=0.9), *reports(2, 9))
    after = (report(15, probe_accuracy=0.3), *reports(16, WINDOW - 1))
    assert kind(verdict("TE-1", Case(reference, reports(11, 4, tool_error_rate=0.5), after))) is OutcomeKind.RESOLVED


def test_fault_from_the_first_step_on_can_be_resolved() -> None:
    found = Case((), reports(1, 4, tool_error_rate=0.5), reports(5, WINDOW))
    assert kind(verdict("TE-1", found)) is OutcomeKind.RESOLVED


def test_unknown_fault_can_be_resolved() -> None:
    assert kind(verdict("UNKNOWN", case({"entropy": 9.0}, {}))) is OutcomeKind.RESOLVED


def test_harm_that_can_no_longer_be_measured_is_not_resolved() -> None:
    found = case({"tool_error_rate": 0.5}, {"tool_error_rate": math.nan})
    assert kind(verdict("TE-1", found)) is not OutcomeKind.RESOLVED


def test_probe_is_the_newest_that_there_is() -> None:
    seen = [report(1, probe_accuracy=0.5), report(2, probe_accuracy=0.8), report(3, probe_accuracy=0.6), report(4)]
    assert last_probe(seen) == 0.6
    assert math.isnan(last_probe(reports(1, 3)))


def sure(probability: float) -> Diagnosis:
    """A diagnosis of that probability."""
    return Diagnosis("OD-1", Family.OD, probability, (), (), 11, 11, "")


def test_fallen_probe_confirms_whatever_the_evidence() -> None:
    yes, reason = confirmed(None, 0.9, 0.5, SIZE)
    assert yes
    assert reason == "held-out accuracy fell from 0.900 to 0.500"


def test_clear_evidence_confirms_whatever_the_probe() -> None:
    assert confirmed(sure(CERTAIN), 0.9, 0.9, SIZE)[0]
    assert confirmed(sure(CERTAIN), math.nan, 0.9, SIZE)[0]


@pytest.mark.parametrize("before", [0.9, math.nan])
def test_neither_is_not_enough(before: float) -> None:
    yes, reason = confirmed(sure(math.nextafter(CERTAIN, 0)), before, 0.9, SIZE)
    assert not yes
    assert "not enough" in reason
    assert not confirmed(None, before, 0.9, SIZE)[0]


def test_confirming_takes_two_standard_errors() -> None:
    known = [(now / 1000, probe_drop(0.9, now / 1000, SIZE)) for now in range(900, 600, -1)]
    for now, drop in known:
        assert confirmed(None, 0.9, now, SIZE)[0] == (drop > CONFIRMING_DROP)


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
