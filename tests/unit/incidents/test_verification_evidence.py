"""Verification: nothing is resolved that was not there, and of a cause only what is known is said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rftfm_ray.policies.playbook import PLANS
from rftfm_ray.policies.playbook.plan import never_active
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.verdicts import OutcomeKind
from tests.unit.incidents.judged import WINDOW, case, kind, reports, verdict


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
        ("TE-1", "tool_error_rate", ("tool_shadow_error_rate",), "its cause is no longer active"),
        (
            "TE-1", "tool_error_rate", ("tool_shadow_error_rate", "tool_retry_rate"),
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
