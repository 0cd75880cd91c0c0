"""A fault that was left to people opens no further incident while it lasts, and hides no other fault."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from rftfm_ray.detection.observed import Observation
from rftfm_ray.diagnosis.diagnoser import StepEvidence
from rftfm_ray.diagnosis.readings import Readings
from rftfm_ray.incidents.muting import NOT_NAMED, MutedFaults
from rftfm_ray.incidents.state import Incident
from rftfm_ray.policies.playbook import plan_of
from rftfm_ray.taxonomy import family_of
from rftfm_ray.types import StepId
from rftfm_ray.verdicts import Assessment, Diagnosis, Evidence, IncidentState, Rediagnoser, Symptom
from tests.unit.diagnosis.models import model_of, stump
from tests.unit.incidents.managed import ManagedRun, fault

SILENCE = 3
MODEL = model_of(stump({}))
"""Has learnt nothing, so that the written tables decide."""
READ = StepEvidence(Readings(), (), MODEL)
TELEMETRY, CHANNEL, IDENTITY = Evidence.TELEMETRY, Evidence.CHANNEL, Evidence.IDENTITY


def symptom(signal: str, side: int = 1, evidence: Evidence = TELEMETRY, onset: int = 6) -> Symptom:
    """An alarm."""
    return Symptom("test", signal, evidence, True, side, 1.0, 0.0, 9.0, onset, onset, f"{signal} is out of bounds")


def diagnosed(code: str, *symptoms: Symptom) -> Diagnosis:
    """A diagnosis of some symptoms."""
    return replace(fault(code), symptoms=symptoms)


def incident(code: str, opened: int = 6) -> Incident:
    """An incident that was left to people."""
    return Incident(1, IncidentState.ESCALATED, code, family_of(code), StepId(0, opened, opened), opened, opened)


def muted(diagnosis: Diagnosis, rediagnoser: Rediagnoser | None = READ) -> MutedFaults:
    """Its fault, muted."""
    faults = MutedFaults(SILENCE)
    faults.add(incident(diagnosis.code), diagnosis, rediagnoser)
    return faults


def left(faults: MutedFaults, diagnosis: Diagnosis | None, rediagnoser: Rediagnoser | None = READ) -> Diagnosis | None:
    """What muted faults leave of a step with a diagnosis."""
    run = ManagedRun(None)
    return faults.unmuted(Assessment(run.report(), diagnosis, (), rediagnoser))


def signals(diagnosis: Diagnosis | None) -> tuple[str, ...]:
    """Signals of its symptoms."""
    return tuple(each.signal for each in diagnosis.symptoms) if diagnosis is not None else ()


MISMATCH = symptom("replay_observation_mismatch_rate", evidence=IDENTITY)
FAILED = symptom("verifier_error_rate", evidence=CHANNEL)
EXPLODED = (symptom("update_ratio", onset=30), symptom("kl_ref", onset=30))


@pytest.mark.parametrize(("code", "own"), [("TE-2", MISMATCH), ("VERIFIER", FAILED)])
@pytest.mark.parametrize("named", ["itself", "OD-1", "UNKNOWN"])
def test_another_fault_beside_a_muted_one_is_diagnosed_by_itself(code: str, own: Symptom, named: str) -> None:
    faults = muted(diagnosed(code, own))
    together = diagnosed(code if named == "itself" else named, own, *EXPLODED)
    rest = left(faults, together)
    assert rest is not None
    assert (rest.code, signals(rest)) == ("OD-1", ("update_ratio", "kl_ref"))
    assert (rest.onset, rest.onset_low) == (30, 30), "it is dated by its own alarms"
    assert left(faults, diagnosed("OD-1", own)) is None, "its own alarm stays muted under every name"


def test_readings_of_a_muted_fault_do_not_name_the_rest() -> None:
    readings = Readings()
    run = ManagedRun(None)
    for _ in range(8):
        readings.observe(Observation(run.report(replay_observation_mismatch_rate=0.5), ()))
    faults = muted(diagnosed("TE-2", MISMATCH))
    rest = left(faults, diagnosed("TE-2", MISMATCH, symptom("update_ratio")), StepEvidence(readings, (), MODEL))
    assert rest is not None
    assert rest.code == "OD-1"
    assert "TE-2" not in {rival.code for rival in rest.rivals}


def test_fault_without_a_name_mutes_alarms_that_have_one_by_themselves() -> None:
    update = symptom("update_ratio")
    faults = muted(diagnosed("UNKNOWN", update), Asked())
    suspected = replace(diagnosed("OD-1", update), probability=0.5)
    assert left(faults, suspected, None) is None
    claimed = diagnosed("OD-1", update)
    assert left(faults, claimed, None) == claimed, "a name that may be claimed ends the silence"


class Asked:
    """A rediagnoser that names OD-1, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[set[str], set[str], set[str]]] = []

    def rediagnose(
        self, symptoms: Sequence[Symptom], explained: Collection[str], excluded: Collection[str]
    ) -> Diagnosis | None:
        """Remember signals, what is explained, and what is excluded."""
        self.told.append(({each.signal for each in symptoms}, set(explained), set(excluded)))
        return diagnosed("OD-1", *symptoms)


