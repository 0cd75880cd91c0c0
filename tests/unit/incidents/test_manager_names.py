"""The name of an incident: when a suspicion becomes one, and when another name takes its place."""

from __future__ import annotations

import math

import pytest

from rftfm_ray.diagnosis.classify import PATIENCE, PERSISTENCE, SURE
from rftfm_ray.incidents.explaining import EXPLAINED, read_explained
from rftfm_ray.incidents.state import EntryKind
from rftfm_ray.verdicts import Family, IncidentState
from tests.unit.incidents.managed import FAILING, FIRST, SECOND, fault, started

K = EntryKind


def test_unlikely_explanation_is_only_suspected_and_never_claimed() -> None:
    run = started(None)
    run.begin_fault(fault(probability=0.4))
    run.pass_steps(PATIENCE - 1, fault(probability=0.4))
    assert run.now() is IncidentState.SUSPECTED
    run.tick(fault(probability=0.4))
    assert run.kinds[:2] == [K.OPENED, K.DIAGNOSED]
    named = run.last(K.DIAGNOSED)
    assert (named.text("code"), dict(named.fields)["probability"]) == ("UNKNOWN", 0.6)
    explained = read_explained(named.text(EXPLAINED))
    assert explained is not None
    assert (explained.rivals[0].code, explained.rivals[0].probability) == ("TE-1", 0.4)
    assert explained.rivals[0].against.startswith("suspected")
    # Evidence that becomes clear names it after all, and at once, whatever it is.
    run.tick(fault("RF-1", probability=0.95))
    assert run.incident.code == "RF-1"


def test_suspicion_that_becomes_clear_is_named_at_once() -> None:
    run = started(None)
    run.pass_steps(PATIENCE + 1, fault(probability=0.4))
    assert run.incident.code == "UNKNOWN"
    run.tick(fault(probability=0.9))
    assert run.incident.code == "TE-1"


@pytest.mark.parametrize(("probability", "named"), [(SURE, True), (math.nextafter(SURE, 0), False)])
def test_probability_that_is_enough(probability: float, named: bool) -> None:
    run = started(None)
    run.begin_fault(fault(probability=probability))
    assert (K.DIAGNOSED in run.kinds) is named


def test_suspicion_takes_the_name_that_leads_in_the_end() -> None:
    run = started(FIRST)
    run.begin_fault(fault("RF-1", 0.4))
    run.tick(fault("TE-1"), **FAILING)
    assert (run.incident.code, run.incident.family) == ("TE-1", Family.TE)
    assert len(run.manager.state.incidents) == 1


def test_untreated_incident_is_renamed_when_another_explanation_leads() -> None:
    run = started(None, None, None, SECOND, verify_steps=6)
    run.begin_fault(fault("RF-1"))
    for _ in range(PERSISTENCE - 1):
        run.tick(fault("TE-1"), **FAILING)
        assert run.incident.code == "RF-1", "two steps are no other name"
    run.tick(fault("TE-1"), **FAILING)
    assert [entry.text("code") for entry in run.entries if entry.kind is K.DIAGNOSED] == ["RF-1", "TE-1"]
    assert run.script.seen[-1].diagnosis.code == "TE-1"
    assert len(run.manager.state.incidents) == 1
