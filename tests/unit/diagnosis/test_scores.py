"""How a model and the written tables are weighed: which speaks of what, and how sure a diagnosis may be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rftfm_ray.detection.observed import Observation
from rftfm_ray.diagnosis.classify import CLAIMED, LEAST_NAMED, case_of, claimed, diagnose
from rftfm_ray.diagnosis.features import Window, features_of
from rftfm_ray.diagnosis.findings import INTACT
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, MEANINGS, READING_MEANINGS, meaning_of
from rftfm_ray.diagnosis.meaning import IDENTITY_EXCLUDED, nats_of_breaks
from rftfm_ray.diagnosis.model import EXACT, HIGHEST, TELEMETRY, DiagnosisModel
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.diagnosis.weighing import (
    FAULT_NATS,
    LEAST_SHARE,
    LIKE_NOTHING,
    LIKE_SOMETHING,
    Case,
    also_in,
    fingerprint_scores,
    level_of,
    ranked_by,
    scores_of,
)
from rftfm_ray.numerals import as_percent
from rftfm_ray.taxonomy import NUMERICAL, UNKNOWN, VERIFIER
from rftfm_ray.verdicts import Evidence, Rival, Symptom
from tests.detecting import make_report
from tests.unit.diagnosis.models import Points, model_of, stump, window_of
from tests.unit.diagnosis.scripted import alarm

TOLD = [code for code in FINGERPRINTS if code != NUMERICAL]
IDENTITY = alarm("replay_observation_mismatch_rate", evidence=Evidence.IDENTITY)
LAW = replace(alarm("loss", evidence=Evidence.LAW), detector="law:loss")
SEEN = "alarm replay_observation_mismatch_rate above"


def case(*symptoms: Symptom, findings: tuple[str, ...] = (), window: Window | None = None) -> Case:
    """What a diagnosis rests on, without a residual of any of the alarms' signals."""
    window = window_of(signal="length_mean") if window is None else window
    return Case(symptoms, findings, (), features_of(symptoms, findings, window))


def model(*present: str, calibration: Points = ((0.0, 0.0), (1.0, 1.0))) -> DiagnosisModel:
    """A model that has seen these names, and always gives the same shares."""
    return model_of(stump({"RF-1": 0.2, "OD-1": 0.6}), present=present, calibration=calibration)


def differences(of: Case, without: Case, asked: DiagnosisModel) -> dict[str, float]:
    """Nats that are new in a case, by fault."""
    new, old = scores_of(of, asked), scores_of(without, asked)
    return {code: new[code] - old[code] for code in new}


def test_shares_of_the_model_and_of_no_fault_are_the_start() -> None:
    scores = scores_of(case(), model())
    assert set(scores) == {*TOLD, UNKNOWN}
    assert scores["OD-1"] == pytest.approx(math.log(0.6 + LEAST_SHARE))
    assert scores["TE-1"] == pytest.approx(math.log(LEAST_SHARE))
    assert scores[UNKNOWN] == pytest.approx(math.log(0.2 + LEAST_SHARE) - FAULT_NATS)


@pytest.mark.parametrize("new", [IDENTITY, replace(IDENTITY, direction=-1), replace(IDENTITY, alarm=False)])
def test_exact_symptom_that_the_model_has_not_seen_is_judged_by_the_table(new: Symptom) -> None:
    gained = differences(case(new), case(), model())
    assert gained == pytest.approx({**fingerprint_scores([new]), UNKNOWN: 0.0})
    if new == IDENTITY:
        assert not any(differences(case(new), case(), model(SEEN)).values()), "the model has weighed it"
    else:
        assert any(differences(case(new), case(), model(SEEN)).values()), "another side or kind is another name"


def test_broken_law_that_the_model_has_not_seen_is_judged_by_its_table() -> None:
    gained = differences(case(LAW), case(), model())
    assert gained == pytest.approx({**nats_of_breaks([LAW], TOLD), UNKNOWN: 0.0})
    assert not any(differences(case(LAW), case(), model("alarm law:loss above")).values())


def test_finding_that_the_model_has_not_seen_is_judged_by_its_table() -> None:
    findings = (next(iter(MEANINGS)),)
    gained = differences(case(findings=findings), case(), model())
    written = meaning_of(findings)
    assert any(written.values())
    assert gained == pytest.approx({code: written.get(code, 0.0) for code in (*TOLD, UNKNOWN)})
    assert not any(differences(case(findings=findings), case(), model(*findings)).values())