@pytest.mark.parametrize(
    ("own", "code", "other", "excluded"),
    [
        (MISMATCH, "TE-2", symptom("update_ratio"), {"TE-2"}),
        (FAILED, "VERIFIER", symptom("update_ratio"), {"VERIFIER"}),
        # What grows may still be the fault itself.
        (symptom("kl_ref"), "OD-1", symptom("update_ratio"), set()),
        (symptom("staleness"), "UNKNOWN", symptom("update_ratio"), set()),
    ],
)
def test_muted_fault_is_ruled_out_where_it_explains_nothing_of_the_rest(
    own: Symptom, code: str, other: Symptom, excluded: set[str]
) -> None:
    asked = Asked()
    left(muted(diagnosed(code, own)), diagnosed(code, own, other), asked)
    assert asked.told == [({other.signal}, {own.signal, *dict(plan_of(code, None).source_sides)}, excluded)]


ESCALATED = diagnosed("OD-1", symptom("kl_ref"))


@pytest.mark.parametrize(
    "growing",
    [
        ESCALATED,
        diagnosed("OD-1", symptom("update_ratio")),
        diagnosed("OD-1", symptom("kl_ref"), symptom("update_ratio"), symptom("grad_norm")),
        # Telemetry that the fault moves, too little for a name of its own.
        diagnosed("UNKNOWN", symptom("kl_ref"), symptom("reward_mean", -1)),
        diagnosed("PG-1", symptom("kl_ref"), symptom("reward_mean", -1)),
        diagnosed("PG-3S", symptom("kl_ref")),
        diagnosed("OD-1", symptom("kl_ref"), symptom("lr_excess", 1, IDENTITY)),
    ],
    ids=[
        "itself",
        "another signal",
        "spreads",
        "a consequence without a name",
        "one of little weight",
        "other name",
        "other evidence for it",
    ],
)
def test_muted_fault_may_grow(growing: Diagnosis) -> None:
    assert left(muted(ESCALATED), growing) is None


@pytest.mark.parametrize(
    "other",
    [
        symptom("kl_ref", 1, IDENTITY),
        symptom("tool_error_rate", 1, CHANNEL),
        symptom("trained_mismatch_rate", 1, CHANNEL),
        symptom("update_ratio"),
        symptom("step_kl"),
    ],
    ids=lambda other: other.signal,
)
def test_fault_in_another_part_of_the_run_is_left(other: Symptom) -> None:
    found = left(muted(diagnosed("CA-2", symptom("kl_ref"))), diagnosed("CA-2", symptom("kl_ref"), other))
    assert signals(found) == (other.signal,)


@pytest.mark.parametrize(
    "after",
    [
        symptom("entropy", -1),
        symptom("kl_ref", -1),
        # Held-out accuracy falls under a fault that lasts.
        symptom("probe_accuracy", -1, CHANNEL),
        symptom("length_mean", 1),
        # Of the part of the run that is at fault already.
        symptom("credit_lag", 1, IDENTITY),
        # It measures another part, but by telemetry it may be noise.
        symptom("tool_error_rate"),
    ],
    ids=["entropy", "the other side", "harm", "length", "the same part", "telemetry of another part"],
)
@pytest.mark.parametrize("named", ["OD-1", "PG-3L", "CA-2"])
def test_what_a_policy_becomes_under_a_muted_fault_is_no_other_fault(after: Symptom, named: str) -> None:
    faults = muted(diagnosed("CA-2", symptom("kl_ref")))
    assert left(faults, diagnosed(named, symptom("kl_ref"), after)) is None


@pytest.mark.parametrize(
    ("code", "own", "after"),
    [
        ("PG-3L", symptom("length_mean"), symptom("golden_mismatch_rate", 1, CHANNEL)),
        ("PG-1", symptom("empty_rate"), symptom("trained_mismatch_rate", 1, CHANNEL)),
        ("UNKNOWN", symptom("regrade_error_mean", 1, CHANNEL), symptom("golden_mismatch_rate", 1, CHANNEL)),
        ("TE-2", symptom("observation_mismatch_rate", 1, IDENTITY), symptom("known_call_error_rate", 1, CHANNEL)),
        ("OD-2", symptom("weights_mismatch", 1, IDENTITY), symptom("update_ratio")),
    ],
)
def test_one_part_of_the_run_has_one_fault(code: str, own: Symptom, after: Symptom) -> None:
    assert left(muted(diagnosed(code, own)), replace(diagnosed("RF-3", own, after), probability=0.5)) is None


def test_verifier_that_fails_changes_no_policy() -> None:
    faults = muted(diagnosed("VERIFIER", FAILED))
    fell = symptom("probe_accuracy", -1, CHANNEL)
    assert signals(left(faults, diagnosed("VERIFIER", FAILED, fell))) == ("probe_accuracy",)


