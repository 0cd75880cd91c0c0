"""From symptoms to one diagnosis: what leads, how likely it is, when it began, and what nobody can name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftfm_ray.diagnosis.classify import CLAIMED, diagnose, unnamed
from rftfm_ray.diagnosis.fingerprints import FINGERPRINTS
from rftfm_ray.policies.playbook import PLANS
from rftfm_ray.signals.schema import INDEX
from rftfm_ray.taxonomy import NUMERICAL, SIXTEEN, TAXONOMY, VERIFIER, family_of, name_of
from rftfm_ray.verdicts import Evidence, Family, Symptom
from tests.unit.diagnosis.scripted import alarm


def typical(code: str) -> list[Symptom]:
    """Alarms of everything that a fault moves."""
    return [alarm(name, 7, direction=1 if w > 0 else -1) for name, w in FINGERPRINTS[code].weights.items()]


def notice(signal: str, onset: int) -> Symptom:
    """A symptom that opens nothing."""
    return replace(alarm(signal, onset), alarm=False)


def test_fingerprints_are_of_faults_of_the_taxonomy_and_of_signals_that_exist() -> None:
    assert set(FINGERPRINTS) == {fault.code for fault in SIXTEEN} | {NUMERICAL, VERIFIER}
    for print_ in FINGERPRINTS.values():
        assert {*print_.weights, *print_.excludes, *print_.harm} <= set(INDEX)
        assert print_.harm


@pytest.mark.parametrize("code", [code for code in FINGERPRINTS if code != NUMERICAL])
def test_fault_that_shows_all_its_symptoms_is_named(code: str) -> None:
    diagnosis = diagnose(typical(code))
    assert diagnosis is not None
    assert (diagnosis.code, diagnosis.family) == (code, family_of(code))
    assert diagnosis.probability > 0.5
    verb = "This is" if diagnosis.probability >= CLAIMED else ""
    assert f"{verb} {code} ({name_of(code)})" in diagnosis.summary
    assert (diagnosis.onset, diagnosis.onset_low) == (7, 7)


def test_without_an_alarm_there_is_no_diagnosis() -> None:
    assert diagnose([]) is None
    assert diagnose([notice("reward_mean", 3)]) is None
    assert unnamed([notice("reward_mean", 3)], "nobody asked") is None


def test_alarm_that_no_fault_explains_is_unknown() -> None:
    diagnosis = diagnose([alarm("staleness", 4)])
    assert diagnosis is not None
    assert (diagnosis.code, diagnosis.family) == ("UNKNOWN", Family.UNKNOWN)
    assert diagnosis.summary == (
        "Since about step 4: staleness is high. No known fault explains this; inspect the run before you continue it."
    )


def test_notice_from_long_before_the_fault_is_left_out() -> None:
    alone = diagnose([alarm("tool_error_rate", 30)])
    assert alone == diagnose([alarm("tool_error_rate", 30), notice("reward_mean", 5)])
    assert alone != diagnose([alarm("tool_error_rate", 30), notice("reward_mean", 29)])


def test_probe_dates_a_fault_only_where_nothing_else_does() -> None:
    probe = alarm("probe_accuracy", 5, direction=-1)
    both, only = diagnose([probe, alarm("update_ratio", 9)]), diagnose([probe])
    assert both is not None
    assert only is not None
    assert (both.onset, only.onset) == (9, 5)


def test_value_that_is_not_a_number_explains_everything_else() -> None:
    broken = replace(alarm("loss", 5, evidence=Evidence.IDENTITY), value=math.nan)
    diagnosis = diagnose([broken, alarm("tool_error_rate", 5)])
    assert diagnosis is not None
    assert diagnosis.code == NUMERICAL
    assert diagnosis.probability > 0.999


@pytest.mark.parametrize("code", ["RF-1", "OD-1", "TE-1"])
def test_alarm_of_a_cause_alone_names_its_family(code: str) -> None:
    assert PLANS[code].usual.source_sides
    for signal, _ in PLANS[code].usual.source_sides:
        diagnosis = diagnose([alarm(signal, 7, evidence=Evidence.CHANNEL)])
        assert diagnosis is not None
        assert diagnosis.family is family_of(code)


def test_signal_with_two_symptoms_is_named_once_against_a_rival() -> None:
    twice = [alarm("tool_error_rate", 7), alarm("staleness", 7), alarm("staleness", 7, direction=-1)]
    diagnosis = diagnose(twice)
    assert diagnosis is not None
    against = [rival.against for rival in diagnosis.rivals]
    assert [text for text in against if "staleness" in text]
    assert all(text.count("staleness") <= 1 for text in against)


names = st.sampled_from(sorted({name for print_ in FINGERPRINTS.values() for name in print_.weights}))
symptoms = st.lists(
    st.builds(
        lambda name, side, is_alarm, onset: replace(alarm(name, onset, direction=side), alarm=is_alarm),
        names, st.sampled_from([-1, 1]), st.booleans(), st.integers(1, 40),
    ),
    max_size=8,
)  # fmt: skip


@given(symptoms)
def test_probabilities_are_some_and_the_likeliest_leads(found: list[Symptom]) -> None:
    diagnosis = diagnose(found)
    assert (diagnosis is None) is not any(symptom.alarm for symptom in found)
    if diagnosis is None:
        return
    shares = [diagnosis.probability, *(rival.probability for rival in diagnosis.rivals)]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1 + 1e-9
    assert diagnosis.code in TAXONOMY
    assert diagnose(list(reversed(found))) is not None
    assert diagnosis.onset_low <= diagnosis.onset


def test_fault_that_cannot_occur_is_no_rival() -> None:
    symptoms = [alarm("advantage_mean", 4), alarm("advantage_max", 4)]
    usual, without = diagnose(symptoms), diagnose(symptoms, impossible=("CA-1",))
    assert usual is not None
    assert without is not None
    assert "CA-1" in [rival.code for rival in usual.rivals]
    assert "CA-1" not in [rival.code for rival in without.rivals]
    assert without.code == usual.code
    assert without.probability >= usual.probability, "its share goes to the others"
