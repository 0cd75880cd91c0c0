"""What an absolute reading says of the fault behind it: a name where the table has one, else UNKNOWN with its words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfm_ray.detection.detectors.readings import PREFIX
from rftfm_ray.detection.readings.table import BY_NAME
from rftfm_ray.diagnosis.classify import case_of, diagnose
from rftfm_ray.diagnosis.fingerprints import READING_MEANINGS, meaning_of_readings
from rftfm_ray.taxonomy import TAXONOMY, UNKNOWN
from rftfm_ray.verdicts import Symptom
from tests.unit.diagnosis.scripted import alarm


def reading(name: str, onset: int = 7) -> Symptom:
    """The alarm of a reading."""
    rule = BY_NAME[name].rule
    symptom = alarm(rule.signal, onset, direction=rule.direction)
    return replace(symptom, detector=f"{PREFIX}{name}", reason=f"{rule.signal} is 1: {rule.says}")


def test_every_reading_of_a_guard_has_a_row_and_every_row_a_fault() -> None:
    assert set(READING_MEANINGS) == {name for name, entry in BY_NAME.items() if not entry.rule.in_logs_only}
    assert {code for row in READING_MEANINGS.values() for code in row} <= set(TAXONOMY)
    assert all(nats > 0 for row in READING_MEANINGS.values() for nats in row.values())


@pytest.mark.parametrize(
    ("name", "code"),
    [("paid_for_wrong", "RF-3"), ("held_out_lost", "RF-3"), ("rate_zero", "OD-2"), ("step_kl_impossible", "OD-1")],
)
def test_a_reading_with_one_cause_names_it(name: str, code: str) -> None:
    diagnosis = diagnose([reading(name)])
    assert diagnosis is not None
    assert diagnosis.code == code
    assert diagnosis.onset == 7


@pytest.mark.parametrize("name", ["groups_agree", "gradient_zero", "broke_together", "reward_lost", "rollout_kl"])
def test_a_reading_with_many_causes_is_unknown_and_says_what_it_has_read(name: str) -> None:
    diagnosis = diagnose([reading(name)])
    assert diagnosis is not None
    assert diagnosis.code == UNKNOWN
    assert BY_NAME[name].rule.says in diagnosis.summary


def test_a_reading_does_not_count_twice_for_its_signal() -> None:
    symptoms = (alarm("kl_ref", 7), reading("kl_impossible"))
    assert case_of(symptoms, None).features == case_of(symptoms[:1], None).features
    assert meaning_of_readings(symptoms) == READING_MEANINGS["kl_impossible"]
    alone, both = diagnose(symptoms[:1]), diagnose(symptoms)
    assert alone is not None
    assert both is not None
    assert (alone.code, both.code) == ("OD-1", "OD-1")
    assert both.probability > alone.probability