@pytest.mark.parametrize("signal", ["entropy", "kl_ref"])
def test_muted_fault_without_a_name_that_gets_one_is_not_muted_any_more(signal: str) -> None:
    faults = muted(diagnosed("UNKNOWN", symptom("kl_ref")))
    named = diagnosed("OD-1", symptom("kl_ref"), symptom(signal))
    assert left(faults, replace(named, probability=0.59)) is None
    assert left(faults, named) is named, "with all of its alarms: they are the evidence for the name"
    faults.add(incident("CA-2"), diagnosed("CA-2", symptom("grad_norm")), READ)
    assert left(faults, named) is None


def test_rest_that_has_a_name_of_its_own_keeps_its_own_date() -> None:
    faults = muted(diagnosed("UNKNOWN", symptom("entropy", 1)))
    exploded = diagnosed("OD-1", symptom("entropy", 1), *EXPLODED)
    rest = left(faults, exploded)
    assert rest is not None
    assert (rest.code, signals(rest), rest.onset) == ("OD-1", ("update_ratio", "kl_ref"), 30)


def test_symptoms_without_a_muted_one_keep_their_diagnosis() -> None:
    other = fault("TE-1", signals=("tool_error_rate",))
    assert left(muted(ESCALATED), other) is other
    assert left(MutedFaults(SILENCE), ESCALATED) is ESCALATED
    assert left(MutedFaults(SILENCE), None) is None


def test_fault_that_began_while_another_was_left_to_people_is_not_muted_with_it() -> None:
    # Both are alarms of the incident's newest diagnosis.
    faults = muted(diagnosed("VERIFIER", FAILED, *EXPLODED))
    assert signals(left(faults, diagnosed("VERIFIER", FAILED, *EXPLODED))) == ("update_ratio", "kl_ref")
    # One that began as early is not either where it has a name; without one it is taken for the same fault.
    early = tuple(replace(each, onset=6) for each in EXPLODED)
    faults = muted(diagnosed("VERIFIER", FAILED, *early))
    assert signals(left(faults, diagnosed("VERIFIER", FAILED, *early))) == ("update_ratio", "kl_ref")
    nameless = symptom("entropy", 1)
    assert left(muted(diagnosed("VERIFIER", FAILED, nameless)), diagnosed("VERIFIER", FAILED, nameless)) is None
    later = replace(nameless, onset=7)
    faults = muted(diagnosed("VERIFIER", FAILED, later))
    assert signals(left(faults, diagnosed("VERIFIER", FAILED, later))) == ("entropy",)


def test_faults_without_a_name_are_muted_by_their_alarms() -> None:
    faults = muted(diagnosed("UNKNOWN", symptom("entropy", -1)))
    assert left(faults, diagnosed("UNKNOWN", symptom("entropy", -1))) is None
    assert left(faults, diagnosed("UNKNOWN", symptom("entropy", -1), symptom("staleness"))) is None
    mismatch = symptom("weights_mismatch", 1, IDENTITY)
    assert signals(left(faults, diagnosed("UNKNOWN", symptom("entropy", -1), mismatch))) == ("weights_mismatch",)


def test_without_a_diagnoser_the_rest_has_no_name() -> None:
    faults = muted(diagnosed("VERIFIER", FAILED), None)
    rest = left(faults, diagnosed("VERIFIER", FAILED, *EXPLODED), None)
    assert rest is not None
    assert (rest.code, signals(rest)) == ("UNKNOWN", ("update_ratio", "kl_ref"))
    assert rest.summary.endswith(NOT_NAMED)
    assert left(faults, diagnosed("VERIFIER", FAILED), None) is None


def test_cause_of_a_muted_fault_is_muted_too() -> None:
    faults = muted(diagnosed("RF-1", symptom("trained_mismatch_rate", evidence=CHANNEL)))
    assert left(faults, diagnosed("PG-1", symptom("golden_mismatch_rate", evidence=CHANNEL))) is None


def test_muted_fault_is_over_after_its_silence() -> None:
    faults = muted(ESCALATED)
    for _ in range(SILENCE - 1):
        assert left(faults, None) is None
    assert left(faults, ESCALATED) is None
    for _ in range(SILENCE):
        assert faults
        left(faults, None)
    assert not faults
    assert left(faults, ESCALATED) is ESCALATED


def test_alarm_that_goes_on_keeps_its_mark_and_its_fault() -> None:
    faults = muted(diagnosed("OD-1", symptom("kl_ref"), symptom("update_ratio")))
    both = diagnosed("TE-1", symptom("kl_ref"), symptom("tool_error_rate", 1, CHANNEL))
    for _ in range(2 * SILENCE):
        assert signals(left(faults, both)) == ("tool_error_rate",), "it was never muted"
    assert left(faults, diagnosed("PG-3S", symptom("kl_ref"))) is None
    assert left(faults, diagnosed("OD-1", symptom("update_ratio"))) is None, "its code lasts as long as it does"
