"""Journal entries in words: numbers with three decimals, orders that no policy gives, and what is not known."""

from __future__ import annotations

import math

import pytest

from rftfm_ray.incidents.state import Entry, EntryKind, Scalar
from rftfm_ray.runs.words import NONE, change_of, describe, nats, share
from rftfm_ray.types import StepId

K = EntryKind


def what(kind: EntryKind, **fields: Scalar) -> str:
    """What an entry of step 7 says."""
    return describe(Entry(1, kind, StepId(0, 7, 9), 1, tuple(fields.items())))[0]


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1.000"), (0.0, "0.000"), (-0.0003, "0.000"), (0.517, "0.517"), (math.nan, NONE)]
)
def test_accuracy_has_three_decimals_and_is_never_minus_zero(value: float, text: str) -> None:
    assert share(value) == text


def test_change_says_what_was_not_measured() -> None:
    assert change_of(0.91, 0.996) == "0.910 -> 0.996"
    assert change_of(0.773, math.nan) == "0.773, not measured since"
    assert change_of(math.nan, 0.5) == "0.500, not measured before"
    assert change_of(math.nan, math.nan) == "not measured"


def test_evidence_of_harm_is_at_least_none() -> None:
    assert [nats(16.47), nats(-0.2), nats(math.nan)] == ["16.5", "0.0", NONE]


def test_return_of_a_lever_names_it_and_what_is_still_changed() -> None:
    order: dict[str, Scalar] = {"remedy": "return kl_coef_scale", "role": "return", "seconds": 0.249}
    assert what(K.RETURNING, **order) == "kl_coef_scale returns to nominal"
    assert what(K.APPLYING, **order) == "begun: the return of kl_coef_scale to nominal"
    assert what(K.APPLIED, **order) == "kl_coef_scale is nominal again"
    others = what(K.APPLIED, **order, lever_lr_scale=0.0353)
    assert others == "kl_coef_scale is nominal again; still changed: lr_scale=0.0353"
    assert what(K.APPLIED, **order, lever_kl_coef_scale=4.0) == "kl_coef_scale is nearer to nominal, at 4"


def test_orders_without_a_policy_are_in_plain_words() -> None:
    undo: dict[str, Scalar] = {"remedy": "undo", "role": "undo"}
    assert what(K.RETURNING, **undo) == "ordered: undo the remedies that did not help"
    assert what(K.APPLIED, **undo) == "undid the remedies that did not help (all levers nominal)"
    halt = what(K.APPLIED, remedy="halt", role="halt", halt="yes")
    assert halt == "applied: the end of the run (all levers nominal); the run ends"


def test_verification_says_what_it_lacks() -> None:
    judged = what(K.OUTCOME, outcome="unverified", severity_before=16.5, severity_after=-0.2, probe_before=0.773)
    lacks = "no probe yet answered wholly under the remedy"
    assert judged == f"verified: unverified (severity 16.5 -> 0.0 nats, held-out 0.773, {lacks})"
    judged = what(K.OUTCOME, outcome="unverified", severity_before=419.9, severity_after=100.0)
    assert judged == f"verified: unverified (severity over 100 -> 100.0 nats, held-out not measured before, {lacks})"


def test_guard_of_a_resumed_run_says_where_it_begins() -> None:
    assert what(K.STARTED, mode="observe", policy="playbook") == (
        "guard started after step 7 of a resumed run: observe, policy playbook"
    )


def test_what_a_policy_keeps_is_counted_and_its_metrics_are_told() -> None:
    assert what(EntryKind.POLICY_STATE, policy="mine.py:Mine", state="{}", metric_points=3.0) == (
        "policy mine.py:Mine keeps points=3 and a state of 2 bytes"
    )
    assert what(EntryKind.POLICY_STATE, policy="mine.py:Mine", state="") == "policy mine.py:Mine keeps nothing"


def test_policy_that_fails_says_whether_that_costs_its_decision() -> None:
    assert what(EntryKind.POLICY_FAILED, policy="mine.py:Mine") == "policy mine.py:Mine failed"
    failed = what(EntryKind.POLICY_FAILED, policy="mine.py:Mine", method="observe")
    assert failed == "policy mine.py:Mine failed in observe; its decisions stand"