def test_telemetry_counts_by_its_residual_and_by_the_table_where_it_has_none() -> None:
    updates = alarm("update_ratio")
    gained = differences(case(updates), case(), model())
    assert gained == pytest.approx({**fingerprint_scores([updates]), UNKNOWN: 0.0})
    residual = window_of(3.0, signal="update_ratio")
    assert not any(differences(case(updates, window=residual), case(window=residual), model()).values())


def test_absolute_reading_is_always_judged_by_its_table() -> None:
    reading = replace(alarm("kl_ref"), detector="reading:kl_impossible")
    for window in (window_of(3.0, signal="kl_ref"), window_of(signal="entropy")):
        gained = differences(case(reading, window=window), case(window=window), model())
        written = READING_MEANINGS["kl_impossible"]
        assert gained == pytest.approx({code: written.get(code, 0.0) for code in (*TOLD, UNKNOWN)})


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_the_model_has_seen_is_judged_by_the_tables_as_well_where_it_knows_little_like_it(share: float) -> None:
    largest = LIKE_SOMETHING - share * (LIKE_SOMETHING - LIKE_NOTHING)
    asked = model_of(stump({"OD-1": largest}), present=(SEEN,))
    gained = differences(case(IDENTITY), case(), asked)
    written = {code: share * nats for code, nats in fingerprint_scores([IDENTITY]).items()}
    # Shares are stored as bytes.
    assert gained == pytest.approx({**written, UNKNOWN: 0.0}, abs=0.2)


def test_what_cannot_break_a_broken_identity_is_ruled_out_whatever_the_model_says() -> None:
    served = replace(alarm("weights_mismatch", evidence=Evidence.IDENTITY), detector="identity:served_weights")
    sure = model_of(
        stump({"PG-2": 1.0, "OD-2": 0.3}), present=("alarm weights_mismatch above", "notice weights_mismatch above")
    )
    gained = differences(case(served), case(), sure)
    ruled_out = {code: 0.0 if code in ("OD-2", UNKNOWN) else -IDENTITY_EXCLUDED for code in (*TOLD, UNKNOWN)}
    assert gained == pytest.approx(ruled_out)
    assert ranked_by(case(served), sure)[0][0] == "OD-2"
    assert not any(differences(case(replace(served, alarm=False)), case(), sure).values()), "a notice rules nothing out"


def test_fault_that_no_example_had_is_named_by_its_table() -> None:
    failed = alarm("verifier_error_rate", evidence=Evidence.CHANNEL)
    diagnosis = diagnose([failed], Readings())
    assert diagnosis is not None
    assert diagnosis.code == VERIFIER
    assert diagnosis.probability >= CLAIMED


def test_without_a_share_for_any_fault_it_is_unknown() -> None:
    asked = model_of(stump({"RF-1": 0.02}))
    assert ranked_by(case(), asked)[0][0] == UNKNOWN
    some = ranked_by(case(), model())
    assert [code for code, _ in some[:2]] == ["OD-1", "RF-1"]
    assert math.fsum(share for _, share in some) == pytest.approx(1)


def test_fault_that_is_excluded_gets_nothing_and_unknown_is_never_excluded() -> None:
    ranked = dict(ranked_by(case(), model(), ("OD-1", UNKNOWN)))
    assert "OD-1" not in ranked
    assert UNKNOWN in ranked
    named = diagnose([alarm("staleness")], Readings(), (), ("OD-1",), model())
    assert named is not None
    assert named.code == "RF-1"
    assert "OD-1" not in [rival.code for rival in named.rivals]


def test_fault_that_is_impossible_is_no_rival() -> None:
    usual = diagnose([alarm("staleness")], Readings(), model=model())
    other = diagnose([alarm("staleness")], Readings(), ("RF-1",), model=model())
    assert usual is not None
    assert other is not None
    assert usual.rivals[0].code == "RF-1"
    assert "RF-1" not in [rival.code for rival in other.rivals]
    assert other.code == usual.code == "OD-1"


