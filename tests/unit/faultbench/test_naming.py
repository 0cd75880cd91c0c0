"""How names are given and scored: when a fault is named, what counts as wrong, intervals, calibration, reasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rftfm_ray.diagnosis.classify import CLAIMED, PATIENCE, SURE
from rftfm_ray.faultbench.detectors.references import ReferenceMode
from rftfm_ray.faultbench.naming.figures import Answer, calibration_error, calibration_of, f1_by_class, macro_f1
from rftfm_ray.faultbench.naming.named import (
    NO_ALARM,
    NamedRun,
    Ranker,
    false_name,
    named_run,
)
from rftfm_ray.faultbench.naming.reasons import reason_of
from rftfm_ray.faultbench.runs.plan import Kind
from rftfm_ray.faultbench.teaching.evidence import EvidenceScope, less_of, restricted
from rftfm_ray.faultbench.teaching.following import Followed
from rftfm_ray.verdicts import Evidence, Place
from tests.unit.faultbench.followed import (
    IDENTITY,
    ONSET,
    TELEMETRY,
    alarm,
    alarmed,
    entry_of,
    followed,
    stating,
)

LAW = alarm("law:advantage_mean", "advantage_mean", Evidence.LAW)
FLOOR = alarm("floor:rollout", "rollout_kl", Evidence.TELEMETRY)
CHANNEL = alarm("golden", "golden_mismatch_rate", Evidence.CHANNEL)


def named(run: Followed, ranker: Ranker, least: float = CLAIMED) -> NamedRun:
    return named_run(run, ReferenceMode.PROFILE, EvidenceScope.ALL, ranker, least)


def test_fault_is_named_as_soon_as_a_name_is_sure() -> None:
    run = alarmed(entry_of())
    result = named(run, stating({16: ("RF-2", SURE - 0.01), 18: ("RF-1", SURE), 19: ("RF-2", 0.99)}))
    assert result.name is not None
    assert (result.code, result.name.alarm, result.name.step, result.is_right) == ("RF-1", 16, 18, True)
    assert (result.is_in_place, result.family) == (True, "RF")


def test_after_patience_the_likeliest_name_stands_unless_it_is_unlikely() -> None:
    run, last = alarmed(entry_of()), ONSET + PATIENCE
    assert named(run, stating({last: ("RF-1", CLAIMED), last + 1: ("RF-2", 0.99)})).code == "RF-1"
    unlikely = stating({last: ("RF-1", CLAIMED - 0.01)})
    assert named(run, unlikely).code == "UNKNOWN"
    assert named(run, unlikely, least=0.0).code == "RF-1"


def test_unknown_that_is_sure_does_not_end_the_patience() -> None:
    result = named(alarmed(entry_of()), stating({20: ("RF-1", SURE)}))
    assert result.name is not None
    assert (result.code, result.name.step) == ("RF-1", 20)


def test_run_without_an_alarm_and_alarm_that_was_open_have_no_name() -> None:
    ranker = stating({}, ("RF-1", 0.9))
    missed, early = named(followed(entry_of(), {}), ranker), named(alarmed(entry_of(), since=10), ranker)
    assert (missed.code, missed.was_open, missed.is_right) == (NO_ALARM, False, False)
    assert (early.code, early.was_open) == (NO_ALARM, True)
    assert "no alarm from the switch at step 16 to step 40" in reason_of(missed)
    assert "an alarm was open already" in reason_of(early)


def test_place_is_read_off_what_is_broken() -> None:
    entry = entry_of("CA-3@16:hard,mechanism=discount")
    right = named(alarmed(entry, alarm("identity:advantages", "advantage_error", Evidence.IDENTITY)),
                  stating({}, ("CA-3", 0.9)))  # fmt: skip
    assert right.name is not None
    assert right.name.place is Place.ESTIMATOR
    assert right.is_in_place == (right.mechanism.acts_in is Place.ESTIMATOR)


def test_reason_says_how_much_closer_the_rival_is_and_what_evidence_is_missing() -> None:
    run = alarmed(entry_of("OD-2@16:hard,mechanism=small_steps"))
    wrong = named(run, lambda *_: [("OD-1", 0.9), ("OD-2", 0.09)])
    assert "OD-1 is closer by 2.3 nats (90% to 9%)" in reason_of(wrong)
    assert "`update_gain`, which shows it, had no alarm" in reason_of(wrong)
    early = named(replace(run, effect=30), lambda *_: [("OD-1", 0.9), ("OD-2", 0.09)])
    assert "named at step 16, before the effect at step 30" in reason_of(early)
    assert "measured" in reason_of(replace(wrong, scope=EvidenceScope.TELEMETRY))
    assert reason_of(named(run, lambda *_: [("OD-2", 0.8)])) == ""


def test_false_name_is_of_an_alarm_of_its_own() -> None:
    control = replace(entry_of(""), kind=Kind.CONTROL, fork=10)
    ranker = stating({}, ("RF-1", 0.9))
    assert false_name(alarmed(control), ranker) == "RF-1"
    assert false_name(alarmed(control), stating({})) == ""
    # It began in the healthy run that the control has left.
    assert false_name(alarmed(control, since=9), ranker) == ""


def test_f1_counts_every_miss_and_every_wrong_name() -> None:
    answers = [
        Answer(1, "RF-1", "RF-1"), Answer(1, "RF-1", "RF-1"), Answer(2, "RF-1", "RF-2"), Answer(2, "RF-2", "RF-2"),
        Answer(3, "RF-3", NO_ALARM), Answer(3, "RF-3", "RF-3"),
    ]  # fmt: skip
    assert f1_by_class(answers) == pytest.approx({"RF-1": 4 / 5, "RF-2": 2 / 3, "RF-3": 2 / 3})
    result = macro_f1(answers)
    assert result.value == pytest.approx((4 / 5 + 2 / 3 + 2 / 3) / 3)
    assert (result.low95 < result.value <= result.high95, result.count) == (True, 6)
    assert macro_f1(answers, ("RF-3",)).value == pytest.approx(2 / 3)
    assert macro_f1([]).count == 0


def test_runs_of_a_seed_are_drawn_together() -> None:
    wrong = [Answer(n, "RF-1", "RF-1" if n % 2 else NO_ALARM) for n in range(20)]
    one_seed = macro_f1([replace(answer, seed=1) for answer in wrong])
    assert one_seed.low95 == one_seed.value == one_seed.high95
    many = macro_f1(wrong)
    assert many.low95 < many.value < many.high95
    assert many == macro_f1(wrong)


def test_calibration_error_is_the_gap_and_a_perfect_classifier_has_one_too() -> None:
    good = calibration_of([0.9] * 10 + [0.5] * 10, [True] * 9 + [False] + [True] * 5 + [False] * 5)
    assert good.error == pytest.approx(0.0)
    assert 0.03 < good.perfect < good.perfect95
    bad = calibration_of([0.9] * 20, [True] * 10 + [False] * 10)
    assert bad.error == pytest.approx(0.4)
    assert bad.error > bad.perfect95
    # Bins are weighted by the names in them: three in four are 0.1 off, the others 0.5.
    mixed = calibration_error(np.array([0.9] * 30 + [0.5] * 10), np.array([True] * 40))
    assert float(mixed) == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)


def test_scope_leaves_out_alarms_of_other_evidence_and_what_they_date() -> None:
    entry, late = entry_of("CA-3@16:hard,mechanism=discount"), alarm("change", "reward_mean", Evidence.TELEMETRY, 20)
    run = followed(entry, {18: (IDENTITY, LAW), 22: (IDENTITY, CHANNEL, FLOOR, late)})
    by_scope = {scope: restricted(run, scope) for scope in EvidenceScope}
    assert by_scope[EvidenceScope.ALL] is run
    assert [each.step for each in by_scope[EvidenceScope.LAWS].diagnosed] == [18, 22]
    (only,) = by_scope[EvidenceScope.TELEMETRY].diagnosed
    assert (only.step, only.onset, only.case.symptoms) == (22, 20, (late,))
    assert only.case.features.window is not None
    assert len(only.case.features.window.residuals) == 3
    assert by_scope[EvidenceScope.LAWS].diagnosed[1].case.symptoms == (FLOOR, late)
    assert by_scope[EvidenceScope.LAWS].diagnosed[0].case.features.present == ("alarm law:advantage_mean above",)
    assert by_scope[EvidenceScope.TELEMETRY].symptoms[17] == ()


def test_scope_makes_what_is_not_logged_unknown() -> None:
    run = alarmed(entry_of(), TELEMETRY)
    run.values[:] = 0.5
    less, window = restricted(run, EvidenceScope.LAWS), run.window(ONSET, 20)
    assert np.isnan(less.values).any(0).sum() > 0
    assert np.isfinite(less.values).all(0).sum() > 0
    features = less_of(replace(run.diagnosed[0].case.features, window=window), EvidenceScope.LAWS)
    assert features.window is not None
    assert (features.window.figures == less.window(ONSET, 20).figures).all()
    assert (features.window.figures != window.figures).any()
