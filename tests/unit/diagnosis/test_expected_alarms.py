"""Alarms that are expected under the levers in force: notices, on their side and for their cause alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rftfm_ray.diagnosis.assessor import Assessor
from rftfm_ray.diagnosis.diagnoser import FaultDiagnoser
from rftfm_ray.verdicts import DeclaredChange, Evidence, Expected, StepReport, Symptom
from tests.unit.diagnosis.scripted import Given, ScriptedMonitor, alarm

Make = Callable[..., StepReport]


def assessor(symptoms: Given) -> Assessor:
    """An assessor whose monitor has these symptoms."""
    return Assessor(ScriptedMonitor(symptoms), FaultDiagnoser(), 5, 4)


def test_expected_alarm_is_a_notice_until_it_is_declared_otherwise(make_report: Make) -> None:
    golden = alarm("golden_mismatch_rate", 3)
    monitor = ScriptedMonitor(lambda _: [golden])
    judge = Assessor(monitor, FaultDiagnoser(), 5, 4)
    change = DeclaredChange("levers", 2, (), "order 1", expected=Expected(contained=(("golden_mismatch_rate", 1),)))

    def alarms(step: int) -> int:
        (assessment,) = judge.assess([make_report(step)])
        return 0 if assessment.diagnosis is None else sum(s.alarm for s in assessment.diagnosis.symptoms)

    assert alarms(1) == 1
    judge.declare(change)
    assert alarms(2) == 0
    # Another change says nothing about it, and a rollback is followed by what is in force then.
    judge.declare(DeclaredChange("configuration", 3, (), "a key"))
    judge.rewind(0)
    assert alarms(3) == 0
    judge.declare(replace(change, expected=Expected()))
    assert alarms(4) == 1
    assert monitor.changes[0] == change


def test_expected_alarm_does_not_hide_others(make_report: Make) -> None:
    symptoms = [alarm("golden_mismatch_rate", 3), alarm("update_ratio", 20)]
    judge = assessor({1: symptoms})
    judge.declare(
        DeclaredChange("levers", 1, (), "order 1", expected=Expected(contained=(("golden_mismatch_rate", 1),)))
    )
    (assessment,) = judge.assess([make_report(1)])
    assert assessment.diagnosis is not None
    # Dated by its own alarm: a rollback must not go back to before the fault whose harm is kept away.
    assert (assessment.diagnosis.code, assessment.diagnosis.onset) == ("OD-1", 20)
    assert [s.signal for s in assessment.diagnosis.symptoms] == ["update_ratio"]


@pytest.mark.parametrize(
    ("symptom", "is_notice"),
    [
        (alarm("update_ratio", direction=-1), True),
        (alarm("update_ratio", direction=1), False),
        (alarm("update_ratio", direction=-1, evidence=Evidence.CHANNEL), True),
        (alarm("update_ratio", direction=-1, evidence=Evidence.IDENTITY), False),
        (alarm("step_kl", direction=-1), False),
    ],
)
def test_alarm_is_expected_on_one_side_and_never_for_an_identity(
    make_report: Make, symptom: Symptom, is_notice: bool
) -> None:
    judge = assessor({1: [symptom]})
    judge.declare(DeclaredChange("levers", 1, (), "order 1", expected=Expected(moved=(("update_ratio", -1),))))
    (assessment,) = judge.assess([make_report(1)])
    assert (assessment.diagnosis is None) is is_notice


@pytest.mark.parametrize(("side", "is_notice"), [(1, True), (-1, False)])
def test_identity_of_a_cause_that_a_lever_contains_is_expected_to_stay_broken(
    make_report: Make, side: int, is_notice: bool
) -> None:
    judge = assessor({1: [alarm("update_gain", direction=side, evidence=Evidence.IDENTITY)]})
    judge.declare(DeclaredChange("levers", 1, (), "order 1", expected=Expected(contained=(("update_gain", 1),))))
    (assessment,) = judge.assess([make_report(1)])
    assert (assessment.diagnosis is None) is is_notice
