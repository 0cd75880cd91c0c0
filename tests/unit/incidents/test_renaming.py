"""A named fault keeps its name against passing evidence, against not knowing, and against what it leads to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfm_ray.diagnosis.classify import PERSISTENCE
from rftfm_ray.incidents.renaming import takes_name
from rftfm_ray.taxonomy import LEADS_TO, SIXTEEN, UNKNOWN
from rftfm_ray.verdicts import Diagnosis, Evidence, Symptom
from tests.unit.incidents.managed import fault

CODES = {each.code for each in SIXTEEN}


def named(code: str, *signals: tuple[str, int, Evidence]) -> Diagnosis:
    """A diagnosis with alarms of some signals, by their sides and evidence."""
    symptoms = tuple(
        Symptom("test", signal, evidence, True, side, 1.0, 0.0, 9.0, 6, 6, "") for signal, side, evidence in signals
    )
    return replace(fault(code), symptoms=symptoms)


ENTROPY = ("entropy", -1, Evidence.TELEMETRY)


def test_faults_lead_to_others_of_the_sixteen_and_never_in_a_circle() -> None:
    assert set(LEADS_TO) | {code for codes in LEADS_TO.values() for code in codes} <= CODES
    for code in LEADS_TO:
        seen, ahead = set[str](), [code]
        while ahead:
            following = LEADS_TO.get(ahead.pop(), ())
            seen.update(following)
            ahead.extend(following)
        assert code not in seen


@pytest.mark.parametrize("led", [1, PERSISTENCE, 50])
def test_what_has_no_name_takes_any_and_not_to_know_takes_none_away(led: int) -> None:
    assert takes_name(UNKNOWN, named("OD-3", ENTROPY), led)
    assert not takes_name("OD-1", named(UNKNOWN, ENTROPY), led)


def test_another_fault_must_lead_for_some_time() -> None:
    assert not takes_name("TE-1", named("OD-3", ENTROPY), PERSISTENCE - 1)
    assert takes_name("TE-1", named("OD-3", ENTROPY), PERSISTENCE)


@pytest.mark.parametrize(("code", "consequence"), [(code, each) for code, codes in LEADS_TO.items() for each in codes])
def test_what_a_fault_leads_to_does_not_take_its_name_by_telemetry(code: str, consequence: str) -> None:
    assert not takes_name(code, named(consequence, ENTROPY), 50)


def test_what_a_check_shows_and_the_named_fault_does_not_explain_takes_the_name() -> None:
    rate = ("lr_excess", 1, Evidence.IDENTITY)
    assert takes_name("CA-2", named("OD-1", ENTROPY, rate), PERSISTENCE)
    # What the named fault explains as well says nothing against it.
    gain = ("vetoes", 1, Evidence.IDENTITY)
    assert not takes_name("CA-2", named("OD-1", gain), PERSISTENCE)
