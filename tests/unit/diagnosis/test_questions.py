"""What is asked where two explanations are close: the cheapest check that tells them apart, once, and only then."""

from __future__ import annotations

import pytest

from rftfm_ray.diagnosis.classify import SURE
from rftfm_ray.diagnosis.questions import ANSWERED_IN, CLOSE, SEEN_BY, Question, question_of
from rftfm_ray.signals.dictionary import DICTIONARY
from rftfm_ray.taxonomy import SIXTEEN, UNKNOWN, family_of
from rftfm_ray.types import Check
from rftfm_ray.verdicts import Diagnosis, Evidence, Rival, Symptom
from tests.unit.diagnosis.scripted import alarm


def diagnosis(code: str, probability: float, *symptoms: Symptom, **rivals: float) -> Diagnosis:
    """A diagnosis; rivals by their code with an underscore for the hyphen."""
    others = tuple(Rival(name.replace("_", "-"), share, "explains less") for name, share in rivals.items())
    return Diagnosis(code, family_of(code), probability, others, symptoms, 6, 6, f"{code} it is")


def test_every_check_sees_faults_and_is_answered_in_a_signal() -> None:
    assert set(SEEN_BY) == set(ANSWERED_IN) == set(Check)
    assert set(ANSWERED_IN.values()) <= set(DICTIONARY)
    for codes in SEEN_BY.values():
        assert codes < {fault.code for fault in SIXTEEN}


@pytest.mark.parametrize(
    ("close", "check"),
    [
        (diagnosis("RF-1", 0.5, PG_3L=0.4), Check.GOLDEN),
        (diagnosis("RF-1", 0.5, RF_2=0.4), Check.GOLDEN),
        (diagnosis("TE-1", 0.6, TE_3=0.3), Check.KNOWN_CALLS),
        (diagnosis("OD-3", 0.6, OD_2=0.3), Check.UPDATE_REPLAY),
        # The cheapest of those that tell them apart.
        (diagnosis("RF-3", 0.5, OD_1=0.4), Check.UPDATE_REPLAY),
        # A suspicion stands behind UNKNOWN, and is a rival of it.
        (diagnosis(UNKNOWN, 0.4, RF_2=0.5), Check.GOLDEN),
        (diagnosis(UNKNOWN, 0.95, RF_2=0.1), Check.GOLDEN),
    ],
)
def test_check_that_tells_the_two_likeliest_apart(close: Diagnosis, check: Check) -> None:
    question = question_of(close)
    assert question is not None
    assert question.check is check
    assert question.between[0] in (close.code, close.rivals[0].code)


@pytest.mark.parametrize(
    "clear",
    [
        diagnosis("RF-1", SURE, PG_3L=CLOSE),
        diagnosis("RF-1", 0.89, PG_3L=CLOSE - 0.01),
        diagnosis("PG-1", 0.5, PG_3S=0.4),
        diagnosis(UNKNOWN, 1.0),
    ],
)
def test_nothing_is_asked_where_the_name_is_sure_no_rival_close_or_no_check_tells(clear: Diagnosis) -> None:
    assert question_of(clear) is None


def test_no_check_is_asked_for_twice_or_where_its_signal_speaks_already() -> None:
    close = diagnosis("RF-3", 0.5, OD_1=0.4)
    assert question_of(close, [Check.UPDATE_REPLAY]) == Question(Check.GOLDEN, ("RF-3", "OD-1"))
    assert question_of(close, [Check.UPDATE_REPLAY, Check.GOLDEN]) is None
    spoken = alarm("golden_mismatch_rate", evidence=Evidence.CHANNEL)
    assert question_of(diagnosis("RF-1", 0.5, spoken, PG_3L=0.4)) is None
