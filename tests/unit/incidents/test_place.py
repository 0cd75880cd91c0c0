"""The place of a fault decides on its plan: what its cause shows in, and which levers may return by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfm_ray.incidents.state import EntryKind, replay
from rftfm_ray.types import Levers
from rftfm_ray.verdicts import Diagnosis, Evidence, IncidentState, OutcomeKind, Place, Remedy
from tests.unit.incidents.managed import RETURN_AFTER, VERIFY, ManagedRun, fault

CLEAN = Remedy("clean_path", Levers(rollout_path=1))
WEIGHTED = Remedy("importance_weights", Levers(is_cap=2.0))
SAMPLED = {"rollout_kl": 0.5, "repeated_bigram_rate": 0.6}
PASSES = 60


def at(place: Place | None, code: str = "PG-2") -> Diagnosis:
    """A diagnosis that says where the fault sits."""
    return replace(fault(code, signals=["rollout_kl"]), place=place)


def remedied(remedy: Remedy, diagnosis: Diagnosis, **under: float) -> ManagedRun:
    """A run in which a fault has been remedied, and the remedy verified."""
    run = ManagedRun(remedy)
    for _ in range(8):
        run.tick()
    run.remedied(diagnosis, SAMPLED, **under)
    run.tick(None, **under)
    return run


def test_place_is_that_of_the_newest_diagnosis_or_decision() -> None:
    run = ManagedRun(CLEAN)
    run.begin_fault(at(Place.SAMPLER), **SAMPLED)
    assert run.incident.place is Place.SAMPLER
    assert run.last(EntryKind.DECIDED).text("place") == "sampler"
    assert replay(tuple(run.entries)) == run.manager.state
    unknown = ManagedRun(CLEAN)
    unknown.begin_fault(at(None), **SAMPLED)
    assert unknown.incident.place is None


def test_remedies_of_an_incident_go_by_one_place() -> None:
    """What tells a place may be gone under a remedy, which then is no sign of another place."""
    run = ManagedRun(WEIGHTED, CLEAN)
    run.begin_fault(at(Place.SERVER), **SAMPLED)
    run.carry_out()
    for _ in range(30):
        if run.tick(at(Place.REWARD), **SAMPLED) is not None:
            break
    assert [ctx.diagnosis.place for ctx in run.script.seen] == [Place.SERVER] * 2
    assert run.incident.place is Place.SERVER


def test_fault_whose_cause_a_lever_hides_is_mitigated_and_the_lever_stays() -> None:
    run = remedied(CLEAN, at(Place.SAMPLER))
    outcome = run.last(EntryKind.OUTCOME)
    assert outcome.text("outcome") == OutcomeKind.MITIGATED
    assert outcome.text("reason").endswith(
        "rollout_path stays, because nothing shows under it whether the cause is over"
    )
    assert run.now() is IncidentState.RESOLVED
    run.pass_steps(PASSES)
    assert run.manager.state.levers == Levers(rollout_path=1)
    kept = [entry for entry in run.entries if entry.kind is EntryKind.KEPT]
    assert [entry.text("reason") for entry in kept] == [
        "rollout_path stays: nothing shows under it whether the cause of PG-2 is over"
    ]


def test_lever_under_which_the_cause_shows_returns_when_it_is_over() -> None:
    lasting = {"rollout_kl": 0.5}
    run = remedied(WEIGHTED, at(Place.SAMPLER), **lasting)
    assert run.last(EntryKind.OUTCOME).text("outcome") == OutcomeKind.MITIGATED
    run.pass_steps(PASSES, None, **lasting)
    assert run.manager.state.levers == WEIGHTED.levers
    order = None
    for _ in range(RETURN_AFTER + VERIFY):
        order = order or run.tick()
    assert order is not None
    assert order.levers == Levers()


def test_what_the_policy_has_become_is_not_the_fault_that_a_check_has_shown() -> None:
    """Its alarms of telemetry last longer than the fault; where nothing else had shown it they are all there is."""
    by_check, left = at(Place.SAMPLER), replace(fault("PG-2"), place=Place.SAMPLER, symptoms=())
    telemetry = replace(by_check.symptoms[0], signal="entropy", evidence=Evidence.TELEMETRY)
    left = replace(left, symptoms=(telemetry,))
    for first, expected in ((by_check, OutcomeKind.MITIGATED), (left, OutcomeKind.INEFFECTIVE)):
        run = ManagedRun(CLEAN)
        for _ in range(8):
            run.tick()
        assert run.tick(first, **SAMPLED) is not None
        run.carry_out()
        for _ in range(VERIFY):
            run.tick(left)
        assert run.incident.shown is (first is by_check)
        assert run.last(EntryKind.OUTCOME).text("outcome") == expected


@pytest.mark.parametrize(("place", "expected"), [(Place.SAMPLER, True), (Place.REWARD, False)])
def test_alarms_that_are_expected_are_those_of_the_place(place: Place, expected: bool) -> None:
    run = ManagedRun(WEIGHTED)
    run.begin_fault(at(place), **SAMPLED)
    assert run.begin()
    sides = run.done().expected
    assert sides is not None
    assert (("rollout_kl", 1) in sides.contained) is expected