def test_probability_of_a_name_is_calibrated_and_the_others_share_the_rest() -> None:
    asked = model(calibration=((0.0, 0.7), (1.0, 0.7)))
    diagnosis = diagnose([alarm("staleness")], Readings(), model=asked)
    assert diagnosis is not None
    assert diagnosis.code == "OD-1"
    assert diagnosis.probability == pytest.approx(0.7)
    assert math.fsum(rival.probability for rival in diagnosis.rivals) <= 0.3 + 1e-9


def test_without_readings_fingerprints_alone_decide() -> None:
    told = diagnose([IDENTITY], None, model=model_of(stump({"OD-1": 1.0}), present=(SEEN,)))
    assert told is not None
    assert told.code == "TE-2"
    assert told.probability <= HIGHEST
    assert case_of([IDENTITY], None).features.window is None


def test_kind_of_evidence_is_that_of_the_alarms() -> None:
    assert level_of([alarm("reward_mean")]) == TELEMETRY
    assert level_of([alarm("reward_mean"), alarm("advantage_error", evidence=Evidence.IDENTITY)]) == EXACT


def test_name_is_claimed_only_where_it_is_likely() -> None:
    likely, unlikely = diagnose([alarm("tool_error_rate", 5)]), diagnose([alarm("reward_mean", 5)])
    assert likely is not None
    assert likely.probability >= CLAIMED
    assert claimed(likely) is likely
    assert unlikely is not None
    assert unlikely.probability < CLAIMED
    named = claimed(unlikely)
    assert named.code == UNKNOWN
    assert unlikely.code in (UNKNOWN, named.rivals[0].code)


def test_suspicion_its_rivals_and_unknown_are_one_distribution() -> None:
    unlikely = diagnose([alarm("reward_mean", 5)])
    assert unlikely is not None
    suspected = replace(
        unlikely, code="TE-3", probability=0.52, rivals=(Rival("PG-3L", 0.24, "a"), Rival(UNKNOWN, 0.2, "b"))
    )
    named = claimed(suspected)
    assert [(rival.code, rival.probability) for rival in named.rivals] == [("TE-3", 0.52), ("PG-3L", 0.24)]
    assert named.code == UNKNOWN
    assert named.probability == pytest.approx(0.24)
    many = replace(suspected, rivals=tuple(Rival(code, 0.16, "c") for code in ("PG-3L", "OD-1", "OD-2")))
    named = claimed(many)
    assert named.probability + math.fsum(rival.probability for rival in named.rivals) == pytest.approx(1)


@pytest.mark.parametrize(
    ("probability", "text"), [(1.0, ">99%"), (0.9901, ">99%"), (0.99, "99%"), (0.5, "50%"), (0.01, "1%"), (0.0, "<1%")]
)
def test_percentage_never_claims_certainty(probability: float, text: str) -> None:
    assert as_percent(probability) == text


def test_fault_that_a_check_speaks_against_is_not_there_beside_the_leading_one() -> None:
    asked = model_of(stump({"OD-1": 0.9, "TE-1": 0.6, "RF-2": 0.5}))
    fell = alarm("reward_std", -1)
    assert also_in(case(fell), asked, {"OD-1"}) == ("TE-1", "RF-2")
    assert also_in(case(fell, findings=(f"{INTACT}TE-1",)), asked, {"OD-1"}) == ("RF-2",)


def test_what_was_not_measured_and_parts_the_two_likeliest_would_tell() -> None:
    asked, readings = model_of(stump({"RF-1": 0.5, "TE-1": 0.45})), Readings()
    report = make_report(1, golden_mismatch_rate=math.nan, known_call_error_rate=math.nan, tool_error_rate=0.0)
    readings.observe(Observation(report, ()))
    found = diagnose([alarm("reward_std", 1)], readings, model=asked)
    assert found is not None
    assert {found.code, found.rivals[0].code} == {"RF-1", "TE-1"}
    assert "golden_mismatch_rate" in found.would_tell
    assert "tool_error_rate" not in found.would_tell, "it was measured"
    surely = model_of(stump({"TE-1": 0.6, "PG-2": 0.35}), calibration=((0.0, 0.0), (0.3, 0.92), (1.0, 1.0)))
    sure = diagnose([alarm("reward_std", 1)], readings, model=surely)
    assert sure is not None
    assert (sure.code, sure.would_tell) == ("TE-1", ())
    assert (sure.rivals[0].code, sure.rivals[0].probability > LEAST_NAMED) == ("PG-2", True), "it is sure, not alone"
