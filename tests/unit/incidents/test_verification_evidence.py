"""Verification: nothing is resolved that was not there, and of a cause only what is known is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from rftfm_ray.incidents.verification import Case
from rftfm_ray.policies.playbook import PLANS
from rftfm_ray.policies.playbook.plan import never_active
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import Diagnosis, Evidence, Family, OutcomeKind, StepReport, Symptom
from tests.unit.incidents.judged import TIMEOUT, WINDOW, case, kind, report, reports, verdict


@pytest.mark.parametrize("code", ["OD-1", "TE-1", "RF-1", "NUMERICAL"])
def test_harm_that_was_never_there_is_not_resolved(code: str) -> None:
    outcome = verdict(code, case({}, {}))
    assert kind(outcome) is OutcomeKind.UNVERIFIED, "at once: no later step shows what was before the remedy"
    assert outcome is not None
    assert outcome.reason.startswith("not verified: severity was 0.0 nats")
    assert outcome.reason.endswith(" nats before, within its healthy band")
    unmeasured = verdict(code, replace(case({}, {}), under_fault=()))
    assert kind(unmeasured) is OutcomeKind.UNVERIFIED
    assert unmeasured is not None
    assert unmeasured.reason == "not verified: no harm was measured before"


def test_cause_that_is_active_is_mitigated_before_it_did_harm() -> None:
    outcome = verdict("TE-1", case({}, {"tool_shadow_error_rate": 0.5}))
    assert kind(outcome) is OutcomeKind.MITIGATED
    assert outcome is not None
    assert outcome.reason.startswith("the harm is within its healthy band, as it was before the remedy; its cause")


@pytest.mark.parametrize(
    ("code", "harm", "unmeasured", "words"),
    [
        ("TE-1", "tool_error_rate", (), "its cause is no longer active"),
        (
            "TE-1", "tool_error_rate", ("tool_shadow_error_rate",),
            "whether its cause is still active was not measured",
        ),
        ("RF-1", "trained_mismatch_rate", (), "its cause is no longer active"),
        (
            "RF-1", "trained_mismatch_rate", ("regrade_mismatch_rate",),
            "whether its cause is still active was not measured",
        ),
        ("OD-1", "update_ratio", (), "its cause is no longer active"),
        ("NUMERICAL", "vetoes", (), "its cause cannot be observed apart from it"),
    ],
)  # fmt: skip
def test_resolved_says_what_is_known_of_the_cause(
    code: str, harm: str, unmeasured: tuple[str, ...], words: str
) -> None:
    outcome = verdict(code, case({harm: 0.5}, dict.fromkeys(unmeasured, math.nan)))
    assert kind(outcome) is OutcomeKind.RESOLVED
    assert outcome is not None
    assert outcome.reason.endswith(f" and {words}")


@pytest.mark.parametrize(
    ("code", "harm", "unmeasured", "lever"),
    [
        ("TE-1", "tool_error_rate", "tool_shadow_error_rate", "tool_instance"),
        ("RF-1", "trained_mismatch_rate", "regrade_mismatch_rate", "regrade_rate"),
    ],
)
def test_harm_that_a_lever_keeps_away_is_not_resolved_unless_its_cause_was_measured(
    code: str, harm: str, unmeasured: str, lever: str
) -> None:
    found = replace(case({harm: 0.5}, {unmeasured: math.nan}), moved=(lever,))
    assert kind(verdict(code, found)) is not OutcomeKind.RESOLVED
    late = verdict(code, replace(found, after=reports(15, TIMEOUT, **{unmeasured: math.nan})))
    assert kind(late) is OutcomeKind.UNVERIFIED
    assert late is not None
    assert late.reason.endswith(f"was not measured, and {lever} keeps its harm away")
    measured = verdict(code, replace(case({harm: 0.5}, {}), moved=(lever,)))
    assert kind(measured) is OutcomeKind.RESOLVED


def test_every_check_of_a_cause_names_the_signals_that_it_reads() -> None:
    for plan in (plan for fault in PLANS.values() for plan in fault.plans):
        assert bool(plan.source_reads) is (plan.source_active is not never_active)
        assert set(plan.source_reads) <= set(INDEX)


def test_evidence_of_one_step_of_a_fault_is_held_against_as_many_steps_as_the_window_has() -> None:
    """A policy that is where one large update has led it, and stays there, has not failed to be contained."""
    found = case({"update_ratio": 0.3, "kl_ref": 1.0}, {"kl_ref": 0.1, "lr": 1e-3 / 30}, WINDOW)
    short = replace(found, under_fault=found.under_fault[:1])
    outcome = verdict("OD-1", short)
    assert outcome is not None
    assert outcome.severity_before < outcome.severity_after < WINDOW * outcome.severity_before
    assert kind(outcome) is OutcomeKind.MITIGATED
    assert outcome.reason.startswith("severity fell from 16.5 to 6.9 nats in as many steps; its cause")
    still = verdict("OD-1", replace(short, after=reports(15, WINDOW, update_ratio=0.3, kl_ref=1.0, lr=1e-3 / 30)))
    assert kind(still) is OutcomeKind.INEFFECTIVE, "what goes on unchanged is not contained"


def learning(first: int, count: int, entropy: Callable[[int], float], **signals: float) -> tuple[StepReport, ...]:
    """Steps of a run that learns: its entropy falls, and wavers a little."""
    return tuple(
        report(step, entropy=entropy(step) + 0.01 * (step % 2), **signals) for step in range(first, first + count)
    )


def found_at_once(entropy: Callable[[int], float], after: int = WINDOW) -> Case:
    """A colder sampler that an exact check finds in its first step, and turns that go past it from then on."""

    def healthy(step: int) -> float:
        return 2.0 - 0.05 * step

    under, remedied = learning(11, 1, healthy, gap_slope=1.4), learning(12, after, entropy, gap_slope=1.0)
    return Case(learning(1, 10, healthy), under, remedied, 0.9, moved=("rollout_path",))


def test_fault_that_was_found_before_it_did_harm_is_not_held_against_what_the_run_has_learnt_since() -> None:
    outcome = verdict("OD-3", found_at_once(lambda step: 2.0 - 0.05 * step))
    assert outcome is not None
    assert outcome.severity_before < 1 < outcome.severity_after, "the entropy of a run that learns falls"
    assert kind(outcome) is OutcomeKind.MITIGATED
    assert outcome.reason.startswith("the harm is within its healthy band, as it was before the remedy; rollout_path")


def test_harm_that_comes_under_a_remedy_is_seen_beyond_the_trend_of_the_run() -> None:
    falling = found_at_once(lambda step: 2.0 - 0.05 * step - 0.2 * (step - 11), TIMEOUT)
    outcome = verdict("OD-3", falling)
    assert kind(outcome) is OutcomeKind.INEFFECTIVE
    assert outcome is not None
    assert "spreads below its healthy level" in outcome.reason
    early = replace(falling, after=falling.after[:WINDOW])
    assert verdict("OD-3", early) is None, "it may come back until the time limit"
    assert kind(verdict("OD-3", early, active=True)) is OutcomeKind.INEFFECTIVE


def broken(signal: str, evidence: Evidence = Evidence.IDENTITY, *, alarm: bool = True) -> Diagnosis:
    """A diagnosis that rests on one symptom."""
    symptom = Symptom("check", signal, evidence, alarm, 1, 0.5, 0.0, math.inf, 11, 11, "it is broken")
    return Diagnosis("OD-2", Family.OD, 0.99, (), (symptom,), 11, 11, "")


def test_an_identity_that_is_broken_after_a_remedy_must_have_shown_is_no_matter_of_patience() -> None:
    under = {"weights_mismatch": 0.5}
    for steps in (1, 2):
        found = replace(case(under, under, steps), diagnosis=broken("weights_mismatch"))
        assert verdict("OD-2", found, active=True) is None, "a remedy shows after two steps"
    outcome = verdict("OD-2", replace(case(under, under, 3), diagnosis=broken("weights_mismatch")), active=True)
    assert kind(outcome) is OutcomeKind.INEFFECTIVE
    assert outcome is not None
    assert outcome.reason == "weights_mismatch is still 0.5 after 3 steps under the remedy"


@pytest.mark.parametrize(
    ("diagnosis", "measured", "active"),
    [
        (broken("weights_mismatch"), 0.5, False),
        (broken("weights_mismatch", alarm=False), 0.5, True),
        (broken("weights_mismatch", Evidence.TELEMETRY), 0.5, True),
        (broken("weights_mismatch"), math.nan, True),
    ],
)
def test_what_is_expected_not_measured_or_no_identity_takes_the_usual_time(
    diagnosis: Diagnosis, measured: float, active: bool
) -> None:
    found = replace(case({}, {"weights_mismatch": measured}, 3), diagnosis=diagnosis)
    assert verdict("OD-2", found, active=active) is None
