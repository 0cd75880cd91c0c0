"""From symptoms to a name: every described fault first for its own symptoms, look-alikes apart, doubt in numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.detection.signals import SIGNALS
from rftfm_ray.diagnosis.classify import UNEXPLAINED_NATS, UNKNOWN_NATS, diagnose, evidence_for
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS, family_of, name_of
from rftfm_ray.verdicts import Diagnosis, Evidence, Family, Symptom

NAMES = {signal.name for signal in SIGNALS}


def _symptom(signal: str, direction: int = 1, *, alarm: bool = False, onset: int = 15, low: int | None = None,
             value: float = 1.0, evidence: Evidence = Evidence.TELEMETRY) -> Symptom:  # fmt: skip
    return Symptom(
        detector=f"test:{signal}", signal=signal, evidence=evidence, alarm=alarm, direction=direction, value=value,
        reference=0.0, score=10.0, onset=onset, onset_low=onset if low is None else low, reason=f"{signal} is off",
    )  # fmt: skip


def _alarm(signal: str, direction: int = 1, *, onset: int = 15, low: int | None = None) -> Symptom:
    return _symptom(signal, direction, alarm=True, onset=onset, low=low)


def _identity(signal: str, value: float) -> Symptom:
    return _symptom(signal, alarm=True, value=value, evidence=Evidence.IDENTITY)


def _diagnose(*symptoms: Symptom) -> Diagnosis:
    found = diagnose(symptoms)
    assert found is not None
    return found


MISMATCH = _alarm("trained_mismatch_rate")
UPDATES = _alarm("update_ratio")
TOOL = _alarm("tool_error_rate")
PROBE = _alarm("probe_accuracy", -1)


@pytest.mark.parametrize(
    ("code", "symptoms"),
    [
        ("RF-1", [MISMATCH, _symptom("regrade_error_mean")]),
        ("RF-1", [MISMATCH, _symptom("regrade_error_mean"), _symptom("reward_max"), _symptom("reward_std")]),
        ("RF-2", [MISMATCH, _symptom("regrade_error_mean", -1)]),
        ("RF-2", [MISMATCH, _symptom("regrade_error_mean", -1), _symptom("reward_mean", -1)]),
        ("RF-3", [PROBE, _symptom("reward_mean"), _symptom("repeated_bigram_rate")]),
        ("PG-1", [_alarm("empty_rate"), _symptom("length_mean", -1)]),
        ("PG-2", [_alarm("repeated_bigram_rate"), _symptom("length_mean")]),
        ("PG-3S", [_alarm("length_mean", -1)]),
        ("PG-3L", [_alarm("length_mean"), _symptom("truncated_rate")]),
        ("OD-1", [UPDATES]),
        ("OD-1", [_alarm("lr_excess")]),
        ("OD-1", [_alarm("kl_ref"), _symptom("grad_norm")]),
        ("OD-1", [UPDATES, PROBE, _alarm("kl_ref"), _symptom("reward_mean", -1), _symptom("entropy", -1)]),
        ("OD-2", [_alarm("update_ratio", -1)]),
        ("OD-2", [_alarm("changed_rate", -1), _symptom("grad_norm", -1)]),
        ("OD-2", [_alarm("weights_mismatch")]),
        ("OD-3", [_alarm("entropy", -1), _symptom("zero_variance_group_rate")]),
        ("CA-1", [_alarm("value_loss"), _symptom("explained_variance", -1)]),
        ("CA-2", [_alarm("advantage_max"), _symptom("grad_norm")]),
        ("CA-2", [_alarm("advantage_error")]),
        ("CA-3", [_alarm("credit_lag"), _symptom("credit_correlation", -1)]),
        ("TE-1", [TOOL]),
        ("TE-1", [TOOL, _symptom("valid_rate", -1), _symptom("reward_mean", -1)]),
        ("TE-2", [_alarm("observation_mismatch_rate"), _symptom("reward_mean", -1)]),
        ("TE-2", [_alarm("replay_observation_mismatch_rate")]),
        ("TE-3", [_alarm("termination_mismatch_rate")]),
        ("TE-3", [_alarm("replay_termination_mismatch_rate"), _symptom("truncated_rate")]),
        ("NUMERICAL", [_identity("loss", math.nan)]),
        ("NUMERICAL", [_identity("grad_norm", math.inf), UPDATES, PROBE, _alarm("kl_ref")]),
        # A rate of nought: its logarithm is not finite, and no value of the update is at fault.
        ("UNKNOWN", [Symptom("declared_rate", "lr_excess", Evidence.IDENTITY, True, -1, -math.inf, 0, 1, 15, 15, "")]),
        ("UNKNOWN", [_alarm("parity_gap")]),
        ("UNKNOWN", [_alarm("staleness")]),
        ("UNKNOWN", [PROBE]),
    ],
    ids=lambda part: part if isinstance(part, str) else "+".join(f"{s.signal}{s.direction:+d}" for s in part),
)
def test_fault_comes_first_for_its_symptoms(code: str, symptoms: list[Symptom]) -> None:
    found = _diagnose(*symptoms)
    assert found.code == code
    assert found.family is (FINGERPRINTS[code].family if code != "UNKNOWN" else Family.UNKNOWN)
    assert found.probability > max([0.3, *(rival.probability for rival in found.rivals)])


@pytest.mark.parametrize(
    ("this", "symptoms", "that"),
    [
        ("RF-1", [MISMATCH, _symptom("regrade_error_mean")], "RF-2"),
        ("RF-2", [MISMATCH, _symptom("regrade_error_mean", -1)], "RF-1"),
        ("RF-1", [MISMATCH, _symptom("advantage_max"), _symptom("reward_std")], "CA-2"),
        ("OD-1", [UPDATES, _symptom("advantage_max"), _symptom("grad_norm")], "CA-2"),
        ("CA-2", [_alarm("advantage_max"), _symptom("grad_norm")], "OD-1"),
        ("RF-3", [PROBE, _symptom("reward_mean")], "RF-1"),
        ("TE-1", [TOOL, _symptom("truncated_rate"), _symptom("reward_mean", -1)], "TE-3"),
        ("PG-2", [_alarm("repeated_bigram_rate"), _symptom("length_mean"), _symptom("truncated_rate")], "PG-3L"),
        ("PG-1", [_alarm("empty_rate"), _symptom("length_mean", -1), _symptom("reward_mean", -1)], "PG-3S"),
        ("OD-2", [_alarm("changed_rate", -1), _symptom("grad_norm")], "OD-1"),
        ("OD-1", [UPDATES, _symptom("changed_rate")], "OD-2"),
        ("TE-2", [_alarm("observation_mismatch_rate"), _symptom("reward_mean", -1)], "TE-1"),
        ("CA-1", [_alarm("value_loss"), _symptom("explained_variance", -1)], "CA-2"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_look_alikes_are_told_apart(this: str, symptoms: list[Symptom], that: str) -> None:
    found = _diagnose(*symptoms)
    assert found.code == this
    other = next((rival.probability for rival in found.rivals if rival.code == that), 0.0)
    assert found.probability > 4 * other


def test_malformed_calls_are_not_the_tool_that_is_down() -> None:
    found = _diagnose(PROBE, _symptom("tool_unparsable_rate"), _symptom("valid_rate"))
    assert "TE-1" not in [found.code, *(rival.code for rival in found.rivals[:1])]
    assert _diagnose(TOOL, _symptom("tool_unparsable_rate")).code == "TE-1"


def test_spike_without_a_sign_leaves_both_in_doubt() -> None:
    found = _diagnose(MISMATCH)
    assert (found.code, found.rivals[0].code) == ("RF-1", "RF-2")
    assert found.probability == found.rivals[0].probability < 0.5


def test_evidence_is_the_sum_of_its_parts() -> None:
    print_ = FINGERPRINTS["CA-2"]
    assert evidence_for(print_, []) == 0.0
    assert evidence_for(print_, [_alarm("advantage_max"), _symptom("grad_norm")]) == 3 + 1
    # The wrong way, foreign as a notice and as an alarm, and excluded.
    assert evidence_for(print_, [_symptom("grad_norm", -1)]) == -(1 + UNEXPLAINED_NATS / 2)
    assert evidence_for(print_, [_symptom("length_mean")]) == -UNEXPLAINED_NATS / 2
    assert evidence_for(print_, [_alarm("length_mean")]) == -UNEXPLAINED_NATS
    assert evidence_for(print_, [_alarm("update_ratio")]) == -(UNEXPLAINED_NATS + 2)


def test_probability_is_the_softmax_of_the_evidence() -> None:
    found = _diagnose(UPDATES)
    scores = [evidence_for(p, [UPDATES]) for code, p in FINGERPRINTS.items() if code != "NUMERICAL"]
    total = sum(map(math.exp, [*scores, UNKNOWN_NATS]))
    assert found.probability == pytest.approx(math.exp(5) / total)
    assert found.rivals[0].code == "UNKNOWN"
    assert found.rivals[0].probability == pytest.approx(math.exp(UNKNOWN_NATS) / total)


def test_more_that_fits_makes_it_surer() -> None:
    found = [UPDATES, _alarm("kl_ref"), _symptom("grad_norm")]
    shares = [_diagnose(*found[:n]).probability for n in (1, 2, 3)]
    assert shares == sorted(shares)
    assert shares[0] < _diagnose(UPDATES, _alarm("kl_ref")).probability
    assert _diagnose(UPDATES, _symptom("length_mean", -1)).probability < shares[0]


def test_ties_go_to_the_name_that_comes_first() -> None:
    alarm = _alarm("parity_gap")
    rivals = _diagnose(alarm).rivals
    equal = {code for code, p in FINGERPRINTS.items() if code != "NUMERICAL" and evidence_for(p, [alarm]) == -0.5}
    assert len(equal) > len(rivals), "nothing knows it"
    assert [rival.code for rival in rivals] == sorted(equal)[: len(rivals)]
    assert len({rival.probability for rival in rivals}) == 1


def test_no_alarm_is_no_diagnosis() -> None:
    assert diagnose([]) is None
    assert diagnose([_symptom("advantage_max"), _symptom("kl_ref"), _symptom("empty_rate")]) is None


@pytest.mark.parametrize(("onset", "kept"), [(3, False), (13, False), (14, True), (15, True), (22, True)])
def test_notice_older_than_the_fault_is_the_runs_own_course(onset: int, kept: bool) -> None:
    found = _diagnose(UPDATES, _symptom("length_mean", onset=onset))
    assert len(found.symptoms) == 1 + kept
    assert (found.probability < _diagnose(UPDATES).probability) is kept


def test_alarm_counts_however_old_it_is() -> None:
    found = _diagnose(_alarm("update_ratio", onset=20), _alarm("kl_ref", onset=2, low=1))
    assert (len(found.symptoms), found.onset, found.onset_low) == (2, 2, 1)


def test_onset_is_dated_by_what_is_measured_at_every_step() -> None:
    probe = _alarm("probe_accuracy", -1, onset=6, low=5)
    found = _diagnose(probe, _alarm("update_ratio", onset=15, low=14), _alarm("kl_ref", onset=17, low=12))
    assert (found.onset, found.onset_low, len(found.symptoms)) == (15, 12, 3)
    alone = _diagnose(probe, _symptom("length_mean", onset=2))
    assert (alone.onset, alone.onset_low, len(alone.symptoms)) == (6, 5, 1)


@pytest.mark.parametrize(
    "symptoms",
    [[UPDATES], [UPDATES, PROBE], [_alarm("parity_gap")], [_identity("loss", math.nan)], [MISMATCH]],
    ids=lambda part: "+".join(s.signal for s in part),
)
def test_summary_is_two_sentences_in_plain_words(symptoms: list[Symptom]) -> None:
    found = _diagnose(*symptoms)
    sentences = re.split(r"(?<=\.) ", found.summary)
    assert len(sentences) == 2
    assert sentences[0] == f"Since about step 15: {'; '.join(f'{s.signal} is off' for s in symptoms)}."
    assert sentences[1].endswith(".")
    assert re.fullmatch(r"[A-Za-z0-9 ,.:;()%_-]+", found.summary)


def test_summary_says_what_it_is_how_sure_and_what_speaks_against_the_next() -> None:
    found = _diagnose(MISMATCH, _symptom("reward_mean", -1))
    rival = found.rivals[0]
    assert (found.code, rival.code) == ("RF-2", "RF-1")
    assert found.summary.endswith(
        f"This is RF-2 (Reward Collapse) with a probability of {found.probability:.0%}; next to it comes RF-1 "
        f"({rival.probability:.0%}), which does not explain reward_mean and would move regrade_error_mean."
    )


def test_summary_names_no_rival_that_is_far_or_unknown() -> None:
    found = _diagnose(UPDATES)
    assert found.rivals[0].code == "UNKNOWN"
    assert found.rivals[0].against == "would be something that nobody has described"
    assert found.summary.endswith(
        f"This is OD-1 (KL Explosion) with a probability of {found.probability:.0%}; nothing else that is described "
        "comes near."
    )


def test_rival_is_told_by_what_it_would_move() -> None:
    rivals = {rival.code: rival.against for rival in _diagnose(_alarm("kl_ref"), PROBE).rivals}
    assert rivals["RF-3"] == "would move reward_mean"


def test_summary_of_the_unknown_names_no_fault() -> None:
    found = _diagnose(_alarm("parity_gap"))
    assert found.summary == (
        "Since about step 15: parity_gap is off. No described fault explains this; look at it before going on."
    )


@pytest.mark.parametrize("code", FINGERPRINTS)
def test_fingerprint_reads_signals_that_are_there(code: str) -> None:
    print_ = FINGERPRINTS[code]
    assert {*print_.weights, *print_.excludes, *print_.harm} <= NAMES
    assert not set(print_.weights) & set(print_.excludes), "what explains a fault cannot exclude it"
    assert print_.harm
    assert code == "NUMERICAL" or code.split("-")[0] == print_.family.value
    # All of its own symptoms together name it, whatever else they fit.
    own = [_alarm(name, 1 if weight > 0 else -1) for name, weight in print_.weights.items()]
    if code != "NUMERICAL":
        assert _diagnose(*own).code == code


def test_names_and_families_of_codes() -> None:
    assert (family_of("OD-1"), name_of("OD-1")) == (Family.OD, "KL Explosion")
    assert (family_of("UNKNOWN"), name_of("UNKNOWN")) == (Family.UNKNOWN, "unknown fault")


anything = st.builds(
    Symptom,
    detector=st.just("any"),
    signal=st.one_of(st.sampled_from(sorted(NAMES)), st.text(max_size=8)),
    evidence=st.sampled_from(Evidence),
    alarm=st.booleans(),
    direction=st.sampled_from([-1, 0, 1]),
    value=st.floats(),
    reference=st.floats(),
    score=st.floats(),
    onset=st.integers(0, 10_000),
    onset_low=st.integers(0, 10_000),
    reason=st.text(max_size=20),
)


@given(st.lists(anything, max_size=40))
def test_any_symptoms_have_a_diagnosis_or_none(symptoms: Sequence[Symptom]) -> None:
    found = diagnose(symptoms)
    assert (found is None) is not any(symptom.alarm for symptom in symptoms)
    if found is None:
        return
    shares = [found.probability, *(rival.probability for rival in found.rivals)]
    assert 0 < sum(shares) <= 1 + 1e-12
    assert shares == sorted(shares, reverse=True)
    assert len({found.code, *(rival.code for rival in found.rivals)}) == len(shares) <= 4
    assert set(found.symptoms) <= set(symptoms)
    assert diagnose(symptoms) == found or any(math.isnan(s.value + s.reference + s.score) for s in symptoms)
