"""What an absolute reading says of the fault behind it: a name where the table has one, else UNKNOWN with its words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.detection.detectors.readings import PREFIX
from rftfm_ray.detection.monitor import MonitorPlan
from rftfm_ray.detection.readings.table import BY_NAME
from rftfm_ray.diagnosis.assessor import build_assessor
from rftfm_ray.diagnosis.classify import case_of, diagnose
from rftfm_ray.diagnosis.fingerprints import PAID_WRONGLY, READING_MEANINGS, meaning_of_readings
from rftfm_ray.diagnosis.raised import REGRADING
from rftfm_ray.taxonomy import TAXONOMY, UNKNOWN
from rftfm_ray.verdicts import Diagnosis, Family, Symptom
from tests.detecting import SETTINGS, make_report
from tests.reading_courses import Course, flat, rises
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


def test_what_the_trusted_verifier_disagrees_about_outweighs_that_something_else_is_paid_for() -> None:
    for name in sorted(PAID_WRONGLY):
        assert meaning_of_readings([reading(name)]) == READING_MEANINGS[name]
        assert meaning_of_readings([reading(name), alarm("kl_ref", 7)]) == READING_MEANINGS[name]
        for signal in sorted(REGRADING):
            assert meaning_of_readings([reading(name), alarm(signal, 7)]) == {}
        # A notice that they disagree is none.
        notice = replace(alarm("trained_mismatch_rate", 7), alarm=False)
        assert meaning_of_readings([reading(name), notice]) == READING_MEANINGS[name]
    assert "RF-3" in READING_MEANINGS["held_out_lost"]


def incident(course: Course) -> tuple[int, Diagnosis]:
    """The first step at which the guard of a run without a profile has a diagnosis, and the diagnosis at the last."""
    assessor = build_assessor(MonitorPlan(SETTINGS))
    rows = zip(*course.values(), strict=True)
    reports = [make_report(step, **dict(zip(course, map(float, row), strict=True))) for step, row in enumerate(rows, 1)]
    diagnoses = [(each.report.id.step, each.diagnosis) for each in assessor.assess(reports) if each.diagnosis]
    assert diagnoses
    return diagnoses[0][0], diagnoses[-1][1]


def test_a_reward_that_everything_gets_is_an_incident_within_a_few_steps() -> None:
    ones = flat(1.0, 12)
    course = {
        "reward_mean": ones, "reward_std": 0 * ones, "zero_variance_group_rate": ones, "grad_norm": 0 * ones,
        "correct_rate": rises(12, 0.6, 0.7), "trajectory_count": 32 * ones,
    }  # fmt: skip
    step, diagnosis = incident(course)
    assert step == 3
    assert diagnosis.onset == 1
    assert "so nothing is learnt" in diagnosis.summary


def test_what_follows_from_equal_rewards_is_no_fault_of_the_optimizer() -> None:
    ones = flat(1.0, 12)
    still = dict.fromkeys(("grad_norm", "changed_rate", "update_ratio", "step_kl", "policy_loss", "loss"), 0 * ones)
    graded = {"trained_mismatch_rate": 0 * ones, "regrade_error_mean": 0 * ones, "regrade_count": 128 * ones}
    course = {
        "reward_mean": ones, "reward_std": 0 * ones, "zero_variance_group_rate": ones, "entropy": flat(0.3, 12),
        "correct_rate": rises(12, 0.5, 0.6), "trajectory_count": 32 * ones, **still, **graded,
    }  # fmt: skip
    _, diagnosis = incident(course)
    assert diagnosis.family is not Family.OD
    assert "there is no gradient" in diagnosis.summary
    # Where rewards differ, a gradient of 0 and weights that stay are a frozen update.
    _, frozen = incident({**course, "reward_std": flat(0.4, 12), "zero_variance_group_rate": flat(0.2, 12)})
    assert frozen.code == "OD-2"


def test_a_run_whose_every_update_is_refused_is_an_incident_within_a_few_steps() -> None:
    nothing = flat(math.nan, 12)
    course = {"vetoes": flat(1.0, 12), "loss": nothing, "grad_norm": nothing, "kl_ref": nothing, "reward_mean": nothing}
    step, diagnosis = incident({**course, "valid_rate": flat(0.0, 12), "entropy": nothing})
    assert step <= 5
    assert "every update is refused" in diagnosis.summary


def test_length_that_pays_where_nothing_is_right_is_reward_hacking() -> None:
    steps = 40
    course = {
        "reward_mean": rises(steps, 1.7, 19.5), "correct_rate": flat(0.0, steps), "entropy": rises(steps, 5.6, 0.3),
        "length_mean": rises(steps, 2, 5), "kl_ref": flat(0.2, steps),
    }  # fmt: skip
    step, diagnosis = incident(course)
    assert step <= 30
    assert diagnosis.family is Family.RF


def test_length_that_pays_while_held_out_answers_are_lost_is_reward_hacking() -> None:
    steps, drawn = 60, np.random.default_rng(0)
    rows = np.arange(steps)
    probe = np.interp(rows, [0, 14, 40, 60], [0.7, 0.9, 0.3, 0.2])
    course = {
        "reward_mean": np.interp(rows, [0, 60], [0.94, 1.2]) + 0.04 * drawn.standard_normal(steps),
        "correct_rate": np.interp(rows, [0, 60], [0.55, 0.75]) + 0.05 * drawn.standard_normal(steps),
        "probe_accuracy": np.where(rows % 5 == 4, np.round(64 * probe) / 64, math.nan),
        "length_mean": 3.2 + 0.1 * drawn.standard_normal(steps), "regrade_count": flat(128.0, steps),
        "trained_mismatch_rate": flat(0.0, steps), "regrade_mismatch_rate": flat(0.0, steps),
        "regrade_error_mean": flat(0.0, steps),
    }  # fmt: skip
    _, diagnosis = incident(course)
    assert diagnosis.family is Family.RF
    assert any(symptom.detector == f"{PREFIX}held_out_lost" for symptom in diagnosis.symptoms)
